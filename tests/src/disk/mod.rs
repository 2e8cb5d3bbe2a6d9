//! A disk that fails on demand and knows what a power cut would have left on it: an SQLite VFS around the default
//! one, for the connections of this process.
//!
//! What a power cut leaves, in this model:
//!
//! - A write or truncate is pending until a sync of its file that began after it returned without error.
//! - A sync that failed loses what it covered: the kernel marks the pages clean, and the next sync succeeds without
//!   writing them.
//! - A file appears at its first sync; the unix VFS then syncs the folder of a journal or WAL too.
//! - A deletion is durable at once. For a WAL that is the harsher choice: one that came back would only repeat what
//!   the checkpoint before had copied. For a rollback journal it is harsher on integrity, as nothing is left to undo
//!   a half-written database with, but milder on durability: a journal that came back would undo its commit, which
//!   only `synchronous=EXTRA` excludes.
//! - The WAL's index, `-shm`, is rebuilt from the WAL after a crash and never restored.
//!
//! Files that come or go by other means than SQLite while their folder is watched are not noticed.

mod fault;
mod platter;
#[cfg(test)]
mod tests;
mod vfs;

use std::{
    fs, mem,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use anyhow::{Context as _, Result, ensure};

use self::{
    fault::Plan,
    platter::{File, Operation, Platter},
};
pub use self::{
    fault::{Call, Fault, Injected},
    platter::{Cut, Log},
};

/// The folders being watched.
static WATCHED: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// A folder whose files' I/O is recorded, and fails on demand, until this is dropped.
pub struct Disk(Arc<Shared>);

struct Shared {
    folder: PathBuf,
    state: Mutex<State>,
}

struct State {
    log: Log,
    plan: Option<Plan>,
}

impl Disk {
    /// Watches the files directly in a folder; what they hold by now counts as durable.
    ///
    /// Only connections opened afterwards are seen, as SQLite picks the VFS when it opens a file.
    ///
    /// # Errors
    ///
    /// Where the folder can't be read or is being watched already, or SQLite refuses the VFS.
    pub fn watch(folder: &Path) -> Result<Self> {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        ensure!(*REGISTERED.get_or_init(|| vfs::register().is_some()), "SQLite refuses the VFS");

        let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
        let mut start = Platter::default();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if let Some(name) = path.file_name().and_then(|name| name.to_str())
                && path.is_file()
                && !name.ends_with("-shm")
            {
                start.files.insert(name.into(), File { synced: Some(fs::read(&path)?), pending: Vec::new() });
            }
        }
        let state = State { log: Log { start, operations: Vec::new() }, plan: None };
        let shared = Arc::new(Shared { folder, state: state.into() });

        let mut watched = lock(&WATCHED);
        watched.retain(|other| other.strong_count() > 0);
        ensure!(
            watched.iter().filter_map(Weak::upgrade).all(|other| other.folder != shared.folder),
            "{} is being watched already",
            shared.folder.display()
        );
        watched.push(Arc::downgrade(&shared));
        Ok(Self(shared))
    }

    /// Marks the log: whatever the mark stands for has been promised to a client and must survive from here on.
    pub fn acknowledge(&self, mark: u64) {
        lock(&self.0.state).log.operations.push(Operation::Acknowledge(mark));
    }

    /// Counts the calls from now on and has the nth, from 0, fail.
    pub fn fail(&self, nth: usize, fault: Fault) {
        self.plan(nth..=nth, None, fault);
    }

    /// Has the next call of this kind fail.
    pub fn fail_next(&self, call: Call, fault: Fault) {
        self.plan(0..=0, Some(call), fault);
    }

    /// Counts the calls from now on and has the nth, from 0, and all later ones fail.
    pub fn fail_from(&self, nth: usize, fault: Fault) {
        self.plan(nth..=usize::MAX, None, fault);
    }

    fn plan(&self, due: RangeInclusive<usize>, only: Option<Call>, fault: Fault) {
        lock(&self.0.state).plan = Some(Plan { fault, only, due, injected: Injected::default() });
    }

    /// Ends the failing and says what came of it.
    pub fn heal(&self) -> Injected {
        lock(&self.0.state).plan.take().map(|plan| plan.injected).unwrap_or_default()
    }

    /// Returns the log so far. The next one starts with what is durable, pending and acknowledged now.
    pub fn take_log(&self) -> Log {
        let mut state = lock(&self.0.state);
        let mut start = state.log.start.clone();
        state.log.operations.iter().for_each(|operation| start.apply(operation));
        mem::replace(&mut state.log, Log { start, operations: Vec::new() })
    }
}

/// Locks, also after a panic elsewhere: the data is whole between any two statements, and SQLite's C must not unwind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
