//! The program: one file a subcommand.

mod account;
mod address;
mod compile;
mod componentize;
mod config;
mod database;
mod dev;
mod key;
mod limits;
mod log;
mod manual;
mod new;
mod organization;
#[cfg(feature = "otlp")]
mod otlp;
mod parse;
mod pepper;
mod reload;
mod replay;
mod serve;
mod time;
mod verify;
mod workspace;

use std::{fmt::Display, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use serde::Serialize;
use tokio::runtime::Runtime;
use uuid::Uuid;

use self::{
    address::{AddressArguments, DatabaseArguments},
    pepper::PepperArguments,
};
use crate::{
    storage::{Database, DatabaseError},
    terminal,
};

/// Creates workspaces: one API operation as a sandboxed WebAssembly component, and its host.
#[derive(Parser)]
#[command(name = "workspaces", version, arg_required_else_help = true, after_help = EXAMPLES, term_width = WIDTH)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print JSON: what a command prints, and its error
    #[arg(long, global = true)]
    json: bool,
}

/// Width of the help in columns, whatever the terminal has: a narrower one breaks a line without changing it, so that
/// an example can be pasted.
const WIDTH: usize = 80;

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

Write a component of your own, judge it, and see it serve at each change:
  workspaces new my-component
  sh my-component/verify.sh
  workspaces dev my-component

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
    New(new::New),
    Dev(dev::Dev),
    Verify(Box<verify::Verify>),
    Replay(replay::Replay),
    Wit(verify::Wit),
    Componentize(componentize::Componentize),
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
        Err(error) => return parse::print_usage(&parse::without_secrets(error)),
    };
    let json = arguments.json;
    match run(arguments.command, json) {
        Ok(code) => code,
        Err(error) => {
            terminal::print_error(&error, json, FAILED);
            FAILED.into()
        }
    }
}

/// Exit code of a command that failed.
const FAILED: u8 = 1;

/// Longest time for which the end of the program waits for work that blocks a thread.
const END_TIMEOUT: Duration = Duration::from_secs(2);

fn run(command: Command, json: bool) -> Result<ExitCode> {
    match command {
        Command::Verify(verify) => return Ok(verify.run(json)),
        Command::Replay(replay) => return Ok(replay.run(json)),
        Command::Wit(contract) => contract.run(json),
        Command::New(new) => new.run(json),
        Command::Dev(dev) => finish(dev.run(json)),
        Command::Componentize(componentize) => componentize.run(json),
        Command::Serve(serve) => finish(serve.run(json)),
        Command::Config(config) => finish(config.run(json)),
        Command::Reload(reload) => reload.run(json),
        // Without the threads of a runtime: it gives up its rights, and none may keep them.
        Command::Compile(compile) => compile.run(json),
        Command::Completions(completions) => completions.run(),
        Command::Manual(manual) => manual.run(),
        Command::Account(account) => finish(account.run(json)),
        Command::Organization(organization) => finish(organization.run(json)),
        Command::Key(key) => finish(key.run(json)),
        Command::Workspace(workspace) => finish(workspace.run(json)),
        Command::Database(database) => finish(database.run(json)),
    }?;
    Ok(ExitCode::SUCCESS)
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

/// Prints what a command did, as JSON; nothing for people, to whom no news is good news.
fn print_done(json: bool, value: &impl Serialize) -> Result<()> {
    if json { terminal::print_json(value) } else { Ok(()) }
}

/// Asserts that there is an account with this id.
async fn require_account(database: &dyn Database, id: Uuid) -> Result<()> {
    database.keys(Some(id)).await.explained(database, id).await.map(drop)
}

/// Explanation of an id that is not found: it may be that of something else.
trait Explained<T> {
    /// Returns the value, or an error that says what the id is instead.
    async fn explained(self, database: &dyn Database, id: Uuid) -> Result<T>;
}

impl<T> Explained<T> for Result<T, DatabaseError> {
    async fn explained(self, database: &dyn Database, id: Uuid) -> Result<T> {
        let error = match self {
            Err(error @ DatabaseError::NotFound(_)) => error,
            other => return Ok(other?),
        };
        // Only to explain: where it can't be found out, the error stands as it is.
        let keys = database.keys(None).await.unwrap_or_default();
        if let Some(key) = keys.iter().find(|key| key.id == id) {
            bail!("{error}: it is the id of an API key, of the account {}", key.account_id);
        }
        if database.keys(Some(id)).await.is_ok() {
            bail!("{error}: it is the id of an account; `key list {id}` lists its keys");
        }
        Err(error.into())
    }
}

/// Prints a list: one line each for people, or one JSON array.
fn print_all<T: Serialize>(json: bool, values: &[T], line: impl Fn(&T) -> String) -> Result<()> {
    match json {
        true => terminal::print_json(&values),
        false => values.iter().try_for_each(|value| terminal::print(line(value))),
    }
}
