//! Operations of the program's commands on the database.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::{
    DatabaseError, Error, Sqlite, copy,
    create::insert_account,
    maintenance,
    quota::{Allowance, Tenant},
    subject,
};
use crate::{
    auth::subject::Subject,
    now,
    storage::{Account, ApiKey, Check, Database, Membership, NewKey, Progress, Quota, Storage, WorkspaceRow},
};

#[async_trait]
impl Database for Sqlite {
    fn for_tenant(&self, tenant: &str, quota: Quota) -> Arc<dyn Storage> {
        match quota == Quota::default() {
            true => Arc::new(self.clone()),
            false => {
                let allowance = Arc::new(Allowance { tenant: tenant.to_owned(), quota });
                Arc::new(Tenant { database: self.clone(), allowance })
            }
        }
    }

    async fn create_account(&self, id: Option<Uuid>, name: Option<String>) -> Result<Account, DatabaseError> {
        let id = id.unwrap_or_else(Uuid::now_v7);
        self.writer
            .run(move |session| {
                session.write(|transaction| match insert_account(transaction, id, name.as_deref(), now()) {
                    Err(Error::Refused(_)) if require_account(transaction, "account", id).is_ok() => {
                        Err(DatabaseError::Exists(format!("account {id}")))
                    }
                    inserted => inserted.map(|()| Account { id, name }).map_err(Into::into),
                })
            })
            .await
    }

    async fn add_member(&self, organization: Uuid, account: Uuid) -> Result<(), DatabaseError> {
        self.writer
            .run(move |session| {
                session.write(|transaction| {
                    require_account(transaction, "organization", organization)?;
                    require_account(transaction, "account", account)?;
                    transaction.execute(
                        "INSERT INTO account_organization_ids (id, account_id, organization_id, updated_at)
                         VALUES (?1, ?2, ?3, ?4) ON CONFLICT (account_id, organization_id) DO NOTHING",
                        params![Uuid::now_v7(), account, organization, now()],
                    )?;
                    Ok(())
                })
            })
            .await
    }

    async fn remove_member(&self, organization: Uuid, account: Uuid) -> Result<(), DatabaseError> {
        self.writer
            .run(move |session| {
                session.write(|transaction| {
                    let delete = "DELETE FROM account_organization_ids WHERE account_id = ?1 AND organization_id = ?2";
                    match transaction.execute(delete, [account, organization])? {
                        0 => Err(DatabaseError::NotFound(format!("member {account} of organization {organization}"))),
                        _ => Ok(()),
                    }
                })
            })
            .await
    }

    async fn accounts(&self) -> Result<Vec<Account>, DatabaseError> {
        self.reader()
            .await?
            .run(move |session| {
                let mut statement = session.connection.prepare(
                    "SELECT id, name FROM accounts WHERE NOT EXISTS
                         (SELECT 1 FROM account_workspace_ids WHERE workspace_id = accounts.id) ORDER BY id",
                )?;
                let accounts = statement.query_map([], |row| Ok(Account { id: row.get(0)?, name: row.get(1)? }))?;
                Ok(accounts.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn memberships(&self, organization: Option<Uuid>) -> Result<Vec<Membership>, DatabaseError> {
        self.reader()
            .await?
            .run(move |session| {
                let mut statement = session.connection.prepare(
                    "SELECT organization.id, organization.name, account.id, account.name
                     FROM account_organization_ids link
                     JOIN accounts organization ON organization.id = link.organization_id
                     JOIN accounts account ON account.id = link.account_id
                     WHERE ?1 IS NULL OR link.organization_id = ?1 ORDER BY 1, 3",
                )?;
                let memberships = statement.query_map([organization], |row| {
                    let (organization_id, organization_name) = (row.get(0)?, row.get(1)?);
                    let (account_id, account_name) = (row.get(2)?, row.get(3)?);
                    Ok(Membership { organization_id, organization_name, account_id, account_name })
                })?;
                Ok(memberships.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn link_subject(&self, account: Uuid, subject: Subject) -> Result<(), DatabaseError> {
        self.writer
            .run(move |session| {
                session.write(|transaction| {
                    require_account(transaction, "account", account)?;
                    subject::link(transaction, account, &subject)
                })
            })
            .await
    }

    async fn unlink_subject(&self, account: Option<Uuid>, subject: Subject) -> Result<(), DatabaseError> {
        self.writer
            .run(move |session| session.write(|transaction| subject::unlink(transaction, account, &subject)))
            .await
    }

    async fn create_key(&self, account: Uuid, key: NewKey) -> Result<ApiKey, DatabaseError> {
        self.writer
            .run(move |session| {
                session.write(|transaction| {
                    require_account(transaction, "account", account)?;
                    let NewKey { name, hash, pepper, expires_at } = key;
                    let key = ApiKey { id: Uuid::now_v7(), name, account_id: account, created_at: now(), expires_at };
                    transaction.execute(
                        "INSERT INTO account_api_keys (id, name, account, key_hash, created_at, expires_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                        params![key.id, key.name, account, hash, key.created_at, expires_at],
                    )?;
                    transaction
                        .execute("INSERT INTO key_peppers (key_id, pepper) VALUES (?1, ?2)", params![key.id, pepper])?;
                    Ok(key)
                })
            })
            .await
    }

    async fn keys(&self, account: Option<Uuid>) -> Result<Vec<ApiKey>, DatabaseError> {
        self.reader()
            .await?
            .run(move |session| {
                if let Some(account) = account {
                    require_account(&session.connection, "account", account)?;
                }
                let mut statement = session.connection.prepare(
                    "SELECT id, name, account, created_at, expires_at FROM account_api_keys
                     WHERE ?1 IS NULL OR account = ?1 ORDER BY id",
                )?;
                Ok(statement.query_map([account], api_key)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn revoke_key(&self, id: Uuid) -> Result<(), DatabaseError> {
        let revoked = self
            .writer
            .run(move |session| {
                session.write(|transaction| {
                    match transaction.execute("DELETE FROM account_api_keys WHERE id = ?1", [id])? {
                        0 => Err(DatabaseError::NotFound(format!("key {id}"))),
                        _ => Ok(()),
                    }
                })
            })
            .await;
        // Without an answer it may have been revoked.
        self.revocations.fetch_add(1, Relaxed);
        revoked
    }

    async fn keys_of_another_pepper(&self, check: &str) -> Result<Vec<ApiKey>, DatabaseError> {
        let check = check.to_owned();
        // A server asks at its start, where only the writer is there.
        self.writer
            .run(move |session| {
                // The first schema does not say which pepper a key was hashed with.
                if !session.connection.table_exists(None, "key_peppers")? {
                    return Ok(Vec::new());
                }
                let mut statement = session.connection.prepare(
                    "SELECT id, name, account, created_at, expires_at FROM account_api_keys
                     JOIN key_peppers ON key_id = id WHERE pepper <> ?1 ORDER BY id",
                )?;
                Ok(statement.query_map([check], api_key)?.collect::<Result<_, _>>()?)
            })
            .await
    }

    async fn workspaces(&self, account: Option<Uuid>) -> Result<Vec<WorkspaceRow>, DatabaseError> {
        self.reader()
            .await?
            .run(move |session| {
                let mut statement = session.connection.prepare(
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

    async fn check(&self, progress: Progress) -> Result<Check, DatabaseError> {
        self.reader().await?.run(|session| maintenance::check(&session.connection, progress)).await
    }

    async fn backup(&self, to: &Path, progress: Progress) -> Result<(), DatabaseError> {
        let to = to.to_owned();
        self.reader().await?.run(move |session| copy::backup(&session.connection, &to, progress)).await
    }
}

fn api_key(row: &Row<'_>) -> Result<ApiKey, rusqlite::Error> {
    let (id, name, account_id, created_at, expires_at) =
        (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
    Ok(ApiKey { id, name, account_id, created_at, expires_at })
}

fn require_account(connection: &Connection, what: &str, id: Uuid) -> Result<(), DatabaseError> {
    match connection.query_row("SELECT EXISTS (SELECT 1 FROM accounts WHERE id = ?1)", [id], |row| row.get(0))? {
        true => Ok(()),
        false => Err(DatabaseError::NotFound(format!("{what} {id}"))),
    }
}
