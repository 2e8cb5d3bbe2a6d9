//! Creates a second of healthy tenants, alone and beside one tenant that is in trouble.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rusqlite::Connection as Database;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{connection::Connection, throughput::quantile};
use crate::{Tenants, hostile_components::component};

/// Kind of trouble that the one tenant is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Its database is locked: each of its requests waits for seconds.
    Stuck,
    /// Its component loops: each of its requests takes all the time on the processor that it may take.
    Loops,
}

/// Clients of the healthy tenants, of all of them together.
const HEALTHY: usize = 16;

/// Clients of the tenant in trouble: twice the places that it has on two processors.
const TROUBLED: usize = 64;

/// Pause of a troubled client that was refused. It does not wait as long as `Retry-After` says.
const PAUSE: Duration = Duration::from_millis(100);

/// Maximum time that a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Creates a second of all healthy tenants together, a round each.
#[derive(Debug, Clone)]
pub struct NeighbourRatesReport {
    /// Healthy tenants.
    pub tenants: usize,
    /// Trouble of the one beside them.
    pub trouble: Trouble,
    /// Rates without the trouble.
    pub alone: Vec<f64>,
    /// Rates beside it.
    pub beside: Vec<f64>,
    /// Longest time that a healthy client waited beside it, in milliseconds.
    pub longest: f64,
}

impl NeighbourRatesReport {
    /// Returns the part of their rate that the healthy tenants keep: the median of the rounds' ratios.
    pub fn kept(&self) -> f64 {
        quantile(self.alone.iter().zip(&self.beside).map(|(alone, beside)| beside / alone).collect(), 50)
    }
}

impl fmt::Display for NeighbourRatesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [alone, beside] = [&self.alone, &self.beside].map(|rates| quantile(rates.clone(), 50));
        let Self { tenants, trouble, longest, .. } = self;
        write!(
            f,
            "{tenants:>3} healthy, one {trouble:?}: {alone:.0} creates/s alone, {beside:.0} beside, {:.2} kept, {longest:.0} ms longest",
            self.kept()
        )
    }
}

/// Measures so many rounds, the healthy tenants alone and beside the other in turns.
///
/// # Errors
///
/// Where a healthy tenant's client gets something else than its 201.
pub fn run(
    program: &str,
    healthy: usize,
    trouble: Trouble,
    rounds: usize,
    phase: Duration,
) -> Result<NeighbourRatesReport> {
    ensure!(healthy > 0 && rounds > 0, "at least one healthy tenant and one round");
    let tenants = Tenants::new(program)?;
    let mut sections = String::from("[tenants.troubled]\npath = \"/troubled\"\ndatabase = \"sqlite:troubled.db\"\n");
    if trouble == Trouble::Loops {
        tenants.write("loops.wasm", component("(call $spin)")?)?;
        sections += "component = \"loops.wasm\"\n";
    }
    let mut requests = Vec::new();
    for tenant in 0..healthy {
        let name = format!("healthy-{tenant}");
        sections += &format!("[tenants.{name}]\npath = \"/{name}\"\ndatabase = \"sqlite:{name}.db\"\n");
        requests.push(request(&name, &tenants.key(&name)?));
    }
    let troubled = request("troubled", &tenants.key("troubled")?);
    tenants.configure(&sections)?;
    let server = tenants.deployment().serve(&["--config", "gateway.toml", "--log", "off"])?;
    let database = Database::open(tenants.deployment().folder().join("troubled.db"))?;
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;

    let healthy_clients = |until| load(server.address(), &requests, HEALTHY.max(healthy), until);
    let mut report =
        NeighbourRatesReport { tenants: healthy, trouble, alone: Vec::new(), beside: Vec::new(), longest: 0.0 };
    // The first requests open what the later ones find open.
    tokio.block_on(healthy_clients(Instant::now() + phase / 4))?;
    for _ in 0..rounds {
        let alone = tokio.block_on(healthy_clients(Instant::now() + phase))?;
        report.alone.push(alone.len() as f64 / phase.as_secs_f64());
        if trouble == Trouble::Stuck {
            database.execute_batch("BEGIN EXCLUSIVE")?;
        }
        let beside = tokio.block_on(async {
            let mut clients = JoinSet::new();
            for _ in 0..TROUBLED {
                clients.spawn(suffer(server.address(), troubled.clone()));
            }
            // By then they hold all that they can.
            sleep(phase / 4).await;
            healthy_clients(Instant::now() + phase).await
        })?;
        if trouble == Trouble::Stuck {
            database.execute_batch("ROLLBACK")?;
        }
        report.beside.push(beside.len() as f64 / phase.as_secs_f64());
        report.longest = beside.into_iter().fold(report.longest, f64::max);
    }
    Ok(report)
}

fn request(tenant: &str, key: &str) -> String {
    format!(
        "POST /{tenant}/api/workspaces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nx-api-key: {key}\r\nContent-Length: 2\r\n\r\n{{}}"
    )
}

/// Has so many clients create at the tenants until then. Returns the latencies, in milliseconds.
async fn load(server: SocketAddr, requests: &[String], clients: usize, until: Instant) -> Result<Vec<f64>> {
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let request = requests[client % requests.len()].clone();
        tasks.spawn(async move {
            let (mut connection, mut latencies) = (Connection::open(server).await?, Vec::new());
            while Instant::now() < until {
                let sent = Instant::now();
                let status = timeout(PATIENCE, connection.send(&request)).await.context("no answer")??;
                ensure!(status == 201, "a healthy tenant's client got {status}");
                latencies.push(sent.elapsed().as_secs_f64() * 1e3);
            }
            Ok::<_, anyhow::Error>(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(client) = tasks.join_next().await {
        latencies.extend(client??);
    }
    Ok(latencies)
}

/// Creates at the tenant in trouble, over and over, whatever comes back.
async fn suffer(server: SocketAddr, request: String) -> Result<()> {
    let mut connection = Connection::open(server).await?;
    loop {
        match connection.send(&request).await {
            Ok(201) => {}
            Ok(_) => sleep(PAUSE).await,
            Err(_) => connection = Connection::open(server).await?,
        }
    }
}
