//! Where workspaces are kept.

pub mod sqlite;

use async_trait::async_trait;
use uuid::Uuid;

use crate::auth::Grant;

/// Keeps workspaces.
///
/// # Contract
///
/// - Atomic: all rows of a workspace are written, or none.
/// - Durable: once `create_workspace` returns an id, the workspace survives a crash of the process
///   and of the machine.
/// - A call whose future is dropped may still take effect; it never takes effect in part.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Creates a workspace under a grant and returns its id, a UUIDv7.
    ///
    /// `name` is not empty, has at most 255 characters and no control character: the caller, here
    /// the runtime, has checked.
    ///
    /// # Errors
    ///
    /// An [`Error`], whose cases say whether anything was written.
    async fn create_workspace(&self, grant: &Grant, name: &str) -> Result<Uuid, Error>;
}

/// Why storage did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The accounts that the grant names are gone. Nothing was written.
    #[error("access was withdrawn since the grant was made")]
    AccessLost,
    /// Storage can't do it now. Nothing was written.
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
    /// The outcome of a write is not known.
    #[error("the outcome of the write is not known: {0}")]
    Unknown(String),
    /// What an operator's command names does not exist. Nothing was written.
    #[error("there is no {0}")]
    NotFound(String),
    /// What an operator's command would make exists. Nothing was written.
    #[error("{0} exists already")]
    Exists(String),
    /// The database can't be used as it is.
    #[error("{0}")]
    Unusable(String),
}
