//! Admission: which requests are in progress, and which of those run.
//!
//! A request in progress holds a [`Place`]. Its sandbox holds a [`Turn`] while it executes, and gives the
//! turn back while it waits for the host. A tenant whose database hangs therefore holds places, which are
//! its own, and no turns, which others need. A sandbox that takes long goes on in a lane of its own:
//! components that loop leave the processors to those that do not.

use std::{
    future::{Future, poll_fn},
    num::NonZero,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    thread::available_parallelism,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    task::yield_now,
    time::{sleep, timeout},
};

use super::{Error, Pool, Sandboxes, TICK};

/// Recommended pause of a client whose request was refused: by then the requests before it are served.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Maximum time that the rehearsal of a component waits for its slot, and for its turn.
const REHEARSAL_WAIT: Duration = Duration::from_secs(30);

/// Slots for rehearsals, beside those of requests: where clients take all of those, a better component
/// must come in all the same.
pub(super) const REHEARSALS: usize = 2;

/// Pause of a lane between two ticks while other tenants have requests in progress: components that loop then
/// take a quarter of the lane's processor. tokio's timers are no finer than a tick.
const REST: Duration = TICK.saturating_mul(3);

/// Capacity that all tenants of a host share.
pub(super) struct Capacity {
    /// Requests that may be in progress at once, in all.
    total: usize,
    places: Semaphore,
    running: Arc<Semaphore>,
    /// Lanes for sandboxes that take long: one for two processors.
    slow: Arc<Semaphore>,
    lanes: usize,
    rehearsals: Semaphore,
}

impl Capacity {
    pub(super) fn new(pool: &Pool) -> Self {
        let total = pool.places();
        let lanes = available_parallelism().map_or(1, NonZero::get).div_ceil(2);
        Self {
            total,
            places: Semaphore::new(total),
            running: semaphore(pool.concurrency.max(1)),
            slow: semaphore(lanes),
            lanes,
            rehearsals: Semaphore::new(REHEARSALS),
        }
    }

    /// Returns how many requests are in progress.
    pub(super) fn in_progress(&self) -> usize {
        self.total.saturating_sub(self.places.available_permits())
    }

    /// Returns how many sandboxes run, where `concurrency` may.
    pub(super) fn running(&self, concurrency: usize) -> usize {
        let slow = self.lanes.saturating_sub(self.slow.available_permits());
        concurrency.saturating_sub(self.running.available_permits()) + slow
    }
}

/// Capacity that one tenant may use.
pub(crate) struct Admission {
    pub(super) sandboxes: Sandboxes,
    tenant: Arc<Tenant>,
}

struct Tenant {
    /// Maximum number of its requests in progress.
    most: usize,
    places: Semaphore,
    running: Arc<Semaphore>,
    /// Look-ups of credentials at once.
    look_ups: Semaphore,
    /// Counts the requests whose credential is looked up, or waits for that.
    arrivals: Semaphore,
}

impl Tenant {
    /// Returns a tenant with its maximum of requests in progress, of sandboxes that run, and of look-ups.
    fn new(most: usize, running: usize, look_ups: usize) -> Arc<Self> {
        let most = most.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            most,
            places: Semaphore::new(most),
            running: semaphore(running.max(1)),
            look_ups: Semaphore::new(look_ups.clamp(1, Semaphore::MAX_PERMITS)),
            arrivals: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    /// Returns how many of its requests are in progress.
    fn in_progress(&self) -> usize {
        self.most.saturating_sub(self.places.available_permits())
    }
}

impl Admission {
    /// Returns a tenant's admission, with its maximum of requests in progress and of sandboxes that run.
    pub(crate) fn new(sandboxes: Sandboxes, most: usize, running: usize) -> Self {
        let look_ups = most.min(sandboxes.capacity().total);
        Self { sandboxes, tenant: Tenant::new(most, running, look_ups) }
    }

    /// Waits for the right to look up a credential, of which a tenant has as many as places. Strangers then
    /// hold no place, and the tenant's own callers wait behind them only for as long as look-ups take.
    ///
    /// # Errors
    ///
    /// [`Error::OverShare`] where `most` requests of the tenant look one up or wait for that.
    pub(crate) async fn look_up(&self, most: usize) -> Result<LookUp<'_>, Error> {
        let Tenant { look_ups, arrivals, .. } = &*self.tenant;
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
    pub(crate) fn require_place(&self, most: usize) -> Result<(), Error> {
        let Capacity { total, places, .. } = self.sandboxes.capacity();
        let (own, left) = (self.tenant.in_progress(), places.available_permits());
        let is_alone = own.saturating_add(left) >= *total;
        if own >= most.min(self.tenant.most) || (own > 0 && own >= left && !is_alone) {
            return Err(Error::OverShare { retry_after: RETRY_AFTER });
        }
        if left == 0 { Err(Error::Overloaded) } else { Ok(()) }
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
    /// place left.
    pub(crate) fn enter(&self, most: usize) -> Result<Place<'_>, Error> {
        self.require_place(most)?;
        let own = self.tenant.places.try_acquire().map_err(|_| Error::OverShare { retry_after: RETRY_AFTER })?;
        let host = self.sandboxes.capacity().places.try_acquire().map_err(|_| Error::Overloaded)?;
        Ok(Place { _own: own, _host: host })
    }

    /// Waits for a request's turn, [`Pool::admission_wait`] at most.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] where it does not come in that time.
    pub(super) async fn turn(&self) -> Result<Turn, Error> {
        self.turn_within(self.sandboxes.pool().admission_wait).await
    }

    /// Waits for a slot that requests can't take, and for a turn.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] where one of them does not come in time.
    pub(super) async fn rehearsal(&self) -> Result<(SemaphorePermit<'_>, Turn), Error> {
        match timeout(REHEARSAL_WAIT, self.sandboxes.capacity().rehearsals.acquire()).await {
            Ok(Ok(slot)) => Ok((slot, self.turn_within(REHEARSAL_WAIT).await?)),
            _ => Err(Error::Overloaded),
        }
    }

    async fn turn_within(&self, wait: Duration) -> Result<Turn, Error> {
        let mut turn = Turn::new(self.tenant.clone(), self.sandboxes.clone());
        timeout(wait, turn.take()).await.map_err(|_| Error::Overloaded)?;
        Ok(turn)
    }
}

/// A request's right to have its credential looked up, until it is dropped.
pub(crate) struct LookUp<'a> {
    _look_up: SemaphorePermit<'a>,
    _arrival: SemaphorePermit<'a>,
}

/// A request's place among those in progress, of its tenant and of the host, until it is dropped.
pub(crate) struct Place<'a> {
    _own: SemaphorePermit<'a>,
    _host: SemaphorePermit<'a>,
}

/// A sandbox's right to run, among its tenant's sandboxes and among all.
pub(super) struct Turn {
    tenant: Arc<Tenant>,
    sandboxes: Sandboxes,
    /// The tenant's permit, and the host's while the turn is short.
    held: [Option<OwnedSemaphorePermit>; 2],
    /// The permit of a turn that takes long, in place of the host's.
    lane: Option<Lane>,
}

/// A place for a permit that is waited for outside of the sandbox's store.
type Lane = Arc<Mutex<Option<OwnedSemaphorePermit>>>;

impl Turn {
    fn new(tenant: Arc<Tenant>, sandboxes: Sandboxes) -> Self {
        Self { tenant, sandboxes, held: [None, None], lane: None }
    }

    /// Returns a turn that was not waited for, for a sandbox of the host's own.
    pub(super) fn free(sandboxes: Sandboxes) -> Self {
        Self::new(Tenant::new(usize::MAX, usize::MAX, 1), sandboxes)
    }

    /// Waits for the right to run, in the order of arrival. The tenant's comes first: a tenant never has
    /// more sandboxes in the host's line than it may run.
    async fn take(&mut self) {
        let tenant = self.tenant.running.clone().acquire_owned().await;
        let host = self.sandboxes.capacity().running.clone().acquire_owned().await;
        // The semaphores are never closed, and so these are never errors.
        self.held = [tenant.ok(), host.ok()];
    }

    /// Does the host's work for a sandbox, and lets others run while the work waits.
    pub(super) async fn lend_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if let Poll::Ready(done) = poll_once(work.as_mut()).await {
            return done;
        }
        (self.held, self.lane) = ([None, None], None);
        let done = work.await;
        self.take().await;
        done
    }

    /// Returns the wait of a sandbox that takes long for its next tick. It goes to the end of the line of all
    /// such sandboxes each time. It keeps its tenant's right to run, so that no tenant fills the line.
    pub(super) fn slow_down(&mut self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let (tenant, sandboxes) = (self.tenant.clone(), self.sandboxes.clone());
        let lane = self.lane.get_or_insert_default().clone();
        self.held[1] = None;
        *lock(&lane) = None;
        async move {
            // Where nobody is in line, this thread has other work all the same.
            yield_now().await;
            let capacity = sandboxes.capacity();
            let permit = capacity.slow.clone().acquire_owned().await;
            if capacity.in_progress() > tenant.in_progress() {
                sleep(REST).await;
            }
            *lock(&lane) = permit.ok();
        }
    }
}

fn lock(lane: &Lane) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls a future once: most host calls and most bodies are there without a wait.
pub(crate) async fn poll_once<F: Future>(mut work: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await
}

fn semaphore(permits: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::LoadError;

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
        Ok((0..count).map(|_| Admission::new(sandboxes.clone(), most, 1)).collect())
    }

    #[test]
    fn overloaded_tenants_settle_at_equal_parts_and_a_newcomer_finds_a_place() -> Result<(), LoadError> {
        for (count, expected) in [(1, 8..=8), (2, 8..=8), (3, 8..=8), (4, 6..=7), (16, 1..=2)] {
            let tenants = tenants(count + 1, 8)?;
            let (newcomer, overloaded) = tenants.split_last().ok_or(LoadError::Limits("none".into()))?;
            let _places = fill(overloaded);
            let held: Vec<_> = overloaded.iter().map(|tenant| tenant.tenant.in_progress()).collect();
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
