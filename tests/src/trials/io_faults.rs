//! Has each I/O call of a create fail once, behind the real route and component.

use std::{future::pending, net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Runtime as Tokio;
use uuid::Uuid;
use workspaces_host::{
    Workspaces,
    auth::{
        Basis, Grant,
        api_key::{ApiKeys, Pepper, generate},
    },
    http::{limits, server},
    storage::{Database as _, NewKey, Storage as _, sqlite::Sqlite},
};

use super::ledger::Ledger;
use crate::{
    Client,
    disk::{Call, Disk, Fault},
};

/// Result of the trial.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct IoFaultsReport {
    /// Calls that failed, each in a run of its own.
    pub faults: usize,
    /// Number of these that were calls of copying the log into the database.
    pub copying: usize,
    /// Requests that met the fault and were answered with 201: it was there.
    pub created: usize,
    /// … with 503: nothing was there.
    pub refused: usize,
    /// … with 500: not known.
    pub unknown: usize,
    /// Runs in which the next create was 201 without a restart.
    pub recovered: usize,
    /// Runs in which every create was 503 until the program was started again.
    pub halted: usize,
}

/// The log is copied when it holds 1,000 pages: filled so far, a few creates get it there.
const LOG_BEFORE_COPY: u64 = 950 * 4096;

/// Fails every call of one create in turn, then every `stride`th call of creates during which the log is
/// copied into the database; each with an I/O error, a full disk and a short write.
///
/// # Errors
///
/// Where an answer of 201 is not borne out, one of 503 is not either, the database is damaged, or the
/// service neither recovers nor refuses.
pub fn run(stride: usize) -> Result<IoFaultsReport> {
    let mut report = IoFaultsReport::default();
    for fault in [Fault::Io, Fault::Full, Fault::ShortWrite] {
        for (log, creates, stride) in [(0, 1, 1), (LOG_BEFORE_COPY, 15, stride)] {
            for nth in (0..).step_by(stride) {
                let met = one(nth, fault, log, creates, &mut report)
                    .with_context(|| format!("call {nth} of {creates} creates failed with {fault:?}"))?;
                if !met {
                    break;
                }
            }
        }
    }
    Ok(report)
}

/// Does one run on a database of its own. Returns whether there was an nth call to fail.
fn one(nth: usize, fault: Fault, log: u64, creates: usize, report: &mut IoFaultsReport) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("workspaces.db");
    let disk = Disk::watch(folder.path())?;
    let (service, before) = Service::start(&path, log)?;
    let mut client = Client::new(service.address, &service.key);
    ensure!(client.create("{}", None)?.status == 201, "the scene can't be set");
    let (mut known, mut unknown) = (before + 1, 0);

    disk.fail(nth, fault);
    let answers = (0..creates).map(|_| client.create("{}", None)).collect::<Result<Vec<_>>>()?;
    let hit = disk.heal().hit;
    let met = hit.is_some();
    report.copying += usize::from(
        hit.is_some_and(|(call, file)| file == "workspaces.db" && matches!(call, Call::Write | Call::Sync)),
    );
    for answer in answers {
        match answer.status {
            201 => {
                known += 1;
                report.created += usize::from(met);
            }
            500 => {
                unknown += 1;
                report.unknown += 1;
            }
            503 => report.refused += 1,
            _ => anyhow::bail!("{answer:?}"),
        }
    }
    let next = client.create("{}", None)?;
    let key = service.key.clone();
    drop((client, service));
    known += 1;
    match next.status {
        201 => report.recovered += usize::from(met),
        503 => {
            report.halted += 1;
            let service = Service::start_with(&path, key)?;
            let again = Client::new(service.address, &service.key).create("{}", None)?;
            ensure!(again.status == 201, "after a restart: {again:?}");
        }
        _ => anyhow::bail!("after the fault: {next:?}"),
    }

    let ledger = Ledger::Sqlite(path);
    ledger.require_integrity()?;
    let audit = ledger.audit(&[])?;
    ensure!(audit.partial == 0, "{audit:?}");
    ensure!(
        (known..=known + unknown).contains(&audit.workspaces),
        "{} workspaces, where {known} were acknowledged and {unknown} are not known",
        audit.workspaces
    );
    report.faults += usize::from(met);
    Ok(met)
}

const PEPPER: &[u8] = b"a pepper";

/// The library's own server, in this process, whose I/O can be made to fail.
struct Service {
    address: SocketAddr,
    key: String,
    /// Ends the server, and closes the database, when dropped.
    _tokio: Tokio,
}

impl Service {
    /// Opens a new database, with a key, and workspaces until the log has so many bytes; returns their number too.
    fn start(path: &Path, log: u64) -> Result<(Self, u64)> {
        let database = Sqlite::open(path)?;
        let key = generate()?;
        let pepper = Pepper::new(PEPPER);
        let workspaces = Tokio::new()?.block_on(async {
            let account = database.create_account(None, None).await?.id;
            let new = NewKey { name: String::new(), hash: pepper.hash(&key), pepper: pepper.check(), expires_at: None };
            database.create_key(account, new).await?;
            let grant = Grant {
                caller_id: account,
                account_id: account,
                organization_id: None,
                key_id: None,
                basis: Basis::Auth,
            };
            let mut workspaces = 0;
            while std::fs::metadata(path.with_extension("db-wal"))?.len() < log {
                database.create_workspace(Uuid::now_v7(), &grant, "Untitled", None).await?;
                workspaces += 1;
            }
            anyhow::Ok(workspaces)
        })?;
        Ok((Self::serve(database, key)?, workspaces))
    }

    /// Opens a database that is there.
    fn start_with(path: &Path, key: String) -> Result<Self> {
        Self::serve(Sqlite::open(path)?, key)
    }

    fn serve(database: Sqlite, key: String) -> Result<Self> {
        let database = Arc::new(database);
        let auth = Arc::new(ApiKeys::new(database.clone(), PEPPER, None));
        let routes = Arc::new(Workspaces::builder(database, auth).build()?).router();
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = tokio.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        tokio.spawn(server::serve(listener, routes, limits::CONNECTIONS, pending()));
        Ok(Self { address, key, _tokio: tokio })
    }
}
