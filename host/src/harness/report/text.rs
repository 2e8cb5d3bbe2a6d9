//! Reports as text: a table, JUnit's XML, annotations of GitHub.

use std::fmt::Write as _;

use super::Report;
use crate::{harness::verify::Failure, runtime::script::Cost};

/// Colours of a terminal.
struct Colours(bool);

impl Colours {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    fn bad(&self, text: &str) -> String {
        self.paint("31", text)
    }
}

/// Most failures that the table shows in full.
const SHOWN: usize = 20;

/// Returns text of a component without what a terminal would obey.
fn plain(text: &str) -> String {
    let is_kept = |character: char| !character.is_control() || character == '\n';
    text.chars().map(|character| if is_kept(character) { character } else { '\u{fffd}' }).collect()
}

/// Returns the report for people.
pub(super) fn table(report: &Report, name: &str, colour: bool) -> String {
    let colours = Colours(colour);
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_table(&mut text, report, name, &colours);
    text
}

fn write_table(text: &mut String, report: &Report, name: &str, colours: &Colours) -> std::fmt::Result {
    let Report { shape, cases, cells, failures, .. } = report;
    writeln!(text, "{name} (sha256 {}, {} bytes)", report.digest.get(..12).unwrap_or_default(), shape.size)?;
    if !shape.producers.is_empty() {
        writeln!(text, "  made by {}", plain(&shape.producers.join(", ")))?;
    }
    for mistake in &shape.mistakes {
        for line in &mistake.difference {
            let line = plain(line);
            writeln!(text, "  {}", if line.starts_with('+') { colours.bad(&line) } else { colours.good(&line) })?;
        }
        writeln!(text, "  → {}", mistake.remedy)?;
    }
    if let Some(error) = &report.load_error {
        writeln!(text, "  {}", colours.bad(&plain(error)))?;
    }
    if report.is_loaded() {
        let mark = |good: bool| if good { colours.good("ok") } else { colours.bad("FAILED") };
        let broken = cases.iter().filter(|case| case.failure.is_some()).count();
        writeln!(text, "  cases          {} of {}  {}", cases.len() - broken, cases.len(), mark(broken == 0))?;
        if !cells.is_empty() {
            let passed = report.cells_passed();
            writeln!(text, "  fault matrix   {passed} of {} cells  {}", cells.len(), mark(passed == cells.len()))?;
            let of_inputs = failures.iter().filter(|failure| failure.id.ends_with("@inputs")).count();
            let rules = if of_inputs == 0 { String::new() } else { format!(", {of_inputs} rules broken") };
            writeln!(
                text,
                "  inputs         {} (seed {}){rules}  {}",
                report.inputs,
                report.seed,
                mark(of_inputs == 0)
            )?;
        }
        write_costs(text, report, colours)?;
    }
    for failure in failures.iter().take(SHOWN) {
        write_failure(text, failure, colours)?;
    }
    if failures.len() > SHOWN {
        writeln!(text, "\n… and {} more failures: --format json has all", failures.len() - SHOWN)?;
    }
    for id in &report.mended {
        writeln!(text, "\n{} {id} is expected and was not found: take it out of --expect", colours.bad("MENDED"))?;
    }
    if let Some(comparison) = &report.comparison {
        let against = comparison.against.get(..12).unwrap_or_default();
        writeln!(text, "\nagainst sha256 {against}, {} inputs: {}", comparison.inputs, comparison.verdict)?;
        for (difference, example) in &comparison.differences {
            writeln!(text, "  {difference} ({}, {} inputs)", difference.verdict(), example.count)?;
            let request = serde_json::to_string(&example.request).unwrap_or_default();
            writeln!(text, "    request {}", plain(&request))?;
            writeln!(text, "    {}", colours.bad(&format!("- {}", plain(&example.old))))?;
            writeln!(text, "    {}", colours.good(&format!("+ {}", plain(&example.new))))?;
        }
    }
    let verdict = if report.passed() { colours.good("passed") } else { colours.bad("failed") };
    writeln!(text, "\n{verdict}")
}

fn write_costs(text: &mut String, report: &Report, colours: &Colours) -> std::fmt::Result {
    let most = |of: fn(&Cost) -> u64| report.cases.iter().map(|case| of(&case.cost)).max().unwrap_or_default();
    writeln!(
        text,
        "  cost           {} instructions, {} KiB of memory, {} host calls, {} bytes at most",
        most(|cost| cost.instructions.unwrap_or_default()),
        most(|cost| cost.memory) >> 10,
        most(|cost| cost.host_calls),
        most(|cost| cost.bytes)
    )?;
    if let Some(ratio) = report.instantiation {
        writeln!(text, "  instance       {ratio:.1} times the time of the built-in component's")?;
    }
    for case in &report.cases {
        if let Some(over) = &case.over_budget {
            writeln!(text, "  {} {}: {over}", colours.bad("OVER BUDGET"), case.id)?;
        }
        let Some(baseline) = &case.baseline else { continue };
        let changes = [
            ("instructions", baseline.instructions.unwrap_or_default(), case.cost.instructions.unwrap_or_default()),
            ("memory", baseline.memory, case.cost.memory),
            ("host calls", baseline.host_calls, case.cost.host_calls),
            ("bytes", baseline.bytes, case.cost.bytes),
        ];
        for (what, old, new) in changes.into_iter().filter(|(_, old, new)| old != new) {
            let line = format!("{what} {old} → {new}");
            let line = if new > old { colours.bad(&line) } else { colours.good(&line) };
            writeln!(text, "  {}: {line}", case.id)?;
        }
    }
    Ok(())
}

fn write_failure(text: &mut String, failure: &Failure, colours: &Colours) -> std::fmt::Result {
    let Failure { id, violation, sentence, case, calls, is_known } = failure;
    let mark = if *is_known { "expected".to_owned() } else { colours.bad("FAILED") };
    writeln!(text, "\n{mark} {}", plain(id))?;
    writeln!(text, "  rule      {sentence}")?;
    writeln!(text, "  request   {}", plain(&serde_json::to_string(&case.request).unwrap_or_default()))?;
    for call in calls {
        writeln!(text, "  call      {}", plain(call))?;
    }
    writeln!(text, "  expected  {}", colours.good(&plain(&violation.expected)))?;
    // A trap's cause has a function of the backtrace after each semicolon.
    let seen = plain(&violation.seen).replace("; at 0x", "\n            at 0x").replace("; in ", "\n            in ");
    writeln!(text, "  seen      {}", colours.bad(&seen))
}

/// Escapes text for XML and HTML.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in plain(text).chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            // Not a character of XML.
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            character => escaped.push(character),
        }
    }
    escaped
}

/// Returns the report as JUnit's XML: one test a case, a cell and the inputs.
pub(super) fn junit(report: &Report, name: &str) -> String {
    let tests = report.tests();
    let failures = tests.iter().filter(|(_, failure)| failure.is_some()).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\">\n",
        escape(name),
        tests.len()
    );
    for (test, failure) in tests {
        let test = escape(&test);
        xml += &match failure {
            None => format!("  <testcase classname=\"verify\" name=\"{test}\"/>\n"),
            Some(text) => {
                format!(
                    "  <testcase classname=\"verify\" name=\"{test}\"><failure>{}</failure></testcase>\n",
                    escape(&text)
                )
            }
        };
    }
    xml + "</testsuite>\n"
}

/// Returns the failures as annotations of GitHub's workflows, a line each.
pub(super) fn github(report: &Report, name: &str) -> String {
    // The characters that GitHub's runner reads as its own.
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let mut lines = String::new();
    let mut line = |title: &str, text: &str| {
        lines += &format!("::error file={},title={}::{}\n", property(name), property(title), data(&plain(text)));
    };
    for (title, text) in report.of_shape() {
        line(&title, &text);
    }
    for failure in report.failures.iter().filter(|failure| !failure.is_known) {
        line(&failure.id, &format!("{}\n{}", failure.sentence, failure.violation));
    }
    for case in &report.cases {
        if let Some(over) = &case.over_budget {
            line(&format!("budget/{}", case.id), over);
        }
    }
    for id in &report.mended {
        line(id, "expected, and not found");
    }
    lines
}
