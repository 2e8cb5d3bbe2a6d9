//! Quotas: how many workspaces a tenant has created.

use tokio_postgres::{Row, types::Type};

use super::{Postgres, column, failure::Failure, pool::Lease, session::Statement};
use crate::storage::{Claim, Created, Error, Period, Quota};

/// Counts one more, and returns the numbers with it. The row stays locked until the transaction ends, so that
/// hosts that share the quota count one after the other. A day is the server's, in UTC; a clock that goes back
/// begins no day anew.
pub(super) const COUNT: Statement = Statement {
    sql: "INSERT INTO workspaces.quota_usage AS used (tenant, total, day, today)
        VALUES ($1, 1, (now() AT TIME ZONE 'UTC')::date, 1)
        ON CONFLICT (tenant) DO UPDATE SET
            total = used.total + 1,
            day = greatest(used.day, excluded.day),
            today = CASE WHEN used.day < excluded.day THEN 1 ELSE used.today + 1 END
        RETURNING total, today",
    types: &[Type::TEXT],
};

/// Returns the numbers that one more would have.
pub(super) const NEXT: Statement = Statement {
    sql: "SELECT total + 1 AS total,
            CASE WHEN day < (now() AT TIME ZONE 'UTC')::date THEN 1 ELSE today + 1 END AS today
        FROM workspaces.quota_usage WHERE tenant = $1",
    types: &[Type::TEXT],
};

/// A tenant with a quota.
#[derive(Debug, Clone)]
pub(super) struct Tenant {
    pub(super) name: String,
    pub(super) quota: Quota,
}

impl Tenant {
    /// Counts a workspace in the transaction that creates it; returns the period whose quota it is over.
    pub(super) async fn count(&self, lease: &mut Lease) -> Result<Option<Period>, Failure> {
        let rows = lease.query(&COUNT, &[&self.name]).await?;
        self.exceeded(rows.first())
    }

    /// Returns the period whose quota these numbers are over; without a row, those of a first workspace.
    fn exceeded(&self, row: Option<&Row>) -> Result<Option<Period>, Failure> {
        let number = |name| row.map_or(Ok(1), |row| column::<i64>(row, name));
        let over =
            |number: i64, maximum: Option<u64>| maximum.is_some_and(|maximum| i128::from(number) > maximum.into());
        Ok(if over(number("total")?, self.quota.total) {
            Some(Period::Total)
        } else if over(number("today")?, self.quota.per_day) {
            Some(Period::Day)
        } else {
            None
        })
    }
}

impl Postgres {
    /// Answers a create of a tenant whose quota is used up, without a write: with the workspace of an earlier
    /// request, or with the refusal.
    pub(super) async fn answer_over_quota(&self, claim: Option<&Claim>) -> Result<Option<Created>, Error> {
        let Some(tenant) = &self.tenant else { return Ok(None) };
        let exceeded = self.read(&NEXT, &[&tenant.name], |rows| tenant.exceeded(rows.first())).await?;
        let Some(period) = exceeded else { return Ok(None) };
        if let Some(claim) = claim
            && let Some(workspace) = self.find_claim(claim).await?
        {
            return Ok(Some(Created { workspace, replayed: true }));
        }
        Err(Error::QuotaReached(period))
    }
}
