//! Checking a database, and copying it while it is in use.

use std::{fs, path::Path};

use rusqlite::{Connection, ErrorCode, backup};
use uuid::Uuid;

use super::{DatabaseError, Error, open};
use crate::{
    private,
    storage::{
        Check, Finding, Progress, Severity,
        database::{NAMED, ODDITIES},
    },
};

pub(super) fn check(connection: &Connection, mut progress: Progress) -> Result<Check, DatabaseError> {
    let steps = ODDITIES.len() as u64 + 2;
    let mut check = Check {
        schema: i32::try_from(open::version(connection)?).unwrap_or(i32::MAX),
        accounts: None,
        workspaces: None,
        findings: Vec::new(),
    };
    let damage = |what| Finding { severity: Severity::Error, what, ids: Vec::new() };
    progress(0, steps);
    let lines = match texts(connection, "PRAGMA integrity_check") {
        // Too damaged to be gone through.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => vec![error.to_string()],
        lines => lines?,
    };
    check.findings.extend(lines.into_iter().filter(|line| line != "ok").map(damage));
    if !check.findings.is_empty() {
        // What else it holds can't be asked: the rows are read from the same pages.
        progress(steps, steps);
        return Ok(check);
    }
    progress(1, steps);
    for table in texts(connection, "SELECT DISTINCT \"table\" FROM pragma_foreign_key_check")? {
        check.findings.push(damage(format!("rows of {table} refer to rows that are not there")));
    }
    for (done, (severity, what, query)) in (2..).zip(ODDITIES) {
        progress(done, steps);
        // The first schema has neither claims nor peppers.
        if check.schema < 2 && ["idempotency_keys", "key_peppers"].iter().any(|table| query.contains(table)) {
            continue;
        }
        let ids = connection.prepare(query)?.query_map([], |row| row.get(0))?.collect::<Result<Vec<Uuid>, _>>()?;
        if !ids.is_empty() {
            let what = format!("{} {what}", ids.len());
            check.findings.push(Finding { severity, what, ids: ids.into_iter().take(NAMED).collect() });
        }
    }
    progress(steps, steps);
    check.findings.sort_by_key(|finding| finding.severity);
    let count = |query| connection.query_row(query, [], |row| row.get(0)).map(Some);
    check.accounts = count("SELECT count(*) FROM accounts")?;
    check.workspaces = count("SELECT count(DISTINCT workspace_id) FROM account_workspace_ids")?;
    Ok(check)
}

fn texts(connection: &Connection, query: &str) -> Result<Vec<String>, rusqlite::Error> {
    connection.prepare(query)?.query_map([], |row| row.get(0))?.collect()
}

/// Pages copied between two reports of progress.
const STEP: i32 = 1024;

/// Copies the database into a new file.
pub(super) fn backup(source: &Connection, to: &Path, progress: Progress) -> Result<(), DatabaseError> {
    match to.exists() {
        true => Err(DatabaseError::Exists(to.display().to_string())),
        false => copy(source, to, progress),
    }
}

/// Copies the database into a file that its owner alone can read, in place of one that is there.
pub(super) fn copy(source: &Connection, to: &Path, mut progress: Progress) -> Result<(), DatabaseError> {
    let unusable =
        |error: &dyn std::fmt::Display| DatabaseError::Unusable(format!("{} can't be written: {error}", to.display()));
    // Beside the file it becomes when it is whole: what stops half-way is no backup.
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let _ = fs::remove_file(partial);
    private::create(partial).map_err(|error| unusable(&error))?;

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
