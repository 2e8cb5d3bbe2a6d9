//! Sampling of the log: one in so many of the requests that succeed.

use std::{
    fmt,
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tracing::{
    Event, Metadata,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Filter};

use crate::http::ANSWERED;

/// Filter that keeps the first of so many requests that were answered with a status below 400, and everything else.
pub(super) struct Sample {
    every: NonZeroU64,
    succeeded: AtomicU64,
}

impl Sample {
    /// Returns a filter that keeps one in `every`.
    pub(super) fn new(every: NonZeroU64) -> Self {
        Self { every, succeeded: AtomicU64::new(0) }
    }
}

impl<S> Filter<S> for Sample {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        if self.every == NonZeroU64::MIN || event.metadata().name() != ANSWERED {
            return true;
        }
        let mut status = Status(None);
        event.record(&mut status);
        status.0.is_none_or(|status| status >= 400) || self.succeeded.fetch_add(1, Relaxed) % self.every == 0
    }
}

/// Status of an answer.
struct Status(Option<u64>);

impl Visit for Status {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "status" {
            self.0 = Some(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
