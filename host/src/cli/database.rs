use std::{
    io::{IsTerminal as _, Write as _, stderr},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Subcommand;

use super::{DatabaseAddress, DatabaseArguments, print};
use crate::storage::{Check, Progress, Severity, postgres::Postgres};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make the tables that are missing; what is there is left as it is
    Migrate {
        #[command(flatten)]
        database: DatabaseArguments,
    },
    /// Look for damage and for half-made workspaces; exits with 1 where there is any
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseArguments,
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
    pub(super) async fn run(self) -> Result<()> {
        match self {
            Self::Migrate { database } => {
                if let DatabaseAddress::Server(address) = &database.database {
                    Postgres::migrate(address).await?;
                } else {
                    database.open().await?;
                }
                Ok(())
            }
            Self::Check { json, database } => {
                let check = database.open_existing().await?.check(progress("checked")).await?;
                print(json, &check, report(&check))?;
                match check.findings.iter().filter(|finding| finding.severity == Severity::Error).count() {
                    0 => Ok(()),
                    errors => bail!("the check found {errors} errors"),
                }
            }
            Self::Backup { to, database } => {
                Ok(database.open_existing().await?.backup(&to, progress("copied")).await?)
            }
        }
    }
}

fn report(check: &Check) -> String {
    let mut report = format!("schema {}", check.schema);
    if let (Some(accounts), Some(workspaces)) = (check.accounts, check.workspaces) {
        report += &format!(", {accounts} accounts, {workspaces} workspaces");
    }
    for finding in &check.findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Note => "note",
        };
        report += &format!("\n{severity}: {}", finding.what);
        for id in &finding.ids {
            report += &format!("\n  {id}");
        }
    }
    report
}

/// How far work has come, on standard error: in place on a terminal, a line now and then elsewhere.
fn progress(what: &'static str) -> Progress {
    const PAUSE: Duration = Duration::from_millis(500);
    let (terminal, mut last) = (stderr().is_terminal(), Instant::now());
    let mut shown = false;
    Box::new(move |done, all| {
        let ended = done == all;
        if last.elapsed() < PAUSE && !(ended && shown) {
            return;
        }
        (last, shown) = (Instant::now(), true);
        let percent = done * 100 / all.max(1);
        let (start, end) = if terminal { ("\r", if ended { "\n" } else { "" }) } else { ("", "\n") };
        // What can't be shown is no reason to stop the work.
        let _ = write!(stderr(), "{start}{what} {percent} %{end}");
    })
}
