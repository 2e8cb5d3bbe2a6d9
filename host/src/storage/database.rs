//! Operations of the program's commands on a database; no request comes here.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use serde::Serialize;
use uuid::Uuid;

use super::{Error, Quota, Storage};
use crate::auth::{
    api_key::Directory,
    subject::{Subject, Subjects},
};

/// A database that holds everything: workspaces, accounts and keys.
#[async_trait]
pub trait Database: Storage + Directory + Subjects {
    /// Returns this database as the storage of one tenant, which holds the tenant to its quota. Workspaces are
    /// counted under `tenant`, so that tenants that share a database have a quota each.
    fn for_tenant(&self, tenant: &str, quota: Quota) -> Arc<dyn Storage>;

    /// Makes an account; an organization is one too. With a new id where `id` is `None`.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::Exists`] where the id is taken.
    async fn create_account(&self, id: Option<Uuid>, name: Option<String>) -> Result<Account, DatabaseError>;

    /// Makes an account a member of an organization; no change where it is one.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::NotFound`] naming the one that does not exist.
    async fn add_member(&self, organization: Uuid, account: Uuid) -> Result<(), DatabaseError>;

    /// Ends a membership.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::NotFound`] where there is none.
    async fn remove_member(&self, organization: Uuid, account: Uuid) -> Result<(), DatabaseError>;

    /// Returns the accounts that are no workspaces, oldest first.
    ///
    /// # Errors
    ///
    /// Where the database can't answer.
    async fn accounts(&self) -> Result<Vec<Account>, DatabaseError>;

    /// Returns the members of one organization or of all, by organization.
    ///
    /// # Errors
    ///
    /// Where the database can't answer.
    async fn memberships(&self, organization: Option<Uuid>) -> Result<Vec<Membership>, DatabaseError>;

    /// Links a subject of an identity provider to an account; no change where it is linked to that one.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::NotFound`] where there is no such account, [`DatabaseError::Exists`] where the subject is
    /// linked to another.
    async fn link_subject(&self, account: Uuid, subject: Subject) -> Result<(), DatabaseError>;

    /// Removes the link of a subject, to `account` where one is given: its tokens get no access from now on.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::NotFound`] where there is no such link.
    async fn unlink_subject(&self, account: Option<Uuid>, subject: Subject) -> Result<(), DatabaseError>;

    /// Stores a key's hash for an account.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::NotFound`] where there is no such account.
    async fn create_key(&self, account: Uuid, key: NewKey) -> Result<ApiKey, DatabaseError>;

    /// Returns the keys of one account or of all, oldest first.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::NotFound`] where there is no such account.
    async fn keys(&self, account: Option<Uuid>) -> Result<Vec<ApiKey>, DatabaseError>;

    /// Deletes a key: it is refused from now on.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::NotFound`] where there is no such key.
    async fn revoke_key(&self, id: Uuid) -> Result<(), DatabaseError>;

    /// Returns the keys that were hashed with another pepper than the one with this
    /// [check](crate::auth::api_key::Pepper::check), oldest first.
    ///
    /// # Errors
    ///
    /// Where the database can't answer.
    async fn keys_of_another_pepper(&self, check: &str) -> Result<Vec<ApiKey>, DatabaseError>;

    /// Returns the workspaces of one account or of all, oldest first; one row for each organization of a
    /// workspace that is linked to more than one.
    ///
    /// # Errors
    ///
    /// Where the database can't answer.
    async fn workspaces(&self, account: Option<Uuid>) -> Result<Vec<WorkspaceRow>, DatabaseError>;

    /// Looks for damage and for what half-made workspaces leave.
    ///
    /// # Errors
    ///
    /// Where the database can't be read.
    async fn check(&self, progress: Progress) -> Result<Check, DatabaseError>;

    /// Copies the database into a new file while it is in use.
    ///
    /// # Errors
    ///
    /// [`DatabaseError::Exists`] where there is such a file; [`DatabaseError::Unusable`] where the
    /// copy is not whole, or this kind of database has tools of its own for it.
    async fn backup(&self, to: &Path, progress: Progress) -> Result<(), DatabaseError>;
}

/// Told how far long work has come: steps done, and steps in all.
pub type Progress = Box<dyn FnMut(u64, u64) + Send>;

/// An account as a command prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Account {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: Option<String>,
}

/// Membership of an account in an organization, as a command prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Membership {
    /// The organization's id.
    pub organization_id: Uuid,
    /// The organization's name.
    pub organization_name: Option<String>,
    /// The member's id.
    pub account_id: Uuid,
    /// The member's name.
    pub account_name: Option<String>,
}

/// An API key to store: never the key itself.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Name that tells people what the key is for.
    pub name: String,
    /// Its [hash](crate::auth::api_key::Pepper::hash).
    pub hash: String,
    /// The [check](crate::auth::api_key::Pepper::check) of the pepper that it was hashed with.
    pub pepper: String,
    /// Time from which it is no longer valid, in milliseconds since the Unix epoch; never where `None`.
    pub expires_at: Option<i64>,
}

/// An API key as a command prints it: without the key, which nobody has but its holder.
#[derive(Debug, Clone, Serialize)]
pub struct ApiKey {
    /// The id to revoke it by.
    pub id: Uuid,
    /// Name that tells people what the key is for.
    pub name: String,
    /// The account it stands for.
    pub account_id: Uuid,
    /// Time of its creation, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Time from which it is no longer valid, likewise; never where `None`.
    pub expires_at: Option<i64>,
}

/// A workspace as a command prints it.
#[derive(Debug, Clone, Serialize)]
pub struct WorkspaceRow {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: Option<String>,
    /// The account it belongs to.
    pub account_id: Uuid,
    /// The organization it is linked to.
    pub organization_id: Option<Uuid>,
}

/// Result of a check of a database.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// The version of its schema.
    pub schema: i32,
    /// Number of accounts, workspaces and organizations among them; `None` where damage keeps them
    /// from being counted.
    pub accounts: Option<u64>,
    /// Number of workspaces among them.
    pub workspaces: Option<u64>,
    /// Damage and oddities, the worst first.
    pub findings: Vec<Finding>,
}

/// Traces of half-made workspaces and of deletions: how bad each is, its meaning, and the query of its ids. They are
/// the same for every backend.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(super) const ODDITIES: [(Severity, &str, &str); 4] = [
    (
        Severity::Error,
        "accounts without account_info: a create stopped half-way",
        "SELECT id FROM accounts WHERE NOT EXISTS (SELECT 1 FROM account_info WHERE account_id = accounts.id)",
    ),
    (
        Severity::Error,
        "API keys of another pepper than most keys: the server starts with neither pepper; revoke these",
        "SELECT key_id FROM key_peppers JOIN account_api_keys ON account_api_keys.id = key_id WHERE pepper <>
             (SELECT pepper FROM key_peppers JOIN account_api_keys ON account_api_keys.id = key_id
              GROUP BY pepper ORDER BY count(*) DESC, pepper LIMIT 1)",
    ),
    (
        Severity::Note,
        "accounts that nothing refers to: people without a key yet, or half-made workspaces",
        "SELECT id FROM accounts WHERE
             NOT EXISTS (SELECT 1 FROM account_workspace_ids WHERE workspace_id = accounts.id)
             AND NOT EXISTS (SELECT 1 FROM account_workspace_ids WHERE account_id = accounts.id)
             AND NOT EXISTS (SELECT 1 FROM account_organization_ids WHERE account_id = accounts.id)
             AND NOT EXISTS (SELECT 1 FROM account_organization_ids WHERE organization_id = accounts.id)
             AND NOT EXISTS (SELECT 1 FROM artist_organization_ids WHERE artist_id = accounts.id)
             AND NOT EXISTS (SELECT 1 FROM artist_organization_ids WHERE organization_id = accounts.id)
             AND NOT EXISTS (SELECT 1 FROM account_api_keys WHERE account = accounts.id)",
    ),
    (
        Severity::Note,
        "idempotency keys of workspaces that are gone: they were deleted since",
        "SELECT workspace_id FROM idempotency_keys WHERE NOT EXISTS
             (SELECT 1 FROM account_workspace_ids owner WHERE owner.workspace_id = idempotency_keys.workspace_id)",
    ),
];

/// Maximum number of ids that a finding names.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(super) const NAMED: usize = 10;

/// Finding of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Severity.
    pub severity: Severity,
    /// Description, with the number of rows where it is one of rows.
    pub what: String,
    /// Some of the ids it is about, ten at most.
    pub ids: Vec<Uuid>,
}

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Severity {
    /// Damage, or a workspace that was made in part.
    Error,
    /// May be in order; only the operator can know.
    Note,
}

/// Error of a command's operation on a database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// Something that it names does not exist. Nothing was written.
    #[error("there is no {0}")]
    NotFound(String),
    /// Something that it would make exists. Nothing was written.
    #[error("{0} exists already")]
    Exists(String),
    /// The database can't be used as it is.
    #[error("{0}")]
    Unusable(String),
    /// Storage could not read or write it.
    #[error(transparent)]
    Storage(#[from] Error),
}
