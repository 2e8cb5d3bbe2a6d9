//! Quotas: how many workspaces a tenant may create.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::{Claim, Created, Error, Sqlite, Storage};
use crate::{
    Workspace,
    auth::Grant,
    storage::{Period, Quota},
};

/// Milliseconds of a day in UTC.
const DAY: i64 = 24 * 60 * 60 * 1000;

/// A database as one tenant uses it, within a quota.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) database: Sqlite,
    pub(super) allowance: Arc<Allowance>,
}

/// A tenant's name and quota.
#[derive(Debug)]
pub(super) struct Allowance {
    pub(super) tenant: String,
    pub(super) quota: Quota,
}

impl Allowance {
    /// Counts one workspace more, within the transaction that the connection is in: what is rolled back does not count.
    ///
    /// A day that the clock goes back to is counted as the latest day, so no day's quota is given twice.
    ///
    /// # Errors
    ///
    /// [`Error::QuotaReached`]; the caller rolls back.
    pub(super) fn spend(&self, connection: &Connection, now: i64) -> Result<(), Error> {
        let mut statement = connection.prepare_cached(
            "INSERT INTO tenant_usage AS known (tenant, total, day, today) VALUES (?1, 1, ?2, 1)
             ON CONFLICT (tenant) DO UPDATE SET
                 total = known.total + 1,
                 today = CASE WHEN excluded.day > known.day THEN 1 ELSE known.today + 1 END,
                 day = max(known.day, excluded.day)
             RETURNING total, today",
        )?;
        let (total, today): (u64, u64) =
            statement.query_row(params![self.tenant, now.div_euclid(DAY)], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if self.quota.total.is_some_and(|most| total > most) {
            return Err(Error::QuotaReached(Period::Total));
        }
        match self.quota.per_day.is_some_and(|most| today > most) {
            true => Err(Error::QuotaReached(Period::Day)),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Storage for Tenant {
    async fn create_workspace(
        &self,
        id: Uuid,
        grant: &Grant,
        name: &str,
        claim: Option<&Claim>,
    ) -> Result<Created, Error> {
        self.database.create(id, grant, name, claim, Some(self.allowance.clone())).await
    }

    async fn find_claimed(&self, claim: &Claim) -> Result<Option<Workspace>, Error> {
        self.database.find_claimed(claim).await
    }

    async fn ready(&self) -> Result<(), Error> {
        self.database.ready().await
    }
}
