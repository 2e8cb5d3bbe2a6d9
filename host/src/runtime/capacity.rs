//! Capacity: how many requests may be in progress and how many sandboxes may run, of the host and of each tenant.

use std::{num::NonZero, sync::Arc, thread::available_parallelism};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::{Pool, Sandboxes, delay::Delay};

/// Maximum number of rehearsals at once. They have capacity of their own: a better component can be loaded while
/// clients take all of the rest.
pub(super) const REHEARSALS: usize = 2;

/// Capacity that all tenants of a host share.
pub(super) struct Capacity {
    /// Requests that may be in progress at once, in all.
    total: usize,
    places: Semaphore,
    pub(super) running: Arc<Semaphore>,
    /// Lanes for sandboxes that take long: one for two processors.
    pub(super) lanes: Arc<Semaphore>,
    lanes_in_all: usize,
    /// Places of sandboxes that take long.
    slow: Arc<Semaphore>,
    slow_in_all: usize,
    pub(super) rehearsals: Semaphore,
}

impl Capacity {
    pub(super) fn new(pool: &Pool) -> Self {
        let total = pool.places();
        let lanes = available_parallelism().map_or(1, NonZero::get).div_ceil(2);
        Self {
            total,
            places: Semaphore::new(total),
            running: semaphore(pool.concurrency.max(1)),
            lanes: semaphore(lanes),
            lanes_in_all: lanes,
            slow: semaphore(pool.slow),
            slow_in_all: pool.slow,
            rehearsals: Semaphore::new(REHEARSALS),
        }
    }

    /// Returns how many requests are in progress.
    pub(super) fn in_progress(&self) -> usize {
        self.total.saturating_sub(self.places.available_permits())
    }

    /// Returns how many sandboxes run, where `concurrency` may.
    pub(super) fn running(&self, concurrency: usize) -> usize {
        let slow = self.lanes_in_all.saturating_sub(self.lanes.available_permits());
        concurrency.saturating_sub(self.running.available_permits()) + slow
    }
}

/// Capacity of one tenant, a part of its host's. Clones share it.
#[derive(Clone)]
pub(crate) struct TenantCapacity {
    sandboxes: Sandboxes,
    tenant: Arc<Tenant>,
}

struct Tenant {
    /// Maximum number of its requests in progress.
    most: usize,
    places: Semaphore,
    running: Arc<Semaphore>,
    /// Maximum number of its sandboxes that run, and so of those that take long.
    most_running: usize,
    /// Counts its sandboxes that take long.
    slow: Arc<Semaphore>,
    delay: Delay,
}

/// Permits of a sandbox that takes long, of its tenant and of the host.
pub(super) type SlowPlace = [OwnedSemaphorePermit; 2];

/// Returns whether a tenant that has `own` of the `total` places, of which some are `left`, has its share of them where
/// it competes with others: no more than it leaves free. Any number of overloaded tenants settle at equal parts, and a
/// tenant that has none finds one.
pub(crate) fn has_its_share(own: usize, left: usize, total: usize) -> bool {
    let is_alone = own.saturating_add(left) >= total;
    own > 0 && own >= left && !is_alone
}

/// Permit of a request in progress, of its tenant and of the host, until it is dropped.
pub(crate) struct Place<'a> {
    _own: SemaphorePermit<'a>,
    _host: SemaphorePermit<'a>,
}

impl TenantCapacity {
    /// Returns a tenant's capacity, with its maximum of requests in progress and of sandboxes that run.
    pub(super) fn new(sandboxes: Sandboxes, most: usize, running: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        // A tenant's requests wait in a line of its own, and never have more than that in the host's.
        let most_running = running.min(sandboxes.pool().concurrency).max(1);
        let tenant = Tenant {
            most,
            places: Semaphore::new(most),
            running: semaphore(most_running),
            most_running,
            slow: semaphore(most_running),
            delay: Delay::default(),
        };
        Self { sandboxes, tenant: Arc::new(tenant) }
    }

    /// Returns the sandboxes that all tenants share.
    pub(super) fn sandboxes(&self) -> &Sandboxes {
        &self.sandboxes
    }

    /// Returns the tenant's semaphore of sandboxes that run.
    pub(super) fn running(&self) -> Arc<Semaphore> {
        self.tenant.running.clone()
    }

    /// Returns the maximum number of the tenant's requests in progress.
    pub(crate) fn most(&self) -> usize {
        self.tenant.most
    }

    /// Returns how many of the tenant's requests are in progress.
    pub(crate) fn in_progress(&self) -> usize {
        self.tenant.most.saturating_sub(self.tenant.places.available_permits())
    }

    /// Returns the maximum number of requests in progress of all tenants.
    pub(crate) fn total(&self) -> usize {
        self.host().total
    }

    /// Returns how many more requests of any tenant may be in progress now.
    pub(crate) fn left(&self) -> usize {
        self.host().places.available_permits()
    }

    /// Returns the time that the tenant's requests wait for their turn.
    pub(super) fn delay(&self) -> &Delay {
        &self.tenant.delay
    }

    /// Returns whether a request would wait for longer than the pool's target.
    pub(crate) fn is_late(&self) -> bool {
        self.tenant.delay.expected() > self.sandboxes.pool().target_delay
    }

    /// Takes a place for a sandbox that takes long, without waiting; `None` where the tenant has its share.
    pub(super) fn try_slow(&self) -> Option<SlowPlace> {
        let (tenant, host) = (&self.tenant, self.host());
        let own = tenant.most_running.saturating_sub(tenant.slow.available_permits());
        if has_its_share(own, host.slow.available_permits(), host.slow_in_all) {
            return None;
        }
        Some([tenant.slow.clone().try_acquire_owned().ok()?, host.slow.clone().try_acquire_owned().ok()?])
    }

    /// Takes a permit for a request in progress, without waiting; `None` where the tenant or the host has none left.
    pub(crate) fn try_place(&self) -> Option<Place<'_>> {
        let own = self.tenant.places.try_acquire().ok()?;
        Some(Place { _own: own, _host: self.host().places.try_acquire().ok()? })
    }

    pub(super) fn host(&self) -> &Capacity {
        self.sandboxes.capacity()
    }
}

fn semaphore(permits: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
}
