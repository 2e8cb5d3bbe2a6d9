use std::{
    io::{IsTerminal as _, stderr},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Subcommand;
use serde::Serialize;

use super::{DatabaseArguments, PepperArguments, print_done};
use crate::{
    auth::api_key::Pepper,
    server::secret,
    storage::{ApiKey, Check, DatabaseAddress, Finding, Progress, Severity, postgres::Postgres, sqlite::Access},
    terminal,
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make the tables that are missing; what is there is left as it is
    Migrate {
        #[command(flatten)]
        database: DatabaseArguments,
    },
    /// Look for damage, half-made workspaces and keys of another pepper; exits with 1 where there are any
    Check {
        #[command(flatten)]
        database: DatabaseArguments,
        #[command(flatten)]
        pepper: PepperArguments,
    },
    /// Copy an SQLite database into a new file, also while it is in use
    Backup {
        /// The file to make
        to: PathBuf,
        #[command(flatten)]
        database: DatabaseArguments,
    },
}

impl Command {
    pub(super) async fn run(self, json: bool) -> Result<()> {
        match self {
            Self::Migrate { database } => {
                let address = database.address()?;
                if let DatabaseAddress::Server(address) = &address {
                    Postgres::migrate(address).await.map_err(|error| secret::hide_in(error, address))?;
                } else {
                    database.open_for(Access::Migrate).await?;
                }
                #[derive(Serialize)]
                struct Migrated {
                    database: String,
                }
                print_done(json, &Migrated { database: address.shown() })
            }
            Self::Check { database, pepper } => {
                let (database, pepper) = (database.open_to_read().await?, database.pepper(&pepper)?);
                let mut check = database.check(progress("checked")).await?;
                if let Some(pepper) = pepper {
                    let pepper = Pepper::new(pepper.as_bytes()).check();
                    check.findings.extend(other_pepper(&database.keys_of_another_pepper(&pepper).await?));
                    check.findings.sort_by_key(|finding| finding.severity);
                }
                match json {
                    true => terminal::print_json(&check)?,
                    false => report(&check).try_for_each(terminal::print)?,
                }
                match check.findings.iter().filter(|finding| finding.severity == Severity::Error).count() {
                    0 => Ok(()),
                    errors => bail!("the check found {errors} errors"),
                }
            }
            Self::Backup { to, database } => {
                database.open_to_read().await?.backup(&to, progress("copied")).await?;
                #[derive(Serialize)]
                struct Copied {
                    file: PathBuf,
                }
                print_done(json, &Copied { file: to })
            }
        }
    }
}

/// Returns the finding where there are keys of another pepper than the one given.
fn other_pepper(keys: &[ApiKey]) -> Option<Finding> {
    const NAMED: usize = 10;
    (!keys.is_empty()).then(|| Finding {
        severity: Severity::Error,
        what: format!("{} API keys of another pepper than the one given: a server with it does not start", keys.len()),
        ids: keys.iter().take(NAMED).map(|key| key.id).collect(),
    })
}

/// Returns the lines of a report.
fn report(check: &Check) -> impl Iterator<Item = String> {
    let mut first = format!("schema {}", check.schema);
    if let (Some(accounts), Some(workspaces)) = (check.accounts, check.workspaces) {
        first += &format!(", {accounts} accounts, {workspaces} workspaces");
    }
    let findings = check.findings.iter().flat_map(|finding| {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Note => "note",
        };
        let ids = finding.ids.iter().map(|id| format!("  {id}"));
        std::iter::once(format!("{severity}: {}", finding.what)).chain(ids)
    });
    std::iter::once(first).chain(findings)
}

/// Returns what shows on standard error how far work has come, twice a second at most.
fn progress(what: &'static str) -> Progress {
    const PAUSE: Duration = Duration::from_millis(500);
    let (in_place, mut last) = (stderr().is_terminal(), Instant::now());
    let mut shown = false;
    Box::new(move |done, all| {
        let ended = done == all;
        if last.elapsed() < PAUSE && !(ended && shown) {
            return;
        }
        (last, shown) = (Instant::now(), true);
        terminal::print_progress(what, done * 100 / all.max(1), in_place, ended);
    })
}
