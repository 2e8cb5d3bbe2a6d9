//! Keys that a provider's address answers with.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use workspaces_tests::{Deployment, Server};

use super::{PROGRAM, Pair, abandon, claims, logged, serve, serve_and_log, status};

/// A provider's address for keys: answers with what it holds now.
pub(super) struct Provider {
    pub(super) address: String,
    pub(super) answer: Arc<Mutex<String>>,
    pub(super) fetches: Arc<AtomicUsize>,
    /// The last request.
    pub(super) asked: Arc<Mutex<String>>,
}

impl Provider {
    pub(super) fn start(answer: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("http://{}/keys", listener.local_addr()?);
        let (answer, fetches) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let asked = Arc::default();
        let provider = Self { address, answer: answer.clone(), fetches: fetches.clone(), asked: Arc::clone(&asked) };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                fetches.fetch_add(1, Relaxed);
                let mut request = [0; 4096];
                let read = stream.read(&mut request).unwrap_or(0);
                let _ = asked.lock().map(|mut asked| *asked = String::from_utf8_lossy(&request[..read]).into_owned());
                let _ = answer.lock().map(|answer| stream.write_all(answer.as_bytes()));
            }
        });
        Ok(provider)
    }

    fn publish(&self, answer: String) {
        if let Ok(mut current) = self.answer.lock() {
            *current = answer;
        }
    }
}

/// Returns a provider's answer, with these fields of its head.
fn answer(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

pub(super) fn keys(keys: &[Value]) -> String {
    answer("200 OK", "", &json!({"keys": keys}).to_string())
}

fn failure() -> String {
    answer("500 Internal Server Error", "", "")
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn keys_come_from_an_address_seldom_and_change() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let [old, new] = ["old", "new"].map(|name| Pair::new(deployment.folder(), name, "P-256"));
    let (old, new) = (old?, new?);
    // Of the second nothing may be taken: it is a secret, which anybody can read here.
    let secret = json!({"kty": "oct", "kid": "secret", "k": "c2VjcmV0", "alg": "HS256"});
    let provider = Provider::start(keys(&[old.jwk("old")?, secret]))?;
    let server = serve(&deployment, &provider.address, &[])?;
    assert_eq!(status(&server, &old.sign_as("old", &claims(&account))?)?, 201);
    let hmac = Header { kid: Some("secret".into()), ..Header::new(Algorithm::HS256) };
    assert_eq!(status(&server, &encode(&hmac, &claims(&account), &EncodingKey::from_secret(b"secret"))?)?, 401);

    provider.publish(keys(&[new.jwk("new")?]));
    for unknown in 0..50 {
        assert_eq!(status(&server, &new.sign_as(&unknown.to_string(), &claims(&account))?)?, 401);
    }
    assert_eq!(provider.fetches.load(Relaxed), 1, "strangers had keys fetched");
    // 30 s after the first fetch, the next unknown key is asked for; who asks is gone before there is an answer.
    let answering = provider.answer.lock().ok().context("the provider panicked")?;
    let start = Instant::now();
    while provider.fetches.load(Relaxed) == 1 {
        ensure!(start.elapsed() < Duration::from_secs(60), "the new key is never asked for");
        abandon(&server, &new.sign_as("new", &claims(&account))?)?;
        thread::sleep(Duration::from_millis(20));
    }
    drop(answering);
    let start = Instant::now();
    while status(&server, &new.sign_as("new", &claims(&account))?)? != 201 {
        ensure!(start.elapsed() < Duration::from_secs(10), "what was fetched is lost");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(status(&server, &old.sign_as("old", &claims(&account))?)?, 401, "a key that was withdrawn");
    assert_eq!(provider.fetches.load(Relaxed), 2);
    Ok(())
}

#[test]
fn without_the_providers_keys_tokens_are_503_and_api_keys_are_served() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    let provider = Provider::start(failure())?;
    let server = serve(&deployment, &provider.address, &[])?;
    let pair = Pair::new(deployment.folder(), "own", "P-256")?;
    assert_eq!(status(&server, &pair.sign(&claims(&account))?)?, 503);
    assert_eq!(server.create(&key, "{}")?.status, 201);
    Ok(())
}

/// Waits until a request with the token is answered so.
fn wait_for(server: &Server, token: &str, expected: u16) -> Result<()> {
    let start = Instant::now();
    loop {
        let seen = status(server, token)?;
        if seen == expected {
            return Ok(());
        }
        ensure!(start.elapsed() < Duration::from_secs(60), "answered {seen} and never {expected}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn keys_older_than_their_maximum_age_verify_nothing_while_the_provider_is_down() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let pair = Pair::new(deployment.folder(), "own", "P-256")?;
    let provider = Provider::start(keys(&[pair.jwk("own")?]))?;
    let (server, log) = serve_and_log(&deployment, &provider.address, &["--jwt-keys-max-age", "4s"])?;
    let token = pair.sign_as("own", &claims(&account))?;
    wait_for(&server, &token, 201)?;
    let start = Instant::now();
    // Longer than the maximum age: they are fetched again before it is over.
    while start.elapsed() < Duration::from_secs(6) {
        assert_eq!(status(&server, &token)?, 201);
        thread::sleep(Duration::from_millis(100));
    }
    provider.publish(failure());
    wait_for(&server, &token, 503)?;
    let lines = logged(&log, &["older than their maximum age", "500 Internal Server Error"])?;
    for part in ["older than their maximum age", "500 Internal Server Error"] {
        assert_eq!(lines.matches(part).count(), 1, "{part}: {lines}");
    }
    provider.publish(keys(&[pair.jwk("own")?]));
    wait_for(&server, &token, 201)
}

#[test]
fn user_and_password_of_an_address_are_sent_as_basic_authorization() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let pair = Pair::new(deployment.folder(), "own", "P-256")?;
    let provider = Provider::start(keys(&[pair.jwk("own")?]))?;
    // The one of RFC 7617, section 2.
    let address = provider.address.replace("http://", "http://Aladdin:open%20sesame@");
    let server = serve(&deployment, &address, &[])?;
    assert_eq!(status(&server, &pair.sign_as("own", &claims(&account))?)?, 201);
    let asked = provider.asked.lock().ok().context("the provider panicked")?.to_lowercase();
    let expected = format!("authorization: {}", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_lowercase());
    assert!(asked.contains(&expected) && !asked.contains("aladdin"), "{asked}");
    Ok(())
}

#[test]
fn a_provider_that_redirects_or_fails_is_named_once_without_what_is_secret() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let pair = Pair::new(deployment.folder(), "own", "P-256")?;
    let moved = answer("302 Found", "location: https://user:hidden@elsewhere.example/keys?token=hidden\r\n", "");
    let provider = Provider::start(moved)?;
    let address = format!("{}?token=hidden", provider.address.replace("http://", "http://user:hidden@"));
    let (server, log) = serve_and_log(&deployment, &address, &["--jwt-keys-max-age", "2s"])?;
    let token = pair.sign_as("own", &claims(&account))?;
    assert_eq!(status(&server, &token)?, 503);
    let start = Instant::now();
    while provider.fetches.load(Relaxed) < 4 {
        ensure!(start.elapsed() < Duration::from_secs(60), "keys are not fetched again");
        thread::sleep(Duration::from_millis(50));
    }
    let lines = logged(&log, &["302 Found"])?;
    assert_eq!(lines.matches("302 Found").count(), 1, "{lines}");
    assert!(lines.contains("https://elsewhere.example/keys") && lines.contains(&provider.address), "{lines}");
    assert!(!lines.contains("hidden"), "{lines}");
    Ok(())
}
