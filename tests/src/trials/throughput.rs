//! Measures creates a second with `wrk`: group commit against one commit a request, in one run on one machine.
//! The ratio is what carries over to others; figures a second depend on the disk, whose probe stands beside them.
#![allow(clippy::print_stdout, reason = "the table is what it is run for")]

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{Deployment, Server};

/// Script for `wrk`: its requests, and its result as a line of JSON; it counts in microseconds.
const SCRIPT: &str = r#"
wrk.method = "POST"
wrk.body = '{"name":"Load"}'
wrk.headers["Content-Type"] = "application/json"
function done(summary, latency)
    local errors = summary.errors
    local broken = errors.connect + errors.read + errors.write + errors.timeout
    print(string.format('{"requests":%d,"duration":%d,"p50":%d,"p99":%d,"refused":%d,"broken":%d}',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status, broken))
end
"#;

/// Number of writes of the probe.
const PROBES: usize = 200;

/// Prints the table: SQLite with group commit and with one commit a request in turns, `rounds` times `seconds` each,
/// then PostgreSQL where there is the address of a database for it.
///
/// # Errors
///
/// Where a request is not answered with 201, or a workspace that was answered for is not there.
pub fn run(program: &str, rounds: usize, seconds: u64, postgres_url: Option<&str>) -> Result<()> {
    ensure!(
        program.contains("release"),
        "a debug build says nothing about speed: cargo build --release && target/release/trials throughput"
    );
    ensure!(rounds > 0 && seconds > 0, "at least one round of one second");
    let mut grouped = Mode::start("SQLite, group commit", Deployment::new(program)?, &[])?;
    let mut single = Mode::start("SQLite, one commit a request", Deployment::new(program)?, &["--group-commit", "1"])?;
    let folder = grouped.deployment.folder().to_owned();
    println!("{rounds} rounds of {seconds} s, 64 connections, wrk with one thread on the same machine");
    probe(&folder)?;
    for _ in 0..rounds {
        grouped.measure(seconds)?;
        single.measure(seconds)?;
    }
    let mut modes = vec![grouped, single];
    // Afterwards: its checkpoints and vacuums would always fall into the turn of the same mode.
    if let Some(url) = postgres_url {
        let mut postgres = Mode::start("PostgreSQL", Deployment::on_postgres(program, url)?, &[])?;
        for _ in 0..rounds {
            postgres.measure(seconds)?;
        }
        modes.push(postgres);
    }
    probe(&folder)?;
    println!(
        "\n{:30}{:>9}{:>17}{:>9}{:>9}{:>10}{:>9}{:>9}",
        "", "median/s", "min-max", "p50 ms", "p99 ms", "creates", "RSS MiB", "peak MiB"
    );
    for mode in &modes {
        mode.print()?;
    }
    let [grouped, single] = [0, 1].map(|mode| modes[mode].median(|round| round.per_second));
    println!("\ngroup commit : one commit a request = {:.2}", grouped / single);
    Ok(())
}

/// Way to run the server.
struct Mode {
    name: &'static str,
    server: Server,
    deployment: Deployment,
    key: String,
    script: PathBuf,
    /// Before the first round.
    workspaces: u64,
    rounds: Vec<Round>,
}

/// Measurements of `wrk` in one round; times in milliseconds.
struct Round {
    requests: u64,
    per_second: f64,
    p50: f64,
    p99: f64,
}

impl Mode {
    fn start(name: &'static str, deployment: Deployment, arguments: &[&str]) -> Result<Self> {
        let account = deployment.run(&["account", "create", "--name", "Ada"])?;
        let key = deployment.run(&["key", "create", &account])?;
        let script = deployment.folder().join("create.lua");
        fs::write(&script, SCRIPT)?;
        let workspaces = workspaces(&deployment)?;
        let server = deployment.serve(arguments)?;
        Ok(Self { name, server, deployment, key, script, workspaces, rounds: Vec::new() })
    }

    fn measure(&mut self, seconds: u64) -> Result<()> {
        let output = Command::new("wrk")
            // A slow answer is to count as slow, not as none.
            .args(["-t1", "-c64", &format!("-d{seconds}s"), "--timeout", "30s", "--latency", "-s"])
            .arg(&self.script)
            .args(["-H", &format!("x-api-key: {}", self.key)])
            .arg(format!("http://{}/api/workspaces", self.server.address()))
            .output()
            .context("can't run wrk: apt-get install wrk")?;
        let stdout = String::from_utf8(output.stdout)?;
        let result = stdout.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
        let result = result.with_context(|| format!("wrk: {stdout}{}", String::from_utf8_lossy(&output.stderr)))?;
        ensure!(result["refused"] == 0 && result["broken"] == 0, "{}: not every answer was a 201: {result}", self.name);
        let number = |field: &str| result[field].as_f64().with_context(|| format!("no {field}: {result}"));
        let requests = result["requests"].as_u64().context("no requests")?;
        self.rounds.push(Round {
            requests,
            per_second: number("requests")? / number("duration")? * 1e6,
            p50: number("p50")? / 1e3,
            p99: number("p99")? / 1e3,
        });
        Ok(())
    }

    /// Returns how many creates were answered; checks that their workspaces are there.
    fn created(&self) -> Result<u64> {
        let answered = self.rounds.iter().map(|round| round.requests).sum();
        let created = workspaces(&self.deployment)? - self.workspaces;
        // There may be more: wrk goes without the last answers of each round.
        ensure!(created >= answered, "{}: {answered} were answered, {created} are there", self.name);
        Ok(answered)
    }

    fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        quantile(self.rounds.iter().map(figure).collect(), 50)
    }

    fn print(&self) -> Result<()> {
        let rates: Vec<_> = self.rounds.iter().map(|round| round.per_second).collect();
        let range = format!("{:.0}-{:.0}", quantile(rates.clone(), 0), quantile(rates.clone(), 100));
        let (rate, p50, p99) = (quantile(rates, 50), self.median(|round| round.p50), self.median(|round| round.p99));
        let (created, [resident, peak]) = (self.created()?, memory(self.server.id())?);
        println!("{:30}{rate:>9.0}{range:>17}{p50:>9.2}{p99:>9.2}{created:>10}{resident:>9.1}{peak:>9.1}", self.name);
        Ok(())
    }
}

/// Returns how many workspaces there are; none of them may be there in part.
fn workspaces(deployment: &Deployment) -> Result<u64> {
    let check: Value = serde_json::from_str(&deployment.run(&["database", "check", "--json"])?)?;
    check["workspaces"].as_u64().context("no number of workspaces")
}

/// Returns the value that so many of a hundred don't exceed; between the two middle ones for an even median.
pub fn quantile(mut values: Vec<f64>, hundredths: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let position = (values.len() - 1) * hundredths;
    f64::midpoint(values[position / 100], values[position.div_ceil(100)])
}

/// Prints what the disk takes for a write that stays.
fn probe(folder: &Path) -> Result<()> {
    let path = folder.join("probe");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..PROBES {
        let start = Instant::now();
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    fs::remove_file(path)?;
    let (median, p99) = (quantile(times.clone(), 50), quantile(times, 99));
    println!("disk: append 4 KiB and fdatasync, {PROBES} times: median {median:.2} ms, p99 {p99:.2} ms");
    Ok(())
}

/// Returns the memory that a process holds and held at most, in MiB.
pub(super) fn memory(process: u32) -> Result<[f64; 2]> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
        Ok(line.trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
    };
    Ok([field("VmRSS:")?, field("VmHWM:")?])
}
