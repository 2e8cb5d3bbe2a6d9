//! Time on the processor.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long a sandbox has run: the time its thread was on the processor, without its waits for the
/// host, and without the time that the system gave to others.
#[derive(Debug)]
pub(super) struct CpuTime {
    /// Of the stretches that ended.
    used: Duration,
    /// When this stretch began, on the clock of the thread it runs on.
    since: Duration,
}

impl CpuTime {
    /// Begins now, on this thread.
    pub(super) fn start() -> Self {
        Self { used: Duration::ZERO, since: thread_time() }
    }

    /// Ends a stretch: the sandbox waits.
    pub(super) fn pause(&mut self) {
        self.used = self.used();
    }

    /// Begins another, perhaps on another thread.
    pub(super) fn resume(&mut self) {
        self.since = thread_time();
    }

    /// The time used, where the sandbox runs.
    pub(super) fn used(&self) -> Duration {
        self.used + thread_time().saturating_sub(self.since)
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}
