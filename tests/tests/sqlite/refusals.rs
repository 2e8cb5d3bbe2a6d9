//! Writes that fail: their answers, those of their batch, and readiness after them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use uuid::Uuid;
use workspaces_host::{
    auth::Grant,
    storage::{Claim, Created, Database, Error, Period, Quota, Storage, sqlite::Sqlite},
};
use workspaces_tests::disk::{Disk, Fault};

use super::{Scene, connect, count, until, wait_until_ready, with_key};

#[tokio::test]
async fn readiness_says_what_the_last_writes_said() -> Result<()> {
    let scene = Scene::new().await?;
    let is_ready = async || Ok(scene.database.ready().await.is_ok());
    assert!(is_ready().await?);

    // Another process keeps the lock: not ready while a create waits for it, after it has given up, and no longer.
    let other = scene.other()?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    let (waiting, ()) = tokio::join!(scene.create("x"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let refusal = scene.database.ready().await;
        assert!(matches!(&refusal, Err(Error::Unavailable(reason)) if reason.contains("lock")), "{refusal:?}");
    });
    assert!(matches!(&waiting, Err(Error::Unavailable(reason)) if reason.contains("write lock")), "{waiting:?}");
    assert!(!is_ready().await?);
    let start = Instant::now();
    assert!(scene.create("x").await.is_err());
    assert!(start.elapsed() < Duration::from_secs(4), "the next ones wait less: {:?}", start.elapsed());
    other.execute_batch("ROLLBACK")?;
    until("ready after the lock", is_ready).await?;

    // A table of another shape.
    other.execute_batch("ALTER TABLE account_workspace_ids RENAME TO elsewhere")?;
    assert!(matches!(scene.create("x").await, Err(Error::Misconfigured(_))));
    let refusal = scene.database.ready().await;
    assert!(matches!(refusal, Err(Error::Misconfigured(_))), "{refusal:?}");
    other.execute_batch("ALTER TABLE elsewhere RENAME TO account_workspace_ids")?;
    until("ready after the repair", is_ready).await?;
    scene.create("x").await?;

    // A refusal of one workspace is no matter of readiness.
    let missing = Grant { account_id: Uuid::now_v7(), ..scene.grant() };
    assert_eq!(scene.database.create_workspace(Uuid::now_v7(), &missing, "x", None).await, Err(Error::AccessLost));
    assert!(is_ready().await?);
    Ok(())
}

#[tokio::test]
async fn readiness_says_that_the_disk_is_full() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = Disk::watch(folder.path())?;
    let database = Sqlite::open(&folder.path().join("workspaces.db"))?;
    let account = database.create_account(None, None).await?.id;
    let scene = Scene { folder, database, account };
    scene.create("x").await?;
    disk.fail_from(0, Fault::Full);
    // A first failure may be one of the sync, after which nothing is written any more: writes come before.
    assert!(matches!(scene.create("x").await, Err(Error::Unavailable(_))));
    assert!(scene.database.ready().await.is_err());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(scene.database.ready().await.is_err(), "as long as it is full");
    disk.heal();
    until("ready with room", async || Ok(scene.database.ready().await.is_ok())).await?;
    scene.create("x").await?;
    Ok(())
}

/// Call of `create_workspace`: grant, name and claim, and the storage to call.
type Call = (Grant, &'static str, Option<Claim>, Arc<dyn Storage>);

/// Makes the calls while another process holds the write lock, so that they are of one batch when it gives it up.
async fn in_one_batch(scene: &Scene, calls: Vec<Call>) -> Result<Vec<Result<Created, Error>>> {
    let other = scene.other()?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    // The first waits for the lock alone; the others gather meanwhile.
    let first = scene.database.clone();
    let grant = scene.grant();
    let first = tokio::spawn(async move { first.create_workspace(Uuid::now_v7(), &grant, "First", None).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let tasks: Vec<_> = calls
        .into_iter()
        .map(|(grant, name, claim, storage)| {
            tokio::spawn(async move { storage.create_workspace(Uuid::now_v7(), &grant, name, claim.as_ref()).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    other.execute_batch("COMMIT")?;
    first.await??;
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await?);
    }
    Ok(outcomes)
}

#[tokio::test]
async fn one_refusal_is_not_the_answer_to_its_batch() -> Result<()> {
    let scene = Scene::new().await?;
    scene.other()?.execute_batch(
        "CREATE TABLE teams (name TEXT PRIMARY KEY);
         CREATE TABLE notes (team TEXT REFERENCES teams (name) DEFERRABLE INITIALLY DEFERRED);
         CREATE TRIGGER refuse BEFORE INSERT ON accounts WHEN NEW.name = 'Abort' BEGIN SELECT RAISE(ABORT, 'no'); END;
         CREATE TRIGGER roll_back BEFORE INSERT ON accounts WHEN NEW.name = 'Roll back' BEGIN SELECT RAISE(ROLLBACK, 'no'); END;
         CREATE TRIGGER defer AFTER INSERT ON accounts WHEN NEW.name = 'Defer' BEGIN INSERT INTO notes VALUES ('none'); END;",
    )?;
    let used = scene.claim("used")?;
    scene.database.create_workspace(Uuid::now_v7(), &scene.grant(), "Used", Some(&used)).await?;
    let reused = Claim { fingerprint: [1; 32], ..used };
    let all: Arc<dyn Storage> = Arc::new(scene.database.clone());
    let none = scene.database.for_tenant("none", Quota { per_day: Some(0), total: None });
    let own = || scene.grant();
    let refused = |error: &Error| matches!(error, Error::Refused(_));
    type Refused = fn(&Error) -> bool;
    let cases: Vec<(Call, Refused)> = vec![
        ((Grant { account_id: Uuid::now_v7(), ..own() }, "x", None, all.clone()), |error| *error == Error::AccessLost),
        ((Grant { key_id: Some(Uuid::now_v7()), ..own() }, "x", None, all.clone()), |error| {
            *error == Error::CredentialLost
        }),
        ((own(), "x", Some(reused), all.clone()), |error| *error == Error::KeyReused),
        ((own(), "x", None, none), |error| *error == Error::QuotaReached(Period::Day)),
        ((own(), "Abort", None, all.clone()), refused),
        ((own(), "Roll back", None, all.clone()), refused),
        ((own(), "Defer", None, all.clone()), refused),
    ];
    for (call, is_expected) in cases {
        let name = call.1;
        let mut calls = vec![call];
        calls.extend((0..8).map(|_| (own(), "Good", None, all.clone())));
        let before = scene.workspaces().await?;
        let outcomes = in_one_batch(&scene, calls).await?;
        assert!(outcomes[0].as_ref().is_err_and(is_expected), "{name}: {:?}", outcomes[0]);
        assert!(outcomes[1..].iter().all(Result::is_ok), "{name}: {outcomes:?}");
        assert_eq!(scene.workspaces().await?, before + 9, "{name}");
    }
    assert_eq!(count(&scene.other()?, "notes")?, 0);
    Ok(())
}

#[tokio::test]
async fn nothing_is_written_for_who_gave_up_while_another_process_held_the_lock() -> Result<()> {
    let scene = Scene::new().await?;
    let other = scene.other()?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    let given_up = tokio::time::timeout(Duration::from_millis(300), scene.create("Given up")).await;
    assert!(given_up.is_err(), "{given_up:?}");
    other.execute_batch("COMMIT")?;
    scene.create("Waited for").await?;
    assert_eq!(scene.workspaces().await?, 1);
    Ok(())
}

#[tokio::test]
async fn what_the_data_causes_is_refused_and_what_the_schema_causes_is_misconfigured() -> Result<()> {
    let refused: fn(&Error) -> bool = |error| matches!(error, Error::Refused(_));
    let misconfigured: fn(&Error) -> bool = |error| matches!(error, Error::Misconfigured(_));
    for (what, statement, is_expected) in [
        ("unique", "CREATE UNIQUE INDEX one ON accounts (name)", refused),
        ("check", "ALTER TABLE accounts ADD COLUMN extra TEXT CHECK (name IS NULL OR length(name) < 6)", refused),
        ("abort", "CREATE TRIGGER no BEFORE INSERT ON accounts BEGIN SELECT RAISE(ABORT, 'no'); END", refused),
        ("fail", "CREATE TRIGGER no BEFORE INSERT ON accounts BEGIN SELECT RAISE(FAIL, 'no'); END", refused),
        ("roll back", "CREATE TRIGGER no AFTER INSERT ON account_info BEGIN SELECT RAISE(ROLLBACK, 'no'); END", refused),
        ("left out", "CREATE TRIGGER no BEFORE INSERT ON accounts BEGIN SELECT RAISE(IGNORE); END", refused),
        ("link left out", "CREATE TRIGGER no BEFORE INSERT ON account_workspace_ids BEGIN SELECT RAISE(IGNORE); END", refused),
        (
            "another foreign key",
            "CREATE TABLE teams (name TEXT PRIMARY KEY);
             ALTER TABLE account_info ADD COLUMN team TEXT NOT NULL DEFAULT 'none' REFERENCES teams (name)",
            refused,
        ),
        (
            "a deferred foreign key",
            "CREATE TABLE teams (name TEXT PRIMARY KEY);
             ALTER TABLE account_info ADD COLUMN team TEXT NOT NULL DEFAULT 'none' REFERENCES teams (name) DEFERRABLE INITIALLY DEFERRED",
            refused,
        ),
        ("column", "ALTER TABLE accounts RENAME COLUMN name TO title", misconfigured),
        ("table", "ALTER TABLE account_info RENAME TO elsewhere", misconfigured),
        (
            "no value",
            "ALTER TABLE account_info RENAME TO old;
             CREATE TABLE account_info (id BLOB, account_id BLOB, created_at INTEGER, updated_at INTEGER, region TEXT NOT NULL)",
            misconfigured,
        ),
        (
            "type",
            "ALTER TABLE account_info RENAME TO old;
             CREATE TABLE account_info (id BLOB, account_id INTEGER, created_at INTEGER, updated_at INTEGER) STRICT",
            misconfigured,
        ),
    ] {
        let scene = Scene::new().await?;
        scene.create("Taken").await?;
        scene.other()?.execute_batch(statement).context(what)?;
        let name = if what == "check" { "Too long" } else { "Taken" };
        let claim = scene.claim("k")?;
        for claim in [None, Some(&claim)] {
            let outcome = scene.database.create_workspace(Uuid::now_v7(), &scene.grant(), name, claim).await;
            assert!(outcome.as_ref().is_err_and(is_expected), "{what}: {outcome:?}");
        }
        let is_ready = scene.database.ready().await.is_ok();
        assert_eq!(is_ready, is_expected(&Error::Refused(String::new())), "{what}");
        let other = scene.other()?;
        assert_eq!((count(&other, "account_workspace_ids")?, count(&other, "accounts")?), (1, 2), "{what}");
        assert_eq!(count(&other, "idempotency_keys")?, 0, "{what}");
    }
    Ok(())
}

#[test]
fn a_refusal_of_the_database_is_400_and_a_wrong_schema_500() -> Result<()> {
    let (deployment, key) = with_key()?;
    let server = deployment.serve(&["--log", "off"])?;
    let sql = |statement| connect(&deployment.database())?.execute_batch(statement).map_err(anyhow::Error::from);
    sql("CREATE UNIQUE INDEX one ON accounts (name)")?;
    assert_eq!(server.create(&key, r#"{"name":"A1"}"#)?.status, 201);
    let answer = server.create(&key, r#"{"name":"A1"}"#)?;
    assert_eq!((answer.status, answer.header("retry-after")), (400, None), "{answer:?}");
    wait_until_ready(&server, true)?;
    assert_eq!(server.create(&key, r#"{"name":"A2"}"#)?.status, 201);
    sql("ALTER TABLE accounts RENAME COLUMN name TO title")?;
    let answer = server.create(&key, r#"{"name":"A3"}"#)?;
    assert_eq!((answer.status, answer.header("retry-after")), (500, None), "{answer:?}");
    wait_until_ready(&server, false)?;
    Ok(())
}
