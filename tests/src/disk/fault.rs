//! Faults of a disk, and what SQLite is told of them.

use std::{ffi::c_int, ops::RangeInclusive};

use rusqlite::ffi;

/// Kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`, from any call.
    Io,
    /// `ENOSPC`, from the calls that may need space: writes, truncates, syncs (delayed allocation) and mapping the
    /// `-shm` file. Other calls are not counted. As in the unix VFS, a write gives `SQLITE_FULL` and the others an
    /// I/O error.
    Full,
    /// `ENOSPC` after half of a write's bytes. Only writes are counted.
    ShortWrite,
}

/// A call that can fail: one that the unix VFS reports errors of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the VFS method of that name")]
pub enum Call {
    Open,
    Delete,
    Read,
    Write,
    Truncate,
    Sync,
    FileSize,
    ShmMap,
}

/// Outcome of [`Disk::fail`](super::Disk::fail).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// Number of calls that the fault could have happened to.
    pub calls: usize,
    /// The first call that failed, and its file's name.
    pub hit: Option<(Call, String)>,
}

impl Call {
    /// Returns what the unix VFS answers to SQLite, if the fault can happen to the call.
    pub(super) fn code(self, fault: Fault) -> Option<c_int> {
        Some(match (fault, self) {
            (Fault::Io, Self::Open) => ffi::SQLITE_CANTOPEN,
            (Fault::Io, Self::Delete) => ffi::SQLITE_IOERR_DELETE,
            (Fault::Io, Self::Read) => ffi::SQLITE_IOERR_READ,
            (Fault::Io, Self::Write) => ffi::SQLITE_IOERR_WRITE,
            (Fault::Io, Self::FileSize) => ffi::SQLITE_IOERR_FSTAT,
            (Fault::Io, Self::ShmMap) => ffi::SQLITE_IOERR_SHMMAP,
            (Fault::Io | Fault::Full, Self::Truncate) => ffi::SQLITE_IOERR_TRUNCATE,
            (Fault::Io | Fault::Full, Self::Sync) => ffi::SQLITE_IOERR_FSYNC,
            (Fault::Full, Self::ShmMap) => ffi::SQLITE_IOERR_SHMSIZE,
            (Fault::Full | Fault::ShortWrite, Self::Write) => ffi::SQLITE_FULL,
            _ => return None,
        })
    }
}

pub(super) struct Plan {
    pub(super) fault: Fault,
    /// The call that alone is counted; every one where `None`.
    pub(super) only: Option<Call>,
    pub(super) due: RangeInclusive<usize>,
    pub(super) injected: Injected,
}
