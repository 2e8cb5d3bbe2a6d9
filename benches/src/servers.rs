//! Servers that are compared: the program under two names.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tempfile::TempDir;
use workspaces_tests::{Deployment, PEPPER, Server, postgres::Postgres};

const SANDBOXED: &str = "workspaces-sandboxed";
const NATIVE: &str = "workspaces-native";

/// Returns `Some` where this process was started under the name of a server: `true` for the one without a sandbox.
pub(crate) fn name() -> Option<bool> {
    let called = env::args_os().next()?;
    let name = Path::new(&called).file_name()?;
    if name == SANDBOXED {
        Some(false)
    } else if name == NATIVE {
        Some(true)
    } else {
        None
    }
}

/// The programs that are compared.
pub(crate) struct Programs {
    /// Folder with this program's two names.
    names: TempDir,
    /// Folder of the server in Node.
    node: Option<PathBuf>,
}

impl Programs {
    pub(crate) fn new(with_node: bool) -> Result<Self> {
        let (names, program) = (TempDir::new()?, env::current_exe()?);
        for name in [SANDBOXED, NATIVE] {
            symlink(&program, names.path().join(name))?;
        }
        let target = program.parent().context("the program has no folder")?;
        let node = if with_node { node(target)? } else { None };
        Ok(Self { node, names })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.names.path().join(name)
    }
}

/// Place where the workspaces are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Database {
    /// SQLite on this machine's disk, each create synced.
    Disk,
    /// SQLite in a file system in memory, where a sync costs nothing.
    Memory,
    /// A PostgreSQL server on this machine.
    Postgres,
}

impl Database {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Disk => "SQLite on disk",
            Self::Memory => "SQLite in memory",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// File system in memory of Linux.
const IN_MEMORY: &str = "/dev/shm";

/// A sandboxed server, a native one, and one in Node where that is installed, each with a database of its own.
pub(crate) struct Servers {
    pub(crate) database: Database,
    pub(crate) sandboxed: Running,
    pub(crate) native: Running,
    pub(crate) node: Option<Running>,
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) server: Server,
    pub(crate) key: String,
    // After the server, which uses them.
    _deployment: Deployment,
    _postgres: Option<Postgres>,
}

impl Servers {
    pub(crate) fn start(programs: &Programs, database: Database) -> Result<Self> {
        let [sandboxed, native] = [SANDBOXED, NATIVE]
            .map(|name| Running::start(&programs.path(name), database, |deployment, _| deployment.server(&[])));
        let node = programs.node.as_ref().map(|folder| {
            Running::start(&programs.path(SANDBOXED), database, |deployment, postgres| {
                let mut command = Command::new("node");
                let file = deployment.database().into_os_string();
                let address = postgres.map_or(file, |postgres| postgres.url().into());
                command.arg(folder.join("server.mjs")).env("DATABASE", address).env("PEPPER", PEPPER);
                command
            })
        });
        Ok(Self { database, sandboxed: sandboxed?, native: native?, node: node.transpose()? })
    }
}

/// Folder of the server in Node.
const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/node");

/// Returns the folder of the server in Node, with its libraries; `None` where there is no Node or npm.
fn node(target: &Path) -> Result<Option<PathBuf>> {
    let is_there =
        |program| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_there("node") || !is_there("npm") {
        eprintln!("no Node: left out");
        return Ok(None);
    }
    let folder = target.join("node");
    fs::create_dir_all(&folder)?;
    for file in ["package.json", "server.mjs"] {
        fs::copy(Path::new(NODE).join(file), folder.join(file))?;
    }
    eprintln!("npm install in {}", folder.display());
    let mut install = Command::new("npm");
    install.args(["install", "--no-audit", "--no-fund", "--silent"]).current_dir(&folder).stdout(Stdio::null());
    let installed = install.status()?;
    if !installed.success() {
        eprintln!("npm install failed: Node is left out");
    }
    Ok(installed.success().then_some(folder))
}

impl Running {
    /// Makes a database with an account and a key, and starts the server that `command` returns for it.
    fn start(
        program: &Path,
        database: Database,
        command: impl Fn(&Deployment, Option<&Postgres>) -> Command,
    ) -> Result<Self> {
        let program = program.to_str().context("the path of the program is no UTF-8")?;
        let (deployment, postgres) = match database {
            Database::Disk => (Deployment::new(program)?, None),
            Database::Memory => (Deployment::within(program, Path::new(IN_MEMORY))?, None),
            Database::Postgres => {
                let postgres = Postgres::start()?;
                (Deployment::on_postgres(program, &postgres.url())?, Some(postgres))
            }
        };
        let account = deployment.run(&["account", "create", "--name", "Ada"])?;
        let key = deployment.run(&["key", "create", &account])?;
        // As an operator runs it: a line in the log for each request.
        let mut command = command(&deployment, postgres.as_ref());
        let server = Server::start(command.env("WORKSPACES_LOG", "info").stderr(Stdio::null()))?;
        Ok(Self { server, key, _deployment: deployment, _postgres: postgres })
    }

    /// Returns the processor time that the server has used.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        self.server.processor_time()
    }

    /// Returns the number of voluntary context switches of its threads so far.
    pub(crate) fn switches(&self) -> Result<u64> {
        let mut switches = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.server.id()))? {
            // A thread may end in between.
            let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            switches += line.context("no number of switches")?.trim().parse::<u64>()?;
        }
        Ok(switches)
    }
}
