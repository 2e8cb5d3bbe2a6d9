//! Quotas, counted in the transaction that creates.

use std::sync::Arc;

use anyhow::Result;
use uuid::Uuid;
use workspaces_host::{
    auth::Grant,
    storage::{Created, Database as _, Error, Period, Quota, Storage},
};
use workspaces_tests::postgres as server;

use super::{claim, connect, deployed, own_grant};

/// Creates at once through each of these storages.
async fn at_once(storages: &[Arc<dyn Storage>], grant: &Grant, creates: usize) -> Result<Vec<Result<Created, Error>>> {
    let tasks: Vec<_> = (0..creates)
        .flat_map(|_| storages)
        .map(|storage| {
            let (storage, grant) = (storage.clone(), grant.clone());
            tokio::spawn(async move { storage.create_workspace(Uuid::now_v7(), &grant, "x", None).await })
        })
        .collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await?);
    }
    Ok(outcomes)
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_race_never_exceed_a_quota_that_they_share() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    let hosts = [connect(&server).await?, connect(&server).await?];
    let grant = own_grant(&hosts[0]).await?;
    let quota = Quota { per_day: Some(10), total: Some(15) };
    let storages = [hosts[0].for_tenant("acme", quota), hosts[1].for_tenant("acme", quota)];
    for (created, period) in [(10, Period::Day), (15, Period::Total), (15, Period::Total)] {
        let outcomes = at_once(&storages, &grant, 12).await?;
        let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        assert!(
            refused.clone().count() > 0 && refused.clone().all(|error| *error == Error::QuotaReached(period)),
            "{outcomes:?}"
        );
        let count =
            server.psql("SELECT (SELECT count(*) FROM account_workspace_ids), total FROM workspaces.quota_usage")?;
        assert_eq!(count, format!("{created}|{created}"));
        // A day later.
        server.psql("UPDATE workspaces.quota_usage SET day = day - 1")?;
    }
    // A tenant beside it has a quota of its own, and one without a quota is not counted.
    assert!(hosts[0].for_tenant("other", quota).create_workspace(Uuid::now_v7(), &grant, "x", None).await.is_ok());
    for storage in [hosts[0].for_tenant("third", Quota::default()), Arc::new(hosts[1].clone())] {
        assert!(storage.create_workspace(Uuid::now_v7(), &grant, "x", None).await.is_ok());
    }
    assert_eq!(
        server.psql("SELECT string_agg(tenant, ' ' ORDER BY tenant) FROM workspaces.quota_usage")?,
        "acme other"
    );
    Ok(())
}

#[tokio::test]
async fn what_creates_nothing_does_not_count() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    let database = connect(&server).await?;
    let grant = own_grant(&database).await?;
    let storage = database.for_tenant("acme", Quota { per_day: None, total: Some(2) });
    let claim = claim(grant.caller_id, "key")?;
    let first = storage.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim)).await?;
    server.psql("ALTER TABLE accounts ADD CONSTRAINT short CHECK (length(name) < 10)")?;
    for _ in 0..3 {
        assert_eq!(
            storage.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim)).await?.workspace,
            first.workspace
        );
        let lost = Grant { account_id: Uuid::new_v4(), ..grant.clone() };
        assert_eq!(storage.create_workspace(Uuid::now_v7(), &lost, "x", None).await, Err(Error::AccessLost));
        let refused = storage.create_workspace(Uuid::now_v7(), &grant, "longer than that", None).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    }
    assert!(storage.create_workspace(Uuid::now_v7(), &grant, "x", None).await.is_ok());
    let reached = Err(Error::QuotaReached(Period::Total));
    assert_eq!(storage.create_workspace(Uuid::now_v7(), &grant, "x", None).await, reached);
    // An answer is given again however much is used up; a quota of none takes none.
    assert_eq!(storage.create_workspace(Uuid::now_v7(), &grant, "x", Some(&claim)).await?.workspace, first.workspace);
    let none = database.for_tenant("none", Quota { per_day: None, total: Some(0) });
    assert_eq!(none.create_workspace(Uuid::now_v7(), &grant, "x", None).await, reached);
    assert_eq!(server.psql("SELECT tenant, total, today FROM workspaces.quota_usage")?, "acme|2|2");
    Ok(())
}
