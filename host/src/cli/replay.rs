use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;

use super::{
    limits::LimitArguments,
    verify::{NotLoaded, read_component, without_verdict},
};
use crate::{
    COMPONENT,
    files::{self, Limit},
    harness::{Case, Player, Replayed},
    runtime::Digest,
    server::bundles::Bundle,
    terminal,
};

/// Replay recorded requests, without storage and network
///
/// The component gets the recorded request, and to each of its calls the recorded answer. The first difference in calls or
/// answer is shown.
#[derive(Args)]
#[command(after_help = "\
Does a new component answer a recorded request as the old one did?
  workspaces replay recorded/*.json --component new.wasm

Exit codes: 0 all as recorded, 1 a difference, 2 wrong usage, 3 could not be loaded.")]
pub(super) struct Replay {
    /// Bundles that `serve --record` wrote
    #[arg(required = true, value_name = "BUNDLE")]
    bundles: Vec<PathBuf>,
    /// Component to replay with; without it the built-in one, if the bundle was recorded with it
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArguments,
    /// Print the bundles as cases for `verify --cases` instead
    #[arg(long, conflicts_with = "component")]
    as_case: bool,
}

/// Maximum size of a bundle.
const BUNDLE: Limit = Limit::fixed(4 << 20);

/// Replay of a bundle, as JSON has it.
#[derive(Serialize)]
struct BundleReplay {
    bundle: String,
    component: String,
    #[serde(flatten)]
    replayed: Replayed,
}

impl Replay {
    pub(super) fn run(self, json: bool) -> ExitCode {
        without_verdict(self.replay(json), json)
    }

    fn replay(self, json: bool) -> Result<ExitCode> {
        let bundles = self.bundles.iter().map(|path| Ok((path, read(path)?))).collect::<Result<Vec<_>>>()?;
        if self.as_case {
            let cases = bundles.iter().map(|(path, bundle)| {
                let name = path.file_stem().unwrap_or_default().to_string_lossy();
                Case::of_recording(name, &bundle.recording)
            });
            let text = serde_json::to_string_pretty(&cases.collect::<Vec<_>>())?;
            text.lines().try_for_each(terminal::print)?;
            return Ok(ExitCode::SUCCESS);
        }
        let limits = self.limits.read()?;
        let pool = limits.pool.clone();
        let player = Player::with_limits(limits.sandbox, limits.pool)?;
        let wasm = match &self.component {
            Some(path) => read_component(path, &pool)?,
            None => COMPONENT.to_vec(),
        };
        let component =
            player.load(&wasm).map_err(|error| NotLoaded(format!("the component can't be loaded: {error}")))?;
        let mut replays = Vec::new();
        for (path, bundle) in bundles {
            let recorded = &bundle.recording.component;
            ensure!(
                self.component.is_some() || *recorded == Digest::of(COMPONENT).as_str(),
                "{} was recorded with the component {recorded}, which is not the built-in one: give --component FILE",
                path.display()
            );
            let replayed = player.replay(&component, &bundle.recording);
            replays.push(BundleReplay {
                bundle: path.display().to_string(),
                component: component.digest().to_string(),
                replayed,
            });
        }
        let differs = replays.iter().any(|replay| replay.replayed.difference.is_some());
        match json {
            true => terminal::print_json(&replays)?,
            false => replays.iter().try_for_each(print)?,
        }
        Ok(ExitCode::from(u8::from(differs)))
    }
}

fn read(path: &Path) -> Result<Bundle> {
    let text = files::read_text(path, BUNDLE).with_context(|| format!("can't read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no bundle of `serve --record`", path.display()))
}

/// Prints a replay for people.
fn print(BundleReplay { bundle, replayed, .. }: &BundleReplay) -> Result<()> {
    let Replayed { difference, played } = replayed;
    let verdict = if difference.is_none() { "as recorded" } else { "differs" };
    terminal::print(format_args!("{bundle}: {verdict}"))?;
    for exchange in &played.exchanges {
        terminal::print(format_args!("  call      {} → {}", exchange.call, exchange.reply))?;
    }
    match difference {
        None => terminal::print(format_args!("  answer    {}", played.ending)),
        Some(difference) => {
            terminal::print(format_args!("  place     {}", difference.place))?;
            terminal::print(format_args!("  recorded  {}", difference.recorded))?;
            terminal::print(format_args!("  replayed  {}", difference.replayed))
        }
    }
}
