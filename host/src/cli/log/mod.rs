//! The log, on standard error: one line an event, whatever the words in it. Nothing waits for its reader.

mod format;
mod sample;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    io::{self, IsTerminal as _},
    num::NonZeroU64,
    panic::{self, PanicHookInfo},
    str::FromStr,
};

use anyhow::Context as _;
use tracing::{Level, Metadata};
use tracing_subscriber::{
    Layer as _,
    field::MakeExt as _,
    filter::{FilterExt as _, LevelFilter, Targets},
    fmt::{MakeWriter, format::debug_fn},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use self::{
    format::{Human, write_field},
    sample::Sample,
};
use super::time::Clock;
use crate::{
    metrics::Metrics,
    terminal::{escape_json, lossy::Lossy, standard_error},
};

/// Options of the log.
#[derive(clap::Args)]
pub(super) struct LogArguments {
    /// Levels to log: off, error, warn, info, debug or trace; also by module, as in warn,workspaces_host=debug
    #[arg(long, env = "WORKSPACES_LOG", value_name = "LEVELS", default_value = "info", hide_env_values = true)]
    log: Levels,
    /// Format of the log: a line of text an event, or a line of JSON
    #[arg(long, env = "WORKSPACES_LOG_FORMAT", value_name = "FORMAT", default_value = "human", hide_env_values = true)]
    log_format: Format,
    /// Log one in so many of the requests that succeed; those that fail, and everything else, are all logged
    #[arg(long, env = "WORKSPACES_LOG_SAMPLE", value_name = "N", default_value = "1", hide_env_values = true)]
    log_sample: NonZeroU64,
    #[cfg(feature = "otlp")]
    #[command(flatten)]
    otlp: super::otlp::OtlpArguments,
}

/// The running log; the last lines are written when it is dropped.
pub(super) struct Log {
    // First, as it logs when it is dropped.
    #[cfg(feature = "otlp")]
    _traces: Option<super::otlp::Traces>,
    _lines: Flush,
}

/// Lines that are written to the end when this is dropped.
struct Flush(Lossy);

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Human,
    Json,
}

/// Levels that are logged, for all or by module.
#[derive(Clone)]
struct Levels(Targets);

impl FromStr for Levels {
    type Err = String;

    /// Reads levels. A word that is no level is refused: `Targets` would take it for a module.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split(',').filter(|part| !part.contains('='));
        // An empty word would be the level `error`.
        let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
        if let Some(word) = words.find(|word| !is_level(word.trim())) {
            return Err(format!(
                "{word:?} is no level: give off, error, warn, info, debug or trace, and a module's as in workspaces_host=debug"
            ));
        }
        text.parse().map(Self).map_err(|error| format!("{error}: give levels as in warn,workspaces_host=debug"))
    }
}

impl LogArguments {
    /// Has the whole process log so, panics too.
    pub(super) fn install(&self, metrics: &Metrics) -> anyhow::Result<Log> {
        let dropped = metrics.log_lines_dropped();
        let output = standard_error().context("no standard error to log to")?;
        let lossy = Lossy::start(
            "log",
            output,
            move |count| _ = dropped.inc_by(count),
            |count| tracing::warn!(count, "log lines dropped, nobody read them in time"),
        );
        let lines = tracing_subscriber::fmt::layer().with_timer(Clock);
        let lines = match self.log_format {
            Format::Human => lines
                .event_format(Human { colour: is_coloured() })
                .fmt_fields(debug_fn(write_field).delimited(" "))
                .with_writer(Writer { lines: lossy.clone(), json: false })
                .boxed(),
            Format::Json => {
                let writer = Writer { lines: lossy.clone(), json: true };
                lines.json().flatten_event(true).with_span_list(false).with_writer(writer).boxed()
            }
        };
        // What is wrong with the log itself is logged at any level.
        let Levels(levels) = self.log.clone();
        let levels = levels.with_target(module_path!(), Level::WARN);
        let registry = tracing_subscriber::registry();
        #[cfg(feature = "otlp")]
        let (traces, registry) = {
            let (traces, layer) = self.otlp.layer()?.unzip();
            (traces, registry.with(layer))
        };
        registry.with(lines.with_filter(levels.and(Sample::new(self.log_sample)))).init();
        panic::set_hook(Box::new(log_panic));
        Ok(Log {
            #[cfg(feature = "otlp")]
            _traces: traces,
            _lines: Flush(lossy),
        })
    }
}

/// Returns whether the log's reader is a terminal that shows colours, and the user wants them (no-color.org).
fn is_coloured() -> bool {
    let is_unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    io::stderr().is_terminal() && !is_unwanted
}

/// Logs a panic; the default hook would wait for a reader of standard error.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let (thread, backtrace) = (std::thread::current(), Backtrace::capture());
    let cause = panic.payload_as_str().unwrap_or_default();
    let at = panic.location().map(tracing::field::display);
    match backtrace.status() {
        BacktraceStatus::Captured => tracing::error!(cause, at, thread = thread.name(), %backtrace, "panicked"),
        _ => tracing::error!(cause, at, thread = thread.name(), "panicked"),
    }
}

/// Writer of events, each of which comes in one piece.
struct Writer {
    lines: Lossy,
    json: bool,
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { writer: self, urgent: true }
    }

    /// Returns the writer of an event. Warnings and errors are written at once: the process may be killed after them.
    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Self::Writer {
        Line { writer: self, urgent: *event.level() <= Level::WARN }
    }
}

/// Writer of one event.
struct Line<'a> {
    writer: &'a Writer,
    urgent: bool,
}

impl io::Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Writer { lines, json } = self.writer;
        match json {
            true => lines.push(escape_json(&String::from_utf8_lossy(line)).as_bytes(), self.urgent),
            false => lines.push(line, self.urgent),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_no_levels_are_refused() {
        for text in ["info", "OFF", "warn,workspaces_host=debug", "workspaces_host::http=trace,hyper=off", "3"] {
            assert!(text.parse::<Levels>().is_ok(), "{text}");
        }
        for text in ["verbose", "", "info,", "workspaces_host", "warn,hyper", "hyper=loud", "info debug"] {
            assert!(text.parse::<Levels>().is_err(), "{text}");
        }
    }
}
