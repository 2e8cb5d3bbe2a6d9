//! Claims of idempotency keys.

use std::{sync::Arc, time::Instant};

use anyhow::Result;
use uuid::Uuid;
use workspaces_host::storage::{Storage, sqlite::Sqlite};

use super::{Scene, claim, connect, count, until};

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_on_one_file_create_once_for_a_key() -> Result<()> {
    let scene = Scene::new().await?;
    let other = Sqlite::open(&scene.path())?;
    for number in 0..200 {
        let claim = scene.claim(&format!("key-{number}"))?;
        let tasks: Vec<_> = [&scene.database, &other, &scene.database, &other]
            .into_iter()
            .map(|database| {
                let (database, grant, claim) = (database.clone(), scene.grant(), claim.clone());
                tokio::spawn(async move { database.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim)).await })
            })
            .collect();
        let mut ids = Vec::new();
        for task in tasks {
            ids.push(task.await??.workspace.id);
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "{ids:?}");
    }
    assert_eq!(scene.workspaces().await?, 200);
    Ok(())
}

#[tokio::test]
async fn a_claim_is_never_older_than_the_newest() -> Result<()> {
    let scene = Scene::new().await?;
    scene.database.create_workspace(Uuid::now_v7(), &scene.grant(), "x", Some(&scene.claim("ahead")?)).await?;
    // As a host whose clock is years ahead writes it.
    let other = scene.other()?;
    other.execute("UPDATE idempotency_keys SET created_at = created_at * 2", [])?;
    scene.database.create_workspace(Uuid::now_v7(), &scene.grant(), "x", Some(&scene.claim("behind")?)).await?;
    let times = "SELECT count(DISTINCT created_at) FROM idempotency_keys";
    assert_eq!(other.query_row(times, [], |row| row.get::<_, i64>(0))?, 1);
    Ok(())
}

/// Adds so many claims of a workspace that were made a day ago.
const OLD_CLAIMS: &str = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)
    INSERT INTO idempotency_keys SELECT caller_id, route, 'old-' || n, fingerprint, workspace_id, name, account_id,
        created_at - 86400001 FROM idempotency_keys, number";

#[tokio::test(flavor = "multi_thread")]
async fn old_claims_are_forgotten_as_fast_as_new_ones_come_wherever_a_database_is_open() -> Result<()> {
    const OLD: i64 = 40_000;
    let scene = Scene::new().await?;
    scene.database.create_workspace(Uuid::now_v7(), &scene.grant(), "x", Some(&scene.claim("fresh")?)).await?;
    let path = scene.path();
    let Scene { folder, database, account } = scene;
    drop(database);
    let other = connect(&path)?;
    other.execute(OLD_CLAIMS, [OLD])?;
    assert_eq!(count(&other, "idempotency_keys")?, OLD + 1);

    let scene = Scene { database: Sqlite::open(&path)?, folder, account };
    // As many creates as the database takes.
    let created = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let load: Vec<_> = (0..64)
        .map(|client| {
            let (database, grant, created) = (scene.database.clone(), scene.grant(), created.clone());
            tokio::spawn(async move {
                for number in 0.. {
                    let claim = claim(grant.account_id, &format!("new-{client}-{number}"))?;
                    database.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim)).await?;
                    created.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let start = Instant::now();
    let left = "idempotency_keys WHERE key LIKE 'old-%'";
    until("the old ones are forgotten", async || Ok(count(&other, left)? == 0)).await?;
    let (created, took) = (created.load(std::sync::atomic::Ordering::Relaxed), start.elapsed());
    load.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(created < OLD, "{created} came while {OLD} were forgotten, within {took:?}");
    assert!(created > OLD / 20, "creates wait for the sweep: {created} came while {OLD} were forgotten");
    assert!(scene.database.find_claimed(&scene.claim("fresh")?).await?.is_some());
    Ok(())
}
