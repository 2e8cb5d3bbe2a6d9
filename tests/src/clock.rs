//! Clocks that are wrong: a program that sees another time than the system's, by Debian's libfaketime.

use std::{
    env, fs,
    io::{self, Write as _},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// Returns whether a program can be given another clock here. Where it can't, says on stderr that the test did not run;
/// in CI that is an error.
pub fn available() -> Result<bool> {
    if library().is_some() {
        return Ok(true);
    }
    ensure!(env::var_os("CI").is_none(), "libfaketime is not installed, and CI has to run every test");
    // Not eprintln!, which the test harness captures.
    writeln!(io::stderr(), "\n!!! THIS TEST DID NOT RUN: install libfaketime (apt-get install libfaketime) !!!\n")?;
    Ok(false)
}

/// Shifts the clock that a program sees, by an offset such as `+25h`. Its timers go on as they are.
pub fn shift(command: &mut Command, offset: &str) -> Result<()> {
    let library = library().context("libfaketime is not installed")?;
    command.env("LD_PRELOAD", library).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Ok(())
}

/// Returns the library for programs with threads, in the folder of this machine's architecture.
fn library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|file| file.is_file())
}
