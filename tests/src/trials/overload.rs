//! Goodput when far more clients want to create than the server can serve.

use std::{
    fmt, fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Backend, Scene,
    connection::Connection,
    throughput::{memory, quantile},
};
use crate::{Client, Server};

/// Clients that find the peak: more don't get more done.
const CLIENTS: usize = 64;

/// Pause of a client that was refused: the second that `Retry-After` asks for.
const OBEDIENT: Duration = Duration::from_secs(1);

/// Or a tenth of it, where it doesn't listen.
const IMPATIENT: Duration = Duration::from_millis(100);

/// Maximum time for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Period at which the server's memory is looked at.
const SAMPLE: Duration = Duration::from_millis(100);

/// Result of the trial, in the order of the rounds.
#[derive(Debug, Clone)]
pub struct OverloadReport {
    /// Phase with as many clients as find the peak.
    pub peak: Vec<Phase>,
    /// Phase with so many times more, that come back when they were told to.
    pub obedient: Vec<Phase>,
    /// Phase with as many, that come back sooner.
    pub impatient: Vec<Phase>,
    /// Memory of the server before the first client, in MiB.
    pub idle: f64,
}

/// Measurements of the clients of one phase; times in milliseconds, memory in MiB.
#[derive(Debug, Clone, Default)]
pub struct Phase {
    /// Creates that were acknowledged, and how many that is a second.
    pub created: usize,
    /// A second.
    pub goodput: f64,
    /// Answers of 429 and 503.
    pub refused: usize,
    /// The 99th percentile of the latencies of creates.
    pub created_p99: f64,
    /// The median of the latencies of refusals: of those at once, unless most had waited in the queue.
    pub refused_median: f64,
    /// The 99th percentile of them.
    pub refused_p99: f64,
    /// The longest that a refusal took.
    pub refused_longest: f64,
    /// The most that the server held in memory at a moment it was looked at.
    pub resident_most: f64,
    /// And at the end.
    pub resident_end: f64,
}

impl OverloadReport {
    /// Returns the median of a figure over the rounds, at the peak and under each overload; rounds without the
    /// figure don't count.
    fn medians(&self, figure: impl Fn(&Phase) -> f64) -> [f64; 3] {
        [&self.peak, &self.obedient, &self.impatient].map(|phases| {
            let figures: Vec<_> = phases.iter().map(&figure).filter(|figure| figure.is_finite()).collect();
            if figures.is_empty() { f64::NAN } else { quantile(figures, 50) }
        })
    }
}

impl fmt::Display for OverloadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:32}{:>12}{:>12}{:>12}", "medians", "peak", "obedient", "impatient")?;
        let mut line = |name, figure: fn(&Phase) -> f64| {
            let show = |figure: f64| if figure.is_nan() { "-".into() } else { format!("{figure:.1}") };
            let [peak, obedient, impatient] = self.medians(figure).map(show);
            writeln!(f, "{name:32}{peak:>12}{obedient:>12}{impatient:>12}")
        };
        line("creates a second", |phase| phase.goodput)?;
        line("refusals in the round", |phase| phase.refused as f64)?;
        line("p99 of creates, ms", |phase| phase.created_p99)?;
        line("median of refusals, ms", |phase| phase.refused_median)?;
        line("p99 of refusals, ms", |phase| phase.refused_p99)?;
        line("longest refusal, ms", |phase| phase.refused_longest)?;
        line("most memory, MiB", |phase| phase.resident_most)?;
        line("memory at the end, MiB", |phase| phase.resident_end)?;
        let [peak, obedient, impatient] = self.medians(|phase| phase.goodput);
        writeln!(f, "memory before, MiB: {:.1}", self.idle)?;
        if self.obedient.iter().chain(&self.impatient).any(|phase| phase.refused == 0) {
            writeln!(f, "nobody was refused in a round: it was not overloaded")?;
        }
        write!(f, "overload : peak = {:.2} and {:.2}", obedient / peak, impatient / peak)
    }
}

/// Finds the peak and then overloads it with so many times the clients, in turns. With `queue`, the server has so many
/// places for requests that wait, in place of the default.
///
/// # Errors
///
/// Where an answer is none of 201, 429 and 503, or the server does not serve a client afterwards.
pub fn run(
    program: &str,
    rounds: usize,
    times: usize,
    phase: Duration,
    queue: Option<usize>,
) -> Result<OverloadReport> {
    ensure!(rounds > 0 && times > 0, "at least one round of one client");
    let world = Scene::new(program, Backend::Sqlite)?;
    let configuration = queue.map(|queue| configure(&world, queue)).transpose()?;
    let of_file = configuration.iter().flat_map(|file| ["--config", file]);
    let server = world.deployment.serve(&["--log", "off"].into_iter().chain(of_file).collect::<Vec<_>>())?;
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let [idle, _] = memory(server.id())?;
    let mut report = OverloadReport { peak: Vec::new(), obedient: Vec::new(), impatient: Vec::new(), idle };
    let load = |clients, wait| tokio.block_on(load(&server, &world.key, clients, wait, phase));
    for _ in 0..rounds {
        report.peak.push(load(CLIENTS, OBEDIENT)?);
        report.obedient.push(load(CLIENTS * times, OBEDIENT)?);
        report.impatient.push(load(CLIENTS * times, IMPATIENT)?);
    }
    let answer = Client::new(server.address(), &world.key).create("{}", None)?;
    ensure!(answer.status == 201, "after the overload a client got {answer:?}");
    Ok(report)
}

/// Writes a configuration of one tenant that has all of the host, with so many places for requests that wait.
fn configure(world: &Scene, queue: usize) -> Result<String> {
    const CONCURRENCY: usize = 32;
    let file = world.deployment.folder().join("overload.toml");
    let text = format!(
        "pool = {{ concurrency = {CONCURRENCY}, queue = {queue} }}
         [tenants.default]
         database = \"sqlite:{}\"
         key-pepper-env = \"WORKSPACES_KEY_PEPPER\"
         limits = {{ concurrency = {}, running = {CONCURRENCY} }}\n",
        world.deployment.database().display(),
        CONCURRENCY + queue,
    );
    fs::write(&file, text)?;
    Ok(file.to_str().context("the path is no UTF-8")?.to_owned())
}

/// The answers that one or more clients got.
#[derive(Default)]
struct Answers {
    /// The latencies of creates that were acknowledged within the phase.
    created: Vec<f64>,
    /// Times of refusals.
    refused: Vec<f64>,
}

/// Runs so many clients at once, for as long as a phase is; one that was refused waits before it tries again.
async fn load(server: &Server, key: &str, clients: usize, wait: Duration, phase: Duration) -> Result<Phase> {
    let request: Arc<str> = format!(
        "POST /api/workspaces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nx-api-key: {key}\r\nContent-Length: 2\r\n\r\n{{}}"
    )
    .into();
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(Connection::open(server.address()).await?);
    }
    let start = Instant::now();
    let end = start + phase;
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn(create(connection, request.clone(), wait, end));
    }
    let mut seen = Phase::default();
    while Instant::now() < end {
        sleep(SAMPLE).await;
        [seen.resident_end, _] = memory(server.id())?;
        seen.resident_most = seen.resident_most.max(seen.resident_end);
    }
    let mut answers = Answers::default();
    while let Some(client) = tasks.join_next().await {
        let client = client??;
        answers.created.extend(client.created);
        answers.refused.extend(client.refused);
    }
    seen.created = answers.created.len();
    seen.goodput = seen.created as f64 / phase.as_secs_f64();
    seen.refused = answers.refused.len();
    seen.created_p99 = last(&answers.created, 99);
    seen.refused_median = last(&answers.refused, 50);
    seen.refused_p99 = last(&answers.refused, 99);
    seen.refused_longest = last(&answers.refused, 100);
    Ok(seen)
}

/// Returns the latency that so many of a hundred don't exceed; not a number where there are none.
fn last(latencies: &[f64], hundredths: usize) -> f64 {
    if latencies.is_empty() { f64::NAN } else { quantile(latencies.to_vec(), hundredths) }
}

/// Runs one client, that sends the next request when it has the answer.
async fn create(mut connection: Connection, request: Arc<str>, wait: Duration, end: Instant) -> Result<Answers> {
    let mut answers = Answers::default();
    while Instant::now() < end {
        let sent = Instant::now();
        let status = timeout(PATIENCE, connection.send(&request)).await.context("no answer")??;
        let latency = sent.elapsed().as_secs_f64() * 1e3;
        match status {
            // What comes later is no part of what the phase got done.
            201 if Instant::now() < end => answers.created.push(latency),
            201 => {}
            429 | 503 => {
                answers.refused.push(latency);
                sleep(wait).await;
            }
            status => anyhow::bail!("an answer that no client may get: {status}"),
        }
    }
    Ok(answers)
}
