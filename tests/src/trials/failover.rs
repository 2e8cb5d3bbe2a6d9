//! Kills a primary under load, promotes its standby, and sees whether the hosts carry on.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{Scene, ledger::Ledger, load::Load};
use crate::{Deployment, postgres::Postgres};

/// Result of the trial.
#[derive(Debug, Clone, Copy)]
pub struct FailoverReport {
    /// Creates that were answered with 201, before and after.
    pub acknowledged: u64,
    /// Number of these that the promoted standby does not have.
    pub lost: u64,
    /// Workspaces that are there in part.
    pub partial: u64,
    /// Time from the order to promote to the first 201 of the host that took longer.
    pub back_after: Duration,
}

/// Runs the trial: a primary, a synchronous standby, two hosts with both in their address.
///
/// # Errors
///
/// Where a server does not start, or an answer is none that a client may get.
pub fn run(program: &str) -> Result<FailoverReport> {
    let mut primary = Postgres::deployed()?;
    let standby = primary.standby()?;
    let address = format!(
        "postgres://service@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write",
        primary.port(),
        standby.port()
    );
    let world = Scene::with(Deployment::on_postgres(program, &address)?, None)?;
    let hosts = [world.deployment.serve(&["--log", "off"])?, world.deployment.serve(&["--log", "off"])?];
    let load = Load::new(hosts.iter().map(crate::Server::address).collect(), &world);
    let back_after = thread::scope(|scope| {
        load.start(scope);
        let mut trial = || {
            load.wait_for_more(200);
            primary.kill()?;
            let start = Instant::now();
            standby.promote()?;
            load.wait_for_more(1);
            let back_after = start.elapsed();
            load.wait_for_more(200);
            Ok(back_after)
        };
        let back_after: Result<_> = trial();
        load.stop();
        back_after
    })?;
    let ids = load.into_acknowledged()?;
    drop(hosts);
    let audit = Ledger::Postgres(Box::new(|sql| standby.psql(sql))).audit(&ids)?;
    ensure!(audit.workspaces >= ids.len() as u64, "{audit:?}");
    Ok(FailoverReport { acknowledged: ids.len() as u64, lost: audit.lost, partial: audit.partial, back_after })
}
