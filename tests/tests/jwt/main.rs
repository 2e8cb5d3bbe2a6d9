//! Bearer tokens of an identity provider: which are taken, and where their keys come from.
#![allow(missing_docs, reason = "a test's name says what it shows")]

mod key_files;
mod provider;
mod subjects;
mod tokens;

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto, encode, jwk::Jwk};
use serde_json::{Value, json};
use workspaces_tests::{Answer, Deployment, Server, write_head};

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
