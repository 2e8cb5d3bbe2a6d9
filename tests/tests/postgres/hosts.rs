//! Addresses of several hosts, of which one does not answer.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{task::JoinSet, time::timeout};
use uuid::Uuid;
use workspaces_host::{
    auth::{Grant, api_key::Directory as _},
    storage::{
        Storage as _,
        postgres::{Postgres, PostgresOptions},
    },
};
use workspaces_tests::postgres as server;

use super::{deployed, own_grant};

/// Time that a request waits for a credential's look-up.
const LOOK_UP: Duration = Duration::from_secs(2);
/// Half of [`LOOK_UP`].
const SOON: Duration = Duration::from_secs(1);

/// Creates that many workspaces at once.
async fn create_at_once(count: usize, database: &Postgres, grant: &Grant) -> Result<()> {
    let mut creates = JoinSet::new();
    for _ in 0..count {
        let (database, grant) = (database.clone(), grant.clone());
        creates.spawn(async move { database.create_workspace(Uuid::now_v7(), &grant, "x", None).await });
    }
    while let Some(created) = creates.join_next().await {
        created??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_keeps_no_request_from_the_one_that_does() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let server = deployed().await?;
    // The system accepts connections for it, as it does for a server that was stopped where it is.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let places = [silent.local_addr()?.port(), server.port()].map(|port| format!("127.0.0.1:{port}"));
    for hosts in [places.join(","), format!("{1},{0}", places[0], places[1])] {
        let address = format!("postgres://service@{hosts}/postgres");
        let options = PostgresOptions::default();
        let start = Instant::now();
        let database = Postgres::connect(&address, &options).await?;
        assert!(start.elapsed() < SOON, "{hosts}: connected after {:?}", start.elapsed());
        let grant = own_grant(&database).await?;
        let start = Instant::now();
        create_at_once(options.connections, &database, &grant).await?;
        assert!(start.elapsed() < SOON, "{hosts}: created after {:?}", start.elapsed());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_at_a_host_that_stopped_answering_are_given_up_together() -> Result<()> {
    if !server::available()? {
        return Ok(());
    }
    let primary = deployed().await?;
    let standby = primary.standby()?;
    let address = format!("postgres://service@127.0.0.1:{},127.0.0.1:{}/postgres", primary.port(), standby.port());
    let options = PostgresOptions::default();
    let database = Postgres::connect(&address, &options).await?;
    let grant = own_grant(&database).await?;
    create_at_once(options.connections, &database, &grant).await?;
    let sessions = primary.psql("SELECT count(*) > 4 FROM pg_stat_activity WHERE application_name = 'workspaces'")?;
    assert_eq!(sessions, "t");
    primary.pause()?;
    standby.promote()?;
    let start = Instant::now();
    // One request after the other, each of which gives up as the look-up of a credential does.
    while !timeout(LOOK_UP, database.find_key("none")).await.is_ok_and(|found| found.is_ok()) {
        assert!(start.elapsed() < 3 * LOOK_UP, "not found after {:?}", start.elapsed());
    }
    Ok(())
}
