//! Calls of a request's component to auth and storage. No sandbox waits for them.
//!
//! - Where auth has no answer at once, the sandbox ends. When the answer is there, another sandbox of the same request
//!   runs from the start, with the answers so far. A component has no clock and no randomness, so it makes the same calls
//!   again; one that does not is stopped.
//! - Storage is expected to create the workspace, whose id the host makes: the component goes on with the id, and the
//!   host waits for storage after the component's end. Where storage fails, the component runs again with the error, and
//!   nothing of the run before counts.
//!
//! A request that waits for the host therefore has no sandbox.

use std::{future::Future, mem, pin::Pin, sync::Arc, task::Poll, time::Duration};

use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{Services, asked::Asked, cpu::CpuTime, record::Tape, turn::poll_once};
use crate::{
    auth::{Caller, Denial, Grant},
    storage::{self, Claim, Created},
};

/// A call in progress.
type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Arguments of `authorize`: account and organization.
type Accounts = (Option<Uuid>, Option<Uuid>);

/// Calls of one request's component, over all of its sandboxes.
pub(super) struct Calls {
    services: Services,
    caller: Caller,
    /// The request's claim, if it came with an idempotency key; the component knows nothing of it.
    claim: Option<Claim>,
    /// Account and organization that the request names, with which grants are compared.
    pub(super) asked: Asked,
    /// Calls of auth so far with their answers.
    authorized: Vec<(Accounts, Result<Grant, Denial>)>,
    /// Calls of storage so far with their answers, the last of which may be what storage is expected to answer.
    stored: Vec<((Grant, String), Result<Uuid, storage::Error>)>,
    /// Number of the answers of auth, and of storage, that this sandbox has got.
    given: [usize; 2],
    authorizing: Option<(Accounts, Pending<Result<Grant, Denial>>)>,
    creating: Option<Creating>,
    /// Outcome of the write, with which the component's answer is reconciled.
    pub(super) write: Write,
    /// Storage failed in this request, which is logged once: a component may ask it again and again.
    is_failure_logged: bool,
    /// The component's time on the processor.
    pub(super) cpu: Arc<CpuTime>,
    /// Time on the processor of the first run that does not count, which is not charged to the component.
    discarded: Duration,
    /// Calls of the last run, where the request may be recorded.
    pub(super) tape: Option<Tape>,
}

/// A write whose outcome the component expects.
struct Creating {
    outcome: Pending<Result<Created, storage::Error>>,
    /// Number of the answers of auth by then.
    authorized: usize,
}

/// Outcome of a request's write, as far as it is known.
#[derive(Debug)]
pub(super) enum Write {
    /// No write.
    None,
    /// Storage was asked, and has not said that it wrote nothing.
    Begun,
    /// Storage has the workspace.
    Done(Created),
    /// Storage wrote nothing, for a reason that the contract has no case for. The host answers the client itself.
    Refused(storage::Error),
}

/// Next step of a request whose sandbox has ended.
pub(super) enum Next {
    /// The request has the outcome of this run.
    Conclude,
    /// The component runs again, with what the host has answered by now.
    RunAgain,
}

/// The sandbox ends because auth has no answer yet.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox ends, and another one goes on with the host's answer")]
struct Suspended;

/// The component made another call than before, with the same answers.
#[derive(Debug, thiserror::Error)]
#[error("it makes other calls when it runs again with the same answers")]
struct Diverged;

/// The host did not answer in time.
pub(super) struct Late;

impl Calls {
    pub(super) fn new(services: Services, caller: Caller, asked: Asked, claim: Option<Claim>) -> Self {
        Self {
            services,
            caller,
            claim,
            asked,
            authorized: Vec::new(),
            stored: Vec::new(),
            given: [0; 2],
            authorizing: None,
            creating: None,
            write: Write::None,
            is_failure_logged: false,
            cpu: Arc::default(),
            discarded: Duration::ZERO,
            tape: None,
        }
    }

    /// Returns the calls of a component that is tried: auth grants everything, and storage keeps nothing.
    pub(super) fn stage() -> Self {
        Self::new(Services::stage(), Caller::new(Uuid::nil()), Asked::default(), None)
    }

    /// Returns the component's time on the processor, in all of its sandboxes.
    pub(super) fn cpu_in_all(&self) -> Duration {
        self.discarded + self.cpu.total()
    }

    /// Asks auth, or answers as before.
    ///
    /// # Errors
    ///
    /// The end of the sandbox.
    pub(super) async fn authorize(
        &mut self,
        account: Option<Uuid>,
        organization: Option<Uuid>,
    ) -> wasmtime::Result<Result<Grant, Denial>> {
        let accounts = (account, organization);
        if let Some(known) = next(&self.authorized, &mut self.given[0], &accounts) {
            return known;
        }
        let (auth, caller) = (self.services.auth.clone(), self.caller.clone());
        let mut answer: Pending<_> = Box::pin(async move { auth.authorize(&caller, account, organization).await });
        match poll_once(answer.as_mut()).await {
            Poll::Ready(answer) => {
                self.given[0] += 1;
                self.authorized(accounts, answer.clone());
                Ok(answer)
            }
            Poll::Pending => {
                self.authorizing = Some((accounts, answer));
                Err(Suspended.into())
            }
        }
    }

    /// Takes in an answer of auth.
    fn authorized(&mut self, accounts: Accounts, answer: Result<Grant, Denial>) {
        if let Err(denial @ Denial::Misconfigured) = &answer
            && matches!(self.write, Write::None)
        {
            self.write = Write::Refused(storage::Error::Misconfigured(denial.to_string()));
        }
        self.authorized.push((accounts, answer));
    }

    /// Returns whether storage can be asked for another workspace: one is made for a request at most.
    pub(super) fn may_create(&self) -> bool {
        matches!(self.write, Write::None) || self.given[1] < self.stored.len()
    }

    /// Has storage create a workspace, or answers as before.
    ///
    /// # Errors
    ///
    /// The end of the sandbox.
    pub(super) async fn create(
        &mut self,
        grant: Grant,
        name: String,
    ) -> wasmtime::Result<Result<Uuid, storage::Error>> {
        let call = (grant, name);
        if let Some(known) = next(&self.stored, &mut self.given[1], &call) {
            return known;
        }
        let (id, storage, claim) = (Uuid::now_v7(), self.services.storage.clone(), self.claim.clone());
        let (grant, name) = call.clone();
        let mut outcome: Pending<_> =
            Box::pin(async move { storage.create_workspace(id, &grant, &name, claim.as_ref()).await });
        self.write = Write::Begun;
        let answer = match poll_once(outcome.as_mut()).await {
            Poll::Ready(Ok(created)) => {
                let id = created.workspace.id;
                self.write = Write::Done(created);
                Ok(id)
            }
            Poll::Ready(Err(error)) => Err(self.failed(error)),
            Poll::Pending => {
                self.creating = Some(Creating { outcome, authorized: self.authorized.len() });
                Ok(id)
            }
        };
        self.given[1] += 1;
        self.stored.push((call, answer.clone()));
        Ok(answer)
    }

    /// Takes in that storage failed.
    fn failed(&mut self, error: storage::Error) -> storage::Error {
        match error {
            _ if mem::replace(&mut self.is_failure_logged, true) => {}
            // The database logs it once as an error.
            storage::Error::Misconfigured(_) => tracing::warn!(%error, "storage created no workspace"),
            storage::Error::Unknown(_) | storage::Error::Unavailable(_) => {
                tracing::error!(%error, "storage created no workspace")
            }
            _ => tracing::info!(%error, "storage created no workspace"),
        }
        self.write = match &error {
            storage::Error::Unknown(_) => Write::Begun,
            storage::Error::AccessLost | storage::Error::Unavailable(_) => Write::None,
            refused => Write::Refused(refused.clone()),
        };
        error
    }

    /// Waits for what the host has not answered, when a sandbox has ended.
    ///
    /// # Errors
    ///
    /// [`Late`] at the deadline.
    pub(super) async fn settle(&mut self, deadline: Instant) -> Result<Next, Late> {
        if let Some(Creating { outcome, authorized }) = &mut self.creating {
            let authorized = *authorized;
            let Ok(outcome) = timeout_at(deadline, outcome).await else {
                if let Some(tape) = &mut self.tape {
                    tape.hang_at_create();
                }
                return Err(Late);
            };
            self.creating = None;
            match outcome {
                Ok(created) => self.write = Write::Done(created),
                Err(error) => {
                    let error = self.failed(error);
                    if let Some((_, answer)) = self.stored.last_mut() {
                        *answer = Err(error);
                    }
                    // What the component did with the id never happened.
                    self.authorized.truncate(authorized);
                    self.authorizing = None;
                    // The component pays for all but the first: one that creates again and again gets no more time.
                    if self.discarded.is_zero() {
                        self.discarded = mem::take(&mut self.cpu).total();
                    }
                    self.begin_again();
                    return Ok(Next::RunAgain);
                }
            }
        }
        let Some((accounts, answer)) = self.authorizing.take() else { return Ok(Next::Conclude) };
        let answer = timeout_at(deadline, answer).await.map_err(|_| Late)?;
        self.authorized(accounts, answer);
        self.begin_again();
        Ok(Next::RunAgain)
    }

    /// Has the next sandbox begin with the first answers.
    fn begin_again(&mut self) {
        self.given = [0; 2];
        self.tape = self.tape.take().map(|_| Tape::default());
    }
}

/// Returns the answer that a call got in an earlier run; `None` where there is none.
fn next<C: PartialEq, T: Clone>(known: &[(C, T)], given: &mut usize, call: &C) -> Option<wasmtime::Result<T>> {
    let (before, answer) = known.get(*given)?;
    *given += 1;
    Some(if before == call { Ok(answer.clone()) } else { Err(Diverged.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_component_that_makes_another_call_when_it_runs_again_is_stopped() -> wasmtime::Result<()> {
        let [account, other] = [1, 2].map(Uuid::from_u128);
        let mut calls = Calls::stage();
        let first = calls.authorize(Some(account), None).await?;
        let created = match first.clone() {
            Ok(grant) => calls.create(grant, "A".into()).await?,
            Err(_) => Err(storage::Error::AccessLost),
        };
        assert!(created.is_ok(), "{created:?}");

        calls.begin_again();
        assert_eq!(calls.authorize(Some(account), None).await?, first);
        for name in ["A", "B"] {
            calls.given[1] = 0;
            let again = match first.clone() {
                Ok(grant) => calls.create(grant, name.into()).await,
                Err(_) => Ok(Err(storage::Error::AccessLost)),
            };
            match name {
                "A" => assert_eq!(again?, created),
                _ => assert!(again.is_err_and(|end| end.is::<Diverged>())),
            }
        }

        calls.begin_again();
        let end = calls.authorize(Some(other), None).await;
        assert!(end.is_err_and(|end| end.is::<Diverged>()));
        Ok(())
    }
}
