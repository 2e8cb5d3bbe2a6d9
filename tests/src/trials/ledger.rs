//! Ledger: what a database really holds, read around the program.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use uuid::Uuid;

/// Function that runs SQL at a server.
pub(super) type Psql<'a> = dyn Fn(&str) -> Result<String> + 'a;

/// Rows of a database.
pub(super) enum Ledger<'a> {
    Sqlite(PathBuf),
    /// A server, by a function that runs SQL there and returns the rows as psql prints them.
    Postgres(Box<Psql<'a>>),
}

/// Counts of the rows; every number but `workspaces` is to be 0.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Audit {
    /// Acknowledged, and not there whole.
    pub(super) lost: u64,
    /// There in part: rows of a workspace without the others, or without its claim.
    pub(super) partial: u64,
    /// Workspaces in all.
    pub(super) workspaces: u64,
}

/// The trials' convention: a workspace of this name was asked for with an organization, one of the
/// second with an idempotency key.
pub(super) const LINKED: &str = "Linked";
pub(super) const CLAIMED: &str = "Claimed";

/// No index finds a claim by its workspace, so claims are gathered once, not looked for by each row.
/// `{public}` and `{workspaces}` are the schemas' prefixes. People and organizations, which are made by
/// commands, have other names.
const PARTIAL: &str = "SELECT
    (SELECT count(*) FROM {public}accounts a WHERE
        NOT EXISTS (SELECT 1 FROM {public}account_info i WHERE i.account_id = a.id)
        OR a.name IN ('Linked', 'Claimed', 'Plain')
            AND NOT EXISTS (SELECT 1 FROM {public}account_workspace_ids w WHERE w.workspace_id = a.id)
        OR a.name = 'Linked'
            AND NOT EXISTS (SELECT 1 FROM {public}artist_organization_ids l WHERE l.artist_id = a.id)
        OR a.name = 'Claimed'
            AND a.id NOT IN (SELECT k.workspace_id FROM {workspaces}idempotency_keys k))
    + (SELECT count(*) FROM {workspaces}idempotency_keys k WHERE
        NOT EXISTS (SELECT 1 FROM {public}account_workspace_ids w WHERE w.workspace_id = k.workspace_id))";

impl Ledger<'_> {
    /// Holds the acknowledged ids against the rows.
    pub(super) fn audit(&self, acknowledged: &[Uuid]) -> Result<Audit> {
        match self {
            Self::Sqlite(path) => {
                let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
                connection.busy_timeout(std::time::Duration::from_secs(10))?;
                let partial = PARTIAL.replace("{public}", "").replace("{workspaces}", "");
                let count = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0));
                let mut known = connection
                    .prepare("SELECT EXISTS (SELECT 1 FROM account_workspace_ids WHERE workspace_id = ?1)")?;
                let mut lost = 0;
                for id in acknowledged {
                    lost += u64::from(!known.query_row([id], |row| row.get::<_, bool>(0))?);
                }
                Ok(Audit {
                    lost,
                    partial: u64::try_from(count(&partial)?)?,
                    workspaces: u64::try_from(count("SELECT count(*) FROM account_workspace_ids")?)?,
                })
            }
            Self::Postgres(psql) => {
                let partial = PARTIAL.replace("{public}", "public.").replace("{workspaces}", "workspaces.");
                let (mut lost, number) = (0, |text: &str| text.trim().parse::<u64>().context("no number from psql"));
                // So many fit into an argument.
                for ids in acknowledged.chunks(2000) {
                    let ids: Vec<_> = ids.iter().map(Uuid::to_string).collect();
                    lost += number(&psql(&format!(
                        "SELECT count(*) FROM unnest('{{{}}}'::uuid[]) AS acknowledged (id) WHERE NOT EXISTS
                             (SELECT FROM public.account_workspace_ids w WHERE w.workspace_id = acknowledged.id)",
                        ids.join(",")
                    ))?)?;
                }
                Ok(Audit {
                    lost,
                    partial: number(&psql(&partial)?)?,
                    workspaces: number(&psql("SELECT count(*) FROM public.account_workspace_ids")?)?,
                })
            }
        }
    }

    /// Has the database look itself over.
    pub(super) fn require_integrity(&self) -> Result<()> {
        if let Self::Sqlite(path) = self {
            let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            connection.busy_timeout(std::time::Duration::from_secs(10))?;
            let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
            ensure!(verdict == "ok", "integrity: {verdict}");
            let dangling: i64 =
                connection.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0))?;
            ensure!(dangling == 0, "{dangling} rows refer to none");
        }
        Ok(())
    }
}
