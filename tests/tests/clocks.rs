//! Hosts on one database whose clocks differ: an idempotency key stands for one workspace all the same.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rusqlite::Connection;
use workspaces_tests::{Deployment, Server, clock, postgres as server};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// A clock that is ahead by more than a claim is kept, and one far behind.
const OFFSETS: [&str; 2] = ["+25h", "-6y"];

/// Milliseconds since 1970 of a claim that is old by each of the clocks.
const LONG_AGO: i64 = 1_000_000_000_000;

/// Runs a statement on the deployment's database and returns its number.
type Sql<'a> = &'a dyn Fn(&str) -> Result<i64>;

struct Scene<'a> {
    deployment: &'a Deployment,
    sql: Sql<'a>,
    key: String,
}

impl<'a> Scene<'a> {
    fn new(deployment: &'a Deployment, sql: Sql<'a>) -> Result<Self> {
        let account = deployment.run(&["account", "create"])?;
        Ok(Self { deployment, sql, key: deployment.run(&["key", "create", &account])? })
    }

    /// Starts a host, whose clock is off by `offset`.
    fn host(&self, offset: Option<&str>) -> Result<Server> {
        let mut command = self.deployment.server(&["--log", "off"]);
        if let Some(offset) = offset {
            clock::shift(&mut command, offset)?;
        }
        Server::start(&mut command)
    }

    /// Sends a create under a key, and returns the workspace and whether the answer was given before.
    fn create(&self, host: &Server, key: &str) -> Result<(String, bool)> {
        let headers =
            [("Content-Type", "application/json"), ("x-api-key", self.key.as_str()), ("Idempotency-Key", key)];
        let answer = host.send("POST", "/api/workspaces", &headers, b"{}")?;
        ensure!(answer.status == 201, "{answer:?}");
        let replayed = answer.header("idempotency-replayed") == Some("true");
        Ok((answer.json()?["workspace"]["id"].to_string(), replayed))
    }

    /// Starts a host and waits until it has forgotten a claim that is old by any clock.
    fn sweep(&self, offset: Option<&str>) -> Result<Server> {
        (self.sql)(&format!(
            "INSERT INTO {claims} SELECT caller_id, route, 'old', fingerprint, workspace_id, name, account_id, {LONG_AGO}
             FROM {claims} WHERE key = 'real'",
            claims = self.claims()
        ))?;
        let host = self.host(offset)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while (self.sql)(&format!("SELECT count(*) FROM {} WHERE key = 'old'", self.claims()))? > 0 {
            ensure!(Instant::now() < deadline, "nothing was forgotten");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(host)
    }

    fn claims(&self) -> &'static str {
        if self.deployment.database().exists() { "idempotency_keys" } else { "workspaces.idempotency_keys" }
    }

    fn one_workspace_a_key(&self, offset: &str, odd_is_first: bool) -> Result<()> {
        let (real, odd) = (self.host(None)?, self.host(Some(offset))?);
        let early = if odd_is_first { Some(self.create(&odd, "odd")?.0) } else { None };
        let first = self.create(&real, "real")?.0;
        let second = early.map_or_else(|| Ok(self.create(&odd, "odd")?.0), anyhow::Ok)?;
        drop((real, odd));
        for sweeps in [Some(offset), None] {
            let host = self.sweep(sweeps)?;
            let other = self.host(if sweeps.is_none() { Some(offset) } else { None })?;
            for host in [&host, &other] {
                assert_eq!(
                    self.create(host, "real")?,
                    (first.clone(), true),
                    "{offset}, first {odd_is_first}, swept by {sweeps:?}"
                );
                assert_eq!(
                    self.create(host, "odd")?,
                    (second.clone(), true),
                    "{offset}, first {odd_is_first}, swept by {sweeps:?}"
                );
            }
        }
        assert_eq!(self.deployment.run(&["workspace", "list"])?.lines().count(), 2, "{offset}");
        Ok(())
    }
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn hosts_with_other_clocks_on_one_sqlite_file_make_one_workspace_a_key() -> Result<()> {
    if !clock::available()? {
        return Ok(());
    }
    for (offset, odd_is_first) in OFFSETS.into_iter().flat_map(|offset| [(offset, false), (offset, true)]) {
        let deployment = Deployment::new(PROGRAM)?;
        let sql = |statement: &str| -> Result<i64> {
            let connection = Connection::open(deployment.database())?;
            connection.busy_timeout(Duration::from_secs(10))?;
            Ok(match statement.starts_with("SELECT") {
                true => connection.query_row(statement, [], |row| row.get(0))?,
                false => i64::try_from(connection.execute(statement, [])?)?,
            })
        };
        Scene::new(&deployment, &sql)?.one_workspace_a_key(offset, odd_is_first)?;
    }
    Ok(())
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn hosts_with_other_clocks_on_one_postgresql_database_make_one_workspace_a_key() -> Result<()> {
    if !clock::available()? || !server::available()? {
        return Ok(());
    }
    for (offset, odd_is_first) in OFFSETS.into_iter().flat_map(|offset| [(offset, false), (offset, true)]) {
        let server = server::Postgres::deployed()?;
        let deployment = Deployment::on_postgres(PROGRAM, &server.service_url())?;
        let sql = |statement: &str| -> Result<i64> {
            let rows = server.psql(statement)?;
            Ok(if rows.is_empty() { 0 } else { rows.parse()? })
        };
        Scene::new(&deployment, &sql)?.one_workspace_a_key(offset, odd_is_first)?;
    }
    Ok(())
}
