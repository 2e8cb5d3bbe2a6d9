//! Forgetting claims that were kept for long enough: how many at once, and how often.

use std::time::Duration;

/// Time from the opening of a database to the first look for old claims: a command is done by then.
pub(super) const FIRST: Duration = Duration::from_secs(1);

/// Time between two looks for old claims.
const EVERY: Duration = Duration::from_secs(60);

/// Size of a batch at first and at least, and at most.
const LEAST: u32 = 500;
const MOST: u32 = 16_384;

/// Time that a batch should take: creates wait for it.
const AIM: Duration = Duration::from_millis(10);

/// Pause after a batch, as a multiple of the time that it took: a fifth of the time is spent on old claims.
const PAUSE: u32 = 4;

/// Size of the next batch, which follows how long the batches take.
#[derive(Debug)]
pub(super) struct Pace {
    batch: u32,
}

impl Pace {
    /// Returns the pace to begin with.
    pub(super) const fn new() -> Self {
        Self { batch: LEAST }
    }

    /// Returns how many claims to forget at once.
    pub(super) fn batch(&self) -> u32 {
        self.batch
    }

    /// Takes in what the last batch came to, and returns the pause before the next.
    pub(super) fn after(&mut self, forgotten: usize, took: Duration) -> Duration {
        if u32::try_from(forgotten).is_ok_and(|forgotten| forgotten < self.batch) {
            return EVERY;
        }
        if took < AIM {
            self.batch = (self.batch * 2).min(MOST);
        } else if took > AIM * 2 {
            self.batch = (self.batch / 2).max(LEAST);
        }
        took * PAUSE
    }
}

/// A task that forgets old claims. It ends when this is dropped.
#[cfg(feature = "postgres")]
#[derive(Debug)]
pub(super) struct Sweeping(tokio::task::JoinHandle<()>);

#[cfg(feature = "postgres")]
impl Sweeping {
    /// Starts the task, which has `forget` forget so many old claims and return how many there were.
    pub(super) fn start<F, E>(mut forget: impl FnMut(u32) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<usize, E>> + Send,
        E: std::fmt::Display + Send,
    {
        Self(tokio::spawn(async move {
            let (mut pace, mut pause) = (Pace::new(), FIRST);
            loop {
                tokio::time::sleep(pause).await;
                let start = std::time::Instant::now();
                let forgotten = forget(pace.batch()).await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "deleting old idempotency keys failed, retrying");
                    0
                });
                pause = pace.after(forgotten, start.elapsed());
            }
        }))
    }
}

#[cfg(feature = "postgres")]
impl Drop for Sweeping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow_while_they_are_quick_and_shrink_while_they_are_slow() {
        let mut pace = Pace::new();
        for _ in 0..10 {
            let (batch, took) = (pace.batch(), Duration::from_millis(1));
            assert_eq!(pace.after(batch as usize, took), took * PAUSE);
        }
        assert_eq!(pace.batch(), MOST);
        for _ in 0..10 {
            let (batch, took) = (pace.batch(), Duration::from_millis(50));
            assert_eq!(pace.after(batch as usize, took), took * PAUSE);
        }
        assert_eq!(pace.batch(), LEAST);
        assert_eq!(pace.after(LEAST as usize - 1, Duration::ZERO), EVERY, "none are left");
    }
}
