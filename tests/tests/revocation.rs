//! Credentials and memberships that are lost while a request's body is on its way.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, ensure};
use rusqlite::Connection;
use serde_json::json;
use uuid::Uuid;
use workspaces_host::{
    auth::{
        Auth as _, Credential, Denial,
        api_key::{ApiKeys, Pepper, generate},
    },
    storage::{self, Database, NewKey, postgres::PostgresOptions, sqlite::Sqlite},
};
use workspaces_tests::{Answer, Deployment, PEPPER, Server, postgres::Postgres, write_head};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// A request whose credential was checked, and whose body has not come.
struct Waiting {
    stream: TcpStream,
    body: String,
}

impl Waiting {
    /// Sends the head, and waits until the server asks for the body: it does so after it has checked the credential.
    fn begin(server: &Server, key: &str, headers: &[(&str, &str)], body: &str) -> Result<Self> {
        let mut all = vec![("Content-Type", "application/json"), ("x-api-key", key), ("Expect", "100-continue")];
        all.extend(headers);
        let mut stream = server.connect()?;
        write_head(&mut stream, "POST", "/api/workspaces", &all, Some(body.len()))?;
        let mut asked = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
        stream.read_exact(&mut asked)?;
        ensure!(asked.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&asked));
        Ok(Self { stream, body: body.into() })
    }

    fn finish(mut self) -> Result<Answer> {
        self.stream.write_all(self.body.as_bytes())?;
        Answer::read(self.stream)
    }
}

fn what_is_lost_while_a_body_is_on_its_way_creates_nothing(
    deployment: &Deployment,
    sql: &dyn Fn(&str) -> Result<()>,
) -> Result<()> {
    let account = deployment.run(&["account", "create"])?;
    let organization = deployment.run(&["organization", "create"])?;
    deployment.run(&["organization", "add-member", &organization, &account])?;
    let server = deployment.serve(&["--log", "off"])?;
    let key = || deployment.run(&["key", "create", &account]);
    let key_id = || -> Result<String> {
        let keys = deployment.run(&["key", "list", &account])?;
        let last = keys.lines().last().and_then(|line| line.split_whitespace().next());
        last.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("no key: {keys}"))
    };
    let body = json!({"name": "Late"}).to_string();
    let linked = json!({"organization_id": organization}).to_string();

    let kept = Waiting::begin(&server, &key()?, &[], &body)?;
    assert_eq!(kept.finish()?.status, 201, "nothing is lost");

    for headers in [&[][..], &[("Idempotency-Key", "a-key")]] {
        let revoked = Waiting::begin(&server, &key()?, headers, &body)?;
        deployment.run(&["key", "revoke", &key_id()?])?;
        let answer = revoked.finish()?;
        assert_eq!(answer.status, 401, "revoked, {headers:?}: {answer:?}");

        let expired = Waiting::begin(&server, &key()?, headers, &body)?;
        sql("expire")?;
        let answer = expired.finish()?;
        assert_eq!(answer.status, 401, "expired, {headers:?}: {answer:?}");
    }

    let removed = Waiting::begin(&server, &key()?, &[], &linked)?;
    sql("remove")?;
    let answer = removed.finish()?;
    assert_eq!(answer.status, 403, "removed: {answer:?}");

    assert_eq!(deployment.run(&["workspace", "list"])?.lines().count(), 1, "the one before");
    // The key of those that failed is not used up.
    let again = Waiting::begin(&server, &key()?, &[("Idempotency-Key", "a-key")], &body)?.finish()?;
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, None));
    Ok(())
}

#[test]
fn on_sqlite_what_is_lost_while_a_body_is_on_its_way_creates_nothing() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let path = deployment.database();
    what_is_lost_while_a_body_is_on_its_way_creates_nothing(&deployment, &|change| {
        let connection = Connection::open(&path)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.execute_batch(match change {
            "expire" => "UPDATE account_api_keys SET expires_at = unixepoch() * 1000",
            _ => "DELETE FROM account_organization_ids",
        })?;
        Ok(())
    })
}

#[test]
fn on_postgres_what_is_lost_while_a_body_is_on_its_way_creates_nothing() -> Result<()> {
    if !workspaces_tests::postgres::available()? {
        return Ok(());
    }
    let server = Postgres::start()?;
    let deployment = Deployment::on_postgres(PROGRAM, &server.url())?;
    what_is_lost_while_a_body_is_on_its_way_creates_nothing(&deployment, &|change| {
        server
            .psql(match change {
                "expire" => "UPDATE public.account_api_keys SET expires_at = now()",
                _ => "DELETE FROM public.account_organization_ids",
            })
            .map(drop)
    })
}

/// Revokes a key through one value of a database and asks for it through `auth` on it or on another.
async fn after_a_revocation(same: Arc<dyn Database>, other: Arc<dyn Database>, auth: &ApiKeys) -> Result<()> {
    let account = same.create_account(None, None).await?.id;
    let key = async || -> Result<(Uuid, Credential)> {
        let key = generate()?;
        let (hash, pepper) = (Pepper::new(PEPPER.as_bytes()).hash(&key), Pepper::new(PEPPER.as_bytes()).check());
        let stored = NewKey { name: "k".into(), hash, pepper, expires_at: None };
        Ok((same.create_key(account, stored).await?.id, Credential::ApiKey(key)))
    };
    let unknown = Err(Denial::Unauthenticated("API key unknown or revoked"));

    let (id, credential) = key().await?;
    let caller = auth.authenticate(&credential).await?;
    assert_eq!(auth.authenticate(&credential).await?, caller);
    same.revoke_key(id).await?;
    assert_eq!(auth.authenticate(&credential).await, unknown, "at once in the same process");

    let (id, credential) = key().await?;
    let caller = auth.authenticate(&credential).await?;
    other.revoke_key(id).await?;
    assert_eq!(auth.authenticate_now(&credential).await, unknown, "a request with an idempotency key");
    let grant = auth.authorize(&caller, None, None).await?;
    let created = same.create_workspace(Uuid::now_v7(), &grant, "x", None).await;
    assert_eq!(created, Err(storage::Error::CredentialLost));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(auth.authenticate(&credential).await, unknown, "after a second in another process");
    Ok(())
}

#[tokio::test]
async fn on_sqlite_a_revoked_key_is_refused_at_once_or_within_a_second() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("workspaces.db");
    let same = Arc::new(Sqlite::open(&path)?);
    let auth = ApiKeys::new(same.clone(), PEPPER.as_bytes(), None);
    after_a_revocation(same, Arc::new(Sqlite::open(&path)?), &auth).await
}

#[tokio::test]
async fn on_postgres_a_revoked_key_is_refused_at_once_or_within_a_second() -> Result<()> {
    if !workspaces_tests::postgres::available()? {
        return Ok(());
    }
    let server = Postgres::start()?;
    storage::postgres::Postgres::migrate(&server.url()).await?;
    let connect = async || storage::postgres::Postgres::connect(&server.url(), &PostgresOptions::default()).await;
    let (same, other) = (Arc::new(connect().await?), Arc::new(connect().await?));
    let auth = ApiKeys::new(same.clone(), PEPPER.as_bytes(), None);
    after_a_revocation(same, other, &auth).await
}
