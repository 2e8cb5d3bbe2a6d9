//! Requests that are sent again.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use rusqlite::Connection;
use serde_json::json;
use uuid::Uuid;
use workspaces_host::{
    CreateWorkspaceRequest, Error, Workspace, Workspaces,
    auth::{Auth, Basis, Caller, Credential, Denial, Grant},
    storage::{self, Claim, Created, IdempotencyKey, Storage},
};
use workspaces_tests::{Answer, Deployment, Server};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

struct Scene {
    deployment: Deployment,
    server: Server,
    account: String,
    key: String,
}

impl Scene {
    fn new() -> Result<Self> {
        let deployment = Deployment::new(PROGRAM)?;
        let account = deployment.run(&["account", "create"])?;
        let key = deployment.run(&["key", "create", &account])?;
        let server = deployment.serve(&["--log", "off"])?;
        Ok(Self { deployment, server, account, key })
    }

    fn send(&self, credential: &str, keys: &[&str], body: &str) -> Result<Answer> {
        let mut headers = vec![("Content-Type", "application/json"), ("x-api-key", credential)];
        headers.extend(keys.iter().map(|&key| ("Idempotency-Key", key)));
        self.server.send("POST", "/api/workspaces", &headers, body.as_bytes())
    }

    fn workspaces(&self) -> Result<usize> {
        Ok(self.deployment.run(&["workspace", "list"])?.lines().count())
    }

    fn sql(&self, statement: &str) -> Result<usize> {
        let connection = Connection::open(self.deployment.database())?;
        connection.busy_timeout(Duration::from_secs(10))?;
        Ok(connection.execute(statement, [])?)
    }
}

fn replayed(answer: &Answer) -> Option<&str> {
    answer.header("idempotency-replayed")
}

#[test]
fn a_request_sent_again_gets_the_same_answer_and_creates_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let first = scene.send(&scene.key, &["a-key"], r#"{"name": "A"}"#)?;
    assert_eq!((first.status, replayed(&first)), (201, None));
    // Quoted or bare, spaced otherwise, with an absent field as null and an unknown one: the same request.
    for (key, body) in [("a-key", r#"{"name": "A"}"#), ("\"a-key\"", r#"{"name":"A","account_id":null,"unknown":1}"#)] {
        let again = scene.send(&scene.key, &[key], body)?;
        assert_eq!((again.status, replayed(&again)), (201, Some("true")));
        assert_eq!(again.body, first.body);
    }
    assert_eq!(scene.workspaces()?, 1);
    // Whatever has become of the workspace, and also from another process.
    scene.sql("UPDATE accounts SET name = 'Renamed'")?;
    let other = scene.deployment.serve(&["--log", "off"])?;
    let headers = [("x-api-key", scene.key.as_str()), ("Idempotency-Key", "a-key")];
    let again = other.send("POST", "/api/workspaces", &headers, br#"{"name": "A"}"#)?;
    assert_eq!((again.status, replayed(&again), &again.body), (201, Some("true"), &first.body));
    Ok(())
}

#[test]
fn another_payload_is_422() -> Result<()> {
    let scene = Scene::new()?;
    assert_eq!(scene.send(&scene.key, &["k"], "{}")?.status, 201);
    for body in
        [json!({"name": "Untitled"}), json!({"account_id": scene.account}), json!({"organization_id": scene.account})]
    {
        let answer = scene.send(&scene.key, &["k"], &body.to_string())?;
        assert_eq!((answer.status, &answer.json()?["error"]), (422, &json!(422)), "{body}");
    }
    assert_eq!(scene.workspaces()?, 1);
    Ok(())
}

#[test]
fn a_key_is_its_callers_own() -> Result<()> {
    let scene = Scene::new()?;
    let other = scene.deployment.run(&["account", "create"])?;
    let other = scene.deployment.run(&["key", "create", &other])?;
    for key in [&scene.key, &other] {
        let answer = scene.send(key, &["k"], "{}")?;
        assert_eq!((answer.status, replayed(&answer)), (201, None));
    }
    assert_eq!(scene.workspaces()?, 2);
    Ok(())
}

#[test]
fn what_is_no_key_is_400_after_the_credential_is_checked() -> Result<()> {
    let scene = Scene::new()?;
    for keys in [&[""][..], &["a b"], &["é"], &["\"a"], &["a", "a"], &[&"k".repeat(256)]] {
        let answer = scene.send(&scene.key, keys, "{}")?;
        assert_eq!(answer.status, 400, "{keys:?}: {answer:?}");
        assert!(answer.json()?["message"].as_str().context("no message")?.contains("Idempotency-Key"));
        assert_eq!(scene.send("unknown", keys, "{}")?.status, 401);
    }
    assert_eq!(scene.send(&scene.key, &[&"k".repeat(255)], "{}")?.status, 201);
    Ok(())
}

#[test]
fn failures_are_not_remembered() -> Result<()> {
    let scene = Scene::new()?;
    let organization = scene.deployment.run(&["organization", "create"])?;
    let body = json!({"organization_id": organization}).to_string();
    assert_eq!(scene.send(&scene.key, &["k"], &body)?.status, 403);
    assert_eq!(scene.send(&scene.key, &["k"], r#"{"name": 1}"#)?.status, 400);
    scene.deployment.run(&["organization", "add-member", &organization, &scene.account])?;
    let answer = scene.send(&scene.key, &["k"], &body)?;
    assert_eq!((answer.status, replayed(&answer)), (201, None));
    Ok(())
}

#[test]
fn the_credential_is_checked_again_and_access_is_not() -> Result<()> {
    let scene = Scene::new()?;
    let organization = scene.deployment.run(&["organization", "create"])?;
    scene.deployment.run(&["organization", "add-member", &organization, &scene.account])?;
    let body = json!({"organization_id": organization}).to_string();
    let first = scene.send(&scene.key, &["k"], &body)?;
    assert_eq!(first.status, 201);
    // The answer is about what was done then.
    assert_eq!(scene.sql("DELETE FROM account_organization_ids")?, 1);
    assert_eq!(scene.send(&scene.key, &["k"], &body)?.body, first.body);
    assert_eq!(scene.send(&scene.key, &["new"], &body)?.status, 403);
    assert_eq!(scene.sql("DELETE FROM account_api_keys")?, 1);
    assert_eq!(scene.send(&scene.key, &["k"], &body)?.status, 401);
    Ok(())
}

#[test]
fn claims_are_kept_for_a_day_and_then_forgotten() -> Result<()> {
    let scene = Scene::new()?;
    for key in ["old", "young", "new"] {
        assert_eq!(scene.send(&scene.key, &[key], "{}")?.status, 201);
    }
    const HOUR: i64 = 60 * 60 * 1000;
    for (key, age) in [("old", 24 * HOUR + 1), ("young", 24 * HOUR - HOUR)] {
        let aged = format!("UPDATE idempotency_keys SET created_at = created_at - {age} WHERE key = '{key}'");
        assert_eq!(scene.sql(&aged)?, 1);
    }
    // The sweep runs soon after a server starts, beside the requests.
    let Scene { deployment, server, key, account } = scene;
    drop(server);
    let scene = Scene { server: deployment.serve(&["--log", "off"])?, deployment, key, account };
    let kept = || -> Result<i64> {
        let connection = Connection::open(scene.deployment.database())?;
        Ok(connection.query_row("SELECT count(*) FROM idempotency_keys", [], |row| row.get(0))?)
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while kept()? == 3 {
        assert!(std::time::Instant::now() < deadline, "nothing is forgotten");
        std::thread::yield_now();
    }
    let (old, young) = (scene.send(&scene.key, &["old"], "{}")?, scene.send(&scene.key, &["young"], "{}")?);
    assert_eq!((replayed(&old), replayed(&young)), (None, Some("true")));
    Ok(())
}

/// Lets everybody in, and takes its time to write.
struct Slow;

#[async_trait]
impl Auth for Slow {
    async fn authenticate(&self, _: &Credential) -> Result<Caller, Denial> {
        Ok(Caller::new(Uuid::nil()))
    }

    async fn authorize(&self, caller: &Caller, _: Option<Uuid>, _: Option<Uuid>) -> Result<Grant, Denial> {
        let account = caller.account_id;
        Ok(Grant { caller_id: account, account_id: account, organization_id: None, key_id: None, basis: Basis::Auth })
    }
}

#[async_trait]
impl Storage for Slow {
    async fn create_workspace(
        &self,
        id: Uuid,
        grant: &Grant,
        name: &str,
        _: Option<&Claim>,
    ) -> Result<Created, storage::Error> {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let workspace = Workspace { id, name: name.into(), account_id: grant.account_id };
        Ok(Created { workspace, replayed: false })
    }

    async fn find_claimed(&self, _: &Claim) -> Result<Option<Workspace>, storage::Error> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_second_request_while_the_first_is_in_progress_is_told_so() -> Result<()> {
    let workspaces = Workspaces::builder(Arc::new(Slow), Arc::new(Slow)).build()?;
    let call = |key: &str| {
        let key = IdempotencyKey::new(key).ok();
        workspaces.create_workspace_for(Caller::new(Uuid::nil()), CreateWorkspaceRequest::default(), key)
    };
    let (first, second, other) = tokio::join!(call("a"), call("a"), call("b"));
    assert!(first.is_ok() && other.is_ok(), "{first:?} {other:?}");
    assert!(matches!(second, Err(Error::InFlight)), "{second:?}");
    assert!(call("a").await.is_ok(), "given up at the end");
    Ok(())
}
