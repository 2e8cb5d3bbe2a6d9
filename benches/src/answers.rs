//! Processor time of answers of several kinds: creates with and without a log, and refusals.

use std::{fmt, process::Stdio, time::Duration};

use anyhow::Result;
use serde::Serialize;
use workspaces_tests::{Server, Tenants};

use crate::{
    figures::{Round, median},
    servers::{Kind, Programs, Running},
};

/// Clients of each round.
const CONNECTIONS: usize = 64;

/// Rounds of each kind of answer.
#[derive(Debug, Serialize)]
pub(crate) struct Answers(Vec<(&'static str, Vec<Round>)>);

impl Answers {
    /// Has the kinds take turns.
    pub(crate) fn measure(programs: &Programs, rounds: usize, time: Duration) -> Result<Self> {
        let with_log = Running::demo(programs, Kind::Sandboxed, "info")?;
        let without_log = Running::demo(programs, Kind::Sandboxed, "off")?;
        let limited = Limited::start(programs)?;
        // The prefix says that it is a key.
        let unknown = with_log.key[..10].to_owned() + &"w".repeat(with_log.key.len() - 10);
        let kinds = [
            ("201, a workspace in memory", &with_log.server, &*with_log.key),
            ("the same without a log", &without_log.server, &*without_log.key),
            ("401, malformed key", &with_log.server, "malformed"),
            ("401, no such key", &with_log.server, &*unknown),
            ("429, over the tenant's rate", &limited.server, &*limited.key),
        ];
        let mut answers = Self(kinds.iter().map(|(name, ..)| (*name, Vec::new())).collect());
        for round in 0..rounds {
            for turn in 0..kinds.len() {
                let (_, server, key) = kinds[(round + turn) % kinds.len()];
                answers.0[(round + turn) % kinds.len()].1.push(Round::measure(server, key, CONNECTIONS, time)?);
            }
        }
        Ok(answers)
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:36}{:>11}{:>8}", "answers, 64 connections", "a second", "CPU µs")?;
        for (name, rounds) in &self.0 {
            let rate = median(rounds, |round| round.created_per_second + round.refused_per_second);
            writeln!(f, "{name:36}{rate:>11.0}{:>8.1}", median(rounds, |round| round.cpu_microseconds))?;
        }
        Ok(())
    }
}

/// A server that refuses nearly all requests, since they are over its tenant's rate.
struct Limited {
    server: Server,
    key: String,
    _tenants: Tenants,
}

impl Limited {
    fn start(programs: &Programs) -> Result<Self> {
        let tenants = Tenants::new(&programs.path(Kind::Sandboxed)?)?;
        tenants.configure("[tenants.limited]\ndatabase = \"sqlite:limited.db\"\nlimits.rate = 1\n")?;
        let key = tenants.key("limited")?;
        let mut command = tenants.deployment().server(&["--config", "gateway.toml"]);
        let server = Server::start(command.env("WORKSPACES_LOG", "info").stderr(Stdio::null()))?;
        Ok(Self { server, key, _tenants: tenants })
    }
}
