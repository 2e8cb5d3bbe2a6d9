//! Lines of the table, and the verdict on each.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use super::healthy::Phase;

/// Measurements of the healthy tenant and the server beside one adversary.
#[derive(Debug, Clone)]
pub struct Line {
    /// Name of the adversary.
    pub name: String,
    /// Time from the program's start to the healthy tenant's first answer.
    pub start: Duration,
    /// 99th percentile of the healthy tenant's latencies, measured right before each attack; the median of the rounds.
    pub alone: Duration,
    /// The same beside the adversary.
    pub beside: Duration,
    /// Longest time that the healthy tenant waited for an answer beside the adversary.
    pub longest: Duration,
    /// Number of the healthy tenant's requests.
    pub requests: usize,
    /// Number of those that got no 201.
    pub refused: usize,
    /// First of the answers that were no 201, or the error in its place.
    pub refusal: Option<String>,
    /// Memory of the server before the first attack, and at most, in MiB.
    pub memory: [f64; 2],
    /// Number of the adversary's own answers, and the median, the 99th percentile and the maximum of their times.
    pub own: Option<(usize, [Duration; 3])>,
    /// Anything else that went wrong, such as an answer that the adversary should not get.
    pub fault: Option<String>,
    /// True where the server answers after the attacks.
    pub alive: bool,
    /// Time from SIGTERM during an attack to the exit; `None` where it was killed or its exit code was not 0.
    pub end: Option<Duration>,
}

/// Limits of a verdict: the p99 beside an adversary is at most this many times the p99 alone, or this much more.
const P99_TIMES: f64 = 1.5;
const P99_MORE: Duration = Duration::from_millis(5);

/// Longest time from the program's start to a healthy tenant's first answer.
const START: Duration = Duration::from_secs(1);

/// Most memory that an attack may add, in MiB: a quarter of what compiling one component may take.
const MEMORY: f64 = 128.0;

/// Longest time from SIGTERM to the exit: the five seconds for what is in progress, and two more.
const END: Duration = Duration::from_secs(7);

/// Head of the Markdown table.
pub const HEAD: &str = "\
| beside | p99 alone | p99 beside | longest answer | answers, not 201 | memory before, at most | start | end | its own answers: p50, p99, longest | verdict |
|---|---|---|---|---|---|---|---|---|---|";

impl Line {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            start: Duration::ZERO,
            alone: Duration::ZERO,
            beside: Duration::ZERO,
            longest: Duration::ZERO,
            requests: 0,
            refused: 0,
            refusal: None,
            memory: [0.0; 2],
            own: None,
            fault: None,
            alive: false,
            end: None,
        }
    }

    pub(super) fn count(&mut self, phase: &Phase) {
        self.requests += phase.latencies.len();
        self.refused += phase.refusals.len();
        self.refusal = self.refusal.take().or_else(|| phase.refusals.first().cloned());
    }

    /// Returns the harm that holds on a machine of any speed; `patience` is added to the time to the exit.
    pub fn harm(&self, patience: Duration) -> Vec<String> {
        let mut harm: Vec<_> = self.fault.iter().cloned().collect();
        if let Some(refusal) = &self.refusal {
            harm.push(format!("{} healthy requests got no 201, the first: {refusal}", self.refused));
        }
        if !self.alive {
            harm.push("the server answers no more".into());
        }
        if self.memory[1] > self.memory[0] + MEMORY {
            harm.push(format!("over {MEMORY} MiB more memory"));
        }
        match self.end {
            None => harm.push("it did not exit by itself".into()),
            Some(end) if end > END + patience => harm.push(format!("it exited after {end:.1?}")),
            Some(_) => {}
        }
        harm
    }

    /// Returns all harm, with that to the latencies: of use with a release build on a machine without other load.
    pub fn verdict(&self) -> Vec<String> {
        let mut harm = self.harm(Duration::ZERO);
        if self.beside > self.alone.mul_f64(P99_TIMES).max(self.alone + P99_MORE) {
            harm.push("the p99 is too high".into());
        }
        if self.start > START {
            harm.push("the start is too slow".into());
        }
        harm
    }

    /// Returns the line as JSON, times in milliseconds and memory in MiB.
    pub fn json(&self) -> Value {
        json!({
            "beside": self.name,
            "p99_alone": ms(self.alone),
            "p99_beside": ms(self.beside),
            "longest": ms(self.longest),
            "requests": self.requests,
            "not_201": self.refused,
            "memory_before": self.memory[0],
            "memory_most": self.memory[1],
            "start": ms(self.start),
            "end": self.end.map(ms),
            "own_answers": self.own.map(|(count, _)| count),
            "own_times": self.own.map(|(_, times)| times.map(ms)),
            "harm": self.verdict(),
        })
    }
}

/// A row of the Markdown table.
impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, requests, refused, memory: [before, most], .. } = self;
        write!(formatter, "| {name} | {:.1} ms | {:.1} ms ", ms(self.alone), ms(self.beside))?;
        write!(formatter, "| {:.1} ms | {requests}, {refused} | {before:.0}, {most:.0} MiB ", ms(self.longest))?;
        write!(formatter, "| {:.2} s | ", self.start.as_secs_f64())?;
        match self.end {
            Some(end) => write!(formatter, "{:.1} s | ", end.as_secs_f64())?,
            None => write!(formatter, "none | ")?,
        }
        match self.own {
            Some((count, [p50, p99, longest])) => {
                write!(formatter, "{count}: {:.1}, {:.1}, {:.1} ms | ", ms(p50), ms(p99), ms(longest))?;
            }
            None => write!(formatter, "| ")?,
        }
        let harm = self.verdict();
        let harm = if harm.is_empty() { "ok".to_owned() } else { harm.join("; ") };
        write!(formatter, "{} |", harm.replace('|', "/").replace('\n', " "))
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
