//! Compiler of components: a process of this program, held to memory and time.

use std::{env, fs, io, path::PathBuf, pin::pin, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit, nice, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
    try_join,
};

use crate::files::Limit;

/// Most bytes of the compiler's error that are kept.
const MAX_SAID: usize = 16 << 10;

/// Limits of the compilation of one component, in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Time from start to end, and on the processor.
    pub(crate) time: Duration,
}

impl Default for Compiler {
    /// Returns fifty times what the built-in component takes.
    fn default() -> Self {
        Self { memory: 512 << 20, time: Duration::from_secs(10) }
    }
}

/// Checks that bytes begin as a component does. The compiler's own errors would quote them.
///
/// # Errors
///
/// What the file is instead, and what to do.
pub(crate) fn require_component(wasm: &[u8]) -> Result<()> {
    /// Preamble of a component: the magic number, the version of the format, and its layer.
    const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];
    let found = match wasm {
        [] => "the file is empty",
        wasm if wasm.starts_with(&COMPONENT) && !is_cut_off(&wasm[COMPONENT.len()..]) => return Ok(()),
        wasm if wasm.starts_with(&COMPONENT) || COMPONENT.starts_with(wasm) => "the file is cut off",
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            "it is a core module: build it for wasm32-wasip2, or make a component of it with `wasm-tools component new`"
        }
        [0, b'a', b's', b'm', ..] => "its version of the binary format is not known here",
        [0x1f, 0x8b, ..] => "it is compressed with gzip: unpack it",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is compressed with zstd: unpack it",
        [b'P', b'K', 3, 4, ..] => "it is a zip archive: unpack it",
        [0x7f, b'E', b'L', b'F', ..] => {
            "it is machine code, of a program or of `compile`: give the component that it was made of"
        }
        text if std::str::from_utf8(text).is_ok() => {
            "it is text: give the binary form, which `wasm-tools parse` makes of WAT"
        }
        _ => "it is no WebAssembly",
    };
    bail!("not a component that can be compiled: {found}")
}

/// Returns whether the last section is longer than the bytes that are left. A section is an id, a length in LEB128, and so
/// many bytes.
fn is_cut_off(mut sections: &[u8]) -> bool {
    while let [_, rest @ ..] = sections {
        let Some(end) = rest.iter().take(5).position(|byte| byte & 0x80 == 0) else { return rest.len() < 5 };
        let length = rest[..=end].iter().rev().fold(0, |length, byte| (length << 7) | usize::from(byte & 0x7f));
        match rest.get(end + 1..).and_then(|rest| rest.get(length..)) {
            Some(next) => sections = next,
            None => return true,
        }
    }
    false
}

/// Returns the limit of a component's file.
pub(crate) fn component_file(bytes: usize) -> Limit {
    Limit::new(bytes as u64, "raise pool.component-size, or make the component smaller")
}

/// Returns the path of this very program, also where another has been put in its file's place since.
fn this_program() -> io::Result<PathBuf> {
    match cfg!(target_os = "linux") {
        true => Ok("/proc/self/exe".into()),
        false => env::current_exe(),
    }
}

impl Compiler {
    /// Holds this process to the limits from now on.
    pub(crate) fn confine(self) -> Result<()> {
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
    pub(crate) async fn compile(self, wasm: &[u8], most: usize) -> Result<Vec<u8>, NotCompiled> {
        let lost = |error: io::Error| NotCompiled::Now(format!("the compiler's process is lost: {error}"));
        let mut child = Command::new(this_program().map_err(lost)?)
            // The name of this process (argv[0]): for ps, and for programs that do different things by their name.
            .arg0(env::args_os().next().unwrap_or_else(|| "workspaces".into()))
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
pub(crate) enum NotCompiled {
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
    pub(crate) fn lasts(&self) -> bool {
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
