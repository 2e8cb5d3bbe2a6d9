//! Components of tenants: each is compiled once, in a process that is held to limits.

use std::{
    collections::HashMap,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    sync::{OnceCell, Semaphore},
    task::{block_in_place, spawn_blocking},
};

use super::{
    cache::Cache,
    compiler::{Compiler, NotCompiled, component_file, require_component},
    config::TenantConfig,
};
use crate::{
    COMPONENT, files,
    runtime::{Component, Digest, LoadError, Sandboxes},
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
        let digest = Digest::of(COMPONENT);
        if let Some(component) = self.cached(COMPONENT, &digest).await {
            return Ok(component);
        }
        let sandboxes = self.sandboxes.clone();
        let component = files::unblocked(move || sandboxes.compile(COMPONENT)).await??;
        if self.cache.is_some() {
            self.keep(digest, component.code()?);
        }
        Ok(component)
    }

    /// Loads a component from the cache; `None` where it is not there.
    async fn cached(&self, wasm: &[u8], digest: &Digest) -> Option<Component> {
        let (cache, name, most) = (self.cache.clone()?, digest.clone(), self.sandboxes.pool().compiled_size);
        let code = files::unblocked(move || cache.read(&name, most)).await.ok()??;
        match self.load(wasm, &code) {
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
    fn load(&self, wasm: &[u8], code: &[u8]) -> Result<Component, LoadError> {
        #[allow(unsafe_code, reason = "there is no other way to take compiled code")]
        // SAFETY: this program's own `compile` made it. It came through a pipe that nobody else can reach, or its tag shows
        // that a host with the cache's key wrote it.
        // A component is large enough to keep a thread from its requests.
        block_in_place(|| unsafe { self.sandboxes.load(wasm, code) })
    }
}

/// Something that is made once, or the reason why not.
pub(super) type Once<T> = OnceCell<Result<T, String>>;

/// Components of one load.
pub(super) struct Components {
    compiler: Compiler,
    files: HashMap<Option<PathBuf>, Once<Component>>,
    /// Components that had to be compiled.
    compiled: Mutex<HashMap<Digest, Arc<Once<Component>>>>,
}

impl Components {
    pub(super) fn new(compiler: Compiler, configs: &[TenantConfig]) -> Self {
        let files = configs.iter().map(|config| (config.component.clone(), OnceCell::new())).collect();
        Self { compiler, files, compiled: Mutex::default() }
    }

    /// Loads the component of a file, or the built-in one, once.
    pub(super) async fn load(&self, workshop: &Workshop, file: &Option<PathBuf>) -> Result<Component> {
        let cell = self.files.get(file).context("not a component of this load")?;
        let loaded = cell.get_or_init(|| async {
            let loaded = match file {
                None => workshop.built_in().await,
                Some(file) => self.read(workshop, file).await,
            };
            loaded.map_err(|error| format!("{error:#}"))
        });
        loaded.await.clone().map_err(|reason| anyhow!("{reason}"))
    }

    async fn read(&self, workshop: &Workshop, file: &Path) -> Result<Component> {
        let name = file.display();
        let (path, limit) = (file.to_owned(), component_file(workshop.sandboxes.pool().component_size));
        let wasm = files::unblocked(move || files::read(&path, limit)).await.flatten();
        let wasm = wasm.with_context(|| format!("can't read the component {name}"))?;
        let digest = Digest::of(&wasm);
        if let Some(component) = workshop.sandboxes.find(&digest) {
            return Ok(component);
        }
        require_component(&wasm).with_context(|| format!("can't load {name}"))?;
        if let Some(component) = workshop.cached(&wasm, &digest).await {
            return Ok(component);
        }
        let cell = locked(&self.compiled).entry(digest.clone()).or_default().clone();
        let compiled = cell.get_or_init(|| self.compile(workshop, &wasm, &digest)).await;
        compiled.clone().map_err(|reason| anyhow!("can't load {name}: {reason}"))
    }

    /// Compiles a component that was not found to fail before.
    async fn compile(&self, workshop: &Workshop, wasm: &[u8], digest: &Digest) -> Result<Component, String> {
        let known = locked(&workshop.failures).get(digest).filter(|(limits, _)| *limits == self.compiler).cloned();
        if let Some((_, reason)) = known {
            return Err(format!(
                "{reason} (as found before: it is compiled again when it or the limits in [compile] change)"
            ));
        }
        let (lasts, reason) = match self.in_turn(workshop, wasm).await {
            Ok(compiled) => match workshop.load(wasm, &compiled) {
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
