//! Turns: which sandboxes run.
//!
//! A sandbox holds a [`Turn`] as long as it lives, and no sandbox waits for the host. A tenant whose database hangs
//! therefore holds no turns, which others need. A sandbox that takes long goes on in a lane of its own: components that
//! loop leave the processors to those that do not.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, SemaphorePermit},
    task::yield_now,
    time::{sleep, timeout},
};

use super::{
    Sandboxes, TICK,
    capacity::{SlowPlace, TenantCapacity},
};
use crate::Error;

/// Maximum time that the rehearsal of a component waits for its slot, and for its turn.
const REHEARSAL_WAIT: Duration = Duration::from_secs(30);

/// Pause of a lane between two ticks while other tenants have requests in progress: components that loop then
/// take a quarter of the lane's processor. tokio's timers are no finer than a tick.
const REST: Duration = TICK.saturating_mul(3);

impl TenantCapacity {
    /// Waits for a request's turn, [`Pool::admission_wait`](super::Pool::admission_wait) at most.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] where it does not come in that time.
    pub(super) async fn turn(&self) -> Result<Turn, Error> {
        let mut turn = Turn::new(self.clone(), false);
        {
            let mut take = pin!(turn.take());
            if poll_once(take.as_mut()).await.is_pending() {
                let _waiting = self.delay().wait();
                let most = self.sandboxes().pool().admission_wait;
                timeout(most, take).await.map_err(|_| Error::Overloaded)?;
            }
        }
        Ok(turn)
    }

    /// Waits for a slot that requests can't take, and for a turn.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`] where one of them does not come in time.
    pub(super) async fn rehearsal(&self) -> Result<(SemaphorePermit<'_>, Turn), Error> {
        let Ok(Ok(slot)) = timeout(REHEARSAL_WAIT, self.host().rehearsals.acquire()).await else {
            return Err(Error::Overloaded);
        };
        let mut turn = Turn::new(self.clone(), true);
        timeout(REHEARSAL_WAIT, turn.take()).await.map_err(|_| Error::Overloaded)?;
        Ok((slot, turn))
    }
}

/// A sandbox's right to run, among its tenant's sandboxes and among all.
pub(super) struct Turn {
    capacity: TenantCapacity,
    /// Mark of the host's own sandboxes, which need no place to take long.
    is_the_hosts: bool,
    /// The permit of a turn that takes long, in place of the host's.
    lane: Option<Lane>,
    /// Its place, where it takes long: given back before the tenant's permit, with which another needs one.
    slow: Option<SlowPlace>,
    /// The tenant's permit, and the host's while the turn is short.
    held: [Option<OwnedSemaphorePermit>; 2],
}

/// A place for a permit that is waited for outside of the sandbox's store.
type Lane = Arc<Mutex<Option<OwnedSemaphorePermit>>>;

/// The sandbox takes long, and its tenant has its share of those.
#[derive(Debug, thiserror::Error)]
#[error("it takes long, and too many sandboxes do")]
pub(super) struct Crowded;

impl Turn {
    fn new(capacity: TenantCapacity, is_the_hosts: bool) -> Self {
        Self { capacity, is_the_hosts, lane: None, slow: None, held: [None, None] }
    }

    /// Returns another turn of the tenant, which has no right to run yet.
    pub(super) fn another(&self) -> Self {
        Self::new(self.capacity.clone(), self.is_the_hosts)
    }

    /// Returns a turn that was not waited for, for a sandbox of the host's own.
    pub(super) fn free(sandboxes: Sandboxes) -> Self {
        Self::new(TenantCapacity::new(sandboxes, usize::MAX, usize::MAX), true)
    }

    /// Waits for the right to run, in the order of arrival. The tenant's comes first: a tenant never has
    /// more sandboxes in the host's line than it may run.
    pub(super) async fn take(&mut self) {
        let tenant = self.capacity.running().acquire_owned().await;
        let host = self.capacity.host().running.clone().acquire_owned().await;
        // The semaphores are never closed, and so these are never errors.
        self.held = [tenant.ok(), host.ok()];
    }

    /// Lets others run.
    pub(super) fn give_back(&mut self) {
        (self.lane, self.slow) = (None, None);
        self.held = [None, None];
    }

    /// Returns the wait of a sandbox that takes long for its next tick. It goes to the end of the line of all
    /// such sandboxes each time. It keeps its tenant's right to run, so that no tenant fills the line.
    ///
    /// # Errors
    ///
    /// [`Crowded`] where the tenant has its share of the line.
    pub(super) fn slow_down(&mut self) -> Result<impl Future<Output = ()> + Send + 'static + use<>, Crowded> {
        if self.slow.is_none() && !self.is_the_hosts {
            self.slow = Some(self.capacity.try_slow().ok_or(Crowded)?);
        }
        let capacity = self.capacity.clone();
        let lane = self.lane.get_or_insert_default().clone();
        self.held[1] = None;
        *lock(&lane) = None;
        Ok(async move {
            // Where nobody is in line, this thread has other work all the same.
            yield_now().await;
            let host = capacity.host();
            let permit = host.lanes.clone().acquire_owned().await;
            if host.in_progress() > capacity.in_progress() {
                sleep(REST).await;
            }
            *lock(&lane) = permit.ok();
        })
    }
}

fn lock(lane: &Lane) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls a future once: most answers of auth and most bodies are there without a wait.
pub(crate) async fn poll_once<F: Future + ?Sized>(mut work: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await
}
