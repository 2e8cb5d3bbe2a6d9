//! A connection, the thread that owns it, and what its errors mean.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    thread,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, ffi::SQLITE_CONSTRAINT_FOREIGNKEY};
use tokio::sync::{mpsc, oneshot};

use super::Error;

/// The schema this version makes and reads, kept in the file as `user_version`.
const SCHEMA_VERSION: i32 = 1;

/// How long a connection waits for one of another process, such as `workspaces key create` beside a
/// running server.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How many calls may wait for a thread; further ones wait for a place before they are queued.
const QUEUE: usize = 1024;

/// Opens the file for writing and brings it to the schema.
pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    let unusable =
        |error: rusqlite::Error| Error::Unusable(format!("{} can't be used as a database: {error}", path.display()));
    let mut connection = Connection::open(path).map_err(unusable)?;
    configure(&connection).map_err(unusable)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(unusable)?;
    let journal_mode: String =
        connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).map_err(unusable)?;
    // FULL syncs the log at every commit: what was acknowledged survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL").map_err(unusable)?;
    let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).map_err(unusable)?;
    let foreign_keys: bool = connection.pragma_query_value(None, "foreign_keys", |row| row.get(0)).map_err(unusable)?;
    // A database in memory has no log to write ahead; some file systems can't hold one.
    if !matches!(&*journal_mode, "wal" | "memory") || synchronous != 2 || !foreign_keys {
        return Err(Error::Unusable(format!(
            "{} can't be set to WAL, synchronous=FULL and foreign keys: put it on a local file system",
            path.display()
        )));
    }
    match migrate(&mut connection).map_err(unusable)? {
        SCHEMA_VERSION => Ok(connection),
        version => Err(Error::Unusable(format!(
            "{} has schema {version}; this version of the program knows {SCHEMA_VERSION}: use the one that made it",
            path.display()
        ))),
    }
}

/// Opens a file that exists for reading alone.
pub(super) fn open_query_only(path: &Path) -> Result<Connection, Error> {
    let unusable = |error: rusqlite::Error| Error::Unusable(format!("{} can't be read: {error}", path.display()));
    // Read-write, since a reader of a log may have to recover it; the pragma keeps it from writing rows.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(unusable)?;
    configure(&connection).map_err(unusable)?;
    connection.pragma_update(None, "query_only", true).map_err(unusable)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)
}

/// Makes the tables where there are none, and returns the version of those that are there.
fn migrate(connection: &mut Connection) -> Result<i32, rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != 0 {
        return Ok(version);
    }
    transaction.execute_batch(include_str!("schema.sql"))?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()?;
    Ok(SCHEMA_VERSION)
}

/// Commits, after which alone an answer may say that something was written.
pub(super) fn commit(transaction: Transaction<'_>) -> Result<(), Error> {
    transaction.commit().map_err(|error| match error.sqlite_error_code() {
        // Refused before the log was written.
        Some(ErrorCode::DatabaseBusy | ErrorCode::ConstraintViolation) => error.into(),
        _ => Error::Unknown(error.to_string()),
    })
}

impl From<rusqlite::Error> for Error {
    /// Of a statement within a transaction, which rolls back: nothing was written.
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            // An account that the grant names is gone.
            Some(_)
                if error.sqlite_error().is_some_and(|error| error.extended_code == SQLITE_CONSTRAINT_FOREIGNKEY) =>
            {
                Self::AccessLost
            }
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A thread that owns a connection and runs calls on it in the order they come. It ends, and closes
/// the connection, when the last clone is gone.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    pub(super) fn start(name: &str, mut connection: Connection) -> Result<Self, Error> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    // A panic is that call's own: its transaction is rolled back, and its caller,
                    // whose channel it drops, is told that the outcome is not known.
                    let _ = catch_unwind(AssertUnwindSafe(|| job(&mut connection)));
                }
            })
            .map_err(|error| Error::Unusable(format!("no thread for the database: {error}")))?;
        Ok(Self { jobs })
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            if answer.is_closed() {
                return; // Nobody waits any more, and nothing was done.
            }
            // Nobody may wait by now: the call was made all the same, as the contract says.
            let _ = answer.send(call(connection));
        });
        self.jobs.send(job).await.map_err(|_| Error::Unavailable("the database thread has ended".into()))?;
        result
            .await
            .unwrap_or_else(|_| Err(Error::Unknown("the call on the database thread did not come to its end".into())))
    }
}
