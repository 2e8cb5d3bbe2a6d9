//! Time on the processor.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use super::TICK;

/// Processor time of a sandbox, without its waits.
///
/// Most polls end before a tick interrupts them. They are measured by wall-clock time, [`TICK`] at most, because to read the
/// thread's CPU clock takes a system call. From the first tick of a poll on, the thread's CPU clock is read, which leaves
/// out the time for which the system ran other threads.
#[derive(Debug, Default)]
pub(super) struct CpuTime {
    /// Time of the polls that ended, in nanoseconds.
    used: AtomicU64,
    /// Start of this poll by wall-clock time, in nanoseconds.
    start: AtomicU64,
    /// Time of this poll before its first tick, in nanoseconds.
    before: AtomicU64,
    /// CPU clock of the thread at the first tick of this poll; zero before that.
    since: AtomicU64,
}

impl CpuTime {
    /// Does the work on this account. It may go from thread to thread between its waits.
    pub(super) async fn count<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.start.store(wall_time(), Relaxed);
            self.since.store(0, Relaxed);
            let poll = work.as_mut().poll(context);
            let used = match self.since.load(Relaxed) {
                0 => self.wall_clock(),
                since => self.before.load(Relaxed) + thread_time().saturating_sub(since),
            };
            self.used.fetch_add(used, Relaxed);
            poll
        })
        .await
    }

    /// Returns the time used so far, within the work, at a tick.
    pub(super) fn so_far(&self) -> Duration {
        let now = thread_time();
        let since = match self.since.load(Relaxed) {
            0 => {
                // At most half a tick: a sandbox whose thread was preempted is not one that takes long.
                self.before.store(self.wall_clock().min(nanoseconds(TICK / 2)), Relaxed);
                self.since.store(now, Relaxed);
                now
            }
            since => since,
        };
        self.total() + Duration::from_nanos(self.before.load(Relaxed) + now.saturating_sub(since))
    }

    /// Returns the wall-clock time of this poll, in nanoseconds: a tick at most.
    fn wall_clock(&self) -> u64 {
        wall_time().saturating_sub(self.start.load(Relaxed)).min(nanoseconds(TICK))
    }

    /// Returns the time used, when the work waits or is done.
    pub(super) fn total(&self) -> Duration {
        Duration::from_nanos(self.used.load(Relaxed))
    }
}

/// Returns the time since the first call, in nanoseconds.
fn wall_time() -> u64 {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    nanoseconds(FIRST.elapsed())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the CPU clock of the thread, in nanoseconds.
fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or_default())
}
