//! Databases for the conformance suite of storage.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use async_trait::async_trait;
use rusqlite::{Connection, params};
use uuid::Uuid;
use workspaces_host::storage::{Database, NewKey, Storage, conformance::Subject};

/// Database, with the statement that ends a membership behind its back.
pub struct Fixture<'a> {
    /// The database.
    pub database: Arc<dyn Database>,
    /// Ends the membership of the second account in the first.
    pub remove: Box<dyn Fn(Uuid, Uuid) -> Result<()> + Sync + 'a>,
}

#[async_trait]
#[allow(clippy::expect_used, reason = "a scene that can't be set is a failed test")]
impl Subject for Fixture<'_> {
    fn storage(&self) -> Arc<dyn Storage> {
        self.database.clone()
    }

    async fn make_account(&self) -> Uuid {
        self.database.create_account(None, None).await.expect("an account").id
    }

    async fn add_member(&self, organization: Uuid, account: Uuid) {
        self.database.add_member(organization, account).await.expect("a member");
    }

    async fn remove_member(&self, organization: Uuid, account: Uuid) {
        (self.remove)(organization, account).expect("no member any more");
    }

    async fn make_key(&self, account: Uuid, expires_at: Option<i64>) -> Uuid {
        let (hash, pepper) = (Uuid::new_v4().to_string(), "check".to_owned());
        let key = NewKey { name: "a key".into(), hash, pepper, expires_at };
        self.database.create_key(account, key).await.expect("a key").id
    }

    async fn revoke_key(&self, key: Uuid) {
        self.database.revoke_key(key).await.expect("no key any more");
    }

    async fn workspaces_of(&self, account: Uuid) -> Vec<(Uuid, String, Option<Uuid>)> {
        let rows = self.database.workspaces(Some(account)).await.expect("a list");
        rows.into_iter().map(|row| (row.id, row.name.expect("a name"), row.organization_id)).collect()
    }
}

/// Ends a membership in an SQLite file.
///
/// # Errors
///
/// Where the file can't be written.
pub fn forget_member(path: &Path, organization: Uuid, account: Uuid) -> Result<()> {
    Connection::open(path)?.execute(
        "DELETE FROM account_organization_ids WHERE organization_id = ?1 AND account_id = ?2",
        params![organization, account],
    )?;
    Ok(())
}
