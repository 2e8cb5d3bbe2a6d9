//! Hostile components of every kind, called again and again beside a tenant that only wants its answers.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rusqlite::Connection;
use workspaces_host::runtime::{Pool, Sandboxes};

use super::{
    slow::healthy,
    throughput::{memory, quantile},
};
use crate::{
    Client, Server, Tenants,
    hostile::{compile_bomb, kinds, refused},
};

/// What was seen.
#[derive(Debug, Clone)]
pub struct Report {
    /// Of each kind that loads and then misbehaves.
    pub kinds: Vec<Seen>,
    /// Kinds that are refused when they are loaded, each so many times.
    pub refused: usize,
    /// Components that would compile for minutes, given up by the server.
    pub bombs: usize,
    /// The 99th percentile of the healthy tenant's latencies before.
    pub alone: Duration,
    /// And beside the hostile ones.
    pub beside: Duration,
    /// What the server held in memory before the first hostile call, and at most; in MiB.
    pub memory: [f64; 2],
}

/// How one kind fared.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it does.
    pub name: &'static str,
    /// Calls, each answered as it should be.
    pub runs: usize,
    /// The median and the 99th percentile of the time to the answer, and the longest.
    pub times: [Duration; 3],
}

/// The kind whose host never answers: its database is locked.
const WAITS: &str = "waits for the host for ever";

/// Clients at once of the kind that waits.
const WAITING: usize = 16;

/// Calls each kind `runs` times, and has the server compile `bombs` components that it has to give up.
///
/// # Errors
///
/// Where an answer is not the one that a kind should get, or the server does not go on.
pub fn run(program: &str, runs: usize, bombs: usize) -> Result<Report> {
    let tenants = Tenants::new(program)?;
    let (key, own, locked) = (tenants.key("hostile")?, tenants.key("healthy")?, tenants.key("locked")?);
    let kinds = kinds()?;
    let mut sections = String::from("[tenants.healthy]\npath = \"/healthy\"\ndatabase = \"sqlite:healthy.db\"\n");
    sections +=
        "[tenants.waits]\npath = \"/waits\"\ndatabase = \"sqlite:locked.db\"\nlimits = { wall-clock = \"2s\" }\n";
    for (number, kind) in kinds.iter().enumerate() {
        tenants.write(&format!("{number}.wasm"), &kind.component)?;
        sections += &format!(
            "[tenants.kind-{number}]\npath = \"/{number}\"\ncomponent = \"{number}.wasm\"\ndatabase = \"sqlite:hostile.db\"\n"
        );
    }
    tenants.configure(&sections)?;
    let server = tenants.deployment().serve(&["--config", "gateway.toml", "--admin", "127.0.0.1:0", "--log", "off"])?;
    let client = || Client::new(server.address(), &own).under("/healthy");

    let alone = healthy(client(), &|| false)?;
    let [before, _] = memory(server.id())?;
    let stop = AtomicBool::new(false);
    let (seen, beside) = thread::scope(|scope| {
        let beside = scope.spawn(|| healthy(client(), &|| !stop.load(Relaxed)));
        let seen = || -> Result<Vec<Seen>> {
            let mut seen = Vec::new();
            for (number, kind) in kinds.iter().enumerate() {
                let client = Client::new(server.address(), &key).under(&format!("/{number}"));
                seen.push(Seen::of(kind.name, call(client, runs, kind.statuses).context(kind.name)?));
            }
            seen.push(wait(&tenants, &server, &locked, runs)?);
            tenants.write("bomb.wasm", compile_bomb()?)?;
            let bomb =
                "[tenants.bomb]\npath = \"/bomb\"\ncomponent = \"bomb.wasm\"\ndatabase = \"sqlite:hostile.db\"\n";
            // A second is enough to give up at; the others are compiled, and may have taken longer.
            tenants.configure(&format!("compile.time = \"1s\"\n{sections}{bomb}"))?;
            for _ in 0..bombs {
                let output = tenants.reload(&server)?;
                let said = String::from_utf8(output.stdout)?;
                ensure!(said.contains("compile.time"), "the bomb was not given up: {said}");
            }
            Ok(seen)
        }();
        stop.store(true, Relaxed);
        Ok::<_, anyhow::Error>((seen?, beside.join().ok().context("the healthy client panicked")??))
    })?;
    let [_, most] = memory(server.id())?;
    Ok(Report { kinds: seen, refused: refuse(runs)?, bombs, alone, beside, memory: [before, most] })
}

/// Calls so often, and returns how long each took.
fn call(mut client: Client, runs: usize, statuses: &[u16]) -> Result<Vec<f64>> {
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            let answer = client.create("{\"name\":\"hostile\"}", None)?;
            ensure!(statuses.contains(&answer.status), "{answer:?}");
            Ok(start.elapsed().as_secs_f64())
        })
        .collect()
}

/// Creates where the database is locked: what becomes of it is not known when the time is over.
fn wait(tenants: &Tenants, server: &Server, key: &str, runs: usize) -> Result<Seen> {
    let lock = Connection::open(tenants.deployment().folder().join("locked.db"))?;
    lock.execute_batch("BEGIN EXCLUSIVE")?;
    let times = thread::scope(|scope| {
        let clients: Vec<_> = (0..WAITING)
            .map(|client| {
                let runs = runs / WAITING + usize::from(client < runs % WAITING);
                scope.spawn(move || call(Client::new(server.address(), key).under("/waits"), runs, &[500]))
            })
            .collect();
        let mut times = Vec::new();
        for client in clients {
            times.extend(client.join().ok().context("a client panicked")??);
        }
        Ok::<_, anyhow::Error>(times)
    })?;
    Ok(Seen::of(WAITS, times))
}

/// Loads each kind that must not load so often; returns how many kinds there are.
fn refuse(runs: usize) -> Result<usize> {
    let sandboxes = Sandboxes::new(Pool::default())?;
    let kinds = refused()?;
    for kind in &kinds {
        for _ in 0..runs {
            let refusal = sandboxes.compile(&kind.component).err().map(|error| error.to_string());
            let said = refusal.as_ref().is_some_and(|refusal| refusal.contains(kind.message));
            ensure!(said, "{} gets {refusal:?}", kind.name);
        }
    }
    Ok(kinds.len())
}

impl Seen {
    fn of(name: &'static str, times: Vec<f64>) -> Self {
        let runs = times.len();
        let times = [50, 99, 100].map(|part| Duration::from_secs_f64(quantile(times.clone(), part)));
        Self { name, runs, times }
    }
}
