//! Very many tenants of one component.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::throughput::memory;
use crate::{Client, Tenants};

/// Result of the trial.
#[derive(Debug, Clone, Copy)]
pub struct ManyTenantsReport {
    /// Tenants.
    pub tenants: usize,
    /// Time from the start of the program to its line that it listens, with databases that are there.
    pub start: Duration,
    /// Memory that it held then, in MiB.
    pub memory: f64,
    /// And when each tenant had been asked for a workspace.
    pub afterwards: f64,
}

/// Starts a server of so many tenants, each with a database of its own or all with one, and creates a
/// workspace at each.
///
/// # Errors
///
/// Where one of them does not answer as it should.
pub fn run(program: &str, count: usize, one_database: bool) -> Result<ManyTenantsReport> {
    let tenants = Tenants::new(program)?;
    let key = tenants.key("shared")?;
    let sections = (0..count).map(|tenant| {
        let database = if one_database { "shared".to_owned() } else { format!("own-{tenant}") };
        format!("[tenants.t{tenant}]\npath = \"/t{tenant}\"\ndatabase = \"sqlite:{database}.db\"\n")
    });
    tenants.configure(&sections.collect::<String>())?;
    // The databases are made.
    drop(tenants.serve()?);

    let start = Instant::now();
    let server = tenants.serve()?;
    let start = start.elapsed();
    let [at_start, _] = memory(server.id())?;
    for tenant in 0..count {
        // A tenant with a database of its own knows nobody.
        let expected = if one_database { 201 } else { 401 };
        let answer = Client::new(server.address(), &key).under(&format!("/t{tenant}")).create("{}", None)?;
        ensure!(answer.status == expected, "tenant {tenant}: {answer:?}");
    }
    let [afterwards, _] = memory(server.id())?;
    Ok(ManyTenantsReport { tenants: count, start, memory: at_start, afterwards })
}
