//! What a statement that failed leaves behind.

use deadpool_postgres::PoolError;
use tokio_postgres::{
    Error,
    error::{Severity, SqlState},
};

/// Why a statement has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was not sent: no connection could be had. Trying again may help.
    Unsent(String),
    /// The server rolled it back, for what may be over by the next try.
    RolledBack(String),
    /// The server refused it, and rolled it back.
    Refused(Option<SqlState>, String),
    /// It was sent, and the connection was lost before the answer: it may have been committed.
    Lost(String),
}

impl Failure {
    /// Of a statement that was sent.
    pub(super) fn of(error: &Error) -> Self {
        let text = describe(error);
        // Not the server's word: the connection broke, or the protocol on it.
        let Some(refusal) = error.as_db_error() else { return Self::Lost(text) };
        // The session ends, or the whole server, perhaps within COMMIT: while it waited for its standby,
        // or could not write its log.
        if !matches!(refusal.parsed_severity(), Some(Severity::Error)) && refusal.severity() != "ERROR" {
            return Self::Lost(text);
        }
        let code = refusal.code();
        match code.code() {
            // Serialization failures, deadlocks; a server that has become a standby.
            "40001" | "40P01" | "25006" => Self::RolledBack(text),
            // A statement prepared on another server connection: there is a pooler in between.
            "26000" | "42P05" => Self::RolledBack(text),
            // Completion unknown; connections, also a pooler's word for a server that died under it.
            "40003" => Self::Lost(text),
            code if code.starts_with("08") || code.starts_with("57P") => Self::Lost(text),
            _ => Self::Refused(Some(code.clone()), text),
        }
    }

    pub(super) fn is_from_a_pooler(error: &Error) -> bool {
        error.code().is_some_and(|code| matches!(code.code(), "26000" | "42P05" | "08P01"))
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        Self::Unsent(match error {
            PoolError::Backend(error) => describe(&error),
            error => error.to_string(),
        })
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Unsent(text) | Self::RolledBack(text) | Self::Refused(_, text) | Self::Lost(text)) = self;
        formatter.write_str(text)
    }
}

/// An error with its causes: the crate's own text names none.
pub(super) fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
