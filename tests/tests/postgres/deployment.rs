//! The deployment's tables: the shape that `migrate` makes, and the one that is there.

use anyhow::{Context as _, Result};
use uuid::Uuid;
use workspaces_host::storage::{
    Database as _, Storage as _,
    postgres::{Postgres, PostgresOptions},
};
use workspaces_tests::{Deployment, postgres as server};

use super::{PROGRAM, claim, connect, deployed, own_grant, until};

/// Columns, constraints, triggers and row-level security of the deployment's tables.
const SHAPE: [&str; 4] = [
    "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
     WHERE table_schema = 'public' ORDER BY table_name, column_name",
    "SELECT conrelid::regclass, contype, pg_get_constraintdef(oid) FROM pg_constraint
     WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f', 'p', 'u', 'x') ORDER BY 1, 2, 3",
    "SELECT event_object_table, action_timing, event_manipulation FROM information_schema.triggers ORDER BY 1, 2, 3",
    "SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class
     WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1",
];

#[tokio::test]
async fn migrate_makes_tables_of_the_deployments_shape() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let (deployment, empty) = (server::Postgres::deployed()?, server::Postgres::start()?);
    Postgres::migrate(&empty.url()).await?;
    for sql in SHAPE {
        let expected = deployment.psql(sql)?;
        assert!(expected.lines().count() > 3, "{expected}");
        assert_eq!(empty.psql(sql)?, expected);
    }
    Ok(())
}

#[test]
fn the_deployments_own_tables_take_workspaces_from_its_service() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = server::Postgres::deployed()?;
    let before: Vec<_> = SHAPE.iter().map(|sql| server.psql(sql)).collect::<Result<_>>()?;
    let deployment = Deployment::on_postgres(PROGRAM, &server.service_url())?;
    let after: Vec<_> = SHAPE.iter().map(|sql| server.psql(sql)).collect::<Result<_>>()?;
    assert_eq!(after, before);

    let account = deployment.run(&["account", "create", "--name", "Ada"])?;
    let organization = deployment.run(&["organization", "create", "--name", "Label"])?;
    for _ in 0..2 {
        deployment.run(&["organization", "add-member", &organization, &account])?;
    }
    assert_eq!(server.psql("SELECT count(*) FROM account_organization_ids")?, "1");
    let key = deployment.run(&["key", "create", &account])?;
    let host = deployment.serve(&[])?;
    let body = format!(r#"{{"name": "Studio", "organization_id": "{organization}"}}"#);
    let answer = host.create(&key, &body)?;
    assert_eq!(answer.status, 201, "{answer:?}");
    let id = answer.json()?["workspace"]["id"].as_str().context("an id")?.to_owned();
    let written = format!(
        "SELECT a.name, abs(a.timestamp - extract(epoch FROM now())) < 600, i.id <> a.id, i.updated_at IS NOT NULL,
             o.account_id, o.updated_at IS NOT NULL, l.organization_id, l.created_at IS NOT NULL
         FROM accounts a JOIN account_info i ON i.account_id = a.id
         JOIN account_workspace_ids o ON o.workspace_id = a.id JOIN artist_organization_ids l ON l.artist_id = a.id
         WHERE a.id = '{id}'"
    );
    assert_eq!(server.psql(&written)?, format!("Studio|t|t|t|{account}|t|{organization}|t"));
    Ok(())
}

#[tokio::test]
async fn rows_that_are_there_twice_count_once() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    let database = connect(&server).await?;
    let mut grant = own_grant(&database).await?;
    let organization = database.create_account(None, None).await?.id;
    database.add_member(organization, grant.account_id).await?;
    server.psql(
        "INSERT INTO account_organization_ids (account_id, organization_id)
         SELECT account_id, organization_id FROM account_organization_ids",
    )?;
    grant.organization_id = Some(organization);
    for key in ["a", "b"] {
        database.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim(grant.caller_id, key)?)).await?;
    }
    server.psql(
        "INSERT INTO account_workspace_ids (account_id, workspace_id)
             SELECT account_id, workspace_id FROM account_workspace_ids;
         INSERT INTO account_workspace_ids (account_id, workspace_id)
             SELECT NULL, workspace_id FROM account_workspace_ids",
    )?;
    assert_eq!(database.workspaces(None).await?.len(), 2);
    assert_eq!(database.workspaces(Some(grant.account_id)).await?.len(), 2);
    assert_eq!(database.check(Box::new(|_, _| {})).await?.workspaces, Some(2));
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_given_again_changes_no_row_of_the_deployment() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    let database = connect(&server).await?;
    let grant = own_grant(&database).await?;
    let claim = claim(grant.caller_id, "again")?;
    let first = database.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim)).await?;
    let versions = "SELECT xmin, xmax, ctid FROM accounts ORDER BY id";
    let before = server.psql(versions)?;
    assert_eq!(database.find_claimed(&claim).await?, Some(first.workspace.clone()));
    assert!(database.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim)).await?.replayed);
    assert_eq!(server.psql(versions)?.replace("|0|", "|"), before.replace("|0|", "|"));
    Ok(())
}

#[tokio::test]
async fn what_is_missing_is_named_at_the_start_and_by_migrate() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    for (breaks, mends, named) in [
        (
            "ALTER TABLE account_info RENAME account_id TO gone",
            "ALTER TABLE account_info RENAME gone TO account_id",
            r#"column "account_id" of relation "account_info""#,
        ),
        (
            "ALTER TABLE artist_organization_ids RENAME TO gone",
            "ALTER TABLE gone RENAME TO artist_organization_ids",
            r#""public.artist_organization_ids""#,
        ),
        (
            "REVOKE INSERT ON account_workspace_ids FROM service",
            "GRANT INSERT ON account_workspace_ids TO service",
            "GRANT INSERT ON public.account_workspace_ids TO service",
        ),
        (
            "REVOKE SELECT ON account_api_keys FROM service",
            "GRANT SELECT ON account_api_keys TO service",
            "GRANT SELECT ON public.account_api_keys TO service",
        ),
        (
            "REVOKE UPDATE ON workspaces.idempotency_keys FROM service",
            "GRANT UPDATE ON workspaces.idempotency_keys TO service",
            "GRANT UPDATE ON workspaces.idempotency_keys TO service",
        ),
        (
            "REVOKE ALL ON SCHEMA workspaces FROM service",
            "GRANT ALL ON SCHEMA workspaces TO service",
            "GRANT USAGE ON SCHEMA workspaces TO service",
        ),
        ("ALTER ROLE service NOBYPASSRLS", "ALTER ROLE service BYPASSRLS", "ALTER ROLE service BYPASSRLS"),
        (
            "ALTER TABLE account_info ADD COLUMN needed text NOT NULL DEFAULT ''; ALTER TABLE account_info ALTER needed DROP DEFAULT",
            "ALTER TABLE account_info DROP COLUMN needed",
            r#""needed""#,
        ),
    ] {
        server.psql(breaks)?;
        let refused = Postgres::connect(&server.service_url(), &PostgresOptions::default()).await;
        let refused = refused.err().with_context(|| breaks.to_owned())?.to_string();
        assert!(refused.contains(named), "{breaks}: {refused}");
        if !breaks.contains("TO gone") && !breaks.contains("SCHEMA") {
            let refused = Postgres::migrate(&server.service_url()).await;
            let refused = refused.err().with_context(|| breaks.to_owned())?.to_string();
            assert!(refused.contains(named), "migrate, {breaks}: {refused}");
        }
        server.psql(mends)?;
        connect(&server).await.with_context(|| mends.to_owned())?;
    }
    assert_eq!(server.psql("SELECT count(*) FROM accounts")?, "0", "the check left a row");
    Ok(())
}

#[tokio::test]
async fn claims_are_dated_and_forgotten_by_the_servers_clock() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = server::Postgres::deployed()?;
    let deployment = Deployment::on_postgres(PROGRAM, &server.service_url())?;
    let database = connect(&server).await?;
    let grant = own_grant(&database).await?;
    for key in ["fresh", "kept", "old"] {
        database.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim(grant.caller_id, key)?)).await?;
    }
    let hours = "round((extract(epoch FROM now()) * 1000 - created_at) / 3600000)";
    assert_eq!(server.psql(&format!("SELECT DISTINCT {hours} FROM workspaces.idempotency_keys"))?, "0");
    for (key, age) in [("kept", 23), ("old", 25)] {
        server.psql(&format!(
            "UPDATE workspaces.idempotency_keys SET created_at = created_at - {age} * 3600000 WHERE key = '{key}'"
        ))?;
    }
    let _host = deployment.serve(&[])?;
    until(&server, "SELECT string_agg(key, ' ' ORDER BY key) FROM workspaces.idempotency_keys", "fresh kept").await
}

#[tokio::test]
async fn addresses_that_psql_takes_reach_the_server() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    for address in [
        server.socket_url("sslmode=require"),
        server.socket_url("sslmode=verify%2Dfull&sslrootcert=system"),
        format!("{}?sslmode=allow&client_encoding=UTF8&gssencmode=prefer&keepalives_count=3", server.service_url()),
        format!("{}?target_session_attrs=primary&application_name=a%20b", server.service_url()),
    ] {
        let connected = Postgres::connect(&address, &PostgresOptions::default()).await;
        connected.with_context(|| address.clone())?;
    }
    let nowhere = Postgres::connect("postgres://service@127.0.0.1:1/postgres", &PostgresOptions::default()).await;
    let message = nowhere.err().context("connected to nobody")?.to_string();
    assert!(message.contains("127.0.0.1:1"), "{message}");
    Ok(())
}
