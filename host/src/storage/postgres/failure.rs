//! What a statement that failed leaves behind.

use deadpool_postgres::PoolError;
use tokio_postgres::{
    Error,
    error::{Severity, SqlState},
};

/// Why a statement has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was done: there was no connection to a server that takes writes. Trying again may help.
    Unreached(String),
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
        // Servers before 9.6 give it in their own language alone.
        let error = match refusal.parsed_severity() {
            Some(severity) => severity == Severity::Error,
            None => refusal.severity() == "ERROR",
        };
        Self::said(error, refusal.code(), text)
    }

    /// What the server said; `error` is that severity, in place of one of those that end the session.
    fn said(error: bool, code: &SqlState, text: String) -> Self {
        if !error {
            // The session ends, or the whole server, perhaps within COMMIT: while it waited for its
            // standby, or could not write its log.
            return Self::Lost(text);
        }
        match code.code() {
            // Serialization failures, deadlocks.
            "40001" | "40P01" => Self::RolledBack(text),
            // A statement prepared on another server connection: there is a pooler in between.
            "26000" | "42P05" => Self::RolledBack(text),
            // Completion unknown; connections, also a pooler's word for a server that died under it.
            "40003" => Self::Lost(text),
            code if code.starts_with("08") || code.starts_with("57P") => Self::Lost(text),
            // A server that has become a standby; a session that another's transaction was left open in.
            code if code.starts_with("25") => Self::Unreached(text),
            _ => Self::Refused(Some(code.clone()), text),
        }
    }

    /// Whether the session is of no more use.
    pub(super) fn ends_session(&self) -> bool {
        matches!(self, Self::Unreached(_) | Self::Lost(_))
    }

    pub(super) fn is_from_a_pooler(error: &Error) -> bool {
        error.code().is_some_and(|code| matches!(code.code(), "26000" | "42P05" | "08P01"))
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        Self::Unreached(match error {
            PoolError::Backend(error) => describe(&error),
            error => error.to_string(),
        })
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Unreached(text) | Self::RolledBack(text) | Self::Refused(_, text) | Self::Lost(text)) = self;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_in_a_session_that_goes_on_is_a_refusal() {
        let said = |error, code| Failure::said(error, &SqlState::from_code(code), String::new());
        for code in ["23505", "23503", "42P01", "53100", "55P03", "57014", "42501"] {
            assert!(matches!(said(true, code), Failure::Refused(..)), "{code}");
            // FATAL and PANIC: the same code may have come within COMMIT.
            assert!(matches!(said(false, code), Failure::Lost(_)), "{code}");
        }
        for code in ["08006", "08P01", "57P01", "57P02", "57P03", "40003"] {
            assert!(matches!(said(true, code), Failure::Lost(_)), "{code}");
        }
        for code in ["40001", "40P01", "26000", "42P05"] {
            assert!(matches!(said(true, code), Failure::RolledBack(_)), "{code}");
        }
        for code in ["25006", "25P02"] {
            assert!(matches!(said(true, code), Failure::Unreached(_)), "{code}");
        }
    }
}
