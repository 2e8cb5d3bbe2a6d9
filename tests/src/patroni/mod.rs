//! Clusters of PostgreSQL servers under Patroni and etcd, of the tests' own.

mod link;
mod node;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{
    background::{Process, Programs, free_port_of, installed, until},
    postgres,
};
pub use node::Node;

/// Number of servers. With two, a primary that was lost would leave nothing for the other to commit to.
const NODES: usize = 3;

/// Commits a record without a row, and returns its position; nothing at a standby.
const COMMIT: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN ''
    ELSE pg_logical_emit_message(true, 'trial', '')::text END";

/// Returns whether such a cluster can be started here. Where it can't, says on stderr that the test did not run; in CI
/// that is an error.
///
/// # Errors
///
/// Under `CI`, programs that are not installed.
pub fn available() -> Result<bool> {
    Ok(postgres::available()? && installed(&["patroni", "python3"], "patroni")? && installed(&["etcd"], "etcd-server")?)
}

/// Three PostgreSQL servers, each with a Patroni of its own, and one etcd. A commit is on two of the servers before it
/// is acknowledged.
pub struct Cluster {
    nodes: Vec<Node>, // dropped before the etcd that they speak to
    _etcd: Process,
    _folder: TempDir,
}

impl Cluster {
    /// Starts a cluster with the deployment's own tables; its first node is the primary.
    ///
    /// # Errors
    ///
    /// Programs that do not start or do not come to work together.
    pub fn deployed() -> Result<Self> {
        // An address of this machine that no other program uses, so that no connection of another takes a port while
        // the server that it belongs to is down.
        let network = [127, fastrand::u8(1..), fastrand::u8(..)];
        let address = |last| IpAddr::V4(Ipv4Addr::new(network[0], network[1], network[2], last));
        let (folder, etcd, clients) = start_etcd(address(254))?;
        let nodes = (1..=NODES)
            .map(|number| Node::new(number, address(u8::try_from(number)?), clients))
            .collect::<Result<Vec<_>>>()?;
        let mut cluster = Self { nodes, _etcd: etcd, _folder: folder };
        for number in 0..NODES {
            cluster.nodes[number].start()?;
            if number == 0 {
                cluster.until("a primary", |cluster| Ok(cluster.nodes[0].is_primary()))?;
            }
        }
        cluster.await_standbys()?;
        cluster.nodes[0].psql(include_str!("../deployment.sql"))?;
        Ok(cluster)
    }

    /// Returns the address of all of its servers, for the deployment's service.
    pub fn service_url(&self) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|node| node.postgres().to_string()).collect();
        format!("postgres://service@{}/postgres?target_session_attrs=read-write", hosts.join(","))
    }

    /// Returns its node of this index.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// Returns its node of this index, to end or start it.
    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// Returns the index of the primary.
    ///
    /// # Errors
    ///
    /// No server that is one.
    pub fn primary(&self) -> Result<usize> {
        self.nodes.iter().position(Node::is_primary).context("no primary")
    }

    /// Waits until a server other than `deposed` commits, and returns its index.
    ///
    /// # Errors
    ///
    /// None that does so in time, with the log of each.
    pub fn await_successor(&self, deposed: usize) -> Result<usize> {
        let mut found = None;
        self.until("another primary that commits", |cluster| {
            let mut others = cluster.nodes.iter().enumerate().filter(|(index, _)| *index != deposed);
            found = others.find(|(_, node)| node.psql(COMMIT).is_ok_and(|position| !position.is_empty()));
            Ok(found.is_some())
        })?;
        found.map(|(index, _)| index).context("no primary")
    }

    /// Waits until one server is the primary and all others follow it.
    ///
    /// # Errors
    ///
    /// Servers that do not in time, with the log of each.
    pub fn await_standbys(&self) -> Result<()> {
        const FOLLOWING: &str = "SELECT count(*), count(*) FILTER (WHERE sync_state = 'sync')
            FROM pg_stat_replication WHERE state = 'streaming'";
        self.until("all standbys", |cluster| {
            let primaries: Vec<_> = cluster.nodes.iter().filter(|node| node.is_primary()).collect();
            let [primary] = primaries[..] else { return Ok(false) };
            Ok(primary.psql(FOLLOWING).is_ok_and(|seen| seen == format!("{}|1", NODES - 1)))
        })
    }

    fn until<'a>(&'a self, what: &str, mut done: impl FnMut(&'a Self) -> Result<bool>) -> Result<()> {
        until(what, || done(self)).with_context(|| {
            self.nodes.iter().map(|node| format!("{}\n{}\n", node.postgres(), node.log())).collect::<String>()
        })
    }
}

/// Starts an etcd of one member, and returns its folder, its process and the address for clients.
fn start_etcd(address: IpAddr) -> Result<(TempDir, Process, SocketAddr)> {
    let programs = Programs::find(&["etcd"])?;
    let folder = programs.folder()?;
    let clients = SocketAddr::new(address, free_port_of(address)?);
    let peers = format!("http://{}", SocketAddr::new(address, free_port_of(address)?));
    let mut command = programs.command(folder.path(), "etcd");
    command.args(["--name", "trial", "--data-dir", "data", "--unsafe-no-fsync"]);
    command.arg(format!("--listen-client-urls=http://{clients}"));
    command.arg(format!("--advertise-client-urls=http://{clients}"));
    command.arg(format!("--listen-peer-urls={peers}")).arg(format!("--initial-advertise-peer-urls={peers}"));
    command.arg(format!("--initial-cluster=trial={peers}"));
    let process = Process::launch(&mut command, folder.path().join("log"), "ready to serve client requests")?;
    let process = process.context("the port of etcd is taken")?;
    Ok((folder, process, clients))
}
