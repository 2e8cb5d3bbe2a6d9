//! Error of the operation.

use std::time::Duration;

use crate::{
    auth::Denial,
    storage::{self, Period},
};

/// Recommended pause of a client whose request was refused: by then the requests before it are served.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Message for a client whose workspace may have been created.
pub(crate) const NOT_KNOWN: &str = "It is not known whether the workspace was created";

/// Reason why no workspace was returned.
///
/// The payloads of `InvalidRequest`, `Unauthenticated`, `Forbidden`, `Unavailable` and `Unknown` are messages that the
/// component wrote for the client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The credential is not valid, or can't be checked now.
    #[error(transparent)]
    Credential(#[from] Denial),
    /// The tenant is over its share of the host: over its rate, or over its requests at once. Nothing
    /// was created.
    #[error("over the share of the host: try again in {retry_after:?}")]
    OverShare {
        /// Time after which there will be room again.
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
    /// The idempotency key can't be looked up now; nothing was created.
    #[error("idempotency key look-up failed: {0}")]
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
