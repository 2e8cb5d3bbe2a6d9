//! Figures of the rounds, and their table.

use std::{fmt, time::Duration};

use anyhow::Result;
use serde::Serialize;
use workspaces_tests::trials::throughput::quantile;

use crate::{
    call::Call,
    client,
    servers::{Database, Running, Servers},
};

/// Figures of one run of the benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) call: Call,
    pub(crate) comparisons: Vec<Comparison>,
}

/// The sandboxed server against the others, on one database with so many clients.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) database: Database,
    pub(crate) connections: usize,
    pub(crate) sandboxed: Vec<Round>,
    pub(crate) native: Vec<Round>,
    /// Empty where there is no Node.
    pub(crate) node: Vec<Round>,
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
        let (mut sandboxed, mut native, mut node) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            // Who is first changes: the second finds the disk as the first left it.
            let mut turns = [(&servers.sandboxed, &mut sandboxed), (&servers.native, &mut native)];
            if round % 2 == 1 {
                turns.reverse();
            }
            for (running, figures) in turns {
                figures.push(Round::measure(running, connections, time)?);
            }
            if let Some(running) = &servers.node {
                node.push(Round::measure(running, connections, time)?);
            }
        }
        Ok(Self { database: servers.database, connections, sandboxed, native, node })
    }

    /// Returns the lowest, the median and the highest of the rounds' ratios of creates, sandboxed to native.
    pub(crate) fn ratio(&self) -> [f64; 3] {
        ratios(&self.sandboxed, &self.native, |round| round.created_per_second)
    }
}

impl Round {
    fn measure(running: &Running, connections: usize, time: Duration) -> Result<Self> {
        let (cpu, switches) = (running.processor_time()?, running.switches()?);
        let answers = client::load(running.server.address(), &running.key, connections, time)?;
        let (cpu, switches) = (running.processor_time()? - cpu, running.switches()? - switches);
        let number = (answers.created.len() + answers.refused) as f64;
        let milliseconds = |hundredths| quantile(answers.created.clone(), hundredths) * 1e3;
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
            let Comparison { database, connections, sandboxed, native, node } = comparison;
            for (name, rounds) in [("sandboxed", sandboxed), ("native", native), ("Node", node)] {
                if rounds.is_empty() {
                    continue;
                }
                let median = |figure: fn(&Round) -> f64| median(rounds, figure);
                let what = match name {
                    "sandboxed" => format!("{}, {connections}", database.name()),
                    _ => String::new(),
                };
                let [low, ratio, high] = ratios(rounds, native, |round| round.created_per_second);
                writeln!(
                    f,
                    "{what:24}{name:12}{:>11.0}  {:18}{:>8.2}{:>9.2}{:>8.0}{:>9.0}{:>10.1}",
                    median(|round| round.created_per_second),
                    format!("{ratio:.2} ({low:.2}-{high:.2})"),
                    median(|round| round.p50_milliseconds),
                    median(|round| round.p99_milliseconds),
                    median(|round| round.cpu_microseconds),
                    median(|round| round.refused_per_second),
                    median(|round| round.switches),
                )?;
            }
        }
        write!(
            f,
            "the number beside a database is that of connections; switches are voluntary context switches of the server's threads for an answer"
        )
    }
}

fn median(rounds: &[Round], figure: fn(&Round) -> f64) -> f64 {
    quantile(rounds.iter().map(figure).collect(), 50)
}

/// Returns the lowest, the median and the highest of the rounds' ratios.
fn ratios(rounds: &[Round], others: &[Round], figure: impl Fn(&Round) -> f64) -> [f64; 3] {
    let ratios: Vec<_> = rounds.iter().zip(others).map(|(one, other)| figure(one) / figure(other)).collect();
    [0, 50, 100].map(|hundredths| quantile(ratios.clone(), hundredths))
}
