//! Nodes of a cluster: one PostgreSQL server and the Patroni that runs it.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use super::link::Link;
use crate::{
    background::{Process, Programs, free_port_of},
    postgres::{Lock, POSTGRES},
};

/// Runs a program and reaps what it leaves behind until all has ended, as the init process of a machine does.
/// Patroni's PostgreSQL is no child of Patroni, and Patroni waits for it to be reaped.
const REAPER: &str = "\
import ctypes, os, subprocess, sys
PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
subprocess.Popen(sys.argv[1:])
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
";

/// Seconds after which Patroni takes a silent primary for lost: the minimum of each setting.
const TTL: u32 = 20;
const LOOP_WAIT: u32 = 1;
const RETRY_TIMEOUT: u32 = 3;

/// PostgreSQL server with the Patroni that manages it.
pub struct Node {
    process: Option<Process>,
    postgres: SocketAddr,
    patroni: Programs,
    programs: Programs,
    /// Way from this Patroni to etcd.
    link: Link,
    folder: TempDir,
}

impl Node {
    /// Prepares a node at this address of the machine.
    pub(super) fn new(number: usize, address: IpAddr, etcd: SocketAddr) -> Result<Self> {
        let (patroni, programs) = (Programs::find(&["patroni", "python3"])?, Programs::find(&POSTGRES)?);
        let folder = programs.folder()?;
        let postgres = SocketAddr::new(address, free_port_of(address)?);
        let node = Self { process: None, postgres, patroni, link: Link::open(address, etcd)?, programs, folder };
        let rest = SocketAddr::new(address, free_port_of(address)?);
        fs::write(node.configuration(), node.settings(number, rest).to_string())?;
        Ok(node)
    }

    /// Returns the address of its PostgreSQL server.
    pub fn postgres(&self) -> SocketAddr {
        self.postgres
    }

    /// Starts Patroni, which starts the server on the data that is there.
    ///
    /// # Errors
    ///
    /// Patroni that runs, or ends at once.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "still running");
        let mut command = self.patroni.command(self.folder.path(), "python3");
        command.args(["-c", REAPER, "patroni"]).arg(self.configuration());
        self.process = Process::launch(&mut command, self.folder.path().join("log"), "")?;
        Ok(())
    }

    /// Ends Patroni and the server at once with all their processes, as a crash of the machine does.
    ///
    /// # Errors
    ///
    /// A node that does not run.
    pub fn kill(&mut self) -> Result<()> {
        let lock = Lock::read(&self.data());
        let processes = self.stop_all()?;
        send("KILL", &processes)?;
        self.process.take().context("not running")?.wait()?;
        lock.release()
    }

    /// Stops all processes of Patroni and the server where they are.
    ///
    /// # Errors
    ///
    /// A node that does not run.
    pub fn freeze(&self) -> Result<()> {
        self.stop_all().map(drop)
    }

    /// Lets all processes go on after [`freeze`](Self::freeze).
    ///
    /// # Errors
    ///
    /// A node that does not run.
    pub fn thaw(&self) -> Result<()> {
        send("CONT", &self.processes()?)
    }

    /// Cuts this Patroni off from etcd.
    pub fn cut_off(&self) {
        self.link.cut();
    }

    /// Connects it with etcd again.
    pub fn reconnect(&self) {
        self.link.mend();
    }

    /// Runs SQL and returns the rows, as [`Postgres::psql`](crate::postgres::Postgres::psql) does.
    ///
    /// # Errors
    ///
    /// SQL that fails, and a server that does not answer.
    pub fn psql(&self, sql: &str) -> Result<String> {
        let url = format!("postgres://postgres@{}/postgres?connect_timeout=2", self.postgres);
        let arguments = ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", sql];
        self.programs.run(self.folder.path(), "psql", &arguments)
    }

    /// Returns whether its server runs and is no standby.
    pub fn is_primary(&self) -> bool {
        self.psql("SELECT pg_is_in_recovery()").is_ok_and(|standby| standby == "f")
    }

    /// Returns what Patroni and the server logged since the last start.
    pub(super) fn log(&self) -> String {
        self.process.as_ref().map(Process::logged).unwrap_or_default()
    }

    fn settings(&self, number: usize, rest: SocketAddr) -> serde_json::Value {
        let role = json!({"username": "postgres"});
        json!({
            "scope": "workspaces",
            "name": format!("node{number}"),
            "restapi": {"listen": rest, "connect_address": rest},
            "etcd3": {"proxy": format!("http://{}", self.link.address())},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL,
                    "loop_wait": LOOP_WAIT,
                    "retry_timeout": RETRY_TIMEOUT,
                    "synchronous_mode": true,
                    "synchronous_mode_strict": true,
                    "postgresql": {"use_pg_rewind": true, "parameters": {
                        "shared_buffers": "64MB",
                        "work_mem": "64MB",
                        "dynamic_shared_memory_type": "mmap", // in the folder: a killed server leaves nothing elsewhere
                        "wal_retrieve_retry_interval": "1s", // standbys find the new primary soon
                    }},
                },
                "initdb": ["no-sync", {"encoding": "UTF8"}, {"locale": "C"}, {"auth": "trust"}],
            },
            "postgresql": {
                "listen": self.postgres,
                "connect_address": self.postgres,
                "data_dir": self.data(),
                "bin_dir": self.programs.location(),
                "pgpass": self.folder.path().join("pgpass"),
                "authentication": {"superuser": role, "replication": role},
                "parameters": {"unix_socket_directories": self.folder.path()},
                "pg_hba": ["local all all trust", "host all,replication all 127.0.0.0/8 trust"],
                "basebackup": ["no-sync", {"checkpoint": "fast"}],
                "remove_data_directory_on_rewind_failure": true,
                "remove_data_directory_on_diverged_timelines": true,
            },
        })
    }

    /// Stops all processes, so that none of them makes another, and returns them.
    fn stop_all(&self) -> Result<BTreeSet<u32>> {
        let mut stopped = BTreeSet::new();
        loop {
            let running: BTreeSet<_> = self.processes()?.difference(&stopped).copied().collect();
            if running.is_empty() {
                return Ok(stopped);
            }
            send("STOP", &running)?;
            stopped.extend(running);
        }
    }

    /// Returns Patroni, the server and all of their children.
    fn processes(&self) -> Result<BTreeSet<u32>> {
        let reaper = self.process.as_ref().context("not running")?.id();
        let (mut all, mut parents) = (BTreeSet::new(), reaper.to_string());
        while !parents.is_empty() {
            let output = Command::new("pgrep").args(["-d", ",", "-P", &parents]).output().context("pgrep")?;
            parents = String::from_utf8(output.stdout)?.trim().to_owned();
            let children = parents.split_terminator(',').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
            all.extend(children);
        }
        Ok(all)
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("patroni.json")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.process.is_some() {
            let _ = self.kill();
        }
    }
}

/// Sends a signal to processes. One that has ended meanwhile is passed over.
fn send(signal: &str, processes: &BTreeSet<u32>) -> Result<()> {
    let numbers = processes.iter().map(u32::to_string);
    Command::new("kill").args(["-s", signal]).args(numbers).output().context("kill")?;
    Ok(())
}
