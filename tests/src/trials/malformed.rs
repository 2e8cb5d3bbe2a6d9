//! Malformed requests over raw connections: a corpus made by hand, then mutants of valid requests.

mod body;
mod corpus;
mod mutant;
mod wire;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use rusqlite::Connection;

use self::{
    corpus::Case,
    mutant::{Generator, Mutant},
    wire::Wire,
};
use super::{Backend, Scene};
use crate::{Answer, Server};

/// Clients at once.
const CLIENTS: usize = 16;

/// Maximum number of requests that a client sends before it reads the answers.
const PIPELINED: usize = 8;

/// Sent behind what may be framed wrongly: its answer shows that the connection went on, and ends it.
const LAST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nx-request-id: last\r\nConnection: close\r\n\r\n";

/// Result of the trial.
#[derive(Debug, Clone, Default)]
pub struct MalformedReport {
    /// Number of requests that were sent, or of what began as one.
    pub requests: usize,
    /// Number of the host's answers with each status.
    pub statuses: BTreeMap<u16, usize>,
    /// Number of hyper's own answers, without a body, to heads that it could not read.
    pub by_hyper: BTreeMap<u16, usize>,
    /// Number of requests without an answer: cut off in the middle, nothing but line breaks, or HTTP/2.
    pub unanswered: usize,
    /// Number of 201 that gave the answer of an earlier request again.
    pub replayed: usize,
    /// Number of workspaces at the end.
    pub workspaces: usize,
    /// Number of connections that were cut off before their last answer, each with a create under way perhaps.
    pub cut: usize,
    /// Time that it took.
    pub took: Duration,
}

/// Parts of valid requests.
struct Parts {
    address: SocketAddr,
    key: String,
    account: String,
    organization: String,
}

impl Parts {
    /// Puts the key where `KEY` is.
    fn fill(&self, bytes: &[u8]) -> Vec<u8> {
        let (mut filled, mut rest) = (Vec::new(), bytes);
        while let Some(at) = rest.windows(3).position(|word| word == b"KEY") {
            filled.extend([&rest[..at], self.key.as_bytes()].concat());
            rest = &rest[at + 3..];
        }
        filled.extend(rest);
        filled
    }
}

/// Sends so many requests to a server on a new SQLite database. The same seed makes the same requests, but for
/// the key and the ids in them.
///
/// # Errors
///
/// At the first answer that no request may get, with the request; where the server does not live on, has
/// panicked or logged a failure; where there are other workspaces than those that were acknowledged.
pub fn run(program: &str, requests: usize, seed: u64) -> Result<MalformedReport> {
    attack(program, requests, seed).with_context(|| format!("malformed requests with the seed {seed}"))
}

fn attack(program: &str, requests: usize, seed: u64) -> Result<MalformedReport> {
    let world = Scene::new(program, Backend::Sqlite)?;
    let account = world.deployment.run(&["account", "create", "--name", "Grace"])?;
    world.deployment.run(&["organization", "add-member", &world.organization, &account])?;
    let log = world.deployment.folder().join("log");
    // What is judged is what the answers say: a machine that stalls may not turn a create into a timeout.
    let limits = world.deployment.folder().join("limits.toml");
    fs::write(&limits, "[limits]\nwall-clock = \"2m\"\ncpu = \"5s\"\n")?;
    let limits = limits.to_str().context("the folder's name")?;
    let server = Server::start(world.deployment.server(&["--limits", limits]).stderr(File::create(&log)?))?;
    let Scene { deployment, organization, key, .. } = world;
    let scene = Parts { address: server.address(), key, account, organization };
    let (cases, start) = (corpus::cases(&scene), Instant::now());
    let (mut rng, stopped) = (Rng::with_seed(seed), AtomicBool::new(false));
    let mut report = MalformedReport::default();
    let written = || fs::read_to_string(&log).unwrap_or_else(|error| error.to_string());
    let sent = thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|lane| {
                let generator = Generator::new(rng.fork(), &scene, &cases, lane);
                let client =
                    Client { address: scene.address, generator, kept: None, report: MalformedReport::default() };
                let own: Vec<_> = cases.iter().skip(lane).step_by(CLIENTS).collect();
                let share = requests / CLIENTS + usize::from(lane < requests % CLIENTS);
                let stopped = &stopped;
                scope.spawn(move || client.run(&own, share, stopped).inspect_err(|_| stopped.store(true, Relaxed)))
            })
            .collect();
        for client in clients {
            report.add(client.join().unwrap_or_else(|_| bail!("a client panicked"))?);
        }
        Ok(())
    });
    sent.with_context(|| format!("the server's log: {}", excerpt(&written())))?;
    report.took = start.elapsed();
    ensure!(server.send("GET", "/healthz", &[], b"")?.status == 200, "the server is not well");
    // The log is written to its end when the server stops.
    server.signal("TERM")?;
    ensure!(server.wait()? == 0, "the server did not stop well");
    let written = written();
    ensure!(written.is_empty(), "the server's log is not empty: {}", excerpt(&written));
    let count = "SELECT count(*) FROM account_workspace_ids";
    report.workspaces = Connection::open(deployment.database())?.query_row(count, [], |row| row.get(0))?;
    let acknowledged = report.statuses.get(&201).copied().unwrap_or_default() - report.replayed;
    ensure!(
        (acknowledged..=acknowledged + report.cut).contains(&report.workspaces),
        "{acknowledged} were acknowledged: {report:?}"
    );
    deployment.run(&["database", "check"])?;
    Ok(report)
}

impl MalformedReport {
    fn add(&mut self, part: Self) {
        for (sum, counts) in [(&mut self.statuses, part.statuses), (&mut self.by_hyper, part.by_hyper)] {
            counts.into_iter().for_each(|(status, count)| *sum.entry(status).or_default() += count);
        }
        self.requests += part.requests;
        self.unanswered += part.unanswered;
        self.replayed += part.replayed;
        self.cut += part.cut;
    }

    /// Judges an answer and counts it; whether it is hyper's own.
    fn count(&mut self, answer: &Answer, to_head: bool) -> Result<bool> {
        let is_by_hyper = wire::is_by_hyper(answer, to_head)?;
        let counts = match is_by_hyper {
            true => &mut self.by_hyper,
            false => &mut self.statuses,
        };
        *counts.entry(answer.status).or_default() += 1;
        self.replayed += usize::from(answer.header("idempotency-replayed").is_some());
        Ok(is_by_hyper)
    }
}

struct Client<'a> {
    address: SocketAddr,
    generator: Generator<'a>,
    /// Connection for the next request, where the last one was framed rightly.
    kept: Option<Wire>,
    report: MalformedReport,
}

impl Client<'_> {
    fn run(mut self, cases: &[&Case], share: usize, stopped: &AtomicBool) -> Result<MalformedReport> {
        for Case { bytes, statuses } in cases {
            let seen = self.alone(bytes, false)?;
            ensure!(seen == *statuses, "{seen:?} instead of {statuses:?} for {}", quoted(bytes));
        }
        while self.report.requests < share && !stopped.load(Relaxed) {
            if self.generator.rng.bool() {
                let (bytes, is_cut) = self.generator.damaged();
                self.alone(&bytes, is_cut)?;
            } else {
                let most = PIPELINED.min(share - self.report.requests);
                let count = self.generator.rng.usize(1..=most);
                let mutants: Vec<_> = (0..count).map(|_| self.generator.framed()).collect();
                self.together(&mutants)?;
            }
        }
        Ok(self.report)
    }

    /// Sends something on a connection of its own; the statuses of the answers to it.
    fn alone(&mut self, bytes: &[u8], is_cut: bool) -> Result<Vec<u16>> {
        let mut wire = Wire::connect(self.address)?;
        match is_cut {
            true => {
                wire.send(bytes);
                wire.cut()?;
            }
            false => wire.send(&[bytes, LAST].concat()),
        }
        let is_to_head = bytes.starts_with(b"HEAD ");
        let (mut statuses, mut has_ended) = (Vec::new(), false);
        let mut judge = || -> Result<()> {
            for answer in wire.answers(is_to_head)? {
                ensure!(!has_ended, "{} after a head that could not be read", show(&answer));
                if answer.header("x-request-id") != Some("last") {
                    let to_head = is_to_head && statuses.is_empty();
                    has_ended = self.report.count(&answer, to_head).with_context(|| show(&answer))?;
                    statuses.push(answer.status);
                }
            }
            Ok(())
        };
        judge().with_context(|| quoted(bytes))?;
        self.report.requests += 1;
        self.report.unanswered += usize::from(statuses.is_empty());
        self.report.cut += usize::from(wire.is_cut);
        Ok(statuses)
    }

    /// Sends requests in one piece, each of which has to get its own answer. Those behind one whose body
    /// the server did not read, and so closed the connection, are sent again.
    fn together(&mut self, mutants: &[Mutant]) -> Result<()> {
        let mut rest = mutants;
        while let [first, ..] = rest {
            let (mut wire, is_new) = match self.kept.take() {
                Some(wire) => (wire, false),
                None => (Wire::connect(self.address)?, true),
            };
            wire.send(&rest.iter().flat_map(|mutant| mutant.bytes.iter().copied()).collect::<Vec<_>>());
            let mut answered = 0;
            for mutant in rest {
                let shown = || quoted(&mutant.bytes);
                let Some(answer) = wire.answer().with_context(shown)? else { break };
                self.judge(mutant, &answer).with_context(|| show(&answer)).with_context(shown)?;
                answered += 1;
            }
            ensure!(answered > 0 || !is_new, "no answer to {}", quoted(&first.bytes));
            rest = &rest[answered..];
            if rest.is_empty() {
                self.kept = Some(wire);
            }
        }
        self.report.requests += mutants.len();
        Ok(())
    }

    fn judge(&mut self, mutant: &Mutant, answer: &Answer) -> Result<()> {
        self.report.count(answer, false)?;
        ensure!(answer.header("x-request-id") == Some(&mutant.id), "an answer to another request");
        ensure!(!(mutant.is_malformed && answer.status == 201), "a malformed request was taken");
        Ok(())
    }
}

fn excerpt(text: &str) -> &str {
    &text[..text.floor_char_boundary(4000)]
}

fn quoted(bytes: &[u8]) -> String {
    excerpt(&bytes.escape_ascii().to_string()).into()
}

fn show(answer: &Answer) -> String {
    format!("{} {:?} {}", answer.status, answer.headers, answer.body.escape_ascii())
}
