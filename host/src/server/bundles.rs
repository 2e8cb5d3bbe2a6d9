//! Bundles: recorded requests, each a file of JSON in a tenant's folder.

use std::{
    fs,
    io::{self, Write as _},
    num::{NonZero, NonZeroU64},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::runtime::{Recorder, Recording};

/// Default of the most bundles in a folder.
pub(crate) const BUNDLES: NonZero<usize> = NonZero::new(100).expect("above 0");

/// Largest bundle, in bytes; one that is larger is not kept.
const MAX_BUNDLE: usize = 1 << 20;

/// Recordings that wait to be written; further ones are lost, so that no request waits for a disk.
const QUEUE: usize = 64;

/// Recording of a tenant's requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordConfig {
    /// Folder of the bundles.
    pub(crate) folder: PathBuf,
    /// Period in requests: one in so many is recorded whatever its outcome is.
    pub(crate) every: Option<NonZeroU64>,
    /// A request with this header is recorded.
    pub(crate) header: Option<String>,
    /// Letters and digits of names are replaced.
    pub(crate) redact: bool,
    /// Most bundles in the folder: the oldest are removed.
    pub(crate) bundles: NonZero<usize>,
}

/// Reads the name of a header.
///
/// # Errors
///
/// Text that is no name.
pub(crate) fn header_name(text: &str) -> Result<String, String> {
    let name = axum::http::HeaderName::from_bytes(text.as_bytes()).map_err(|error| error.to_string())?;
    Ok(name.as_str().to_owned())
}

/// File of a recorded request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Bundle {
    /// Time of the request's end, RFC 3339.
    pub(crate) time: String,
    /// The tenant.
    pub(crate) tenant: String,
    /// The request.
    #[serde(flatten)]
    pub(crate) recording: Recording,
}

/// Bundle on its way to its folder.
struct Job {
    folder: PathBuf,
    bundles: usize,
    id: Uuid,
    bundle: Bundle,
}

/// Work of the writer's thread.
enum Work {
    Write(Box<Job>),
    /// Mark behind the bundles so far.
    Flush(SyncSender<()>),
}

/// Longest time for which the server's end waits for the bundles that are left.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Writer of bundles, on a thread of its own from the first tenant on that records. Clones share it.
#[derive(Clone, Default)]
pub(super) struct BundleWriter(Arc<Mutex<Option<SyncSender<Work>>>>);

impl BundleWriter {
    /// Returns the thread's queue.
    fn queue(&self) -> io::Result<SyncSender<Work>> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = &*queue {
            return Ok(queue.clone());
        }
        let (work, waiting) = sync_channel(QUEUE);
        thread::Builder::new().name("bundles".into()).spawn(move || write_all(&waiting))?;
        Ok(queue.insert(work).clone())
    }

    /// Returns the recorder of a tenant, after making its folder.
    ///
    /// # Errors
    ///
    /// A folder that can't be made, or no thread.
    pub(super) fn recorder(&self, tenant: &str, config: &RecordConfig) -> io::Result<Recorder> {
        fs::create_dir_all(&config.folder)?;
        let (queue, tenant, folder) = (self.queue()?, tenant.to_owned(), config.folder.clone());
        let (bundles, is_full) = (config.bundles.get(), AtomicBool::new(false));
        let sink = move |recording: Recording| {
            let (id, time) = (Uuid::now_v7(), humantime::format_rfc3339_millis(SystemTime::now()).to_string());
            let bundle = Bundle { time, tenant: tenant.clone(), recording };
            let job = Job { folder: folder.clone(), bundles, id, bundle };
            match queue.try_send(Work::Write(Box::new(job))) {
                Ok(()) => {
                    is_full.store(false, Relaxed);
                    tracing::info!(bundle = %id, "request recorded");
                }
                Err(_) if !is_full.swap(true, Relaxed) => {
                    tracing::warn!("bundles are written too slowly, some are lost")
                }
                Err(_) => {}
            }
        };
        let recorder = Recorder::new(sink).every(config.every).header(config.header.clone());
        Ok(recorder.redact(config.redact))
    }

    /// Waits until the bundles so far are written, [`FLUSH_TIMEOUT`] at most. Blocks its thread.
    pub(super) fn flush(&self) {
        let queue = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (done, flushed) = sync_channel(1);
        let is_flushed = queue
            .is_none_or(|queue| queue.send(Work::Flush(done)).is_ok() && flushed.recv_timeout(FLUSH_TIMEOUT).is_ok());
        if !is_flushed {
            tracing::warn!(after = ?FLUSH_TIMEOUT, "stopped with bundles that are not written");
        }
    }
}

/// Does the work that comes, until no recorder is left.
fn write_all(waiting: &Receiver<Work>) {
    let mut was_failing = false;
    while let Ok(work) = waiting.recv() {
        let job = match work {
            Work::Write(job) => job,
            Work::Flush(done) => {
                // Whoever waited too long is gone.
                let _ = done.send(());
                continue;
            }
        };
        let written = write(&job);
        if let (Err(error), false) = (&written, was_failing) {
            tracing::warn!(%error, folder = %job.folder.display(), "bundle not written");
        }
        was_failing = written.is_err();
    }
}

/// Writes a bundle whole or not at all, and removes the oldest that are too many.
fn write(job: &Job) -> io::Result<()> {
    let text = serde_json::to_string_pretty(&job.bundle)?;
    if text.len() > MAX_BUNDLE {
        tracing::warn!(bundle = %job.id, bytes = text.len(), "bundle too large, not written");
        return Ok(());
    }
    let file = job.folder.join(format!("{}.json", job.id));
    let new = file.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(&new)?.write_all(text.as_bytes())?;
    fs::rename(&new, &file)?;
    // The names of bundles have their time in front.
    let mut bundles = bundles_in(&job.folder)?;
    bundles.sort();
    let too_many = bundles.len().saturating_sub(job.bundles);
    bundles.iter().take(too_many).try_for_each(fs::remove_file)
}

/// Returns the bundles in a folder; other files stay as they are.
fn bundles_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let is_bundle = |path: &PathBuf| {
        let id = path.file_stem().and_then(|stem| Uuid::try_parse(stem.to_str()?).ok());
        id.is_some() && path.extension().is_some_and(|extension| extension == "json")
    };
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().filter(is_bundle).collect())
}
