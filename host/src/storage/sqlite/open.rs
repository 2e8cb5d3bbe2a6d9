//! Opening a file: what it must be, and what is set on it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, config::DbConfig};

use super::{DatabaseError, copy, place::Place};
use crate::private;

/// Options of an SQLite database.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Permission on the file.
    pub access: Access,
    /// Maximum number of creates that share one transaction, and so one sync of the disk; 1 commits each alone.
    pub batch: usize,
    /// Sync the disk before an answer. Without it a power cut loses what was acknowledged: for
    /// databases to throw away, and to show that the tests of durability can fail.
    pub durable: bool,
    /// Maximum size of the write-ahead log while somebody reads an old state of the database, in bytes. Writes are
    /// refused above it, since the log can't be shortened until the reader is done.
    pub log_limit: u64,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { access: Access::Migrate, batch: 64, durable: true, log_limit: 1 << 30 }
    }
}

/// Permission to read, write, create or migrate a file; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read it, with this version's schema or an earlier one. Works on a file that can't be written.
    Read,
    /// Write it, with this version's schema.
    Write,
    /// Create it where there is none.
    Create,
    /// Bring it to this version's schema, after a copy beside the file.
    Migrate,
}

/// Steps of the schema, one a version; how many were taken is kept in the file as `user_version`.
const SCHEMA: [&str; 4] = [
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
    include_str!("schema/4.sql"),
];

/// Wait of a connection for one of another process, such as `workspaces key create` beside a running server.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of pages that the log holds before they are copied into the database; SQLite's own default.
pub(super) const CHECKPOINT_PAGES: u32 = 1000;

/// Size that the log's file is cut to after it was larger, in bytes: twice what it holds in ordinary use.
const LOG_SIZE: i64 = 8 << 20;

/// Version of this program's schema.
#[cfg(feature = "cli")]
pub(super) const NEWEST: usize = SCHEMA.len();

/// Opens the file for writing and brings it to the schema. Returns its place too, if it has one.
pub(super) fn writer(path: &Path, options: &SqliteOptions) -> Result<(Connection, Option<Place>), DatabaseError> {
    let unusable = |error: &dyn std::fmt::Display| {
        DatabaseError::Unusable(format!("{} can't be used as a database: {error}", path.display()))
    };
    let in_memory = path == Path::new(super::MEMORY);
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut place = None;
    if !in_memory {
        if options.access >= Access::Create {
            // SQLite gives the files beside it the same permissions.
            private::create(path).map_err(|error| unusable(&error))?;
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
        } else {
            require_file(path)?;
        }
        private::warn_if_others_can_read(path, "the database");
        place = Some(Place::of(path).map_err(|error| unusable(&error))?);
    }
    let mut connection = Connection::open_with_flags(path, flags).map_err(|error| unusable(&error))?;
    if connection.is_readonly("main").map_err(|error| unusable(&error))? {
        return Err(DatabaseError::Unusable(format!(
            "{} is read-only: give this user leave to write it, and its folder",
            path.display()
        )));
    }
    let version = version(&connection).map_err(|error| unusable(&error))?;
    require_known(path, version)?;
    if version > 0 && version < SCHEMA.len() && options.access < Access::Migrate {
        return Err(DatabaseError::Unusable(format!(
            "{} has schema {version}, and this version of the program needs {}: `workspaces database migrate` brings it up to date",
            path.display(),
            SCHEMA.len()
        )));
    }
    configure(&connection, options).map_err(|error| match error {
        Refused::By(error) => unusable(&error),
        Refused::Setting(name) => DatabaseError::Unusable(format!(
            "{} does not take the setting {name}: put it on a local file system",
            path.display()
        )),
    })?;
    if version < SCHEMA.len() {
        let copy = match version {
            0 => None,
            _ => Some(copy_before_migration(&connection, path, version)?),
        };
        migrate(&mut connection).map_err(|error| unusable(&error))?;
        if let Some(copy) = copy {
            tracing::info!(path = %path.display(), from = version, to = SCHEMA.len(), copy = %copy.display(), "database brought to this version's schema, after a copy");
        }
    }
    sync_what_was_recovered(&connection).map_err(|error| unusable(&error))?;
    let place = place.map(Place::with_log).transpose().map_err(|error| unusable(&error))?;
    Ok((connection, place))
}

/// Opens a file that exists for reading alone.
pub(super) fn reader(path: &Path) -> Result<Connection, DatabaseError> {
    let unusable =
        |error: rusqlite::Error| DatabaseError::Unusable(format!("{} can't be read: {error}", path.display()));
    // Read-write, since a reader of a log may have to recover it; the pragma keeps it from writing rows.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(unusable)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(unusable)?;
    match version(&connection) {
        // In a folder that can't be written SQLite can make no index of the log. Without a log it needs none.
        Err(error)
            if matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
                && !has_log(path) =>
        {
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            connection = Connection::open_with_flags(immutable(path), flags).map_err(unusable)?;
        }
        version => drop(version.map_err(unusable)?),
    }
    keep_plans(&connection).map_err(unusable)?;
    connection.pragma_update(None, "query_only", true).map_err(unusable)?;
    // The writer alone decides whether the log may be copied: not after a failed sync.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(unusable)?;
    match connection.pragma_query_value(None, "query_only", |row| row.get(0)).map_err(unusable)? {
        true => Ok(connection),
        false => Err(DatabaseError::Unusable(format!("{} can't be opened for reading alone", path.display()))),
    }
}

/// Opens a file that nobody may be serving, for reading alone.
pub(super) fn only_reader(path: &Path) -> Result<Connection, DatabaseError> {
    require_file(path)?;
    let connection = reader(path)?;
    let version = version(&connection)?;
    require_known(path, version)?;
    match version {
        0 => Err(DatabaseError::Unusable(format!("{} is no database of this program", path.display()))),
        _ => Ok(connection),
    }
}

fn require_file(path: &Path) -> Result<(), DatabaseError> {
    match path.exists() {
        true => Ok(()),
        false => Err(DatabaseError::NotFound(format!(
            "database at {}: `workspaces database migrate` makes one",
            path.display()
        ))),
    }
}

fn require_known(path: &Path, version: usize) -> Result<(), DatabaseError> {
    match version <= SCHEMA.len() {
        true => Ok(()),
        false => Err(DatabaseError::Unusable(format!(
            "{} has schema {version}; this version of the program knows {}: use the one that made it",
            path.display(),
            SCHEMA.len()
        ))),
    }
}

/// Returns whether there is a log that holds anything.
fn has_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    fs::metadata(log).is_ok_and(|log| log.len() > 0)
}

/// Returns the path as the URI of a file that nobody writes.
fn immutable(path: &Path) -> PathBuf {
    let path = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    format!("file:{path}?immutable=1").into()
}

/// Returns the version of the schema that a file has.
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
fn configure(connection: &Connection, options: &SqliteOptions) -> Result<(), Refused> {
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
        // After a long reader the log's file is cut to this size, and not kept for ever.
        ("journal_size_limit", LOG_SIZE),
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

/// Copies the database into a file beside it, in place of an earlier copy of the same schema, and returns its path.
fn copy_before_migration(connection: &Connection, path: &Path, version: usize) -> Result<PathBuf, DatabaseError> {
    let mut to = path.as_os_str().to_owned();
    to.push(format!(".schema-{version}"));
    let to = PathBuf::from(to);
    copy::copy(connection, &to, Box::new(|_, _| {}))?;
    Ok(to)
}

/// Takes the steps of the schema that are missing, all or none.
fn migrate(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in SCHEMA.iter().skip(version(&transaction)?) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA.len())?;
    transaction.commit()
}
