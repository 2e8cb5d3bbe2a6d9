//! The sandboxes of a host: one engine and one pool of slots, whoever's components run in them.

use std::{
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use wasmtime::{
    Engine, Store, UpdateDeadline,
    component::{HasSelf, Linker, ResourceTable},
};

use super::{
    LoadError, Pool, SandboxLimits, TICK,
    calls::Calls,
    capacity::{Capacity, TenantCapacity},
    cause::cause,
    component::{Code, Component, Digest, Examined, Loaded},
    engine,
    host_imports::{State, bindings::Plugin},
    instance::Idle,
    memory::Memory,
    needs::Requirements,
    turn::Turn,
    wasi::Written,
};
use crate::metrics::Metrics;

/// The sandboxes that all tenants of a host share. Clones are the same ones.
#[derive(Clone)]
pub struct Sandboxes(Arc<Shared>);

struct Shared {
    engine: Engine,
    counts_instructions: bool,
    linker: Linker<State>,
    pool: Pool,
    capacity: Capacity,
    /// Components in use, by their bytes: the same ones are compiled once.
    components: Mutex<HashMap<Digest, Weak<Loaded>>>,
    idle: Idle,
}

/// Usage of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Sandboxes that run: they wait for nothing but the processor.
    pub running: usize,
    /// Requests in progress that do not run: they wait for a sandbox, or for the host.
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
        Self::of(pool, false)
    }

    /// Makes sandboxes that count instructions, which slows components down: for [`play`](Self::play). They can't load
    /// what [`compile`](super::compile) made.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub fn counting(pool: Pool) -> Result<Self, LoadError> {
        Self::of(pool, true)
    }

    fn of(pool: Pool, counts_instructions: bool) -> Result<Self, LoadError> {
        let engine = engine::running(&pool, counts_instructions)?;
        let mut linker = Linker::new(&engine);
        Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut State| state)
            .map_err(|error| LoadError::Engine(cause(&error)))?;
        let capacity = Capacity::new(&pool);
        let (components, idle) = (Mutex::default(), Idle::default());
        Ok(Self(Arc::new(Shared { engine, counts_instructions, linker, pool, capacity, components, idle })))
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
        let examined = self.examine(wasm)?;
        if let Some(component) = self.find(&examined.digest) {
            return Ok(component);
        }
        let component = Component::compile(engine, linker, wasm, examined)?;
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
        self.0.pool.fits_component(wasm.len())?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.load_examined(self.examine(wasm)?, Code::Bytes(compiled)) }
    }

    /// Loads what was compiled of a component that was [examined](Self::examine): a large one takes a while to hash.
    ///
    /// # Errors
    ///
    /// Those of [`load`](Self::load).
    ///
    /// # Safety
    ///
    /// That of [`load`](Self::load), with the component that was examined.
    #[allow(unsafe_code, reason = "only the caller can know where machine code comes from")]
    pub(crate) unsafe fn load_examined(&self, examined: Examined, code: Code<'_>) -> Result<Component, LoadError> {
        let Shared { engine, linker, pool, .. } = &*self.0;
        pool.fits_compiled(code.len().map_err(|error| LoadError::Compile(error.to_string()))?)?;
        match self.find(&examined.digest) {
            Some(component) => Ok(component),
            // SAFETY: the caller's promise is the same.
            None => Ok(self.keep(unsafe { Component::load(engine, linker, code, examined) }?)),
        }
    }

    /// Checks that a component's needs are within the pool, before anything is compiled.
    ///
    /// # Errors
    ///
    /// [`LoadError::Needs`], or [`LoadError::Compile`] where the bytes can't be read.
    pub(crate) fn examine(&self, wasm: &[u8]) -> Result<Examined, LoadError> {
        let requirements = Requirements::of(wasm)?;
        requirements.check(&self.0.pool.largest(), "pool")?;
        Ok(Examined { digest: Digest::of(wasm), requirements })
    }

    /// Returns the component of these bytes, where it is in use.
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

    /// Returns a name of the engine, its version and the processor's features: code that was compiled under another one
    /// can't be [loaded](Self::load).
    pub fn engine_name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.0.engine.precompile_compatibility_hash().hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Returns capacity for one tenant, with its maximum of requests in progress and of sandboxes that run.
    pub(crate) fn tenant_capacity(&self, most: usize, running: usize) -> TenantCapacity {
        TenantCapacity::new(self.clone(), most, running)
    }

    pub(super) fn capacity(&self) -> &Capacity {
        &self.0.capacity
    }

    /// Returns the pool that they were made with.
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Sets the gauges of `metrics` to the pool's limits and to how much of it is in use now. Call it before each
    /// [`Metrics::text`].
    pub fn report(&self, metrics: &Metrics) {
        let Usage { running, waiting, components, component_bytes } = self.usage();
        metrics.set_usage(running, waiting, components, component_bytes);
        metrics.set_pool(self.0.pool.numbers());
    }

    /// Returns how much is in use now.
    pub fn usage(&self) -> Usage {
        let Shared { pool, capacity, .. } = &*self.0;
        let running = capacity.running(pool.concurrency);
        let loaded: Vec<_> = self.components().values().filter_map(Weak::upgrade).map(Component::from).collect();
        let component_bytes = loaded.iter().map(Component::size).sum();
        let waiting = capacity.in_progress().saturating_sub(running);
        Usage { running, waiting, components: loaded.len(), component_bytes }
    }

    /// Returns the instances that wait for another request.
    pub(super) fn idle(&self) -> &Idle {
        &self.0.idle
    }

    /// Makes the store of a sandbox. No other function does.
    pub(super) fn new_store(&self, own: &SandboxLimits, calls: Calls, turn: Turn) -> Store<State> {
        let mut grants = ResourceTable::new();
        grants.set_max_capacity(own.handles);
        let (memory, written) = (Memory::new(own.clone()), Written::default());
        let state = State { calls, turn, memory, grants, written, host_calls: 0, script: None };
        let mut store = Store::new(&self.0.engine, state);
        store.limiter(|state| &mut state.memory);
        store.set_max_component_handles(own.handles);
        self.arm(&mut store, own);
        store
    }

    /// Gives a sandbox another request of its tenant.
    pub(super) fn begin(&self, store: &mut Store<State>, own: &SandboxLimits, calls: Calls, turn: Turn) {
        let state = store.data_mut();
        (state.calls, state.turn) = (calls, turn);
        state.written.clear();
        self.arm(store, own);
    }

    /// Sets the limits of one request.
    fn arm(&self, store: &mut Store<State>, own: &SandboxLimits) {
        let state = store.data_mut();
        state.host_calls = own.host_calls;
        // What an earlier sandbox of the request has used.
        let used = state.calls.cpu.total();
        store.set_hostcall_fuel(own.hostcall_bytes);
        // Where instructions are not counted this would make an error, with a backtrace, for each request.
        if self.0.counts_instructions {
            let _ = store.set_fuel(u64::MAX);
        }
        // A sandbox that takes long gives its thread to others at each tick.
        store.set_epoch_deadline(1);
        let (most, mut counted, mut last) = (own.cpu, used, used);
        store.epoch_deadline_callback(move |mut store| {
            let now = store.data().calls.cpu.so_far();
            counted += now.saturating_sub(last).min(most / LOOKS);
            last = now;
            Ok(match (counted < most, now < TICK) {
                (false, _) => UpdateDeadline::Interrupt,
                // A tick may find one that has just begun. To yield would put it behind all other requests.
                (true, true) => UpdateDeadline::Continue(1),
                (true, false) => UpdateDeadline::YieldCustom(1, Box::pin(store.data_mut().turn.slow_down()?)),
            })
        });
    }
}

/// Number of times that a component is seen on the processor at least before its time is over. It is looked at with
/// each tick; where a thread's clock goes on by 10 ms in between, as was seen on a virtual machine, that
/// was the machine.
const LOOKS: u32 = 2;

impl fmt::Debug for Sandboxes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sandboxes").field("pool", &self.0.pool).field("usage", &self.usage()).finish()
    }
}
