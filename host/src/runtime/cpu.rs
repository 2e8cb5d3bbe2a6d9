//! Time on the processor.

use std::{
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// How long a sandbox has run: the time that threads were on the processor for it, without its waits,
/// and without the time that the system gave to others.
#[derive(Debug, Default)]
pub(super) struct CpuTime {
    /// Of the stretches that ended, in nanoseconds.
    used: AtomicU64,
    /// When this stretch began, on the clock of the thread it runs on.
    since: AtomicU64,
}

impl CpuTime {
    /// Does the work on this account. It may go from thread to thread between its waits.
    pub(super) async fn count<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            let since = thread_time();
            self.since.store(since, Relaxed);
            let poll = work.as_mut().poll(context);
            self.used.fetch_add(thread_time().saturating_sub(since), Relaxed);
            poll
        })
        .await
    }

    /// The time used so far, within the work.
    pub(super) fn so_far(&self) -> Duration {
        self.total() + Duration::from_nanos(thread_time().saturating_sub(self.since.load(Relaxed)))
    }

    /// The time used, when the work waits or is done.
    pub(super) fn total(&self) -> Duration {
        Duration::from_nanos(self.used.load(Relaxed))
    }
}

/// The thread's own clock, in nanoseconds.
fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or_default())
}
