//! Instructions of whole requests and of refusals, counted by valgrind: the same on each machine, however busy it is.
//!
//! This program runs under valgrind as server and client on one thread, so that a count is of all that an answer takes:
//! both ends of the connection, and the host between them. Valgrind counts within [`one`] and writes a file for each call.

use std::{
    collections::BTreeMap,
    env, fs,
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};
use uuid::Uuid;
use workspaces_host::{
    TenantShare, Workspaces,
    auth::{
        Auth, Caller, Credential, Denial, Grant,
        api_key::{ApiKeys, Pepper, generate},
    },
    http::server::serve,
    runtime::{Pool, SandboxLimits, Sandboxes},
    storage::{Database as _, NewKey, sqlite::Sqlite},
};
use workspaces_tests::{PEPPER, trials::connection::Connection};

/// Counts that are kept, of builds with and without optimization.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.json");

/// Largest difference to the kept counts. Hash tables are seeded anew for each run, and the clock of the sandboxes ticks.
const TOLERANCE: f64 = 0.05;

/// Name of [`one`], as valgrind knows it.
const ONE: &str = "workspaces_benches::instructions::one";

/// Argument with which this program is what valgrind runs.
pub(crate) const COUNTED: &str = "--counted";

/// Calls of each kind, of which the median counts.
const CALLS: usize = 9;

/// Compares the counts with those that are kept, or keeps them.
///
/// # Errors
///
/// A count that is over what is kept.
pub(crate) fn compare(keeps: bool) -> Result<()> {
    let counts = count()?;
    let mut kept: BTreeMap<String, BTreeMap<String, u64>> = match fs::read(KEPT) {
        Ok(text) => serde_json::from_slice(&text).context(KEPT)?,
        Err(_) if keeps => BTreeMap::new(),
        Err(error) => return Err(error).context(KEPT),
    };
    let before = kept.entry(profile().into()).or_default();
    println!("{:46}{:>12}{:>12}", "instructions, client and server", "kept", "now");
    let mut over = Vec::new();
    for (kind, now) in &counts {
        let known = before.get(kind).copied();
        println!("{kind:46}{:>12}{now:>12}", known.map_or("-".into(), |known| known.to_string()));
        if known.is_none_or(|known| *now as f64 > known as f64 * (1.0 + TOLERANCE)) {
            over.push(&**kind);
        }
    }
    if keeps {
        *before = counts;
        return Ok(fs::write(KEPT, serde_json::to_string_pretty(&kept)? + "\n")?);
    }
    ensure!(
        over.is_empty(),
        "over the counts of {KEPT} by more than {TOLERANCE}: {}; where that is meant, keep the new ones with --keep",
        over.join("; ")
    );
    Ok(())
}

fn profile() -> &'static str {
    if cfg!(debug_assertions) { "dev" } else { "release" }
}

/// Returns the number of instructions of each kind of answer.
fn count() -> Result<BTreeMap<String, u64>> {
    let folder = TempDir::new()?;
    let out = folder.path().join("out");
    eprintln!("valgrind runs the host, which takes a minute");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--toggle-collect={ONE}"), &format!("--dump-after={ONE}")])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env::current_exe()?)
        .arg(COUNTED)
        .stderr(Stdio::piped())
        .output()
        .context("valgrind can't be started: is it installed?")?;
    let (names, errors) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
    ensure!(output.status.success(), "{errors}");
    let mut counts = BTreeMap::new();
    for (kind, name) in names.lines().enumerate() {
        let calls = (0..CALLS).map(|call| total(&out, kind * CALLS + call + 1));
        let mut calls = calls.collect::<Result<Vec<_>>>().with_context(|| errors.clone())?;
        calls.sort_unstable();
        counts.insert(name.to_owned(), calls[CALLS / 2]);
    }
    Ok(counts)
}

/// Returns the count in one of valgrind's files.
fn total(out: &Path, number: usize) -> Result<u64> {
    let path = format!("{}.{number}", out.display());
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).with_context(|| text.clone())?;
    Ok(total.trim().parse()?)
}

/// A kind of answer: its name, the server and the request that get it, and its status.
struct Kind {
    name: &'static str,
    server: SocketAddr,
    request: String,
    status: u16,
}

/// Makes the answers that valgrind counts, and prints the names of their kinds.
pub(crate) fn counted() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for Kind { name, server, request, status: expected } in runtime.block_on(kinds())? {
        let mut connection = runtime.block_on(Connection::open(server))?;
        // The first calls fill caches.
        for _ in 0..3 {
            runtime.block_on(connection.send(&request))?;
        }
        for _ in 0..CALLS {
            let status = one(&runtime, &mut connection, &request)?;
            ensure!(status == expected, "{name}: {status}");
        }
        println!("{name}");
    }
    Ok(())
}

/// Sends a request and waits for the answer.
#[inline(never)]
fn one(runtime: &Runtime, connection: &mut Connection, request: &str) -> Result<u16> {
    runtime.block_on(connection.send(request))
}

/// Time that no limit is to have run out in: under valgrind all takes some fifty times as long.
const HOUR: Duration = Duration::from_secs(3600);

/// Starts the servers, and connects to each.
async fn kinds() -> Result<Vec<Kind>> {
    let database = Arc::new(Sqlite::in_memory()?);
    let account = database.create_account(None, Some("Ada".into())).await?.id;
    let (pepper, key) = (Pepper::new(PEPPER.as_bytes()), generate()?);
    let stored = NewKey { name: "count".into(), hash: pepper.hash(&key), pepper: pepper.check(), expires_at: None };
    database.create_key(account, stored).await?;

    let keys = || Arc::new(ApiKeys::new(database.clone(), PEPPER.as_bytes(), None));
    let reused = SandboxLimits { requests_per_instance: NonZeroU32::MAX, ..limits() };
    // Each server has its own sandboxes.
    let fresh = start(&database, keys(), limits(), TenantShare::default(), 8).await?;
    let reused = start(&database, keys(), reused, TenantShare::default(), 8).await?;
    let share = TenantShare { concurrency: 1, ..TenantShare::default() };
    let busy_tenant = start(&database, Arc::new(Hanging), limits(), share, 8).await?;
    let busy_host = start(&database, Arc::new(Hanging), limits(), TenantShare::default(), 0).await?;

    let unknown = format!("{}{}", Credential::API_KEY_PREFIX, "w".repeat(key.len() - Credential::API_KEY_PREFIX.len()));
    let (named, other) = ("{\"name\":\"Load\"}".to_owned(), format!("{{\"account_id\":\"{}\"}}", Uuid::max()));
    for busy in [busy_tenant, busy_host] {
        // It takes the only place, and is never answered.
        let (mut waits, request) = (Connection::open(busy).await?, post(&key, &named));
        tokio::spawn(async move { waits.send(&request).await });
    }

    let long = format!("{{\"name\":\"{}\"}}", "n".repeat(256));
    let mut kinds = Vec::new();
    for (name, server, key, body, status) in [
        ("201, a fresh instance", fresh, &key, &named, 201),
        ("201, an instance that is reused", reused, &key, &named, 201),
        ("400, the component refuses the name", fresh, &key, &long, 400),
        ("401, no such key", fresh, &unknown, &named, 401),
        ("401, malformed key", fresh, &"malformed".to_owned(), &named, 401),
        ("403, another account", fresh, &key, &other, 403),
        ("429, over the tenant's requests in progress", busy_tenant, &key, &named, 429),
        ("503, over the host's requests in progress", busy_host, &key, &named, 503),
    ] {
        kinds.push(Kind { name, server, request: post(key, body), status });
    }
    Ok(kinds)
}

fn limits() -> SandboxLimits {
    // One memory, which is what the component has: valgrind has little address space.
    SandboxLimits { cpu: HOUR, wall_clock: HOUR, memories: 1, ..SandboxLimits::default() }
}

fn post(key: &str, body: &str) -> String {
    format!(
        "POST /api/workspaces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nx-api-key: {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Starts a server on this thread. Its pool is small: valgrind has little address space.
async fn start(
    database: &Arc<Sqlite>,
    auth: Arc<dyn Auth>,
    limits: SandboxLimits,
    share: TenantShare,
    queue: usize,
) -> Result<SocketAddr> {
    let pool = Pool { concurrency: 1, slow: 1, queue, target_delay: HOUR, admission_wait: HOUR, ..Pool::of(&limits) };
    let builder = Workspaces::builder(database.clone(), auth).limits(limits).share(share);
    let workspaces = Arc::new(builder.sandboxes(Sandboxes::new(pool)?).build()?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(listener, workspaces.router(), 64, pending()));
    Ok(address)
}

/// Knows everybody, and never says what they may do.
struct Hanging;

#[async_trait]
impl Auth for Hanging {
    async fn authenticate(&self, _: &Credential) -> Result<Caller, Denial> {
        Ok(Caller::new(Uuid::nil()))
    }

    async fn authorize(&self, _: &Caller, _: Option<Uuid>, _: Option<Uuid>) -> Result<Grant, Denial> {
        pending().await
    }
}
