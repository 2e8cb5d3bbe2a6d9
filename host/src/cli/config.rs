use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use clap::Subcommand;
use serde::Serialize;
use tokio::{pin, select, time::sleep};

use crate::{
    server::{
        check::check,
        config_file::{self, Examined, Finding, Severity},
    },
    terminal,
};

#[derive(Subcommand)]
pub(super) enum Config {
    /// Check a configuration and what it names, and say what is wrong: the file, the line and the key
    ///
    /// Components are compiled and tried, databases are opened for reading, keys of an identity provider are fetched once,
    /// certificates and secrets are read. Nothing is changed; on PostgreSQL a create is tried and rolled back, as `serve`
    /// does. Exits with 1 where there are errors.
    Check {
        /// The file
        file: PathBuf,
        /// Leave out servers of databases and addresses of keys
        #[arg(long)]
        offline: bool,
    },
}

/// Time after which a check that goes on says so.
const PATIENCE: Duration = Duration::from_secs(1);

/// Result of a check, as JSON has it.
#[derive(Serialize)]
struct CheckReport {
    file: String,
    /// Number of tenants; none where the file can't be read as a configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenants: Option<usize>,
    errors: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

impl Config {
    pub(super) async fn run(self, json: bool) -> Result<()> {
        let Self::Check { file, offline } = self;
        let Examined { document, config, mut findings } = config_file::examine(&file)?;
        if let Some(config) = &config {
            let checked = check(&document, config, offline);
            pin!(checked);
            let opened = select! {
                opened = &mut checked => opened,
                () = sleep(PATIENCE) => {
                    terminal::print_error_line("checking components, databases and addresses …");
                    checked.await
                }
            };
            findings.extend(opened);
        }
        findings.sort_by_key(|finding| (finding.line, finding.column));
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let tenants = config.map(|config| config.tenants.len());
        if json {
            terminal::print_json(&CheckReport {
                file: file.display().to_string(),
                tenants,
                errors,
                warnings,
                findings,
            })?;
        } else {
            for finding in &findings {
                terminal::print_error_line(&format!("{}: {finding}", finding.severity));
            }
            if errors == 0 {
                let warned = if warnings > 0 { format!(", {}", counted(warnings, "warning")) } else { String::new() };
                let tenants = counted(tenants.unwrap_or_default(), "tenant");
                terminal::print(format_args!("{} is valid: {tenants}{warned}", file.display()))?;
            }
        }
        match errors {
            0 => Ok(()),
            errors => bail!("{} has {}", file.display(), counted(errors, "error")),
        }
    }
}

/// Returns a number with its noun.
fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
