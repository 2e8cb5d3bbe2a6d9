//! Clients that hold their connections and send next to nothing, beside one that only wants its answers.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Backend, Scene,
    throughput::{memory, quantile},
};
use crate::{Client, Server};

/// Measurements of a run.
#[derive(Debug, Clone, Copy)]
pub struct SlowClientsReport {
    /// Slow connections, all of them open at once.
    pub connections: usize,
    /// Number of them that the server closed.
    pub closed: usize,
    /// The longest that one was kept.
    pub longest: Duration,
    /// The 99th percentile of the healthy client's latencies before.
    pub alone: Duration,
    /// And beside the slow ones.
    pub beside: Duration,
    /// Memory that a client without a credential holds, by connection.
    pub held: Held,
}

/// Memory of one connection, in KiB, at the most that its client can have the server keep.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// No byte was sent.
    pub silent: f64,
    /// A head that does not end.
    pub head: f64,
    /// A handshake that does not end.
    pub handshake: f64,
    /// Such a head over TLS.
    pub tls_head: f64,
}

/// Connections by which [`Held`] is measured, and those over TLS, each of a process of its own.
const HELD: usize = 300;
const HELD_TLS: usize = 40;

/// Bytes of a head that does not end, just under the server's limit.
const HEAD: usize = 31 << 10;

/// Manner of a slow client.
#[derive(Clone, Copy)]
pub(super) enum Manner {
    /// Connects, and says nothing.
    Silent,
    /// Sends a request's head byte by byte.
    Head,
    /// Sends a head with a valid key, and the body byte by byte.
    Body,
    /// Sends a request, and keeps the connection for no other.
    Idle,
    /// Sends requests without end, and reads no answer.
    Deaf,
    /// Sends the first bytes of a TLS handshake.
    Hello,
}

const MANNERS: [Manner; 5] = [Manner::Silent, Manner::Head, Manner::Body, Manner::Idle, Manner::Deaf];

/// Receive buffer of a client, in bytes: little, so that it is soon full.
pub(super) const UNREAD: u32 = 4 << 10;

/// The pause between two bytes.
const PAUSE: Duration = Duration::from_millis(200);

/// Time after which a connection counts as not closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time for which the healthy client is measured alone, and the pause between two of its requests.
const ALONE: Duration = Duration::from_secs(3);
const BETWEEN: Duration = Duration::from_millis(2);

/// Opens the connections and waits until the server has closed them.
///
/// # Errors
///
/// Where the healthy client gets something else than its 201, or a connection can't be opened.
pub fn run(program: &str, connections: usize) -> Result<SlowClientsReport> {
    let world = Scene::new(program, Backend::Sqlite)?;
    let held = held(&world)?;
    // Those that are slow are not to be scarce: that is another matter.
    let most = (2 * connections).max(64).to_string();
    let server = world.deployment.serve(&["--log", "off", "--max-connections", &most])?;
    let (address, key) = (server.address(), world.key.as_str());
    let stop = AtomicBool::new(false);
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = || Client::new(address, key);
    let alone = healthy(client(), &|| false)?;
    let (kept, beside) = thread::scope(|scope| {
        let healthy = scope.spawn(|| healthy(client(), &|| !stop.load(Relaxed)));
        let kept = tokio.block_on(attack(address, key, connections));
        stop.store(true, Relaxed);
        Ok::<_, anyhow::Error>((kept?, healthy.join().ok().context("the healthy client panicked")??))
    })?;
    let closed: Vec<_> = kept.into_iter().flatten().collect();
    let longest = closed.iter().max().copied().unwrap_or_default();
    Ok(SlowClientsReport { connections, closed: closed.len(), longest, alone, beside, held })
}

/// Measures what a connection can hold.
fn held(world: &Scene) -> Result<Held> {
    let plain = || world.deployment.serve(&["--log", "off"]);
    let head = [b"GET / HTTP/1.1\r\nx-slow: ", "x".repeat(HEAD).as_bytes()].concat();
    // A message of 64 KiB is announced, in a record of 16,000 bytes, of which the last does not come.
    let record = [&[0x16, 3, 1, 0x3e, 0x80, 1, 0, 0xff, 0xff][..], &[0; 15_990]].concat();
    let folder = world.deployment.folder();
    let output = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=tests", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", "server.crt", "-keyout", "server.key"])
        .current_dir(folder)
        .output()
        .context("this trial needs openssl")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    let tls =
        || world.deployment.serve(&["--log", "off", "--tls-certificate", "server.crt", "--tls-key", "server.key"]);
    let open = |address: SocketAddr, bytes: &[u8]| -> Result<std::net::TcpStream> {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.write_all(bytes)?;
        Ok(stream)
    };
    Ok(Held {
        silent: growth(&plain()?, HELD, |address| open(address, b""))?,
        head: growth(&plain()?, HELD, |address| open(address, &head))?,
        handshake: growth(&tls()?, HELD, |address| open(address, &record))?,
        tls_head: growth(&tls()?, HELD_TLS, |address| {
            let mut client = Command::new("openssl")
                .args(["s_client", "-quiet", "-connect", &address.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            client.stdin.as_mut().context("no standard input")?.write_all(&head)?;
            Ok(Process(client))
        })?,
    })
}

/// A client's process, ended when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the KiB that each of so many connections adds to the server's memory at most.
fn growth<T>(server: &Server, count: usize, open: impl Fn(SocketAddr) -> Result<T>) -> Result<f64> {
    // The first ones start threads and fill caches.
    drop((0..8).map(|_| open(server.address())).collect::<Result<Vec<_>>>()?);
    thread::sleep(SETTLE);
    let [before, _] = memory(server.id())?;
    let clients = (0..count).map(|_| open(server.address())).collect::<Result<Vec<_>>>()?;
    let (mut most, end) = (before, Instant::now() + 2 * SETTLE);
    while Instant::now() < end {
        let [now, _] = memory(server.id())?;
        most = most.max(now);
        thread::sleep(PAUSE / 10);
    }
    drop(clients);
    Ok((most - before) * 1024.0 / count as f64)
}

/// Time in which the server has read what it was sent.
const SETTLE: Duration = Duration::from_secs(1);

/// Creates at an easy pace, for [`ALONE`] at least and as long as `more` says so; the 99th percentile of
/// what it waited.
pub(super) fn healthy(mut client: Client, more: &dyn Fn() -> bool) -> Result<Duration> {
    let (mut latencies, start) = (Vec::new(), Instant::now());
    while start.elapsed() < ALONE || more() {
        let sent = Instant::now();
        let answer = client.create("{}", None)?;
        ensure!(answer.status == 201, "the healthy client got {answer:?}");
        latencies.push(sent.elapsed().as_secs_f64());
        thread::sleep(BETWEEN);
    }
    Ok(Duration::from_secs_f64(quantile(latencies, 99)))
}

/// Returns the time that each connection was kept; `None` where it was still open at the end.
async fn attack(address: SocketAddr, key: &str, connections: usize) -> Result<Vec<Option<Duration>>> {
    let mut clients = JoinSet::new();
    for manner in MANNERS.into_iter().cycle().take(connections) {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(UNREAD)?;
        let stream = socket.connect(address).await.context("can't connect: is the limit of open files enough?")?;
        let head = head("", key);
        clients.spawn(async move { timeout(PATIENCE, keep(stream, manner, &head)).await.ok() });
    }
    let mut kept = Vec::new();
    while let Some(client) = clients.join_next().await {
        kept.push(client?);
    }
    Ok(kept)
}

/// Returns the head of a create for the tenant under this path, but for its length.
pub(super) fn head(path: &str, key: &str) -> String {
    format!(
        "POST {path}/api/workspaces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nx-api-key: {key}\r\nContent-Length: "
    )
}

/// Keeps the connection as long as the server does, and says for how long that was.
pub(super) async fn keep(mut stream: TcpStream, manner: Manner, head: &str) -> Duration {
    let start = Instant::now();
    let (at_once, drops) = match manner {
        Manner::Silent => (String::new(), false),
        Manner::Hello => ("\x16\x03\x01\x02\x00\x01".into(), false),
        Manner::Head => ("POST /api/workspaces HTTP/1.1\r\nx-slow: ".into(), true),
        Manner::Body => (format!("{head}60000\r\n\r\n"), true),
        Manner::Idle => (format!("{head}2\r\n\r\n{{}}"), false),
        Manner::Deaf => {
            while stream.write_all(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n").await.is_ok() {}
            return start.elapsed();
        }
    };
    // Whatever fails here has been closed by the server.
    let _ = stream.write_all(at_once.as_bytes()).await;
    let (mut reader, mut writer) = stream.split();
    let closed = async {
        let mut answer = [0; 1024];
        while reader.read(&mut answer).await.is_ok_and(|read| read > 0) {}
    };
    let dripping = async {
        while !drops || writer.write_all(b" ").await.is_ok() {
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = closed => {}
        () = dripping => {}
    }
    start.elapsed()
}
