//! Failures of statements, by what they leave behind.

use tokio_postgres::{
    Error,
    error::{DbError, Severity, SqlState},
};

/// Reason why a statement has no result.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// No connection to a server that takes writes: nothing was done, and a retry may help.
    Unreached(String),
    /// The server rolled it back for a reason that may be over by the next try.
    RolledBack(String),
    /// The server rolled it back because of the row's values: the same statement fails again.
    Refused(SqlState, String),
    /// The server rolled it back because of its schema, its settings, or the role's rights.
    Misconfigured(Option<SqlState>, String),
    /// The server rolled it back for another reason: a lock, a full disk.
    Failed(String),
    /// The connection was lost after it was sent and before the answer: it may have been committed.
    Lost(String),
    /// Commit on this server whose wait for the standby was cancelled.
    NotReplicated,
}

impl Failure {
    /// Classifies the error of a statement that was sent.
    pub(super) fn of(error: &Error) -> Self {
        let text = describe(error);
        // No answer of the server: the connection broke, or the protocol on it.
        let Some(refusal) = error.as_db_error() else { return Self::Lost(text) };
        // Servers before 9.6 give it in their own language alone.
        let session_goes_on = match refusal.parsed_severity() {
            Some(severity) => severity == Severity::Error,
            None => refusal.severity() == "ERROR",
        };
        if refusal.routine() == Some("RevalidateCachedQuery") {
            // A table was altered since the statement was prepared: a new session prepares it anew.
            return Self::Unreached(text);
        }
        Self::classify(session_goes_on, refusal.code(), text)
    }

    /// Classifies by SQLSTATE; `session_goes_on` is false for FATAL and PANIC.
    fn classify(session_goes_on: bool, code: &SqlState, text: String) -> Self {
        if !session_goes_on {
            // The session ends, or the whole server, perhaps within COMMIT: while it waited for its
            // standby, or could not write its log.
            return Self::Lost(text);
        }
        let (class, code_text) = (code.code().get(..2).unwrap_or_default(), code.code());
        match (class, code_text) {
            // Completion unknown; connections, also a pooler's error for a server that died under it.
            (_, "40003") | ("08", _) => Self::Lost(text),
            (_, code) if code.starts_with("57P") => Self::Lost(text),
            // Serialization failures, deadlocks.
            ("40", _) => Self::RolledBack(text),
            // A statement prepared on another server connection: there is a pooler in between.
            (_, "26000" | "42P05") => Self::RolledBack(text),
            // A server that has become a standby; a session in which another's transaction was left open.
            ("25", _) => Self::Unreached(text),
            // A column that is null for each workspace; syntax and rights; functions of triggers that break;
            // schemas and databases that are missing; views that can't be written.
            (_, "23502") | ("42" | "2F" | "38" | "39" | "3D" | "3F" | "0A" | "0L" | "0P" | "28", _) => {
                Self::Misconfigured(Some(code.clone()), text)
            }
            // Resources, locks and statements that were cancelled; the system; internal errors.
            ("53" | "55" | "57" | "58" | "72" | "F0" | "HV" | "XX", _) | (_, "54001") => Self::Failed(text),
            // Values, constraints, exceptions that a trigger raises, under a code of its own too.
            _ => Self::Refused(code.clone(), text),
        }
    }

    /// Returns the server's code, for failures that say the same each time.
    pub(super) fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Refused(code, _) => Some(code),
            Self::Misconfigured(code, _) => code.as_ref(),
            _ => None,
        }
    }

    /// Returns whether the session is of no more use: it is at a server that was lost, or its plans are of a time
    /// when the role had other rights.
    pub(super) fn ends_session(&self) -> bool {
        match self {
            Self::Unreached(_) | Self::Lost(_) => true,
            Self::Misconfigured(Some(code), _) => *code == SqlState::INSUFFICIENT_PRIVILEGE,
            _ => false,
        }
    }

    pub(super) fn is_from_a_pooler(error: &Error) -> bool {
        error.code().is_some_and(|code| matches!(code.code(), "26000" | "42P05" | "08P01"))
    }
}

/// Returns whether a notice says that a commit no longer waits for the standby. By the server's routine: the
/// message is in the server's language.
pub(super) fn ends_wait_for_standby(notice: &DbError) -> bool {
    notice.routine() == Some("SyncRepWaitForLSN")
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Unreached(text)
            | Self::RolledBack(text)
            | Self::Refused(_, text)
            | Self::Misconfigured(_, text)
            | Self::Failed(text)
            | Self::Lost(text) => text,
            Self::NotReplicated => "the wait for the standby was cancelled",
        })
    }
}

/// Returns whether a server refused the password, or asked for one that is missing.
pub(super) fn is_of_the_password(error: &Error) -> bool {
    match error.code() {
        Some(code) => *code == SqlState::INVALID_PASSWORD,
        // The driver's own error, which has no kind.
        None => describe(error).contains("password missing"),
    }
}

/// Returns an error with its causes: the crate's own text names none.
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
    fn a_code_says_what_is_left_behind() {
        let classify = |goes_on, code| Failure::classify(goes_on, &SqlState::from_code(code), String::new());
        for code in ["22001", "22003", "23505", "23503", "23514", "23P01", "P0001", "44000", "54000", "ZZ123"] {
            assert!(matches!(classify(true, code), Failure::Refused(..)), "{code}");
            // FATAL and PANIC: the same code may have come within COMMIT.
            assert!(matches!(classify(false, code), Failure::Lost(_)), "{code}");
        }
        for code in ["23502", "42P01", "42703", "42501", "42P10", "3F000", "39P01"] {
            assert!(matches!(classify(true, code), Failure::Misconfigured(..)), "{code}");
            assert!(matches!(classify(false, code), Failure::Lost(_)), "{code}");
        }
        for code in ["53100", "53200", "55P03", "57014", "XX000", "54001"] {
            assert!(matches!(classify(true, code), Failure::Failed(_)), "{code}");
        }
        for code in ["08006", "08P01", "57P01", "57P02", "57P03", "40003"] {
            assert!(matches!(classify(true, code), Failure::Lost(_)), "{code}");
        }
        for code in ["40001", "40P01", "26000", "42P05"] {
            assert!(matches!(classify(true, code), Failure::RolledBack(_)), "{code}");
        }
        for code in ["25006", "25P02"] {
            assert!(matches!(classify(true, code), Failure::Unreached(_)), "{code}");
        }
    }
}
