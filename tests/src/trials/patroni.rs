//! Takes the primary of a Patroni cluster away from two hosts under load, and compares what they acknowledged with what
//! the next primary has.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Scene, ledger::Ledger, load::Load};
use crate::{Client, Deployment, Server, patroni::Cluster};

/// Number of creates that each host acknowledges before a fault, and after it.
const CREATES: u64 = 200;

/// Number of acknowledged idempotency keys that are sent again to each host.
const REPLAYS: usize = 100;

/// Fault of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Patroni and the server are killed, and started again later.
    Kill,
    /// Patroni and the server are stopped where they are, and go on later.
    Freeze,
    /// Patroni does not reach etcd for a while.
    CutOff,
}

impl Fault {
    /// Faults in their order. The frozen primary comes first: it is then the first host of the address too.
    pub const ALL: [Self; 3] = [Self::Freeze, Self::Kill, Self::CutOff];
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kill => "killed",
            Self::Freeze => "frozen",
            Self::CutOff => "cut off from etcd",
        })
    }
}

/// Course of one failover.
#[derive(Debug, Clone, Copy)]
pub struct Failover {
    /// Fault that the primary had.
    pub fault: Fault,
    /// Time from the fault to the first commit of another primary: Patroni's own.
    pub elected_after: Duration,
    /// Time from that commit to the first 201 of the host that took longer.
    pub back_after: Duration,
    /// Time from the end of the fault until the old primary follows the new one.
    pub rejoined_after: Duration,
    /// Creates that were answered with 201 so far.
    pub acknowledged: u64,
    /// Acknowledged workspaces that the new primary does not have.
    pub lost: u64,
    /// Workspaces that are there in part, or a second time for one idempotency key.
    pub partial: u64,
}

impl Failover {
    /// Maximum of `back_after`.
    pub const BACK_AFTER: Duration = Duration::from_secs(2);

    /// Returns whether nothing was lost or doubled, and the hosts were back in time.
    pub fn is_clean(&self) -> bool {
        (self.lost, self.partial) == (0, 0) && self.back_after <= Self::BACK_AFTER
    }
}

impl fmt::Display for Failover {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, elected_after, back_after, rejoined_after, acknowledged, lost, partial } = self;
        write!(
            formatter,
            "primary {fault}: next primary after {elected_after:.1?}, both hosts {back_after:.2?} later, \
             old one follows {rejoined_after:.1?} after the fault; {acknowledged} acknowledged, {lost} lost, {partial} partial"
        )
    }
}

/// Runs the trial: one failover a fault, on the same cluster. Calls `progress` after each.
///
/// # Errors
///
/// A cluster that does not come back, an answer that no client may get, and an idempotency key that is answered with
/// another workspace than before.
pub fn run(program: &str, faults: &[Fault], mut progress: impl FnMut(&Failover)) -> Result<Vec<Failover>> {
    let mut cluster = Cluster::deployed()?;
    let world = Scene::with(Deployment::on_postgres(program, &cluster.service_url())?, None)?;
    let hosts = [world.deployment.serve(&["--log", "off"])?, world.deployment.serve(&["--log", "off"])?];
    let load = Load::new(hosts.iter().map(Server::address).collect(), &world);
    let failovers = thread::scope(|scope| {
        load.start(scope);
        let failovers = faults
            .iter()
            .map(|&fault| {
                let failover = fail_over(&mut cluster, &load, fault)?;
                progress(&failover);
                Ok(failover)
            })
            .collect::<Result<Vec<_>>>();
        load.stop();
        failovers
    });
    let keyed = load.acknowledged_by_key();
    load.into_acknowledged()?;
    let failovers = failovers?;
    ensure!(keyed.len() >= REPLAYS, "no more than {} acknowledged idempotency keys", keyed.len());
    for host in &hosts {
        for (key, id) in fastrand::choose_multiple(&keyed, REPLAYS) {
            let answer = Client::new(host.address(), &world.key).create(&Load::claimed_body(), Some(key))?;
            ensure!(answer.status == 201 && answer.header("idempotency-replayed").is_some(), "replayed: {answer:?}");
            let again = answer.json()?["workspace"]["id"].as_str().context("no id")?.parse::<uuid::Uuid>()?;
            ensure!(again == *id, "another workspace for the key {key}: {again} and not {id}");
        }
    }
    Ok(failovers)
}

/// Takes the primary away under load until both hosts create again, and gives it back.
fn fail_over(cluster: &mut Cluster, load: &Load, fault: Fault) -> Result<Failover> {
    load.wait_for_more(CREATES);
    let deposed = cluster.primary()?;
    let start = Instant::now();
    match fault {
        Fault::Kill => cluster.node_mut(deposed).kill()?,
        Fault::Freeze => cluster.node(deposed).freeze()?,
        Fault::CutOff => cluster.node(deposed).cut_off(),
    }
    let successor = cluster.await_successor(deposed)?;
    let elected = Instant::now();
    load.wait_for_more(1);
    let back_after = elected.elapsed();
    load.wait_for_more(CREATES);
    let ended = Instant::now();
    match fault {
        Fault::Kill => cluster.node_mut(deposed).start()?,
        Fault::Freeze => cluster.node(deposed).thaw()?,
        Fault::CutOff => cluster.node(deposed).reconnect(),
    }
    cluster.await_standbys()?;
    let rejoined_after = ended.elapsed();
    load.wait_for_more(CREATES);
    ensure!(cluster.primary()? == successor, "a second failover");
    let ids = load.acknowledged_so_far()?;
    let audit = Ledger::Postgres(Box::new(|sql| cluster.node(successor).psql(sql))).audit(&ids)?;
    Ok(Failover {
        fault,
        elected_after: elected - start,
        back_after,
        rejoined_after,
        acknowledged: ids.len() as u64,
        lost: audit.lost,
        partial: audit.partial,
    })
}
