//! Limits of the component that an option names.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{
    runtime::Wasi,
    server::config_file::{ComponentLimits, read_limits},
};

/// Limits of a component.
#[derive(Args)]
pub(super) struct LimitArguments {
    /// Limits of the component: a file with the keys that a configuration has for it (wasi, limits, pool, compile)
    #[arg(long, value_name = "FILE")]
    limits: Option<PathBuf>,
    /// WASI for the component: none, so that one that imports it is refused; or deny, imports that are empty and trap. By
    /// default what the file of limits says, or none
    #[arg(long, value_name = "WASI", hide_possible_values = true)]
    wasi: Option<Wasi>,
}

impl LimitArguments {
    /// Returns the limits.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub(super) fn read(&self) -> Result<ComponentLimits> {
        let mut limits = self.limits.as_deref().map(read_limits).transpose()?.unwrap_or_default();
        limits.sandbox.wasi = self.wasi.unwrap_or(limits.sandbox.wasi);
        Ok(limits)
    }
}
