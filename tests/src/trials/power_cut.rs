//! Cuts the power at every sync boundary of a workload: all that was not synced is gone, or a part of it.

use std::path::Path;

use anyhow::Result;
use uuid::Uuid;
use workspaces_host::{
    auth::{Basis, Grant},
    storage::{
        Database as _, Storage as _,
        sqlite::{Options, Sqlite},
    },
};

use super::ledger::{Audit, Ledger};
use crate::disk::Disk;

/// Creates at once in every second round, so that there are commits of one and of many.
const AT_ONCE: usize = 8;

/// How many cuts there are at each boundary in which a part of what was not synced survives.
const TORN: u64 = 2;

/// What was seen; `lost`, `partial` and `damaged` are to be 0 where the disk is synced.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Report {
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
}

/// Runs the workload and looks at every disk that a cut may leave.
///
/// # Errors
///
/// Where the workload itself fails.
pub fn run(creates: usize, durable: bool) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let disk = Disk::watch(folder.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build()?;
    let ids = runtime.block_on(workload(&folder.path().join("workspaces.db"), &disk, creates, durable))?;

    let mut report = Report { creates: ids.len(), ..Report::default() };
    report.boundaries = disk.take_log().cuts(|cut| {
        let acknowledged: Vec<_> =
            cut.acknowledged().iter().filter_map(|mark| ids.get(usize::try_from(*mark).ok()?)).copied().collect();
        for seed in 0..=TORN {
            let left = tempfile::tempdir()?;
            match seed {
                0 => cut.restore(left.path())?,
                seed => cut.restore_torn(left.path(), seed ^ report.disks as u64)?,
            }
            report.disks += 1;
            match look(&left.path().join("workspaces.db"), &acknowledged) {
                Ok(audit) => {
                    report.lost += audit.lost;
                    report.partial += audit.partial;
                }
                Err(_) => {
                    report.damaged += 1;
                    report.lost += acknowledged.len() as u64;
                }
            }
        }
        Ok(())
    })?;
    Ok(report)
}

/// Creates workspaces, marks each in the disk's log when it is acknowledged, and returns their ids in
/// the order of the marks.
async fn workload(path: &Path, disk: &Disk, creates: usize, durable: bool) -> Result<Vec<Uuid>> {
    let database = Sqlite::open_with(path, &Options { durable, ..Options::default() })?;
    let account = database.create_account(None, None).await?.id;
    // What comes before is the scene, not the workload.
    disk.take_log();
    let basis = Basis::Memberships { administrators: None };
    let grant = Grant { caller_id: account, account_id: account, organization_id: None, key_id: None, basis };
    let mut ids = Vec::new();
    let mut together = 1;
    while ids.len() < creates {
        let mut round = tokio::task::JoinSet::new();
        for _ in 0..together.min(creates - ids.len()) {
            let (database, grant) = (database.clone(), grant.clone());
            round.spawn(async move { database.create_workspace(&grant, "Plain", None).await });
        }
        while let Some(created) = round.join_next().await {
            ids.push(created??.workspace.id);
            disk.acknowledge(ids.len() as u64 - 1);
        }
        together = AT_ONCE + 1 - together;
    }
    Ok(ids)
}

fn look(path: &Path, acknowledged: &[Uuid]) -> Result<Audit> {
    let ledger = Ledger::Sqlite(path.to_owned());
    ledger.require_integrity()?;
    ledger.audit(acknowledged)
}
