//! Comparison of two components: the first difference of each kind, and the version that it calls for.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::stage::summary;
use crate::{
    CreateWorkspaceRequest,
    runtime::script::{Answer, Call, Ending, Played},
};

/// Version that a change of behaviour calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// No client sees a difference but in the words of a message.
    Patch,
    /// More requests are accepted.
    Minor,
    /// A request has another outcome.
    Breaking,
}

/// Kind of a difference between two components.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// The new one fails where the old one answers.
    Fails,
    /// The new one answers where the old one fails.
    FailsNoMore,
    /// The new one refuses what the old one creates.
    Refuses,
    /// The new one creates what the old one refuses.
    Accepts,
    /// The new one answers another error.
    OtherError,
    /// The new one stores another name, or reports another workspace.
    OtherWorkspace,
    /// The new one calls other imports.
    OtherCalls,
    /// The new one has another message.
    OtherMessage,
}

impl Difference {
    /// Returns the version that the difference calls for.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::OtherMessage | Self::FailsNoMore => Verdict::Patch,
            Self::Accepts => Verdict::Minor,
            Self::Fails | Self::Refuses | Self::OtherError | Self::OtherWorkspace | Self::OtherCalls => {
                Verdict::Breaking
            }
        }
    }

    /// Returns the difference between two calls with the same request and the same host.
    fn of(old: &Played, new: &Played) -> Option<Self> {
        let steps = |played: &Played| -> Vec<_> {
            let calls = played.exchanges.iter().map(|exchange| exchange.call.clone());
            calls.filter(|call| matches!(call, Call::Authorize { .. } | Call::CreateWorkspace { .. })).collect()
        };
        Some(match (&old.ending, &new.ending) {
            (Ending::Fault { .. }, Ending::Fault { .. }) => return None,
            (_, Ending::Fault { .. }) => Self::Fails,
            (Ending::Fault { .. }, _) => Self::FailsNoMore,
            (Ending::Answered(Answer::Created { .. }), Ending::Answered(Answer::Refused { .. })) => Self::Refuses,
            (Ending::Answered(Answer::Refused { .. }), Ending::Answered(Answer::Created { .. })) => Self::Accepts,
            (Ending::Answered(old), Ending::Answered(new)) if matches!((old, new), (Answer::Refused { case: one, .. }, Answer::Refused { case: other, .. }) if one != other) => {
                Self::OtherError
            }
            (Ending::Answered(old @ Answer::Created { .. }), Ending::Answered(new)) if old != new => {
                Self::OtherWorkspace
            }
            _ if steps(old) != steps(new) => Self::OtherCalls,
            (old, new) if old != new => Self::OtherMessage,
            _ => return None,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Patch => "patch",
            Self::Minor => "minor",
            Self::Breaking => "breaking",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Fails => "fails where the old one answers",
            Self::FailsNoMore => "answers where the old one fails",
            Self::Refuses => "refuses what the old one creates",
            Self::Accepts => "creates what the old one refuses",
            Self::OtherError => "answers another error",
            Self::OtherWorkspace => "creates another workspace",
            Self::OtherCalls => "calls other imports",
            Self::OtherMessage => "has another message",
        })
    }
}

/// First difference of a kind.
#[derive(Debug, Clone, Serialize)]
pub struct Example {
    /// Request.
    pub request: CreateWorkspaceRequest,
    /// Calls and answer of the old component.
    pub old: String,
    /// Calls and answer of the new component.
    pub new: String,
    /// Number of inputs with a difference of this kind.
    pub count: usize,
}

/// Comparison of two components.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Digest of the old component.
    pub against: String,
    /// Version that the differences call for.
    pub verdict: Verdict,
    /// Inputs that both were given.
    pub inputs: usize,
    /// First difference of each kind.
    pub differences: BTreeMap<Difference, Example>,
}

impl Comparison {
    pub(super) fn new(against: String) -> Self {
        Self { against, verdict: Verdict::Patch, inputs: 0, differences: BTreeMap::new() }
    }

    /// Compares two calls with the same request and the same host.
    pub(super) fn add(&mut self, request: &CreateWorkspaceRequest, old: &Played, new: &Played) {
        self.inputs += 1;
        let Some(difference) = Difference::of(old, new) else { return };
        self.verdict = self.verdict.max(difference.verdict());
        let example = self.differences.entry(difference).or_insert_with(|| Example {
            request: request.clone(),
            old: summary(old),
            new: summary(new),
            count: 0,
        });
        example.count += 1;
    }
}
