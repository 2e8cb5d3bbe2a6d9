//! A connection in use: the one place that commits, and what its errors mean.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, config::DbConfig, ffi};

use super::{DatabaseError, Error, Options};

/// How many pages the log holds before they are copied into the database; SQLite's own default.
const CHECKPOINT_PAGES: u32 = 1000;

/// A connection, and what is known of the disk under it.
pub(super) struct Session {
    /// For reading. What is written goes through [`write`](Self::write).
    pub(super) connection: Connection,
    /// Pages in the log, as of the last commit.
    log_pages: Arc<AtomicU32>,
    /// How many there may be while they can't be copied.
    log_limit: u32,
    /// Why nothing is written any more.
    halted: Option<String>,
}

impl Session {
    pub(super) fn new(mut connection: Connection, options: &Options) -> Result<Self, DatabaseError> {
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
        Ok(Self { connection, log_pages, log_limit, halted: None })
    }

    /// Does the work in a transaction of its own, and commits it: only then may an answer say that
    /// anything was written.
    pub(super) fn write<T, E: From<Error>>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.require_writable()?;
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(Error::from)?;
        let value = work(&transaction)?;
        match transaction.commit() {
            Ok(()) => Ok(value),
            Err(error) => Err(self.not_committed(&error).into()),
        }
    }

    pub(super) fn require_writable(&mut self) -> Result<(), Error> {
        if let Some(reason) = &self.halted {
            return Err(Error::Unavailable(reason.clone()));
        }
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

    /// What a failed commit means.
    fn not_committed(&mut self, error: &rusqlite::Error) -> Error {
        match error.sqlite_error_code() {
            // Refused before the last of the log was written, without which there is no transaction.
            Some(ErrorCode::DatabaseBusy | ErrorCode::ConstraintViolation | ErrorCode::DiskFull) => error.into(),
            _ => {
                self.halt_if_unsynced(error);
                Error::Unknown(error.to_string())
            }
        }
    }

    /// After a failed sync nobody knows what is on the disk, and the next sync may say that all is
    /// well: the system has dropped the pages it could not write. So there is no next one.
    fn halt_if_unsynced(&mut self, error: &rusqlite::Error) {
        let code = error.sqlite_error().map(|error| error.extended_code);
        if matches!(code, Some(ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC)) {
            tracing::error!(%error, "the disk could not be synced: nothing is written until the program is started again");
            self.halted = Some(format!("writing has stopped: {error}"));
            // Closing the last connection would copy the log into the database, and delete it.
            let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }

    /// Copies the log into the database where enough has gathered. Called between writes, when
    /// nobody waits for an answer.
    pub(super) fn tidy(&mut self) {
        if self.halted.is_none() && self.log_pages.load(Relaxed) >= CHECKPOINT_PAGES {
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
                tracing::error!(%error, "the log could not be copied into the database: it is tried again");
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

impl From<&rusqlite::Error> for Error {
    /// Of a statement within a transaction, which rolls back: nothing was written.
    fn from(error: &rusqlite::Error) -> Self {
        let code = error.sqlite_error().map(|error| error.extended_code);
        match code {
            // An account that the grant names is gone.
            Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => Self::AccessLost,
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        (&error).into()
    }
}

impl From<rusqlite::Error> for DatabaseError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Storage(error.into())
    }
}
