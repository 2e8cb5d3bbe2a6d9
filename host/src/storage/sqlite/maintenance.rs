//! Checking a database, and copying it while it is in use.

use std::{fs, path::Path};

use rusqlite::{Connection, backup};
use uuid::Uuid;

use super::{DatabaseError, Error, open};
use crate::storage::{Check, Finding, Progress, Severity};

/// What half-made workspaces and deletions leave, by what it means and the query of its ids.
const ODDITIES: [(Severity, &str, &str); 3] = [
    (
        Severity::Error,
        "accounts without account_info: a create stopped half-way",
        "SELECT id FROM accounts WHERE NOT EXISTS (SELECT 1 FROM account_info WHERE account_id = accounts.id)",
    ),
    (
        Severity::Note,
        "accounts that nothing refers to: people without a key yet, or half-made workspaces",
        "SELECT id FROM accounts WHERE
             NOT EXISTS (SELECT 1 FROM account_workspace_ids WHERE workspace_id = accounts.id)
             AND NOT EXISTS (SELECT 1 FROM account_workspace_ids WHERE account_id = accounts.id)
             AND NOT EXISTS (SELECT 1 FROM account_organization_ids WHERE account_id = accounts.id)
             AND NOT EXISTS (SELECT 1 FROM account_organization_ids WHERE organization_id = accounts.id)
             AND NOT EXISTS (SELECT 1 FROM artist_organization_ids WHERE artist_id = accounts.id)
             AND NOT EXISTS (SELECT 1 FROM artist_organization_ids WHERE organization_id = accounts.id)
             AND NOT EXISTS (SELECT 1 FROM account_api_keys WHERE account = accounts.id)",
    ),
    (
        Severity::Note,
        "idempotency keys of workspaces that are gone: they were deleted since",
        "SELECT workspace_id FROM idempotency_keys WHERE NOT EXISTS
             (SELECT 1 FROM account_workspace_ids owner WHERE owner.workspace_id = idempotency_keys.workspace_id)",
    ),
];

/// How many ids a finding names.
const NAMED: usize = 10;

pub(super) fn check(connection: &Connection, mut progress: Progress) -> Result<Check, DatabaseError> {
    let steps = ODDITIES.len() as u64 + 2;
    let mut findings = Vec::new();
    progress(0, steps);
    for damage in texts(connection, "PRAGMA integrity_check")? {
        if damage != "ok" {
            findings.push(Finding { severity: Severity::Error, what: damage, ids: Vec::new() });
        }
    }
    progress(1, steps);
    for table in texts(connection, "SELECT DISTINCT \"table\" FROM pragma_foreign_key_check")? {
        let what = format!("rows of {table} refer to rows that are not there");
        findings.push(Finding { severity: Severity::Error, what, ids: Vec::new() });
    }
    for (done, (severity, what, query)) in (2..).zip(ODDITIES) {
        progress(done, steps);
        let ids = connection.prepare(query)?.query_map([], |row| row.get(0))?.collect::<Result<Vec<Uuid>, _>>()?;
        if !ids.is_empty() {
            let what = format!("{} {what}", ids.len());
            findings.push(Finding { severity, what, ids: ids.into_iter().take(NAMED).collect() });
        }
    }
    progress(steps, steps);
    findings.sort_by_key(|finding| finding.severity);
    let count = |query| connection.query_row(query, [], |row| row.get(0));
    Ok(Check {
        schema: i32::try_from(open::version(connection)?).unwrap_or(i32::MAX),
        accounts: count("SELECT count(*) FROM accounts")?,
        workspaces: count("SELECT count(DISTINCT workspace_id) FROM account_workspace_ids")?,
        findings,
    })
}

fn texts(connection: &Connection, query: &str) -> Result<Vec<String>, rusqlite::Error> {
    connection.prepare(query)?.query_map([], |row| row.get(0))?.collect()
}

/// Pages copied between two reports of progress.
const STEP: i32 = 1024;

pub(super) fn backup(source: &Connection, to: &Path, mut progress: Progress) -> Result<(), DatabaseError> {
    let unusable =
        |error: &dyn std::fmt::Display| DatabaseError::Unusable(format!("{} can't be written: {error}", to.display()));
    if to.exists() {
        return Err(DatabaseError::Exists(to.display().to_string()));
    }
    // Beside the file it becomes when it is whole: what stops half-way is no backup.
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let _ = fs::remove_file(partial);

    // One state of the database for all steps: without it, each write of a server would start the
    // copy anew. The log grows meanwhile, up to its limit.
    let reading = source.unchecked_transaction()?;
    open::version(&reading)?;
    {
        let mut copy = Connection::open(partial).map_err(|error| unusable(&error))?;
        let backup = backup::Backup::new(source, &mut copy)?;
        loop {
            let more = match backup.step(STEP)? {
                backup::StepResult::Done => false,
                backup::StepResult::More => true,
                _ => return Err(Error::Unavailable("the database is locked".into()).into()),
            };
            let backup::Progress { remaining, pagecount } = backup.progress();
            progress(
                u64::try_from(pagecount - remaining).unwrap_or_default(),
                u64::try_from(pagecount).unwrap_or_default(),
            );
            if !more {
                break;
            }
        }
        drop(backup);
        let verdict: String = copy.query_row("PRAGMA quick_check", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(unusable(&verdict));
        }
    }
    let in_folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(partial)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(partial, to))
        .and_then(|()| fs::File::open(in_folder)?.sync_all())
        .map_err(|error| unusable(&error))
}
