//! Authentication and access rules: the caller's identity, and the accounts that it can reach.

pub mod access;
pub mod api_key;
mod credential;
#[cfg(feature = "jwt")]
pub mod jwt;
mod key_cache;
pub mod subject;

use async_trait::async_trait;
use uuid::Uuid;

pub use credential::Credential;

/// Decides who a caller is and what it may reach.
///
/// # Contract
///
/// Answers are about the moment of the call; those of [`authenticate`](Auth::authenticate) may be a second old. An
/// implementation tells no difference between what does
/// not exist and what the caller may not reach, neither by its answer nor by its message.
///
/// # Example
///
/// Auth of one token, whose holder creates for its own account alone:
///
/// ```
/// use async_trait::async_trait;
/// use uuid::Uuid;
/// use workspaces_host::auth::{Auth, Basis, Caller, Credential, Denial, Grant};
///
/// struct OneToken {
///     token: String,
///     account: Uuid,
/// }
///
/// #[async_trait]
/// impl Auth for OneToken {
///     async fn authenticate(&self, credential: &Credential) -> Result<Caller, Denial> {
///         match credential {
///             Credential::Bearer(token) if *token == self.token => Ok(Caller::new(self.account)),
///             _ => Err(Denial::Unauthenticated("not the token")),
///         }
///     }
///
///     async fn authorize(
///         &self,
///         caller: &Caller,
///         account: Option<Uuid>,
///         organization: Option<Uuid>,
///     ) -> Result<Grant, Denial> {
///         let own = caller.account_id;
///         match (account, organization) {
///             (None, None) => Ok(Grant {
///                 caller_id: own,
///                 account_id: own,
///                 organization_id: None,
///                 key_id: None,
///                 basis: Basis::Auth,
///             }),
///             (Some(_), _) => Err(Denial::AccountForbidden),
///             (None, Some(_)) => Err(Denial::OrganizationForbidden),
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Auth: Send + Sync + 'static {
    /// Returns the holder of the credential. Called for every request, before its body is read: make it cheap
    /// for strangers.
    ///
    /// # Errors
    ///
    /// [`Denial::Unauthenticated`] for a credential that is unknown, expired or revoked,
    /// [`Denial::Unavailable`] where that can't be found out now.
    async fn authenticate(&self, credential: &Credential) -> Result<Caller, Denial>;

    /// Returns the holder of the credential at this moment, from no cache. Called for requests with an idempotency key: no
    /// transaction checks the credential of one that is answered again.
    ///
    /// # Errors
    ///
    /// As [`authenticate`](Self::authenticate).
    async fn authenticate_now(&self, credential: &Credential) -> Result<Caller, Denial> {
        self.authenticate(credential).await
    }

    /// Returns permission for the caller to create one workspace for `account` (its own where `None`),
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

/// Failure of a look-up of keys, memberships or subjects in a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookUpError {
    /// A constraint or trigger of the database refuses the account that a subject was to get. The same request will be
    /// refused again.
    #[error("the database refuses the account: {0}")]
    Refused(String),
    /// The database's schema, or the rights of the role, do not allow the look-up. Every look-up fails until an operator
    /// changes that.
    #[error("the database can't be used as it is set up: {0}")]
    Misconfigured(String),
    /// The database can't answer now.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
}

impl From<LookUpError> for Denial {
    /// Returns the denial for a failed look-up, and logs the failure.
    fn from(error: LookUpError) -> Self {
        match error {
            // The database logs it once as an error.
            LookUpError::Misconfigured(_) => {
                tracing::warn!(%error, "access check failed");
                Self::Misconfigured
            }
            LookUpError::Refused(_) => {
                tracing::warn!(%error, "no account made for the subject of a token");
                Self::NoAccount
            }
            LookUpError::Unavailable(_) => {
                tracing::error!(%error, "access check failed");
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
    /// Account that asked.
    pub caller_id: Uuid,
    /// The account the workspace will belong to.
    pub account_id: Uuid,
    /// The organization it will be linked to.
    pub organization_id: Option<Uuid>,
    /// The API key that the caller presented. Storage checks in the writing transaction that the key is still
    /// the caller's and has not expired; `None` where there is no key to check.
    pub key_id: Option<Uuid>,
    /// Basis of the permission.
    pub basis: Basis,
}

/// Basis of a [`Grant`], and so what storage checks again in the transaction that writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Basis {
    /// The memberships that the database holds, by the rules of [`access`]: storage asks again.
    Memberships {
        /// The organization whose members may act for any account.
        administrators: Option<Uuid>,
    },
    /// Rules that auth alone knows. Storage checks only that the accounts exist.
    Auth,
}

/// Reason why the caller is not known or may not do what it asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
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
    /// Access can't be checked now; the implementation has logged the reason.
    #[error("access can't be checked now")]
    Unavailable,
}
