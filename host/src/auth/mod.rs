//! Who the caller is and what it may reach.

pub mod access;
pub mod api_key;
mod credential;
#[cfg(feature = "jwt")]
pub mod jwt;
pub mod subject;

use async_trait::async_trait;
use uuid::Uuid;

use crate::storage;

pub use credential::Credential;

/// Decides who a caller is and what it may reach.
///
/// # Contract
///
/// Answers are about the moment of the call. An implementation tells no difference between what does
/// not exist and what the caller may not reach, neither by its answer nor by its message.
#[async_trait]
pub trait Auth: Send + Sync + 'static {
    /// Who holds the credential. Called for every request, before its body is read: make it cheap
    /// for strangers.
    ///
    /// # Errors
    ///
    /// [`Denial::Unauthenticated`] for a credential that is unknown, expired or revoked,
    /// [`Denial::Unavailable`] where that can't be found out now.
    async fn authenticate(&self, credential: &Credential) -> Result<Caller, Denial>;

    /// Permission for the caller to create one workspace for `account` (its own where `None`),
    /// linked to `organization`.
    ///
    /// # Errors
    ///
    /// A [`Denial`]; see there.
    async fn authorize(
        &self,
        caller: &Caller,
        account: Option<Uuid>,
        organization: Option<Uuid>,
    ) -> Result<Grant, Denial>;
}

impl From<storage::Error> for Denial {
    /// Returns the denial for a failure of the database, and logs it.
    fn from(error: storage::Error) -> Self {
        match error {
            // An error of the database's own, which logs it once as that.
            storage::Error::Misconfigured(_) => {
                tracing::warn!(%error, "access could not be checked");
                Self::Misconfigured
            }
            // An account for a subject, by a rule of the database's own.
            storage::Error::Refused(_) => {
                tracing::warn!(%error, "no account was made for the subject of a token");
                Self::NoAccount
            }
            _ => {
                tracing::error!(%error, "access could not be checked");
                Self::Unavailable
            }
        }
    }
}

/// The account that a valid credential stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account's id.
    pub account_id: Uuid,
    /// The id of the API key that was presented; `None` for any other credential.
    pub key_id: Option<Uuid>,
}

impl Caller {
    /// Returns a caller that was found by something else than an API key.
    pub fn new(account_id: Uuid) -> Self {
        Self { account_id, key_id: None }
    }
}

/// Permission to create one workspace, good for the request in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Who asked.
    pub caller_id: Uuid,
    /// The account the workspace will belong to.
    pub account_id: Uuid,
    /// The organization it will be linked to.
    pub organization_id: Option<Uuid>,
    /// The API key that the caller presented. Storage checks in the writing transaction that the key is still
    /// the caller's and has not expired; `None` where there is no key to check.
    pub key_id: Option<Uuid>,
    /// What the permission rests on.
    pub basis: Basis,
}

/// What a [`Grant`] rests on, and so what storage can check again in the transaction that writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The memberships that the database holds, by the rules of [`access`]: storage asks again.
    Memberships {
        /// The organization whose members may act for any account.
        administrators: Option<Uuid>,
    },
    /// What auth alone knows: storage sees to it only that the accounts exist.
    Auth,
}

/// Why the caller is not known or may not do what it asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// No valid credential. The reason is for the log alone, and constant, so that it holds nothing secret.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The credential is valid, and no account is linked to the one that it names.
    #[error("no account is linked to the subject of the token")]
    NoAccount,
    /// The caller may not act for the account, or there is none of that id.
    #[error("no access to the account")]
    AccountForbidden,
    /// The account may not link to the organization, or there is none of that id.
    #[error("no access to the organization")]
    OrganizationForbidden,
    /// The database that would know can't be used as it is set up: its schema, or the rights of its role. The
    /// implementation has logged why.
    #[error("access can't be checked as the database is set up")]
    Misconfigured,
    /// It can't be found out now; the implementation has logged why.
    #[error("access can't be checked now")]
    Unavailable,
}
