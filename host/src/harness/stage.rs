//! The stage on which a component is judged.

use super::{
    host::Host,
    judge::judge,
    rule::{Rule, Violation},
};
use crate::{
    CreateWorkspaceRequest,
    runtime::{
        Component, Runtime, SandboxLimits, Sandboxes,
        script::{Ending, Exchange, Played},
    },
};

/// Sandboxes in which a component is called, with their limits.
pub(super) enum Stage<'a> {
    /// Sandboxes of the judge's own.
    Own(&'a Sandboxes, &'a Component, &'a SandboxLimits),
    /// Sandboxes of a tenant that serves.
    Tenant(&'a Runtime, &'a Component),
}

impl Stage<'_> {
    /// Calls the component.
    ///
    /// # Errors
    ///
    /// A tenant's stage where no sandbox comes free.
    pub(super) async fn play(&self, request: &CreateWorkspaceRequest, host: Host) -> Result<Played, String> {
        match self {
            Self::Own(sandboxes, component, limits) => Ok(sandboxes.play(component, limits, request, host).await),
            Self::Tenant(runtime, component) => runtime.play(component, request, host).await,
        }
    }

    /// Calls the component and judges it by the rules of the contract.
    pub(super) async fn judge(
        &self,
        request: &CreateWorkspaceRequest,
        host: Host,
    ) -> Result<(Played, Option<Violation>), String> {
        let played = self.play(request, host).await?;
        let violation = judge(request, &played);
        Ok((played, violation))
    }

    /// Judges two calls with the same request and the same host: the second has to be as the first.
    pub(super) async fn judge_twice(
        &self,
        request: &CreateWorkspaceRequest,
        host: Host,
    ) -> Result<(Played, Option<Violation>), String> {
        let (played, violation) = self.judge(request, host.clone()).await?;
        if violation.is_some() {
            return Ok((played, violation));
        }
        let again = self.play(request, host).await?;
        let is_same = again.exchanges == played.exchanges && again.ending == played.ending;
        let violation = (!is_same).then(|| {
            Violation::new(Rule::Repeats, summary(&played), format!("{} at the second call", summary(&again)))
        });
        Ok((played, violation))
    }
}

/// Returns calls and answer in one line.
pub(super) fn summary(Played { exchanges, ending, .. }: &Played) -> String {
    let calls: Vec<_> = exchanges.iter().map(|Exchange { call, reply }| format!("{call} → {reply}")).collect();
    match (calls.is_empty(), ending) {
        (true, ending) => ending.to_string(),
        (false, Ending::Stopped) => calls.join("; "),
        (false, ending) => format!("{}; {ending}", calls.join("; ")),
    }
}
