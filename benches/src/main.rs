//! The program `workspaces-benches`: what the sandbox costs, against the same logic without one.
//!
//! The two are processes of this one program under two names, on databases of their own, and take turns: machines differ
//! from minute to minute, and only what was measured side by side can be compared. Medians and ranges are of the rounds'
//! ratios.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its answers go to standard output, its progress to standard error"
)]

mod answers;
mod call;
mod chart;
mod client;
mod figures;
mod instructions;
mod restart;
mod servers;

use std::{env, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use crate::{
    answers::Answers,
    figures::{Comparison, Report},
    servers::{Database, Servers},
};

/// Compares the sandboxed component with the same logic without a sandbox
#[derive(Parser)]
struct Arguments {
    /// Two rounds of a second, with 64 connections alone: in under a minute
    #[arg(long)]
    quick: bool,
    /// Rounds of each comparison
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each round and server
    #[arg(long)]
    seconds: Option<u64>,
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a chart of the ratios to this file, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Compare numbers of instructions with those that are kept in benches/instructions.json, and nothing else; needs valgrind
    #[arg(long)]
    instructions: bool,
    /// Keep the numbers of instructions
    #[arg(long, requires = "instructions")]
    keep: bool,
    /// Measure how long ten tenants with this component take to answer after a restart, and nothing else
    #[arg(long, value_name = "COMPONENT", conflicts_with_all = ["instructions", "json", "svg"])]
    restart: Option<PathBuf>,
    /// Leave PostgreSQL out
    #[arg(long)]
    no_postgres: bool,
    /// Leave Node out, whose libraries are installed by npm
    #[arg(long)]
    no_node: bool,
}

fn main() -> Result<ExitCode> {
    // The servers are this program too, by the names that it gives itself.
    match servers::name() {
        Some(is_native) => {
            workspaces_host::runtime::native::set(is_native);
            Ok(workspaces_host::cli::main())
        }
        None => run().map(|()| ExitCode::SUCCESS),
    }
}

fn run() -> Result<()> {
    if env::args().nth(1).as_deref() == Some(instructions::COUNTED) {
        return instructions::counted();
    }
    let arguments = Arguments::parse();
    if arguments.instructions { instructions::compare(arguments.keep) } else { bench(&arguments) }
}

fn bench(arguments: &Arguments) -> Result<()> {
    ensure!(
        !cfg!(debug_assertions) || env::var_os("WORKSPACES_BENCH_DEBUG").is_some(),
        "a debug build says nothing about speed: cargo run --release --package workspaces-benches --features native"
    );
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 2 } else { 5 });
    let seconds = Duration::from_secs(arguments.seconds.unwrap_or(if arguments.quick { 1 } else { 2 }));
    ensure!(rounds > 0 && !seconds.is_zero(), "at least one round of one second");
    if let Some(component) = &arguments.restart {
        return restart::measure(component, rounds);
    }
    eprintln!("{rounds} rounds of {seconds:?} a server; the clients run on the same machine");
    let programs = servers::Programs::new(!arguments.no_node)?;
    let call = call::measure(rounds)?;
    eprintln!("kinds of answers");
    let answers = Answers::measure(&programs, rounds, seconds)?;
    let mut report = Report { call, comparisons: Vec::new(), answers };
    let counts: [&[_]; 2] = if arguments.quick { [&[64], &[64]] } else { [&[1, 64, 256, 1024], &[1, 64]] };
    for (database, connections) in
        [(Database::Disk, counts[0]), (Database::Memory, counts[1]), (Database::Postgres, &[64])]
    {
        if database == Database::Postgres && (arguments.no_postgres || !workspaces_tests::postgres::available()?) {
            eprintln!("PostgreSQL is left out");
            continue;
        }
        let servers = Servers::start(&programs, database).with_context(|| format!("{database:?}"))?;
        for &connections in connections {
            eprintln!("{}, {connections} connections", database.name());
            report.comparisons.push(Comparison::measure(&servers, connections, rounds, seconds)?);
        }
    }
    println!("{report}");
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_string_pretty(&report)? + "\n").with_context(|| file.display().to_string())?;
    }
    if let Some(file) = &arguments.svg {
        fs::write(file, chart::draw(&report)).with_context(|| file.display().to_string())?;
    }
    Ok(())
}
