//! The log's line for people: time, level, message and fields of the event, fields of its request.

use std::fmt::{self, Debug, Write as _};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer, time::FormatTime as _},
    registry::LookupSpan,
};

use super::super::time::Clock;
use crate::{http::ANSWERED, terminal::Escaping};

/// Format of a line for people.
pub(super) struct Human {
    /// Colours for the level.
    pub(super) colour: bool,
}

impl<S, N> FormatEvent<S, N> for Human
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        Clock.format_time(&mut writer)?;
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        match self.colour {
            true => write!(writer, " \u{1b}[{}m{level:>5}\u{1b}[0m", colour(level))?,
            false => write!(writer, " {level:>5}")?,
        }
        let bare = event.metadata().name() == ANSWERED;
        let mut line = Line { writer: writer.by_ref(), bare, result: Ok(()) };
        event.record(&mut line);
        line.result?;
        for span in context.event_scope().into_iter().flat_map(|spans| spans.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>().filter(|fields| !fields.is_empty()) {
                write!(writer, " {fields}")?;
            }
        }
        // The place in the code helps who looks at details, or at other crates' events.
        if level > Level::INFO || !target.starts_with(env!("CARGO_CRATE_NAME")) {
            write!(writer, " target={target}")?;
        }
        writeln!(writer)
    }
}

fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        _ => 34,
    }
}

/// An event's fields.
struct Line<'a> {
    writer: Writer<'a>,
    /// Mark of a request's answer, whose line begins with values that need no names.
    bare: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn write(&mut self, field: &Field, value: &dyn Debug) -> fmt::Result {
        self.writer.write_char(' ')?;
        match field.name() {
            "status" | "method" | "path" if self.bare => write!(Escaping(&mut self.writer), "{value:?}"),
            "latency_ms" if self.bare => write!(self.writer, "{value:?}ms"),
            _ => write_field(&mut self.writer, field, value),
        }
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match self.bare && field.name() == "path" {
            true => self.record_debug(field, &format_args!("{value}")),
            false => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.result.is_ok() && !(self.bare && field.name() == "message") {
            self.result = self.write(field, value);
        }
    }
}

/// Writes a field as `name=value`; a message has no name.
pub(super) fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escaping(writer), "{value:?}")
}
