//! Outcome of a call: the component's answer or fault, reconciled with what storage did.

use std::time::Duration;

use wasmtime::Trap;

use super::{
    calls::Write,
    cause::{MAX_CAUSE, cause},
    host_imports::{TooManyHostCalls, bindings::exports::recoup::workspaces::workspaces as wit},
    turn::Crowded,
    wasi::{Denied, Written},
};
use crate::{Error, Workspace, error::NOT_KNOWN, excerpt::clipped, storage::Created};

/// Fault in a sandbox.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    /// Its kind, a word for the metrics.
    pub(super) kind: &'static str,
    /// Cause with its backtrace, for the log: at most a little over [`MAX_CAUSE`] bytes.
    pub(super) cause: String,
}

impl Fault {
    const CPU: &str = "cpu";
    const WALL_CLOCK: &str = "wall-clock";
    const CROWDED: &str = "crowded";

    /// Returns the fault of a component that did not answer in time, though perhaps because it waited for the host.
    pub(super) fn late(limit: Duration) -> Self {
        Self { kind: Self::WALL_CLOCK, cause: format!("no answer within {limit:?}") }
    }

    /// Returns the fault of a component that broke its contract.
    fn contract(cause: String) -> Self {
        Self { kind: "contract", cause }
    }

    /// Tells what the component had written by then: the message of a panic, for one.
    pub(super) fn after_writing(self, written: &Written) -> Self {
        if written.is_empty() {
            return self;
        }
        Self { cause: format!("{} (it wrote {written})", self.cause), ..self }
    }

    /// Tells what storage had been asked by then: of a workspace, its id.
    fn after(self, write: &Write) -> Self {
        let done = match write {
            Write::Done(created) => format!("after it created {}", created.workspace.id),
            write => format!("after a write of which this is known: {write:?}"),
        };
        Self { cause: format!("{} ({done})", self.cause), ..self }
    }

    /// Returns whether the fault is the component's own: that others are slow is not.
    pub(super) fn is_the_components(&self) -> bool {
        !matches!(self.kind, Self::WALL_CLOCK | Self::CROWDED)
    }

    /// Returns the error of the request where nothing was written.
    fn error(&self) -> Error {
        match self.kind {
            Self::CPU | Self::WALL_CLOCK => Error::OutOfTime(self.cause.clone()),
            Self::CROWDED => Error::Overloaded,
            _ => Error::Component(self.cause.clone()),
        }
    }
}

impl From<wasmtime::Error> for Fault {
    fn from(trap: wasmtime::Error) -> Self {
        let kind = match trap.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Self::CPU,
            Some(Trap::StackOverflow) => "stack",
            Some(Trap::UnreachableCodeReached) => "unreachable",
            Some(Trap::MemoryOutOfBounds | Trap::HeapMisaligned) => "memory",
            Some(_) => "trap",
            None if trap.is::<TooManyHostCalls>() => "host-calls",
            None if trap.is::<Denied>() => "wasi",
            None if trap.is::<Crowded>() => Self::CROWDED,
            // A handle that is none, more bytes or handles than it may have, text that is no UTF-8.
            None => "contract",
        };
        Self { kind, cause: cause(&trap) }
    }
}

/// The longest message of a component that is passed on, in bytes; the contract says so.
const MAX_MESSAGE: usize = 512;

pub(super) type Answer = Result<wit::CreateWorkspaceResponse, wit::CreateWorkspaceError>;

/// Outcome of a call.
pub(super) struct Reconciled {
    /// Result of the request.
    pub(super) result: Result<Created, Error>,
    /// Fault in the sandbox, whatever the result of the request is.
    pub(super) fault: Option<Fault>,
}

impl Reconciled {
    fn fault(fault: Fault, error: Error) -> Self {
        Self { result: Err(error), fault: Some(fault) }
    }
}

impl From<Result<Created, Error>> for Reconciled {
    fn from(result: Result<Created, Error>) -> Self {
        Self { result, fault: None }
    }
}

/// Reconciles the component's answer, or trap, with what storage did. The answer is returned only if it agrees with
/// storage.
pub(super) fn reconcile(answer: Result<Answer, Fault>, write: Write) -> Reconciled {
    match (answer, write) {
        // Of a request that was answered before, and of a key that was used before, the component
        // knows nothing.
        (_, Write::Done(created)) if created.replayed => Ok(created).into(),
        (_, Write::Refused(refusal)) => Err(refusal.into()).into(),
        (Ok(Ok(response)), Write::Done(created)) if describes(&response.workspace, &created.workspace) => {
            Ok(created).into()
        }
        (Ok(Err(error)), Write::None) if is_short(&error) => Err(spoken(error)).into(),
        (Ok(Err(error @ wit::CreateWorkspaceError::Unknown(_))), Write::Begun) if is_short(&error) => {
            Err(spoken(error)).into()
        }
        (answer, write) => {
            let fault = match answer {
                Err(fault) => fault,
                Ok(Err(error)) if !is_short(&error) => {
                    Fault::contract(format!("its message is over {MAX_MESSAGE} bytes"))
                }
                Ok(answer) => {
                    Fault::contract(clipped(format_args!("storage does not bear out its answer {answer:?}"), MAX_CAUSE))
                }
            };
            match write {
                Write::None => {
                    let error = fault.error();
                    Reconciled::fault(fault, error)
                }
                // Whatever went wrong after that, the client may not be told that nothing was created.
                write => Reconciled::fault(fault.after(&write), Error::Unknown(NOT_KNOWN.into())),
            }
        }
    }
}

/// Returns the error with the component's message for the client.
fn spoken(error: wit::CreateWorkspaceError) -> Error {
    match error {
        wit::CreateWorkspaceError::InvalidRequest(message) => Error::InvalidRequest(message),
        wit::CreateWorkspaceError::Unauthenticated(message) => Error::Unauthenticated(message),
        wit::CreateWorkspaceError::Forbidden(message) => Error::Forbidden(message),
        wit::CreateWorkspaceError::Unavailable(message) => Error::Unavailable(message),
        wit::CreateWorkspaceError::Unknown(message) => Error::Unknown(message),
    }
}

fn is_short(error: &wit::CreateWorkspaceError) -> bool {
    let (wit::CreateWorkspaceError::InvalidRequest(message)
    | wit::CreateWorkspaceError::Unauthenticated(message)
    | wit::CreateWorkspaceError::Forbidden(message)
    | wit::CreateWorkspaceError::Unavailable(message)
    | wit::CreateWorkspaceError::Unknown(message)) = error;
    message.len() <= MAX_MESSAGE
}

fn describes(reported: &wit::Workspace, created: &Workspace) -> bool {
    reported.is_workspace
        && reported.id == created.id.to_string()
        && reported.name == created.name
        && reported.account_id == created.account_id.to_string()
}
