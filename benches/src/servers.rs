//! Servers that are compared: the program under two names.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
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

    /// Returns the path of the program under the name for a kind of server. Node's database is made by the sandboxed one.
    pub(crate) fn path(&self, kind: Kind) -> Result<String> {
        let name = if kind == Kind::Native { NATIVE } else { SANDBOXED };
        let path = self.names.path().join(name);
        Ok(path.to_str().context("the path of the program is no UTF-8")?.to_owned())
    }
}

/// Place where the workspaces are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Database {
    /// SQLite on this machine's disk, each create synced.
    Disk,
    /// SQLite without a file.
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

/// Kind of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A fresh sandbox for each request.
    Sandboxed,
    /// Sandboxes that answer many requests.
    Reused,
    /// No sandbox.
    Native,
    /// The same operation in Node.
    Node,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sandboxed => "sandboxed",
            Self::Reused => "reused",
            Self::Native => "native",
            Self::Node => "Node",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Reused => &["--requests-per-instance", "1000000"],
            _ => &[],
        }
    }
}

/// Servers of each kind that there is, each with a database of its own.
pub(crate) struct Servers {
    pub(crate) database: Database,
    pub(crate) running: Vec<(Kind, Running)>,
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) server: Server,
    /// A credential, for creates.
    pub(crate) key: String,
    // After the server, which uses them.
    _deployment: Deployment,
    _postgres: Option<Postgres>,
}

impl Servers {
    pub(crate) fn start(programs: &Programs, database: Database) -> Result<Self> {
        let kinds = [Kind::Sandboxed, Kind::Reused, Kind::Native];
        let kinds = kinds.into_iter().chain(programs.node.as_ref().map(|_| Kind::Node));
        let running = kinds.map(|kind| Ok((kind, Running::start(programs, kind, database)?)));
        Ok(Self { database, running: running.collect::<Result<_>>()? })
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
    /// Makes a database with an account and a key, and starts a server on it.
    fn start(programs: &Programs, kind: Kind, database: Database) -> Result<Self> {
        match (database, kind, &programs.node) {
            (Database::Memory, Kind::Sandboxed | Kind::Reused | Kind::Native, _) => Self::demo(programs, kind, "info"),
            (_, Kind::Node, Some(folder)) => Self::with(programs, kind, database, |deployment, postgres| {
                let mut command = Command::new("node");
                let file = deployment.database().into_os_string();
                let address = postgres.map_or(file, |postgres| postgres.url().into());
                command.arg(folder.join("server.mjs")).env("DATABASE", address).env("PEPPER", PEPPER);
                if database == Database::Memory {
                    command.env("IN_MEMORY", "1");
                }
                command
            }),
            _ => Self::with(programs, kind, database, |deployment, _| deployment.server(kind.arguments())),
        }
    }

    fn with(
        programs: &Programs,
        kind: Kind,
        database: Database,
        command: impl Fn(&Deployment, Option<&Postgres>) -> Command,
    ) -> Result<Self> {
        let program = programs.path(kind)?;
        let (deployment, postgres) = match database {
            Database::Disk | Database::Memory => (Deployment::new(&program)?, None),
            Database::Postgres => {
                let postgres = Postgres::start()?;
                (Deployment::on_postgres(&program, &postgres.url())?, Some(postgres))
            }
        };
        let account = deployment.run(&["account", "create", "--name", "Ada"])?;
        let key = deployment.run(&["key", "create", &account])?;
        // As an operator runs it: a line in the log for each request.
        let mut command = command(&deployment, postgres.as_ref());
        let server = Server::start(command.env("WORKSPACES_LOG", "info").stderr(Stdio::null()))?;
        Ok(Self { server, key, _deployment: deployment, _postgres: postgres })
    }

    /// Starts a server on a database in memory.
    pub(crate) fn demo(programs: &Programs, kind: Kind, log: &str) -> Result<Self> {
        let deployment = Deployment::new(&programs.path(kind)?)?;
        let mut command = deployment.command(&["serve", "--demo", "--listen", "127.0.0.1:0"]);
        command.env_remove("WORKSPACES_DATABASE").args(kind.arguments()).env("WORKSPACES_LOG", log);
        let mut server = Server::start(command.stderr(Stdio::null()))?;
        let key = server.demo_key()?;
        Ok(Self { server, key, _deployment: deployment, _postgres: None })
    }
}
