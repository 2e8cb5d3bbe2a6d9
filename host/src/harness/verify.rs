//! Verification of one component, from its shape to generated inputs.

use std::{fmt, io};

use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use super::{
    budget::Budget,
    case::{self, Case, CaseError, Expect, Level},
    compare::Comparison,
    host::Host,
    inputs::{self, Input},
    matrix::{self, Cell},
    report::{CaseReport, Report},
    rule::{Rule, Violation},
    shape,
    stage::Stage,
};
use crate::{
    COMPONENT, CreateWorkspaceRequest,
    runtime::{Component, Digest, LoadError, Pool, SandboxLimits, Sandboxes, script::Played},
};

/// Number of generated inputs, if not told otherwise.
pub(super) const INPUTS: u32 = 256;

/// Instances that are timed.
const INSTANCES: usize = 51;

/// Verification of a component, with its options.
pub struct Verify {
    wasm: Vec<u8>,
    limits: SandboxLimits,
    pool: Option<Pool>,
    own_cases: Vec<Case>,
    judges_default_rules: bool,
    only: Option<String>,
    inputs: u32,
    seed: u64,
    budget: Option<Budget>,
    baseline: Option<Vec<u8>>,
    against: Option<Vec<u8>>,
    known: Vec<String>,
    progress: Box<dyn Fn(Progress)>,
}

/// Progress of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The component is compiled.
    Compiling,
    /// The cases are judged, this many of all.
    Cases(usize, usize),
    /// The cells of the fault matrix are judged, this many so far.
    Cells(usize),
    /// Generated inputs are tried, this many at least.
    Inputs(u32),
    /// Two components are compared.
    Comparing,
}

/// Reason why a component could not be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HarnessError {
    /// The sandboxes can't be made, or the component to compare with can't be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Cases that can't be used.
    #[error(transparent)]
    Case(#[from] CaseError),
    /// A case that there is not.
    #[error("no case has the id {0}: `verify --list` shows them")]
    NoCase(String),
    /// The judge's own threads can't be started.
    #[error("the judge can't start: {0}")]
    Start(#[from] io::Error),
    /// Inputs that could not be generated, or no sandbox.
    #[error("the judge stopped: {0}")]
    Stopped(String),
}

/// Rule that a component breaks, with the input.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// Name that stays the same from run to run: the rule, and where it was broken.
    pub id: String,
    /// The rule and the difference.
    #[serde(flatten)]
    pub violation: Violation,
    /// Sentence that the component is held to.
    pub sentence: String,
    /// Case that repeats the failure.
    pub case: Case,
    /// Calls of imports, up to the end.
    pub calls: Vec<String>,
    /// True if the failure was expected.
    pub is_known: bool,
}

impl Verify {
    /// Returns the verification of a component, by the rules of the contract and with 256 generated inputs.
    pub fn new(wasm: impl Into<Vec<u8>>) -> Self {
        Self {
            wasm: wasm.into(),
            limits: SandboxLimits::default(),
            pool: None,
            own_cases: Vec::new(),
            judges_default_rules: false,
            only: None,
            inputs: INPUTS,
            seed: 0,
            budget: None,
            baseline: None,
            against: None,
            known: Vec::new(),
            progress: Box::new(|_| {}),
        }
    }

    /// Sets the limits of each sandbox; by default those of a tenant.
    pub fn limits(mut self, limits: SandboxLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the pool whose sizes the component and its sandboxes have to keep. By default one that has room for the limits.
    pub fn pool(mut self, pool: Pool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Judges also the rules of the built-in component: its default name, what it trims and refuses.
    pub fn default_rules(mut self) -> Self {
        self.judges_default_rules = true;
        self
    }

    /// Adds cases. They are judged whatever rules they belong to.
    pub fn cases(mut self, cases: impl IntoIterator<Item = Case>) -> Self {
        self.own_cases.extend(cases);
        self
    }

    /// Judges one case alone, and nothing else.
    pub fn only(mut self, id: impl Into<String>) -> Self {
        self.only = Some(id.into());
        self
    }

    /// Sets the number of generated inputs.
    pub fn inputs(mut self, inputs: u32) -> Self {
        self.inputs = inputs;
        self
    }

    /// Sets the seed of generated inputs: the same seed makes the same ones. By default 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the largest costs of cases.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Sets a component with whose costs those of this one are shown.
    pub fn baseline(mut self, wasm: impl Into<Vec<u8>>) -> Self {
        self.baseline = Some(wasm.into());
        self
    }

    /// Sets a component with which the behaviour of this one is compared.
    pub fn against(mut self, wasm: impl Into<Vec<u8>>) -> Self {
        self.against = Some(wasm.into());
        self
    }

    /// Sets the ids of failures that are known and do not count. One that is not found any more counts.
    pub fn expect(mut self, ids: impl IntoIterator<Item = String>) -> Self {
        self.known = ids.into_iter().collect();
        self
    }

    /// Sets a function that is called as the verification goes on.
    pub fn progress(mut self, progress: impl Fn(Progress) + 'static) -> Self {
        self.progress = Box::new(progress);
        self
    }

    /// Judges the component. Call it from a thread that runs no async code.
    ///
    /// # Errors
    ///
    /// A [`HarnessError`] where it could not be judged. A component that can't be loaded is a [`Report`] that says so.
    ///
    /// # Panics
    ///
    /// On a thread of an async runtime.
    pub fn run(&self) -> Result<Report, HarnessError> {
        let cases = self.selected()?;
        let pool = self.pool.clone().unwrap_or_else(|| Pool::of(&self.limits));
        let pool = Pool { concurrency: 1, queue: 1, ..pool };
        let mut report =
            Report::new(Digest::of(&self.wasm), shape::examine(&self.wasm, &self.limits, pool.component_size));
        if !report.shape.mistakes.is_empty() {
            return Ok(report);
        }
        (self.progress)(Progress::Compiling);
        let sandboxes = Sandboxes::counting(pool)?;
        let component = match sandboxes.compile(&self.wasm) {
            Ok(component) => component,
            Err(error) => {
                report.load_error = Some(error.to_string());
                return Ok(report);
            }
        };
        let compile = |wasm: &Option<Vec<u8>>| wasm.as_ref().map(|wasm| sandboxes.compile(wasm)).transpose();
        let (baseline, against) = (compile(&self.baseline)?, compile(&self.against)?);
        let judge = Judge { verify: self, runtime: runtime()?, sandboxes: &sandboxes };
        judge.cases(&mut report, &component, baseline.as_ref(), &cases)?;
        if self.only.is_none() {
            judge.matrix(&mut report, &component)?;
            judge.inputs(&mut report, &component)?;
        }
        report.instantiation = judge.instantiation(&component, &sandboxes.compile(COMPONENT)?);
        if let Some(against) = against {
            judge.compare(&mut report, &component, &against, &cases)?;
        }
        self.mark_known(&mut report);
        Ok(report)
    }

    /// Returns the cases to judge.
    fn selected(&self) -> Result<Vec<Case>, HarnessError> {
        let mut cases = case::built_in();
        let is_own = |case: &Case| case.level == Level::Contract || self.judges_default_rules;
        cases.retain(|case| is_own(case) || self.only.as_ref() == Some(&case.id));
        cases.extend(self.own_cases.iter().cloned());
        case::require_unique(&cases)?;
        if let Some(only) = &self.only {
            cases.retain(|case| case.id == *only);
            if cases.is_empty() {
                return Err(HarnessError::NoCase(only.clone()));
            }
        }
        Ok(cases)
    }

    /// Marks the failures that are known, and finds those that are not there any more. One case says nothing of others.
    fn mark_known(&self, report: &mut Report) {
        for failure in &mut report.failures {
            failure.is_known = self.known.contains(&failure.id);
        }
        if self.only.is_some() {
            return;
        }
        let is_gone = |id: &&String| !report.failures.iter().any(|failure| failure.id == **id);
        report.mended = self.known.iter().filter(is_gone).cloned().collect();
    }
}

/// Returns a runtime for the judge's own work.
pub(super) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_time().build()
}

/// Verification in progress.
struct Judge<'a> {
    verify: &'a Verify,
    runtime: Runtime,
    sandboxes: &'a Sandboxes,
}

impl Judge<'_> {
    fn stage<'a>(&'a self, component: &'a Component) -> Stage<'a> {
        Stage::Own(self.sandboxes, component, &self.verify.limits)
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, String>>) -> Result<T, HarnessError> {
        self.runtime.block_on(work).map_err(HarnessError::Stopped)
    }

    /// Returns the time that an instance takes, as a multiple of the reference component's. Both are timed in turn, and the
    /// medians compared.
    fn instantiation(&self, component: &Component, reference: &Component) -> Option<f64> {
        let limits = &self.verify.limits;
        let time = |component| self.runtime.block_on(self.sandboxes.time_instance(component, limits));
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for _ in 0..INSTANCES {
            own.push(time(component)?);
            others.push(time(reference)?);
        }
        let [own, others] = [own, others].map(|mut times| {
            times.sort_unstable();
            times[INSTANCES / 2].as_secs_f64()
        });
        Some(own / others)
    }

    fn cases(
        &self,
        report: &mut Report,
        component: &Component,
        baseline: Option<&Component>,
        cases: &[Case],
    ) -> Result<(), HarnessError> {
        let stage = self.stage(component);
        for (number, case) in cases.iter().enumerate() {
            (self.verify.progress)(Progress::Cases(number, cases.len()));
            let (played, violation) = self.wait(stage.judge_twice(&case.request, case.host()))?;
            let over = self.verify.budget.as_ref().and_then(|budget| budget.broken_by(&case.id, &played.cost));
            let baseline = match baseline {
                Some(baseline) => Some(self.wait(self.stage(baseline).play(&case.request, case.host()))?.cost),
                None => None,
            };
            let violation = violation.or_else(|| case.judge(&played));
            let mut case_report = CaseReport {
                id: case.id.clone(),
                level: case.level,
                sentence: case.sentence.clone(),
                cost: played.cost,
                baseline,
                failure: None,
                over_budget: over,
            };
            if let Some(violation) = violation {
                let id = format!("{}@case/{}", violation.rule, case.id);
                let failure = Failure {
                    // Beside the case itself it needs a name of its own.
                    case: Case { id: slug(&id), ..case.clone() },
                    id,
                    sentence: match violation.rule {
                        Rule::Case => case.sentence.clone(),
                        rule => rule.sentence().to_owned(),
                    },
                    violation,
                    calls: calls(&played),
                    is_known: false,
                };
                case_report.failure = Some(failure.id.clone());
                report.failures.push(failure);
            }
            report.cases.push(case_report);
        }
        Ok(())
    }

    fn matrix(&self, report: &mut Report, component: &Component) -> Result<(), HarnessError> {
        let stage = self.stage(component);
        let mut done = 0;
        let progress = |_: &Cell| {
            done += 1;
            (self.verify.progress)(Progress::Cells(done));
        };
        report.cells = self.wait(matrix::fill(&stage, progress))?;
        for cell in &report.cells {
            if let Some(violation) = &cell.violation {
                let place = format!("matrix/{}", cell.name());
                report.failures.push(failure(&place, violation.clone(), &cell.request, &cell.played));
            }
        }
        Ok(())
    }

    fn inputs(&self, report: &mut Report, component: &Component) -> Result<(), HarnessError> {
        let (stage, Verify { inputs, seed, .. }) = (self.stage(component), self.verify);
        (report.inputs, report.seed) = (*inputs, *seed);
        let tried = std::cell::Cell::new(0_u32);
        let check = |input: &Input| {
            tried.set(tried.get() + 1);
            if tried.get().is_multiple_of(16) {
                (self.verify.progress)(Progress::Inputs(tried.get()));
            }
            let host = Host::of(&input.replies);
            self.runtime.block_on(stage.judge_twice(&input.request, host)).map(|(_, violation)| violation)
        };
        let found = inputs::search(*inputs, *seed, check).map_err(HarnessError::Stopped)?;
        for (input, violation) in found {
            let (played, _) = self.wait(stage.judge(&input.request, Host::of(&input.replies)))?;
            report.failures.push(failure("inputs", violation, &input.request, &played));
        }
        Ok(())
    }

    fn compare(
        &self,
        report: &mut Report,
        component: &Component,
        against: &Component,
        cases: &[Case],
    ) -> Result<(), HarnessError> {
        (self.verify.progress)(Progress::Comparing);
        let mut comparison = Comparison::new(against.digest().to_string());
        let of_cases = cases.iter().map(|case| (case.request.clone(), case.host()));
        let generated = inputs::generate(self.verify.inputs, self.verify.seed).into_iter();
        let generated = generated.map(|input| (input.request, Host::of(&input.replies)));
        for (request, host) in of_cases.chain(generated) {
            let old = self.wait(self.stage(against).play(&request, host.clone()))?;
            let new = self.wait(self.stage(component).play(&request, host))?;
            comparison.add(&request, &old, &new);
        }
        report.comparison = Some(comparison);
        Ok(())
    }
}

fn calls(played: &Played) -> Vec<String> {
    played.exchanges.iter().map(|exchange| format!("{} → {}", exchange.call, exchange.reply)).collect()
}

/// Returns the name of a case, and so of a file, for the id of a failure.
fn slug(id: &str) -> String {
    let words: Vec<_> =
        id.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join("-")
}

/// Returns a failure with the case that repeats it.
fn failure(place: &str, violation: Violation, request: &CreateWorkspaceRequest, played: &Played) -> Failure {
    let id = format!("{}@{place}", violation.rule);
    let case = Case {
        id: slug(&id),
        level: Level::Contract,
        sentence: violation.rule.sentence().to_owned(),
        request: request.clone(),
        replies: played.exchanges.iter().map(|exchange| exchange.reply.clone()).collect(),
        expect: Expect::default(),
    };
    let sentence = violation.rule.sentence().to_owned();
    Failure { id, violation, sentence, case, calls: calls(played), is_known: false }
}

impl fmt::Debug for Verify {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Verify").field("component", &Digest::of(&self.wasm)).finish_non_exhaustive()
    }
}
