//! Operations of the program's commands on the database.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use async_trait::async_trait;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    Postgres, column,
    failure::Failure,
    maintenance,
    quota::Tenant,
    session::{Statement, Values},
};
use crate::{
    auth::subject::Subject,
    now,
    storage::{
        Account, ApiKey, Check, Database, DatabaseError, Membership, NewKey, Progress, Quota, Storage, WorkspaceRow,
    },
};

/// Query of API keys, of those that the rest of it says.
macro_rules! keys {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, account, floor(extract(epoch FROM created_at) * 1000)::bigint AS created_at,
                CASE WHEN isfinite(expires_at) THEN floor(extract(epoch FROM expires_at) * 1000)::bigint END AS expires_at
            FROM public.account_api_keys ",
            $rest
        )
    };
}

pub(super) const KEYS_OF_ANOTHER_PEPPER: Statement = Statement {
    sql: keys!(
        "JOIN workspaces.key_peppers ON key_id = id
        WHERE pepper <> $1 ORDER BY account_api_keys.created_at, id"
    ),
    types: &[Type::TEXT],
};

#[async_trait]
impl Database for Postgres {
    fn for_tenant(&self, tenant: &str, quota: Quota) -> Arc<dyn Storage> {
        let tenant = (quota != Quota::default()).then(|| Tenant { name: tenant.to_owned(), quota });
        Arc::new(Self { tenant, ..self.clone() })
    }

    async fn create_account(&self, id: Option<Uuid>, name: Option<String>) -> Result<Account, DatabaseError> {
        const CREATE: Statement = Statement {
            sql: "WITH account AS (INSERT INTO public.accounts (id, name) VALUES ($1, $2) RETURNING id)
                INSERT INTO public.account_info (account_id) SELECT id FROM account RETURNING account_id",
            types: &[Type::UUID, Type::TEXT],
        };
        let id = id.unwrap_or_else(Uuid::now_v7);
        match self.connections.query(&CREATE, &[&id, &name]).await {
            Ok(_) => Ok(Account { id, name }),
            // Of its id, or of a key of the deployment's own.
            Err(Failure::Refused(code, text)) if code.code() == "23505" => match self.has_account(id).await? {
                true => Err(DatabaseError::Exists(format!("account {id}"))),
                false => Err(Failure::Refused(code, text).into()),
            },
            Err(failure) => Err(failure.into()),
        }
    }

    async fn add_member(&self, organization: Uuid, account: Uuid) -> Result<(), DatabaseError> {
        self.require_account("organization", organization).await?;
        self.require_account("account", account).await?;
        // Nothing keeps a membership from being there twice, which is the same membership.
        const ADD: Statement = Statement {
            sql: "INSERT INTO public.account_organization_ids (account_id, organization_id)
                SELECT $1, $2 WHERE NOT EXISTS
                    (SELECT FROM public.account_organization_ids WHERE account_id = $1 AND organization_id = $2)",
            types: &[Type::UUID, Type::UUID],
        };
        self.connections.query(&ADD, &[&account, &organization]).await?;
        Ok(())
    }

    async fn remove_member(&self, organization: Uuid, account: Uuid) -> Result<(), DatabaseError> {
        const REMOVE: Statement = Statement {
            sql: "DELETE FROM public.account_organization_ids WHERE account_id = $1 AND organization_id = $2 RETURNING id",
            types: &[Type::UUID, Type::UUID],
        };
        match self.connections.query(&REMOVE, &[&account, &organization]).await?.is_empty() {
            true => Err(DatabaseError::NotFound(format!("member {account} of organization {organization}"))),
            false => Ok(()),
        }
    }

    async fn accounts(&self) -> Result<Vec<Account>, DatabaseError> {
        const LIST: Statement = Statement {
            sql: "SELECT id, name FROM public.accounts WHERE NOT EXISTS
                (SELECT FROM public.account_workspace_ids WHERE workspace_id = accounts.id) ORDER BY \"timestamp\", id",
            types: &[],
        };
        let account = |row: &Row| Ok(Account { id: column(row, "id")?, name: column(row, "name")? });
        self.connections.query(&LIST, &[]).await?.iter().map(account).collect()
    }

    async fn memberships(&self, organization: Option<Uuid>) -> Result<Vec<Membership>, DatabaseError> {
        // A membership may be there twice, which is the same membership.
        const LIST: Statement = Statement {
            sql: "SELECT DISTINCT organization.id AS organization_id, organization.name AS organization_name,
                    account.id AS account_id, account.name AS account_name
                FROM public.account_organization_ids link
                JOIN public.accounts organization ON organization.id = link.organization_id
                JOIN public.accounts account ON account.id = link.account_id
                WHERE $1 IS NULL OR link.organization_id = $1 ORDER BY organization.id, account.id",
            types: &[Type::UUID],
        };
        let membership = |row: &Row| {
            Ok(Membership {
                organization_id: column(row, "organization_id")?,
                organization_name: column(row, "organization_name")?,
                account_id: column(row, "account_id")?,
                account_name: column(row, "account_name")?,
            })
        };
        self.connections.query(&LIST, &[&organization]).await?.iter().map(membership).collect()
    }

    async fn link_subject(&self, account: Uuid, subject: Subject) -> Result<(), DatabaseError> {
        self.require_account("account", account).await?;
        self.link(account, &subject).await
    }

    async fn unlink_subject(&self, account: Option<Uuid>, subject: Subject) -> Result<(), DatabaseError> {
        self.unlink(account, &subject).await
    }

    async fn create_key(&self, account: Uuid, key: NewKey) -> Result<ApiKey, DatabaseError> {
        self.require_account("account", account).await?;
        const CREATE: Statement = Statement {
            sql: "WITH key AS (
                    INSERT INTO public.account_api_keys (id, name, account, key_hash, expires_at)
                    VALUES ($1, $2, $3, $4, to_timestamp($5 / 1000.0)) RETURNING id, created_at
                ), pepper AS (
                    INSERT INTO workspaces.key_peppers (key_id, pepper) SELECT id, $6 FROM key
                )
                SELECT floor(extract(epoch FROM created_at) * 1000)::bigint AS created_at FROM key",
            types: &[Type::UUID, Type::TEXT, Type::UUID, Type::TEXT, Type::FLOAT8, Type::TEXT],
        };
        let NewKey { name, hash, pepper, expires_at } = key;
        let id = Uuid::now_v7();
        // As a floating-point number, which holds every millisecond up to the year 287,396.
        #[allow(clippy::cast_precision_loss, reason = "said above")]
        let expires = expires_at.map(|time| time as f64);
        let values: Values<'_> = &[&id, &name, &account, &hash, &expires, &pepper];
        let rows = self.connections.query(&CREATE, values).await?;
        let created_at = rows.first().map_or(Ok(now()), |row| column(row, "created_at"))?;
        Ok(ApiKey { id, name, account_id: account, created_at, expires_at })
    }

    async fn keys(&self, account: Option<Uuid>) -> Result<Vec<ApiKey>, DatabaseError> {
        if let Some(account) = account {
            self.require_account("account", account).await?;
        }
        const LIST: Statement = Statement {
            sql: keys!("WHERE $1 IS NULL OR account = $1 ORDER BY account_api_keys.created_at, id"),
            types: &[Type::UUID],
        };
        self.connections.query(&LIST, &[&account]).await?.iter().map(api_key).collect()
    }

    async fn revoke_key(&self, id: Uuid) -> Result<(), DatabaseError> {
        const REVOKE: Statement = Statement {
            sql: "WITH pepper AS (DELETE FROM workspaces.key_peppers WHERE key_id = $1)
                DELETE FROM public.account_api_keys WHERE id = $1 RETURNING id",
            types: &[Type::UUID],
        };
        let revoked = self.connections.query(&REVOKE, &[&id]).await;
        // Without an answer it may have been revoked.
        self.revocations.fetch_add(1, Relaxed);
        match revoked?.is_empty() {
            true => Err(DatabaseError::NotFound(format!("key {id}"))),
            false => Ok(()),
        }
    }

    async fn keys_of_another_pepper(&self, check: &str) -> Result<Vec<ApiKey>, DatabaseError> {
        self.connections.query(&KEYS_OF_ANOTHER_PEPPER, &[&check]).await?.iter().map(api_key).collect()
    }

    async fn workspaces(&self, account: Option<Uuid>) -> Result<Vec<WorkspaceRow>, DatabaseError> {
        // Nothing keeps an owner from being there twice, or from being null.
        const LIST: Statement = Statement {
            sql: "SELECT DISTINCT a.id, a.name, owner.account_id, link.organization_id
                FROM public.account_workspace_ids owner
                JOIN public.accounts a ON a.id = owner.workspace_id
                LEFT JOIN public.artist_organization_ids link ON link.artist_id = a.id
                WHERE owner.account_id IS NOT NULL AND ($1 IS NULL OR owner.account_id = $1)
                ORDER BY a.id, owner.account_id, link.organization_id",
            types: &[Type::UUID],
        };
        let rows = self.connections.query(&LIST, &[&account]).await?;
        let workspace = |row: &Row| {
            Ok(WorkspaceRow {
                id: column(row, "id")?,
                name: column(row, "name")?,
                account_id: column(row, "account_id")?,
                organization_id: column(row, "organization_id")?,
            })
        };
        rows.iter().map(workspace).collect::<Result<_, Failure>>().map_err(DatabaseError::from)
    }

    async fn check(&self, progress: Progress) -> Result<Check, DatabaseError> {
        maintenance::check(&self.connections, progress).await
    }

    async fn backup(&self, _: &Path, _: Progress) -> Result<(), DatabaseError> {
        Err(DatabaseError::Unusable(
            "a PostgreSQL database is copied with its own tools: pg_dump for a copy, pg_basebackup and WAL archiving for recovery"
                .into(),
        ))
    }
}

fn api_key(row: &Row) -> Result<ApiKey, DatabaseError> {
    Ok(ApiKey {
        id: column(row, "id")?,
        name: column(row, "name")?,
        account_id: column(row, "account")?,
        created_at: column(row, "created_at")?,
        expires_at: column(row, "expires_at")?,
    })
}

impl Postgres {
    async fn require_account(&self, what: &str, id: Uuid) -> Result<(), DatabaseError> {
        match self.has_account(id).await? {
            true => Ok(()),
            false => Err(DatabaseError::NotFound(format!("{what} {id}"))),
        }
    }

    async fn has_account(&self, id: Uuid) -> Result<bool, DatabaseError> {
        const FIND: Statement = Statement { sql: "SELECT FROM public.accounts WHERE id = $1", types: &[Type::UUID] };
        Ok(!self.connections.query(&FIND, &[&id]).await?.is_empty())
    }
}
