//! A standby that lags: what was answered survives the primary, and waiting for it takes no more than its share.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use uuid::Uuid;
use workspaces_host::storage::{Error, Storage as _};
use workspaces_tests::{Deployment, postgres as server};

use super::{PROGRAM, claim, connect, deployed, own_grant, until};

/// Backends of the host, but for those that are starting or ending.
const BACKENDS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'workspaces' AND backend_type = 'client backend'";
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_given_again_waits_for_the_standby() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let primary = deployed().await?;
    let standby = primary.standby()?;
    let database = connect(&primary).await?;
    let grant = own_grant(&database).await?;
    let claim = claim(grant.caller_id, "again")?;
    let created = database.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim)).await?;
    for create in [false, true] {
        standby.pause()?;
        let (again, grant, claim) = (database.clone(), grant.clone(), claim.clone());
        let answer = tokio::spawn(async move {
            match create {
                true => again
                    .create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim))
                    .await
                    .map(|created| Some(created.workspace)),
                false => again.find_claimed(&claim).await,
            }
        });
        until(&primary, WAITING, "1").await?;
        assert!(!answer.is_finished());
        standby.resume()?;
        assert_eq!(answer.await??, Some(created.workspace.clone()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_answer_was_lost_is_found_and_waits_for_the_standby() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let primary = deployed().await?;
    let standby = primary.standby()?;
    let database = connect(&primary).await?;
    let grant = own_grant(&database).await?;
    standby.pause()?;
    let (again, grant) = (database.clone(), grant.clone());
    let answer = tokio::spawn(async move { again.create_workspace(Uuid::now_v7(), &grant, "x", None).await });
    until(&primary, WAITING, "1").await?;
    // Committed on the primary alone; the host hears no more than that its connection ended.
    primary.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")?;
    until(&primary, "SELECT count(*) FROM account_workspace_ids", "1").await?;
    until(&primary, WAITING, "1").await?;
    assert!(!answer.is_finished());
    standby.resume()?;
    let created = answer.await??;
    assert!(!created.replayed);
    let stored = primary.psql("SELECT workspace_id FROM account_workspace_ids")?;
    assert_eq!(stored, created.workspace.id.to_string());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_wait_for_the_standby_was_cancelled_is_not_known() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let primary = deployed().await?;
    let standby = primary.standby()?;
    let database = connect(&primary).await?;
    let grant = own_grant(&database).await?;
    standby.pause()?;
    let (again, grant) = (database.clone(), grant.clone());
    let answer = tokio::spawn(async move { again.create_workspace(Uuid::now_v7(), &grant, "x", None).await });
    let cancel = "SELECT count(pg_cancel_backend(pid)) >= 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let deadline = Instant::now() + Duration::from_secs(60);
    while !answer.is_finished() {
        assert!(Instant::now() < deadline, "no answer");
        primary.psql(cancel)?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let outcome = answer.await?;
    assert!(matches!(outcome, Err(Error::Unknown(_))), "{outcome:?}");
    standby.resume()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_the_standby_never_confirms_is_not_known() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let primary = deployed().await?;
    let standby = primary.standby()?;
    let database = connect(&primary).await?;
    let grant = own_grant(&database).await?;
    standby.pause()?;
    for is_lost in [true, false] {
        let (again, grant) = (database.clone(), grant.clone());
        let answer = tokio::spawn(async move { again.create_workspace(Uuid::now_v7(), &grant, "x", None).await });
        until(&primary, WAITING, "1").await?;
        if is_lost {
            primary.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")?;
        }
        let outcome = answer.await?;
        assert!(matches!(outcome, Err(Error::Unknown(_))), "connection lost {is_lost}: {outcome:?}");
    }
    // Both are there on the primary: an answer that nothing was created would have been wrong.
    assert_eq!(primary.psql("SELECT count(*) FROM account_workspace_ids")?, "2");
    standby.resume()?;
    Ok(())
}

#[test]
fn a_stalled_standby_leaves_the_host_no_more_connections_than_its_own() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    const CONNECTIONS: u32 = 3;
    let primary = server::Postgres::deployed()?;
    let deployment = Deployment::on_postgres(PROGRAM, &primary.service_url())?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    let standby = primary.standby()?;
    let host = deployment.serve(&["--log", "off", "--connections", &CONNECTIONS.to_string()])?;
    assert_eq!(host.create(&key, "{}")?.status, 201);
    standby.pause()?;
    let done = AtomicBool::new(false);
    let most = thread::scope(|scope| -> Result<u32> {
        for client in 0..8 {
            let (host, key, done) = (&host, &key, &done);
            scope.spawn(move || {
                while !done.load(Relaxed) {
                    let key_header = format!("{client}");
                    let headers = [("Content-Type", "application/json"), ("x-api-key", key.as_str())];
                    let keyed = [headers[0], headers[1], ("Idempotency-Key", key_header.as_str())];
                    let headers = if client % 2 == 0 { &headers[..] } else { &keyed[..] };
                    if let Ok(answer) = host.send("POST", "/api/workspaces", headers, b"{}") {
                        assert_ne!(answer.status, 201, "acknowledged without the standby");
                    }
                }
            });
        }
        let (mut most, deadline) = (0, Instant::now() + Duration::from_secs(20));
        while Instant::now() < deadline {
            most = most.max(primary.psql(BACKENDS)?.parse()?);
            thread::sleep(Duration::from_millis(20));
        }
        done.store(true, Relaxed);
        Ok(most)
    })?;
    assert_eq!(most, CONNECTIONS);
    standby.resume()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while host.create(&key, "{}")?.status != 201 {
        assert!(Instant::now() < deadline, "it does not come back");
    }
    primary.psql(BACKENDS)?.parse::<u32>().context("a number").map(|count| assert!(count <= CONNECTIONS))
}
