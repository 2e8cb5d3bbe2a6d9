use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use super::{print_done, verify::read_component};
use crate::{harness, runtime::Pool};

/// Make a component of a core module, for compilers that make none
#[derive(Args)]
#[command(after_help = "\
For C, with the imports and exports of the contract by the canonical ABI:
  clang --target=wasm32 -nostdlib -Wl,--no-entry -o module.wasm component.c
  workspaces componentize module.wasm --output component.wasm")]
pub(super) struct Componentize {
    /// The core module
    module: PathBuf,
    /// File for the component
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

impl Componentize {
    pub(super) fn run(self, json: bool) -> Result<()> {
        let module = read_component(&self.module, &Pool::default())?;
        let component = harness::componentize(&module).with_context(|| self.module.display().to_string())?;
        fs::write(&self.output, component).with_context(|| format!("can't write {}", self.output.display()))?;
        #[derive(Serialize)]
        struct Made {
            file: PathBuf,
        }
        print_done(json, &Made { file: self.output })
    }
}
