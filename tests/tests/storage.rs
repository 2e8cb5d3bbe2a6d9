//! Backends of storage, held to its contract, and what is particular to each.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use rusqlite::Connection;
use uuid::Uuid;
use workspaces_host::{
    auth::{Basis, Grant},
    storage::{
        Database, Error, Severity, Storage, conformance,
        postgres::{self, Postgres},
        sqlite::{self, Sqlite},
    },
};
use workspaces_tests::{
    Deployment,
    conformance::{Fixture, forget_member},
    disk::Disk,
    postgres::{self as server, PgBouncer},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Asserts that a database keeps the contract, and that nothing is left half-made.
async fn assert_conforms(fixture: &Fixture<'_>) -> Result<()> {
    let failures = conformance::run(fixture).await;
    assert!(failures.is_empty(), "{failures:#?}");
    let check = fixture.database.check(Box::new(|_, _| {})).await?;
    let errors: Vec<_> = check.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    assert!(errors.is_empty() && check.workspaces > Some(64), "{check:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_the_contract() -> Result<()> {
    for batch in [1, 64] {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("workspaces.db");
        let database = Sqlite::open_with(&path, &sqlite::SqliteOptions { batch, ..Default::default() })?;
        let remove = Box::new(move |organization, account| forget_member(&path, organization, account));
        assert_conforms(&Fixture { database: Arc::new(database), remove }).await?;
    }
    Ok(())
}

/// Holds PostgreSQL at these addresses of one server to the contract.
async fn assert_postgres_conforms(server: &server::Postgres, addresses: &[String]) -> Result<()> {
    Postgres::migrate(&addresses[0]).await?;
    for address in addresses {
        let database = Postgres::connect(address, &postgres::PostgresOptions::default()).await?;
        let remove = |organization, account| {
            let statement = format!(
                "DELETE FROM account_organization_ids WHERE organization_id = '{organization}' AND account_id = '{account}'"
            );
            server.psql(&statement).map(drop)
        };
        assert_conforms(&Fixture { database: Arc::new(database), remove: Box::new(remove) }).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_the_contract() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = server::Postgres::start()?;
    assert_postgres_conforms(&server, &[server.url()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_the_contract_on_the_deployments_own_tables() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = server::Postgres::deployed()?;
    assert_postgres_conforms(&server, &[server.service_url()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_the_contract_through_a_pooler() -> Result<()> {
    if !server::available()? || !PgBouncer::available()? {
        return Ok(());
    }
    let server = server::Postgres::deployed()?;
    let pooler = PgBouncer::start(&server)?;
    let through = pooler.url().replace("//postgres@", "//service@");
    assert_postgres_conforms(&server, &[server.service_url(), through]).await
}

/// Returns a grant for an account that exists.
async fn grant(database: &dyn Database) -> Result<Grant> {
    let account = database.create_account(None, None).await?.id;
    Ok(Grant { caller_id: account, account_id: account, organization_id: None, key_id: None, basis: Basis::Auth })
}

#[tokio::test]
async fn the_log_is_bounded_under_a_long_reader_and_writing_goes_on_when_it_leaves() -> Result<()> {
    const LIMIT: u64 = 4 << 20;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("workspaces.db");
    let database = Sqlite::open_with(&path, &sqlite::SqliteOptions { log_limit: LIMIT, ..Default::default() })?;
    let grant = grant(&database).await?;
    let log = || std::fs::metadata(folder.path().join("workspaces.db-wal")).map(|file| file.len());

    let reader = Connection::open(&path)?;
    reader.execute_batch("BEGIN; SELECT * FROM accounts")?;
    let refusal = loop {
        if let Err(error) = database.create_workspace(Uuid::now_v7(), &grant, "x", None).await {
            break error;
        }
        assert!(log()? < LIMIT * 2, "{} bytes", log()?);
    };
    assert!(matches!(&refusal, Error::Unavailable(reason) if reason.contains("a long reader")), "{refusal:?}");
    assert!(database.create_workspace(Uuid::now_v7(), &grant, "x", None).await.is_err(), "as long as it reads");
    let full = log()?;
    assert!(full > LIMIT / 2, "refused at {full} bytes already");

    reader.execute_batch("COMMIT")?;
    for _ in 0..2000 {
        database.create_workspace(Uuid::now_v7(), &grant, "x", None).await?;
    }
    assert!(log()? < full + (1 << 20), "{} bytes", log()?);
    Ok(())
}

#[tokio::test]
async fn what_a_killed_process_left_unsynced_is_synced_before_it_is_answered_for() -> Result<()> {
    for old_reader in [false, true] {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("workspaces.db");
        let disk = Disk::watch(folder.path())?;
        drop(Sqlite::open(&path)?);
        // Stays open, as the pages that a killed process wrote stay in the system's memory.
        let killed = Sqlite::open_with(&path, &sqlite::SqliteOptions { durable: false, ..Default::default() })?;
        let grant = grant(&killed).await?;
        let reader = Connection::open(&path)?;
        if old_reader {
            // Of the state before, all of it copied: nothing that comes after can be while it reads.
            reader.execute_batch("PRAGMA wal_checkpoint; BEGIN; SELECT * FROM accounts")?;
        }
        killed.create_workspace(Uuid::now_v7(), &grant, "x", None).await?;

        let next = Sqlite::open(&path)?;
        assert_eq!(next.workspaces(None).await?.len(), 1);
        disk.acknowledge(0);
        let mut cuts = 0;
        disk.take_log().cuts(|cut| {
            if cut.acknowledged() == [0] {
                cuts += 1;
                let left = tempfile::tempdir()?;
                cut.restore(left.path())?;
                let connection = Connection::open(left.path().join("workspaces.db"))?;
                let count = "SELECT count(*) FROM account_workspace_ids";
                let workspaces: u64 = connection.query_row(count, [], |row| row.get(0))?;
                assert_eq!(workspaces, 1, "with an old reader: {old_reader}");
            }
            Ok(())
        })?;
        assert!(cuts > 0);
    }
    Ok(())
}

#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_to_date() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("workspaces.db");
    let account = Uuid::new_v4();
    let old = Connection::open(&path)?;
    old.execute_batch(include_str!("../../host/src/storage/sqlite/schema/1.sql"))?;
    old.execute("INSERT INTO accounts VALUES (?1, 'Ada', 1)", [account])?;
    old.execute("INSERT INTO account_info (id, account_id, created_at, updated_at) VALUES (?1, ?1, 1, 1)", [account])?;
    old.pragma_update(None, "user_version", 1)?;
    drop(old);
    let database = Sqlite::open(&path)?;
    let grant = Grant {
        caller_id: account,
        account_id: account,
        organization_id: None,
        key_id: None,
        basis: Basis::Memberships { administrators: None },
    };
    database.create_workspace(Uuid::now_v7(), &grant, "Kept", None).await?;
    assert_eq!(database.check(Box::new(|_, _| {})).await?.schema, 4);
    Ok(())
}

#[test]
fn a_read_only_file_is_refused() -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    let deployment = Deployment::new(PROGRAM)?;
    deployment.run(&["account", "create"])?;
    let permissions =
        |path: &Path, mode| std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode));
    permissions(deployment.folder(), 0o755)?;
    permissions(&deployment.database(), 0o444)?;
    let mut command = deployment.server(&[]);
    // A copy that anybody may run: the original may be in a folder of root's own.
    let program = deployment.folder().join("program");
    std::fs::copy(PROGRAM, &program)?;
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let environment: Vec<_> =
        command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    command = std::process::Command::new(program);
    command.args(arguments).envs(environment).current_dir("/");
    // Root may write everything; 65534 is nobody.
    if std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)? {
        command.uid(65534);
    }
    let output = command.output()?;
    let message = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("is read-only"), "{message}");
    Ok(())
}

#[test]
fn postgres_without_the_tables_is_refused_and_the_deployments_own_are_left_alone() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = server::Postgres::start()?;
    // As another program made them: more columns, other defaults, no index.
    server.psql(
        r#"CREATE TABLE accounts (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, "timestamp" bigint, email text);
           CREATE TABLE account_info (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), account_id uuid REFERENCES accounts ON DELETE CASCADE,
               image text, instruction text, knowledges jsonb DEFAULT '[]', label text, organization text, company_name text,
               job_title text, role_type text, updated_at timestamp);"#,
    )?;
    let columns = "SELECT string_agg(table_name || '.' || column_name, ' ' ORDER BY table_name, ordinal_position)
        FROM information_schema.columns WHERE table_name IN ('accounts', 'account_info')";
    let before = server.psql(columns)?;

    let deployment = Deployment::new(PROGRAM)?;
    let refused = deployment.output(&["account", "create", "--database", &server.url()])?;
    let message = String::from_utf8(refused.stderr)?;
    assert!(refused.status.code() == Some(1) && message.contains("workspaces database migrate"), "{message}");

    let deployment = Deployment::on_postgres(PROGRAM, &server.url())?;
    deployment.run(&["database", "migrate"])?;
    assert_eq!(server.psql(columns)?, before);
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account, "--expires-in", "1h"])?;
    assert!(deployment.run(&["key", "list", &account])?.contains("expires 2"));
    let host = deployment.serve(&[])?;
    assert_eq!(host.create(&key, "{}")?.status, 201);
    assert!(deployment.run(&["database", "check"])?.starts_with("schema 3, 2 accounts, 1 workspaces"));
    // Only the host's own schema holds more than the deployment's tables.
    let tables = server
        .psql("SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'")?;
    assert_eq!(
        tables.trim(),
        "account_api_keys account_info account_organization_ids account_workspace_ids accounts artist_organization_ids"
    );
    let backup = deployment.output(&["database", "backup", "copy"])?;
    assert!(String::from_utf8(backup.stderr)?.contains("pg_dump"));
    Ok(())
}

#[test]
fn a_lock_that_is_not_given_up_is_waited_for_so_long() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = server::Postgres::start()?;
    let deployment = Deployment::on_postgres(PROGRAM, &server.url())?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    let host = deployment.serve(&["--log", "off"])?;
    assert_eq!(host.create(&key, "{}")?.status, 201);
    std::thread::scope(|scope| -> Result<()> {
        let holder = scope.spawn(|| server.psql("BEGIN; LOCK TABLE account_info; SELECT pg_sleep(6); COMMIT"));
        while server.psql("SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted")?.trim() != "1"
        {
        }
        let start = std::time::Instant::now();
        let answer = host.create(&key, "{}")?;
        let waited = start.elapsed();
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
        assert!(waited > Duration::from_secs(1) && waited < Duration::from_secs(4), "{waited:?}");
        holder.join().ok().context("the holder panicked")??;
        assert_eq!(host.create(&key, "{}")?.status, 201);
        Ok(())
    })?;
    let settings = server.psql("SELECT count(*) FROM public.account_workspace_ids")?;
    assert_eq!(settings.trim(), "2", "the refused one wrote nothing");
    Ok(())
}

#[test]
fn a_host_that_accepts_and_says_nothing_is_passed_over() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = server::Postgres::start()?;
    // The kernel accepts for it; nobody ever reads.
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = server.url().replace("127.0.0.1:", &format!("{},127.0.0.1:", silent.local_addr()?));
    let deployment = Deployment::on_postgres(PROGRAM, &address)?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    let host = deployment.serve(&["--log", "off"])?;
    assert_eq!(host.create(&key, "{}")?.status, 201);
    Ok(())
}

#[test]
fn a_server_that_answers_before_it_has_synced_is_refused() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = server::Postgres::start_with(&[("synchronous_commit", "off")])?;
    let deployment = Deployment::new(PROGRAM)?;
    for command in [["database", "migrate"], ["account", "create"]] {
        let refused = deployment.output(&[command[0], command[1], "--database", &server.url()])?;
        let message = String::from_utf8(refused.stderr)?;
        assert!(refused.status.code() == Some(1) && message.contains("SET synchronous_commit = on"), "{message}");
    }
    Ok(())
}

#[test]
fn a_servers_certificate_is_verified() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let (server, authority) = server::Postgres::tls()?;
    let authority = authority.to_str().context("path")?;
    let deployment = Deployment::new(PROGRAM)?;
    let address = |parameters: &str| format!("{}?{parameters}", server.url());
    let trusted = address(&format!("sslmode=verify-full&sslrootcert={authority}"));
    deployment.run(&["database", "migrate", "--database", &trusted])?;
    for (parameters, part) in [("sslmode=require", "UnknownIssuer"), ("sslmode=disable", "no encryption")] {
        let refused = deployment.output(&["account", "create", "--database", &address(parameters)])?;
        let message = String::from_utf8(refused.stderr)?;
        assert!(refused.status.code() == Some(1) && message.contains(part), "{parameters}: {message}");
    }
    Ok(())
}
