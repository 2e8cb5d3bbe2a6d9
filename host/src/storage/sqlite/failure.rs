//! Meaning of SQLite's errors.

use std::ffi::c_int;

use rusqlite::{Error as Sql, ffi};

use super::{DatabaseError, Error};

/// Returns SQLite's extended code, where the error has one.
pub(super) fn code(error: &Sql) -> Option<c_int> {
    match error {
        Sql::SqliteFailure(error, _) | Sql::SqlInputError { error, .. } => Some(error.extended_code),
        _ => None,
    }
}

impl From<&Sql> for Error {
    /// Converts the error of a statement within a transaction, which rolls back: nothing was written.
    fn from(error: &Sql) -> Self {
        let Some(code) = code(error) else {
            return match error {
                // A column of another type than this version's.
                Sql::FromSqlConversionFailure(..)
                | Sql::IntegralValueOutOfRange(..)
                | Sql::InvalidColumnIndex(_)
                | Sql::InvalidColumnName(_)
                | Sql::InvalidColumnType(..) => Self::Misconfigured(error.to_string()),
                _ => Self::Unavailable(error.to_string()),
            };
        };
        match code {
            // An account that the grant names is gone.
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Self::AccessLost,
            // A rule about the data, which other data may keep.
            ffi::SQLITE_CONSTRAINT_CHECK
            | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
            | ffi::SQLITE_CONSTRAINT_ROWID
            | ffi::SQLITE_CONSTRAINT_TRIGGER
            | ffi::SQLITE_CONSTRAINT_UNIQUE => Self::Refused(error.to_string()),
            _ => match code & 0xff {
                ffi::SQLITE_TOOBIG => Self::Refused(error.to_string()),
                // A column without a value or of another type, a table or column that is missing, no permission.
                ffi::SQLITE_CONSTRAINT
                | ffi::SQLITE_ERROR
                | ffi::SQLITE_AUTH
                | ffi::SQLITE_MISMATCH
                | ffi::SQLITE_PERM
                | ffi::SQLITE_RANGE => Self::Misconfigured(error.to_string()),
                _ => Self::Unavailable(error.to_string()),
            },
        }
    }
}

impl From<Sql> for Error {
    fn from(error: Sql) -> Self {
        (&error).into()
    }
}

impl From<Sql> for DatabaseError {
    fn from(error: Sql) -> Self {
        Self::Storage(error.into())
    }
}
