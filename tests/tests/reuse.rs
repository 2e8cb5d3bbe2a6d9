//! Instances that answer several requests of a tenant, where its limits say so.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::task::JoinSet;
use uuid::Uuid;
use workspaces_host::{
    Builder, CreateWorkspaceRequest, Error, Workspaces,
    auth::Caller,
    metrics::Metrics,
    runtime::{Pool, SandboxLimits, Sandboxes},
    storage::{Database as _, sqlite::Sqlite},
};
use workspaces_tests::{
    Open,
    hostile_components::{Module, NAME},
};

/// Names, by whose length the counting component ends.
const ANSWER: &str = "a";
const TRAP: &str = "tt";
const KEEP_A_GRANT: &str = "ggg";
const LATE: &str = "llll";

/// Answers with the number of calls that the instance has had: 400, with one digit as the message.
const COUNTING: Module<'_> = Module {
    pages: 2,
    fields: "(global $calls (mut i32) (i32.const 0))",
    realloc: "(i32.const 65536)",
    operation: "
        (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (if (i32.eq (local.get 2) (i32.const 2)) (then unreachable))
        (if (i32.eq (local.get 2) (i32.const 3)) (then (drop (call $grant))))
        (if (i32.eq (local.get 2) (i32.const 4)) (then (call $spin)))
        (i64.store (i32.const 512) (i64.const 1)) (i64.store (i32.const 520) (i64.const 0))
        (i32.store8 (i32.const 528) (i32.add (i32.const 48) (global.get $calls)))
        (i32.store (i32.const 520) (i32.const 528)) (i32.store (i32.const 524) (i32.const 1))
        (return (i32.const 512))",
};

fn limits(requests: u32) -> Result<SandboxLimits> {
    let requests_per_instance = NonZeroU32::new(requests).context("no request")?;
    Ok(SandboxLimits { requests_per_instance, ..SandboxLimits::default() })
}

fn tenant(requests: u32, sandboxes: &Sandboxes) -> Result<Builder> {
    let builder = Workspaces::builder(Arc::new(Sqlite::in_memory()?), Arc::new(Open));
    Ok(builder.component(COUNTING.component()?).limits(limits(requests)?).sandboxes(sandboxes.clone()))
}

/// Returns the number of the call to the instance that a request gets, 0 where it fails.
async fn number(workspaces: &Workspaces, name: &str) -> Result<u32> {
    let request = CreateWorkspaceRequest { name: Some(name.into()), ..CreateWorkspaceRequest::default() };
    match workspaces.create_workspace_for(Caller::new(Uuid::nil()), request, None).await {
        Err(Error::InvalidRequest(number)) => Ok(number.parse()?),
        Err(Error::Component(_)) if name == TRAP => Ok(0),
        Err(Error::OutOfTime(_)) if name == LATE => Ok(0),
        other => bail!("{name}: {other:?}"),
    }
}

async fn numbers(workspaces: &Workspaces, names: &[&str]) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for name in names {
        numbers.push(number(workspaces, name).await?);
    }
    Ok(numbers)
}

#[tokio::test]
async fn an_instance_answers_one_request_by_default_and_as_many_as_the_limits_say() -> Result<()> {
    let sandboxes = Sandboxes::new(Pool::default())?;
    assert_eq!(SandboxLimits::default().requests_per_instance, NonZeroU32::MIN);
    for (most, expected) in [(1, [1, 1, 1, 1, 1, 1, 1]), (2, [1, 2, 1, 2, 1, 2, 1]), (3, [1, 2, 3, 1, 2, 3, 1])] {
        let workspaces = tenant(most, &sandboxes)?.build()?;
        assert_eq!(numbers(&workspaces, &[ANSWER; 7]).await?, expected);
    }
    Ok(())
}

#[tokio::test]
async fn an_instance_is_not_used_again_after_a_trap_or_its_time_or_with_a_grant() -> Result<()> {
    let workspaces = tenant(100, &Sandboxes::new(Pool::default())?)?.build()?;
    assert_eq!(numbers(&workspaces, &[ANSWER, ANSWER, TRAP, ANSWER]).await?, [1, 2, 0, 1]);
    assert_eq!(numbers(&workspaces, &[ANSWER, LATE, ANSWER]).await?, [2, 0, 1]);
    assert_eq!(numbers(&workspaces, &[KEEP_A_GRANT, ANSWER]).await?, [2, 1]);
    Ok(())
}

#[tokio::test]
async fn an_instance_is_not_used_again_for_another_tenant_or_another_component() -> Result<()> {
    let sandboxes = Sandboxes::new(Pool::default())?;
    let (one, other) = (tenant(100, &sandboxes)?.build()?, tenant(100, &sandboxes)?.build()?);
    // Both have the one component, which was compiled once.
    assert_eq!(one.component(), other.component());
    assert_eq!(numbers(&one, &[ANSWER; 2]).await?, [1, 2]);
    assert_eq!(numbers(&other, &[ANSWER; 2]).await?, [1, 2]);
    assert_eq!(numbers(&one, &[ANSWER; 2]).await?, [3, 4]);

    // These create workspaces, as a rehearsal asks for, unless the name is another one.
    let [first, second] = [2, 3].map(|pages| Module { pages, ..COUNTING }.two_faced());
    let [first, second] = [sandboxes.compile(&first?)?, sandboxes.compile(&second?)?];
    let swapped = tenant(100, &sandboxes)?.loaded_component(first.clone()).build()?;
    assert_eq!(numbers(&swapped, &[NAME; 2]).await?, [1, 2]);
    swapped.swap(second).await.map_err(anyhow::Error::msg)?;
    assert_eq!(numbers(&swapped, &[NAME; 2]).await?, [1, 2]);
    swapped.swap(first).await.map_err(anyhow::Error::msg)?;
    assert_eq!(numbers(&swapped, &[NAME; 2]).await?, [1, 2]);
    Ok(())
}

#[tokio::test]
async fn instances_that_wait_for_requests_leave_a_sandbox_to_every_tenant() -> Result<()> {
    // One sandbox runs, and one instance waits: the third tenant's takes the place of the first's.
    let pool = Pool { concurrency: 1, slow: 1, ..Pool::default() };
    let sandboxes = Sandboxes::new(pool)?;
    let tenants = [tenant(100, &sandboxes)?, tenant(100, &sandboxes)?, tenant(1, &sandboxes)?];
    let [one, two, fresh] = tenants.map(Builder::build);
    let (one, two, fresh) = (one?, two?, fresh?);
    for _ in 0..20 {
        assert_eq!(numbers(&one, &[ANSWER; 3]).await?, [1, 2, 3]);
        assert_eq!(numbers(&fresh, &[ANSWER; 3]).await?, [1, 1, 1]);
        assert_eq!(numbers(&two, &[ANSWER; 3]).await?, [1, 2, 3]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_of_an_instance_has_all_of_the_limits_and_the_built_in_component_needs_no_more_memory()
-> Result<()> {
    let limits = SandboxLimits {
        memory: 256 << 10,
        // A request makes four.
        host_calls: 4,
        // Twice a request's time: 4,000 requests take far longer.
        cpu: Duration::from_millis(200),
        // A grant, and the one lent to storage.
        handles: 2,
        hostcall_bytes: 4 << 10,
        ..limits(10_000)?
    };
    let metrics = Metrics::default();
    let database = Arc::new(Sqlite::in_memory()?);
    let account = database.create_account(None, None).await?.id;
    let builder = Workspaces::builder(database, Arc::new(Open)).limits(limits);
    let workspaces = Arc::new(builder.metrics(metrics.clone(), "acme").build()?);
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let workspaces = workspaces.clone();
        tasks.spawn(async move {
            for request in 0..1_000 {
                // What it refuses leaves as little behind.
                let name = if request % 2 == 0 { "n".repeat(255) } else { "\u{7}".repeat(255) };
                let request = CreateWorkspaceRequest { name: Some(name.clone()), ..CreateWorkspaceRequest::default() };
                let answer = workspaces.create_workspace_for(Caller::new(account), request, None).await;
                match (name.starts_with('n'), answer) {
                    (true, Ok(created)) if created.workspace.name == name => {}
                    (false, Err(Error::InvalidRequest(_))) => {}
                    (_, answer) => bail!("{answer:?}"),
                }
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let text = metrics.text();
    let limit = "limit=\"requests_per_instance\"} 10000";
    assert!(text.lines().any(|line| line.contains("acme") && line.ends_with(limit)), "{text}");
    Ok(())
}
