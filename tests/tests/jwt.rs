//! Bearer tokens of an identity provider: which are taken, and where their keys come from.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};
use workspaces_tests::{Deployment, Server, write_head};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");
const ISSUER: &str = "https://identity.example";
const AUDIENCE: &str = "workspaces";

/// A key pair, made by openssl; the file is its public half.
struct Pair {
    private: EncodingKey,
    public: std::path::PathBuf,
}

impl Pair {
    fn new(folder: &Path, name: &str, curve: &str) -> Result<Self> {
        let (private, public) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pem")));
        let curve = format!("ec_paramgen_curve:{curve}");
        let run = |arguments: &[&str]| -> Result<()> {
            let status = Command::new("openssl").current_dir(folder).args(arguments).status();
            ensure!(status.context("these tests need openssl")?.success(), "openssl {arguments:?}");
            Ok(())
        };
        let (from, to) = (private.to_str().context("path")?, public.to_str().context("path")?);
        run(&["genpkey", "-quiet", "-algorithm", "EC", "-pkeyopt", &curve, "-out", from])?;
        run(&["pkey", "-in", from, "-pubout", "-out", to])?;
        Ok(Self { private: EncodingKey::from_ec_pem(&fs::read(private)?)?, public })
    }

    fn sign(&self, claims: &Value) -> Result<String> {
        Ok(encode(&Header::new(Algorithm::ES256), claims, &self.private)?)
    }

    fn sign_as(&self, id: &str, claims: &Value) -> Result<String> {
        let header = Header { kid: Some(id.into()), ..Header::new(Algorithm::ES256) };
        Ok(encode(&header, claims, &self.private)?)
    }

    fn jwk(&self, id: &str) -> Result<Value> {
        let mut jwk = Jwk::from_encoding_key(&self.private, Algorithm::ES256)?;
        jwk.common.key_id = Some(id.into());
        Ok(serde_json::to_value(jwk)?)
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// What a provider says of an account.
fn claims(account: &str) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": account, "exp": now() + 300, "nbf": now() - 5})
}

/// The same with one claim replaced, or left out where it is null.
fn with(account: &str, claim: &str, value: Value) -> Value {
    let mut claims = claims(account);
    if let Some(fields) = claims.as_object_mut() {
        match value {
            Value::Null => drop(fields.remove(claim)),
            value => drop(fields.insert(claim.into(), value)),
        }
    }
    claims
}

fn serve(deployment: &Deployment, keys: &str, more: &[&str]) -> Result<Server> {
    let tokens = ["--jwt-keys", keys, "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE];
    deployment.serve(&[&tokens[..], more, &["--log", "off"]].concat())
}

/// The status of a request with a token.
fn status(server: &Server, token: &str) -> Result<u16> {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    Ok(server.send("POST", "/api/workspaces", &headers, b"{}")?.status)
}

/// Sends a request with a token, and closes; returns when the server has closed too.
fn abandon(server: &Server, token: &str) -> Result<()> {
    let mut stream = server.connect()?;
    let bearer = format!("Bearer {token}");
    write_head(&mut stream, "POST", "/api/workspaces", &[("authorization", &bearer)], Some(0))?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
}

#[test]
fn only_a_token_that_says_all_and_is_signed_by_the_key_is_taken() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let pair = Pair::new(deployment.folder(), "own", "P-256")?;
    let server = serve(&deployment, pair.public.to_str().context("path")?, &[])?;

    for (name, claims) in [
        ("all that is asked", claims(&account)),
        ("one audience of several", with(&account, "aud", json!(["other", AUDIENCE]))),
        ("expired within the leeway", with(&account, "exp", json!(now() - 15))),
        ("not yet valid within the leeway", with(&account, "nbf", json!(now() + 15))),
    ] {
        assert_eq!(status(&server, &pair.sign(&claims)?)?, 201, "{name}");
    }
    assert_eq!(deployment.run(&["workspace", "list", "--account", &account])?.lines().count(), 4);

    for (name, claims) in [
        ("another issuer", with(&account, "iss", json!("https://identity.example/"))),
        ("a list of issuers", with(&account, "iss", json!([ISSUER]))),
        ("another audience", with(&account, "aud", json!("other"))),
        ("expired", with(&account, "exp", json!(now() - 40))),
        ("an expiry that is no number", with(&account, "exp", json!("4102444800"))),
        ("not yet valid", with(&account, "nbf", json!(now() + 40))),
        ("a start that is no number", with(&account, "nbf", json!("0"))),
        ("no account", with(&account, "sub", json!("ada"))),
        ("another form of the account", with(&account, "sub", json!(account.to_uppercase()))),
        ("no issuer", with(&account, "iss", Value::Null)),
        ("no audience", with(&account, "aud", Value::Null)),
        ("no expiry", with(&account, "exp", Value::Null)),
        ("no start", with(&account, "nbf", Value::Null)),
        ("no subject", with(&account, "sub", Value::Null)),
    ] {
        assert_eq!(status(&server, &pair.sign(&claims)?)?, 401, "{name}");
    }

    let claims = claims(&account);
    let good = pair.sign(&claims)?;
    let public = EncodingKey::from_secret(&fs::read(&pair.public)?);
    let mut critical = Header::new(Algorithm::ES256);
    critical.crit = Some(vec!["b64".into()]);
    let (signed, signature) = good.rsplit_once('.').context("no signature")?;
    let (_, payload) = signed.split_once('.').context("no payload")?;
    // {"alg":"none"}
    let unsigned = format!("eyJhbGciOiJub25lIn0.{payload}.");
    let other = Pair::new(deployment.folder(), "other", "P-256")?;
    for (name, token) in [
        ("signed by another key", other.sign(&claims)?),
        ("signed with the public key as a secret", encode(&Header::new(Algorithm::HS256), &claims, &public)?),
        ("with an extension", encode(&critical, &claims, &pair.private)?),
        ("unsigned", unsigned),
        ("without its signature", format!("{signed}.")),
        (
            "with the signature of another",
            format!(
                "{}.{signature}",
                other.sign(&claims)?.rsplit_once('.').context("no signature")?.0.replace("eyJ0", "eyJ1")
            ),
        ),
        ("no token", "a.b.c".into()),
        ("too long", format!("{good}{}", "A".repeat(9000))),
    ] {
        assert_eq!(status(&server, &token)?, 401, "{name}");
    }
    assert_eq!(
        deployment.run(&["workspace", "list", "--account", &account])?.lines().count(),
        4,
        "a refused one wrote"
    );
    Ok(())
}

#[test]
fn a_token_reaches_what_its_account_reaches() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let [ada, grace] = [deployment.run(&["account", "create"])?, deployment.run(&["account", "create"])?];
    let organization = deployment.run(&["organization", "create"])?;
    deployment.run(&["organization", "add-member", &organization, &ada])?;
    let pair = Pair::new(deployment.folder(), "own", "P-384")?;
    let server = serve(&deployment, pair.public.to_str().context("path")?, &["--jwt-account-claim", "account"])?;
    let create = |account: &str, body: &Value| -> Result<u16> {
        let claims = with("ada@example", "account", json!(account));
        let bearer = format!("Bearer {}", encode(&Header::new(Algorithm::ES384), &claims, &pair.private)?);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        Ok(server.send("POST", "/api/workspaces", &headers, body.to_string().as_bytes())?.status)
    };
    assert_eq!(create(&ada, &json!({"organization_id": organization}))?, 201);
    assert_eq!(create(&grace, &json!({"organization_id": organization}))?, 403);
    assert_eq!(create(&ada, &json!({"account_id": grace}))?, 403);
    let stranger = uuid::Uuid::new_v4().to_string();
    assert_eq!(create(&stranger, &json!({}))?, 403, "an account that is not there");
    Ok(())
}

/// A provider's address for keys: answers with the set it holds now, or with 500 where there is none.
struct Provider {
    address: String,
    set: Arc<Mutex<Option<Value>>>,
    fetches: Arc<AtomicUsize>,
}

impl Provider {
    fn start(set: Option<Value>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("http://{}/keys", listener.local_addr()?);
        let (set, fetches) = (Arc::new(Mutex::new(set)), Arc::new(AtomicUsize::new(0)));
        let provider = Self { address, set: set.clone(), fetches: fetches.clone() };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                fetches.fetch_add(1, Relaxed);
                let _ = stream.read(&mut [0; 4096]);
                let body = set.lock().ok().and_then(|set| set.as_ref().map(Value::to_string));
                let status = if body.is_some() { "200 OK" } else { "500 Internal Server Error" };
                let body = body.unwrap_or_default();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Ok(provider)
    }

    fn publish(&self, set: Value) {
        if let Ok(mut current) = self.set.lock() {
            *current = Some(set);
        }
    }
}

#[test]
fn keys_come_from_an_address_seldom_and_change() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let [old, new] = ["old", "new"].map(|name| Pair::new(deployment.folder(), name, "P-256"));
    let (old, new) = (old?, new?);
    // Of the second nothing may be taken: it is a secret, which anybody can read here.
    let secret = json!({"kty": "oct", "kid": "secret", "k": "c2VjcmV0", "alg": "HS256"});
    let provider = Provider::start(Some(json!({"keys": [old.jwk("old")?, secret]})))?;
    let server = serve(&deployment, &provider.address, &[])?;
    assert_eq!(status(&server, &old.sign_as("old", &claims(&account))?)?, 201);
    let hmac = Header { kid: Some("secret".into()), ..Header::new(Algorithm::HS256) };
    assert_eq!(status(&server, &encode(&hmac, &claims(&account), &EncodingKey::from_secret(b"secret"))?)?, 401);

    provider.publish(json!({"keys": [new.jwk("new")?]}));
    for unknown in 0..50 {
        assert_eq!(status(&server, &new.sign_as(&unknown.to_string(), &claims(&account))?)?, 401);
    }
    assert_eq!(provider.fetches.load(Relaxed), 1, "strangers had keys fetched");
    // 30 s after the first fetch, the next unknown key is asked for; who asks is gone before there is an answer.
    let answering = provider.set.lock().ok().context("the provider panicked")?;
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
fn a_reload_reads_the_key_file_again() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let (old, new) = (Pair::new(deployment.folder(), "old", "P-256")?, Pair::new(deployment.folder(), "new", "P-256")?);
    let file = deployment.folder().join("keys.pem");
    fs::copy(&old.public, &file)?;
    let server = serve(&deployment, file.to_str().context("path")?, &["--admin", "127.0.0.1:0"])?;
    let statuses = || -> Result<[u16; 2]> {
        Ok([status(&server, &old.sign(&claims(&account))?)?, status(&server, &new.sign(&claims(&account))?)?])
    };
    assert_eq!(statuses()?, [201, 401]);
    fs::copy(&new.public, &file)?;
    deployment.run(&["reload", "--admin", &server.admin()?.to_string()])?;
    assert_eq!(statuses()?, [401, 201]);
    Ok(())
}

#[test]
fn without_the_providers_keys_tokens_are_503_and_api_keys_are_served() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let key = deployment.run(&["key", "create", &account])?;
    let provider = Provider::start(None)?;
    let server = serve(&deployment, &provider.address, &[])?;
    let pair = Pair::new(deployment.folder(), "own", "P-256")?;
    assert_eq!(status(&server, &pair.sign(&claims(&account))?)?, 503);
    assert_eq!(server.create(&key, "{}")?.status, 201);
    Ok(())
}

#[test]
fn options_that_would_take_anybody_are_refused() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    fs::write(deployment.folder().join("empty.json"), r#"{"keys": []}"#)?;
    let empty = deployment.folder().join("empty.json");
    let empty = empty.to_str().context("path")?;
    for (arguments, code, part) in [
        (&["--jwt-keys", empty][..], 2, "--jwt-issuer"),
        (&["--jwt-keys", empty, "--jwt-issuer", ISSUER], 2, "--jwt-audience"),
        (&["--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE], 2, "--jwt-keys"),
        (&["--jwt-keys", "http://keys.example/", "--jwt-issuer", "i", "--jwt-audience", "a"], 2, "https"),
        (&["--jwt-keys", empty, "--jwt-issuer", "i", "--jwt-audience", "a"], 1, "holds no public key"),
        (&["--jwt-keys", "missing.pem", "--jwt-issuer", "i", "--jwt-audience", "a"], 1, "missing.pem"),
    ] {
        let output = deployment.output(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat())?;
        let message = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(code) && message.contains(part), "{arguments:?}: {message}");
    }
    Ok(())
}
