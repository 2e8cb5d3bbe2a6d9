//! A fresh sandbox for every request.

mod admission;
mod cause;
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

pub(crate) use self::admission::{Admission, Place, RETRY_AFTER, poll_once};
use self::{
    admission::Turn,
    glue::{Write, bindings::exports::recoup::workspaces::workspaces as wit},
    in_flight::InFlight,
    outcome::{Answer, Fault, Outcome, judge},
    slot::Slot,
};
pub use self::{
    component::{Component, Digest, LoadError, compile},
    limits::{Limits, Pool, TICK},
    outcome::Error,
    sandboxes::{Sandboxes, Usage},
};
use crate::{
    CreateWorkspaceRequest,
    auth::{Auth, Caller},
    metrics::Meter,
    storage::{Claim, Created, IdempotencyKey, Storage},
};

/// One tenant's component, with the host's side of its imports.
pub(crate) struct Runtime {
    pub(crate) admission: Admission,
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
        admission: Admission,
        component: Component,
        limits: Limits,
        auth: Arc<dyn Auth>,
        storage: Arc<dyn Storage>,
        meter: Meter,
    ) -> Result<Self, LoadError> {
        limits.fit(admission.sandboxes.pool())?;
        let log = RateLimiter::direct(Quota::per_second(limits.faults_logged));
        let (component, world) = (Slot::new(component), World { auth, storage });
        Ok(Self { admission, component, world, limits, in_flight: InFlight::default(), meter, log })
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
        let most = self.limits.wall_clock;
        match timeout(most, self.world.storage.find_claimed(&claim)).await {
            Ok(Ok(Some(workspace))) => Ok(Created { workspace, replayed: true }),
            Ok(Ok(None)) => self.call(caller, request, Some(claim)).await,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::Claims(format!("no answer within {most:?}"))),
        }
    }

    async fn call(
        &self,
        caller: Caller,
        request: CreateWorkspaceRequest,
        claim: Option<Claim>,
    ) -> Result<Created, Error> {
        let turn = self.admission.turn().await?;
        let component = self.component.current();
        let ran = self.run(&component, &self.world, turn, caller, request, claim).await;
        let Outcome { result, fault } = judge(ran.answer, ran.write);
        if let Some(fault) = &fault {
            self.meter.faulted(fault.kind);
            if self.log.check().is_ok() {
                tracing::error!(kind = fault.kind, cause = &*fault.cause, "the component failed");
            }
        }
        if self.component.watch(&component, fault.is_some_and(|fault| fault.is_the_components())) {
            self.meter.rolled_back();
            tracing::error!(failed = %component.digest(), now = %self.component.current().digest(), "rolled back to the previous component: too many faults");
        }
        result
    }

    /// Runs the component in a sandbox of its own.
    async fn run(
        &self,
        component: &Component,
        world: &World,
        turn: Turn,
        caller: Caller,
        request: CreateWorkspaceRequest,
        claim: Option<Claim>,
    ) -> Ran {
        let mut store = self.admission.sandboxes.new_store(&self.limits, world.clone(), turn, caller, claim);
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
}

impl From<CreateWorkspaceRequest> for wit::CreateWorkspaceRequest {
    fn from(request: CreateWorkspaceRequest) -> Self {
        let CreateWorkspaceRequest { name, account_id, organization_id } = request;
        Self { name, account_id, organization_id }
    }
}
