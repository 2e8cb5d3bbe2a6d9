//! Findings about a configuration: the place, the key and what is expected. No value and no line of the file is shown,
//! since each may hold a secret.

use std::{fmt, ops::Range};

use serde::Serialize;
use toml::de::{self, DeTable, DeValue};

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// The server does not start, or a tenant is not served.
    Error,
    /// The server starts, and something is probably not as it was meant.
    Warning,
    /// Something that the server will do at its start, or that was not checked.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// Finding about a configuration, or about what it names.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    /// Severity.
    pub(crate) severity: Severity,
    /// File of the configuration.
    pub(crate) file: String,
    /// Line of the place, from 1.
    pub(crate) line: usize,
    /// Column of the place in characters, from 1.
    pub(crate) column: usize,
    /// Path of the key, such as `tenants.acme.database`; empty for the file as a whole.
    pub(crate) key: String,
    /// Description, with what to do.
    pub(crate) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, key, message, .. } = self;
        write!(formatter, "{file}:{line}:{column}: ")?;
        if !key.is_empty() {
            write!(formatter, "{key}: ")?;
        }
        formatter.write_str(message)
    }
}

/// Text of a configuration, for the places of findings.
pub(crate) struct Document {
    pub(super) name: String,
    pub(super) text: String,
}

impl Document {
    /// Returns an error at a byte of the text.
    pub(super) fn error(&self, at: usize, key: impl Into<String>, message: impl Into<String>) -> Finding {
        self.finding(Severity::Error, at, key.into(), message.into())
    }

    fn finding(&self, severity: Severity, at: usize, key: String, message: String) -> Finding {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Finding { severity, file: self.name.clone(), line, column, key, message }
    }

    /// Returns a finding about a key. Its place is the key's value; where a tenant leaves the key out, that of the
    /// defaults, or else the tenant's section.
    pub(crate) fn finding_at(&self, severity: Severity, key: &[&str], message: impl Into<String>) -> Finding {
        let defaults: Vec<_> = match key {
            ["tenants", _, rest @ ..] if !rest.is_empty() => [&["defaults"], rest].concat(),
            _ => Vec::new(),
        };
        let table = DeTable::parse(&self.text).ok();
        let place = |key: &[&str]| table.as_ref().and_then(|table| place(table.get_ref(), key));
        let sections = (1..key.len()).rev().map(|length| &key[..length]);
        let mut places = [key, defaults.as_slice()].into_iter().chain(sections);
        let at = places.find_map(place).unwrap_or(0);
        let key = key.iter().map(|part| plain(part)).collect::<Vec<_>>().join(".");
        self.finding(severity, at, key, message.into())
    }

    /// Says what is wrong with the document, without the value that it is about. `within` is the path of the section
    /// that was read.
    pub(super) fn explain(&self, within: &[&str], mut error: de::Error) -> Finding {
        let message = error.message().to_owned();
        let Range { start, .. } = error.span().unwrap_or_default();
        // Without its input the error's text ends with the path of the key.
        error.set_input(None);
        let shown = error.to_string();
        let path = shown.strip_prefix(&message).and_then(|rest| rest.trim().strip_prefix("in `"));
        let path = path.and_then(|path| path.strip_suffix('`')).unwrap_or_default();
        let path = within.iter().copied().chain(path.split('.').filter(|key| !key.is_empty()));
        let path: Vec<_> = path.map(plain).collect();
        self.error(start, path.join("."), without_value(&message))
    }
}

/// Returns the place of a value, by the path of its key.
fn place(table: &DeTable<'_>, key: &[&str]) -> Option<usize> {
    let (first, rest) = key.split_first()?;
    let value = table.get(*first)?;
    match (rest, value.get_ref()) {
        ([], _) => Some(value.span().start),
        (rest, DeValue::Table(table)) => place(table, rest),
        _ => None,
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
    fn a_key_is_found_in_its_section_the_defaults_or_its_tenant() {
        let text = "defaults.connections = 3\n[tenants.acme]\ndatabase = \"x\"\n[tenants.acme.limits]\ncpu = \"1s\"\n";
        let document = Document { name: "f".into(), text: text.into() };
        for (key, expected) in [
            (&["tenants", "acme", "database"][..], "f:3:12: tenants.acme.database: m"),
            (&["tenants", "acme", "limits", "cpu"], "f:5:7: tenants.acme.limits.cpu: m"),
            (&["tenants", "acme", "connections"], "f:1:24: tenants.acme.connections: m"),
            (&["tenants", "acme", "component"], "f:2:1: tenants.acme.component: m"),
            (&["tenants", "other", "component"], "f:2:2: tenants.other.component: m"),
            (&["tls", "key"], "f:1:1: tls.key: m"),
            (&[], "f:1:1: m"),
        ] {
            assert_eq!(document.finding_at(Severity::Note, key, "m").to_string(), expected);
        }
    }

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

    #[test]
    fn fuzzed_configurations_have_findings_within_their_text() {
        let seeds: [&[u8]; 2] = [
            b"listen = \"127.0.0.1:0\"\n[tenants.acme]\ndatabase = \"sqlite:acme.db\"\nlimits = { cpu = \"1s\" }\n",
            b"[defaults]\njwt = { keys = \"k\", issuer = \"i\" }\n[tenants]\n[tenants.\"a b\".limits]\nrate = 0\n",
        ];
        crate::fuzz::fuzz(&seeds, |input| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            let document = Document { name: "f".into(), text: text.to_owned() };
            let lines = text.matches('\n').count() + 1;
            let mut findings = Vec::new();
            super::super::sections(&document, &mut findings);
            for finding in findings {
                assert!((1..=lines).contains(&finding.line), "{finding:?}");
            }
        });
    }
}
