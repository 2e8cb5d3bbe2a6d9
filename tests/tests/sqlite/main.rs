//! SQLite alone: its files, its lock, and its thread.
#![allow(missing_docs, reason = "a test's name says what it shows")]

mod claims;
mod files;
mod refusals;
mod schema;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rusqlite::Connection;
use uuid::Uuid;
use workspaces_host::{
    CreateWorkspaceRequest,
    auth::{Basis, Caller, Grant},
    storage::{Claim, Created, Database, Error, IdempotencyKey, Storage, sqlite::Sqlite},
};
use workspaces_tests::{Deployment, Server};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// A database of its own, with an account in it.
struct Scene {
    folder: tempfile::TempDir,
    database: Sqlite,
    account: Uuid,
}

impl Scene {
    async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let database = Sqlite::open(&folder.path().join("workspaces.db"))?;
        let account = database.create_account(None, None).await?.id;
        Ok(Self { folder, database, account })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("workspaces.db")
    }

    fn grant(&self) -> Grant {
        let account = self.account;
        Grant { caller_id: account, account_id: account, organization_id: None, key_id: None, basis: Basis::Auth }
    }

    async fn create(&self, name: &str) -> Result<Created, Error> {
        self.database.create_workspace(Uuid::now_v7(), &self.grant(), name, None).await
    }

    /// Returns a connection of another process, as far as SQLite can tell.
    fn other(&self) -> Result<Connection> {
        connect(&self.path())
    }

    async fn workspaces(&self) -> Result<usize> {
        Ok(self.database.workspaces(None).await?.len())
    }

    fn claim(&self, key: &str) -> Result<Claim> {
        claim(self.account, key)
    }
}

fn claim(account: Uuid, key: &str) -> Result<Claim> {
    Ok(Claim::new(&Caller::new(account), IdempotencyKey::new(key)?, &CreateWorkspaceRequest::default()))
}

fn connect(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    // As tools have it by default.
    connection.pragma_update(None, "foreign_keys", false)?;
    Ok(connection)
}

fn count(connection: &Connection, what: &str) -> Result<i64> {
    Ok(connection.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0))?)
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await? {
        ensure!(Instant::now() < deadline, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Starts a server whose log goes to a file.
fn serve(deployment: &Deployment) -> Result<(Server, PathBuf)> {
    let log = deployment.folder().join("log");
    let server = Server::start(deployment.server(&[]).stderr(fs::File::create(&log)?))?;
    Ok((server, log))
}

/// Waits until the server says so of itself: it asks its databases once in a while.
fn wait_until_ready(server: &Server, ready: bool) -> Result<()> {
    let (expected, deadline) = (if ready { 200 } else { 503 }, Instant::now() + Duration::from_secs(60));
    while server.send("GET", "/readyz", &[], b"")?.status != expected {
        ensure!(Instant::now() < deadline, "/readyz is not {expected} within a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn with_key() -> Result<(Deployment, String)> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    Ok((deployment, key))
}

fn mode(path: &Path) -> Result<u32> {
    Ok(fs::metadata(path).with_context(|| path.display().to_string())?.permissions().mode() & 0o777)
}
