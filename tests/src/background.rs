//! Programs that tests run in the background, as a user that they accept, on ports that are free.

use std::{
    env,
    fs::{self, File},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, TcpListener},
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::PATIENCE;

/// A folder of programs, and the user and group to run them as: PostgreSQL refuses root.
#[derive(Clone)]
pub(crate) struct Programs {
    location: PathBuf,
    user: Option<(u32, u32)>,
}

impl Programs {
    pub(crate) fn find(names: &[&str]) -> Result<Self> {
        let location = location(names).with_context(|| format!("not installed: {names:?}"))?;
        let user = if id(&["-u"])? == 0 {
            let both = |name| Ok::<_, anyhow::Error>((id(&["-u", name])?, id(&["-g", name])?));
            Some(both("postgres").or_else(|_| both("nobody"))?)
        } else {
            None
        };
        Ok(Self { location, user })
    }

    /// Returns a folder that the programs may write in.
    pub(crate) fn folder(&self) -> Result<TempDir> {
        let folder = TempDir::new()?;
        if let Some((user, group)) = self.user {
            chown(folder.path(), Some(user), Some(group))?;
        }
        Ok(folder)
    }

    /// Returns the folder that the programs are in.
    pub(crate) fn location(&self) -> &Path {
        &self.location
    }

    /// Returns a command that runs one of the programs without the environment's PG… variables.
    pub(crate) fn command(&self, folder: &Path, name: &str) -> Command {
        let mut command = Command::new(self.location.join(name));
        command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
        command.env("HOME", folder).env("LC_ALL", "C").current_dir(folder).stdin(Stdio::null());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    pub(crate) fn run(&self, folder: &Path, name: &str, arguments: &[&str]) -> Result<String> {
        let output = self.command(folder, name).args(arguments).output()?;
        ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }
}

/// A program in the background, ended with its children when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Reads the standard output, which ends when the last of the processes does.
    reader: JoinHandle<()>,
}

impl Process {
    /// Waits until the program logs that it is ready; returns nothing where its port is taken.
    ///
    /// # Errors
    ///
    /// Where it ends, or is not ready in time.
    pub fn launch(command: &mut Command, log: PathBuf, ready: &str) -> Result<Option<Self>> {
        let mut child = command.stdout(Stdio::piped()).stderr(File::create(&log)?).spawn()?;
        let mut stdout = child.stdout.take().context("no standard output")?;
        let reader = thread::spawn(move || {
            let _ = io::copy(&mut stdout, &mut io::sink());
        });
        let mut process = Self { child, log, reader };
        let mut ended = false;
        let started = until("it to be ready", || {
            ended = process.child.try_wait()?.is_some();
            Ok(ended || process.logged().contains(ready))
        });
        let logged = process.logged();
        started.with_context(|| logged.clone())?;
        if !ended {
            return Ok(Some(process));
        }
        ensure!(logged.contains("Address already in use"), "it ended: {logged}");
        Ok(None)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns what it has written to standard error.
    pub fn logged(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status()?;
        ensure!(status.success(), "kill failed");
        Ok(())
    }

    /// Sends a signal to it and to its children.
    pub(crate) fn signal_all(&self, name: &str) -> Result<()> {
        self.signal(name)?;
        let children = Command::new("pgrep").args(["-P", &self.child.id().to_string()]).output()?;
        for child in String::from_utf8_lossy(&children.stdout).split_whitespace() {
            // One that has ended meanwhile is no matter.
            let _ = Command::new("kill").args(["-s", name, child]).output()?;
        }
        Ok(())
    }

    /// Waits until all of its processes are gone.
    pub(crate) fn wait(&mut self) -> Result<()> {
        until("it to end", || Ok(self.child.try_wait()?.is_some() && self.reader.is_finished()))
            .with_context(|| self.logged())
    }

    /// Kills it and its children.
    ///
    /// # Errors
    ///
    /// Where that is not possible.
    pub fn kill(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            // Stopped, it neither starts children nor reaps them, so that their numbers stay theirs. Its process
            // group would not do: each child of PostgreSQL leads a group of its own.
            self.signal("STOP")?;
            let children = Command::new("pgrep").args(["-P", &self.child.id().to_string()]).output();
            if let Ok(children) = &children {
                let numbers = String::from_utf8_lossy(&children.stdout);
                let _ = Command::new("kill").args(["-s", "KILL"]).args(numbers.split_whitespace()).output();
            }
            self.child.kill()?;
            children.context("pgrep")?;
        }
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Returns whether the programs are installed, and says on standard error where they are not.
pub fn installed(programs: &[&str], package: &str) -> Result<bool> {
    if location(programs).is_some() { Ok(true) } else { missing(package) }
}

/// Says on standard error that a test did not run, and returns false.
///
/// # Errors
///
/// In CI, where every test has to run.
pub fn missing(package: &str) -> Result<bool> {
    ensure!(env::var_os("CI").is_none(), "{package} is not installed, and CI has to run every test");
    // Not eprintln!, which the test harness captures.
    writeln!(io::stderr(), "\n!!! THIS TEST DID NOT RUN: install {package} (apt-get install {package}) !!!\n")?;
    Ok(false)
}

/// Returns the first folder that has all the programs: of the PATH, else of the newest version in Debian's place.
fn location(programs: &[&str]) -> Option<PathBuf> {
    let mut versions: Vec<u32> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable();
    env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .chain(versions.iter().rev().map(|version| format!("/usr/lib/postgresql/{version}/bin").into()))
        .chain(["/usr/sbin".into()]) // pgbouncer, off an ordinary user's PATH
        .find(|folder| programs.iter().all(|program| folder.join(program).is_file()))
}

fn id(arguments: &[&str]) -> Result<u32> {
    let output = Command::new("id").args(arguments).output()?;
    ensure!(output.status.success(), "id {arguments:?} failed");
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Launches a program at a free port. Tries another port where a different process takes it first.
pub(crate) fn on_free_port(mut launch: impl FnMut(u16) -> Result<Option<Process>>) -> Result<(u16, Process)> {
    for _ in 0..10 {
        let port = free_port()?;
        if let Some(process) = launch(port)? {
            return Ok((port, process));
        }
    }
    bail!("no free port")
}

pub(crate) fn free_port() -> Result<u16> {
    free_port_of(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

pub(crate) fn free_port_of(address: IpAddr) -> Result<u16> {
    Ok(TcpListener::bind((address, 0))?.local_addr()?.port())
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
