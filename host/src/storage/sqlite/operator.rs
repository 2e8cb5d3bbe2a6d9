//! What the program's commands do with the database; no request comes here.

use rusqlite::{ErrorCode, TransactionBehavior::Immediate, params};
use serde::Serialize;
use uuid::Uuid;

use super::{Error, Sqlite, connection::commit, insert_account};
use crate::now;

/// An account as a command prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Account {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: Option<String>,
}

/// An API key as a command prints it: without the key, which nobody has but its holder.
#[derive(Debug, Clone, Serialize)]
pub struct ApiKey {
    /// The id to revoke it by.
    pub id: Uuid,
    /// What it is called.
    pub name: String,
    /// The account it stands for.
    pub account_id: Uuid,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When it stops being valid, likewise; never where `None`.
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

impl Sqlite {
    /// Makes an account; an organization is one too.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] where the id is taken.
    pub async fn create_account(&self, id: Option<Uuid>, name: Option<String>) -> Result<Account, Error> {
        let id = id.unwrap_or_else(Uuid::now_v7);
        self.writer
            .run(move |connection| {
                let transaction = connection.transaction_with_behavior(Immediate)?;
                insert_account(&transaction, id, name.as_deref()).map_err(or_exists(format!("account {id}")))?;
                commit(transaction)?;
                Ok(Account { id, name })
            })
            .await
    }

    /// Makes an account a member of an organization; no change where it is one.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] naming the one that does not exist.
    pub async fn add_member(&self, organization: Uuid, account: Uuid) -> Result<(), Error> {
        self.writer
            .run(move |connection| {
                let transaction = connection.transaction_with_behavior(Immediate)?;
                require_account(&transaction, "organization", organization)?;
                require_account(&transaction, "account", account)?;
                transaction.execute(
                    "INSERT INTO account_organization_ids (id, account_id, organization_id, updated_at) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (account_id, organization_id) DO NOTHING",
                    params![Uuid::now_v7(), account, organization, now()],
                )?;
                commit(transaction)
            })
            .await
    }

    /// Stores a key's hash for an account.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] where there is no such account.
    pub async fn create_key(
        &self,
        account_id: Uuid,
        name: String,
        hash: String,
        expires_at: Option<i64>,
    ) -> Result<ApiKey, Error> {
        self.writer
            .run(move |connection| {
                let transaction = connection.transaction_with_behavior(Immediate)?;
                require_account(&transaction, "account", account_id)?;
                let key = ApiKey { id: Uuid::now_v7(), name, account_id, created_at: now(), expires_at };
                transaction.execute(
                    "INSERT INTO account_api_keys (id, name, account, key_hash, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![key.id, key.name, account_id, hash, key.created_at, expires_at],
                )?;
                commit(transaction)?;
                Ok(key)
            })
            .await
    }

    /// The keys of an account, oldest first.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] where there is no such account.
    pub async fn keys(&self, account_id: Uuid) -> Result<Vec<ApiKey>, Error> {
        self.reader
            .run(move |connection| {
                require_account(connection, "account", account_id)?;
                let mut statement = connection
                    .prepare("SELECT id, name, account, created_at, expires_at FROM account_api_keys WHERE account = ?1 ORDER BY id")?;
                let keys = statement.query_map([account_id], |row| {
                    let (id, name, account_id, created_at, expires_at) =
                        (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
                    Ok(ApiKey { id, name, account_id, created_at, expires_at })
                })?;
                Ok(keys.collect::<Result<_, _>>()?)
            })
            .await
    }

    /// Deletes a key: it is refused from now on.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] where there is no such key.
    pub async fn revoke_key(&self, id: Uuid) -> Result<(), Error> {
        self.writer
            .run(move |connection| {
                let transaction = connection.transaction_with_behavior(Immediate)?;
                match transaction.execute("DELETE FROM account_api_keys WHERE id = ?1", [id])? {
                    0 => Err(Error::NotFound(format!("key {id}"))),
                    _ => commit(transaction),
                }
            })
            .await
    }

    /// The workspaces, of one account or of all, oldest first; one row for each organization of a
    /// workspace that is linked to more than one.
    ///
    /// # Errors
    ///
    /// Where the database can't answer.
    pub async fn workspaces(&self, account: Option<Uuid>) -> Result<Vec<WorkspaceRow>, Error> {
        self.reader
            .run(move |connection| {
                let mut statement = connection.prepare(
                    "SELECT accounts.id, accounts.name, owner.account_id, link.organization_id
                     FROM account_workspace_ids owner
                     JOIN accounts ON accounts.id = owner.workspace_id
                     LEFT JOIN artist_organization_ids link ON link.artist_id = accounts.id
                     WHERE ?1 IS NULL OR owner.account_id = ?1
                     ORDER BY accounts.id",
                )?;
                let workspaces = statement.query_map([account], |row| {
                    let (id, name, account_id, organization_id) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
                    Ok(WorkspaceRow { id, name, account_id, organization_id })
                })?;
                Ok(workspaces.collect::<Result<_, _>>()?)
            })
            .await
    }
}

fn require_account(connection: &rusqlite::Connection, what: &str, id: Uuid) -> Result<(), Error> {
    match connection.query_row("SELECT EXISTS (SELECT 1 FROM accounts WHERE id = ?1)", [id], |row| row.get(0))? {
        true => Ok(()),
        false => Err(Error::NotFound(format!("{what} {id}"))),
    }
}

fn or_exists(what: String) -> impl FnOnce(rusqlite::Error) -> Error {
    |error| match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => Error::Exists(what),
        _ => error.into(),
    }
}
