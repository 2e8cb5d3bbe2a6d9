//! Errors of a configuration: the place, the key and what is expected. No value and no line of the file is shown,
//! since each may hold a secret.

use std::{fmt, ops::Range};

use anyhow::{Error, anyhow};
use toml::de;

/// The text of a configuration, for the places of errors.
pub(super) struct Document<'a> {
    pub(super) name: String,
    pub(super) text: &'a str,
}

impl Document<'_> {
    /// Returns an error at a byte of the text.
    pub(super) fn error(&self, at: usize, message: impl fmt::Display) -> Error {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        anyhow!("{}:{line}:{column}: {message}", self.name)
    }

    /// Says what is wrong with the document, without the value that it is about.
    pub(super) fn explain(&self, mut error: de::Error) -> Error {
        let message = error.message().to_owned();
        let Range { start, .. } = error.span().unwrap_or_default();
        // Without its input the error's text ends with the path of the key.
        error.set_input(None);
        let shown = error.to_string();
        let path = shown.strip_prefix(&message).and_then(|rest| rest.trim().strip_prefix("in `"));
        let path = path.and_then(|path| path.strip_suffix('`')).unwrap_or_default();
        let path: Vec<_> = path.split('.').filter(|key| !key.is_empty()).map(plain).collect();
        let message = without_value(&message);
        match path.is_empty() {
            true => self.error(start, message),
            false => self.error(start, format_args!("{}: {message}", path.join("."))),
        }
    }
}

/// Longest key that is shown. A random secret in the place of a key is longer.
const MAX_KEY: usize = 40;

/// Returns a key, if it looks like one.
pub(super) fn plain(key: &str) -> &str {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if key.len() <= MAX_KEY && key.bytes().all(is_plain) { key } else { "…" }
}

/// Rewrites an error of serde or of the TOML parser without the value that it quotes.
fn without_value(message: &str) -> String {
    // The value stands before the last of these words; what follows them is this program's own.
    const EXPECTED: &str = ", expected ";
    let unknown = message.strip_prefix("unknown field `");
    let invalid =
        ["invalid type: ", "invalid value: ", "invalid length "].iter().find_map(|start| message.strip_prefix(start));
    match (unknown, invalid) {
        (Some(rest), _) => match rest.rsplit_once(EXPECTED) {
            Some((key, known)) => unknown_key(key.trim_end_matches('`'), known),
            None => "unknown key: there are none here".into(),
        },
        (None, Some(rest)) => {
            let (found, expected) = rest.rsplit_once(EXPECTED).unwrap_or((rest, "another value"));
            // The first word is the type: the value comes after it.
            let found = match found.split(' ').next() {
                Some("string") => ", found a string",
                Some("integer") => ", found a number",
                Some("floating") => ", found a fraction",
                Some("boolean") => ", found true or false",
                Some("sequence") => ", found a list",
                Some("map") => ", found a section",
                _ => "",
            };
            format!("expected {}{found}", in_words(expected))
        }
        // The parser's own messages quote nothing, and neither do those about a field that is missing.
        (None, None) => message.to_owned(),
    }
}

/// Names a type of Rust as TOML has it.
fn in_words(expected: &str) -> &str {
    match expected {
        "usize" | "u64" | "u32" => "a whole number",
        "a nonzero usize" | "a nonzero u64" | "a nonzero u32" => "a whole number above 0",
        "a boolean" => "true or false",
        "a sequence" => "a list, such as [\"acme.example\"]",
        "path string" | "a path string" => "a path in quotes",
        other => other,
    }
}

/// Says which key was meant by one that is not known, or which there are.
fn unknown_key(key: &str, known: &str) -> String {
    let names = || known.split('`').skip(1).step_by(2);
    let close = names().map(|name| (distance(key, name), name)).min();
    match close {
        Some((0..=2, name)) => format!("unknown key {}: did you mean {name}?", plain(key)),
        _ => format!("unknown key {}: expected {}", plain(key), names().collect::<Vec<_>>().join(", ")),
    }
}

/// Returns how many letters have to be put in, taken out or changed to make one word of another.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (number, letter) in one.chars().take(2 * MAX_KEY).enumerate() {
        let mut diagonal = row[0];
        row[0] = number + 1;
        for (column, known) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *known);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_without_the_value() {
        for (message, expected) in [
            (
                "invalid type: string \"postgres://a:s, expected x@h\", expected a sequence",
                "expected a list, such as [\"acme.example\"], found a string",
            ),
            ("invalid value: integer `0`, expected a nonzero u32", "expected a whole number above 0, found a number"),
            ("unknown field `flise`, expected one of `flies`, `walks`", "unknown key flise: did you mean flies?"),
            ("unknown field `se`cret s`, expected `a` or `b`", "unknown key …: expected a, b"),
            ("unknown field `a`, there are no fields", "unknown key: there are none here"),
            ("missing field `issuer`", "missing field `issuer`"),
        ] {
            assert_eq!(without_value(message), expected);
        }
        assert_eq!(plain("0123456789abcdef0123456789abcdef0123456789abcdef"), "…");
    }

    #[test]
    fn the_distance_of_words_is_in_letters() {
        for (one, other, expected) in [("", "", 0), ("cpu", "cpus", 1), ("memroy", "memory", 2), ("a", "xyz", 3)] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }
}
