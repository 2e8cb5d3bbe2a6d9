//! Accounts of the subjects of an identity provider, whose ids are not the accounts'.

use async_trait::async_trait;
use uuid::Uuid;

use super::LookUpError;

/// Person or machine that an identity provider vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The provider, the `iss` of its tokens.
    pub issuer: String,
    /// The provider's name for the subject, the `sub` of its tokens.
    pub name: String,
}

/// The part of a database that tokens need.
#[async_trait]
pub trait Subjects: Send + Sync + 'static {
    /// Returns the account that the subject is linked to, or else `account` where that exists.
    ///
    /// # Errors
    ///
    /// A failure of the database.
    async fn find_subject(&self, subject: &Subject, account: Option<Uuid>) -> Result<Option<Uuid>, LookUpError>;

    /// Returns the account that the subject is linked to; makes one, and the link, where there is none. Both are
    /// written in one transaction, and calls at the same time get the same account.
    ///
    /// # Errors
    ///
    /// A failure of the database. Calling again is safe.
    async fn account_of_subject(&self, subject: &Subject) -> Result<Uuid, LookUpError>;
}
