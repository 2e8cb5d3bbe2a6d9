//! Refusals of the deployment's own rules, and faults of its schema.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use uuid::Uuid;
use workspaces_host::{
    auth::{
        Basis, Denial, Grant, LookUpError,
        subject::{Subject, Subjects as _},
    },
    storage::{
        Database as _, Error, NewKey, Storage as _,
        postgres::{Postgres, PostgresOptions},
    },
};
use workspaces_tests::{Deployment, postgres as server};

use super::{PROGRAM, claim, connect, deployed, own_grant, rows, until};

const DROP_ROW: &str = "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'";
const NEW_ID: &str = "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN NEW.id = gen_random_uuid(); RETURN NEW; END'";
const RAISE: &str = "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''no''; END'";
const RAISE_OWN_CODE: &str = "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''no'' USING ERRCODE = ''ZZ001''; END'";

fn trigger(function: &str, table: &str) -> (String, String) {
    let breaks =
        format!("{function}; CREATE TRIGGER fault BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fault()");
    (breaks, "DROP FUNCTION fault CASCADE".into())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_databases_own_rules_refuse_is_refused_at_once_and_creates_nothing() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    let database = connect(&server).await?;
    let grant = own_grant(&database).await?;
    let linked = Grant { organization_id: Some(grant.account_id), ..grant.clone() };
    let long = "n".repeat(150);
    let constraint = |rule: &str| {
        (
            format!("ALTER TABLE accounts ADD CONSTRAINT rule {rule}"),
            "ALTER TABLE accounts DROP CONSTRAINT rule".to_owned(),
        )
    };
    let mut rules = vec![
        ("CREATE UNIQUE INDEX rule ON accounts (name)".to_owned(), "DROP INDEX rule".to_owned()),
        constraint("CHECK (length(name) < 100) NOT VALID"),
        constraint("EXCLUDE USING btree (name WITH =)"),
        (
            "CREATE TABLE names (name text PRIMARY KEY); ALTER TABLE accounts ADD CONSTRAINT rule FOREIGN KEY (name) REFERENCES names NOT VALID"
                .into(),
            "DROP TABLE names CASCADE".into(),
        ),
        trigger(RAISE, "account_info"),
        trigger(RAISE_OWN_CODE, "account_info"),
        trigger(NEW_ID, "accounts"),
    ];
    for table in ["accounts", "account_info", "account_workspace_ids", "artist_organization_ids"] {
        rules.push(trigger(DROP_ROW, table));
    }
    rules.push((
        "UPDATE accounts SET name = ''; ALTER TABLE accounts ALTER name TYPE varchar(100)".into(),
        "ALTER TABLE accounts ALTER name TYPE text".into(),
    ));
    for (breaks, mends) in rules {
        // One of the name is there, and another that may be changed into anything.
        server.psql("UPDATE accounts SET name = id::text")?;
        database.create_workspace(Uuid::now_v7(), &grant, &long, None).await?;
        server.psql(&breaks)?;
        let before = rows(&server)?;
        for claim in [None, Some(claim(grant.caller_id, "refused")?)] {
            let start = Instant::now();
            let outcome = database.create_workspace(Uuid::now_v7(), &linked, &long, claim.as_ref()).await;
            assert!(matches!(outcome, Err(Error::Refused(_))), "{breaks}: {outcome:?}");
            assert!(start.elapsed() < Duration::from_secs(4), "{breaks}: after {:?}", start.elapsed());
        }
        assert_eq!(rows(&server)?, before, "{breaks}");
        assert_eq!(database.ready().await, Ok(()), "{breaks}");
        server.psql(&mends)?;
        database.create_workspace(Uuid::now_v7(), &linked, &long, None).await.with_context(|| mends.clone())?;
    }
    Ok(())
}

#[tokio::test]
async fn an_account_that_the_database_refuses_to_a_subject_is_refused_at_once() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    let database = connect(&server).await?;
    let subject = |name: &str| Subject { issuer: "https://issuer".into(), name: name.into() };
    server.psql("ALTER TABLE accounts ADD CONSTRAINT rule CHECK (name IS NOT NULL)")?;
    // Text never holds a NUL, which a token's claim may.
    for (name, refused) in [("ada", "rule"), ("a\0b", "0x00")] {
        let outcome = database.account_of_subject(&subject(name)).await;
        assert!(matches!(&outcome, Err(LookUpError::Refused(reason)) if reason.contains(refused)), "{outcome:?}");
        assert_eq!(Denial::from(outcome.err().context("an error")?), Denial::NoAccount);
        assert_eq!(database.ready().await, Ok(()));
    }
    assert_eq!(server.psql("SELECT count(*) FROM workspaces.token_subjects")?, "0");
    server.psql("ALTER TABLE accounts DROP CONSTRAINT rule")?;
    database.account_of_subject(&subject("ada")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_violation_after_a_lost_answer_is_not_taken_for_the_creates_own() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = Arc::new(deployed().await?);
    let database = connect(&server).await?;
    let grant = own_grant(&database).await?;
    server.psql("CREATE UNIQUE INDEX rule ON accounts (name)")?;
    // Another transaction takes the name, and keeps the create waiting meanwhile.
    let other = server.clone();
    let takes = "BEGIN; INSERT INTO accounts (name) VALUES ('A1'); SELECT pg_sleep(1.5); COMMIT";
    let other = tokio::task::spawn_blocking(move || other.psql(takes));
    until(&server, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1").await?;
    let (again, grant) = (database.clone(), grant.clone());
    let answer = tokio::spawn(async move { again.create_workspace(Uuid::now_v7(), &grant, "A1", None).await });
    let waits = "FROM pg_stat_activity WHERE usename = 'service' AND wait_event_type = 'Lock'";
    until(&server, &format!("SELECT count(*) {waits}"), "1").await?;
    server.psql(&format!("SELECT pg_terminate_backend(pid) {waits}"))?;
    let outcome = answer.await?;
    assert!(matches!(outcome, Err(Error::Unknown(_) | Error::Refused(_))), "{outcome:?}");
    other.await??;
    assert_eq!(server.psql("SELECT count(*) FROM account_workspace_ids")?, "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_refusals_at_once_leave_room_for_a_good_create() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    let database = connect(&server).await?;
    let grant = own_grant(&database).await?;
    server.psql("CREATE UNIQUE INDEX rule ON accounts (name)")?;
    database.create_workspace(Uuid::now_v7(), &grant, "A1", None).await?;
    let refusals: Vec<_> = (0..40)
        .map(|_| {
            let (database, grant) = (database.clone(), grant.clone());
            tokio::spawn(async move { database.create_workspace(Uuid::now_v7(), &grant, "A1", None).await })
        })
        .collect();
    database.create_workspace(Uuid::now_v7(), &grant, "A2", None).await?;
    for refusal in refusals {
        let outcome = refusal.await?;
        assert!(matches!(outcome, Err(Error::Refused(_))), "{outcome:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_or_role_that_takes_no_workspace_is_said_until_it_does() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    let database = connect(&server).await?;
    let grant = own_grant(&database).await?;
    for (breaks, mends) in [
        ("REVOKE INSERT ON accounts FROM service", "GRANT INSERT ON accounts TO service"),
        (
            "ALTER TABLE account_info ADD needed text; ALTER TABLE account_info ADD CONSTRAINT needed CHECK (true); UPDATE account_info SET needed = ''; ALTER TABLE account_info ALTER needed SET NOT NULL",
            "ALTER TABLE account_info DROP COLUMN needed",
        ),
        ("ALTER TABLE account_workspace_ids RENAME TO gone", "ALTER TABLE gone RENAME TO account_workspace_ids"),
        ("ALTER ROLE service NOBYPASSRLS", "ALTER ROLE service BYPASSRLS"),
    ] {
        server.psql(breaks)?;
        let before = server.psql("SELECT count(*) FROM accounts")?;
        // A session that has planned the statement goes on with the rights that its role had.
        let options = PostgresOptions { check: false, ..PostgresOptions::default() };
        let database = Postgres::connect(&server.service_url(), &options).await?;
        let outcome = database.create_workspace(Uuid::now_v7(), &grant, "x", None).await;
        assert!(matches!(outcome, Err(Error::Misconfigured(_))), "{breaks}: {outcome:?}");
        for _ in 0..2 {
            let ready = database.ready().await;
            assert!(matches!(ready, Err(Error::Misconfigured(_))), "{breaks}: {ready:?}");
        }
        server.psql(mends)?;
        assert_eq!(database.ready().await, Ok(()), "{mends}");
        assert_eq!(server.psql("SELECT count(*) FROM accounts")?, before, "{breaks}");
        database.create_workspace(Uuid::now_v7(), &grant, "x", None).await.with_context(|| mends.to_owned())?;
    }
    Ok(())
}

#[test]
fn clients_and_operators_are_told_what_kind_of_refusal_it_is() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = server::Postgres::deployed()?;
    let deployment = Deployment::on_postgres(PROGRAM, &server.service_url())?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    let host = deployment.serve(&["--log", "off"])?;
    // The gateway keeps an answer for half a second.
    let require_ready = |expected: u16| -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while host.send("GET", "/readyz", &[], b"")?.status != expected {
            ensure!(Instant::now() < deadline, "/readyz does not become {expected}");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    };
    server.psql("ALTER TABLE accounts ADD CONSTRAINT rule CHECK (name <> 'Refused')")?;
    assert_eq!(host.create(&key, r#"{"name": "Refused"}"#)?.status, 400);
    assert_eq!(host.create(&key, "{}")?.status, 201);
    require_ready(200)?;
    server.psql("REVOKE INSERT ON accounts FROM service")?;
    let answer = host.create(&key, "{}")?;
    assert_eq!((answer.status, answer.header("retry-after")), (500, None), "{answer:?}");
    require_ready(503)?;
    server.psql("GRANT INSERT ON accounts TO service")?;
    require_ready(200)?;
    assert_eq!(host.create(&key, "{}")?.status, 201);
    Ok(())
}

#[tokio::test]
async fn a_key_that_was_revoked_or_has_expired_creates_nothing() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    let database = connect(&server).await?;
    let grant = own_grant(&database).await?;
    let other = own_grant(&database).await?.account_id;
    database.add_member(grant.account_id, grant.account_id).await?;
    database.add_member(grant.account_id, other).await?;
    let new = || NewKey { name: "k".into(), hash: "h".into(), pepper: "p".into(), expires_at: None };
    let key = database.create_key(grant.caller_id, new()).await?.id;
    let keyed = Grant { key_id: Some(key), ..grant.clone() };
    let grants =
        [keyed.clone(), Grant { basis: Basis::Auth, ..keyed.clone() }, Grant { account_id: other, ..keyed.clone() }];
    for loses in [
        "UPDATE account_api_keys SET expires_at = now()",
        &format!("UPDATE account_api_keys SET expires_at = NULL, account = '{other}'"),
        "DELETE FROM account_api_keys",
    ] {
        server.psql(&format!("UPDATE account_api_keys SET expires_at = NULL, account = '{}'", grant.caller_id))?;
        for (number, keyed) in grants.iter().enumerate() {
            let claim = claim(keyed.caller_id, &format!("{loses} {number}").replace(' ', "-"))?;
            database.create_workspace(Uuid::now_v7(), keyed, "x", None).await?;
            server
                .psql(&format!("BEGIN; CREATE TEMP TABLE kept AS SELECT * FROM account_api_keys; {loses}; COMMIT"))?;
            let before = rows(&server)?;
            for claim in [None, Some(&claim)] {
                assert_eq!(
                    database.create_workspace(Uuid::now_v7(), keyed, "x", claim).await,
                    Err(Error::CredentialLost),
                    "{loses}"
                );
            }
            assert_eq!(rows(&server)?, before, "{loses}");
            server.psql(&format!(
                "DELETE FROM account_api_keys;
                 INSERT INTO account_api_keys (id, name, account) VALUES ('{key}', 'k', '{}')",
                grant.caller_id
            ))?;
        }
    }
    Ok(())
}
