//! A sandbox for every request: a fresh one, unless a tenant's limits say otherwise.

mod asked;
mod calls;
mod capacity;
mod cause;
pub(crate) mod component;
mod cpu;
mod delay;
mod engine;
mod host_imports;
mod instance;
mod limits;
mod memory;
#[cfg(feature = "native")]
#[doc(hidden)]
pub mod native;
pub(crate) mod needs;
mod outcome;
mod record;
mod rehearsal;
mod rollout;
mod sandboxes;
pub mod script;
mod self_check;
mod turn;
mod wasi;

use std::{mem, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::{Instant, timeout_at};

use self::{
    asked::Asked,
    calls::{Calls, Late, Next, Write},
    host_imports::{State, bindings::exports::recoup::workspaces::workspaces as wit},
    instance::Instances,
    outcome::{Answer, Fault, Reconciled, reconcile},
    record::{Tape, is_failure, outcome},
    rollout::Rollout,
    script::{Cost, Ending},
    turn::Turn,
    wasi::Written,
};
pub(crate) use self::{
    capacity::{Place, TenantCapacity, has_its_share},
    turn::poll_once,
};
pub use self::{
    component::{Component, Digest, LoadError, compile},
    limits::{MAX_WRITTEN, Pool, SandboxLimits, TICK, Wasi},
    record::{Recorder, Recording},
    sandboxes::{Sandboxes, Usage},
};
use crate::{
    CreateWorkspaceRequest, Error,
    auth::{Auth, Caller},
    metrics::Meter,
    storage::{Claim, Created, Storage},
};

/// Runtime of one tenant: its component, with the host's side of its imports.
pub(crate) struct Runtime {
    capacity: TenantCapacity,
    component: Rollout,
    services: Services,
    limits: SandboxLimits,
    instances: Instances,
    meter: Meter,
    /// Rate of the faults that are logged; all are counted.
    log: DefaultDirectRateLimiter,
    recorder: Option<Recorder>,
    /// Calls the guest's logic in place of the component.
    #[cfg(feature = "native")]
    is_native: bool,
}

/// Auth and storage that a component's imports reach.
#[derive(Clone)]
struct Services {
    auth: Arc<dyn Auth>,
    storage: Arc<dyn Storage>,
}

/// Request of a caller, for a sandbox.
struct Input {
    caller: Caller,
    request: CreateWorkspaceRequest,
    claim: Option<Claim>,
    /// Tape for the calls of imports, where the request may be recorded.
    tape: Option<Tape>,
}

/// Outcome of a sandbox.
struct Ran {
    answer: Result<Answer, Fault>,
    write: Write,
    /// Time on the processor.
    cpu: Duration,
    /// Most linear memory, in bytes.
    memory: u64,
    /// Output of the component in its last run.
    written: Written,
    tape: Option<Tape>,
}

impl Runtime {
    /// # Errors
    ///
    /// [`LoadError::Limits`] where they are over the pool's.
    pub(crate) fn new(
        capacity: TenantCapacity,
        component: Component,
        limits: SandboxLimits,
        auth: Arc<dyn Auth>,
        storage: Arc<dyn Storage>,
        meter: Meter,
        recorder: Option<Recorder>,
    ) -> Result<Self, LoadError> {
        limits.fit(capacity.sandboxes().pool())?;
        component.requirements().check(&limits, "limits")?;
        let log = RateLimiter::direct(Quota::per_second(limits.faults_logged));
        let (component, services) = (Rollout::new(component), Services { auth, storage });
        let instances = Instances::new(capacity.sandboxes().clone(), &limits);
        Ok(Self {
            capacity,
            component,
            services,
            limits,
            instances,
            meter,
            log,
            recorder,
            #[cfg(feature = "native")]
            is_native: native::is_set(),
        })
    }

    /// Returns the component that requests get now.
    pub(crate) fn component(&self) -> Component {
        self.component.current()
    }

    /// Checks that the limits allow what a component requires.
    ///
    /// # Errors
    ///
    /// [`LoadError::Needs`] or [`LoadError::Wasi`].
    pub(crate) fn admit(&self, component: &Component) -> Result<(), LoadError> {
        component.requirements().check(&self.limits, "limits")
    }

    /// Gives requests another component from now on; those in progress finish with theirs. Takes it back where it does
    /// badly with its first requests.
    pub(crate) fn swap(&self, component: Component) {
        self.component.swap(component);
    }

    /// Calls a component with scripted imports, in a sandbox that requests can't take.
    ///
    /// # Errors
    ///
    /// No sandbox came free in time.
    #[cfg(feature = "harness")]
    pub(crate) async fn play(
        &self,
        component: &Component,
        request: &CreateWorkspaceRequest,
        replies: impl script::Replies + 'static,
    ) -> Result<script::Played, String> {
        let (_slot, turn) = self.capacity.rehearsal().await.map_err(|error| error.to_string())?;
        let sandboxes = self.capacity.sandboxes();
        Ok(sandboxes.play_in_turn(turn, component, &self.limits, request, Box::new(replies)).await)
    }

    /// Returns the limits of each sandbox.
    pub(crate) fn limits(&self) -> &SandboxLimits {
        &self.limits
    }

    /// Has the component create a workspace for a caller whose credential was checked. Storage gets the claim beside
    /// the component's call. With `is_recorded` a tenant that has a recorder records the request whatever its outcome is.
    ///
    /// A future that is dropped may leave a workspace behind, whole.
    ///
    /// # Errors
    ///
    /// An [`Error`], whose cases say whether anything was created.
    pub(crate) async fn create_workspace(
        &self,
        caller: Caller,
        request: CreateWorkspaceRequest,
        claim: Option<Claim>,
        is_recorded: bool,
    ) -> Result<Created, Error> {
        let turn = self.capacity.turn().await?;
        let component = self.component.current();
        // Whether the request fails is not known before its end.
        let recorded =
            self.recorder.as_ref().map(|recorder| (recorder, request.clone(), recorder.is_due() || is_recorded));
        let tape = recorded.is_some().then(Tape::default);
        let (services, input) = (&self.services, Input { caller, request, claim, tape });
        let ran = self.run(&component, &self.instances, services, turn, input).await;
        let ending = recorded.is_some().then(|| Ending::from(ran.answer.clone()));
        let Reconciled { result, fault } = reconcile(ran.answer, ran.write);
        if let (Some((recorder, request, is_due)), Some(ending), Some(Tape(exchanges))) = (recorded, ending, ran.tape)
            && (is_due || is_failure(&result))
        {
            let cost = Cost::of(&request, &exchanges, &ending, None, ran.memory);
            let (component, outcome) = (component.digest().to_string(), outcome(&result));
            let cpu_microseconds = u64::try_from(ran.cpu.as_micros()).unwrap_or(u64::MAX);
            recorder.record(Recording { component, request, exchanges, ending, outcome, cost, cpu_microseconds });
        }
        if let Some(fault) = &fault {
            self.meter.faulted(fault.kind);
            if self.log.check().is_ok() {
                tracing::error!(kind = fault.kind, cause = &*fault.cause, "component failed");
            }
        } else if !ran.written.is_empty() && self.log.check().is_ok() {
            tracing::info!(output = %ran.written, "component wrote");
        }
        if self.component.watch(&component, fault.is_some_and(|fault| fault.is_the_components())) {
            self.meter.rolled_back();
            tracing::error!(failed = %component.digest(), now = %self.component.current().digest(), "rolled back to the previous component: too many faults");
        }
        result
    }

    /// Runs the component in a sandbox, and again where it needs answers that were not there.
    async fn run(
        &self,
        component: &Component,
        instances: &Instances,
        services: &Services,
        mut turn: Turn,
        input: Input,
    ) -> Ran {
        let Input { caller, request, claim, tape } = input;
        let deadline = Instant::now() + self.limits.wall_clock.min(LONGEST);
        let mut calls = Calls::new(services.clone(), caller, Asked::of(&request), claim);
        calls.tape = tape;
        let (request, mut memory) = (request.into(), 0);
        let mut written;
        let late = || Fault::late(self.limits.wall_clock);
        let answer = loop {
            let ended = self.run_once(component, instances, &request, calls, turn, deadline).await;
            (calls, turn, memory, written) = (ended.calls, ended.turn, memory.max(ended.memory), ended.written);
            turn.give_back();
            match calls.settle(deadline).await {
                Ok(Next::Conclude) => break ended.answer.unwrap_or_else(|| Err(late())),
                Ok(Next::RunAgain) => {}
                Err(Late) => break Err(late()),
            }
            if timeout_at(deadline, turn.take()).await.is_err() {
                break Err(late());
            }
        };
        let cpu = calls.cpu_in_all();
        self.meter.ran(cpu);
        let Calls { write, tape, .. } = calls;
        Ran { answer, write, cpu, memory: memory as u64, written, tape }
    }

    /// Runs the component in a sandbox.
    async fn run_once(
        &self,
        component: &Component,
        instances: &Instances,
        request: &wit::CreateWorkspaceRequest,
        calls: Calls,
        turn: Turn,
        deadline: Instant,
    ) -> Ended {
        #[cfg(feature = "native")]
        if self.is_native {
            return native::run(request, calls, turn).await;
        }
        let mut instance = instances.get(component, &self.limits, calls, turn);
        let cpu = instance.store.data().calls.cpu.clone();
        let answer = timeout_at(deadline, cpu.count(instance.call(request))).await.ok();
        let State { memory, written, .. } = instance.store.data_mut();
        let (memory, written) = (memory.peak(), mem::take(written));
        let (calls, turn) = instances.put(instance, matches!(answer, Some(Ok(_))));
        let answer = answer.map(|answer| answer.map_err(|trap| Fault::from(trap).after_writing(&written)));
        Ended { answer, calls, turn, memory, written }
    }
}

/// End of a sandbox.
struct Ended {
    /// The component's answer; `None` where it was not there at the deadline.
    answer: Option<Result<Answer, Fault>>,
    calls: Calls,
    turn: Turn,
    /// Most linear memory, in bytes.
    memory: usize,
    written: Written,
}

/// Longest time that a deadline may be away: tokio's timers know no later one.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

impl From<CreateWorkspaceRequest> for wit::CreateWorkspaceRequest {
    fn from(request: CreateWorkspaceRequest) -> Self {
        let CreateWorkspaceRequest { name, account_id, organization_id } = request;
        Self { name, account_id, organization_id }
    }
}
