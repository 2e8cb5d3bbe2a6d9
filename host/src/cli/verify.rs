//! The judge of components, and the contract.

use std::{
    cell::Cell,
    env, fs,
    io::{IsTerminal as _, Write as _, stderr, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{limits::LimitArguments, print_all, print_done};
use crate::{
    COMPONENT, files,
    harness::{
        Budget, Case, Failure, HarnessError, Progress, Report, Verify as Verification,
        case::{self, built_in},
        report::Format,
        shape::WIT,
    },
    runtime::Pool,
    server::{compiler::component_file, config_file::ComponentLimits},
    terminal,
};

/// Judge a component: does it keep the contract, whatever its imports answer?
///
/// It needs no database and no server. It looks at the component's imports and exports, has it answer cases, answers each of
/// its calls with each error that the contract allows, and tries generated inputs.
#[derive(Args)]
#[command(after_help = "\
The verdict on a component, and a page with the fault matrix:
  workspaces verify component.wasm
  workspaces verify component.wasm --format html --output report.html

Did it become slower, or behave differently?
  workspaces verify new.wasm --baseline old.wasm
  workspaces verify new.wasm --against old.wasm

Exit codes: 0 passes, 1 breaks a rule, 2 wrong usage, 3 could not be loaded.")]
pub(super) struct Verify {
    /// The component; without it the built-in one
    component: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArguments,
    /// Rules to judge by: the contract, or also the rules of the built-in component
    #[arg(long, value_name = "RULES", default_value = "contract")]
    rules: Rules,
    /// Cases of one's own: a file of JSON, or a folder of such
    #[arg(long, value_name = "PATH")]
    cases: Vec<PathBuf>,
    /// Judge this case alone
    #[arg(long, value_name = "ID")]
    case: Option<String>,
    /// List the cases instead
    #[arg(long, conflicts_with_all = ["case", "component"])]
    list: bool,
    /// Number of generated inputs
    #[arg(long, value_name = "NUMBER", default_value_t = 256)]
    inputs: u32,
    /// Seed of the generated inputs: the same one makes the same inputs
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
    /// File of failures that are known: an id on each line
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// File of the largest costs of each case
    #[arg(long, value_name = "FILE")]
    budget: Option<PathBuf>,
    /// Write such a file with the costs of this run
    #[arg(long, value_name = "FILE")]
    write_budget: Option<PathBuf>,
    /// Component with whose costs those of this one are shown
    #[arg(long, value_name = "COMPONENT")]
    baseline: Option<PathBuf>,
    /// Component with whose behaviour that of this one is compared
    #[arg(long, value_name = "COMPONENT")]
    against: Option<PathBuf>,
    /// Folder to write a case to for each failure, for --cases
    #[arg(long, value_name = "FOLDER")]
    write_cases: Option<PathBuf>,
    /// Form of the report; --json is json
    #[arg(long, value_name = "FORM", default_value = "text")]
    format: Form,
    /// File for the report; without it standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Rules {
    Contract,
    Default,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Form {
    Text,
    Json,
    Junit,
    Github,
    Html,
}

/// Exit codes where there is no verdict: wrong usage, such as a file of cases that holds none, and a component that could
/// not be loaded.
pub(super) const USAGE: u8 = 2;
pub(super) const NOT_LOADED: u8 = 3;

/// Component that could not be read or loaded.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotLoaded(pub(super) String);

/// Prints the reason why there is no verdict, and returns the exit code.
pub(super) fn without_verdict(outcome: Result<ExitCode>, json: bool) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        let code = if error.is::<NotLoaded>() { NOT_LOADED } else { USAGE };
        terminal::print_error(&error, json, code);
        code.into()
    })
}

impl Verify {
    pub(super) fn run(self, json: bool) -> ExitCode {
        without_verdict(self.judge(json), json)
    }

    fn judge(self, json: bool) -> Result<ExitCode> {
        let own = self.cases.iter().map(|path| case::read(path)).collect::<Result<Vec<_>, _>>()?.concat();
        if self.list {
            let cases: Vec<Case> = built_in().into_iter().chain(own).collect();
            print_all(json, &cases, |case| format!("{}  {}", case.id, case.sentence))?;
            return Ok(ExitCode::SUCCESS);
        }
        let limits = self.limits.read()?;
        let (name, wasm) = match &self.component {
            None => ("the built-in component".to_owned(), COMPONENT.to_vec()),
            Some(path) => (path.display().to_string(), read_component(path, &limits.pool)?),
        };
        let report = self.verification(wasm, own, limits)?.run().map_err(|error| match error {
            HarnessError::Load(error) => NotLoaded(format!("--baseline or --against: {error}")).into(),
            error => anyhow::Error::from(error),
        })?;
        self.write_files(&report)?;
        self.print(&report, &name, json)?;
        Ok(match (report.is_loaded(), report.passed()) {
            (false, _) => NOT_LOADED.into(),
            (true, passed) => ExitCode::from(u8::from(!passed)),
        })
    }

    fn verification(&self, wasm: Vec<u8>, own: Vec<Case>, limits: ComponentLimits) -> Result<Verification> {
        let read = |path: &Path| read_component(path, &limits.pool);
        let mut verification = Verification::new(wasm).cases(own).inputs(self.inputs).seed(self.seed);
        verification = verification.limits(limits.sandbox).pool(limits.pool.clone());
        if self.rules == Rules::Default {
            verification = verification.default_rules();
        }
        if let Some(id) = &self.case {
            verification = verification.only(id);
        }
        if let Some(file) = &self.expect {
            let text = fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
            let ids = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            verification = verification.expect(ids.map(str::to_owned));
        }
        if let Some(file) = &self.budget {
            let text = fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
            let budget = serde_json::from_str::<Budget>(&text);
            verification = verification.budget(budget.with_context(|| format!("{} is no budget", file.display()))?);
        }
        if let Some(path) = &self.baseline {
            verification = verification.baseline(read(path)?);
        }
        if let Some(path) = &self.against {
            verification = verification.against(read(path)?);
        }
        if stderr().is_terminal() {
            verification = verification.progress(progress());
        }
        Ok(verification)
    }

    /// Writes the cases of failures, and the budget.
    fn write_files(&self, report: &Report) -> Result<()> {
        if let Some(folder) = &self.write_cases {
            fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
            for Failure { case, .. } in &report.failures {
                let file = folder.join(format!("{}.json", case.id));
                write(&file, &(serde_json::to_string_pretty(case)? + "\n"))?;
            }
        }
        if let Some(file) = &self.write_budget {
            write(file, &(serde_json::to_string_pretty(&Budget::of(report))? + "\n"))?;
        }
        Ok(())
    }

    fn print(&self, report: &Report, name: &str, json: bool) -> Result<()> {
        let wants_colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let colour = wants_colour && self.output.is_none() && stdout().is_terminal();
        let format = match self.format {
            _ if json => Format::Json,
            Form::Text => Format::Text { colour },
            Form::Json => Format::Json,
            Form::Junit => Format::Junit,
            Form::Github => Format::Github,
            Form::Html => Format::Html,
        };
        let mut text = report.render(name, format);
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        match &self.output {
            Some(file) => write(file, &text),
            None if format == Format::Json => Ok(stdout().write_all(terminal::escape_json(&text).as_bytes())?),
            None => Ok(stdout().write_all(text.as_bytes())?),
        }
    }
}

/// Reads a component.
pub(super) fn read_component(path: &Path, pool: &Pool) -> Result<Vec<u8>> {
    let wasm = files::read(path, component_file(pool.component_size));
    wasm.map_err(|error| NotLoaded(format!("can't read the component {}: {error}", path.display())).into())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("can't write {}", file.display()))
}

/// Returns a function that prints each step to standard error.
fn progress() -> impl Fn(Progress) {
    let last = Cell::new("");
    move |progress| {
        let step = match progress {
            Progress::Compiling => "compiling …",
            Progress::Cases(..) => "cases …",
            Progress::Cells(_) => "fault matrix …",
            Progress::Inputs(_) => "generated inputs …",
            Progress::Comparing => "comparing …",
        };
        if last.replace(step) != step {
            terminal::print_error_line(step);
        }
    }
}

/// Print the contract that components implement, as WIT
#[derive(Args)]
#[command(after_help = "\
For the generator of bindings:
  workspaces wit --output wit")]
pub(super) struct Wit {
    /// Folder to write the files to
    #[arg(long, short, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

impl Wit {
    pub(super) fn run(self, json: bool) -> Result<()> {
        let Some(folder) = self.output else {
            #[derive(Serialize)]
            struct File {
                file: &'static str,
                text: &'static str,
            }
            let files = WIT.map(|(file, text)| File { file, text });
            return match json {
                true => terminal::print_json(&files),
                false => Ok(stdout().write_all(WIT.map(|(_, text)| text).join("\n").as_bytes())?),
            };
        };
        fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        for (file, text) in WIT {
            write(&folder.join(file), text)?;
        }
        #[derive(Serialize)]
        struct Written {
            folder: PathBuf,
        }
        print_done(json, &Written { folder })
    }
}
