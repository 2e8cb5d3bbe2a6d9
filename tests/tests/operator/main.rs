//! Operators: what they give the program, and what it answers: files, the start, the administration, secrets.
#![allow(missing_docs, reason = "a test's name says what it shows")]

mod administration;
mod components;
mod files;
mod metrics;
mod secrets;
mod start;

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

/// Longest time for which a busy machine may keep a process that should end within some seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// Waits for a process to end; kills it and fails after [`PATIENCE`]. Returns its exit code.
fn wait(child: &mut Child) -> Result<Option<i32>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("it does not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command that has to end by itself; returns its exit code and what it wrote to standard error.
fn run(command: &mut Command) -> Result<(Option<i32>, String)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut stderr = child.stderr.take().context("no standard error")?;
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let code = wait(&mut child)?;
    Ok((code, reader.join().ok().context("panicked")??))
}
