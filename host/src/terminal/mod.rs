//! Lines on standard output and standard error, the one place that writes text for people to them.
//!
//! Names, reasons and errors come from others. A line stays a line whatever is in it, and holds nothing that
//! has a terminal do or show something else.

pub(crate) mod lossy;

use std::{
    borrow::Cow,
    fmt::{self, Display, Write as _},
    fs::File,
    io::{self, Write as _, stderr, stdout},
    os::fd::AsFd,
};

use anyhow::Result;
use serde::Serialize;

use self::lossy::Lossy;

/// Returns whether a character could end a line, or have a terminal do or show something else than the text:
/// control characters, line separators and bidirectional controls.
pub(crate) fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Writer that escapes unsafe characters as Rust's string literals do.
pub(crate) struct Escaping<W>(pub(super) W);

impl<W: fmt::Write> fmt::Write for Escaping<W> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        // Nearly all text is this; characters need not be decoded to see that.
        if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return self.0.write_str(text);
        }
        while let Some(at) = text.find(is_unsafe) {
            let (safe, rest) = text.split_at(at);
            self.0.write_str(safe)?;
            let mut rest = rest.chars();
            rest.next().map_or(Ok(()), |character| write!(self.0, "{}", character.escape_default()))?;
            text = rest.as_str();
        }
        self.0.write_str(text)
    }
}

/// Returns a value's text as one line.
pub(crate) fn escape(value: impl Display) -> String {
    let mut line = String::new();
    // Writing to a string does not fail.
    let _ = write!(Escaping(&mut line), "{value}");
    line
}

/// Returns the same JSON with the characters escaped that are unsafe in a terminal; JSON asks for ASCII controls
/// alone. Line breaks between values stay.
pub(crate) fn escape_json(json: &str) -> Cow<'_, str> {
    let is_unsafe = |character: char| is_unsafe(character) && character != '\n';
    // All of them lie in the basic multilingual plane, where one escape is one character.
    let mut parts = json.split_inclusive(is_unsafe).peekable();
    let mut escaped = String::new();
    while let Some(part) = parts.next() {
        match part.chars().next_back().filter(|last| is_unsafe(*last)) {
            None if escaped.is_empty() && parts.peek().is_none() => return json.into(),
            None => escaped.push_str(part),
            Some(last) => {
                escaped.push_str(part.trim_end_matches(last));
                let _ = write!(escaped, "\\u{:04x}", u32::from(last));
            }
        }
    }
    escaped.into()
}

/// Prints a line to standard output.
///
/// # Errors
///
/// Where nobody reads it, as behind `| head`.
pub(crate) fn print(line: impl Display) -> Result<()> {
    Ok(writeln!(stdout(), "{}", escape(line))?)
}

/// Prints a value to standard output, as a line of JSON.
///
/// # Errors
///
/// As [`print()`].
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    Ok(writeln!(stdout(), "{}", escape_json(&serde_json::to_string(value)?))?)
}

/// Prints the error that ends the program to standard error, as lines or as JSON. A reader that does not read holds the
/// end up for a second at most.
pub(crate) fn print_error(error: &anyhow::Error, json: bool, exit_code: u8) {
    let text = if json { error_json(&chain(error), exit_code) } else { error_lines(error) };
    match standard_error() {
        Ok(output) => {
            let lines = Lossy::start("standard error", output, drop, |_| ());
            lines.push(text.as_bytes(), true);
            lines.close();
        }
        // A sealed process can open nothing more. It is the compiler, and the server reads what it says.
        Err(_) => drop(stderr().write_all(text.as_bytes())),
    }
}

/// Returns an error as a line of JSON: `error`, which may have line breaks, and `exit_code`.
pub(crate) fn error_json(message: &str, exit_code: u8) -> String {
    let json = serde_json::json!({"error": message, "exit_code": exit_code}).to_string();
    format!("{}\n", escape_json(&json))
}

/// Returns an error's text with those of its causes.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn error_lines(error: &anyhow::Error) -> String {
    let (mut first, mut more) = ("error".to_owned(), String::new());
    for cause in error.chain() {
        match cause.downcast_ref::<Lines>() {
            None => first += &format!(": {cause}"),
            Some(Lines(lines)) => {
                let mut lines = lines.iter();
                first += &format!(": {}", lines.next().map_or("", String::as_str));
                lines.for_each(|line| more += &format!("{}\n", escape(line)));
            }
        }
    }
    format!("{}\n{more}", escape(first))
}

/// Prints a line of an error to standard error.
pub(crate) fn print_error_line(line: &str) {
    // An error that nobody reads has an exit code all the same.
    let _ = writeln!(stderr(), "{}", escape(line));
}

/// Prints to standard error how far work has come: in place on a terminal, else as a line.
pub(crate) fn print_progress(what: &str, percent: u64, in_place: bool, ended: bool) {
    let (start, end) = if in_place { ("\r", if ended { "\n" } else { "" }) } else { ("", "\n") };
    // Progress that can't be shown is no reason to stop the work.
    let _ = write!(stderr(), "{start}{} {percent} %{end}", escape(what));
}

/// Returns standard error without the lock that the rest of the program may hold.
pub(crate) fn standard_error() -> io::Result<File> {
    unlocked(&stderr())
}

/// Returns standard output, likewise.
pub(crate) fn standard_output() -> io::Result<File> {
    unlocked(&stdout())
}

fn unlocked(stream: &impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

/// Error of several lines. Line breaks within one of them are escaped where it is printed.
#[derive(Debug)]
pub(crate) struct Lines(pub(crate) Vec<String>);

impl Display for Lines {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Lines {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_characters_are_escaped_and_other_text_is_not() {
        let text = "a\n\r\t\u{1b}[31m\u{7f}\u{9b}2J\u{85}\u{202e}b é\\";
        assert_eq!(escape(text), r"a\n\r\t\u{1b}[31m\u{7f}\u{9b}2J\u{85}\u{202e}b é\");
    }

    #[test]
    fn escaped_json_has_the_same_value() -> serde_json::Result<()> {
        for text in ["", "plain é\\\"", "\u{7f}\u{7f}a\u{9b}2J\u{202e}\u{2028}é", "\u{1b}\n\u{85}"] {
            let json = serde_json::to_string(text)?;
            let escaped = escape_json(&json);
            assert!(!escaped.contains(is_unsafe), "{escaped:?}");
            assert_eq!(serde_json::from_str::<String>(&escaped)?, text);
        }
        assert!(matches!(escape_json("{\"a\":\"é\"}\n"), Cow::Borrowed(_)));
        Ok(())
    }
}
