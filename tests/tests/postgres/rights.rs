//! Rights, tables and columns that are taken away from a host that runs: a fault of the setup, whichever statement meets it.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use uuid::Uuid;
use workspaces_host::{
    auth::{
        Grant, LookUpError,
        access::Question,
        api_key::Directory as _,
        subject::{Subject, Subjects as _},
    },
    storage::{
        Database as _, Error, Quota, Storage as _,
        postgres::{Postgres, PostgresOptions},
    },
};
use workspaces_tests::{Deployment, Server, postgres as server};

use super::{PROGRAM, claim, connect, deployed, own_grant};

/// Rights that a running host needs.
const RIGHTS: [(&str, &str); 11] = [
    ("public.accounts", "SELECT INSERT"),
    ("public.account_info", "SELECT INSERT"),
    ("public.account_workspace_ids", "SELECT INSERT"),
    ("public.artist_organization_ids", "SELECT INSERT"),
    ("public.account_organization_ids", "SELECT"),
    ("public.account_api_keys", "SELECT"),
    ("workspaces.schema_version", "SELECT"),
    ("workspaces.idempotency_keys", "SELECT INSERT UPDATE DELETE"),
    ("workspaces.quota_usage", "SELECT INSERT UPDATE"),
    ("workspaces.token_subjects", "SELECT INSERT UPDATE DELETE"),
    ("workspaces.key_peppers", "SELECT"),
];

/// Columns that its statements name.
const COLUMNS: [(&str, &str); 11] = [
    ("public.accounts", "id name"),
    ("public.account_info", "account_id"),
    ("public.account_workspace_ids", "account_id workspace_id"),
    ("public.artist_organization_ids", "artist_id organization_id"),
    ("public.account_organization_ids", "account_id organization_id"),
    ("public.account_api_keys", "id account key_hash expires_at"),
    ("workspaces.schema_version", "version"),
    ("workspaces.idempotency_keys", "caller_id route key fingerprint workspace_id name account_id created_at"),
    ("workspaces.quota_usage", "tenant total day today"),
    ("workspaces.token_subjects", "issuer subject account_id"),
    ("workspaces.key_peppers", "key_id pepper"),
];

/// A database, and what its requests are about.
struct Scene {
    database: Postgres,
    own: Grant,
    linked: Grant,
}

impl Scene {
    /// Runs each statement of requests, and returns its outcome by its name.
    async fn run(&self) -> Result<Vec<(&'static str, Result<(), LookUpError>)>> {
        let Self { database, own, linked } = self;
        let caller = own.caller_id;
        let unique = Uuid::now_v7().to_string();
        let claimed = claim(caller, &unique)?;
        let subject = |name: &str| Subject { issuer: "https://issuer".into(), name: name.into() };
        let question =
            Question { caller, account: linked.account_id, organization: linked.organization_id, administrators: None };
        let quota = database.for_tenant("acme", Quota { per_day: Some(1_000_000), total: None });
        Ok(vec![
            (
                "a plain create",
                database.create_workspace(Uuid::now_v7(), own, "x", None).await.map(drop).map_err(LookUpError::from),
            ),
            (
                "a create with a key",
                database
                    .create_workspace(Uuid::now_v7(), own, "x", Some(&claimed))
                    .await
                    .map(drop)
                    .map_err(LookUpError::from),
            ),
            (
                "a create for another account",
                database.create_workspace(Uuid::now_v7(), linked, "x", None).await.map(drop).map_err(LookUpError::from),
            ),
            (
                "a create with a quota",
                quota.create_workspace(Uuid::now_v7(), own, "x", None).await.map(drop).map_err(LookUpError::from),
            ),
            ("the look-up of a claim", database.find_claimed(&claimed).await.map(drop).map_err(LookUpError::from)),
            ("the look-up of an API key", database.find_key("hash").await.map(drop)),
            ("the look-up of memberships", database.facts(&question).await.map(drop)),
            ("the look-up of a subject", database.find_subject(&subject("known"), None).await.map(drop)),
            ("an account for a subject", database.account_of_subject(&subject(&unique)).await.map(drop)),
        ])
    }

    /// Asserts that what is broken is a fault of the setup for each statement that meets it, for readiness, and for a
    /// host that starts; and that all is well again once it is mended.
    async fn require_fault(&self, server: &server::Postgres, breaks: &str, mends: &str, named: &str) -> Result<()> {
        server.psql(breaks)?;
        let outcomes = self.run().await?;
        for (statement, outcome) in &outcomes {
            assert!(
                matches!(outcome, Ok(()) | Err(LookUpError::Misconfigured(_))),
                "{breaks}: {statement}: {outcome:?}"
            );
        }
        // Of these, one is the sweep's alone, and two are those of a start.
        let is_met = outcomes.iter().any(|(_, outcome)| outcome.is_err());
        let is_of_requests = !["DELETE ON workspaces.idempotency_keys", "schema_version", "key_peppers"]
            .iter()
            .any(|rare| breaks.contains(rare));
        assert!(is_met || !is_of_requests, "{breaks}: no statement needs it");
        if is_met {
            let ready = self.database.ready().await;
            assert!(matches!(ready, Err(Error::Misconfigured(_))), "{breaks}: {ready:?}");
        }
        let refused = Postgres::connect(&server.service_url(), &PostgresOptions::default()).await;
        let refused = refused.err().with_context(|| format!("{breaks}: a host starts"))?.to_string();
        assert!(refused.contains(named), "{breaks}: {refused}");
        server.psql(mends)?;
        for (statement, outcome) in self.run().await? {
            assert_eq!(outcome, Ok(()), "{mends}: {statement}");
        }
        assert_eq!(self.database.ready().await, Ok(()), "{mends}");
        Ok(())
    }
}

async fn scene(server: &server::Postgres) -> Result<Scene> {
    let database = connect(server).await?;
    let own = own_grant(&database).await?;
    let organization = database.create_account(None, None).await?.id;
    let other = own_grant(&database).await?.account_id;
    for account in [own.account_id, other] {
        database.add_member(organization, account).await?;
    }
    let linked = Grant { account_id: other, organization_id: Some(organization), ..own.clone() };
    Ok(Scene { database, own, linked })
}

#[tokio::test]
async fn a_right_that_is_withdrawn_is_a_fault_of_the_setup_for_each_statement() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    let scene = scene(&server).await?;
    for (table, rights) in RIGHTS {
        for right in rights.split(' ') {
            let breaks = format!("REVOKE {right} ON {table} FROM service");
            let mends = format!("GRANT {right} ON {table} TO service");
            scene.require_fault(&server, &breaks, &mends, &mends).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_table_or_column_that_is_taken_away_is_a_fault_of_the_setup_for_each_statement() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    let scene = scene(&server).await?;
    for (table, columns) in COLUMNS {
        let (schema, name) = table.split_once('.').context("a schema")?;
        let breaks = format!("ALTER TABLE {table} RENAME TO gone");
        let mends = format!("ALTER TABLE {schema}.gone RENAME TO {name}");
        let named = if name == "schema_version" { "migrate" } else { name };
        scene.require_fault(&server, &breaks, &mends, named).await?;
        for column in columns.split(' ') {
            let breaks = format!("ALTER TABLE {table} RENAME {column} TO gone");
            let mends = format!("ALTER TABLE {table} RENAME gone TO {column}");
            scene.require_fault(&server, &breaks, &mends, column).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn old_keys_that_can_not_be_forgotten_are_a_fault_of_the_setup() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    server.psql("REVOKE DELETE ON workspaces.idempotency_keys FROM service")?;
    let database =
        Postgres::connect(&server.service_url(), &PostgresOptions { check: false, ..PostgresOptions::default() })
            .await?;
    let grant = own_grant(&database).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while database.ready().await.is_ok() {
        ensure!(Instant::now() < deadline, "it stays ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A create that succeeds says nothing of it.
    database.create_workspace(Uuid::now_v7(), &grant, "x", None).await?;
    let ready = database.ready().await;
    assert!(matches!(&ready, Err(Error::Misconfigured(reason)) if reason.contains("GRANT DELETE")), "{ready:?}");
    server.psql("GRANT DELETE ON workspaces.idempotency_keys TO service")?;
    assert_eq!(database.ready().await, Ok(()));
    Ok(())
}

#[test]
fn clients_and_operators_hear_of_a_right_that_access_needs() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = server::Postgres::deployed()?;
    let deployment = Deployment::on_postgres(PROGRAM, &server.service_url())?;
    let account = deployment.run(&["account", "create"])?;
    let other = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    let log = deployment.folder().join("log");
    let mut command = deployment.server(&["--log", "warn"]);
    let host = Server::start(command.stderr(Stdio::from(std::fs::File::create(&log)?)))?;
    let require_ready = |expected: u16| -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while host.send("GET", "/readyz", &[], b"")?.status != expected {
            ensure!(Instant::now() < deadline, "/readyz does not become {expected}");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    };
    for (table, body, mended) in [
        ("account_api_keys", "{}".to_owned(), 201),
        ("account_organization_ids", format!(r#"{{"account_id": "{other}"}}"#), 403),
    ] {
        server.psql(&format!("REVOKE SELECT ON {table} FROM service"))?;
        for _ in 0..3 {
            let answer = host.create(&key, &body)?;
            assert_eq!((answer.status, answer.header("retry-after")), (500, None), "{table}: {answer:?}");
        }
        require_ready(503)?;
        let logged = std::fs::read_to_string(&log)?;
        let errors = logged.lines().filter(|line| {
            line.contains(" ERROR database can't be used") && line.contains(&format!("denied for table {table}"))
        });
        assert_eq!(errors.count(), 1, "{table}: {logged}");
        server.psql(&format!("GRANT SELECT ON {table} TO service"))?;
        require_ready(200)?;
        assert_eq!(host.create(&key, &body)?.status, mended, "{table}");
    }
    Ok(())
}
