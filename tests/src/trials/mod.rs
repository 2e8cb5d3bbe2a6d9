//! Trials: what takes long or breaks things, run small by the tests, and at length by `trials`.

pub mod connection;
pub mod failover;
pub mod idempotency;
pub mod io_faults;
pub mod kill_loop;
mod ledger;
mod load;
pub mod malformed;
pub mod many_tenants;
pub mod memory_residue;
pub mod neighbour_rates;
pub mod neighbours;
pub mod overload;
pub mod parity;
pub mod patroni;
pub mod power_cut;
pub mod slow_clients;
pub mod swaps;
pub mod throughput;

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{Deployment, postgres::Postgres};
use ledger::Ledger;

/// Database that a trial is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A file.
    Sqlite,
    /// A server of the trial's own.
    Postgres,
}

/// A deployment on a fresh database, with somebody to create workspaces.
struct Scene {
    /// First, to be dropped first: the program before the server it is connected to.
    deployment: Deployment,
    postgres: Option<Postgres>,
    organization: String,
    key: String,
}

impl Scene {
    fn new(program: &str, backend: Backend) -> Result<Self> {
        let postgres = match backend {
            Backend::Sqlite => None,
            Backend::Postgres => Some(Postgres::deployed()?),
        };
        let deployment = match &postgres {
            None => Deployment::new(program)?,
            Some(server) => Deployment::on_postgres(program, &server.service_url())?,
        };
        Self::with(deployment, postgres)
    }

    fn with(deployment: Deployment, postgres: Option<Postgres>) -> Result<Self> {
        let account = deployment.run(&["account", "create", "--name", "Ada"])?;
        let organization = deployment.run(&["organization", "create", "--name", "Label"])?;
        deployment.run(&["organization", "add-member", &organization, &account])?;
        let key = deployment.run(&["key", "create", &account])?;
        Ok(Self { deployment, postgres, organization, key })
    }

    fn ledger(&self) -> Ledger<'_> {
        match &self.postgres {
            Some(server) => Ledger::Postgres(Box::new(|sql| server.psql(sql))),
            None => Ledger::Sqlite(self.deployment.database()),
        }
    }
}

/// Returns the program that cargo built beside this one.
///
/// # Errors
///
/// Where it is not there.
pub fn program() -> Result<String> {
    let own = std::env::current_exe()?;
    let program: PathBuf = own.with_file_name("workspaces-under-test");
    anyhow::ensure!(program.exists(), "{} is missing: build it with `cargo build`", program.display());
    program.into_os_string().into_string().ok().context("a path in UTF-8")
}
