//! Replay of recorded requests: with the recorded answers in place of auth and storage.

use serde::Serialize;

use super::{
    case::{Case, Expect, ExpectedAnswer, Level},
    host::Host,
    verify::{HarnessError, runtime},
};
use crate::runtime::{
    Component, LoadError, Pool, Recording, SandboxLimits, Sandboxes,
    script::{Call, Ending, Exchange, Played, Replies, Reply},
};

/// Recorded answers: to each call the one that it had, as long as the calls are the same.
struct Tape(Vec<Exchange>);

impl Replies for Tape {
    fn reply(&mut self, call: &Call, before: &[Exchange]) -> Reply {
        match self.0.get(before.len()) {
            Some(exchange) if exchange.call == *call => exchange.reply.clone(),
            // From here on the recording says nothing.
            _ => Reply::Trap,
        }
    }
}

/// Outcome of a replay.
#[derive(Debug, Clone, Serialize)]
pub struct Replayed {
    /// First difference from the recording; `None` if calls and answer are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<Divergence>,
    /// The call as it was played.
    pub played: Played,
}

/// First difference of a replay from its recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// Place: the number of a call, from 1, or the answer.
    pub place: String,
    /// Recorded call or answer.
    pub recorded: String,
    /// Replayed call or answer.
    pub replayed: String,
}

/// Sandboxes in which recordings are replayed.
#[derive(Debug)]
pub struct Player {
    sandboxes: Sandboxes,
    limits: SandboxLimits,
    runtime: tokio::runtime::Runtime,
}

impl Player {
    /// Returns a player with the default limits of a tenant.
    ///
    /// # Errors
    ///
    /// [`HarnessError::Load`] or [`HarnessError::Start`].
    pub fn new() -> Result<Self, HarnessError> {
        Self::with_limits(SandboxLimits::default(), Pool::default())
    }

    /// Returns a player with these limits, and the sizes of a pool.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub fn with_limits(limits: SandboxLimits, pool: Pool) -> Result<Self, HarnessError> {
        let sandboxes = Sandboxes::counting(Pool { concurrency: 1, queue: 1, ..pool })?;
        Ok(Self { sandboxes, limits, runtime: runtime()? })
    }

    /// Compiles a component.
    ///
    /// # Errors
    ///
    /// A [`LoadError`] that says what is wrong with it.
    pub fn load(&self, wasm: &[u8]) -> Result<Component, LoadError> {
        self.sandboxes.compile(wasm)
    }

    /// Plays a case with a component, whose imports answer as the case says. Call it from a thread that runs no async code.
    ///
    /// # Panics
    ///
    /// On a thread of an async runtime.
    pub fn play(&self, component: &Component, case: &Case) -> Played {
        let host = Host::of(&case.replies);
        self.runtime.block_on(self.sandboxes.play(component, &self.limits, &case.request, host))
    }

    /// Replays a recording with a component. Call it from a thread that runs no async code.
    ///
    /// # Panics
    ///
    /// On a thread of an async runtime.
    pub fn replay(&self, component: &Component, recording: &Recording) -> Replayed {
        let tape = Tape(recording.exchanges.clone());
        let played = self.runtime.block_on(self.sandboxes.play(component, &self.limits, &recording.request, tape));
        Replayed { difference: difference(recording, &played), played }
    }
}

/// Returns the first difference.
fn difference(recording: &Recording, played: &Played) -> Option<Divergence> {
    let none = || "no call".to_owned();
    for number in 0..recording.exchanges.len().max(played.exchanges.len()) {
        let [recorded, replayed] = [&recording.exchanges, &played.exchanges]
            .map(|exchanges| exchanges.get(number).map(|exchange| &exchange.call));
        if recorded != replayed {
            let text = |call: Option<&Call>| call.map_or_else(none, ToString::to_string);
            let place = format!("call {}", number + 1);
            return Some(Divergence { place, recorded: text(recorded), replayed: text(replayed) });
        }
    }
    let is_same = match (&recording.ending, &played.ending) {
        // A limit of time is met at another place each time.
        (Ending::Fault { kind: recorded, .. }, Ending::Fault { kind: replayed, .. }) => recorded == replayed,
        // The host itself ended the call: an import trapped or did not return.
        (Ending::Fault { .. }, Ending::Stopped) => true,
        (recorded, replayed) => recorded == replayed,
    };
    (!is_same).then(|| Divergence {
        place: "answer".into(),
        recorded: recording.ending.to_string(),
        replayed: played.ending.to_string(),
    })
}

impl Case {
    /// Returns a recording as a case that expects the recorded answer.
    pub fn of_recording(id: impl Into<String>, recording: &Recording) -> Self {
        let answer = match &recording.ending {
            Ending::Answered(answer) => Some(ExpectedAnswer::Exactly(answer.clone())),
            Ending::Fault { .. } | Ending::Stopped => None,
        };
        Self {
            id: id.into(),
            level: Level::Contract,
            sentence: format!("Recorded with the component {}: {}.", recording.component, recording.outcome),
            request: recording.request.clone(),
            replies: recording.exchanges.iter().map(|exchange| exchange.reply.clone()).collect(),
            expect: Expect { answer, calls: None },
        }
    }
}
