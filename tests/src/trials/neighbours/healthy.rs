//! The healthy tenant's clients: one keeps its connection, the other opens one for each request.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{super::throughput::quantile, setup::Setup};
use crate::Server;

/// Pause between two requests of a client.
const BETWEEN: Duration = Duration::from_millis(2);

/// Pause after a request that got no 201.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for the first answer of a server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Latencies of all requests of a phase, in seconds, and what the refused ones got.
#[derive(Default)]
pub(super) struct Phase {
    pub(super) latencies: Vec<f64>,
    pub(super) refusals: Vec<String>,
}

impl Phase {
    /// Returns the 99th percentile, in seconds.
    pub(super) fn p99(&self) -> f64 {
        quantile(self.latencies.clone(), 99)
    }

    pub(super) fn longest(&self) -> Duration {
        Duration::from_secs_f64(quantile(self.latencies.clone(), 100))
    }
}

/// Creates with both clients for so long, and as long as `more` says so.
///
/// # Errors
///
/// None but a client's panic: refusals are counted.
pub(super) fn phase(
    setup: &Setup,
    server: &Server,
    least: Duration,
    more: &(dyn Fn() -> bool + Sync),
) -> Result<Phase> {
    thread::scope(|scope| {
        let clients = [true, false].map(|keeps| scope.spawn(move || create(setup, server, least, more, keeps)));
        let mut all = Phase::default();
        for client in clients {
            let phase = client.join().ok().context("a healthy client panicked")??;
            all.latencies.extend(phase.latencies);
            all.refusals.extend(phase.refusals);
        }
        Ok(all)
    })
}

fn create(setup: &Setup, server: &Server, least: Duration, more: &dyn Fn() -> bool, keeps: bool) -> Result<Phase> {
    let mut client = setup.healthy(server, TIMEOUT)?;
    let (mut phase, start) = (Phase::default(), Instant::now());
    while start.elapsed() < least || more() {
        let sent = Instant::now();
        let refusal = match client.create("{}", None) {
            Ok(answer) if answer.status == 201 => None,
            Ok(answer) => Some(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))),
            Err(error) => Some(format!("{error:#}")),
        };
        phase.latencies.push(sent.elapsed().as_secs_f64());
        thread::sleep(if refusal.is_some() { AFTER_REFUSAL } else { BETWEEN });
        phase.refusals.extend(refusal);
        if !keeps {
            client.disconnect();
        }
    }
    Ok(phase)
}

/// Waits until a client that has just come gets its 201; false where patience ends first.
///
/// # Errors
///
/// Where a client can't be made.
pub(super) fn first_answer(setup: &Setup, server: &Server) -> Result<bool> {
    let start = Instant::now();
    let mut client = setup.healthy(server, TIMEOUT)?;
    loop {
        match client.create("{}", None) {
            Ok(answer) if answer.status == 201 => return Ok(true),
            _ if start.elapsed() > PATIENCE || super::has_ended(server.id()) => return Ok(false),
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
}
