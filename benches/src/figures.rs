//! Figures of the rounds, and their table.

use std::{fmt, fs, mem, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use workspaces_tests::{Server, trials::throughput::quantile};

use crate::{
    answers::Answers,
    call::Call,
    client,
    servers::{Database, Kind, Running, Servers},
};

/// Figures of one run of the benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) call: Call,
    pub(crate) comparisons: Vec<Comparison>,
    pub(crate) answers: Answers,
}

/// The servers on one database, with so many clients.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) database: Database,
    pub(crate) connections: usize,
    pub(crate) servers: Vec<Figures>,
}

/// Figures of a server.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) kind: Kind,
    pub(crate) rounds: Vec<Round>,
}

/// Figures of a server in one round.
#[derive(Debug, Serialize)]
pub(crate) struct Round {
    /// Workspaces a second.
    pub(crate) created_per_second: f64,
    /// Refusals a second.
    pub(crate) refused_per_second: f64,
    /// Half of the creates took this long at most, in milliseconds.
    pub(crate) p50_milliseconds: f64,
    /// 99 of 100 creates took this long at most, in milliseconds.
    pub(crate) p99_milliseconds: f64,
    /// Processor time of the server for an answer, in microseconds.
    pub(crate) cpu_microseconds: f64,
    /// Voluntary context switches of the server's threads for an answer.
    pub(crate) switches: f64,
}

impl Comparison {
    /// Has the servers take turns.
    pub(crate) fn measure(servers: &Servers, connections: usize, rounds: usize, time: Duration) -> Result<Self> {
        let running = &servers.running;
        let mut figures: Vec<_> = running.iter().map(|(kind, _)| Figures { kind: *kind, rounds: Vec::new() }).collect();
        for round in 0..rounds {
            // Who is first changes: the second finds the disk as the first left it.
            for turn in 0..running.len() {
                let server = (round + turn) % running.len();
                let Running { server: program, key, .. } = &running[server].1;
                figures[server].rounds.push(Round::measure(program, key, connections, time)?);
            }
        }
        let is_empty = |figures: &Figures| figures.rounds.iter().any(|round| round.created_per_second == 0.0);
        ensure!(!figures.iter().any(is_empty), "no workspace was created");
        Ok(Self { database: servers.database, connections, servers: figures })
    }

    /// Returns the lowest, the median and the highest of the rounds' ratios of creates, of a server to the native one.
    pub(crate) fn ratio(&self, kind: Kind) -> Option<[f64; 3]> {
        let rounds = |kind| Some(&self.servers.iter().find(|figures| figures.kind == kind)?.rounds);
        Some(ratios(rounds(kind)?, rounds(Kind::Native)?, |round| round.created_per_second))
    }
}

impl Round {
    /// Loads a server from so many connections for a time.
    pub(crate) fn measure(server: &Server, key: &str, connections: usize, time: Duration) -> Result<Self> {
        let (cpu, switches_before) = (server.processor_time()?, switches(server)?);
        let answers = client::load(server.address(), key, connections, time)?;
        let (cpu, switches) = (server.processor_time()? - cpu, switches(server)? - switches_before);
        let number = (answers.created.len() + answers.refused) as f64;
        // Where all are refused, no create took any time.
        let milliseconds = |hundredths| match answers.created.as_slice() {
            [] => 0.0,
            times => quantile(times.to_vec(), hundredths) * 1e3,
        };
        Ok(Self {
            created_per_second: answers.created.len() as f64 / time.as_secs_f64(),
            refused_per_second: answers.refused as f64 / time.as_secs_f64(),
            p50_milliseconds: milliseconds(50),
            p99_milliseconds: milliseconds(99),
            cpu_microseconds: cpu.as_secs_f64() * 1e6 / number,
            switches: switches as f64 / number,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.call)?;
        writeln!(
            f,
            "{:24}{:12}{:>11}  {:18}{:>8}{:>9}{:>8}{:>9}{:>10}",
            "", "", "creates/s", "ratio to native", "p50 ms", "p99 ms", "CPU µs", "refused", "switches"
        )?;
        for comparison in &self.comparisons {
            let mut what = format!("{}, {}", comparison.database.name(), comparison.connections);
            for Figures { kind, rounds } in &comparison.servers {
                let median = |figure: fn(&Round) -> f64| median(rounds, figure);
                let ratio =
                    comparison.ratio(*kind).map(|[low, ratio, high]| format!("{ratio:.2} ({low:.2}-{high:.2})"));
                writeln!(
                    f,
                    "{:24}{:12}{:>11.0}  {:18}{:>8.2}{:>9.2}{:>8.0}{:>9.0}{:>10.1}",
                    mem::take(&mut what),
                    kind.name(),
                    median(|round| round.created_per_second),
                    ratio.unwrap_or_default(),
                    median(|round| round.p50_milliseconds),
                    median(|round| round.p99_milliseconds),
                    median(|round| round.cpu_microseconds),
                    median(|round| round.refused_per_second),
                    median(|round| round.switches),
                )?;
            }
        }
        writeln!(
            f,
            "\nthe number beside a database is that of connections; switches are voluntary context switches of the server's threads for an answer\n"
        )?;
        write!(f, "{}", self.answers)
    }
}

pub(crate) fn median(rounds: &[Round], figure: fn(&Round) -> f64) -> f64 {
    quantile(rounds.iter().map(figure).collect(), 50)
}

/// Returns the lowest, the median and the highest of the rounds' ratios.
fn ratios(rounds: &[Round], others: &[Round], figure: impl Fn(&Round) -> f64) -> [f64; 3] {
    range(rounds.iter().zip(others).map(|(one, other)| figure(one) / figure(other)).collect())
}

/// Returns the lowest, the median and the highest of some figures.
pub(crate) fn range(figures: Vec<f64>) -> [f64; 3] {
    [0, 50, 100].map(|hundredths| quantile(figures.clone(), hundredths))
}

/// Returns the number of voluntary context switches of a server's threads so far.
fn switches(server: &Server) -> Result<u64> {
    let mut switches = 0;
    for task in fs::read_dir(format!("/proc/{}/task", server.id()))? {
        // A thread may end in between.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        switches += line.context("no number of switches")?.trim().parse::<u64>()?;
    }
    Ok(switches)
}
