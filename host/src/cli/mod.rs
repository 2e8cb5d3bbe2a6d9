//! The program: one file a subcommand.

mod account;
mod address;
mod admin_address;
mod compile;
mod config;
mod database;
mod key;
mod log;
mod lossy;
mod manual;
mod organization;
#[cfg(feature = "otlp")]
mod otlp;
mod parse;
mod pepper;
mod reload;
mod seal;
mod secret;
mod serve;
mod terminal;
mod time;
mod tls;
mod workspace;

use std::{fmt::Display, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use serde::Serialize;
use tokio::runtime::Runtime;

use self::{
    address::{AddressArguments, DatabaseArguments, open_database},
    pepper::PepperArguments,
};
use crate::storage::DatabaseAddress;

/// Creates workspaces: one API operation as a sandboxed WebAssembly component, and its host.
#[derive(Parser)]
#[command(name = "workspaces", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Try it, with a throw-away database and a curl line to paste:
  workspaces serve --demo

Set it up to stay; without the pepper keys are lost, so keep it. PostgreSQL
needs `database migrate` once, SQLite does it itself. A key is printed once:
  export WORKSPACES_KEY_PEPPER=$(openssl rand -hex 32)
  workspaces database migrate
  account=$(workspaces account create --name Ada)
  workspaces key create $account
  workspaces serve

Exit codes: 0 done, 1 failed, 2 wrong usage.";

#[derive(Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
    /// Look at the file of `serve --config`
    #[command(subcommand)]
    Config(config::Config),
    Reload(reload::Reload),
    /// Make accounts: people, artists and organizations are all accounts
    #[command(subcommand)]
    Account(account::Account),
    /// Make organizations and add members to them
    #[command(subcommand)]
    Organization(organization::Organization),
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Key(key::Key),
    /// Look at workspaces
    #[command(subcommand)]
    Workspace(workspace::Workspace),
    /// Make, check and copy the database
    #[command(subcommand)]
    Database(database::Command),
    Compile(compile::Compile),
    Completions(manual::Completions),
    Manual(manual::Manual),
}

/// Runs the program with the process's own arguments.
pub fn main() -> ExitCode {
    let parsed = Arguments::command().try_get_matches().and_then(|matches| {
        parse::refuse_ignored(&matches)?;
        Arguments::from_arg_matches(&matches)
    });
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => return parse::print_usage(&secret::without_secrets(error)),
    };
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Longest time for which the end of the program waits for work that blocks a thread.
const END_TIMEOUT: Duration = Duration::from_secs(2);

fn run(command: Command) -> Result<()> {
    match command {
        Command::Serve(serve) => finish(serve.run()),
        Command::Config(config) => config.run(),
        Command::Reload(reload) => reload.run(),
        // Without the threads of a runtime: it gives up its rights, and none may keep them.
        Command::Compile(compile) => compile.run(),
        Command::Completions(completions) => completions.run(),
        Command::Manual(manual) => manual.run(),
        Command::Account(account) => finish(account.run()),
        Command::Organization(organization) => finish(organization.run()),
        Command::Key(key) => finish(key.run()),
        Command::Workspace(workspace) => finish(workspace.run()),
        Command::Database(database) => finish(database.run()),
    }
}

/// Runs a command on a runtime of its own.
fn finish(command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = Runtime::new().context("no threads can be started")?;
    let outcome = runtime.block_on(command);
    // A file system or a database that hangs does not keep the process from ending.
    runtime.shutdown_timeout(END_TIMEOUT);
    outcome
}

/// Prints an answer: the line for people, or the value as JSON.
fn print(json: bool, value: &impl Serialize, line: impl Display) -> Result<()> {
    match json {
        true => terminal::print_json(value),
        false => terminal::print(line),
    }
}

/// Prints a list: one line each for people, or one JSON array.
fn print_all<T: Serialize>(json: bool, values: &[T], line: impl Fn(&T) -> String) -> Result<()> {
    match json {
        true => terminal::print_json(&values),
        false => values.iter().try_for_each(|value| terminal::print(line(value))),
    }
}
