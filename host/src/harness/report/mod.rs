//! Report of a verification, and its forms: text, JSON, JUnit's XML, annotations of GitHub, a page.

mod html;
mod text;

use std::fmt;

use serde::Serialize;

use super::{case::Level, compare::Comparison, matrix::Cell, shape::Shape, verify::Failure};
use crate::runtime::{Digest, script::Cost};

/// Report of a verification.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// SHA-256 of the component, in hex.
    pub digest: String,
    /// Verdict, in JSON alone: [`passed`](Self::passed) finds it.
    passed: bool,
    /// Shape of the component, with its mistakes.
    pub shape: Shape,
    /// Reason why it can't be loaded though its shape is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_error: Option<String>,
    /// Cases.
    pub cases: Vec<CaseReport>,
    /// Time that an instance takes, as a multiple of the built-in component's. It differs from run to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instantiation: Option<f64>,
    /// Fault matrix.
    pub cells: Vec<Cell>,
    /// Number of generated inputs.
    pub inputs: u32,
    /// Seed of the generated inputs.
    pub seed: u64,
    /// Rules that the component breaks.
    pub failures: Vec<Failure>,
    /// Ids of failures that were expected and are gone.
    pub mended: Vec<String>,
    /// Comparison with another component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

/// Report of a case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// Name of the case.
    pub id: String,
    /// Rules that it belongs to.
    pub level: Level,
    /// Sentence that it holds the component to.
    pub sentence: String,
    /// Cost of the call.
    pub cost: Cost,
    /// Cost of the baseline's call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Cost>,
    /// Id of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Costs over the budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_budget: Option<String>,
}

/// Form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A table for people.
    Text {
        /// Flag for the colours of terminals.
        colour: bool,
    },
    /// JSON.
    Json,
    /// XML of JUnit, which CI systems read.
    Junit,
    /// Annotations of GitHub's workflows.
    Github,
    /// A page of HTML that needs no other file.
    Html,
}

impl Report {
    pub(super) fn new(digest: Digest, shape: Shape) -> Self {
        Self {
            digest: digest.to_string(),
            passed: false,
            shape,
            load_error: None,
            cases: Vec::new(),
            instantiation: None,
            cells: Vec::new(),
            inputs: 0,
            seed: 0,
            failures: Vec::new(),
            mended: Vec::new(),
            comparison: None,
        }
    }

    /// Returns whether the component could be loaded.
    pub fn is_loaded(&self) -> bool {
        self.shape.mistakes.is_empty() && self.load_error.is_none()
    }

    /// Returns whether the component keeps all rules and its budget, or breaks only the rules that were expected.
    pub fn passed(&self) -> bool {
        self.is_loaded()
            && self.mended.is_empty()
            && self.failures.iter().all(|failure| failure.is_known)
            && self.cases.iter().all(|case| case.over_budget.is_none())
    }

    /// Returns how many cells of the fault matrix hold.
    pub fn cells_passed(&self) -> usize {
        self.cells.iter().filter(|cell| cell.violation.is_none()).count()
    }

    /// Returns the failures of shape and of loading: a name and a text.
    fn of_shape(&self) -> Vec<(String, String)> {
        let mistakes = self.shape.mistakes.iter().map(|mistake| {
            let text = format!("{}\n{}", mistake.difference.join("\n"), mistake.remedy);
            ("shape".to_owned(), text)
        });
        let load = self.load_error.iter().map(|error| ("load".to_owned(), error.clone()));
        mistakes.chain(load).collect()
    }

    /// Returns the tests that the verification consists of, for a runner of tests: a name, and the text of a failure. Each
    /// case and each cell is one.
    pub fn tests(&self) -> Vec<(String, Option<String>)> {
        let mut tests: Vec<_> = self.of_shape().into_iter().map(|(name, text)| (name, Some(text))).collect();
        if tests.is_empty() {
            tests.push(("shape".to_owned(), None));
        }
        let failed = |id: &str| {
            let failure = self.failures.iter().find(|failure| failure.id == id && !failure.is_known)?;
            Some(format!("{}\n{}", failure.sentence, failure.violation))
        };
        for case in &self.cases {
            let broken = case.failure.as_deref().and_then(failed).or_else(|| case.over_budget.clone());
            tests.push((format!("case/{}", case.id), broken));
        }
        for cell in &self.cells {
            let id = cell.violation.as_ref().map(|violation| format!("{}@matrix/{}", violation.rule, cell.name()));
            tests.push((format!("matrix/{}", cell.name()), id.as_deref().and_then(failed)));
        }
        let of_inputs: Vec<_> = self.failures.iter().filter(|failure| failure.id.ends_with("@inputs")).collect();
        match of_inputs.is_empty() {
            true if !self.cells.is_empty() => tests.push(("inputs".to_owned(), None)),
            _ => tests.extend(of_inputs.iter().map(|failure| (failure.id.clone(), failed(&failure.id)))),
        }
        tests.extend(self.mended.iter().map(|id| (id.clone(), Some("expected, and not found".to_owned()))));
        tests
    }

    /// Returns the report in a form. `name` is that of the component, for people.
    pub fn render(&self, name: &str, format: Format) -> String {
        match format {
            Format::Text { colour } => text::table(self, name, colour),
            Format::Json => {
                let report = Self { passed: self.passed(), ..self.clone() };
                // Every part of it has a form in JSON.
                serde_json::to_string_pretty(&report).unwrap_or_default()
            }
            Format::Junit => text::junit(self, name),
            Format::Github => text::github(self, name),
            Format::Html => html::page(self, name),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render("component", Format::Text { colour: false }))
    }
}
