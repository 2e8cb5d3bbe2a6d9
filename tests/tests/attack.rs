//! Clients that mean harm; the program `trials` runs these at length, and measures what others notice.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::time::Duration;

use anyhow::Result;
use workspaces_tests::trials::{malformed, neighbours, overload, slow_clients};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn slow_connections_are_closed_and_keep_nobody_from_an_answer() -> Result<()> {
    let report = slow_clients::run(PROGRAM, 400)?;
    assert_eq!(report.closed, 400, "{report:?}");
    // Eight seconds for a head, or for a body after its head; five to read, once there is no more room.
    assert!(report.longest > Duration::from_secs(7) && report.longest < Duration::from_secs(10), "{report:?}");
    // Of 2,048 connections, which is the default, no kind may hold more than 200 MiB.
    let held = report.held;
    let most = [held.silent, held.head, held.handshake, held.tls_head].into_iter().fold(0.0, f64::max);
    assert!(most < 100.0, "{report:?}");
    Ok(())
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn clients_beyond_what_can_be_served_are_refused_and_the_others_are_served() -> Result<()> {
    // Any other answer fails it, and so does a server that does not serve a client afterwards.
    let report = overload::run(PROGRAM, 1, 10, Duration::from_secs(2), Some(96))?;
    let (peak, obedient, impatient) = (&report.peak[0], &report.obedient[0], &report.impatient[0]);
    assert!(peak.created > 0 && peak.refused == 0, "{report:?}");
    assert!(obedient.created > 0 && obedient.refused > 0, "{report:?}");
    assert!(impatient.created > 0 && impatient.refused > obedient.refused, "{report:?}");
    Ok(())
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn malformed_requests_are_refused_in_json_and_harm_nobody() -> Result<()> {
    let report = malformed::run(PROGRAM, 20_000, 1)?;
    // Each answer was judged where it came; here, that the requests got as far as there are refusals.
    assert!(report.requests >= 20_000 && report.by_hyper.contains_key(&431), "{report:?}");
    let statuses: Vec<_> = report.statuses.into_keys().collect();
    assert_eq!(statuses, [200, 201, 307, 400, 401, 403, 404, 405, 413, 415, 422]);
    Ok(())
}

/// Runs the healthy tenant beside the adversaries of a family. Speed is for `trials`: here the machine is busy.
fn beside(family: &str) -> Result<()> {
    let options = neighbours::NeighbourOptions {
        only: vec![format!("{family}: ")],
        rounds: 1,
        phase: Duration::from_millis(500),
        together: true,
    };
    let lines = neighbours::run(PROGRAM, &options, |_| {})?;
    let harm =
        |line: &neighbours::Line| Some((line.name.clone(), line.harm(BUSY))).filter(|(_, harm)| !harm.is_empty());
    assert_eq!(lines.iter().filter_map(harm).collect::<Vec<_>>(), []);
    Ok(())
}

/// Time that a busy machine may add to the end of a server.
const BUSY: Duration = Duration::from_secs(5);

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn hostile_components_of_every_kind_harm_no_other_tenant() -> Result<()> {
    beside("component")
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn files_that_are_no_files_harm_no_other_tenant() -> Result<()> {
    beside("file")
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn tenants_that_take_too_much_harm_no_other_tenant() -> Result<()> {
    beside("tenant")
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn identity_providers_that_hang_or_flood_harm_no_other_tenant() -> Result<()> {
    beside("identity")
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn a_log_that_nobody_reads_harms_no_tenant() -> Result<()> {
    beside("log")
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn strangers_at_one_tenant_harm_no_other() -> Result<()> {
    beside("stranger")
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn strangers_at_the_administration_harm_no_tenant() -> Result<()> {
    beside("administration")
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn databases_that_hang_or_are_gone_harm_no_other_tenant() -> Result<()> {
    beside("database")
}
