//! Forgets old claims, in between writes.

use std::time::Instant;

use rusqlite::params;

use super::{Error, Session};
use crate::storage::{
    Claim,
    sweep::{FIRST, Pace},
};

/// Progress of forgetting.
#[derive(Debug)]
pub(super) struct Sweep {
    pace: Pace,
    /// Time of the next batch.
    due: Instant,
}

impl Sweep {
    /// Begins to watch a database.
    pub(super) fn new() -> Self {
        Self { pace: Pace::new(), due: Instant::now() + FIRST }
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
            tracing::warn!(%error, "deleting old idempotency keys failed, retrying");
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
        let (Some::<i64>(oldest), Some::<i64>(newest)) = times else { return Ok(0) };
        let before = cutoff(session.clock.begin(Some(newest)), newest);
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

/// Returns the time before which claims are forgotten: [`Claim::KEPT`] before the claims' own time, and before the newest
/// claim, however far ahead another process has dated it.
fn cutoff(time: i64, newest: i64) -> i64 {
    time.min(newest).saturating_sub(i64::try_from(Claim::KEPT.as_millis()).unwrap_or(i64::MAX))
}
