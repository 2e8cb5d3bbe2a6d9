//! Clients that mean harm; the program `trials` runs these at length, and measures what others notice.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::time::Duration;

use anyhow::Result;
use workspaces_tests::trials::slow;

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

#[test]
fn slow_connections_are_closed_and_keep_nobody_from_an_answer() -> Result<()> {
    let report = slow::run(PROGRAM, 400)?;
    assert_eq!(report.closed, 400, "{report:?}");
    // Eight seconds for a head, or for a body after its head.
    assert!(report.longest > Duration::from_secs(7) && report.longest < Duration::from_secs(10), "{report:?}");
    Ok(())
}
