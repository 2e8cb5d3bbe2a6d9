//! Compiling components, in a process that can be held to memory and time.

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use rustix::process::{Resource, Rlimit, nice, setrlimit};
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use super::serve::plan::Compiler;
use crate::runtime::compile;

/// Compile a component to what an embedder's `Sandboxes::load` takes
///
/// The server does this by itself, in processes of this command, for the components of its tenants.
#[derive(Args)]
pub(super) struct Compile {
    /// The component; - reads it from standard input
    component: PathBuf,
    /// Where to write; - is standard output
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
    pub(super) fn run(self) -> Result<()> {
        Compiler { memory: self.memory, time: self.time }.confine()?;
        let is_standard = |path: &PathBuf| path.as_os_str() == "-";
        let name = self.component.display();
        let mut wasm = Vec::new();
        match is_standard(&self.component) {
            true => io::stdin().read_to_end(&mut wasm).map(drop),
            false => fs::File::open(&self.component).and_then(|mut file| file.read_to_end(&mut wasm)).map(drop),
        }
        .with_context(|| format!("can't read the component {name}"))?;
        let compiled = compile(&wasm)?;
        match is_standard(&self.output) {
            true => io::stdout().write_all(&compiled),
            false => fs::write(&self.output, compiled),
        }
        .with_context(|| format!("can't write {}", self.output.display()))
    }
}

/// This very program, also where another has been put in its file's place since.
fn this_program() -> Result<PathBuf> {
    match cfg!(target_os = "linux") {
        true => Ok("/proc/self/exe".into()),
        false => env::current_exe().context("this program can't be found"),
    }
}

impl Compiler {
    /// Holds this process to the limits from now on.
    fn confine(self) -> Result<()> {
        // Who serves comes first.
        let _ = nice(10);
        let seconds = self.time.as_secs().saturating_add(1);
        for (resource, most) in [
            // Of private memory: what is only reserved does not count.
            (Resource::Data, self.memory),
            (Resource::Cpu, seconds),
            (Resource::Core, 0),
        ] {
            setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
                .with_context(|| format!("can't limit {resource:?} to {most}"))?;
        }
        Ok(())
    }

    /// Compiles a component in a process of its own, which knows nothing of this one's secrets.
    ///
    /// # Errors
    ///
    /// What is wrong with the component, or which limit it met.
    pub(super) async fn compile(self, wasm: &[u8]) -> Result<Vec<u8>> {
        let mut child = Command::new(this_program()?)
            .args(["compile", "-", "--output", "-", "--memory", &self.memory.to_string()])
            .args(["--time", &format!("{}ms", self.time.as_millis())])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the compiler's process can't be started")?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let run = async {
            // Where the process ends before it has read everything, it has said why.
            let _ = stdin.write_all(wasm).await;
            drop(stdin);
            child.wait_with_output().await
        };
        let output = match timeout(self.time, run).await {
            Ok(output) => output.context("the compiler's process is lost")?,
            Err(_) => bail!("compiling takes over {:?}, the limit compile.time", self.time),
        };
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(_) => Err(anyhow!("{}", said.trim().trim_start_matches("error: ").to_owned())),
            None if said.contains("memory allocation") => {
                bail!("compiling takes over {} bytes of memory, the limit compile.memory", self.memory)
            }
            None => bail!("the compiler's process was ended ({}): {}", output.status, said.trim()),
        }
    }
}
