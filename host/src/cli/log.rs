//! The log, on standard error: one line an event, whatever the words in it.

use std::{
    fmt::{self, Debug, Write as _},
    io::{self, IsTerminal as _},
};

use tracing::field::Field;
use tracing_subscriber::{
    Layer as _,
    field::MakeExt as _,
    filter::Targets,
    fmt::format::{Writer, debug_fn},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// What is logged, and how.
#[derive(clap::Args)]
pub(super) struct LogArguments {
    /// What to log, such as debug or warn,workspaces_host=debug
    #[arg(long, env = "WORKSPACES_LOG", default_value = "info")]
    log: Targets,
    /// How to log: a line of text an event, or a line of JSON
    #[arg(long, env = "WORKSPACES_LOG_FORMAT", value_name = "FORMAT", default_value = "human")]
    log_format: Format,
    #[cfg(feature = "otlp")]
    #[command(flatten)]
    otlp: super::otlp::OtlpArguments,
}

/// What has to stay for as long as there is something to log.
pub(super) struct Log {
    #[cfg(feature = "otlp")]
    _traces: Option<super::otlp::Traces>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Human,
    Json,
}

impl LogArguments {
    /// Has the whole process log so.
    pub(super) fn install(&self) -> anyhow::Result<Log> {
        let lines = tracing_subscriber::fmt::layer();
        let lines = match self.log_format {
            Format::Human => lines
                .with_writer(io::stderr)
                .with_ansi(io::stderr().is_terminal())
                .fmt_fields(debug_fn(write_field).delimited(" "))
                .boxed(),
            Format::Json => lines.json().flatten_event(true).with_span_list(false).with_writer(|| Json).boxed(),
        };
        let registry = tracing_subscriber::registry();
        #[cfg(feature = "otlp")]
        let (traces, registry) = {
            let (traces, layer) = self.otlp.layer()?.unzip();
            (traces, registry.with(layer))
        };
        registry.with(lines.with_filter(self.log.clone())).init();
        Ok(Log {
            #[cfg(feature = "otlp")]
            _traces: traces,
        })
    }
}

/// Whether a character could end a line, or have a terminal do or show something else than what was
/// logged.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escaping(writer), "{value:?}")
}

struct Escaping<'a, 'b>(&'a mut Writer<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|character| match is_unsafe(character) {
            true => write!(self.0, "{}", character.escape_default()),
            false => self.0.write_char(character),
        })
    }
}

/// Standard error for lines of JSON. Its strings have no more than the ASCII controls escaped, which is
/// all that JSON asks for.
struct Json;

impl io::Write for Json {
    /// Of a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut escaped = String::with_capacity(line.len());
        for character in String::from_utf8_lossy(line).chars() {
            match is_unsafe(character) && character != '\n' {
                true => _ = write!(escaped, "\\u{:04x}", u32::from(character)),
                false => escaped.push(character),
            }
        }
        io::stderr().write_all(escaped.as_bytes())?;
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
    fn what_ends_lines_or_moves_terminals_is_escaped_and_other_text_is_not() {
        let mut text = String::new();
        let written =
            Escaping(&mut Writer::new(&mut text)).write_str("a\n\r\t\u{1b}[31m\u{7f}\u{9b}2J\u{85}\u{202e}b é\\");
        assert_eq!((written, &*text), (Ok(()), r"a\n\r\t\u{1b}[31m\u{7f}\u{9b}2J\u{85}\u{202e}b é\"));
    }
}
