//! Largest costs of cases.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::report::Report;
use crate::runtime::script::Cost;

/// Largest costs of cases, by their names. What it leaves out has no limit. Times are not among them: they differ from
/// machine to machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Budget(pub BTreeMap<String, CaseBudget>);

/// Largest cost of a case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseBudget {
    /// Instructions of WebAssembly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<u64>,
    /// Linear memory, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Calls of imports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_calls: Option<u64>,
    /// Bytes across the boundary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl Budget {
    /// Returns a budget of exactly these costs.
    pub fn of(report: &Report) -> Self {
        let of_cost = |cost: &Cost| CaseBudget {
            instructions: cost.instructions,
            memory: Some(cost.memory),
            host_calls: Some(cost.host_calls),
            bytes: Some(cost.bytes),
        };
        Self(report.cases.iter().map(|case| (case.id.clone(), of_cost(&case.cost))).collect())
    }

    /// Returns what of a case's cost is over its budget.
    pub(super) fn broken_by(&self, case: &str, cost: &Cost) -> Option<String> {
        let budget = self.0.get(case)?;
        let over = [
            ("instructions", budget.instructions, cost.instructions),
            ("memory", budget.memory, Some(cost.memory)),
            ("host_calls", budget.host_calls, Some(cost.host_calls)),
            ("bytes", budget.bytes, Some(cost.bytes)),
        ];
        let over = over.into_iter().filter_map(|(name, most, found)| {
            let (most, found) = (most?, found?);
            (found > most).then(|| format!("{name}: {found}, where the budget has {most}"))
        });
        let over: Vec<_> = over.collect();
        (!over.is_empty()).then(|| over.join("; "))
    }
}
