//! Forgets old claims, on the thread that writes.

use std::time::{Duration, Instant};

use rusqlite::params;

use super::{Error, Session};
use crate::{
    now,
    storage::{
        Claim,
        sweep::{FIRST, Pace},
    },
};

/// Progress of forgetting.
pub(super) struct Sweep {
    pace: Pace,
    /// Time of the next batch.
    due: Instant,
    watch: Option<Watch>,
}

/// A claim's time, and since when this process has known it.
#[derive(Debug, Clone, Copy)]
struct Watch {
    time: i64,
    since: Instant,
}

impl Sweep {
    /// Begins to watch a database.
    pub(super) fn new(session: &Session) -> Self {
        let newest = session.connection.query_row("SELECT max(created_at) FROM idempotency_keys", [], |row| row.get(0));
        let now = Instant::now();
        let watch = newest.ok().flatten().map(|time| Watch { time, since: now });
        Self { pace: Pace::new(), due: now + FIRST, watch }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Forgets a batch of old claims, if it is time.
    pub(super) fn step(&mut self, session: &mut Session) {
        let start = Instant::now();
        if start < self.due {
            return;
        }
        let forgotten = self.forget(session).unwrap_or_else(|error| {
            tracing::warn!(%error, "old idempotency keys could not be forgotten: it is tried again");
            0
        });
        self.due = Instant::now() + self.pace.after(forgotten, start.elapsed());
    }

    fn forget(&mut self, session: &mut Session) -> Result<usize, Error> {
        let times = session
            .connection
            .prepare_cached(
                "SELECT (SELECT min(created_at) FROM idempotency_keys), (SELECT max(created_at) FROM idempotency_keys)",
            )?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (Some(oldest), Some(newest)) = times else { return Ok(0) };
        let watch = *self.watch.get_or_insert_with(|| Watch { time: oldest, since: Instant::now() });
        let before = cutoff(now(), newest, watch.time, watch.since.elapsed());
        if oldest >= before {
            return Ok(0);
        }
        let batch = self.pace.batch();
        session.write(|transaction| {
            let mut statement = transaction.prepare_cached(
                "DELETE FROM idempotency_keys WHERE (caller_id, route, key) IN
                     (SELECT caller_id, route, key FROM idempotency_keys WHERE created_at < ?1
                      ORDER BY created_at LIMIT ?2)",
            )?;
            Ok(statement.execute(params![before, batch])?)
        })
    }
}

/// Returns the time before which claims are forgotten.
///
/// No clock is believed alone: it is [`Claim::KEPT`] before the earliest of the clock's time, the newest claim's, and
/// the time of a claim this process has known for so long plus that time. A clock that is ahead forgets no fresh claim.
fn cutoff(now: i64, newest: i64, known: i64, known_for: Duration) -> i64 {
    let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let watched = known.saturating_add(milliseconds(known_for));
    now.min(newest).min(watched).saturating_sub(milliseconds(Claim::KEPT))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn no_clock_alone_forgets_a_fresh_claim() {
        let (real, a_day) = (1_000_000 * HOUR, 24 * HOUR);
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        // All agree.
        assert_eq!(cutoff(real, real, real, hours(0)), real - a_day);
        assert_eq!(cutoff(real + HOUR, real + HOUR, real, hours(1)), real + HOUR - a_day);
        // The clock is ahead: alone, or with a claim of its own.
        assert_eq!(cutoff(real + 25 * HOUR, real, real, hours(0)), real - a_day);
        assert_eq!(cutoff(real + 25 * HOUR, real + 25 * HOUR, real, hours(0)), real - a_day);
        // The clock is behind.
        assert_eq!(cutoff(real - 25 * HOUR, real, real, hours(0)), real - 25 * HOUR - a_day);
    }
}
