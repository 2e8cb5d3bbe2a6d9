//! What the program's commands do with the database.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use tokio_postgres::{Row, error::SqlState, types::Type};
use uuid::Uuid;

use super::{Postgres, column, connect::Parameter, failure::Failure, maintenance};
use crate::{
    now,
    storage::{Account, ApiKey, Check, Database, DatabaseError, NewKey, Progress, Quota, Storage, WorkspaceRow},
};

#[async_trait]
impl Database for Postgres {
    fn for_tenant(&self, _tenant: &str, _quota: Quota) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    async fn create_account(&self, id: Option<Uuid>, name: Option<String>) -> Result<Account, DatabaseError> {
        const SQL: &str = r#"WITH account AS (
                INSERT INTO public.accounts (id, name, "timestamp") VALUES ($1, $2, $3) RETURNING id
            )
            INSERT INTO public.account_info (account_id, created_at, updated_at) SELECT id, now(), now() FROM account"#;
        let id = id.unwrap_or_else(Uuid::now_v7);
        match self.connections.query(SQL, &[(&id, Type::UUID), (&name, Type::TEXT), (&now(), Type::INT8)]).await {
            Ok(_) => Ok(Account { id, name }),
            Err(Failure::Refused(Some(SqlState::UNIQUE_VIOLATION), _)) => {
                Err(DatabaseError::Exists(format!("account {id}")))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn add_member(&self, organization: Uuid, account: Uuid) -> Result<(), DatabaseError> {
        self.require_account("organization", organization).await?;
        self.require_account("account", account).await?;
        const SQL: &str = "INSERT INTO public.account_organization_ids (account_id, organization_id, updated_at)
            VALUES ($1, $2, now()) ON CONFLICT (account_id, organization_id) DO NOTHING";
        self.connections.query(SQL, &[(&account, Type::UUID), (&organization, Type::UUID)]).await?;
        Ok(())
    }

    async fn create_key(&self, account: Uuid, key: NewKey) -> Result<ApiKey, DatabaseError> {
        self.require_account("account", account).await?;
        const SQL: &str = "WITH key AS (
                INSERT INTO public.account_api_keys (id, name, account, key_hash, created_at, expires_at)
                VALUES ($1, $2, $3, $4, to_timestamp($5 / 1000.0), to_timestamp($6 / 1000.0)) RETURNING id
            )
            INSERT INTO workspaces.key_peppers (key_id, pepper) SELECT id, $7 FROM key";
        let NewKey { name, hash, pepper, expires_at } = key;
        let key = ApiKey { id: Uuid::now_v7(), name, account_id: account, created_at: now(), expires_at };
        // As floating-point numbers, which hold every millisecond up to the year 287,396.
        #[allow(clippy::cast_precision_loss, reason = "said above")]
        let (created, expires) = (key.created_at as f64, expires_at.map(|time| time as f64));
        let parameters: [Parameter<'_>; 7] = [
            (&key.id, Type::UUID),
            (&key.name, Type::TEXT),
            (&account, Type::UUID),
            (&hash, Type::TEXT),
            (&created, Type::FLOAT8),
            (&expires, Type::FLOAT8),
            (&pepper, Type::TEXT),
        ];
        self.connections.query(SQL, &parameters).await?;
        Ok(key)
    }

    async fn keys(&self, account: Uuid) -> Result<Vec<ApiKey>, DatabaseError> {
        self.require_account("account", account).await?;
        const SQL: &str = "SELECT id, coalesce(name, '') AS name, account,
                floor(extract(epoch FROM created_at) * 1000)::bigint AS created_at,
                CASE WHEN isfinite(expires_at) THEN floor(extract(epoch FROM expires_at) * 1000)::bigint END AS expires_at
            FROM public.account_api_keys WHERE account = $1 ORDER BY account_api_keys.created_at, id";
        let rows = self.connections.query(SQL, &[(&account, Type::UUID)]).await?;
        let key = |row: &Row| {
            Ok(ApiKey {
                id: column(row, "id")?,
                name: column(row, "name")?,
                account_id: column(row, "account")?,
                created_at: column(row, "created_at")?,
                expires_at: column(row, "expires_at")?,
            })
        };
        rows.iter().map(key).collect()
    }

    async fn revoke_key(&self, id: Uuid) -> Result<(), DatabaseError> {
        const SQL: &str = "WITH pepper AS (DELETE FROM workspaces.key_peppers WHERE key_id = $1)
            DELETE FROM public.account_api_keys WHERE id = $1 RETURNING id";
        match self.connections.query(SQL, &[(&id, Type::UUID)]).await?.is_empty() {
            true => Err(DatabaseError::NotFound(format!("key {id}"))),
            false => Ok(()),
        }
    }

    async fn has_keys_of_another_pepper(&self, check: &str) -> Result<bool, DatabaseError> {
        const SQL: &str = "SELECT EXISTS (
            SELECT FROM workspaces.key_peppers JOIN public.account_api_keys ON id = key_id WHERE pepper <> $1) AS others";
        let rows = self.connections.query(SQL, &[(&check, Type::TEXT)]).await?;
        Ok(rows.first().map(|row| column(row, "others")).transpose()?.unwrap_or(false))
    }

    async fn workspaces(&self, account: Option<Uuid>) -> Result<Vec<WorkspaceRow>, DatabaseError> {
        const SQL: &str = "SELECT a.id, a.name, owner.account_id, link.organization_id
            FROM public.account_workspace_ids owner
            JOIN public.accounts a ON a.id = owner.workspace_id
            LEFT JOIN public.artist_organization_ids link ON link.artist_id = a.id
            WHERE $1 IS NULL OR owner.account_id = $1
            ORDER BY a.id";
        let rows = self.connections.query(SQL, &[(&account, Type::UUID)]).await?;
        let workspace = |row: &Row| {
            Ok(WorkspaceRow {
                id: column(row, "id")?,
                name: column(row, "name")?,
                account_id: column(row, "account_id")?,
                organization_id: column(row, "organization_id")?,
            })
        };
        rows.iter().map(workspace).collect()
    }

    async fn forget_claims(&self, before: i64, limit: u32) -> Result<usize, DatabaseError> {
        // Rows that another host is forgetting at this moment are left to it.
        const SQL: &str = "DELETE FROM workspaces.idempotency_keys WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM workspaces.idempotency_keys WHERE created_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))
            RETURNING 1";
        let limit = i64::from(limit);
        Ok(self.connections.query(SQL, &[(&before, Type::INT8), (&limit, Type::INT8)]).await?.len())
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

impl Postgres {
    async fn require_account(&self, what: &str, id: Uuid) -> Result<(), DatabaseError> {
        let rows = self.connections.query("SELECT FROM public.accounts WHERE id = $1", &[(&id, Type::UUID)]).await?;
        match rows.is_empty() {
            true => Err(DatabaseError::NotFound(format!("{what} {id}"))),
            false => Ok(()),
        }
    }
}
