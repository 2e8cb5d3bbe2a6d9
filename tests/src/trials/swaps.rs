//! Components are swapped under load.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use workspaces_host::COMPONENT;

use crate::{Client, Tenants, variant};

/// Result of the trial.
#[derive(Debug, Clone, Copy, Default)]
pub struct SwapsReport {
    /// Swaps.
    pub swaps: usize,
    /// Requests that were answered with 201.
    pub created: usize,
    /// Requests that got anything else, or no answer.
    pub failed: usize,
}

/// Clients at once.
const CLIENTS: usize = 8;

/// Swaps a tenant's component so often, for one of other bytes that does the same.
///
/// # Errors
///
/// Where a swap is not made.
pub fn run(program: &str, swaps: usize) -> Result<SwapsReport> {
    let tenants = Tenants::new(program)?;
    let key = tenants.key("acme")?;
    tenants.write("acme.wasm", COMPONENT)?;
    tenants.configure("[tenants.acme]\npath = \"/acme\"\ndatabase = \"sqlite:acme.db\"\ncomponent = \"acme.wasm\"")?;
    let server = tenants.serve()?;
    let (stop, created, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Client::new(server.address(), &key).under("/acme");
                while !stop.load(Relaxed) {
                    match client.create("{}", None) {
                        Ok(answer) if answer.status == 201 => created.fetch_add(1, Relaxed),
                        _ => failed.fetch_add(1, Relaxed),
                    };
                }
            });
        }
        let all = (0..swaps).try_for_each(|swap| {
            tenants.write("acme.wasm", variant(swap.to_string().as_bytes()))?;
            let output = tenants.reload(&server)?;
            let said = String::from_utf8(output.stdout).context("no text")?;
            ensure!(output.status.success() && said.contains("\"swapped\""), "not swapped: {said}");
            Ok(())
        });
        stop.store(true, Relaxed);
        all
    })?;
    Ok(SwapsReport { swaps, created: created.into_inner(), failed: failed.into_inner() })
}
