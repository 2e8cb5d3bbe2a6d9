//! Storage of workspaces: the trait, its contract, and two backends.

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod address;
mod claim;
mod database;

pub mod conformance;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sweep;

use std::fmt;

use async_trait::async_trait;
use uuid::Uuid;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use self::address::{DatabaseAddress, InvalidAddress, open};
pub use self::claim::{Claim, IdempotencyKey, InvalidKey};
pub use self::database::{
    Account, ApiKey, Check, Database, DatabaseError, Finding, Membership, NewKey, Progress, Severity, WorkspaceRow,
};
use crate::{
    Workspace,
    auth::{Grant, LookUpError},
};

/// Keeps workspaces. Two functions are the least that a backend implements; [`conformance`] holds
/// one to them.
///
/// # Contract
///
/// - Atomic: all rows of a workspace and of its claim are written, or none.
/// - Durable: what was answered with `Ok` survives a crash of the process and of the machine, and
///   the loss of a machine where the backend keeps more than one.
/// - An error says what is known: after any but [`Error::Unknown`] nothing was written, and nothing
///   will be.
/// - A call whose future is dropped may still take effect; it never takes effect in part.
/// - Access is checked again in the transaction that writes, as [`Grant::basis`] says.
/// - The API key is checked again in the transaction that writes, where [`Grant::key_id`] names one: the key still
///   exists, belongs to [`Grant::caller_id`] and has not expired. Otherwise the answer is
///   [`Error::CredentialLost`], nothing is written and nothing is claimed.
/// - Clones and further values on the same database share everything: a claim made through one is
///   seen through all.
///
/// # Example
///
/// A wrapper that measures; a whole storage is in the crate's `examples/own_storage.rs`.
///
/// ```
/// use std::{sync::Arc, time::Instant};
/// use async_trait::async_trait;
/// use uuid::Uuid;
/// use workspaces_host::{Workspace, auth::Grant, storage::{Claim, Created, Error, Storage}};
///
/// struct Measured(Arc<dyn Storage>);
///
/// #[async_trait]
/// impl Storage for Measured {
///     async fn create_workspace(
///         &self,
///         id: Uuid,
///         grant: &Grant,
///         name: &str,
///         claim: Option<&Claim>,
///     ) -> Result<Created, Error> {
///         let start = Instant::now();
///         let created = self.0.create_workspace(id, grant, name, claim).await;
///         println!("{:?} after {:?}", created.is_ok(), start.elapsed());
///         created
///     }
///
///     async fn find_claimed(&self, claim: &Claim) -> Result<Option<Workspace>, Error> {
///         self.0.find_claimed(claim).await
///     }
///
///     async fn ready(&self) -> Result<(), Error> {
///         self.0.ready().await
///     }
/// }
/// ```
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Creates a workspace under a grant, with this id: a UUIDv7 that the caller made for it.
    ///
    /// `name` is not empty, has at most [`MAX_NAME_CHARACTERS`](crate::MAX_NAME_CHARACTERS) characters and no control character: the caller, here
    /// the runtime, has checked.
    ///
    /// With a claim, the workspace is created only where nobody has claimed the key: otherwise the
    /// workspace of the earlier request is returned as replayed, whatever `grant` and `name` are: a
    /// replay writes nothing, so it checks neither access nor the API key.
    /// A call that fails claims nothing.
    ///
    /// # Errors
    ///
    /// An [`Error`], whose cases say whether anything was written.
    async fn create_workspace(
        &self,
        id: Uuid,
        grant: &Grant,
        name: &str,
        claim: Option<&Claim>,
    ) -> Result<Created, Error>;

    /// Returns the workspace that an earlier request created under this claim; `None` where there is none, or
    /// it was made longer ago than claims are kept: [`Claim::KEPT`] at least.
    ///
    /// # Errors
    ///
    /// [`Error::KeyReused`], or [`Error::Unavailable`].
    async fn find_claimed(&self, claim: &Claim) -> Result<Option<Workspace>, Error>;

    /// Checks that it could write now: a create that came at this moment would not fail for a reason that is known.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::Misconfigured`] with the reason.
    async fn ready(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A workspace that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The workspace, as it was when it was created.
    pub workspace: Workspace,
    /// True where an earlier request with the same claim created it; this one wrote nothing.
    pub replayed: bool,
}

/// Maximum number of workspaces that one tenant may create.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Quota {
    /// Maximum for each day in UTC; no maximum where `None`.
    pub per_day: Option<u64>,
    /// Maximum in all; no maximum where `None`. Workspaces that were deleted since count too.
    pub total: Option<u64>,
}

/// The part of a [`Quota`] that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Period {
    /// [`Quota::per_day`].
    Day,
    /// [`Quota::total`].
    Total,
}

impl fmt::Display for Period {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Day => "per day",
            Self::Total => "in all",
        })
    }
}

/// Error of storage, and what is known of the write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The grant no longer holds, or the accounts that it names are gone. Nothing was written.
    #[error("access was withdrawn since the grant was made")]
    AccessLost,
    /// The API key that the grant names was revoked or has expired. Nothing was written.
    #[error("the credential was revoked or has expired since the request began")]
    CredentialLost,
    /// The claim's key was used for another request. Nothing was written.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The tenant has created as many workspaces as its [`Quota`] allows. Nothing was written.
    #[error("the quota of workspaces {0} is used up")]
    QuotaReached(Period),
    /// The database refuses this workspace for good: a constraint or trigger of its own, or a value that a
    /// column can't hold. Nothing was written, and the same request will be refused again.
    #[error("the database refuses the workspace: {0}")]
    Refused(String),
    /// The database's schema, or the rights of the role, do not allow any create. Nothing was written, and
    /// nothing will be until an operator changes that.
    #[error("the database can't be used as it is set up: {0}")]
    Misconfigured(String),
    /// Storage can't do it now. Nothing was written.
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
    /// The outcome of a write is not known.
    #[error("the outcome of the write is not known: {0}")]
    Unknown(String),
}

impl From<Error> for LookUpError {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(reason) => Self::Refused(reason),
            Error::Misconfigured(reason) => Self::Misconfigured(reason),
            Error::Unavailable(reason) => Self::Unavailable(reason),
            // Errors of creates, which a look-up does not have. An account that may have been made is found by the next
            // request.
            other => Self::Unavailable(other.to_string()),
        }
    }
}
