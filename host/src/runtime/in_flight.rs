//! Which idempotency keys are in use at this moment.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use uuid::Uuid;

use crate::storage::{Claim, IdempotencyKey};

/// The claims of requests in progress in this process. Another process's requests meet the same
/// claim in storage.
#[derive(Debug, Default)]
pub(super) struct InFlight(Mutex<HashSet<(Uuid, IdempotencyKey)>>);

/// A claim's place among them, given up when dropped.
pub(super) struct Place<'a> {
    among: &'a InFlight,
    claim: (Uuid, IdempotencyKey),
}

impl InFlight {
    /// A place for the claim; `None` where a request with its key is in progress.
    pub(super) fn enter(&self, claim: &Claim) -> Option<Place<'_>> {
        let claim = (claim.caller_id, claim.key.clone());
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(claim.clone())
            .then_some(Place { among: self, claim })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.among.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.claim);
    }
}
