//! Time of one call of the component, without HTTP. Auth grants everything and storage keeps nothing, so neither waits.

use std::{fmt, num::NonZeroU32, time::Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use uuid::Uuid;
use workspaces_host::{
    CreateWorkspaceRequest, Workspaces,
    auth::Caller,
    runtime::{Pool, SandboxLimits, Sandboxes, native},
};
use workspaces_tests::trials::throughput::quantile;

/// Calls of one measurement.
const CALLS: u32 = 2_000;

/// Times in microseconds, medians of the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Call {
    /// Time of a call in a fresh sandbox.
    pub(crate) sandboxed: f64,
    /// Time of a call in an instance that has answered others before.
    pub(crate) reused: f64,
    /// Time of a call without a sandbox.
    pub(crate) native: f64,
    /// Time to make an instance of the component and to drop it.
    pub(crate) instance: f64,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sandboxed, reused, native, instance } = self;
        write!(
            f,
            "one call: {sandboxed:.1} µs sandboxed, {reused:.1} µs in an instance that is reused, {native:.1} µs native, {:.1} µs between the first and the last; an instance takes {instance:.1} µs of it",
            sandboxed - native
        )
    }
}

/// Measures them in turns.
pub(crate) fn measure(rounds: usize) -> Result<Call> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sandboxes = Sandboxes::new(Pool::default())?;
    let limits = SandboxLimits::default();
    let reused = SandboxLimits { requests_per_instance: NonZeroU32::MAX, ..limits.clone() };
    let [sandboxed, reused, native] =
        [(false, &limits), (false, &reused), (true, &limits)].map(|(is_native, limits)| {
            native::set(is_native);
            let (storage, auth) = native::stage();
            Workspaces::builder(storage, auth).sandboxes(sandboxes.clone()).limits(limits.clone()).build()
        });
    native::set(false);
    let [sandboxed, reused, native] = [sandboxed?, reused?, native?];
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        for (workspaces, times) in [&sandboxed, &reused, &native].into_iter().zip(&mut times) {
            times.push(tokio.block_on(calls(workspaces))?);
        }
        let start = Instant::now();
        tokio.block_on(async {
            for _ in 0..CALLS {
                ensure!(sandboxes.time_instance(&sandboxed.component(), &limits).await.is_some(), "no instance");
            }
            Ok(())
        })?;
        times[3].push(each(start));
    }
    let [sandboxed, reused, native, instance] = times.map(|times| quantile(times, 50));
    Ok(Call { sandboxed, reused, native, instance })
}

async fn calls(workspaces: &Workspaces) -> Result<f64> {
    let caller = Caller::new(Uuid::nil());
    let start = Instant::now();
    for _ in 0..CALLS {
        let request = CreateWorkspaceRequest { name: Some("Load".into()), ..CreateWorkspaceRequest::default() };
        workspaces.create_workspace_for(caller.clone(), request, None).await?;
    }
    Ok(each(start))
}

/// Returns the time of one call of those since then, in microseconds.
fn each(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
}
