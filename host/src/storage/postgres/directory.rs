//! Look-ups of keys and of memberships.

use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;
use tokio_postgres::{Row, types::Type};

use super::{Postgres, column, failure::Failure, only, session::Statement};
use crate::auth::{
    LookUpError,
    access::{Facts, Question},
    api_key::{Directory, StoredKey},
};

/// A hash may be stored twice, as no constraint forbids it. The row that is valid longest counts.
pub(super) const FIND_KEY: Statement = Statement {
    sql: "SELECT id, account, CASE
            WHEN isfinite(expires_at) THEN floor(extract(epoch FROM expires_at) * 1000)::bigint
            WHEN expires_at < 'now' THEN 0
        END AS expires_at
        FROM public.account_api_keys WHERE key_hash = $1 AND account IS NOT NULL
        ORDER BY account_api_keys.expires_at DESC NULLS FIRST, id LIMIT 1",
    types: &[Type::TEXT],
};

pub(super) const FACTS: Statement = Statement {
    sql: "SELECT EXISTS (SELECT FROM public.accounts WHERE id = $2) AS account_exists,
        EXISTS (SELECT FROM public.account_organization_ids WHERE account_id = $1 AND organization_id = $4)
            AS caller_is_administrator,
        EXISTS (SELECT FROM public.account_organization_ids mine
                JOIN public.account_organization_ids theirs USING (organization_id)
                WHERE mine.account_id = $1 AND theirs.account_id = $2) AS shares_organization,
        EXISTS (SELECT FROM public.account_organization_ids WHERE account_id = $2 AND organization_id = $3)
            AS account_is_member",
    types: &[Type::UUID, Type::UUID, Type::UUID, Type::UUID],
};

#[async_trait]
impl Directory for Postgres {
    async fn find_key(&self, hash: &str) -> Result<Option<StoredKey>, LookUpError> {
        let key = |row: &Row| {
            Ok::<_, Failure>(StoredKey {
                id: column(row, "id")?,
                account_id: column(row, "account")?,
                expires_at: column(row, "expires_at")?,
            })
        };
        Ok(self.read(&FIND_KEY, &[&hash], |rows| rows.first().map(key).transpose()).await?)
    }

    async fn facts(&self, question: &Question) -> Result<Facts, LookUpError> {
        let Question { caller, account, organization, administrators } = question;
        let of = |rows: &[Row]| {
            let row = only(rows)?;
            Ok(Facts {
                account_exists: column(row, "account_exists")?,
                caller_is_administrator: column(row, "caller_is_administrator")?,
                shares_organization: column(row, "shares_organization")?,
                account_is_member: column(row, "account_is_member")?,
            })
        };
        Ok(self.read(&FACTS, &[caller, account, organization, administrators], of).await?)
    }

    fn revocations(&self) -> u64 {
        self.revocations.load(Relaxed)
    }
}
