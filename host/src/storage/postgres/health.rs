//! Health of the database, as the last statements showed it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::storage::{Created, Error};

/// The error that the last statements met, where it is the database's and not the request's. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Health(Arc<Mutex<Option<Error>>>);

impl Health {
    /// Remembers what a create says of the database. One that succeeds says nothing of the statements that others need.
    pub(super) fn observe(&self, outcome: &Result<Created, Error>) {
        match outcome {
            Ok(_) => {
                let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if !matches!(*last, Some(Error::Misconfigured(_))) {
                    *last = None;
                }
            }
            Err(error) => self.observe_error(error),
        }
    }

    /// Remembers an error, unless it is the request's own. One that needs an operator is logged once.
    pub(super) fn observe_error(&self, error: &Error) {
        if !matches!(error, Error::Misconfigured(_) | Error::Unavailable(_) | Error::Unknown(_)) {
            return;
        }
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(error, Error::Misconfigured(_)) && last.as_ref() != Some(error) {
            tracing::error!(%error, "database can't be used as it is set up, until an operator changes it");
        }
        *last = Some(error.clone());
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
