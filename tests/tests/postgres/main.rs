//! PostgreSQL as deployments have it: tables, roles, rules and standbys that are not the host's own.
#![allow(missing_docs, reason = "a test's name says what it shows")]

mod deployment;
mod hosts;
mod logins;
mod quota;
mod refusals;
mod rights;
mod standby;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use uuid::Uuid;
use workspaces_host::{
    CreateWorkspaceRequest,
    auth::{Basis, Caller, Grant},
    storage::{
        Claim, Database as _, IdempotencyKey,
        postgres::{Postgres, PostgresOptions},
    },
};
use workspaces_tests::postgres as server;

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Starts a server with the deployment's tables, and the host's own made by its service.
async fn deployed() -> Result<server::Postgres> {
    let server = server::Postgres::deployed()?;
    Postgres::migrate(&server.service_url()).await?;
    Ok(server)
}

async fn connect(server: &server::Postgres) -> Result<Postgres> {
    Ok(Postgres::connect(&server.service_url(), &PostgresOptions::default()).await?)
}

/// Returns a grant for a new account, for itself.
async fn own_grant(database: &Postgres) -> Result<Grant> {
    let account = database.create_account(None, Some("Ada".into())).await?.id;
    let basis = Basis::Memberships { administrators: None };
    Ok(Grant { caller_id: account, account_id: account, organization_id: None, key_id: None, basis })
}

fn claim(caller: Uuid, key: &str) -> Result<Claim> {
    Ok(Claim::new(&Caller::new(caller), IdempotencyKey::new(key)?, &CreateWorkspaceRequest::default()))
}

/// Returns the number of rows in every table of a workspace, and of claims.
fn rows(server: &server::Postgres) -> Result<String> {
    server.psql(
        "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM account_info),
            (SELECT count(*) FROM account_workspace_ids), (SELECT count(*) FROM artist_organization_ids),
            (SELECT count(*) FROM workspaces.idempotency_keys)",
    )
}

/// Waits until SQL returns this.
async fn until(server: &server::Postgres, sql: &str, expected: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let seen = server.psql(sql)?;
        if seen == expected {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{sql}: {seen} and not {expected}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
