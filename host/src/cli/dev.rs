use std::{
    env, fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    select,
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::sleep,
};

use super::verify::read_component;
use crate::{
    harness::{Report, Verify, report::Format},
    server::{address::socket_address, config_file::read_limits},
    terminal,
};

/// Build, judge and serve a component again at each change
///
/// `build.sh` in the project's folder makes `component.wasm`, as in a project of `new`. A component that keeps the contract
/// is served with a throw-away database; one that does not leaves the one before. The log shows one request after another.
/// A file `limits.toml` in the folder has the component's limits, as --limits of `serve`.
#[derive(Args)]
pub(super) struct Dev {
    /// Folder of the project
    folder: PathBuf,
    /// The address to listen at; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = socket_address)]
    listen: SocketAddr,
}

/// Script of a project that builds it, and the component that it makes.
const BUILD: &str = "build.sh";
const COMPONENT: &str = "component.wasm";

/// File of its limits.
const LIMITS: &str = "limits.toml";

/// Component that is served, beside it: the last one that keeps the contract.
const SERVED: &str = ".served.wasm";

/// Names of files and folders that builds make.
const MADE: [&str; 6] = ["target", "Cargo.lock", "node_modules", "package-lock.json", "venv", "__pycache__"];

/// Period in which the project is looked at for changes.
const LOOK: Duration = Duration::from_millis(200);

impl Dev {
    /// Runs until it is stopped, or the server ends.
    pub(super) async fn run(self, json: bool) -> Result<()> {
        let build = self.folder.join(BUILD);
        ensure!(build.is_file(), "there is no {}: make a project with `workspaces new`", build.display());
        let served = self.folder.join(SERVED);
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (mut server, mut seen) = (None::<Child>, None);
        let outcome = loop {
            let now = newest(&self.folder);
            if seen != Some(now) {
                seen = Some(now);
                if self.rebuild(&served).await? {
                    match &server {
                        Some(server) => notify(server, Signal::HUP)?,
                        None => server = Some(self.serve(&served, json)?),
                    }
                }
            }
            select! {
                () = sleep(LOOK) => {}
                _ = interrupt.recv() => break Ok(()),
                _ = terminate.recv() => break Ok(()),
                ended = ended(&mut server) => break ended.and_then(|ended| bail!("the server has ended: {ended}")),
            }
        };
        if let Some(mut server) = server.filter(|server| server.id().is_some()) {
            notify(&server, Signal::TERM)?;
            server.wait().await?;
        }
        // There is none where nothing was served.
        let _ = fs::remove_file(&served);
        outcome
    }

    /// Builds and judges the component. Returns whether it is good, and in its place.
    async fn rebuild(&self, served: &Path) -> Result<bool> {
        terminal::print_error_line("building …");
        let program = env::current_exe()?;
        let built = Command::new("sh").arg(BUILD).current_dir(&self.folder).env("WORKSPACES", program).status();
        let built = built.await.context("sh can't be started")?;
        if !built.success() {
            terminal::print_error_line("the build failed: the component before goes on");
            return Ok(false);
        }
        let component = self.folder.join(COMPONENT);
        let limits = match self.limits().map(|file| read_limits(&file)).transpose() {
            Ok(limits) => limits.unwrap_or_default(),
            Err(error) => {
                terminal::print_error_line(&format!("{error:#}: the component before goes on"));
                return Ok(false);
            }
        };
        let wasm = match read_component(&component, &limits.pool) {
            Ok(wasm) => wasm,
            Err(error) => {
                terminal::print_error_line(&format!("{error:#}: the component before goes on"));
                return Ok(false);
            }
        };
        let judged = wasm.clone();
        let report: Report =
            spawn_blocking(move || Verify::new(judged).limits(limits.sandbox).pool(limits.pool).run()).await??;
        let text = report.render(&component.display().to_string(), Format::Text { colour: false });
        std::io::stderr().write_all(text.as_bytes())?;
        if !report.passed() {
            terminal::print_error_line("it does not keep the contract: the component before goes on");
            return Ok(false);
        }
        // At once: the server reads no half of it.
        let new = served.with_extension("new");
        fs::write(&new, wasm).and_then(|()| fs::rename(&new, served)).context("can't write the component")?;
        Ok(true)
    }

    /// Returns the file of the component's limits, where there is one.
    fn limits(&self) -> Option<PathBuf> {
        Some(self.folder.join(LIMITS)).filter(|file| file.is_file())
    }

    fn serve(&self, component: &Path, json: bool) -> Result<Child> {
        let mut server = Command::new(env::current_exe()?);
        server.args(["serve", "--demo", "--listen", &self.listen.to_string(), "--component"]).arg(component);
        if let Some(limits) = self.limits() {
            server.arg("--limits").arg(limits);
        }
        if json {
            server.arg("--json");
        }
        server.kill_on_drop(true).spawn().context("the server can't be started")
    }
}

/// Waits for the end of a server; forever where there is none.
async fn ended(server: &mut Option<Child>) -> Result<ExitStatus> {
    match server {
        Some(server) => Ok(server.wait().await?),
        None => std::future::pending().await,
    }
}

fn notify(server: &Child, signal: Signal) -> Result<()> {
    let process = server.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    Ok(kill_process(process.context("the server has ended")?, signal)?)
}

/// Returns the time of the last change of a source. What builds make is none.
fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let times = entries.filter_map(|entry| {
        let (name, kind) = (entry.file_name(), entry.file_type().ok()?);
        let name = name.to_string_lossy();
        let is_made = name.starts_with('.') || MADE.contains(&&*name) || name.ends_with(".wasm");
        match (is_made, kind.is_dir()) {
            (true, _) => None,
            (false, true) => newest(&entry.path()),
            (false, false) => entry.metadata().ok()?.modified().ok(),
        }
    });
    times.max()
}
