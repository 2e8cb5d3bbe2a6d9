//! Requests that wait: for their turn, for auth and for storage.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::task::JoinSet;
use uuid::Uuid;
use workspaces_host::{
    COMPONENT, CreateWorkspaceRequest, Error, TenantShare, Workspace, Workspaces,
    auth::{Auth, Basis, Caller, Credential, Denial, Grant},
    runtime::{Pool, SandboxLimits, Sandboxes},
    storage::{self, Claim, Created, Storage, sqlite::Sqlite},
};
use workspaces_tests::hostile_components::component;

/// Takes its time, and then denies.
struct Slow(Duration);

#[async_trait::async_trait]
impl Auth for Slow {
    async fn authenticate(&self, _: &Credential) -> Result<Caller, Denial> {
        Err(Denial::Unauthenticated("no credential is valid here"))
    }

    async fn authorize(&self, _: &Caller, _: Option<Uuid>, _: Option<Uuid>) -> Result<Grant, Denial> {
        tokio::time::sleep(self.0).await;
        Err(Denial::AccountForbidden)
    }
}

fn slow(component: &[u8], wait: Duration, limits: SandboxLimits, pool: Pool) -> Result<Workspaces> {
    let builder = Workspaces::builder(Arc::new(Sqlite::in_memory()?), Arc::new(Slow(wait)));
    Ok(builder.component(component).limits(limits).sandboxes(Sandboxes::new(pool)?).build()?)
}

/// Returns how a component fares with a slow auth, and how long it takes.
async fn call_with_slow_auth(
    body: &str,
    wait: Duration,
    limits: SandboxLimits,
) -> Result<(Result<(), Error>, Duration)> {
    let workspaces = slow(&component(body)?, wait, limits, Pool::default())?;
    let start = Instant::now();
    let answer =
        workspaces.create_workspace_for(Caller::new(Uuid::nil()), CreateWorkspaceRequest::default(), None).await;
    Ok((answer.map(drop), start.elapsed()))
}

#[tokio::test]
async fn waiting_for_the_host_is_not_on_the_components_account_nor_to_its_credit() -> Result<()> {
    const WAIT: Duration = Duration::from_secs(2);
    // The second call is where the clock is looked at after the first one's wait.
    let (answer, _) =
        call_with_slow_auth("(drop (call $grant)) (drop (call $grant))", WAIT, SandboxLimits::default()).await?;
    assert!(matches!(answer, Err(Error::InvalidRequest(_))), "{answer:?}");
    let (answer, elapsed) =
        call_with_slow_auth("(drop (call $grant)) (call $spin)", WAIT, SandboxLimits::default()).await?;
    assert!(matches!(answer, Err(Error::OutOfTime(_))), "{answer:?}");
    // With its wait to its credit it would spin for as long again.
    assert!(elapsed < WAIT * 2, "{elapsed:?}");
    Ok(())
}

#[tokio::test]
async fn a_wait_for_the_host_ends_with_the_wall_clock() -> Result<()> {
    let limits = SandboxLimits { wall_clock: Duration::from_millis(50), ..SandboxLimits::default() };
    let (answer, _) = call_with_slow_auth("(drop (call $grant))", Duration::from_secs(3600), limits).await?;
    assert!(matches!(answer, Err(Error::OutOfTime(_))), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn requests_over_a_tenants_sandboxes_that_run_wait_and_are_refused() -> Result<()> {
    let pool = Pool { admission_wait: Duration::from_millis(50), ..Pool::default() };
    let builder = Workspaces::builder(Arc::new(Sqlite::in_memory()?), Arc::new(Slow(Duration::ZERO)))
        .component(component("(call $spin)")?)
        .limits(SandboxLimits { cpu: Duration::from_secs(1), ..SandboxLimits::default() })
        .share(TenantShare { running: 1, ..TenantShare::default() })
        .sandboxes(Sandboxes::new(pool)?);
    let workspaces = builder.build()?;
    let call = || workspaces.create_workspace_for(Caller::new(Uuid::nil()), CreateWorkspaceRequest::default(), None);
    let (first, second) = tokio::join!(call(), call());
    assert!(matches!(first, Err(Error::OutOfTime(_))), "{first:?}");
    assert!(matches!(second, Err(Error::Overloaded)), "{second:?}");
    Ok(())
}

#[tokio::test]
async fn sandboxes_that_wait_for_their_host_let_others_run() -> Result<()> {
    let pool = Pool { concurrency: 1, queue: 7, admission_wait: Duration::from_secs(2), ..Pool::default() };
    let workspaces = slow(&component("(drop (call $grant))")?, Duration::from_secs(4), SandboxLimits::default(), pool)?;
    let call = || workspaces.create_workspace_for(Caller::new(Uuid::nil()), CreateWorkspaceRequest::default(), None);
    let (one, two, three, four) = tokio::join!(call(), call(), call(), call());
    for answer in [one, two, three, four] {
        assert!(matches!(answer, Err(Error::InvalidRequest(_))), "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn requests_that_wait_for_the_host_have_no_sandbox() -> Result<()> {
    // Twelve sandboxes can exist: one that runs, nine that take long on a busy machine, and two of rehearsals.
    let hour = Duration::from_secs(3600);
    let pool = Pool { concurrency: 1, slow: 9, queue: 99, target_delay: hour, admission_wait: hour, ..Pool::default() };
    let wait = Duration::from_secs(1);
    let workspaces = slow(&component("(drop (call $grant))")?, wait, SandboxLimits::default(), pool)?;
    let workspaces = Arc::new(workspaces);
    let (mut calls, start) = (JoinSet::new(), Instant::now());
    for _ in 0..100 {
        let workspaces = workspaces.clone();
        calls.spawn(async move {
            workspaces.create_workspace_for(Caller::new(Uuid::nil()), CreateWorkspaceRequest::default(), None).await
        });
    }
    while let Some(answer) = calls.join_next().await {
        let answer = answer?;
        assert!(matches!(answer, Err(Error::InvalidRequest(_))), "{answer:?}");
    }
    // They waited side by side.
    assert!(start.elapsed() < 50 * wait, "{:?}", start.elapsed());
    Ok(())
}

/// Storage that fails, at once or after a while.
struct Failing {
    error: storage::Error,
    wait: Duration,
}

#[async_trait::async_trait]
impl Storage for Failing {
    async fn create_workspace(
        &self,
        _: Uuid,
        _: &Grant,
        _: &str,
        _: Option<&Claim>,
    ) -> Result<Created, storage::Error> {
        if !self.wait.is_zero() {
            tokio::time::sleep(self.wait).await;
        }
        Err(self.error.clone())
    }

    async fn find_claimed(&self, _: &Claim) -> Result<Option<Workspace>, storage::Error> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_failure_of_storage_has_the_same_outcome_at_once_and_after_the_component_went_on() -> Result<()> {
    // After a failure the last one creates again with another grant, and tells whether that is refused.
    let again = "(drop (call $store (call $grant))) (drop (call $store (call $grant)))";
    for component in [COMPONENT.to_vec(), component("(drop (call $store (call $grant)))")?, component(again)?] {
        for error in [
            storage::Error::AccessLost,
            storage::Error::CredentialLost,
            storage::Error::KeyReused,
            storage::Error::Refused("no".into()),
            storage::Error::Misconfigured("no".into()),
            storage::Error::Unavailable("no".into()),
            storage::Error::Unknown("no".into()),
        ] {
            let mut outcomes = Vec::new();
            for wait in [Duration::ZERO, Duration::from_millis(5)] {
                let account = Uuid::from_u128(7);
                let auth = Arc::new(Own);
                let storage = Arc::new(Failing { error: error.clone(), wait });
                let workspaces = Workspaces::builder(storage, auth).component(component.clone()).build()?;
                let request = CreateWorkspaceRequest::default();
                let outcome = workspaces.create_workspace_for(Caller::new(account), request, None).await;
                assert!(outcome.is_err(), "{error:?} {wait:?}");
                outcomes.push(format!("{outcome:?}"));
            }
            assert_eq!(outcomes[0], outcomes[1], "{error:?}");
        }
    }
    Ok(())
}

/// Grants what is the caller's own.
struct Own;

#[async_trait::async_trait]
impl Auth for Own {
    async fn authenticate(&self, _: &Credential) -> Result<Caller, Denial> {
        Err(Denial::Unauthenticated("no credential is valid here"))
    }

    async fn authorize(&self, caller: &Caller, _: Option<Uuid>, _: Option<Uuid>) -> Result<Grant, Denial> {
        let own = caller.account_id;
        Ok(Grant { caller_id: own, account_id: own, organization_id: None, key_id: None, basis: Basis::Auth })
    }
}

#[tokio::test]
async fn a_request_that_would_wait_too_long_is_refused_without_waiting() -> Result<()> {
    let pool = Pool { target_delay: Duration::ZERO, ..Pool::default() };
    let builder = Workspaces::builder(Arc::new(Sqlite::in_memory()?), Arc::new(Slow(Duration::ZERO)))
        .component(component("(call $spin)")?)
        .limits(SandboxLimits { cpu: Duration::from_millis(50), ..SandboxLimits::default() })
        .share(TenantShare { running: 1, ..TenantShare::default() })
        .sandboxes(Sandboxes::new(pool)?);
    let workspaces = builder.build()?;
    let call = || workspaces.create_workspace_for(Caller::new(Uuid::nil()), CreateWorkspaceRequest::default(), None);
    // Nothing is known of waits before the first.
    let (first, second) = tokio::join!(call(), call());
    assert!(matches!((&first, &second), (Err(Error::OutOfTime(_)), Err(Error::OutOfTime(_)))), "{first:?} {second:?}");
    let late = async { (call().await, Instant::now()) };
    let (first, second, (late, refused)) = tokio::join!(call(), async { (call().await, Instant::now()) }, late);
    let (second, served) = second;
    assert!(matches!((&first, &second), (Err(Error::OutOfTime(_)), Err(Error::OutOfTime(_)))), "{first:?} {second:?}");
    assert!(matches!(late, Err(Error::Overloaded)) && refused < served, "{late:?}");
    Ok(())
}

#[tokio::test]
async fn a_sandbox_that_takes_long_where_its_tenant_has_its_share_of_those_is_ended_and_the_component_not_blamed()
-> Result<()> {
    let pool = Pool { slow: 0, ..Pool::default() };
    let workspaces = slow(&component("(call $spin)")?, Duration::ZERO, SandboxLimits::default(), pool)?;
    let answer =
        workspaces.create_workspace_for(Caller::new(Uuid::nil()), CreateWorkspaceRequest::default(), None).await;
    assert!(matches!(answer, Err(Error::Overloaded)), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn requests_over_the_queue_are_refused_at_once() -> Result<()> {
    let hour = Duration::from_secs(3600);
    let limits = SandboxLimits { wall_clock: hour, ..SandboxLimits::default() };
    let pool = Pool { concurrency: 1, queue: 1, admission_wait: hour, ..Pool::default() };
    let wait = Duration::from_millis(200);
    let workspaces = slow(&component("(drop (call $grant))")?, wait, limits, pool)?;
    let call = || workspaces.create_workspace_for(Caller::new(Uuid::nil()), CreateWorkspaceRequest::default(), None);
    let third = async {
        // The two before it have been polled once by then.
        tokio::task::yield_now().await;
        (call().await, Instant::now())
    };
    let second = async { (call().await, Instant::now()) };
    let (first, (second, served), (third, refused)) = tokio::join!(call(), second, third);
    assert!(matches!(first, Err(Error::InvalidRequest(_))), "{first:?}");
    assert!(matches!(second, Err(Error::InvalidRequest(_))), "one may wait: {second:?}");
    assert!(matches!(third, Err(Error::Overloaded)) && refused < served, "{third:?}");
    Ok(())
}
