//! What came of a call: the component's answer, or what befell it, held against what storage did.

use std::time::Duration;

use wasmtime::Trap;

use super::{
    cause::{MAX_CAUSE, cause},
    glue::{TooManyHostCalls, Write, bindings::exports::recoup::workspaces::workspaces as wit},
};
use crate::{
    Workspace,
    auth::Denial,
    excerpt::clipped,
    storage::{self, Created, Period},
};

/// Why no workspace was returned. Strings of five of them are the component's words for the client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The credential is not valid, or can't be checked now.
    #[error(transparent)]
    Credential(#[from] Denial),
    /// The tenant is over its share of the host: over its rate, or over its requests at once. Nothing
    /// was created.
    #[error("over the share of the host: try again in {retry_after:?}")]
    OverShare {
        /// When there will be room again.
        retry_after: Duration,
    },
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
    /// The tenant has created as many workspaces as its quota allows; nothing was created.
    #[error("the quota of workspaces {0} is used up")]
    QuotaReached(Period),
    /// The database refuses this workspace for good; nothing was created.
    #[error("the database refuses the workspace")]
    Refused,
    /// The database can't be used as it is set up; nothing was created.
    #[error("the database can't be used as it is set up")]
    Misconfigured,
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

/// What went wrong in a sandbox.
#[derive(Debug)]
pub(super) struct Fault {
    /// Its kind, a word for the metrics.
    pub(super) kind: &'static str,
    /// Cause with its backtrace, for the log: at most a little over [`MAX_CAUSE`] bytes.
    pub(super) cause: String,
}

impl Fault {
    const CPU: &str = "cpu";
    const WALL_CLOCK: &str = "wall-clock";

    /// The component did not answer in time, though perhaps for waiting for the host.
    pub(super) fn late(limit: Duration) -> Self {
        Self { kind: Self::WALL_CLOCK, cause: format!("no answer within {limit:?}") }
    }

    /// The component broke its contract.
    fn contract(cause: String) -> Self {
        Self { kind: "contract", cause }
    }

    /// Tells what storage had been asked by then: of a workspace, its id.
    fn after(self, write: &Write) -> Self {
        let done = match write {
            Write::Done(created) => format!("after it created {}", created.workspace.id),
            write => format!("after a write of which this is known: {write:?}"),
        };
        Self { cause: format!("{} ({done})", self.cause), ..self }
    }

    /// Whether it is the component's own: that others are slow is not.
    pub(super) fn is_the_components(&self) -> bool {
        self.kind != Self::WALL_CLOCK
    }

    /// What the request gets for it where nothing was written.
    fn error(&self) -> Error {
        match self.kind {
            Self::CPU | Self::WALL_CLOCK => Error::OutOfTime(self.cause.clone()),
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
            // A handle that is none, more bytes or handles than it may have, text that is no UTF-8.
            None => "contract",
        };
        Self { kind, cause: cause(&trap) }
    }
}

/// The longest message of a component that is passed on, in bytes; the contract says so.
const MAX_MESSAGE: usize = 512;

pub(super) type Answer = Result<wit::CreateWorkspaceResponse, wit::CreateWorkspaceError>;

/// What a call came to.
pub(super) struct Outcome {
    /// What the request gets.
    pub(super) result: Result<Created, Error>,
    /// What went wrong in the sandbox, whatever the request gets for it.
    pub(super) fault: Option<Fault>,
}

impl Outcome {
    fn fault(fault: Fault, error: Error) -> Self {
        Self { result: Err(error), fault: Some(fault) }
    }
}

impl From<Result<Created, Error>> for Outcome {
    fn from(result: Result<Created, Error>) -> Self {
        Self { result, fault: None }
    }
}

/// The component's answer, or what befell it, held against what storage did: the one is believed as
/// far as the other bears it out.
pub(super) fn judge(answer: Result<Answer, Fault>, write: Write) -> Outcome {
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
                    Outcome::fault(fault, error)
                }
                // Whatever went wrong after that, the client may not be told that nothing was created.
                write => Outcome::fault(fault.after(&write), Error::Unknown(NOT_KNOWN.into())),
            }
        }
    }
}

impl From<storage::Error> for Error {
    /// Returns the answer to a request for which storage wrote nothing, or perhaps something.
    fn from(error: storage::Error) -> Self {
        match error {
            storage::Error::CredentialLost => {
                Self::Credential(Denial::Unauthenticated("API key revoked or expired since the request began"))
            }
            storage::Error::KeyReused => Self::KeyReused,
            storage::Error::QuotaReached(period) => Self::QuotaReached(period),
            storage::Error::Refused(_) => Self::Refused,
            storage::Error::Misconfigured(_) => Self::Misconfigured,
            storage::Error::AccessLost => Self::Forbidden("Your access was withdrawn".into()),
            storage::Error::Unavailable(reason) => Self::Claims(reason),
            storage::Error::Unknown(_) => Self::Unknown(NOT_KNOWN.into()),
        }
    }
}

const NOT_KNOWN: &str = "It is not known whether the workspace was created";

/// The component's own words for the client.
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
