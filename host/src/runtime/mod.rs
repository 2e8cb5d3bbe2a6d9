//! A fresh sandbox for every request.

mod component;
mod cpu;
mod engine;
mod glue;
mod in_flight;
mod limits;
mod outcome;
mod rehearsal;
mod sandboxes;
mod self_check;
mod slot;

use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::timeout;
use wasmtime::{Store, StoreLimitsBuilder, UpdateDeadline, component::ResourceTable};

pub(crate) use self::sandboxes::RETRY_AFTER;
pub use self::{
    component::{Component, Digest, LoadError, compile},
    limits::{Limits, Pool, TICK},
    outcome::Error,
    sandboxes::{Sandboxes, Usage},
};
use self::{
    cpu::CpuTime,
    glue::{State, Write, bindings::exports::recoup::workspaces::workspaces as wit},
    in_flight::InFlight,
    outcome::{Answer, Fault, Outcome, judge},
    slot::Slot,
};
use crate::{
    CreateWorkspaceRequest,
    auth::{Auth, Caller},
    metrics::Meter,
    storage::{self, Claim, Created, IdempotencyKey, Storage},
};

/// One tenant's component, with the host's side of its imports.
pub(crate) struct Runtime {
    sandboxes: Sandboxes,
    component: Slot,
    world: World,
    limits: Limits,
    in_flight: InFlight,
    meter: Meter,
    /// Of the faults that are logged; all are counted.
    log: DefaultDirectRateLimiter,
}

/// What a component's imports reach.
#[derive(Clone)]
struct World {
    auth: Arc<dyn Auth>,
    storage: Arc<dyn Storage>,
}

/// What a sandbox left behind.
struct Ran {
    answer: Result<Answer, Fault>,
    write: Write,
}

impl Runtime {
    /// # Errors
    ///
    /// [`LoadError::Limits`] where they are over the pool's.
    pub(crate) fn new(
        sandboxes: Sandboxes,
        component: Component,
        limits: Limits,
        auth: Arc<dyn Auth>,
        storage: Arc<dyn Storage>,
        meter: Meter,
    ) -> Result<Self, LoadError> {
        let pool = sandboxes.pool();
        for (limit, own, most) in
            [("memory", limits.memory, pool.memory), ("table elements", limits.table_elements, pool.table_elements)]
        {
            if own > most {
                return Err(LoadError::Limits(format!("{limit}, {own} where the pool has {most}")));
            }
        }
        let log = RateLimiter::direct(Quota::per_second(limits.faults_logged));
        let (component, world) = (Slot::new(component), World { auth, storage });
        Ok(Self { sandboxes, component, world, limits, in_flight: InFlight::default(), meter, log })
    }

    /// The component that requests get now.
    pub(crate) fn component(&self) -> Component {
        self.component.current()
    }

    /// Gives requests another component from now on; those in progress finish with theirs. Does so
    /// only after the component has done well on a stage, and takes it back where it does badly with
    /// its first requests.
    ///
    /// # Errors
    ///
    /// What it did wrong on the stage.
    pub(crate) async fn swap(&self, component: Component) -> Result<(), String> {
        self.rehearse(&component).await?;
        self.component.swap(component);
        Ok(())
    }

    /// Has the component create a workspace for a caller whose credential was checked.
    ///
    /// With an idempotency key, a request that succeeded before is answered again without the
    /// component; one that failed wrote nothing, and is made anew.
    ///
    /// A future that is dropped may leave a workspace behind, whole.
    pub(crate) async fn create_workspace(
        &self,
        caller: Caller,
        request: CreateWorkspaceRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Created, Error> {
        let Some(key) = key else { return self.call(caller, request, None).await };
        let claim = Claim::new(&caller, key, &request);
        let _place = self.in_flight.enter(&claim).ok_or(Error::InFlight)?;
        match self.world.storage.find_claimed(&claim).await {
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
        let _admitted = self.sandboxes.admit().await?;
        let component = self.component.current();
        let ran = self.run(&component, &self.world, caller, request, claim).await;
        let Outcome { result, fault } = judge(ran.answer, ran.write);
        if let Some(fault) = &fault {
            self.meter.faulted(fault.kind);
            if self.log.check().is_ok() {
                tracing::error!(kind = fault.kind, cause = &*fault.text(), "the component failed");
            }
        }
        if self.component.judge(&component, fault.is_some_and(|fault| fault.is_the_components())) {
            self.meter.rolled_back();
            tracing::error!(failed = %component.digest(), now = %self.component.current().digest(), "the new component fails too often: the one before is back");
        }
        result
    }

    /// Runs the component in a sandbox of its own.
    async fn run(
        &self,
        component: &Component,
        world: &World,
        caller: Caller,
        request: CreateWorkspaceRequest,
        claim: Option<Claim>,
    ) -> Ran {
        let mut store = self.new_store(world, caller, claim);
        let cpu = store.data().cpu.clone();
        let call = cpu.count(async {
            let plugin = component.pre().instantiate_async(&mut store).await?;
            plugin.recoup_workspaces_workspaces().call_create_workspace(&mut store, &request.into()).await
        });
        let answer = match timeout(self.limits.wall_clock, call).await {
            Ok(answer) => answer.map_err(Fault::from),
            Err(_) => Err(Fault::late(self.limits.wall_clock)),
        };
        self.meter.ran(cpu.total());
        Ran { answer, write: store.into_data().write }
    }

    /// The one place where a sandbox's store is made.
    fn new_store(&self, world: &World, caller: Caller, claim: Option<Claim>) -> Store<State> {
        let mut grants = ResourceTable::new();
        grants.set_max_capacity(self.limits.handles);
        let limits = StoreLimitsBuilder::new()
            .memory_size(self.limits.memory)
            .table_elements(self.limits.table_elements)
            .instances(limits::CORE_INSTANCES as usize)
            .memories(limits::MEMORIES as usize)
            .tables(limits::TABLES as usize)
            .build();
        let World { auth, storage } = world.clone();
        let cpu = Arc::new(CpuTime::default());
        let host_calls = self.limits.host_calls;
        let state = State { auth, storage, caller, limits, grants, claim, write: Write::None, cpu, host_calls };
        let mut store = Store::new(self.sandboxes.engine(), state);
        store.limiter(|state| &mut state.limits);
        store.set_hostcall_fuel(self.limits.hostcall_bytes);
        store.set_max_component_handles(self.limits.handles);
        // At each tick the thread goes to others for a turn.
        store.set_epoch_deadline(1);
        let cpu = self.limits.cpu;
        store.epoch_deadline_callback(move |store| {
            Ok(if store.data().cpu.so_far() < cpu { UpdateDeadline::Yield(1) } else { UpdateDeadline::Interrupt })
        });
        store
    }
}

impl From<CreateWorkspaceRequest> for wit::CreateWorkspaceRequest {
    fn from(request: CreateWorkspaceRequest) -> Self {
        let CreateWorkspaceRequest { name, account_id, organization_id } = request;
        Self { name, account_id, organization_id }
    }
}
