//! Recordings of requests: what a component was asked, what it called, what it was answered, and what it made of it.

use std::{
    fmt,
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use serde::{Deserialize, Serialize};

use super::script::{Answer, Call, Cost, Ending, Exchange, Played, Reply};
use crate::{CreateWorkspaceRequest, Error, storage::Created};

/// Recording of a request. It holds no credential and no idempotency key: a component never sees one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// SHA-256 of the component, in hex.
    pub component: String,
    /// Request.
    pub request: CreateWorkspaceRequest,
    /// Calls of imports with their answers. One that did not return in time has the answer [`Reply::Hang`].
    pub exchanges: Vec<Exchange>,
    /// End of the component's call.
    pub ending: Ending,
    /// Outcome of the request, after the answer was compared with what storage did.
    pub outcome: String,
    /// Cost of the call.
    pub cost: Cost,
    /// The component's time on the processor, in microseconds.
    pub cpu_microseconds: u64,
}

/// Function that takes recordings. It must not block.
type Sink = Box<dyn Fn(Recording) + Send + Sync>;

/// Recorder of a tenant's requests: those that fail, and those that are asked for.
pub struct Recorder {
    sink: Sink,
    every: Option<NonZeroU64>,
    header: Option<String>,
    redacts: bool,
    requests: AtomicU64,
}

impl Recorder {
    /// Returns a recorder of requests that fail by the component or by what it needs: those answered 500 or 503.
    ///
    /// `sink` takes the recordings. It is called on the request's path and must not block.
    pub fn new(sink: impl Fn(Recording) + Send + Sync + 'static) -> Self {
        Self { sink: Box::new(sink), every: None, header: None, redacts: false, requests: AtomicU64::new(0) }
    }

    /// Records also one request in so many.
    pub fn every(mut self, requests: Option<NonZeroU64>) -> Self {
        self.every = requests;
        self
    }

    /// Records also requests with this header, which a gateway or an operator sets. Its value does not matter.
    pub fn header(mut self, name: Option<String>) -> Self {
        self.header = name;
        self
    }

    /// Replaces the letters and digits of names.
    pub fn redact(mut self, redacts: bool) -> Self {
        self.redacts = redacts;
        self
    }

    /// Returns the header with which a request is recorded.
    pub(crate) fn header_name(&self) -> Option<&str> {
        self.header.as_deref()
    }

    /// Counts a request. Returns whether it is one of those that are recorded whatever their outcome is.
    pub(super) fn is_due(&self) -> bool {
        let Some(every) = self.every else { return false };
        self.requests.fetch_add(1, Relaxed) % every == 0
    }

    pub(super) fn record(&self, recording: Recording) {
        (self.sink)(if self.redacts { recording.redacted() } else { recording });
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Recorder")
            .field("every", &self.every)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// Returns whether a request is recorded because it failed.
pub(super) fn is_failure(result: &Result<Created, Error>) -> bool {
    matches!(
        result,
        Err(Error::Unavailable(_)
            | Error::Unknown(_)
            | Error::Misconfigured
            | Error::OutOfTime(_)
            | Error::Component(_)
            | Error::Claims(_))
    )
}

/// Returns the outcome of a request in words.
pub(super) fn outcome(result: &Result<Created, Error>) -> String {
    match result {
        Ok(Created { replayed: true, .. }) => "created before".into(),
        Ok(_) => "created".into(),
        Err(error) => error.to_string(),
    }
}

impl Recording {
    /// Returns the call as one that was played.
    pub fn played(&self) -> Played {
        Played { exchanges: self.exchanges.clone(), ending: self.ending.clone(), cost: self.cost }
    }

    /// Returns the recording with each letter and digit of names replaced by an x.
    fn redacted(mut self) -> Self {
        let hide = |text: &str| -> String {
            text.chars().map(|letter| if letter.is_alphanumeric() { 'x' } else { letter }).collect()
        };
        let sent = self.request.name.clone().unwrap_or_default();
        let trimmed = sent.trim();
        // A message may repeat the name.
        let hide_within =
            |text: &str| if trimmed.is_empty() { text.to_owned() } else { text.replace(trimmed, &hide(trimmed)) };
        self.request.name = self.request.name.as_deref().map(hide);
        for exchange in &mut self.exchanges {
            if let Call::CreateWorkspace { name } = &mut exchange.call {
                *name = hide_within(name);
            }
        }
        match &mut self.ending {
            Ending::Answered(Answer::Created { name, .. }) => *name = hide_within(name),
            Ending::Answered(Answer::Refused { message, .. }) => *message = hide_within(message),
            Ending::Fault { cause, .. } => *cause = hide_within(cause),
            Ending::Stopped => {}
        }
        self.outcome = hide_within(&self.outcome);
        self
    }
}

/// Calls of a request that is recorded.
#[derive(Debug, Default)]
pub(super) struct Tape(pub(super) Vec<Exchange>);

impl Tape {
    /// Writes down a call before its answer is there.
    pub(super) fn begin(&mut self, call: Call) {
        self.0.push(Exchange { call, reply: Reply::Hang });
    }

    /// Writes down the answer to the last call.
    pub(super) fn end(&mut self, reply: Reply) {
        if let Some(last) = self.0.last_mut() {
            last.reply = reply;
        }
    }

    /// Writes down that storage did not answer in time, and nothing of what came after.
    pub(super) fn hang_at_create(&mut self) {
        let is_create = |exchange: &Exchange| matches!(exchange.call, Call::CreateWorkspace { .. });
        if let Some(at) = self.0.iter().rposition(is_create) {
            self.0.truncate(at + 1);
            self.end(Reply::Hang);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacted_recordings_keep_the_form_of_names_and_nothing_of_their_text() {
        let recording = Recording {
            component: "c".into(),
            request: CreateWorkspaceRequest { name: Some(" Ada's 2nd ".into()), ..CreateWorkspaceRequest::default() },
            exchanges: vec![Exchange { call: Call::CreateWorkspace { name: "Ada's 2nd".into() }, reply: Reply::Hang }],
            ending: Ending::Answered(Answer::Refused {
                case: super::super::script::ErrorCase::InvalidRequest,
                message: "name Ada's 2nd is taken".into(),
            }),
            outcome: "name Ada's 2nd is taken".into(),
            cost: Cost::default(),
            cpu_microseconds: 0,
        };
        let redacted = recording.redacted();
        assert_eq!(redacted.request.name.as_deref(), Some(" xxx'x xxx "));
        assert_eq!(redacted.exchanges[0].call, Call::CreateWorkspace { name: "xxx'x xxx".into() });
        assert!(!format!("{redacted:?}").contains("Ada"), "{redacted:?}");
    }
}
