//! The gate before a component serves: the cases of the contract, the fault matrix and generated inputs, within the
//! tenant's limits.

use super::{
    case::{self, Level},
    host::Host,
    inputs, matrix,
    rule::Violation,
    stage::Stage,
    verify::INPUTS,
};
use crate::runtime::{Component, Runtime};

/// Judges a component before it serves a tenant. The verdict is kept as long as the component is loaded: tenants with the
/// same component and the same limits have it judged once.
///
/// # Errors
///
/// The first rule that it breaks, and with which request; or that no sandbox came free to judge it.
pub(crate) async fn gate(runtime: &Runtime, component: &Component) -> Result<(), String> {
    let limits = runtime.limits();
    let mut verdicts = component.verdicts().lock().await;
    if let Some((_, verdict)) = verdicts.iter().find(|(judged, _)| judged == limits) {
        return verdict.clone();
    }
    let verdict = judge(&Stage::Tenant(runtime, component)).await?.map_or(Ok(()), Err);
    verdicts.push((limits.clone(), verdict.clone()));
    verdict
}

/// Returns the first rule that a component breaks.
async fn judge(stage: &Stage<'_>) -> Result<Option<String>, String> {
    for case in case::built_in().iter().filter(|case| case.level == Level::Contract) {
        let (played, violation) = stage.judge(&case.request, case.host()).await?;
        if let Some(violation) = violation.or_else(|| case.judge(&played)) {
            return Ok(Some(broken(&format!("case {}", case.id), &violation)));
        }
    }
    let cells = matrix::fill(stage, |_| {}).await?;
    if let Some((cell, violation)) = cells.iter().find_map(|cell| Some((cell, cell.violation.as_ref()?))) {
        return Ok(Some(broken(&format!("fault matrix, {}", cell.name()), violation)));
    }
    for input in inputs::generate(INPUTS, 0) {
        if let (_, Some(violation)) = stage.judge(&input.request, Host::of(&input.replies)).await? {
            return Ok(Some(broken(&format!("generated input, {:?}", input.request), &violation)));
        }
    }
    Ok(None)
}

/// Describes a broken rule in one line.
fn broken(place: &str, Violation { rule, expected, seen }: &Violation) -> String {
    format!("it breaks the rule {rule} ({place}): expected {expected}; seen: {seen}")
}
