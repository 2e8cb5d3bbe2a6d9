use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use super::{serve::config, terminal};

#[derive(Subcommand)]
pub(super) enum Config {
    /// Read a configuration as `serve --config` would, and say what is wrong with it: the file, the line and the key
    Check {
        /// The file
        file: PathBuf,
    },
}

impl Config {
    pub(super) fn run(self) -> Result<()> {
        let Self::Check { file } = self;
        let plan = config::read(&file)?;
        terminal::print(format_args!("{} is valid: {} tenants", file.display(), plan.tenants.len()))
    }
}
