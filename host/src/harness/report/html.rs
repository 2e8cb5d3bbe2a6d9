//! Report as a page of HTML that needs no other file: the matrix as a picture, the costs as bars.

use std::{collections::BTreeSet, fmt::Write as _};

use uuid::Uuid;

use super::{Report, text::escape};
use crate::harness::matrix::Cell;

const STYLE: &str = "
:root { color-scheme: light dark; --good: #2a7a3b; --bad: #c0392b; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
.matrix td { padding: .1rem; text-align: center; } .matrix th { font-weight: normal; font-size: 13px; }
.matrix thead th { writing-mode: vertical-rl; transform: rotate(180deg); }
.cell { display: inline-block; width: 1.1rem; height: 1.1rem; border-radius: 3px; }
.good { background: var(--good); } .bad { background: var(--bad); }
.bar { display: inline-block; height: .8rem; background: #4a78b5; border-radius: 2px; vertical-align: middle; }
.verdict { color: #fff; padding: .2rem .7rem; border-radius: 4px; }
pre { white-space: pre-wrap; border-left: 3px solid var(--bad); padding-left: .8rem; }
";

/// Widest bar, in pixels.
const WIDEST: u64 = 300;

/// Returns the page.
pub(super) fn page(report: &Report, name: &str) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut page, report, name);
    page
}

fn write_page(page: &mut String, report: &Report, name: &str) -> std::fmt::Result {
    let name = escape(name);
    let (verdict, colour) = if report.passed() { ("passed", "good") } else { ("failed", "bad") };
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}: {verdict}</title><style>{STYLE}</style></head><body>
<h1>{name} <span class=\"verdict {colour}\" id=\"verdict\">{verdict}</span></h1>
<p>sha256 {}, {} bytes. {}</p>",
        report.digest,
        report.shape.size,
        escape(&report.shape.producers.join(", "))
    )?;
    for mistake in &report.shape.mistakes {
        write!(page, "<pre>{}\n→ {}</pre>", escape(&mistake.difference.join("\n")), escape(&mistake.remedy))?;
    }
    if let Some(error) = &report.load_error {
        write!(page, "<pre>{}</pre>", escape(error))?;
    }
    if !report.cells.is_empty() {
        write_matrix(page, report)?;
    }
    if !report.failures.is_empty() {
        write!(page, "<h2>Failures</h2>")?;
    }
    for failure in &report.failures {
        let request = serde_json::to_string(&failure.case.request).unwrap_or_default();
        write!(
            page,
            "<h3>{}</h3><p>{}</p><pre>request {}\n{}\nexpected {}\nseen {}</pre>",
            escape(&failure.id),
            escape(&failure.sentence),
            escape(&request),
            escape(&failure.calls.join("\n")),
            escape(&failure.violation.expected),
            escape(&failure.violation.seen)
        )?;
    }
    if !report.cases.is_empty() {
        write_costs(page, report)?;
    }
    page.write_str("</body></html>\n")
}

/// Writes the matrix: a row for each request and call, a column for each answer.
fn write_matrix(page: &mut String, report: &Report) -> std::fmt::Result {
    let column = |cell: &Cell| {
        // Ids differ from row to row.
        let is_word = |word: &&str| Uuid::try_parse(word).is_err();
        match cell.reply.split(' ').filter(is_word).collect::<Vec<_>>().join(" ").as_str() {
            "" => "other id".to_owned(),
            "grant for" => "other grant".to_owned(),
            "grant for in" => "other grant in an organization".to_owned(),
            "none" if cell.call.is_none() => "no fault".to_owned(),
            reply => reply.to_owned(),
        }
    };
    let columns: BTreeSet<_> = report.cells.iter().map(column).collect();
    let (passed, all) = (report.cells_passed(), report.cells.len());
    write!(
        page,
        "<h2>Fault matrix: {passed} of {all} cells</h2><table class=\"matrix\" id=\"matrix\"><thead><tr><th></th>"
    )?;
    for column in &columns {
        write!(page, "<th>{}</th>", escape(column))?;
    }
    write!(page, "</tr></thead><tbody>")?;
    let row = |cell: &Cell| {
        let name = cell.name();
        name.rsplit_once('/').map_or(name.clone(), |(row, _)| row.to_owned())
    };
    let mut rows: Vec<String> = Vec::new();
    for name in report.cells.iter().map(row) {
        if !rows.contains(&name) {
            rows.push(name);
        }
    }
    for name in rows {
        write!(page, "<tr><th>{}</th>", escape(&name))?;
        for wanted in &columns {
            write!(page, "<td>")?;
            for cell in report.cells.iter().filter(|cell| row(cell) == name && column(cell) == *wanted) {
                let (colour, rule) = match &cell.violation {
                    None => ("good", "ok".to_owned()),
                    Some(violation) => ("bad", violation.rule.to_string()),
                };
                write!(page, "<span class=\"cell {colour}\" title=\"{}: {rule}\"></span>", escape(&cell.reply))?;
            }
            write!(page, "</td>")?;
        }
        write!(page, "</tr>")?;
    }
    write!(page, "</tbody></table>")
}

/// Writes the costs of cases, with bars of their instructions.
fn write_costs(page: &mut String, report: &Report) -> std::fmt::Result {
    let instructions = |number: Option<u64>| number.unwrap_or_default();
    let most = report.cases.iter().map(|case| instructions(case.cost.instructions)).max().unwrap_or_default().max(1);
    write!(
        page,
        "<h2>Cases</h2><table id=\"cases\"><tr><th>case</th><th>instructions</th><th></th><th>memory</th><th>host calls</th><th>bytes</th><th></th></tr>"
    )?;
    for case in &report.cases {
        let cost = &case.cost;
        let bad = case.failure.clone().or_else(|| case.over_budget.clone());
        write!(
            page,
            "<tr><td title=\"{}\">{}</td><td>{}</td><td><span class=\"bar\" style=\"width:{}px\"></span></td><td>{} KiB</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&case.sentence),
            escape(&case.id),
            instructions(cost.instructions),
            instructions(cost.instructions) * WIDEST / most,
            cost.memory >> 10,
            cost.host_calls,
            cost.bytes,
            escape(&bad.unwrap_or_else(|| "ok".into()))
        )?;
    }
    write!(page, "</table>")
}
