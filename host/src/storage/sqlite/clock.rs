//! Time of claims, which the system's clock can't make run ahead.

use std::time::{Duration, Instant};

use crate::now;

/// Time of the claims of one database, in milliseconds.
///
/// It begins at the newest claim that the process finds, or at the system's time where there is none, and goes on with the
/// time that the process has run. So a clock that is wrong, or that is set, makes no claim look old. While no process
/// runs it stands still, and claims are kept for longer.
#[derive(Debug, Default)]
pub(super) struct Clock(Option<(i64, Instant)>);

impl Clock {
    /// Returns the time, if it has begun.
    pub(super) fn now(&self) -> Option<i64> {
        self.0.map(|(known, since)| time(known, since.elapsed()))
    }

    /// Begins the time at the newest claim, if there is one, unless it has begun; and returns it.
    pub(super) fn begin(&mut self, newest: Option<i64>) -> i64 {
        let (known, since) = *self.0.get_or_insert_with(|| (newest.unwrap_or_else(now), Instant::now()));
        time(known, since.elapsed())
    }
}

fn time(known: i64, elapsed: Duration) -> i64 {
    known.saturating_add(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}
