//! Clients that mean harm; the program `trials` runs these at length, and measures what others notice.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::time::Duration;

use anyhow::Result;
use workspaces_tests::trials::{hostile, malformed, overload, slow};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

#[test]
fn slow_connections_are_closed_and_keep_nobody_from_an_answer() -> Result<()> {
    let report = slow::run(PROGRAM, 400)?;
    assert_eq!(report.closed, 400, "{report:?}");
    // Eight seconds for a head, or for a body after its head; five to read, once there is no more room.
    assert!(report.longest > Duration::from_secs(7) && report.longest < Duration::from_secs(10), "{report:?}");
    Ok(())
}

#[test]
fn clients_beyond_what_can_be_served_are_refused_and_the_others_are_served() -> Result<()> {
    // Any other answer fails it, and so does a server that does not serve a client afterwards.
    let report = overload::run(PROGRAM, 1, 10, Duration::from_secs(2))?;
    let (peak, obedient, impatient) = (&report.peak[0], &report.obedient[0], &report.impatient[0]);
    assert!(peak.created > 0 && peak.refused == 0, "{report:?}");
    assert!(obedient.created > 0 && obedient.refused > 0, "{report:?}");
    assert!(impatient.created > 0 && impatient.refused > obedient.refused, "{report:?}");
    Ok(())
}

#[test]
fn malformed_requests_are_refused_in_json_and_harm_nobody() -> Result<()> {
    let report = malformed::run(PROGRAM, 20_000, 1)?;
    // Each answer was judged where it came; here, that the requests got as far as there are refusals.
    assert!(report.requests >= 20_000 && report.by_hyper.contains_key(&431), "{report:?}");
    let statuses: Vec<_> = report.statuses.into_keys().collect();
    assert_eq!(statuses, [200, 201, 400, 401, 403, 404, 405, 413, 415, 422]);
    Ok(())
}

#[test]
fn hostile_components_of_every_kind_harm_no_other_tenant() -> Result<()> {
    // An answer that a kind may not get fails it, and so does one of the healthy tenant's but 201.
    let report = hostile::run(PROGRAM, 2, 1)?;
    assert!(report.kinds.len() > 15 && report.refused > 15 && report.bombs == 1, "{report:?}");
    assert!(report.kinds.iter().all(|kind| kind.runs == 2), "{report:?}");
    Ok(())
}
