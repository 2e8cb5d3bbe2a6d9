//! The sandboxes of a host: one engine and one pool of slots, whoever's components run in them.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use wasmtime::{
    Engine, Store, StoreLimitsBuilder, UpdateDeadline,
    component::{HasSelf, Linker, ResourceTable},
};

use super::{
    Error, Limits, LoadError, Pool, World,
    cause::cause,
    component::{Component, Digest, Loaded},
    cpu::CpuTime,
    engine,
    glue::{State, Write, bindings::Plugin},
    limits,
};
use crate::{auth::Caller, storage::Claim};

/// The sandboxes that all tenants of a host share. Clones are the same ones.
#[derive(Clone)]
pub struct Sandboxes(Arc<Shared>);

struct Shared {
    engine: Engine,
    linker: Linker<State>,
    pool: Pool,
    /// For requests in a sandbox or waiting for one.
    places: Semaphore,
    sandboxes: Semaphore,
    /// Components in use, by their bytes: the same ones are compiled once.
    components: Mutex<HashMap<Digest, Weak<Loaded>>>,
}

/// How much of a pool is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Requests in a sandbox.
    pub running: usize,
    /// Requests that wait for one.
    pub waiting: usize,
    /// Components that are loaded, the same bytes counted once.
    pub components: usize,
    /// Bytes of compiled code and data that these components keep in memory.
    pub component_bytes: usize,
}

impl Sandboxes {
    /// Makes the engine, reserves the address space of its slots, and starts its clock.
    ///
    /// # Errors
    ///
    /// [`LoadError::Engine`] where this machine can't do that.
    pub fn new(pool: Pool) -> Result<Self, LoadError> {
        let engine = engine::running(&pool)?;
        let mut linker = Linker::new(&engine);
        Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut State| state)
            .map_err(|error| LoadError::Engine(cause(&error)))?;
        let places = Semaphore::new(pool.concurrency.saturating_add(pool.queue).min(Semaphore::MAX_PERMITS));
        let sandboxes = Semaphore::new(pool.concurrency.min(Semaphore::MAX_PERMITS));
        Ok(Self(Arc::new(Shared { engine, linker, pool, places, sandboxes, components: Mutex::default() })))
    }

    /// Compiles a component in this process, whatever time and memory that takes: for one that is
    /// trusted so far. One that is in use is found by its bytes.
    ///
    /// # Errors
    ///
    /// A [`LoadError`] that says what is wrong with it.
    pub fn compile(&self, wasm: &[u8]) -> Result<Component, LoadError> {
        let Shared { engine, linker, pool, .. } = &*self.0;
        pool.fits_component(wasm.len())?;
        let digest = Digest::of(wasm);
        if let Some(component) = self.find(&digest) {
            return Ok(component);
        }
        let component = Component::compile(engine, linker, wasm, digest)?;
        pool.fits_compiled(component.size())?;
        Ok(self.keep(component))
    }

    /// Loads what [`compile`](super::compile) made, by another process perhaps, of the component
    /// `wasm`.
    ///
    /// # Errors
    ///
    /// A [`LoadError`] that says what is wrong with it.
    ///
    /// # Safety
    ///
    /// `compiled` is machine code that will run: it has to come from [`compile`](super::compile),
    /// unchanged.
    #[allow(unsafe_code, reason = "only the caller can know where machine code comes from")]
    pub unsafe fn load(&self, wasm: &[u8], compiled: &[u8]) -> Result<Component, LoadError> {
        let Shared { engine, linker, pool, .. } = &*self.0;
        pool.fits_component(wasm.len())?;
        pool.fits_compiled(compiled.len())?;
        let digest = Digest::of(wasm);
        match self.find(&digest) {
            Some(component) => Ok(component),
            // SAFETY: the caller's promise is the same.
            None => Ok(self.keep(unsafe { Component::load(engine, linker, compiled, digest) }?)),
        }
    }

    /// The component of these bytes, where it is in use.
    pub fn find(&self, digest: &Digest) -> Option<Component> {
        self.components().get(digest)?.upgrade().map(Component::from)
    }

    fn keep(&self, component: Component) -> Component {
        let mut components = self.components();
        components.retain(|_, component| component.strong_count() > 0);
        components.insert(component.digest().clone(), component.downgrade());
        component
    }

    fn components(&self) -> MutexGuard<'_, HashMap<Digest, Weak<Loaded>>> {
        self.0.components.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// What they were made with.
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// How much is in use now.
    pub fn usage(&self) -> Usage {
        let Shared { pool, places, sandboxes, .. } = &*self.0;
        let running = pool.concurrency.saturating_sub(sandboxes.available_permits());
        let taken = pool.concurrency.saturating_add(pool.queue).saturating_sub(places.available_permits());
        let loaded: Vec<_> = self.components().values().filter_map(Weak::upgrade).map(Component::from).collect();
        let component_bytes = loaded.iter().map(Component::size).sum();
        Usage { running, waiting: taken.saturating_sub(running), components: loaded.len(), component_bytes }
    }

    /// The one place where a sandbox's store is made.
    pub(super) fn new_store(&self, own: &Limits, world: World, caller: Caller, claim: Option<Claim>) -> Store<State> {
        let mut grants = ResourceTable::new();
        grants.set_max_capacity(own.handles);
        let limits = StoreLimitsBuilder::new()
            .memory_size(own.memory)
            .table_elements(own.table_elements)
            .instances(limits::CORE_INSTANCES as usize)
            .memories(limits::MEMORIES as usize)
            .tables(limits::TABLES as usize)
            .build();
        let World { auth, storage } = world;
        let cpu = Arc::new(CpuTime::default());
        let host_calls = own.host_calls;
        let state = State { auth, storage, caller, limits, grants, claim, write: Write::None, cpu, host_calls };
        let mut store = Store::new(&self.0.engine, state);
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(own.hostcall_bytes);
        store.set_max_component_handles(own.handles);
        // At each tick the thread goes to others for a turn.
        store.set_epoch_deadline(1);
        let (most, mut counted, mut last) = (own.cpu, Duration::ZERO, Duration::ZERO);
        store.epoch_deadline_callback(move |store| {
            let now = store.data().cpu.so_far();
            counted += now.saturating_sub(last).min(most / LOOKS);
            last = now;
            Ok(if counted < most { UpdateDeadline::Yield(1) } else { UpdateDeadline::Interrupt })
        });
        store
    }

    /// Whether a request could have a sandbox, or wait for one, at this moment.
    pub(crate) fn require_place(&self) -> Result<(), Error> {
        match self.0.places.available_permits() {
            0 => Err(Error::Overloaded),
            _ => Ok(()),
        }
    }

    /// Waits for a sandbox without a place among those that may wait: where clients take all of them,
    /// a better component must come in all the same.
    pub(super) async fn admit_rehearsal(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.sandbox(REHEARSAL_WAIT).await
    }

    /// Waits for a sandbox, with the others that may wait.
    pub(super) async fn admit(&self) -> Result<Admitted<'_>, Error> {
        let place = self.0.places.try_acquire().map_err(|_| Error::Overloaded)?;
        let sandbox = self.sandbox(self.0.pool.admission_wait).await?;
        Ok(Admitted { _sandbox: sandbox, _place: place })
    }

    /// The next sandbox that is free, in the order they are asked for.
    async fn sandbox(&self, wait: Duration) -> Result<SemaphorePermit<'_>, Error> {
        match timeout(wait, self.0.sandboxes.acquire()).await {
            Ok(Ok(sandbox)) => Ok(sandbox),
            _ => Err(Error::Overloaded),
        }
    }
}

/// How long the rehearsal of a component waits for a sandbox, which it gets in its turn.
const REHEARSAL_WAIT: Duration = Duration::from_secs(30);

/// How often a component is seen on the processor at least before its time is over. It is looked at with
/// each tick; where a thread's clock goes on by 10 ms in between, as was seen on a virtual machine, that
/// was the machine.
const LOOKS: u32 = 2;

/// A request's right to one sandbox, until it is dropped.
pub(super) struct Admitted<'a> {
    _sandbox: SemaphorePermit<'a>,
    _place: SemaphorePermit<'a>,
}

impl fmt::Debug for Sandboxes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sandboxes").field("pool", &self.0.pool).field("usage", &self.usage()).finish()
    }
}

/// How long a request that was refused should wait: by then those before it have been served.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);
