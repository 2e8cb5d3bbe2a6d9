//! SQLite: one file, one writer.
//!
//! Two threads own a connection each: one writes, one only reads. Calls go to them as closures over
//! a bounded queue, so that a write waiting for the disk never holds up an async thread.

mod connection;
mod operator;

use std::path::Path;

use async_trait::async_trait;
use rusqlite::{Transaction, TransactionBehavior::Immediate, params};
use uuid::Uuid;

use self::connection::Worker;
pub use self::operator::{Account, ApiKey, WorkspaceRow};
use super::{Error, Storage};
use crate::{
    auth::{
        Grant,
        access::{Facts, Question},
        api_key::{Directory, StoredKey},
    },
    now,
};

/// A database in one file, or in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct Sqlite {
    writer: Worker,
    reader: Worker,
}

impl Sqlite {
    /// Opens the file, and makes it with its tables where there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Unusable`] where the file can't be opened, is no database, or was made by a newer
    /// version.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let writer = connection::open(path)?;
        let reader = connection::open_query_only(path)?;
        Ok(Self { writer: Worker::start("sqlite-writer", writer)?, reader: Worker::start("sqlite-reader", reader)? })
    }

    /// A database that lives as long as this value and its clones.
    ///
    /// # Errors
    ///
    /// [`Error::Unusable`] where SQLite can't make it.
    pub fn in_memory() -> Result<Self, Error> {
        let only = Worker::start("sqlite", connection::open(Path::new(":memory:"))?)?;
        Ok(Self { writer: only.clone(), reader: only })
    }
}

#[async_trait]
impl Storage for Sqlite {
    async fn create_workspace(&self, grant: &Grant, name: &str) -> Result<Uuid, Error> {
        let (grant, name) = (grant.clone(), name.to_owned());
        self.writer
            .run(move |connection| {
                let transaction = connection.transaction_with_behavior(Immediate)?;
                let id = insert_account(&transaction, Uuid::now_v7(), Some(&name))?;
                let now = now();
                transaction
                    .prepare_cached("INSERT INTO account_workspace_ids (id, account_id, workspace_id, updated_at) VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![Uuid::now_v7(), grant.account_id, id, now])?;
                if let Some(organization) = grant.organization_id {
                    transaction
                        .prepare_cached(
                            "INSERT INTO artist_organization_ids (id, artist_id, organization_id, created_at, updated_at)
                             VALUES (?1, ?2, ?3, ?4, ?4)",
                        )?
                        .execute(params![Uuid::now_v7(), id, organization, now])?;
                }
                connection::commit(transaction)?;
                Ok(id)
            })
            .await
    }
}

/// The rows that every account has, workspaces and organizations too.
fn insert_account(transaction: &Transaction<'_>, id: Uuid, name: Option<&str>) -> Result<Uuid, rusqlite::Error> {
    let now = now();
    transaction
        .prepare_cached("INSERT INTO accounts (id, name, timestamp) VALUES (?1, ?2, ?3)")?
        .execute(params![id, name, now])?;
    transaction
        .prepare_cached("INSERT INTO account_info (id, account_id, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)")?
        .execute(params![Uuid::now_v7(), id, now])?;
    Ok(id)
}

#[async_trait]
impl Directory for Sqlite {
    async fn find_key(&self, hash: &str) -> Result<Option<StoredKey>, Error> {
        use rusqlite::OptionalExtension as _;
        let hash = hash.to_owned();
        self.reader
            .run(move |connection| {
                let mut statement = connection
                    .prepare_cached("SELECT account, expires_at FROM account_api_keys WHERE key_hash = ?1")?;
                let key = statement
                    .query_row([hash], |row| Ok(StoredKey { account_id: row.get(0)?, expires_at: row.get(1)? }));
                Ok(key.optional()?)
            })
            .await
    }

    async fn facts(&self, question: &Question) -> Result<Facts, Error> {
        let question = *question;
        self.reader
            .run(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM accounts WHERE id = ?2),
                            EXISTS (SELECT 1 FROM account_organization_ids WHERE account_id = ?1 AND organization_id = ?4),
                            EXISTS (SELECT 1 FROM account_organization_ids mine
                                    JOIN account_organization_ids theirs USING (organization_id)
                                    WHERE mine.account_id = ?1 AND theirs.account_id = ?2),
                            EXISTS (SELECT 1 FROM account_organization_ids WHERE account_id = ?2 AND organization_id = ?3)",
                )?;
                let ids = params![question.caller, question.account, question.organization, question.administrators];
                Ok(statement.query_row(ids, |row| {
                    Ok(Facts {
                        account_exists: row.get(0)?,
                        caller_is_administrator: row.get(1)?,
                        shares_organization: row.get(2)?,
                        account_is_member: row.get(3)?,
                    })
                })?)
            })
            .await
    }
}
