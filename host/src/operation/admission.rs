//! Admission: which requests are in progress.
//!
//! A request in progress holds a [`Place`]. A tenant whose database hangs holds its own places, and keeps no other
//! tenant from running.

use tokio::sync::{Semaphore, SemaphorePermit};

pub(super) use crate::runtime::Place;
use crate::{
    error::{Error, RETRY_AFTER},
    runtime::{TenantCapacity, has_its_share},
};

/// Admission of one tenant's requests.
pub(super) struct Admission {
    capacity: TenantCapacity,
    /// Look-ups of credentials at once.
    look_ups: Semaphore,
    /// Counts the requests whose credential is looked up, or waits for that.
    arrivals: Semaphore,
}

impl Admission {
    /// Returns the admission to this capacity.
    pub(super) fn new(capacity: TenantCapacity) -> Self {
        let look_ups = capacity.most().min(capacity.total()).clamp(1, Semaphore::MAX_PERMITS);
        let arrivals = Semaphore::new(Semaphore::MAX_PERMITS);
        Self { capacity, look_ups: Semaphore::new(look_ups), arrivals }
    }

    /// Waits for the right to look up a credential, of which a tenant has as many as places. Strangers then
    /// hold no place, and the tenant's own callers wait behind them only for as long as look-ups take.
    ///
    /// # Errors
    ///
    /// [`Error::OverShare`] where `most` requests of the tenant look one up or wait for that.
    pub(super) async fn look_up(&self, most: usize) -> Result<LookUp<'_>, Error> {
        let Self { look_ups, arrivals, .. } = self;
        let over_share = || Error::OverShare { retry_after: RETRY_AFTER };
        if Semaphore::MAX_PERMITS - arrivals.available_permits() >= most {
            return Err(over_share());
        }
        let arrival = arrivals.try_acquire().map_err(|_| over_share())?;
        // Never closed, and so never an error.
        let look_up = look_ups.acquire().await.map_err(|_| over_share())?;
        Ok(LookUp { _look_up: look_up, _arrival: arrival })
    }

    /// Checks that a request could take a place now.
    ///
    /// # Errors
    ///
    /// As [`enter`](Self::enter).
    pub(super) fn require_place(&self, most: usize) -> Result<(), Error> {
        let (own, left) = (self.capacity.in_progress(), self.capacity.left());
        if own >= most.min(self.capacity.most()) || has_its_share(own, left, self.capacity.total()) {
            return Err(Error::OverShare { retry_after: RETRY_AFTER });
        }
        if left == 0 || self.capacity.is_late() { Err(Error::Overloaded) } else { Ok(()) }
    }

    /// Takes a place among the requests in progress, without waiting, where the tenant has fewer than
    /// `most` of them.
    ///
    /// A tenant that competes with others gets no more places than are left. Any number of overloaded
    /// tenants then settle at equal parts, and a tenant without any request in progress finds a place.
    ///
    /// # Errors
    ///
    /// [`Error::OverShare`] where the tenant has its share, [`Error::Overloaded`] where the host has no
    /// place left or the request would wait too long for its turn.
    pub(super) fn enter(&self, most: usize) -> Result<Place<'_>, Error> {
        self.require_place(most)?;
        self.capacity.try_place().ok_or(Error::Overloaded)
    }
}

/// A request's right to have its credential looked up, until it is dropped.
pub(super) struct LookUp<'a> {
    _look_up: SemaphorePermit<'a>,
    _arrival: SemaphorePermit<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{LoadError, Pool, Sandboxes};

    /// Has each tenant take places in turns until none gets another.
    fn fill(tenants: &[Admission]) -> Vec<Place<'_>> {
        let mut places = Vec::new();
        loop {
            let before = places.len();
            places.extend(tenants.iter().filter_map(|tenant| tenant.enter(usize::MAX).ok()));
            if places.len() == before {
                return places;
            }
        }
    }

    fn tenants(count: usize, most: usize) -> Result<Vec<Admission>, LoadError> {
        let sandboxes = Sandboxes::new(Pool { concurrency: 4, queue: 28, ..Pool::default() })?;
        Ok((0..count).map(|_| Admission::new(sandboxes.tenant_capacity(most, 1))).collect())
    }

    #[test]
    fn overloaded_tenants_settle_at_equal_parts_and_a_newcomer_finds_a_place() -> Result<(), LoadError> {
        for (count, expected) in [(1, 8..=8), (2, 8..=8), (3, 8..=8), (4, 6..=7), (16, 1..=2)] {
            let tenants = tenants(count + 1, 8)?;
            let (newcomer, overloaded) = tenants.split_last().ok_or(LoadError::Limits("none".into()))?;
            let _places = fill(overloaded);
            let held: Vec<_> = overloaded.iter().map(|tenant| tenant.capacity.in_progress()).collect();
            assert!(held.iter().all(|places| expected.contains(places)), "{held:?}");
            assert!(newcomer.enter(usize::MAX).is_ok(), "{held:?}");
        }
        Ok(())
    }

    #[test]
    fn a_tenant_alone_has_all_places_where_its_share_is_all_of_the_host() -> Result<(), LoadError> {
        let tenants = tenants(1, usize::MAX)?;
        assert_eq!(fill(&tenants).len(), 32);
        Ok(())
    }

    #[test]
    fn a_place_is_free_again_when_it_is_dropped_and_none_is_taken_beyond_the_callers_maximum() -> Result<(), LoadError>
    {
        let tenants = tenants(1, 8)?;
        for _ in 0..3 {
            let first = tenants[0].enter(1);
            assert!(first.is_ok() && matches!(tenants[0].enter(1), Err(Error::OverShare { .. })));
        }
        Ok(())
    }
}
