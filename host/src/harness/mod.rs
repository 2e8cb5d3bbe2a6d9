//! Judge of components: does a component keep the contract, whatever its imports answer?
//!
//! It needs no auth, no storage and no network: the judge answers the component's calls itself. A component's author
//! has a test of five lines:
//!
//! ```
//! use workspaces_host::harness::Verify;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let component = workspaces_host::COMPONENT; // or std::fs::read("component.wasm")?
//! let report = Verify::new(component).run()?;
//! assert!(report.passed(), "{report}");
//! # Ok(()) }
//! ```
//!
//! A component is judged in four steps:
//!
//! 1. [`shape`]: its imports, exports and needs, before anything is compiled.
//! 2. [`case`](mod@case): requests with an expected answer, as data.
//! 3. [`Cell`]: the fault matrix. Each call of imports that it makes, with each answer that the contract allows.
//! 4. Generated inputs, shrunk to a minimal one where a rule is broken.
//!
//! A [`Player`] replays requests that a server [recorded](crate::runtime::Recorder).

mod budget;
pub mod case;
mod compare;
mod componentize;
mod gate;
mod host;
mod inputs;
mod judge;
mod matrix;
mod replay;
pub mod report;
mod rule;
pub mod shape;
mod stage;
mod verify;

pub(crate) use self::gate::gate;
pub use self::{
    budget::{Budget, CaseBudget},
    case::{Case, CaseError, Expect, ExpectedAnswer, Level},
    compare::{Comparison, Difference, Verdict},
    componentize::{ComponentizeError, componentize},
    matrix::Cell,
    replay::{Divergence, Player, Replayed},
    report::Report,
    rule::{Rule, Violation},
    verify::{Failure, HarnessError, Progress, Verify},
};
