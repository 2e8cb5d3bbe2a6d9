//! Cuts the power at every sync boundary of a workload: all that was not synced is gone, or a part of it.

use std::{collections::BTreeMap, ffi::OsString, fs, path::Path};

use anyhow::{Result, ensure};
use uuid::Uuid;
use workspaces_host::{
    CreateWorkspaceRequest,
    auth::{Basis, Caller, Grant},
    storage::{
        Claim, Database as _, Error, IdempotencyKey, Storage as _,
        sqlite::{Sqlite, SqliteOptions},
    },
};

use super::ledger::{Audit, CLAIMED, Ledger};
use crate::disk::{Call, Cut, Disk, Fault};

/// Creates at once in every second round, so that there are commits of one and of many.
const AT_ONCE: usize = 8;

/// Number of cuts at each boundary in which a part of what was not synced survives.
const TORN: u64 = 2;

/// Result of the trial; `lost`, `partial` and `damaged` are to be 0 where the disk is synced.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PowerCutReport {
    /// Workspaces that were acknowledged.
    pub creates: usize,
    /// Sync boundaries.
    pub boundaries: usize,
    /// Disks looked at after a cut: one with what was synced alone and two torn ones a boundary.
    pub disks: usize,
    /// Acknowledged workspaces that were not there, over all disks.
    pub lost: u64,
    /// Workspaces that were there in part.
    pub partial: u64,
    /// Disks on which the database can't be read, or fails its integrity check.
    pub damaged: usize,
    /// Files that were written or deleted while a database was closed whose sync had failed; none may be.
    pub touched: usize,
}

/// Runs the workload and looks at every disk that a cut may leave.
///
/// # Errors
///
/// Where the workload itself fails.
pub fn run(creates: usize, durable: bool) -> Result<PowerCutReport> {
    let folder = tempfile::tempdir()?;
    let disk = Disk::watch(folder.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build()?;
    let ids = runtime.block_on(workload(&folder.path().join("workspaces.db"), &disk, creates, durable))?;

    let mut report = PowerCutReport { creates: ids.len(), ..PowerCutReport::default() };
    report.boundaries = disk.take_log().cuts(|cut| {
        let acknowledged: Vec<_> =
            cut.acknowledged().iter().filter_map(|mark| ids.get(usize::try_from(*mark).ok()?)).copied().collect();
        for seed in 0..=TORN {
            report.see(&cut, seed, &acknowledged)?;
        }
        Ok(())
    })?;
    Ok(report)
}

impl PowerCutReport {
    /// Looks at the disk that a cut leaves: with what was synced alone for seed 0, torn for others.
    fn see(&mut self, cut: &Cut<'_>, seed: u64, acknowledged: &[Uuid]) -> Result<()> {
        let left = tempfile::tempdir()?;
        match seed {
            0 => cut.restore(left.path())?,
            seed => cut.restore_torn(left.path(), seed ^ self.disks as u64)?,
        }
        self.disks += 1;
        match look(&left.path().join("workspaces.db"), acknowledged) {
            Ok(audit) => {
                self.lost += audit.lost;
                self.partial += audit.partial;
            }
            Err(_) => {
                self.damaged += 1;
                self.lost += acknowledged.len() as u64;
            }
        }
        Ok(())
    }
}

/// Creates workspaces, every second one with a claim, marks each in the disk's log when it is acknowledged, and returns their ids in
/// the order of the marks.
async fn workload(path: &Path, disk: &Disk, creates: usize, durable: bool) -> Result<Vec<Uuid>> {
    let database = Sqlite::open_with(path, &SqliteOptions { durable, ..SqliteOptions::default() })?;
    let account = database.create_account(None, None).await?.id;
    // What comes before is the scene, not the workload.
    disk.take_log();
    let basis = Basis::Memberships { administrators: None };
    let grant = Grant { caller_id: account, account_id: account, organization_id: None, key_id: None, basis };
    let mut ids = Vec::new();
    let mut together = 1;
    while ids.len() < creates {
        let mut round = tokio::task::JoinSet::new();
        for number in 0..together.min(creates - ids.len()) {
            let (database, grant) = (database.clone(), grant.clone());
            let key = IdempotencyKey::new(format!("key-{}-{number}", ids.len()))?;
            let claim = Claim::new(&Caller::new(account), key, &CreateWorkspaceRequest::default());
            let (name, claim) = if number % 2 == 0 { (CLAIMED, Some(claim)) } else { ("Plain", None) };
            round.spawn(async move { database.create_workspace(Uuid::now_v7(), &grant, name, claim.as_ref()).await });
        }
        while let Some(created) = round.join_next().await {
            ids.push(created??.workspace.id);
            disk.acknowledge(ids.len() as u64 - 1);
        }
        together = AT_ONCE + 1 - together;
    }
    Ok(ids)
}

/// Cuts the power while a database is closed, and after: with all of its writes synced, or after a sync that failed.
/// The files are left as they are then: the disk's word on any further write is worth nothing.
///
/// # Errors
///
/// Where the workload itself fails, or the sync does not.
pub fn close(creates: usize, after_failed_sync: bool) -> Result<PowerCutReport> {
    const TORN: u64 = 32;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("workspaces.db");
    let disk = Disk::watch(folder.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build()?;
    let ids = runtime.block_on(workload(&path, &disk, creates, true))?;
    let mut report = PowerCutReport { creates: ids.len(), ..PowerCutReport::default() };
    if after_failed_sync {
        // A log that begins anew: what is in it is nowhere else.
        let database = Sqlite::open(&path)?;
        runtime.block_on(async {
            let account = database.create_account(None, None).await?.id;
            let basis = Basis::Memberships { administrators: None };
            let grant = Grant { caller_id: account, account_id: account, organization_id: None, key_id: None, basis };
            disk.fail_next(Call::Sync, Fault::Io);
            let failed = database.create_workspace(Uuid::now_v7(), &grant, "Plain", None).await;
            ensure!(matches!(failed, Err(Error::Unknown(_))) && disk.heal().hit.is_some(), "{failed:?}");
            Ok(())
        })?;
        let left = files(folder.path())?;
        drop(database);
        let closed = files(folder.path())?;
        report.touched = left.iter().filter(|(name, bytes)| closed.get(*name) != Some(bytes)).count();
    }
    report.boundaries = disk.take_log().cuts(|cut| {
        let acknowledged: Vec<_> =
            cut.acknowledged().iter().filter_map(|mark| ids.get(usize::try_from(*mark).ok()?)).copied().collect();
        if acknowledged.len() < ids.len() {
            return Ok(());
        }
        for seed in 0..=TORN {
            report.see(&cut, seed, &acknowledged)?;
        }
        Ok(())
    })?;
    Ok(report)
}

/// Returns the files of a folder, but for the index of the log, which is no part of the database.
fn files(folder: &Path) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.path().to_string_lossy().ends_with("-shm") {
            files.insert(entry.file_name(), fs::read(entry.path())?);
        }
    }
    Ok(files)
}

fn look(path: &Path, acknowledged: &[Uuid]) -> Result<Audit> {
    let ledger = Ledger::Sqlite(path.to_owned());
    ledger.require_integrity()?;
    ledger.audit(acknowledged)
}
