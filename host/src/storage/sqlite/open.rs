//! Opening a file: what it must be, and what is set on it.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, TransactionBehavior, config::DbConfig};

use super::DatabaseError;

/// How a database is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Make the file where there is none.
    pub create: bool,
    /// How many creates may share one transaction, and so one sync of the disk; 1 commits each alone.
    pub batch: usize,
    /// Sync the disk before an answer. Without it a power cut loses what was acknowledged: for
    /// databases to throw away, and to show that the tests of durability can fail.
    pub durable: bool,
    /// How large the write-ahead log may grow while somebody reads an old state of the database, in
    /// bytes; writes are refused above it, since the log can't be shortened until the reader is done.
    pub log_limit: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { create: true, batch: 64, durable: true, log_limit: 1 << 30 }
    }
}

/// The schema, a step a version; how many were taken is kept in the file as `user_version`.
const SCHEMA: [&str; 2] = [include_str!("schema/1.sql"), include_str!("schema/2.sql")];

/// How long a connection waits for one of another process, such as `workspaces key create` beside a
/// running server.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the file for writing and brings it to the schema.
pub(super) fn writer(path: &Path, options: &Options) -> Result<Connection, DatabaseError> {
    let unusable = |error: rusqlite::Error| {
        DatabaseError::Unusable(format!("{} can't be used as a database: {error}", path.display()))
    };
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if options.create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    } else if !path.exists() {
        return Err(DatabaseError::NotFound(format!(
            "database at {}: `workspaces database migrate` makes one",
            path.display()
        )));
    }
    let mut connection = Connection::open_with_flags(path, flags).map_err(unusable)?;
    if connection.is_readonly("main").map_err(unusable)? {
        return Err(DatabaseError::Unusable(format!(
            "{} is read-only: give this user leave to write it, and its folder",
            path.display()
        )));
    }
    let version = version(&connection).map_err(unusable)?;
    if version > SCHEMA.len() {
        return Err(DatabaseError::Unusable(format!(
            "{} has schema {version}; this version of the program knows {}: use the one that made it",
            path.display(),
            SCHEMA.len()
        )));
    }
    configure(&connection, options).map_err(|error| match error {
        Refused::By(error) => unusable(error),
        Refused::Setting(name) => DatabaseError::Unusable(format!(
            "{} does not take the setting {name}: put it on a local file system",
            path.display()
        )),
    })?;
    migrate(&mut connection).map_err(unusable)?;
    sync_what_was_recovered(&connection).map_err(unusable)?;
    Ok(connection)
}

/// Opens a file that exists for reading alone.
pub(super) fn reader(path: &Path) -> Result<Connection, DatabaseError> {
    let unusable =
        |error: rusqlite::Error| DatabaseError::Unusable(format!("{} can't be read: {error}", path.display()));
    // Read-write, since a reader of a log may have to recover it; the pragma keeps it from writing rows.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(unusable)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(unusable)?;
    keep_plans(&connection).map_err(unusable)?;
    connection.pragma_update(None, "query_only", true).map_err(unusable)?;
    // The writer alone decides whether the log may be copied: not after a failed sync.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(unusable)?;
    match connection.pragma_query_value(None, "query_only", |row| row.get(0)).map_err(unusable)? {
        true => Ok(connection),
        false => Err(DatabaseError::Unusable(format!("{} can't be opened for reading alone", path.display()))),
    }
}

/// The version of the schema that a file has.
pub(super) fn version(connection: &Connection) -> Result<usize, rusqlite::Error> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

enum Refused {
    By(rusqlite::Error),
    Setting(&'static str),
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        Self::By(error)
    }
}

/// Sets what durability rests on, and reads each setting back: SQLite leaves out silently what it
/// can't do.
fn configure(connection: &Connection, options: &Options) -> Result<(), Refused> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let mut statement = connection.prepare("PRAGMA journal_mode = WAL")?;
    let mut rows = statement.query([])?;
    // To the last row: SQLite says "wal" in the first, and only then sees whether the file took it.
    while let Some(row) = rows.next()? {
        // A database in memory has no log to write ahead.
        if !matches!(row.get_ref(0)?.as_str(), Ok("wal" | "memory")) {
            return Err(Refused::Setting("journal_mode=WAL"));
        }
    }
    // FULL syncs the log at every commit: what was acknowledged survives a power cut.
    let synchronous = if options.durable { 2 } else { 0 };
    for (name, value) in [
        ("synchronous", synchronous),
        ("foreign_keys", 1),
        // The session does it itself, and sees where it fails.
        ("wal_autocheckpoint", 0),
        // Nothing is written, and so nothing synced, before the commit, whose errors the session reads.
        ("cache_spill", 0),
        // Where a sync leaves the bytes in the drive's cache, as on macOS, past that too; nothing elsewhere.
        ("fullfsync", 1),
        ("checkpoint_fullfsync", 1),
    ] {
        connection.pragma_update(None, name, value)?;
        if connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0))? != value {
            return Err(Refused::Setting(name));
        }
    }
    keep_plans(connection)?;
    // Nothing in a file that somebody else wrote is run.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    Ok(())
}

/// Syncs the log: a transaction that a killed process had written and not yet synced is found in it,
/// and may be answered for, only when it is on the disk.
fn sync_what_was_recovered(connection: &Connection) -> Result<(), rusqlite::Error> {
    // What is copied into the database is synced before.
    let copied: bool =
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok(row.get_ref(1)? == row.get_ref(2)?))?;
    if !copied {
        // A reader of an old state keeps the rest from being copied. A commit syncs the whole log.
        connection.pragma_update(None, "user_version", version(connection)?)?;
    }
    Ok(())
}

/// Has statements keep the plan they were prepared with: SQLite would prepare one anew for each NULL
/// that is bound, which took a third of the time of a create.
fn keep_plans(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Takes the steps of the schema that are missing, all or none.
fn migrate(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    if version(connection)? == SCHEMA.len() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in SCHEMA.iter().skip(version(&transaction)?) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA.len())?;
    transaction.commit()
}
