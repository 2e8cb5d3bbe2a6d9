//! Chart of the ratios, as SVG.

use std::fmt::Write as _;

use crate::{figures::Report, servers::Kind};

/// Height of a bar with its margin, in pixels.
const BAR: usize = 28;

/// Width of the names and of a ratio of one, in pixels.
const NAMES: f64 = 220.0;
const ONE: f64 = 400.0;

/// Draws a bar for each comparison: creates a second, sandboxed to native, with the range of the rounds.
pub(crate) fn draw(report: &Report) -> String {
    let height = BAR * (report.comparisons.len() + 2);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"760\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\">Creates a second, sandboxed : native (median and range of the rounds)</text>\n"
    );
    for (row, comparison) in report.comparisons.iter().enumerate() {
        let Some([low, ratio, high]) = comparison.ratio(Kind::Sandboxed) else { continue };
        let (top, middle) = (BAR * (row + 1) + 6, BAR * (row + 1) + 16);
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{text}\">{name}, {connections} connections</text>\
             <rect x=\"{NAMES}\" y=\"{top}\" width=\"{width:.0}\" height=\"20\" fill=\"#4878a8\"/>\
             <line x1=\"{from:.0}\" x2=\"{to:.0}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"#222\" stroke-width=\"2\"/>\
             <text x=\"{after:.0}\" y=\"{text}\">{ratio:.2}</text>",
            name = comparison.database.name(),
            connections = comparison.connections,
            text = middle + 5,
            width = ONE * ratio,
            from = NAMES + ONE * low,
            to = NAMES + ONE * high,
            after = NAMES + ONE * high.max(ratio) + 8.0,
        );
    }
    let one = NAMES + ONE;
    let _ = writeln!(
        svg,
        "<line x1=\"{one}\" x2=\"{one}\" y1=\"{BAR}\" y2=\"{bottom}\" stroke=\"#888\" stroke-dasharray=\"4\"/>\n</svg>",
        bottom = height - BAR / 2
    );
    svg
}
