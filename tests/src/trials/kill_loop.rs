//! Kills the program, or its database server, at random moments under load, starts it again, and holds
//! what was acknowledged against what is there.

use std::{process::Stdio, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{Backend, Scene, load::Load};

/// A database is used for so many cycles: it grows with each.
const CYCLES_PER_DATABASE: usize = 100;

/// The kill comes within this time of the first requests, or of the start.
const WITHIN: Duration = Duration::from_millis(150);

/// Process that is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The program, with SIGKILL.
    Host,
    /// The PostgreSQL server with all of its processes; the program stays, and has to carry on.
    Database,
}

/// Result of a loop; `lost` and `partial` are to be 0.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct KillLoopReport {
    /// Kills.
    pub cycles: usize,
    /// Creates that were answered with 201.
    pub acknowledged: u64,
    /// Number of these that were not there afterwards.
    pub lost: u64,
    /// Workspaces that were there in part.
    pub partial: u64,
    /// Workspaces that were there although nobody had heard of them: the answer was killed, not they.
    pub unheard: u64,
}

/// Runs the loop; `progress` is told the report so far after each cycle.
///
/// # Errors
///
/// Where the program does not start again, answers what it must not, or the database is damaged.
pub fn run(
    program: &str,
    backend: Backend,
    victim: Victim,
    cycles: usize,
    mut progress: impl FnMut(&KillLoopReport),
) -> Result<KillLoopReport> {
    ensure!(backend == Backend::Postgres || victim == Victim::Host, "SQLite is in the program: kill that");
    let mut report = KillLoopReport::default();
    while report.cycles < cycles {
        let mut world = Scene::new(program, backend)?;
        let cycles = CYCLES_PER_DATABASE.min(cycles - report.cycles);
        match victim {
            Victim::Host => kill_host(&world, cycles, &mut report, &mut progress)?,
            Victim::Database => kill_database(&mut world, cycles, &mut report, &mut progress)?,
        }
        world.ledger().require_integrity()?;
        let checked = world.deployment.output(&["database", "check"])?;
        ensure!(checked.status.success(), "database check: {}", String::from_utf8_lossy(&checked.stdout));
    }
    Ok(report)
}

fn kill_host(
    world: &Scene,
    cycles: usize,
    report: &mut KillLoopReport,
    progress: &mut impl FnMut(&KillLoopReport),
) -> Result<()> {
    let mut known = 0;
    for cycle in 0..cycles {
        // One in ten is killed while it starts, and so perhaps while it recovers from the last kill.
        if cycle % 10 == 9 {
            let mut starting = world.deployment.server(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            thread::sleep(moment());
            starting.kill()?;
            starting.wait()?;
        }
        let server = world.deployment.serve(&["--log", "off"])?;
        let load = Load::new(vec![server.address()], world);
        let killed = thread::scope(|scope| {
            load.start(scope);
            // Two in three are killed in full work, the third perhaps before the first answer.
            if cycle % 3 != 0 {
                load.wait_for_more(1);
            }
            thread::sleep(moment());
            let killed = server.kill();
            load.stop();
            killed
        });
        killed?;
        // Recovered by the program itself, before anybody else opens the file.
        drop(world.deployment.serve(&["--log", "off"])?);
        audit(world, load, &mut known, report)?;
        progress(report);
    }
    Ok(())
}

fn kill_database(
    world: &mut Scene,
    cycles: usize,
    report: &mut KillLoopReport,
    progress: &mut impl FnMut(&KillLoopReport),
) -> Result<()> {
    let server = world.deployment.serve(&["--log", "off"])?;
    let mut known = 0;
    for _ in 0..cycles {
        let load = Load::new(vec![server.address()], world);
        let postgres = world.postgres.as_mut().context("no server to kill")?;
        let killed = thread::scope(|scope| {
            load.start(scope);
            thread::sleep(moment());
            let killed = postgres.kill().and_then(|()| postgres.restart());
            // Until the program, which was not killed, has answered with the new server.
            if killed.is_ok() {
                load.wait_for_more(1);
            }
            load.stop();
            killed
        });
        killed?;
        audit(world, load, &mut known, report)?;
        progress(report);
    }
    Ok(())
}

/// Holds a cycle's answers against the rows; `known` is how many workspaces there were before.
fn audit(world: &Scene, load: Load, known: &mut u64, report: &mut KillLoopReport) -> Result<()> {
    let ids = load.into_acknowledged()?;
    let audit = world.ledger().audit(&ids)?;
    report.cycles += 1;
    report.acknowledged += ids.len() as u64;
    report.lost += audit.lost;
    report.partial += audit.partial;
    report.unheard += audit.workspaces.saturating_sub(*known + ids.len() as u64);
    *known = audit.workspaces;
    ensure!(report.lost == 0 && report.partial == 0, "{report:?}");
    Ok(())
}

fn moment() -> Duration {
    WITHIN.mul_f64(fastrand::f64())
}
