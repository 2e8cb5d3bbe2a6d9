//! TLS at the listener.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::{
    fs,
    future::pending,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use workspaces_host::{
    Workspaces,
    auth::api_key::ApiKeys,
    http::{server, tls::Tls},
    storage::sqlite::Sqlite,
};
use workspaces_tests::{
    Deployment, Server,
    certificate::{EC, certificate},
    write_head,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Time that a handshake may take, and what a busy machine may add.
const HANDSHAKE: std::ops::Range<Duration> = Duration::from_millis(7900)..Duration::from_secs(10);

/// Starts a server that speaks TLS. Returns its deployment, the server, a key, and the certificate to trust.
fn serve(algorithm: &[&str], arguments: &[&str]) -> Result<(Deployment, Server, String, PathBuf)> {
    let deployment = Deployment::new(PROGRAM)?;
    let api_key = deployment.run(&["key", "create", &deployment.run(&["account", "create"])?])?;
    let (certificate, key) = certificate(deployment.folder(), "server", algorithm)?;
    let mut command = deployment.server(arguments);
    let server =
        Server::start(command.env("WORKSPACES_TLS_CERTIFICATE", &certificate).env("WORKSPACES_TLS_KEY", &key))?;
    Ok((deployment, server, api_key, certificate))
}

/// Creates a workspace with curl, which trusts this certificate alone: the status and the version of
/// HTTP, or curl's exit code.
fn create(address: SocketAddr, trusted: &Path, key: &str, arguments: &[&str]) -> Result<Result<String, Option<i32>>> {
    let output = Command::new("curl")
        .args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code} %{http_version}", "--data", "{}"])
        .args(["--header", "Content-Type: application/json", "--header", &format!("x-api-key: {key}")])
        .arg("--cacert")
        .arg(trusted)
        .args(arguments)
        .arg(format!("https://{address}/api/workspaces"))
        .output()
        .context("these tests need curl")?;
    Ok(match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(output.status.code()),
    })
}

/// curl's word for a certificate that it does not trust, and for an answer that does not come in time.
const NOT_TRUSTED: Result<String, Option<i32>> = Err(Some(60));
const TOO_LATE: Result<String, Option<i32>> = Err(Some(28));

fn created() -> Result<String, Option<i32>> {
    Ok("201 1.1".into())
}

/// Sends this and nothing more, and returns what comes back until the server closes the connection,
/// and when that is.
fn stall(address: SocketAddr, bytes: &[u8]) -> Result<(Vec<u8>, Duration)> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error.into()),
        _ => Ok((answer, start.elapsed())),
    }
}

#[test]
fn a_create_over_tls_is_201_with_each_version_and_kind_of_key() -> Result<()> {
    for algorithm in [&EC[..], &["rsa:2048"], &["ed25519"]] {
        let (_deployment, server, key, trusted) = serve(algorithm, &[])?;
        for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"], &["--http2"]] {
            let answer = create(server.address(), &trusted, &key, version)?;
            assert_eq!(answer, created(), "{algorithm:?} {version:?}");
        }
    }
    Ok(())
}

#[test]
fn plain_http_gets_no_answer_and_does_no_harm() -> Result<()> {
    let (_deployment, server, key, trusted) = serve(&EC, &[])?;
    for _ in 0..3 {
        let mut stream = server.connect()?;
        write_head(&mut stream, "GET", "/healthz", &[], None)?;
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer);
        // At most an alert, a record of seven bytes.
        assert!(!answer.starts_with(b"HTTP") && answer.len() <= 7, "{answer:?} {end:?}");
    }
    assert_eq!(create(server.address(), &trusted, &key, &[])?, created());
    Ok(())
}

#[test]
fn a_stalled_handshake_is_closed_in_time_and_keeps_nobody_waiting() -> Result<()> {
    let (_deployment, server, key, trusted) = serve(&EC, &[])?;
    let address = server.address();
    let stalls: Vec<_> = [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"]
        .iter()
        .cycle()
        .take(60)
        .map(|&bytes| std::thread::spawn(move || stall(address, bytes)))
        .collect();
    for _ in 0..5 {
        assert_eq!(create(address, &trusted, &key, &["--max-time", "4"])?, created());
    }
    for stalled in stalls {
        let (answer, after) = stalled.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        assert!(answer.is_empty() && HANDSHAKE.contains(&after), "{answer:?} {after:?}");
    }
    Ok(())
}

#[test]
fn a_handshake_of_too_many_bytes_is_closed_at_once() -> Result<()> {
    let (_deployment, server, key, trusted) = serve(&EC, &[])?;
    // The beginning of a message of 65,535 bytes, in records of 4,096.
    let start = Instant::now();
    let mut stream = server.connect()?;
    let mut sent = 0;
    let mut record = [&[0x16, 3, 1, 0x10, 0, 1, 0, 0xff, 0xff][..], &[0; 4092]].concat();
    while sent < 60_000 && stream.write_all(&record).is_ok() {
        sent += record.len();
        record[5..9].fill(0);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(sent < 40_000, "{sent} bytes were taken");
    assert!(start.elapsed() < Duration::from_secs(6), "it ended with the time for a handshake: {:?}", start.elapsed());
    assert_eq!(create(server.address(), &trusted, &key, &[])?, created());
    Ok(())
}

#[test]
fn a_handshake_is_one_of_the_connections_that_may_be_open() -> Result<()> {
    let (_deployment, server, key, trusted) = serve(&EC, &["--max-connections", "2"])?;
    let open = [server.connect()?, server.connect()?];
    assert_eq!(create(server.address(), &trusted, &key, &["--max-time", "1"])?, TOO_LATE);
    drop(open);
    assert_eq!(create(server.address(), &trusted, &key, &[])?, created());
    Ok(())
}

#[test]
fn a_stalled_handshake_does_not_hold_up_the_end() -> Result<()> {
    let (_deployment, server, key, trusted) = serve(&EC, &[])?;
    let _open = server.connect()?;
    assert_eq!(create(server.address(), &trusted, &key, &[])?, created(), "it was accepted behind the other");
    let start = Instant::now();
    server.signal("TERM")?;
    assert_eq!(server.wait()?, 0);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_while_it_serves_and_stays_where_the_new_one_is_wrong() -> Result<()> {
    let folder = tempfile::TempDir::new()?;
    let ((old, _), (new, new_key)) = (certificate(folder.path(), "old", &EC)?, certificate(folder.path(), "new", &EC)?);
    let (shown, key) = (folder.path().join("shown.crt"), folder.path().join("shown.key"));
    fs::copy(&old, &shown)?;
    fs::copy(folder.path().join("old.key"), &key)?;

    let database = Arc::new(Sqlite::in_memory()?);
    let auth = Arc::new(ApiKeys::new(database.clone(), b"pepper", None));
    let routes = Arc::new(Workspaces::builder(database, auth).build()?).router();
    let tls = Arc::new(Tls::read(shown.clone(), key.clone())?);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let served = tls.clone();
    tokio::spawn(async move { server::serve_tls(listener, &served, routes, 100, pending()).await });
    let sees = |trusted: &Path| create(address, trusted, "no key", &[]);
    let refused = || Ok("401 1.1".to_owned());

    assert_eq!((sees(&old)?, sees(&new)?), (refused(), NOT_TRUSTED));
    fs::copy(&new, &shown)?;
    let error = tls.reload().err().context("a key of another certificate was taken")?.to_string();
    assert!(error.contains("shown.key is not that of the certificate in"), "{error}");
    assert_eq!((sees(&old)?, sees(&new)?), (refused(), NOT_TRUSTED));
    fs::copy(&new_key, &key)?;
    tls.reload()?;
    assert_eq!((sees(&old)?, sees(&new)?), (NOT_TRUSTED, refused()));
    Ok(())
}
