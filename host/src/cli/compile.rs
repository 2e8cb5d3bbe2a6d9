//! Compiling components, in a process that can be held to memory and time.

use std::{
    env, fs,
    io::{self, Write as _},
    path::PathBuf,
    pin::pin,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rustix::process::{Resource, Rlimit, nice, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
    try_join,
};

use super::{seal::seal, serve::plan::Compiler};
use crate::{
    files::{self, Limit},
    runtime::{Pool, compile},
};

/// Most bytes of the compiler's error that are kept.
const MAX_SAID: usize = 16 << 10;

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
        let limit = component_file(Pool::default().component_size);
        // A result that goes to a file is written by the process that compiled it, which must open the file then.
        let seal = || if is_standard(&self.output) { seal() } else { Ok(()) };
        let wasm = match is_standard(&self.component) {
            true => {
                seal()?;
                // The server that sends it has checked its size.
                Limit::new(self.memory, "raise --memory").read(io::stdin())
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
        match is_standard(&self.output) {
            true => io::stdout().write_all(&compiled),
            false => fs::write(&self.output, compiled),
        }
        .with_context(|| format!("can't write {}", self.output.display()))
    }
}

/// Checks that bytes begin as a component does. The compiler would quote them.
pub(super) fn require_component(wasm: &[u8]) -> Result<()> {
    let found = match wasm {
        [0, b'a', b's', b'm', ..] => return Ok(()),
        [] => "the file is empty",
        [0x1f, 0x8b, ..] => "it is compressed with gzip: unpack it",
        text if text.is_ascii() => "it is text: give the binary form",
        _ => "it is no WebAssembly",
    };
    bail!("not a component that can be compiled: {found}")
}

/// Returns the limit of a component's file.
pub(super) fn component_file(bytes: usize) -> Limit {
    Limit::new(bytes as u64, "raise pool.component-size, or make the component smaller")
}

/// This very program, also where another has been put in its file's place since.
fn this_program() -> io::Result<PathBuf> {
    match cfg!(target_os = "linux") {
        true => Ok("/proc/self/exe".into()),
        false => env::current_exe(),
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

    /// Compiles a component in a process of its own, which knows nothing of this one's secrets. Of code over
    /// the limit `most`, reads no more than shows that it is.
    ///
    /// # Errors
    ///
    /// What is wrong with the component, or which limit it met.
    pub(super) async fn compile(self, wasm: &[u8], most: usize) -> Result<Vec<u8>, NotCompiled> {
        let lost = |error: io::Error| NotCompiled::Now(format!("the compiler's process is lost: {error}"));
        let mut child = Command::new(this_program().map_err(lost)?)
            .args(["compile", "-", "--output", "-", "--memory", &self.memory.to_string()])
            .args(["--time", &format!("{}ms", self.time.as_millis())])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| NotCompiled::Now(format!("the compiler's process can't be started: {error}")))?;
        let process = child.id();
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(lost(io::ErrorKind::BrokenPipe.into()));
        };
        let run = async {
            // Where the process ends before it has read everything, it has said why.
            let _ = stdin.write_all(wasm).await;
            drop(stdin);
            // Its error may quote the component, and be long.
            let (compiled, said) = try_join!(read(stdout, most.saturating_add(1)), read(stderr, MAX_SAID))?;
            Ok((child.wait().await?, compiled, said))
        };
        let mut run = pin!(run);
        let (status, compiled, said) = match timeout(self.time, &mut run).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(lost(error)),
            Err(_) => {
                let used = process.and_then(processor_time).unwrap_or(self.time);
                return Err(NotCompiled::Late { limit: self.time, used });
            }
        };
        if compiled.len() > most {
            let reason = format!("its code takes over {most} bytes, the limit pool.compiled-size");
            return Err(NotCompiled::Ever(reason));
        }
        if status.success() {
            return Ok(compiled);
        }
        let said = String::from_utf8_lossy(&said);
        let said = said.trim().trim_start_matches("error: ");
        Err(match status.code() {
            Some(_) => NotCompiled::Ever(said.to_owned()),
            None if said.contains("memory allocation") => NotCompiled::Ever(format!(
                "compiling takes over {} bytes of memory, the limit compile.memory",
                self.memory
            )),
            None => NotCompiled::Now(format!("the compiler's process was ended ({status}): {said}")),
        })
    }
}

/// Reads so many bytes at most, and closes the pipe: who has more to write ends with an error.
async fn read(pipe: impl AsyncRead + Unpin, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.take(most as u64).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Reason why nothing was compiled.
#[derive(thiserror::Error, Debug)]
pub(super) enum NotCompiled {
    /// The component's own fault: under the same limits another try would end the same way.
    #[error("{0}")]
    Ever(String),
    /// A fault of the moment.
    #[error("{0}")]
    Now(String),
    /// The time was over.
    #[error("compiling takes over {limit:?}, the limit compile.time; the machine gave it {used:?}")]
    Late {
        /// Longest time.
        limit: Duration,
        /// Time on the processor by then.
        used: Duration,
    },
}

impl NotCompiled {
    /// Returns whether another try under the same limits would end the same way.
    pub(super) fn lasts(&self) -> bool {
        match self {
            Self::Ever(_) => true,
            Self::Now(_) => false,
            // A machine that is busy with other work is no fault of the component.
            Self::Late { limit, used } => *used >= *limit / 2,
        }
    }
}

/// Returns the time that a process has had on the processor.
fn processor_time(process: u32) -> Option<Duration> {
    /// Unit of the times in that file, the same on every Linux.
    const TICK: Duration = Duration::from_millis(10);
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program's name, in parentheses, may hold anything; the fields behind it are numbers.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11).map(str::parse::<u32>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(TICK * user.saturating_add(system))
}
