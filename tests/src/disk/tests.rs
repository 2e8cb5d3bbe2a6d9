//! The disk itself, before anything is concluded from it.

use std::collections::BTreeSet;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;

fn open(folder: &Path, synchronous: &str) -> Result<Connection> {
    let connection = Connection::open(folder.join("db"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", 50)?;
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB)", [])?;
    Ok(connection)
}

fn insert(connection: &Connection, id: u64) -> Result<()> {
    connection.execute("INSERT INTO t VALUES (?1, randomblob(9000))", [id.cast_signed()])?;
    Ok(())
}

/// Returns the rows of an intact database, none if the table is missing.
fn rows(folder: &Path) -> Result<BTreeSet<u64>> {
    let connection = Connection::open(folder.join("db"))?;
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(verdict == "ok", "{verdict}");
    if !connection.table_exists(None, "t")? {
        return Ok(BTreeSet::new());
    }
    let mut statement = connection.prepare("SELECT id FROM t")?;
    Ok(statement.query_map([], |row| row.get(0).map(i64::cast_unsigned))?.collect::<Result<_, _>>()?)
}

/// Returns how many acknowledged commits the worst cut took, with this many torn variants of each.
fn loss(synchronous: &str, variants: u64) -> Result<usize> {
    let folder = TempDir::new()?;
    let disk = Disk::watch(folder.path())?;
    let connection = open(folder.path(), synchronous)?;
    for id in 0..60 {
        insert(&connection, id)?;
        disk.acknowledge(id);
    }
    drop(connection);

    let mut worst = 0;
    disk.take_log().cuts(|cut| {
        for variant in 0..=variants {
            let folder = TempDir::new()?;
            match variant {
                0 => cut.restore(folder.path())?,
                seed => cut.restore_torn(folder.path(), seed)?,
            }
            let rows = rows(folder.path())?;
            worst = worst.max(cut.acknowledged().iter().filter(|id| !rows.contains(id)).count());
        }
        Ok(())
    })?;
    Ok(worst)
}

#[test]
fn a_power_cut_takes_no_commit_that_was_synced() -> Result<()> {
    assert_eq!(loss("FULL", 2)?, 0);
    Ok(())
}

#[test]
fn a_power_cut_takes_commits_that_were_not_synced() -> Result<()> {
    assert_eq!(loss("OFF", 0)?, 60);
    Ok(())
}

#[test]
fn a_commit_that_met_a_fault_fails_or_is_there() -> Result<()> {
    for fault in [Fault::Io, Fault::Full, Fault::ShortWrite] {
        let folder = TempDir::new()?;
        let disk = Disk::watch(folder.path())?;
        let mut committed = BTreeSet::new();
        drop(open(folder.path(), "FULL")?);
        for nth in 0.. {
            disk.fail(nth, fault);
            let id = nth as u64;
            if open(folder.path(), "FULL").and_then(|connection| insert(&connection, id)).is_ok() {
                committed.insert(id);
            }
            let injected = disk.heal();
            let rows = rows(folder.path()).with_context(|| format!("{fault:?} {injected:?}"))?;
            ensure!(committed.is_subset(&rows), "{fault:?} {injected:?}: {committed:?} {rows:?}");
            if injected.hit.is_none() {
                ensure!(committed.contains(&id) && nth > 5, "{fault:?} {injected:?}");
                break;
            }
        }
    }
    Ok(())
}

#[test]
fn a_folder_that_is_not_watched_is_left_alone() -> Result<()> {
    let (watched, other) = (TempDir::new()?, TempDir::new()?);
    let disk = Disk::watch(watched.path())?;
    disk.fail_from(0, Fault::Io);
    insert(&open(other.path(), "FULL")?, 1)?;
    assert_eq!(disk.heal(), Injected::default());
    assert_eq!(disk.take_log().cuts(|_| Ok(()))?, 1);
    assert_eq!(rows(other.path())?, BTreeSet::from([1]));
    Ok(())
}

#[test]
fn a_deleted_file_does_not_come_back() -> Result<()> {
    let folder = TempDir::new()?;
    let disk = Disk::watch(folder.path())?;
    insert(&open(folder.path(), "FULL")?, 1)?;
    let mut with_wal = Vec::new();
    disk.take_log().cuts(|cut| {
        let folder = TempDir::new()?;
        cut.restore(folder.path())?;
        with_wal.push(folder.path().join("db-wal").exists());
        Ok(())
    })?;
    assert!(with_wal.contains(&true));
    assert_eq!(with_wal.last(), Some(&false));
    Ok(())
}
