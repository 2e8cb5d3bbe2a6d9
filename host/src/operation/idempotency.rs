//! Idempotency keys in use at this moment.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
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
    /// Returns a place for the claim; `None` where a request with its key is in progress.
    pub(super) fn enter(&self, claim: &Claim) -> Option<Place<'_>> {
        let claim = (claim.caller_id, claim.key.clone());
        let is_free = self.claims().insert(claim.clone());
        // Made only where it was free: to drop a place is to give it up.
        is_free.then(|| Place { among: self, claim })
    }

    fn claims(&self) -> MutexGuard<'_, HashSet<(Uuid, IdempotencyKey)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.among.claims().remove(&self.claim);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CreateWorkspaceRequest, auth::Caller, storage::InvalidKey};

    #[test]
    fn a_claim_has_one_place_until_it_is_given_up() -> Result<(), InvalidKey> {
        let claim = |caller: u128, key: &str| -> Result<Claim, InvalidKey> {
            let caller = Caller::new(Uuid::from_u128(caller));
            Ok(Claim::new(&caller, IdempotencyKey::new(key)?, &CreateWorkspaceRequest::default()))
        };
        let in_flight = InFlight::default();
        let place = in_flight.enter(&claim(1, "a")?);
        assert!(place.is_some());
        for _ in 0..2 {
            assert!(in_flight.enter(&claim(1, "a")?).is_none());
        }
        assert!(in_flight.enter(&claim(1, "b")?).is_some() && in_flight.enter(&claim(2, "a")?).is_some());
        drop(place);
        assert!(in_flight.enter(&claim(1, "a")?).is_some());
        Ok(())
    }
}
