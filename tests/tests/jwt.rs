//! Bearer tokens of an identity provider: which are taken, and where their keys come from.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
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
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto, encode, jwk::Jwk};
use serde_json::{Value, json};
use workspaces_tests::{
    Answer, Deployment, Server,
    postgres::{self, Postgres},
    write_head,
};

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

    /// Signs under a header of any form.
    fn sign_raw(&self, header: &str, claims: &Value) -> Result<String> {
        let message = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.to_string().as_bytes()));
        let signature = crypto::sign(message.as_bytes(), &self.private, Algorithm::ES256)?;
        Ok(format!("{message}.{signature}"))
    }

    fn jwk(&self, id: &str) -> Result<Value> {
        let mut jwk = Jwk::from_encoding_key(&self.private, Algorithm::ES256)?;
        jwk.common.key_id = Some(id.into());
        Ok(serde_json::to_value(jwk)?)
    }
}

fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(LETTERS[(bits >> (18 - 6 * place) & 63) as usize]));
        }
    }
    text
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Claims of a provider about an account.
fn claims(account: &str) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": account, "exp": now() + 300, "nbf": now() - 5})
}

/// Returns the same with one claim replaced, or left out where it is null.
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

/// Returns the status of a request with a token.
fn status(server: &Server, token: &str) -> Result<u16> {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    Ok(server.send("POST", "/api/workspaces", &headers, b"{}")?.status)
}

/// Returns the answer to a request with a token.
fn create(server: &Server, token: &str) -> Result<Answer> {
    let bearer = format!("Bearer {token}");
    server.send("POST", "/api/workspaces", &[("authorization", bearer.as_str())], b"{}")
}

/// Sends a request with a token, and goes away without its answer.
fn abandon(server: &Server, token: &str) -> Result<()> {
    let mut stream = server.connect()?;
    let bearer = format!("Bearer {token}");
    write_head(&mut stream, "POST", "/api/workspaces", &[("authorization", &bearer)], Some(0))?;
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
        ("without a start, as most providers", with(&account, "nbf", Value::Null)),
        ("issued at a time", with(&account, "iat", json!(now() - 5))),
    ] {
        assert_eq!(status(&server, &pair.sign(&claims)?)?, 201, "{name}");
    }
    assert_eq!(deployment.run(&["workspace", "list", "--account", &account])?.lines().count(), 6);

    for (name, claims) in [
        ("another issuer", with(&account, "iss", json!("https://identity.example/"))),
        ("a list of issuers", with(&account, "iss", json!([ISSUER]))),
        ("another audience", with(&account, "aud", json!("other"))),
        ("expired", with(&account, "exp", json!(now() - 40))),
        ("an expiry that is no number", with(&account, "exp", json!("4102444800"))),
        ("not yet valid", with(&account, "nbf", json!(now() + 40))),
        ("a start that is no number", with(&account, "nbf", json!("0"))),
        ("issued in the future", with(&account, "iat", json!(now() + 40))),
        ("an issue time that is no number", with(&account, "iat", json!("0"))),
        ("no issuer", with(&account, "iss", Value::Null)),
        ("no audience", with(&account, "aud", Value::Null)),
        ("no expiry", with(&account, "exp", Value::Null)),
        ("no subject", with(&account, "sub", Value::Null)),
    ] {
        assert_eq!(status(&server, &pair.sign(&claims)?)?, 401, "{name}");
    }

    for (name, claims) in [
        ("a subject without an account", with(&account, "sub", json!("ada"))),
        ("another form of the account", with(&account, "sub", json!(account.to_uppercase()))),
    ] {
        assert_eq!(status(&server, &pair.sign(&claims)?)?, 403, "{name}");
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
        ("too long", format!("{good}{}", "A".repeat(17_000))),
    ] {
        assert_eq!(status(&server, &token)?, 401, "{name}");
    }
    assert_eq!(
        deployment.run(&["workspace", "list", "--account", &account])?.lines().count(),
        6,
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

/// A provider's address for keys: answers with what it holds now.
struct Provider {
    address: String,
    answer: Arc<Mutex<String>>,
    fetches: Arc<AtomicUsize>,
    /// The last request.
    asked: Arc<Mutex<String>>,
}

impl Provider {
    fn start(answer: String) -> Result<Self> {
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

fn keys(keys: &[Value]) -> String {
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
    let provider = Provider::start(failure())?;
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
        (
            &["--jwt-keys", empty, "--jwt-issuer", "i", "--jwt-audience", "a", "--jwt-keys-max-age", "0s"],
            2,
            "give 1s at least",
        ),
        (&["--jwt-keys", "missing.pem", "--jwt-issuer", "i", "--jwt-audience", "a"], 1, "missing.pem"),
    ] {
        let output = deployment.output(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat())?;
        let message = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(code) && message.contains(part), "{arguments:?}: {message}");
    }
    Ok(())
}

/// Starts a server whose log goes to a file before a request is answered.
fn serve_and_log(deployment: &Deployment, keys: &str, more: &[&str]) -> Result<(Server, std::path::PathBuf)> {
    let log = deployment.folder().join("log");
    let tokens = ["--jwt-keys", keys, "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--log", "info"];
    let mut command = deployment.server(&[&tokens[..], more].concat());
    let server = Server::start(command.stderr(fs::File::create(&log)?))?;
    Ok((server, log))
}

/// Waits until the log holds all of these, and returns it: a line may come after the answer.
fn logged(log: &Path, parts: &[&str]) -> Result<String> {
    let start = Instant::now();
    loop {
        let lines = fs::read_to_string(log)?;
        if parts.iter().all(|part| lines.contains(part)) {
            return Ok(lines);
        }
        ensure!(start.elapsed() < Duration::from_secs(30), "the log has not all of {parts:?}: {lines}");
        thread::sleep(Duration::from_millis(20));
    }
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

#[test]
fn each_key_that_fits_is_tried_and_one_that_is_odd_spoils_no_other() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let [first, second, third] = ["first", "second", "third"].map(|name| Pair::new(deployment.folder(), name, "P-256"));
    let (first, second, third) = (first?, second?, third?);
    let changed = |pair: &Pair, member: &str, value: Value| -> Result<Value> {
        let mut jwk = pair.jwk("shared")?;
        jwk[member] = value;
        Ok(jwk)
    };
    let set = json!({"keys": [
        changed(&third, "kid", json!(7))?,
        changed(&third, "use", json!("enc"))?,
        changed(&third, "key_ops", json!(["sign"]))?,
        {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"},
        null,
        first.jwk("shared")?,
        changed(&second, "key_ops", json!(["verify"]))?,
    ]});
    let file = deployment.folder().join("keys.json");
    let path = file.to_str().context("path")?;
    fs::write(&file, format!("\u{feff}{set}"))?;
    let (server, log) = serve_and_log(&deployment, path, &[])?;
    let claims = claims(&account);
    for (name, token, expected) in [
        ("the first of a kid", first.sign_as("shared", &claims)?, 201),
        ("the second of a kid", second.sign_as("shared", &claims)?, 201),
        ("no kid", second.sign(&claims)?, 201),
        ("another kid", second.sign_as("other", &claims)?, 401),
        ("a key that was skipped", third.sign_as("shared", &claims)?, 401),
    ] {
        assert_eq!(status(&server, &token)?, expected, "{name}");
    }
    let lines = logged(&log, &["key 5: "])?;
    for part in ["key 1: ", "key 2: its use is not sig", "key 3: its key_ops have no verify", "key 4: ", "key 5: "] {
        assert_eq!(lines.matches(part).count(), 1, "{part}: {lines}");
    }
    drop(server);

    fs::write(&file, first.jwk("bare")?.to_string())?;
    assert_eq!(status(&serve(&deployment, path, &[])?, &first.sign_as("bare", &claims)?)?, 201, "a bare JWK");
    fs::write(&file, [fs::read(&first.public)?, fs::read(&second.public)?].concat())?;
    let server = serve(&deployment, path, &[])?;
    for pair in [&first, &second] {
        assert_eq!(status(&server, &pair.sign_as("any", &claims)?)?, 201, "each key of a PEM file");
    }
    Ok(())
}

#[test]
fn key_files_that_can_verify_nothing_are_refused_with_the_reason() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let folder = deployment.folder();
    let good = Pair::new(folder, "good", "P-256")?;
    let large = Pair::new(folder, "large", "P-521")?;
    let private = fs::read_to_string(folder.join("good.key"))?;
    let public = fs::read_to_string(&good.public)?;
    let mut jwk = good.jwk("private")?;
    jwk["d"] = json!("870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE");
    for (name, text, part) in [
        ("private.pem", private.clone(), "a private key"),
        ("both.pem", format!("{public}{private}"), "key 2: a private key"),
        ("large.pem", fs::read_to_string(&large.public)?, "P-521 is not"),
        ("half.pem", public[..public.len() / 2].to_owned(), "ends early"),
        ("request.pem", public.replace("PUBLIC KEY", "CERTIFICATE REQUEST"), "neither a public key"),
        ("private.json", jwk.to_string(), "a private key"),
        ("secret.json", json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}).to_string(), "a shared secret"),
        ("page.html", "<html>".into(), "neither JSON nor PEM"),
    ] {
        fs::write(folder.join(name), text)?;
        let path = folder.join(name);
        let path = path.to_str().context("path")?;
        let tokens = ["--jwt-keys", path, "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE];
        let output = deployment.output(&[&["serve", "--listen", "127.0.0.1:0"], &tokens[..]].concat())?;
        let message = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(1) && message.contains(part), "{name}: {message}");
        assert!(!message.contains("870MB6") && !message.contains("c2VjcmV0"), "{name}: {message}");
    }
    Ok(())
}

#[test]
fn headers_of_tokens_choose_nothing_and_what_they_ask_for_is_refused() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let [pair, thief] = ["own", "thief"].map(|name| Pair::new(deployment.folder(), name, "P-256"));
    let (pair, thief) = (pair?, thief?);
    let provider = Provider::start(keys(&[thief.jwk("thief")?]))?;
    let server = serve(&deployment, pair.public.to_str().context("path")?, &[])?;
    let claims = claims(&account);
    let (jwk, address) = (thief.jwk("thief")?, &provider.address);
    let embedded = json!({"alg": "ES256", "kid": "thief", "jwk": jwk, "jku": address, "x5u": address, "x5c": ["AA"]});
    assert_eq!(status(&server, &pair.sign_raw(&embedded.to_string(), &claims)?)?, 201, "ignored");
    assert_eq!(status(&server, &thief.sign_raw(&embedded.to_string(), &claims)?)?, 401, "its own key");
    assert_eq!(provider.fetches.load(Relaxed), 0, "a token had keys fetched");
    for (header, expected) in [
        (r#"{"alg":"ES256"}"#, 201),
        (r#"{"alg":"ES256","typ":"jwt"}"#, 201),
        (r#"{"alg":"ES256","typ":"application/at+jwt"}"#, 201),
        (r#"{"alg":"ES256","crit":null}"#, 401),
        (r#"{"alg":"ES256","crit":[]}"#, 401),
        (r#"{"alg":"ES256","b64":false}"#, 401),
        (r#"{"alg":"ES256","typ":"dpop+jwt"}"#, 401),
        (r#"{"alg":"ES256","typ":null}"#, 401),
    ] {
        assert_eq!(status(&server, &pair.sign_raw(header, &claims)?)?, expected, "{header}");
    }
    Ok(())
}

#[test]
fn a_token_with_more_than_two_hundred_groups_is_taken() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let pair = Pair::new(deployment.folder(), "own", "P-256")?;
    let server = serve(&deployment, pair.public.to_str().context("path")?, &[])?;
    let groups = |count| with(&account, "groups", json!(vec![account.clone(); count]));
    let token = pair.sign(&groups(210))?;
    assert!(token.len() > 10_734, "{}", token.len());
    assert_eq!(status(&server, &token)?, 201);
    assert_eq!(status(&server, &pair.sign(&groups(400))?)?, 401);
    Ok(())
}

#[test]
fn the_log_says_why_each_token_was_refused_and_holds_no_credential() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    let account = deployment.run(&["account", "create"])?;
    let pair = Pair::new(deployment.folder(), "own", "P-256")?;
    let (server, log) = serve_and_log(&deployment, pair.public.to_str().context("path")?, &[])?;
    let other = Pair::new(deployment.folder(), "other", "P-256")?;
    let mut sent = Vec::new();
    for (token, reason) in [
        ("not.a.token".to_owned(), "token header is no JSON object"),
        (pair.sign(&with(&account, "exp", json!(now() - 60)))?, "token expired"),
        (pair.sign(&with(&account, "aud", json!("other")))?, "token aud does not hold the configured audience"),
        (pair.sign(&with(&account, "iss", json!("other")))?, "token iss is not the configured issuer"),
        (other.sign(&claims(&account))?, "token signature not verified"),
        (format!("recoup_sk_{}", "A".repeat(43)), "API key unknown or revoked"),
    ] {
        assert_eq!(status(&server, &token)?, 401);
        let lines = logged(&log, &[reason])?;
        let line = lines.lines().find(|line| line.contains(reason)).context("no line")?;
        assert!(line.contains(" INFO ") && line.contains(" 401 "), "{reason}: {line}");
        sent.push(token);
    }
    let lines = fs::read_to_string(&log)?;
    for token in sent {
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!lines.contains(part), "{part}");
        }
    }
    Ok(())
}

/// Subjects of every form, on one backend.
fn subjects_get_accounts(deployment: &Deployment) -> Result<()> {
    let [ada, grace] = [deployment.run(&["account", "create"])?, deployment.run(&["account", "create"])?];
    let pair = Pair::new(deployment.folder(), "own", "P-256")?;
    let keys = pair.public.to_str().context("path")?.to_owned();
    let (server, log) = serve_and_log(deployment, &keys, &[])?;
    let subject = "auth0|507f1f77bcf86cd799439011";
    let token = |subject: &str| pair.sign(&claims(subject));
    let link = |command: &str, account: &str, issuer: &str| {
        deployment.output(&["account", command, account, "--issuer", issuer, "--subject", subject])
    };

    // Neither a name without an account nor the id of none is an error that any token holder can write.
    for unknown in [subject, "did:privy:clabc", "12345", &uuid::Uuid::new_v4().to_string()] {
        let answer = create(&server, &token(unknown)?)?;
        let message = answer.json()?["message"].as_str().map(str::to_owned).context("no message")?;
        assert!(answer.status == 403 && message.contains("no account is linked"), "{unknown}: {answer:?}");
        let lines = logged(&log, &[unknown, "reason="])?;
        assert!(!lines.contains("ERROR"), "{lines}");
    }

    ensure!(link("link", &ada, "https://other.example")?.status.success(), "link");
    assert_eq!(create(&server, &token(subject)?)?.status, 403, "linked for another issuer");
    for _ in 0..2 {
        ensure!(link("link", &ada, ISSUER)?.status.success(), "link");
        let answer = create(&server, &token(subject)?)?;
        assert_eq!((answer.status, &answer.json()?["workspace"]["account_id"]), (201, &json!(ada)));
    }
    assert_eq!(create(&server, &token(&ada)?)?.status, 201, "an account's own id goes on as a subject");
    for (command, account, part) in [
        ("link", grace.as_str(), "exists already"),
        ("link", &uuid::Uuid::new_v4().to_string(), "there is no account"),
        ("unlink", &grace, "there is no such link"),
    ] {
        let output = link(command, account, ISSUER)?;
        let message = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(1) && message.contains(part), "{command} {account}: {message}");
    }
    ensure!(link("unlink", &ada, ISSUER)?.status.success(), "unlink");
    assert_eq!(create(&server, &token(subject)?)?.status, 403, "not linked any more");
    ensure!(link("link", &grace, ISSUER)?.status.success(), "link");
    assert_eq!(create(&server, &token(subject)?)?.json()?["workspace"]["account_id"], json!(grace));
    drop(server);

    // The first requests of a new subject, all at once.
    let server = serve(deployment, &keys, &["--jwt-create-accounts"])?;
    let token = token("new|1")?;
    let answers: Vec<Result<Answer>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..64).map(|_| scope.spawn(|| create(&server, &token))).collect();
        clients.into_iter().filter_map(|client| client.join().ok()).collect()
    });
    let mut accounts = std::collections::HashSet::new();
    let mut created = 0;
    for answer in answers {
        let answer = answer?;
        // A full host refuses some; none of them may have made an account of its own.
        ensure!(matches!(answer.status, 201 | 429 | 503), "{answer:?}");
        if answer.status == 201 {
            created += 1;
            accounts.insert(answer.json()?["workspace"]["account_id"].to_string());
        }
    }
    assert!(created > 0 && accounts.len() == 1, "{created} created, for {accounts:?}");
    let again = create(&server, &token)?;
    assert!(accounts.contains(&again.json()?["workspace"]["account_id"].to_string()), "{again:?}");
    Ok(())
}

#[test]
fn a_subject_gets_the_account_that_is_linked_to_it_on_sqlite() -> Result<()> {
    let deployment = Deployment::new(PROGRAM)?;
    subjects_get_accounts(&deployment)?;
    let database = rusqlite::Connection::open(deployment.database())?;
    let count = |sql| database.query_row(sql, [], |row| row.get::<_, i64>(0));
    let people = "SELECT count(*) FROM accounts WHERE id NOT IN (SELECT workspace_id FROM account_workspace_ids)";
    assert_eq!(count(people)?, 3, "two that were made by hand and one for a subject");
    assert_eq!(count("SELECT count(*) FROM token_subjects WHERE subject = 'new|1'")?, 1);
    Ok(())
}

#[test]
fn a_subject_gets_the_account_that_is_linked_to_it_on_postgres() -> Result<()> {
    if !postgres::available()? {
        return Ok(());
    }
    let server = Postgres::start()?;
    let deployment = Deployment::on_postgres(PROGRAM, &server.url())?;
    subjects_get_accounts(&deployment)?;
    let people = "SELECT count(*) FROM accounts WHERE id NOT IN (SELECT workspace_id FROM account_workspace_ids)";
    assert_eq!(server.psql(people)?.trim(), "3", "two that were made by hand and one for a subject");
    assert_eq!(server.psql("SELECT count(*) FROM account_info WHERE account_id IS NULL")?.trim(), "0");
    // A link to an account that is gone counts for nothing.
    let pair = Pair {
        private: EncodingKey::from_ec_pem(&fs::read(deployment.folder().join("own.key"))?)?,
        public: deployment.folder().join("own.pem"),
    };
    server.psql(
        "DELETE FROM accounts WHERE id = (SELECT account_id FROM workspaces.token_subjects WHERE subject = 'new|1')",
    )?;
    let keys = pair.public.to_str().context("path")?.to_owned();
    let token = pair.sign(&claims("new|1"))?;
    assert_eq!(create(&serve(&deployment, &keys, &[])?, &token)?.status, 403);
    assert_eq!(create(&serve(&deployment, &keys, &["--jwt-create-accounts"])?, &token)?.status, 201);
    Ok(())
}
