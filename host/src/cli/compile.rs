use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use super::print_done;
use crate::{
    files::{self, Limit},
    runtime::{Pool, compile},
    server::{
        compiler::{Compiler, component_file, require_component},
        seal::seal,
    },
};

/// Compile a component to what an embedder's `Sandboxes::load` takes
///
/// The server does this by itself, in processes of this command, for the components of its tenants.
#[derive(Args)]
pub(super) struct Compile {
    /// The component; - reads it from standard input
    component: PathBuf,
    /// File to write; - is standard output
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// The most memory to use, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Compiler::default().memory)]
    memory: u64,
    /// The most time to take, such as 10s
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    time: Duration,
}

impl Compile {
    pub(super) fn run(self, json: bool) -> Result<()> {
        Compiler { memory: self.memory, time: self.time }.confine()?;
        let is_standard = |path: &PathBuf| path.as_os_str() == "-";
        let name = self.component.display();
        let limit = component_file(Pool::default().component_size);
        // A result that goes to a file is written by the process that compiled it, which must open the file then.
        let seal = || if is_standard(&self.output) { seal() } else { Ok(()) };
        let wasm = match is_standard(&self.component) {
            true => {
                seal()?;
                // The server that sends it has checked its size.
                Limit::new(self.memory, "raise --memory").read(io::stdin(), 0)
            }
            false => {
                let wasm = files::read(&self.component, limit);
                seal()?;
                wasm
            }
        }
        .with_context(|| format!("can't read the component {name}"))?;
        require_component(&wasm).with_context(|| format!("can't compile {name}"))?;
        let compiled = compile(&wasm)?;
        let (written, to_file) = match is_standard(&self.output) {
            true => (io::stdout().write_all(&compiled), false),
            false => (fs::write(&self.output, compiled), true),
        };
        written.with_context(|| format!("can't write {}", self.output.display()))?;
        #[derive(Serialize)]
        struct Compiled {
            file: PathBuf,
        }
        match to_file {
            true => print_done(json, &Compiled { file: self.output }),
            false => Ok(()),
        }
    }
}
