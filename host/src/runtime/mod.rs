//! A fresh sandbox for every request.

mod cpu;
mod engine;
mod glue;
mod in_flight;
mod limits;

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::timeout};
use wasmtime::{
    Engine, Store, StoreLimitsBuilder, Trap, UpdateDeadline,
    component::{Component, HasSelf, Linker, ResourceTable},
};

pub use self::limits::{Limits, TICK};
use self::{
    cpu::CpuTime,
    glue::{
        State, Write,
        bindings::{Plugin, PluginPre, exports::recoup::workspaces::workspaces as wit},
    },
    in_flight::InFlight,
};
use crate::{
    CreateWorkspaceRequest, Workspace,
    auth::{Auth, Caller},
    storage::{self, Claim, Created, IdempotencyKey, Storage},
};

/// A component, ready to be called, with the host's side of its imports.
pub struct Runtime {
    engine: Engine,
    component: PluginPre<State>,
    auth: Arc<dyn Auth>,
    storage: Arc<dyn Storage>,
    limits: Limits,
    /// Places for requests in a sandbox or waiting for one.
    places: Semaphore,
    sandboxes: Semaphore,
    in_flight: InFlight,
}

/// Why a component can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The engine can't be made on this machine or with these limits.
    #[error("the sandbox engine can't start: {0}")]
    Engine(String),
    /// The bytes are no component, or one that does not fit the limits.
    #[error("not a component that can be compiled: {0}")]
    Compile(String),
    /// It imports or exports something else than the world `plugin` of `recoup:workspaces`.
    #[error("not a component of the world recoup:workspaces/plugin@1.0.0: {0}")]
    World(String),
}

/// Why no workspace was returned. Strings of the first five are the component's words for the client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field breaks a rule.
    #[error("{0}")]
    InvalidRequest(String),
    /// The caller is not known.
    #[error("{0}")]
    Unauthenticated(String),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// Something can't answer now; nothing was created.
    #[error("{0}")]
    Unavailable(String),
    /// The workspace may have been created or not.
    #[error("{0}")]
    Unknown(String),
    /// The idempotency key was used for another request; nothing was created.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// A request with the idempotency key is in progress; nothing was created by this one.
    #[error("a request with the idempotency key is in progress")]
    InFlight,
    /// Whether the idempotency key was used before can't be found out now; nothing was created.
    #[error("claims can't be looked up: {0}")]
    Claims(String),
    /// No sandbox came free in time, or too many requests wait for one; nothing was created.
    #[error("all sandboxes are busy")]
    Overloaded,
    /// The component ran out of time on the processor or the clock.
    #[error("the component ran out of time: {0}")]
    OutOfTime(String),
    /// The component trapped, went over another limit, or broke its contract.
    #[error("the component failed: {0}")]
    Component(String),
}

impl Runtime {
    /// Compiles a component and checks it against the contract.
    ///
    /// # Errors
    ///
    /// A [`LoadError`] that says what is wrong with it.
    pub fn new(
        component: &[u8],
        limits: Limits,
        auth: Arc<dyn Auth>,
        storage: Arc<dyn Storage>,
    ) -> Result<Self, LoadError> {
        let engine = engine::engine(&limits)?;
        let component =
            Component::from_binary(&engine, component).map_err(|error| LoadError::Compile(format!("{error:#}")))?;
        let mut linker = Linker::new(&engine);
        let world = |error: wasmtime::Error| LoadError::World(format!("{error:#}"));
        Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut State| state).map_err(world)?;
        let component = linker.instantiate_pre(&component).and_then(PluginPre::new).map_err(world)?;
        let places = Semaphore::new(limits.concurrency.saturating_add(limits.queue).min(Semaphore::MAX_PERMITS));
        let sandboxes = Semaphore::new(limits.concurrency);
        Ok(Self { engine, component, auth, storage, limits, places, sandboxes, in_flight: InFlight::default() })
    }

    /// Has the component create a workspace for a caller whose credential was checked.
    ///
    /// With an idempotency key, a request that succeeded before is answered again without the
    /// component; one that failed wrote nothing, and is made anew.
    ///
    /// A future that is dropped may leave a workspace behind, whole.
    ///
    /// # Errors
    ///
    /// An [`Error`].
    pub async fn create_workspace(
        &self,
        caller: Caller,
        request: CreateWorkspaceRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Created, Error> {
        let Some(key) = key else { return self.call(caller, request, None).await };
        let claim = Claim::new(&caller, key, &request);
        let _place = self.in_flight.enter(&claim).ok_or(Error::InFlight)?;
        match self.storage.find_claimed(&claim).await {
            Ok(Some(workspace)) => Ok(Created { workspace, replayed: true }),
            Ok(None) => self.call(caller, request, Some(claim)).await,
            Err(storage::Error::KeyReused) => Err(Error::KeyReused),
            Err(error) => Err(Error::Claims(error.to_string())),
        }
    }

    async fn call(
        &self,
        caller: Caller,
        request: CreateWorkspaceRequest,
        claim: Option<Claim>,
    ) -> Result<Created, Error> {
        let Ok(_place) = self.places.try_acquire() else { return Err(Error::Overloaded) };
        let admitted = timeout(self.limits.admission_wait, self.sandboxes.acquire()).await;
        let Ok(Ok(_sandbox)) = admitted else { return Err(Error::Overloaded) };
        let mut store = self.new_store(caller, claim);
        let call = async {
            let plugin = self.component.instantiate_async(&mut store).await?;
            plugin.recoup_workspaces_workspaces().call_create_workspace(&mut store, &request.into()).await
        };
        let answer = match timeout(self.limits.wall_clock, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(trap)) => Err(fault(&trap)),
            Err(_) => Err(Error::OutOfTime(format!("no answer within {:?}", self.limits.wall_clock))),
        };
        judge(answer, store.into_data().write)
    }

    /// The one place where a sandbox's store is made.
    fn new_store(&self, caller: Caller, claim: Option<Claim>) -> Store<State> {
        let mut grants = ResourceTable::new();
        grants.set_max_capacity(self.limits.handles);
        let limits = StoreLimitsBuilder::new()
            .memory_size(self.limits.memory)
            .table_elements(self.limits.table_elements)
            .instances(limits::CORE_INSTANCES as usize)
            .memories(limits::MEMORIES as usize)
            .tables(limits::TABLES as usize)
            .build();
        let (auth, storage) = (self.auth.clone(), self.storage.clone());
        let state = State { auth, storage, caller, limits, grants, claim, write: Write::None, cpu: CpuTime::start() };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(self.limits.hostcall_bytes);
        store.set_max_component_handles(self.limits.handles);
        store.set_epoch_deadline(ticks(self.limits.cpu));
        // The clock ticks while the sandbox waits, for the host or for the processor: at the deadline it
        // gets what is left of its own time.
        let cpu = self.limits.cpu;
        store.epoch_deadline_callback(move |store| {
            let left = cpu.saturating_sub(store.data().cpu.used());
            Ok(if left.is_zero() { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(ticks(left)) })
        });
        store
    }
}

/// A time in whole ticks, at least one.
fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX).max(1)
}

/// What a trap means; its text, backtrace included, is for the log.
fn fault(trap: &wasmtime::Error) -> Error {
    match trap.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Error::OutOfTime(format!("{trap:#}")),
        _ => Error::Component(format!("{trap:#}")),
    }
}

/// The longest message of a component that is passed on, in bytes; the contract says so.
const MAX_MESSAGE: usize = 512;

type Answer = Result<wit::CreateWorkspaceResponse, wit::CreateWorkspaceError>;

/// The component's answer, or what befell it, held against what storage did: the one is believed as
/// far as the other bears it out.
fn judge(answer: Result<Answer, Error>, write: Write) -> Result<Created, Error> {
    match (answer, write) {
        // Of a request that was answered before, and of a key that was used before, the component
        // knows nothing.
        (_, Write::Done(created)) if created.replayed => Ok(created),
        (_, Write::KeyReused) => Err(Error::KeyReused),
        (Ok(Ok(response)), Write::Done(created)) if describes(&response.workspace, &created.workspace) => Ok(created),
        (Ok(Err(error)), Write::None) => Err(spoken(error)),
        (Ok(Err(error @ wit::CreateWorkspaceError::Unknown(_))), Write::Begun) => Err(spoken(error)),
        (Ok(_), Write::None) => Err(Error::Component("it reports a workspace that storage did not create".into())),
        (Err(fault), Write::None) => Err(fault),
        // Whatever went wrong after that, the client may not be told that nothing was created.
        (answer, write) => {
            tracing::error!(?answer, ?write, "the component failed, or misreports, after it had storage write");
            Err(Error::Unknown(NOT_KNOWN.into()))
        }
    }
}

const NOT_KNOWN: &str = "It is not known whether the workspace was created";

/// The component's own words for the client.
fn spoken(error: wit::CreateWorkspaceError) -> Error {
    let (kind, message): (fn(String) -> Error, _) = match error {
        wit::CreateWorkspaceError::InvalidRequest(message) => (Error::InvalidRequest, message),
        wit::CreateWorkspaceError::Unauthenticated(message) => (Error::Unauthenticated, message),
        wit::CreateWorkspaceError::Forbidden(message) => (Error::Forbidden, message),
        wit::CreateWorkspaceError::Unavailable(message) => (Error::Unavailable, message),
        wit::CreateWorkspaceError::Unknown(message) => (Error::Unknown, message),
    };
    match message.len() > MAX_MESSAGE {
        true => Error::Component(format!("its message is over {MAX_MESSAGE} bytes")),
        false => kind(message),
    }
}

fn describes(reported: &wit::Workspace, created: &Workspace) -> bool {
    reported.is_workspace
        && reported.id == created.id.to_string()
        && reported.name == created.name
        && reported.account_id == created.account_id.to_string()
}

impl From<CreateWorkspaceRequest> for wit::CreateWorkspaceRequest {
    fn from(request: CreateWorkspaceRequest) -> Self {
        let CreateWorkspaceRequest { name, account_id, organization_id } = request;
        Self { name, account_id, organization_id }
    }
}
