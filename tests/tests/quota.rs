//! Quotas: how many workspaces a tenant may create.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::sync::Arc;

use anyhow::Result;
use rusqlite::Connection;
use uuid::Uuid;
use workspaces_host::{
    CreateWorkspaceRequest,
    auth::{Basis, Caller, Grant},
    storage::{
        Claim, Created, Database, Error, IdempotencyKey, Period, Quota, Storage,
        sqlite::{Sqlite, SqliteOptions},
    },
};
use workspaces_tests::Tenants;

async fn grant(database: &dyn Database) -> Result<Grant> {
    let account = database.create_account(None, None).await?.id;
    Ok(Grant { caller_id: account, account_id: account, organization_id: None, key_id: None, basis: Basis::Auth })
}

/// Creates 64 workspaces at the same time, and returns how many there were and the other answers.
async fn at_once(storage: &Arc<dyn Storage>, grant: &Grant) -> Result<(usize, Vec<Error>)> {
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (storage, grant) = (storage.clone(), grant.clone());
            tokio::spawn(async move { storage.create_workspace(Uuid::now_v7(), &grant, "x", None).await })
        })
        .collect();
    let (mut created, mut refused) = (0, Vec::new());
    for task in tasks {
        match task.await? {
            Ok(_) => created += 1,
            Err(error) => refused.push(error),
        }
    }
    Ok((created, refused))
}

async fn hold_to_quotas(database: &dyn Database) -> Result<()> {
    let grant = grant(database).await?;
    let (unlimited, both) = (Quota::default(), Quota { per_day: Some(5), total: Some(7) });
    let total = Quota { per_day: None, total: Some(10) };
    for (tenant, quota, created, period) in [
        ("unlimited", unlimited, 64, None),
        ("total", total, 10, Some(Period::Total)),
        ("day", Quota { per_day: Some(3), total: None }, 3, Some(Period::Day)),
        ("both", both, 5, Some(Period::Day)),
        ("none", Quota { per_day: None, total: Some(0) }, 0, Some(Period::Total)),
    ] {
        let storage = database.for_tenant(tenant, quota);
        let (seen, refused) = at_once(&storage, &grant).await?;
        assert_eq!(seen, created, "{tenant}");
        assert!(
            refused.iter().all(|error| Some(error) == period.map(Error::QuotaReached).as_ref()),
            "{tenant}: {refused:?}"
        );
        // Through another value too.
        let again = database.for_tenant(tenant, quota).create_workspace(Uuid::now_v7(), &grant, "x", None).await;
        assert_eq!(again.err(), period.map(Error::QuotaReached), "{tenant}");
    }
    // What is replayed or refused does not count.
    let storage = database.for_tenant("counts", Quota { per_day: Some(2), total: Some(2) });
    let claim = |key: &str| -> Result<Claim> {
        Ok(Claim::new(&Caller::new(grant.caller_id), IdempotencyKey::new(key)?, &CreateWorkspaceRequest::default()))
    };
    let missing = Grant { organization_id: Some(Uuid::now_v7()), ..grant.clone() };
    for _ in 0..3 {
        assert_eq!(storage.create_workspace(Uuid::now_v7(), &missing, "x", None).await, Err(Error::AccessLost));
        assert!(storage.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim("one")?)).await.is_ok());
    }
    let second = storage.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim("two")?)).await?;
    // A key that was refused is not used up, and one that was not gets its answer again.
    let third = storage.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim("three")?)).await;
    assert_eq!(third, Err(Error::QuotaReached(Period::Total)));
    assert_eq!(storage.find_claimed(&claim("three")?).await, Ok(None));
    let again = storage.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim("two")?)).await?;
    assert_eq!(again, Created { replayed: true, ..second });
    // A quota that is raised gives the rest.
    let raised = database.for_tenant("counts", Quota { per_day: None, total: Some(3) });
    assert_eq!(at_once(&raised, &grant).await?.0, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_holds_each_tenant_to_its_quota() -> Result<()> {
    for batch in [1, 64] {
        let folder = tempfile::tempdir()?;
        let options = SqliteOptions { batch, ..Default::default() };
        hold_to_quotas(&Sqlite::open_with(&folder.path().join("workspaces.db"), &options)?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_clock_that_goes_back_gives_no_day_twice_and_the_next_day_gives_a_quota() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("workspaces.db");
    let database = Sqlite::open(&path)?;
    let grant = grant(&database).await?;
    let storage = database.for_tenant("acme", Quota { per_day: Some(2), total: None });
    assert_eq!(at_once(&storage, &grant).await?.0, 2);
    let shift = |days: i64| -> Result<usize> {
        Ok(Connection::open(&path)?.execute("UPDATE tenant_usage SET day = day + ?1", [days])?)
    };
    // The day that was counted last is tomorrow, for a clock that went back.
    assert_eq!(shift(1)?, 1);
    assert_eq!(at_once(&storage, &grant).await?.0, 0);
    // The day that was counted last is yesterday.
    assert_eq!(shift(-2)?, 1);
    assert_eq!(at_once(&storage, &grant).await?.0, 2);
    Ok(())
}

#[tokio::test]
async fn tenants_without_a_quota_are_not_counted() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("workspaces.db");
    let database = Sqlite::open(&path)?;
    let grant = grant(&database).await?;
    database.for_tenant("acme", Quota::default()).create_workspace(Uuid::now_v7(), &grant, "x", None).await?;
    let rows: i64 = Connection::open(&path)?.query_row("SELECT count(*) FROM tenant_usage", [], |row| row.get(0))?;
    assert_eq!(rows, 0);
    Ok(())
}

#[test]
fn a_quota_in_the_configuration_is_403_with_the_reason_and_each_tenants_own() -> Result<()> {
    let tenants = Tenants::new(env!("CARGO_BIN_EXE_workspaces-under-test"))?;
    let key = tenants.key("shared")?;
    tenants.configure(
        r#"
        defaults.database = "sqlite:shared.db"
        [tenants.day]
        path = "/day"
        limits = { workspaces-per-day = 2 }
        [tenants.total]
        path = "/total"
        limits = { workspaces = 3 }
        [tenants.free]
        path = "/free"
        "#,
    )?;
    let server = tenants.serve()?;
    for (path, quota, message) in [
        ("/day", 2, "The quota of workspaces per day is used up: try again after midnight UTC"),
        ("/total", 3, "The quota of workspaces is used up: ask the operator for more"),
    ] {
        for _ in 0..quota {
            assert_eq!(server.create_at(path, &key, "{}")?.status, 201, "{path}");
        }
        let refused = server.create_at(path, &key, "{}")?;
        assert_eq!((refused.status, &refused.json()?["message"]), (403, &message.into()), "{path}");
    }
    assert_eq!(server.create_at("/free", &key, "{}")?.status, 201);
    // Not forgotten with the process.
    drop(server);
    assert_eq!(tenants.serve()?.create_at("/total", &key, "{}")?.status, 403);
    Ok(())
}
