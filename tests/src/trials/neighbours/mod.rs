//! Measures one healthy tenant beside each adversary: the answers it gets, the time it waits for them, and the
//! server's memory and end.

mod administration;
mod component;
mod database;
mod file;
mod healthy;
mod identity;
mod log;
mod reload;
mod report;
mod scene;
mod setup;
mod stranger;
mod tenant;

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

pub use self::report::{HEAD, Line};
use self::{healthy::Phase, scene::Scene, setup::Setup};
use super::throughput::{memory, quantile};
use crate::Server;

/// Something that may harm a neighbour. One value is one line of the table.
trait Adversary: Sync {
    /// Returns the name of its family and its own, such as `component: loops`.
    fn name(&self) -> String;

    /// Adds its tenants, files and arguments, before the server starts.
    fn prepare(&mut self, setup: &mut Setup) -> Result<()>;

    /// Attacks until the scene is over, then takes back what it changed. Returns the times of the answers
    /// that it got itself, in seconds.
    ///
    /// # Errors
    ///
    /// An answer that it should not get.
    fn attack(&self, scene: &Scene<'_>) -> Result<Vec<f64>>;
}

/// Size of a run.
#[derive(Debug, Clone)]
pub struct NeighbourOptions {
    /// Parts of names, of which an adversary's has to contain one; empty for all adversaries.
    pub only: Vec<String>,
    /// Number of times that the healthy tenant is measured alone and beside the adversary, in turns.
    pub rounds: usize,
    /// Time of each of these, at least.
    pub phase: Duration,
    /// Makes one adversary of all hostile components, in place of one each.
    pub together: bool,
}

/// Longest wait for the server to end, after which it is killed.
const KILLED_AFTER: Duration = Duration::from_secs(20);

/// Time between the last start of an attack and the order to stop.
const BEFORE_THE_END: Duration = Duration::from_millis(300);

/// Runs the healthy tenant beside each adversary, each with a server of its own; `seen` gets each line at once.
///
/// # Errors
///
/// Where no adversary is chosen, or one can't be prepared. Harm to the server is no error, but in the line.
pub fn run(program: &str, options: &NeighbourOptions, mut seen: impl FnMut(&Line)) -> Result<Vec<Line>> {
    let mut adversaries = adversaries(options.together)?;
    let known: Vec<_> = adversaries.iter().map(|adversary| adversary.name()).collect();
    let is_chosen = |name: &str| options.only.is_empty() || options.only.iter().any(|part| name.contains(part));
    adversaries.retain(|adversary| is_chosen(&adversary.name()));
    ensure!(!adversaries.is_empty(), "no adversary of that name; there are:\n{}", known.join("\n"));
    let mut lines = Vec::new();
    for mut adversary in adversaries {
        let line = measure(program, &mut *adversary, options).with_context(|| adversary.name())?;
        seen(&line);
        lines.push(line);
    }
    Ok(lines)
}

fn adversaries(together: bool) -> Result<Vec<Box<dyn Adversary>>> {
    let families = [
        component::all(together)?,
        file::all(),
        tenant::all(),
        database::all()?,
        stranger::all(),
        identity::all(),
        log::all(),
        administration::all(),
    ];
    Ok(families.into_iter().flatten().collect())
}

/// Measures one line.
fn measure(program: &str, adversary: &mut dyn Adversary, options: &NeighbourOptions) -> Result<Line> {
    let mut setup = Setup::new(program)?;
    adversary.prepare(&mut setup)?;
    let mut line = Line::new(adversary.name());
    let start = Instant::now();
    let server = match setup.serve() {
        Ok(server) => server,
        Err(error) => return Ok(Line { fault: Some(format!("it does not start: {error:#}")), ..line }),
    };
    if healthy::first_answer(&setup, &server)? {
        line.start = start.elapsed();
        let over = AtomicBool::new(false);
        match (Scene { setup: &setup, server: &server, over: &over }).await_tenants() {
            Ok(()) => rounds(&setup, &server, adversary, options, &mut line)?,
            Err(error) => line.fault = Some(format!("{error:#}")),
        }
        line.alive = healthy::first_answer(&setup, &server)?;
    } else {
        line.fault = Some("no healthy answer after its start".into());
    }
    line.end = end(&setup, server, adversary)?;
    Ok(line)
}

/// Measures alone and beside, in turns.
fn rounds(
    setup: &Setup,
    server: &Server,
    adversary: &dyn Adversary,
    options: &NeighbourOptions,
    line: &mut Line,
) -> Result<()> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let mut own = Vec::new();
    for round in 0..options.rounds.max(1) {
        let phase = healthy::phase(setup, server, options.phase, &|| false)?;
        alone.push(phase.p99());
        line.count(&phase);
        if round == 0 {
            line.memory[0] = memory(server.id())?[0];
            // Begins the maximum anew, where the system lets it.
            let _ = fs::write(format!("/proc/{}/clear_refs", server.id()), "5");
        }
        let (phase, attack) = attacked(setup, server, adversary, options.phase)?;
        beside.push(phase.p99());
        line.longest = line.longest.max(phase.longest());
        line.count(&phase);
        match attack {
            Ok(times) => own.extend(times),
            Err(error) => line.fault = line.fault.take().or(Some(format!("{error:#}"))),
        }
        // A server that does not answer will not in the next round either.
        if line.refused > 0 || line.fault.is_some() {
            break;
        }
    }
    line.alone = Duration::from_secs_f64(quantile(alone, 50));
    line.beside = Duration::from_secs_f64(quantile(beside, 50));
    if !own.is_empty() {
        line.own = Some((own.len(), [50, 99, 100].map(|part| Duration::from_secs_f64(quantile(own.clone(), part)))));
    }
    // Of a process that has ended there is nothing to read.
    if let Ok([_, most]) = memory(server.id()) {
        line.memory[1] = most;
    }
    Ok(())
}

/// Measures beside the adversary, for `phase` at least and until its attack is over.
fn attacked(
    setup: &Setup,
    server: &Server,
    adversary: &dyn Adversary,
    phase: Duration,
) -> Result<(Phase, Result<Vec<f64>>)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let attack = scope.spawn(|| adversary.attack(&Scene { setup, server, over: &over }));
        let start = Instant::now();
        let phase = healthy::phase(setup, server, phase, &|| {
            over.store(start.elapsed() >= phase || over.load(Relaxed), Relaxed);
            !attack.is_finished()
        });
        over.store(true, Relaxed);
        Ok((phase?, attack.join().ok().context("the adversary panicked")?))
    })
}

/// Stops the server while it is attacked, and returns the time to its exit; `None` where it had to be killed,
/// or did not exit as it should.
fn end(setup: &Setup, server: Server, adversary: &dyn Adversary) -> Result<Option<Duration>> {
    let over = AtomicBool::new(false);
    let took = thread::scope(|scope| -> Result<_> {
        let attack = scope.spawn(|| adversary.attack(&Scene { setup, server: &server, over: &over }));
        thread::sleep(BEFORE_THE_END);
        let start = Instant::now();
        // Fails where it has ended by itself.
        let _ = server.signal("TERM");
        while !has_ended(server.id()) && start.elapsed() < KILLED_AFTER {
            thread::sleep(Duration::from_millis(5));
        }
        let took = has_ended(server.id()).then(|| start.elapsed());
        if took.is_none() {
            server.signal("KILL")?;
        }
        over.store(true, Relaxed);
        // Its requests were cut off: what it says of them does not count.
        let _ = attack.join();
        Ok(took)
    })?;
    Ok(took.filter(|_| server.wait().is_ok_and(|code| code == 0)))
}

/// Returns true where a child has exited, also before its status is read.
fn has_ended(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}
