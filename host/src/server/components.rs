//! Components of tenants: each is compiled once, in a process that is held to limits.

use std::{
    collections::HashMap,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::available_parallelism,
    time::Duration,
};

use anyhow::{Context as _, Error, Result, anyhow};
use tokio::{
    sync::{OnceCell, Semaphore},
    task::{block_in_place, spawn_blocking},
};

use super::{
    cache::Cache,
    compiler::{Compiler, NotCompiled, component_file, require_component},
    config::TenantConfig,
    image::{Image, Kept, Pulled},
    pin::{SignatureText, SignedAt},
};
use crate::{
    COMPONENT, files,
    runtime::{
        Component, Digest, LoadError, Sandboxes,
        component::{Code, Examined},
    },
};

/// Time in which a component is compiled at its first turn. One that takes longer starts again in the queue of those,
/// so that it does not keep the others waiting.
const FIRST_TURN: Duration = Duration::from_millis(500);

/// Parts of compilation that all loads have in common.
pub(super) struct Workshop {
    sandboxes: Sandboxes,
    /// Permits of the compiler's processes, one for each processor.
    compiling: Semaphore,
    /// Permits of those that take long, one less: a process is left for the others.
    long: Semaphore,
    cache: Option<Arc<Cache>>,
    /// Components that can't be compiled, with the limits of that and the reason.
    failures: Mutex<HashMap<Digest, (Compiler, String)>>,
}

impl Workshop {
    /// Returns a workshop for these sandboxes, with a cache of what it compiles.
    pub(super) fn new(sandboxes: Sandboxes, cache: Option<Cache>) -> Self {
        let processors = available_parallelism().map_or(1, NonZero::get);
        let (compiling, long) = (Semaphore::new(processors), Semaphore::new(processors.saturating_sub(1).max(1)));
        let cache = cache.map(Arc::new);
        Self { sandboxes, compiling, long, cache, failures: Mutex::default() }
    }

    /// Returns the sandboxes that its components run in.
    pub(super) fn sandboxes(&self) -> &Sandboxes {
        &self.sandboxes
    }

    /// Loads the built-in component.
    pub(super) async fn built_in(&self) -> Result<Component> {
        let examined = self.sandboxes.examine(COMPONENT)?;
        if let Some(component) = self.cached(&examined).await {
            return Ok(component);
        }
        let sandboxes = self.sandboxes.clone();
        let component = files::unblocked(move || sandboxes.compile(COMPONENT)).await??;
        if self.cache.is_some() {
            self.keep(examined.digest, component.code()?);
        }
        Ok(component)
    }

    /// Loads a component from the cache; `None` where it is not there.
    async fn cached(&self, examined: &Examined) -> Option<Component> {
        let digest = &examined.digest;
        let (cache, name, most) = (self.cache.clone()?, digest.clone(), self.sandboxes.pool().compiled_size);
        let code = files::unblocked(move || cache.read(&name, most)).await.ok()??;
        match self.load(examined, Code::File(&code)) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(%digest, %error, "cached component not loaded, it is compiled again");
                None
            }
        }
    }

    /// Keeps the code of a component in the cache, without waiting for the disk.
    fn keep(&self, digest: Digest, code: Vec<u8>) {
        if let Some(cache) = self.cache.clone() {
            spawn_blocking(move || cache.write(&digest, &code));
        }
    }

    /// Loads the code of a component, which its compiler's process or the cache gave.
    fn load(&self, examined: &Examined, code: Code<'_>) -> Result<Component, LoadError> {
        #[allow(unsafe_code, reason = "there is no other way to take compiled code")]
        // SAFETY: this program's own `compile` made it. It came through a pipe that nobody else can reach, or its tag shows
        // that a host with the cache's key wrote it.
        // A component is large enough to keep a thread from its requests.
        block_in_place(|| unsafe { self.sandboxes.load_examined(examined.clone(), code) })
    }
}

/// Something that is made once, or the reason why not.
pub(super) type Once<T> = OnceCell<Result<T, String>>;

/// Component of a file.
#[derive(Default)]
struct OfFile {
    /// Image that the file is pulled from.
    image: Option<Image>,
    read: Once<Arc<Read>>,
    component: Once<Component>,
    /// Number of tenants that load it, and have not ended.
    users: AtomicUsize,
}

/// Component that was read, and not compiled yet.
struct Read {
    /// Empty when no tenant needs it any more: a load of many files keeps no more of them than it has to.
    wasm: Mutex<Arc<Vec<u8>>>,
    signature: SignatureText,
    /// True where it is of an image: the file may be another one.
    is_pulled: bool,
    examined: Examined,
}

/// Component of a tenant.
pub(super) struct Loaded {
    pub(super) component: Component,
    /// Time of its signature, where the tenant requires one.
    pub(super) signed_at: Option<SignedAt>,
    /// Component to keep when it serves, where it was pulled.
    pub(super) pulled: Option<Kept>,
}

/// Treatment of images in a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Images {
    /// Pulls every image; one that can't be pulled fails its tenant.
    Pull,
    /// Pulls every image, and loads the kept file where that fails: a host starts without the registry.
    PullOrLoad,
    /// Loads the kept files, without the network.
    Load,
}

/// Components of one load.
pub(super) struct Components {
    compiler: Compiler,
    images: Images,
    built_in: Once<Component>,
    files: HashMap<PathBuf, OfFile>,
    /// Components that had to be compiled.
    compiled: Mutex<HashMap<Digest, Arc<Once<Component>>>>,
}

impl Components {
    pub(super) fn new(compiler: Compiler, configs: &[TenantConfig], images: Images) -> Self {
        let mut files = HashMap::<_, OfFile>::new();
        for config in configs {
            let Some(file) = config.component.clone() else { continue };
            let of_file = files.entry(file).or_default();
            of_file.image.clone_from(&config.image);
            of_file.users.fetch_add(1, Relaxed);
        }
        Self { compiler, images, built_in: OnceCell::new(), files, compiled: Mutex::default() }
    }

    /// Loads the component of a tenant: of a file, or the built-in one. Each is compiled once, and only if it is the one that
    /// a tenant has pinned, with needs that are within the tenant's limits.
    pub(super) async fn load(&self, workshop: &Workshop, config: &TenantConfig) -> Result<Loaded> {
        let Some(file) = &config.component else {
            let built_in = || async { workshop.built_in().await.map_err(|error| format!("{error:#}")) };
            let component = self.built_in.get_or_init(built_in).await.clone().map_err(Error::msg)?;
            return Ok(Loaded { component, signed_at: None, pulled: None });
        };
        let cells = self.files.get(file).context("not a component of this load")?;
        let loaded = self.of_file(workshop, config, file, cells).await;
        if let (1, Some(Ok(read))) = (cells.users.fetch_sub(1, Relaxed), cells.read.get()) {
            *locked(&read.wasm) = Arc::default();
        }
        loaded
    }

    async fn of_file(&self, workshop: &Workshop, config: &TenantConfig, file: &Path, cells: &OfFile) -> Result<Loaded> {
        let name = file.display();
        let read = || async {
            read(workshop, file, cells.image.as_ref(), self.images).await.map_err(|error| format!("{error:#}"))
        };
        let read = cells.read.get_or_init(read).await.clone().map_err(Error::msg)?;
        let wasm = locked(&read.wasm).clone();
        // The whole component is hashed, which takes a large one some time.
        let signed_at = block_in_place(|| config.pin.check(&wasm, &read.examined.digest, &read.signature));
        let signed_at = signed_at.with_context(|| format!("{name} is not trusted"))?;
        read.examined.requirements.check(&config.limits, "limits").with_context(|| format!("can't load {name}"))?;
        let component = cells.component.get_or_init(|| self.component(workshop, &wasm, &read.examined)).await.clone();
        let component = component.map_err(|reason| anyhow!("can't load {name}: {reason}"))?;
        let signature = read.signature.text.as_ref().ok();
        let pulled = read.is_pulled.then(|| Kept { file: file.to_owned(), signature: signature.cloned(), wasm });
        Ok(Loaded { component, signed_at, pulled })
    }

    async fn component(&self, workshop: &Workshop, wasm: &[u8], examined: &Examined) -> Result<Component, String> {
        if let Some(component) = workshop.sandboxes.find(&examined.digest) {
            return Ok(component);
        }
        if let Some(component) = workshop.cached(examined).await {
            return Ok(component);
        }
        let cell = locked(&self.compiled).entry(examined.digest.clone()).or_default().clone();
        cell.get_or_init(|| self.compile(workshop, wasm, examined)).await.clone()
    }

    /// Compiles a component that was not found to fail before.
    async fn compile(&self, workshop: &Workshop, wasm: &[u8], examined: &Examined) -> Result<Component, String> {
        let digest = &examined.digest;
        let known = locked(&workshop.failures).get(digest).filter(|(limits, _)| *limits == self.compiler).cloned();
        if let Some((_, reason)) = known {
            return Err(format!(
                "{reason} (as found before: it is compiled again when it or the limits in [compile] change)"
            ));
        }
        let (lasts, reason) = match self.in_turn(workshop, wasm).await {
            Ok(compiled) => match workshop.load(examined, Code::Bytes(&compiled)) {
                Ok(component) => {
                    workshop.keep(digest.clone(), compiled);
                    return Ok(component);
                }
                Err(error) => (true, error.to_string()),
            },
            Err(error) => (error.lasts(), error.to_string()),
        };
        if lasts {
            locked(&workshop.failures).insert(digest.clone(), (self.compiler, reason.clone()));
        }
        Err(reason)
    }

    /// Compiles a component when it is its turn.
    async fn in_turn(&self, workshop: &Workshop, wasm: &[u8]) -> Result<Vec<u8>, NotCompiled> {
        let most = workshop.sandboxes.pool().compiled_size;
        let first = Compiler { time: self.compiler.time.min(FIRST_TURN), ..self.compiler };
        let compiled = {
            let _turn = workshop.compiling.acquire().await;
            first.compile(wasm, most).await
        };
        match compiled {
            Err(NotCompiled::Late { .. }) if first != self.compiler => {
                let _long = workshop.long.acquire().await;
                let _turn = workshop.compiling.acquire().await;
                self.compiler.compile(wasm, most).await
            }
            compiled => compiled,
        }
    }

    /// Forgets the failures of components that no tenant has any more.
    pub(super) fn forget_other_failures(&self, workshop: &Workshop) {
        let compiled = locked(&self.compiled);
        locked(&workshop.failures).retain(|digest, _| compiled.contains_key(digest));
    }
}

/// Reads a component, and checks its needs against the pool.
async fn read(workshop: &Workshop, file: &Path, image: Option<&Image>, images: Images) -> Result<Arc<Read>> {
    let (name, pool) = (file.display(), workshop.sandboxes.pool().clone());
    let image = image.filter(|_| images != Images::Load);
    let pulled = match image {
        Some(image) => Some(image.pull(pool.component_size).await.with_context(|| format!("can't pull {image}"))),
        None => None,
    };
    let (wasm, signature, is_pulled) = match pulled {
        Some(Ok(Pulled { wasm, signature })) => (wasm, signature, true),
        Some(Err(error)) if images == Images::Pull => return Err(error),
        Some(Err(error)) => {
            let error = format!("{error:#}");
            let wasm = read_file(file, pool.component_size).await.map_err(|_| anyhow!("{error}"))?;
            tracing::warn!(file = %name, %error, "image not pulled, the file of the last one is loaded");
            (wasm, SignatureText::beside(file).await, false)
        }
        None => (read_file(file, pool.component_size).await?, SignatureText::beside(file).await, false),
    };
    // The whole component is hashed, which takes a large one some time.
    let examine = || require_component(&wasm).and_then(|()| Ok(workshop.sandboxes.examine(&wasm)?));
    let examined = block_in_place(examine);
    let examined = examined.with_context(|| format!("can't load {name}"))?;
    Ok(Arc::new(Read { wasm: Mutex::new(Arc::new(wasm)), signature, is_pulled, examined }))
}

/// Reads a component file, of so many bytes at most.
async fn read_file(file: &Path, most: usize) -> Result<Vec<u8>> {
    let (path, limit) = (file.to_owned(), component_file(most));
    let wasm = files::unblocked(move || files::read(&path, limit)).await.flatten();
    wasm.with_context(|| format!("can't read the component {}", file.display()))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
