//! The program: one file a subcommand.

mod account;
mod compile;
mod config;
mod database;
mod key;
mod log;
mod organization;
#[cfg(feature = "otlp")]
mod otlp;
mod reload;
mod serve;
mod tls;
mod workspace;

use std::{ffi::OsStr, io::Write as _, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Arg, Parser, Subcommand, builder::TypedValueParser, error::ErrorKind};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::{
    auth::api_key::Pepper,
    storage::{
        Database, DatabaseError,
        postgres::{self, Postgres},
        sqlite::{self, Sqlite},
    },
};

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

Set it up to stay:
  export WORKSPACES_KEY_PEPPER=$(openssl rand -hex 32)   # keep it: keys are lost without it
  workspaces database migrate                            # PostgreSQL needs it once; SQLite does it by itself
  account=$(workspaces account create --name Ada)
  workspaces key create $account                         # prints the key, once
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
}

/// Runs the program with the process's own arguments.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[allow(clippy::print_stderr, reason = "the program's last word, also where the log is filtered")]
            {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Longest time for which the end of the program waits for work that blocks a thread.
const END_TIMEOUT: Duration = Duration::from_secs(2);

fn run(command: Command) -> Result<()> {
    let runtime = Runtime::new().context("no threads can be started")?;
    let outcome = runtime.block_on(run_async(command));
    // A file system or a database that hangs does not keep the process from ending.
    runtime.shutdown_timeout(END_TIMEOUT);
    outcome
}

async fn run_async(command: Command) -> Result<()> {
    match command {
        Command::Serve(serve) => serve.run().await,
        Command::Config(config) => config.run(),
        Command::Reload(reload) => reload.run(),
        Command::Compile(compile) => compile.run(),
        Command::Account(account) => account.run().await,
        Command::Organization(organization) => organization.run().await,
        Command::Key(key) => key.run().await,
        Command::Workspace(workspace) => workspace.run().await,
        Command::Database(database) => database.run().await,
    }
}

/// Where the database is.
#[derive(clap::Args)]
struct DatabaseArguments {
    /// The database: sqlite:PATH, sqlite::memory: or postgres://USER@HOST/NAME (several hosts, commas between, for a server with standbys)
    #[arg(long, env = "WORKSPACES_DATABASE", default_value = "sqlite:workspaces.db", hide_env_values = true, value_parser = AddressParser)]
    database: DatabaseAddress,
}

impl DatabaseArguments {
    /// For commands that write: a file that is not there is made.
    async fn open(&self) -> Result<Arc<dyn Database>, DatabaseError> {
        self.open_with(&sqlite::Options::default(), &postgres::Options { check: false, ..Default::default() }).await
    }

    /// For commands that look at what is there.
    async fn open_existing(&self) -> Result<Arc<dyn Database>, DatabaseError> {
        let sqlite = sqlite::Options { create: false, ..Default::default() };
        self.open_with(&sqlite, &postgres::Options { check: false, ..Default::default() }).await
    }

    async fn open_with(
        &self,
        sqlite: &sqlite::Options,
        postgres: &postgres::Options,
    ) -> Result<Arc<dyn Database>, DatabaseError> {
        self.database.open(sqlite, postgres).await
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum DatabaseAddress {
    File(PathBuf),
    Memory,
    Server(String),
}

impl DatabaseAddress {
    async fn open(
        &self,
        sqlite: &sqlite::Options,
        postgres: &postgres::Options,
    ) -> Result<Arc<dyn Database>, DatabaseError> {
        Ok(match self {
            Self::File(path) => Arc::new(Sqlite::open_with(path, sqlite)?),
            Self::Memory => Arc::new(Sqlite::in_memory()?),
            Self::Server(address) => Arc::new(Postgres::connect(address, postgres).await?),
        })
    }

    fn parse(address: &str) -> Option<Self> {
        if address.starts_with("postgres://") || address.starts_with("postgresql://") {
            return Some(Self::Server(address.into()));
        }
        match address.strip_prefix("sqlite:")? {
            "" => None,
            ":memory:" => Some(Self::Memory),
            path => Some(Self::File(path.into())),
        }
    }
}

/// Reads an address; clap's own errors would repeat it, with its password.
#[derive(Clone)]
struct AddressParser;

impl TypedValueParser for AddressParser {
    type Value = DatabaseAddress;

    fn parse_ref(&self, command: &clap::Command, _: Option<&Arg>, value: &OsStr) -> Result<Self::Value, clap::Error> {
        value.to_str().and_then(DatabaseAddress::parse).ok_or_else(|| {
            let message = "--database (WORKSPACES_DATABASE) is sqlite:PATH, sqlite::memory: or postgres://…";
            command.clone().error(ErrorKind::ValueValidation, message)
        })
    }
}

/// The secret that API keys are hashed with.
#[derive(clap::Args)]
struct PepperArguments {
    /// The secret that API keys are hashed with, the same for every command
    #[arg(long = "key-pepper", env = "WORKSPACES_KEY_PEPPER", hide_env_values = true)]
    pepper: Option<String>,
}

impl PepperArguments {
    fn secret(&self) -> Result<&str> {
        self.pepper.as_deref().filter(|pepper| !pepper.is_empty()).context(
            "no key pepper: make one with `export WORKSPACES_KEY_PEPPER=$(openssl rand -hex 32)` and keep it, keys are lost without it",
        )
    }

    fn pepper(&self) -> Result<Pepper> {
        Ok(Pepper::new(self.secret()?.as_bytes()))
    }
}

/// Prints an answer: the line for people, or the value as JSON.
fn print(json: bool, value: &impl Serialize, line: impl std::fmt::Display) -> Result<()> {
    match json {
        true => say(serde_json::to_string(value)?),
        false => say(line),
    }
}

/// Prints a list: one line each for people, or one JSON array.
fn print_all<T: Serialize>(json: bool, values: &[T], line: impl Fn(&T) -> String) -> Result<()> {
    match json {
        true => say(serde_json::to_string(values)?),
        false => values.iter().try_for_each(|value| say(line(value))),
    }
}

/// A line on standard output; where nobody reads it, as behind `| head`, an error and no panic.
fn say(line: impl std::fmt::Display) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
