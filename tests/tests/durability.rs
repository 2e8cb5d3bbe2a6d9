//! Durability: what was acknowledged is there, whatever is killed; the program `trials` runs these at length.
#![allow(missing_docs, reason = "a test's name says what it shows")]

use anyhow::Result;
use workspaces_tests::{
    patroni as cluster, postgres,
    trials::{
        Backend, failover, idempotency, io_faults,
        kill_loop::{self, Victim},
        parity,
        patroni::{self, Fault},
        power_cut,
    },
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_workspaces-under-test");

const CYCLES: usize = 300;

fn kill_loop(backend: Backend, victim: Victim) -> Result<()> {
    let report = kill_loop::run(PROGRAM, backend, victim, CYCLES, |_| {})?;
    assert_eq!((report.cycles, report.lost, report.partial), (CYCLES, 0, 0), "{report:?}");
    assert!(report.acknowledged > CYCLES as u64, "{report:?}");
    Ok(())
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn nothing_is_lost_when_the_host_is_killed_on_sqlite() -> Result<()> {
    kill_loop(Backend::Sqlite, Victim::Host)
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn nothing_is_lost_when_the_host_is_killed_on_postgres() -> Result<()> {
    if !postgres::available()? {
        return Ok(());
    }
    kill_loop(Backend::Postgres, Victim::Host)
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn nothing_is_lost_when_the_postgres_server_is_killed() -> Result<()> {
    if !postgres::available()? {
        return Ok(());
    }
    kill_loop(Backend::Postgres, Victim::Database)
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn nothing_acknowledged_is_lost_when_a_standby_takes_over() -> Result<()> {
    if !postgres::available()? {
        return Ok(());
    }
    let report = failover::run(PROGRAM)?;
    assert_eq!((report.lost, report.partial), (0, 0), "{report:?}");
    assert!(report.back_after < std::time::Duration::from_secs(5), "{report:?}");
    Ok(())
}

/// Takes the primary of a Patroni cluster away once.
fn failover_under_patroni(fault: Fault) -> Result<()> {
    if !cluster::available()? {
        return Ok(());
    }
    for failover in patroni::run(PROGRAM, &[fault], |_| {})? {
        assert!(failover.is_clean(), "{failover}");
    }
    Ok(())
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn nothing_acknowledged_is_lost_when_patroni_replaces_a_killed_primary() -> Result<()> {
    failover_under_patroni(Fault::Kill)
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn nothing_acknowledged_is_lost_when_patroni_replaces_a_frozen_primary() -> Result<()> {
    failover_under_patroni(Fault::Freeze)
}

fn each_key_once(backend: Backend, keys: usize) -> Result<()> {
    let report = idempotency::run(PROGRAM, backend, keys)?;
    assert_eq!((report.keys, report.workspaces), (keys, keys as u64), "{report:?}");
    assert!(report.kills > 0 && report.in_flight > 0 && report.replayed >= keys, "{report:?}");
    Ok(())
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn an_idempotency_key_creates_once_on_sqlite() -> Result<()> {
    each_key_once(Backend::Sqlite, 500)
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn an_idempotency_key_creates_once_on_postgres() -> Result<()> {
    if !postgres::available()? {
        return Ok(());
    }
    each_key_once(Backend::Postgres, 200)
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn sqlite_and_postgres_give_the_same_answers() -> Result<()> {
    if !postgres::available()? {
        return Ok(());
    }
    let server = postgres::Postgres::deployed()?;
    let report = parity::run(PROGRAM, &server.service_url(), 10_000, fastrand::u64(..))?;
    for status in [201, 400, 401, 403, 422] {
        assert!(report.statuses.get(&status).is_some_and(|times| *times > 100), "{status}: {report:?}");
    }
    assert!(report.replayed > 100, "{report:?}");
    Ok(())
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn a_power_cut_loses_nothing_acknowledged_at_any_sync() -> Result<()> {
    let report = power_cut::run(1000, true)?;
    assert_eq!((report.creates, report.lost, report.partial, report.damaged), (1000, 0, 0, 0), "{report:?}");
    assert!(report.boundaries > 200, "{report:?}");
    Ok(())
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn a_power_cut_at_a_close_loses_and_damages_nothing_also_after_a_failed_sync() -> Result<()> {
    for after_failed_sync in [false, true] {
        let report = power_cut::close(40, after_failed_sync)?;
        assert_eq!((report.creates, report.lost, report.partial, report.damaged), (40, 0, 0, 0), "{report:?}");
        assert_eq!(report.touched, 0, "{report:?}");
        assert!(report.disks > 60, "{report:?}");
    }
    Ok(())
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn without_syncs_a_power_cut_is_seen_to_lose() -> Result<()> {
    let report = power_cut::run(1000, false)?;
    assert!(report.lost > 0, "{report:?}");
    Ok(())
}

#[test]
#[ignore = "takes long: run with --include-ignored"]
fn no_failing_disk_makes_a_false_201_and_the_service_recovers_or_refuses() -> Result<()> {
    let report = io_faults::run(10)?;
    assert!(report.faults > 30 && report.copying > 0 && report.recovered > 0 && report.halted > 0, "{report:?}");
    assert_eq!(report.recovered + report.halted, report.faults, "{report:?}");
    Ok(())
}
