//! A component that was compiled, and held against the contract.

use std::{
    fmt::{self, Write as _},
    fs::File,
    io,
    os::fd::AsRawFd as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Linker};

use super::{
    cause::{MAX_CAUSE, MAX_NAME, cause},
    engine,
    host_imports::{State, bindings::PluginPre},
    needs::Requirements,
    wasi,
};
use crate::{
    excerpt::{Clip, excerpt},
    hex::hex,
};

/// A component of the world `plugin`, ready to be called. Clones are the same one.
#[derive(Clone)]
pub struct Component(Arc<Loaded>);

pub(super) struct Loaded {
    pre: PluginPre<State>,
    examined: Examined,
    #[cfg(feature = "harness")]
    verdicts: Verdicts,
}

/// Findings about a component that is not compiled yet.
#[derive(Clone)]
pub(crate) struct Examined {
    pub(crate) digest: Digest,
    pub(crate) requirements: Requirements,
}

/// Code that was compiled of a component.
#[derive(Clone, Copy)]
pub(crate) enum Code<'a> {
    /// Copied into memory of its own.
    Bytes(&'a [u8]),
    /// Mapped: nobody may change the file any more.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "the cache is the program's"))]
    File(&'a File),
}

impl Code<'_> {
    pub(super) fn len(self) -> io::Result<usize> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len()),
            Self::File(file) => Ok(usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX)),
        }
    }
}

/// Returns a path of a file that is open.
fn open_path(file: &File) -> String {
    format!("/dev/fd/{}", file.as_raw_fd())
}

/// Verdicts of the judge of components, by the limits of the sandboxes: that it passes, or what it breaks.
#[cfg(feature = "harness")]
pub(crate) type Verdicts = tokio::sync::Mutex<Vec<(super::SandboxLimits, Result<(), String>)>>;

/// Digest of a component: the SHA-256 of its bytes, in hex.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Digest(String);

/// Reason why a component can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The engine can't be made on this machine or with these limits.
    #[error("the sandbox engine can't start: {0}")]
    Engine(String),
    /// The bytes are no component, or one that does not fit the limits.
    #[error("not a component that can be compiled: {0}")]
    Compile(String),
    /// Its imports or exports differ from the world `plugin` of `recoup:workspaces`.
    #[error("not a component of the world recoup:workspaces/plugin@1.0.0: {0}")]
    World(String),
    /// The component, or what was compiled of it, takes more memory than the pool allows for one.
    #[error("it is too large: {size} bytes, where {name} allows {limit}")]
    TooLarge {
        /// The limit's name.
        name: &'static str,
        /// Bytes of the component, or of what was compiled of it.
        size: usize,
        /// Bytes that the pool allows.
        limit: usize,
    },
    /// Its limits are over those of the pool.
    #[error("its limits are over the pool's: {0}")]
    Limits(String),
    /// Needs of the component that are over its limits.
    #[error("it needs more than it may have: {0}")]
    Needs(String),
    /// Imports of WASI, which its limits do not give.
    #[error(
        "it imports WASI, which it is not given: build it without, or give it imports that are empty and trap (wasi = \"deny\", or --wasi deny): {0}"
    )]
    Wasi(String),
    /// The self-check found something that is not stopped.
    #[error("sandboxes do not hold on this machine: {0}")]
    Unprotected(String),
}

/// Compiles a component to what [`Sandboxes::load`](super::Sandboxes::load) takes. Needs no sandboxes:
/// for a process of its own, which can be held to time and memory.
///
/// # Errors
///
/// [`LoadError::Compile`] where it is no component.
pub fn compile(wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    let engine = engine::compiling()?;
    guarded(|| engine.precompile_component(wasm).map_err(|error| LoadError::Compile(cause(&error))))
}

/// Runs the compiler or the linker. A component for which it panics is one that can't be compiled.
fn guarded<T>(compile: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    // What the compiler leaves behind is its own: the engine is not changed by it.
    catch_unwind(AssertUnwindSafe(compile))
        .unwrap_or_else(|_| Err(LoadError::Compile("the compiler failed on it".into())))
}

impl Component {
    pub(super) fn compile(
        engine: &Engine,
        linker: &Linker<State>,
        wasm: &[u8],
        examined: Examined,
    ) -> Result<Self, LoadError> {
        guarded(|| {
            let component = wasmtime::component::Component::from_binary(engine, wasm)
                .map_err(|error| LoadError::Compile(cause(&error)))?;
            Self::check(engine, linker, &component, examined)
        })
    }

    /// # Safety
    ///
    /// That of [`Sandboxes::load`](super::Sandboxes::load).
    #[allow(unsafe_code, reason = "only the caller can know where machine code comes from")]
    pub(super) unsafe fn load(
        engine: &Engine,
        linker: &Linker<State>,
        code: Code<'_>,
        examined: Examined,
    ) -> Result<Self, LoadError> {
        // SAFETY: the caller's promise is the same.
        let component = unsafe {
            match code {
                Code::Bytes(bytes) => wasmtime::component::Component::deserialize(engine, bytes),
                Code::File(file) => wasmtime::component::Component::deserialize_file(engine, open_path(file)),
            }
        };
        let component = component.map_err(|error| LoadError::Compile(cause(&error)))?;
        guarded(|| Self::check(engine, linker, &component, examined))
    }

    fn check(
        engine: &Engine,
        linker: &Linker<State>,
        component: &wasmtime::component::Component,
        examined: Examined,
    ) -> Result<Self, LoadError> {
        let mut linker = linker.clone();
        // Whether a tenant's component may import WASI at all is checked against the tenant's limits.
        let linked = wasi::deny(engine, &mut linker, component);
        match linked.and_then(|()| linker.instantiate_pre(component)).and_then(PluginPre::new) {
            Ok(pre) => Ok(Self(Arc::new(Loaded {
                pre,
                examined,
                #[cfg(feature = "harness")]
                verdicts: Verdicts::default(),
            }))),
            Err(error) => Err(LoadError::World(match differences(engine, component) {
                names if names.is_empty() => cause(&error),
                names => format!("it differs in{names}\n({})", cause(&error)),
            })),
        }
    }

    /// Returns the digest of its bytes.
    pub fn digest(&self) -> &Digest {
        &self.0.examined.digest
    }

    pub(super) fn requirements(&self) -> &Requirements {
        &self.0.examined.requirements
    }

    /// Returns what the judge has said of it. Tenants with the same component share that.
    #[cfg(feature = "harness")]
    pub(crate) fn verdicts(&self) -> &Verdicts {
        &self.0.verdicts
    }

    /// Returns what was compiled of it, for [`Sandboxes::load`](super::Sandboxes::load).
    ///
    /// # Errors
    ///
    /// [`LoadError::Compile`] where memory is short.
    pub fn code(&self) -> Result<Vec<u8>, LoadError> {
        let component = self.0.pre.instance_pre().component();
        component.serialize().map_err(|error| LoadError::Compile(cause(&error)))
    }

    /// Bytes of its compiled code and data in memory.
    pub(super) fn size(&self) -> usize {
        let image = self.0.pre.instance_pre().component().image_range();
        (image.end as usize).saturating_sub(image.start as usize)
    }

    pub(super) fn pre(&self) -> &PluginPre<State> {
        &self.0.pre
    }

    pub(super) fn downgrade(&self) -> Weak<Loaded> {
        Arc::downgrade(&self.0)
    }
}

impl PartialEq for Component {
    /// Returns whether it was loaded once for both.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<Arc<Loaded>> for Component {
    fn from(loaded: Arc<Loaded>) -> Self {
        Self(loaded)
    }
}

/// The interfaces of the world, up to the version's minor part.
const IMPORTS: [&str; 3] = ["recoup:workspaces/types@1.", "recoup:workspaces/auth@1.", "recoup:workspaces/storage@1."];
const EXPORT: &str = "recoup:workspaces/workspaces@1.";

/// Returns names, a line each as in a diff: `+` is what the component has and the world has not.
fn differences(engine: &Engine, component: &wasmtime::component::Component) -> String {
    let mut lines = Clip::new(MAX_CAUSE);
    // An error says that the list is cut, which its end shows.
    let _ = write_differences(&mut lines, engine, component);
    lines.into_text()
}

fn write_differences(lines: &mut Clip, engine: &Engine, component: &wasmtime::component::Component) -> fmt::Result {
    let own = component.component_type();
    let mut exports = own.exports(engine);
    if !exports.any(|(name, _)| name.starts_with(EXPORT)) {
        write!(lines, "\n  - export {EXPORT}0.0")?;
    }
    for (name, _) in own.imports(engine) {
        if !IMPORTS.iter().any(|import| name.starts_with(import)) && !wasi::is_wasi(name) {
            write!(lines, "\n  + import {}", excerpt(name, MAX_NAME))?;
        }
    }
    Ok(())
}

impl Digest {
    /// Returns the digest of a component's bytes.
    pub fn of(wasm: &[u8]) -> Self {
        Self(hex(&Sha256::digest(wasm)))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Component").field(&self.0.examined.digest).finish()
    }
}
