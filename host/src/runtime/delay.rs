//! Time that a tenant's requests wait for a sandbox, by which further ones are refused.
//!
//! The wait is measured and not the length of the line, as CoDel does (RFC 8289): a long line that moves fast is no
//! overload. A request that has waited says how long one place in the line takes.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Weight of what was measured before, against the newest wait: that of TCP's round-trip time (RFC 6298).
const BEFORE: u64 = 7;

/// Line of a tenant's requests.
#[derive(Debug, Default)]
pub(super) struct Delay {
    waiting: AtomicUsize,
    /// Time that one place in the line takes, in nanoseconds.
    a_place: AtomicU64,
}

/// A request in the line, until it is dropped.
pub(super) struct Waiting<'a> {
    line: &'a Delay,
    ahead: usize,
    since: Instant,
}

impl Delay {
    /// Puts a request in the line.
    pub(super) fn wait(&self) -> Waiting<'_> {
        Waiting { line: self, ahead: self.waiting.fetch_add(1, Relaxed), since: Instant::now() }
    }

    /// Returns the time that another request would wait. It is zero where no request waits: what was measured before may
    /// hold no longer.
    pub(super) fn expected(&self) -> Duration {
        match self.waiting.load(Relaxed) {
            0 => Duration::ZERO,
            waiting => Duration::from_nanos(self.a_place.load(Relaxed).saturating_mul(waiting as u64 + 1)),
        }
    }
}

impl Drop for Waiting<'_> {
    /// Takes the request out of the line. One that gave up has waited too.
    fn drop(&mut self) {
        let places = u64::try_from(self.ahead).unwrap_or(u64::MAX).saturating_add(1);
        let a_place = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX) / places;
        let before = self.line.a_place.load(Relaxed);
        // Two requests at the same moment may lose one of their measurements.
        self.line.a_place.store(before.saturating_mul(BEFORE).saturating_add(a_place) / (BEFORE + 1), Relaxed);
        self.line.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waited(line: &Delay, ahead: usize, wait: Duration) -> Option<()> {
        line.waiting.fetch_add(1, Relaxed);
        drop(Waiting { line, ahead, since: Instant::now().checked_sub(wait)? });
        Some(())
    }

    #[test]
    fn the_expected_wait_is_that_of_the_places_in_the_line_and_nothing_where_nobody_waits() -> Result<(), &'static str>
    {
        let line = Delay::default();
        for _ in 0..100 {
            // Ten places take a tenth of a second.
            waited(&line, 9, Duration::from_millis(100)).ok_or("no earlier time")?;
        }
        assert_eq!(line.expected(), Duration::ZERO);
        let waiting: Vec<_> = (0..19).map(|_| line.wait()).collect();
        let expected = line.expected();
        assert!(expected > Duration::from_millis(190) && expected < Duration::from_millis(250), "{expected:?}");
        drop(waiting);
        assert_eq!(line.expected(), Duration::ZERO);
        Ok(())
    }

    #[test]
    fn one_long_wait_among_many_short_ones_changes_the_expected_wait_for_a_while() -> Result<(), &'static str> {
        let line = Delay::default();
        waited(&line, 0, Duration::from_secs(1)).ok_or("no earlier time")?;
        let _waiting = line.wait();
        let after_one = line.expected();
        assert!(after_one > Duration::from_millis(200), "{after_one:?}");
        for _ in 0..50 {
            waited(&line, 0, Duration::from_micros(10)).ok_or("no earlier time")?;
        }
        assert!(line.expected() < Duration::from_millis(5), "{:?}", line.expected());
        Ok(())
    }
}
