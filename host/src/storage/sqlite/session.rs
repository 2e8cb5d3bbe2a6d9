//! A connection in use: the one place that commits, and the meaning of a commit's errors.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, config::DbConfig, ffi};

use super::{
    DatabaseError, Error, SqliteOptions,
    clock::Clock,
    create::{self, Creation},
    failure::code,
    open::{BUSY_TIMEOUT, CHECKPOINT_PAGES},
    place::{Moved, Place},
};

/// Wait for the write lock after another process was seen to keep it: requests that queue must not wait one
/// [`BUSY_TIMEOUT`] after the other.
const LOCKED_TIMEOUT: Duration = Duration::from_millis(200);

/// Wait for readers of other processes when the database is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Least time between two rehearsals of a write.
const REHEARSED: Duration = Duration::from_secs(1);

/// A connection, and what is known of the disk under it.
pub(super) struct Session {
    /// The connection, for reading. Writes go through [`write`](Self::write).
    pub(super) connection: Connection,
    /// Its files; `None` for a database in memory and for a connection that only reads.
    place: Option<Place>,
    /// True for a connection that only reads.
    reads: bool,
    /// Pages in the log, as of the last commit.
    log_pages: Arc<AtomicU32>,
    /// Maximum number of pages while they can't be copied.
    log_limit: u32,
    /// Time of claims.
    pub(super) clock: Clock,
    /// Reason why nothing is written until the program is started again.
    halted: Option<String>,
    /// Error of the last write, until one succeeds. Refusals of one workspace do not count.
    fault: Option<Error>,
    /// Time of the last rehearsal.
    rehearsed: Option<Instant>,
    /// True where the database's file is not where it was.
    moved: bool,
    /// True where another process kept the write lock for the whole of the last wait.
    locked: bool,
}

impl Session {
    /// Returns a session that writes.
    pub(super) fn writer(
        mut connection: Connection,
        place: Option<Place>,
        options: &SqliteOptions,
    ) -> Result<Self, DatabaseError> {
        let log_pages = Arc::new(AtomicU32::new(0));
        let seen = log_pages.clone();
        let page_size: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(Error::from)?;
        connection
            .wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
                seen.store(u32::try_from(pages).unwrap_or_default(), Relaxed);
                Ok(())
            }))
            .map_err(Error::from)?;
        let log_limit = u32::try_from(options.log_limit / page_size.max(1)).unwrap_or(u32::MAX);
        Ok(Self { place, reads: false, log_pages, log_limit, ..Self::reader(connection) })
    }

    /// Returns a session that only reads.
    pub(super) fn reader(connection: Connection) -> Self {
        Self {
            connection,
            place: None,
            reads: true,
            log_pages: Arc::default(),
            log_limit: u32::MAX,
            clock: Clock::default(),
            halted: None,
            fault: None,
            rehearsed: None,
            moved: false,
            locked: false,
        }
    }

    /// Returns whether the session only reads.
    pub(super) fn reads(&self) -> bool {
        self.reads
    }

    /// Does the work in a transaction of its own, and commits it: only then may an answer say that
    /// anything was written.
    pub(super) fn write<T, E: From<Error>>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.require_writable()?;
        let begun = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate);
        let busy = begun.as_ref().is_err_and(|error| error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy));
        if busy != self.locked {
            let wait = if busy { LOCKED_TIMEOUT } else { BUSY_TIMEOUT };
            self.connection.busy_timeout(wait).map_err(Error::from)?;
            self.locked = busy;
        }
        let transaction = begun.map_err(|error| match busy {
            true => Error::Unavailable("another process holds the database's write lock".into()),
            false => error.into(),
        });
        let transaction = transaction.inspect_err(|error| self.fault = Some(error.clone()))?;
        let value = work(&transaction)?;
        if let Err(error) = transaction.commit() {
            let error = self.not_committed(&error);
            self.failed(&error);
            return Err(error.into());
        }
        // In a file that is not there any more, nothing that was committed is kept.
        self.require_unmoved().map_err(|error| Error::Unknown(error.to_string()))?;
        Ok(value)
    }

    /// Does the work of [`write`](Self::write), with the time of claims.
    pub(super) fn write_at<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, i64) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut clock = std::mem::take(&mut self.clock);
        let outcome = self.write(|transaction| {
            let time = match clock.now() {
                Some(time) => time,
                None => {
                    clock.begin(
                        transaction.query_row("SELECT max(created_at) FROM idempotency_keys", [], |row| row.get(0))?,
                    )
                }
            };
            work(transaction, time)
        });
        self.clock = clock;
        outcome
    }

    /// Takes in the error of a write, where it is not about one workspace alone.
    pub(super) fn failed(&mut self, error: &Error) {
        if matches!(error, Error::Misconfigured(_) | Error::Unavailable(_) | Error::Unknown(_)) {
            if matches!(error, Error::Misconfigured(_)) && self.fault.as_ref() != Some(error) {
                tracing::error!(%error, "database refuses every create until an operator changes it");
            }
            self.fault = Some(error.clone());
        }
    }

    /// Takes in that a workspace was created.
    pub(super) fn succeeded(&mut self) {
        self.fault = None;
    }

    /// Checks that a create could succeed now, by what the last writes came to. After one that failed, the answer
    /// comes from a rehearsal: a create that is rolled back, and a page that is committed.
    pub(super) fn require_ready(&mut self) -> Result<(), Error> {
        self.require_writable()?;
        let Some(fault) = self.fault.clone() else { return Ok(()) };
        if self.rehearsed.is_some_and(|last| last.elapsed() < REHEARSED) {
            return Err(fault);
        }
        self.rehearsed = Some(Instant::now());
        self.rehearse()?;
        self.fault = None;
        Ok(())
    }

    fn rehearse(&mut self) -> Result<(), Error> {
        let rehearsed = self.write_at(|transaction, time| {
            transaction.execute_batch("SAVEPOINT rehearsal")?;
            match create::create(transaction, &Creation::rehearsal(), time) {
                Err(error @ (Error::Misconfigured(_) | Error::Unavailable(_))) => return Err(error),
                // What refuses a workspace of this name may take others.
                _ => transaction.execute_batch("ROLLBACK TO rehearsal; RELEASE rehearsal")?,
            }
            // Written although it is the same.
            let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
            Ok(transaction.pragma_update(None, "user_version", version)?)
        });
        rehearsed.inspect_err(|error| self.failed(error))
    }

    fn require_writable(&mut self) -> Result<(), Error> {
        if self.reads {
            return Err(Error::Unavailable("the database is open for reading alone".into()));
        }
        if let Some(reason) = &self.halted {
            return Err(Error::Unavailable(reason.clone()));
        }
        self.require_unmoved()?;
        if self.log_pages.load(Relaxed) > self.log_limit {
            self.checkpoint();
            if self.log_pages.load(Relaxed) > self.log_limit {
                return Err(Error::Unavailable(
                    "the write-ahead log is at its limit: a long reader of the database keeps it from being shortened"
                        .into(),
                ));
            }
        }
        Ok(())
    }

    /// Checks that the files are where they were: what is written to a file that was removed is lost.
    fn require_unmoved(&mut self) -> Result<(), Error> {
        let Some(place) = &self.place else { return Ok(()) };
        match place.require_unmoved() {
            Ok(()) => {
                if std::mem::take(&mut self.moved) {
                    tracing::info!(path = %place.path().display(), "database file is back, writing goes on");
                }
                Ok(())
            }
            Err(Moved::NotKnown(reason)) => Err(Error::Unavailable(reason)),
            Err(moved @ Moved::Database(_)) => {
                if !std::mem::replace(&mut self.moved, true) {
                    tracing::error!(path = %place.path().display(), "{moved} while it was in use: nothing is written until it is back, with the -wal file beside it, or the program is started again");
                }
                Err(Error::Unavailable(format!("writing stopped: {moved}")))
            }
            Err(moved @ Moved::Log(_)) => {
                tracing::error!(path = %place.path().display(), "{moved} while it was in use: what it held is copied into the database, and nothing is written until the program is started again");
                self.checkpoint();
                let reason = format!("writing stopped: {moved}");
                self.halt(reason.clone());
                Err(Error::Unavailable(reason))
            }
        }
    }

    /// Returns what a failed commit means.
    fn not_committed(&mut self, error: &rusqlite::Error) -> Error {
        match error.sqlite_error_code() {
            // A constraint that is checked at the commit is one of the operator's: the schema here has none.
            Some(ErrorCode::ConstraintViolation) => Error::Refused(error.to_string()),
            // Refused before the last of the log was written, without which there is no transaction.
            Some(ErrorCode::DatabaseBusy | ErrorCode::DiskFull) => error.into(),
            _ => {
                self.halt_if_unsynced(error);
                Error::Unknown(error.to_string())
            }
        }
    }

    /// Stops writing after a failed sync: it is not known what is on the disk, and the next sync may say that all is
    /// well: the system has dropped the pages it could not write. So there is no next one.
    fn halt_if_unsynced(&mut self, error: &rusqlite::Error) {
        if matches!(code(error), Some(ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC)) {
            tracing::error!(%error, "disk sync failed, nothing is written until the program is restarted");
            self.halt(format!("writing stopped: {error}"));
        }
    }

    fn halt(&mut self, reason: String) {
        self.halted = Some(reason);
        self.leave_the_log();
    }

    /// Has the last connection leave the log as it is: to close it would copy the log into the database, and delete it.
    fn leave_the_log(&self) {
        let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }

    /// Copies the log into the database where enough has gathered. Called between writes, when
    /// nobody waits for an answer.
    pub(super) fn tidy(&mut self) {
        if self.halted.is_none() && !self.moved && self.log_pages.load(Relaxed) >= CHECKPOINT_PAGES {
            self.checkpoint();
        }
    }

    fn checkpoint(&mut self) {
        let result: Result<(u32, u32), _> =
            self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)));
        match result {
            // The next commit begins the log anew.
            Ok((pages, copied)) if pages == copied => self.log_pages.store(0, Relaxed),
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "checkpoint failed, retrying");
                self.halt_if_unsynced(&error);
            }
        }
    }

    /// Copies the whole log into the database, so that its file alone holds everything, and closes it.
    pub(super) fn close(mut self) {
        if self.reads || self.halted.is_some() {
            return;
        }
        if self.require_unmoved().is_err() {
            return self.leave_the_log();
        }
        let copied = self.connection.busy_timeout(CLOSE_TIMEOUT).and_then(|()| {
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))
        });
        match copied {
            Ok(false) => {}
            Ok(true) => tracing::warn!(
                "checkpoint blocked by a reader of another process, the -wal file is a part of the database"
            ),
            Err(error) => {
                tracing::error!(%error, "checkpoint failed, the -wal file is a part of the database");
                self.halt_if_unsynced(&error);
            }
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Session").field("halted", &self.halted).finish_non_exhaustive()
    }
}
