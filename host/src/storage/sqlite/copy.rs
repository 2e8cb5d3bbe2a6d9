//! Copy of a database while it is in use.

use std::{fs, path::Path};

use rusqlite::{Connection, backup};

use super::{DatabaseError, Error};
use crate::{private, storage::Progress};

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
    // A transaction begins with its first read.
    reading.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
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
