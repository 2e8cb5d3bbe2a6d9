//! Check of a database for damage and half-made workspaces.

use rusqlite::{Connection, ErrorCode};
use uuid::Uuid;

use super::{DatabaseError, open};
use crate::storage::{
    Check, Finding, Progress, Severity,
    database::{NAMED, ODDITIES},
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
