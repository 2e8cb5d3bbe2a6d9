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

#![allow(unsafe_code, reason = "a VFS is a table of C functions")]
#![allow(non_snake_case, reason = "the functions bear the names of their places in that table")]

use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char, c_int, c_void},
    fs, mem,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    ptr, slice,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use anyhow::{Context as _, Result, ensure};
use rusqlite::ffi::{self, SQLITE_OK, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

/// The unit that a disk writes wholly or not at all.
const SECTOR: usize = 512;

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

struct Plan {
    fault: Fault,
    due: RangeInclusive<usize>,
    injected: Injected,
}

/// What goes wrong.
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

/// What [`Disk::fail`] came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// How many calls were made that the fault could have happened to.
    pub calls: usize,
    /// The first call that failed, and its file's name.
    pub hit: Option<(Call, String)>,
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
        ensure!(*REGISTERED.get_or_init(|| register().is_some()), "SQLite refuses the VFS");

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
        self.plan(nth..=nth, fault);
    }

    /// Counts the calls from now on and has the nth, from 0, and all later ones fail.
    pub fn fail_from(&self, nth: usize, fault: Fault) {
        self.plan(nth..=usize::MAX, fault);
    }

    fn plan(&self, due: RangeInclusive<usize>, fault: Fault) {
        lock(&self.0.state).plan = Some(Plan { fault, due, injected: Injected::default() });
    }

    /// Ends the failing and says what came of it.
    pub fn heal(&self) -> Injected {
        lock(&self.0.state).plan.take().map(|plan| plan.injected).unwrap_or_default()
    }

    /// The log so far. The next one starts with what is durable, pending and acknowledged now.
    pub fn take_log(&self) -> Log {
        let mut state = lock(&self.0.state);
        let mut start = state.log.start.clone();
        state.log.operations.iter().for_each(|operation| start.apply(operation));
        mem::replace(&mut state.log, Log { start, operations: Vec::new() })
    }
}

/// What happened to a folder's files, in the order in which it was known to have happened.
pub struct Log {
    start: Platter,
    operations: Vec<Operation>,
}

enum Operation {
    Acknowledge(u64),
    Change(Arc<str>, Change),
    /// `covers`: how many operations were in the log when the sync began, as later ones may have missed it.
    Sync {
        file: Arc<str>,
        covers: usize,
        succeeded: bool,
    },
    Delete(Arc<str>),
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Arc<[u8]> },
    Truncate(usize),
}

impl Log {
    /// Visits each power cut that may find something else on the disk: just before each sync and each deletion took
    /// effect, and after the last operation. Says how many there were.
    ///
    /// # Errors
    ///
    /// The first that `visit` gives.
    pub fn cuts(&self, mut visit: impl FnMut(Cut<'_>) -> Result<()>) -> Result<usize> {
        let mut platter = self.start.clone();
        let mut cuts = 1;
        for operation in &self.operations {
            if matches!(operation, Operation::Sync { succeeded: true, .. } | Operation::Delete(_)) {
                visit(Cut(&platter))?;
                cuts += 1;
            }
            platter.apply(operation);
        }
        visit(Cut(&platter))?;
        Ok(cuts)
    }
}

/// A power cut.
pub struct Cut<'log>(&'log Platter);

impl Cut<'_> {
    /// What had been acknowledged before the cut.
    pub fn acknowledged(&self) -> &[u64] {
        &self.0.acknowledged
    }

    /// Writes the files into an empty folder as of their last syncs.
    ///
    /// # Errors
    ///
    /// Where the files can't be written.
    pub fn restore(&self, folder: &Path) -> Result<()> {
        self.write(folder, |file| file.synced.clone())
    }

    /// The same, but each pending change survives, is lost, or is torn between two sectors, as the seed has it.
    ///
    /// # Errors
    ///
    /// Where the files can't be written.
    pub fn restore_torn(&self, folder: &Path, seed: u64) -> Result<()> {
        let mut dice = Dice(seed);
        self.write(folder, |file| file.torn(&mut dice))
    }

    fn write(&self, folder: &Path, mut content: impl FnMut(&File) -> Option<Vec<u8>>) -> Result<()> {
        for (name, file) in &self.0.files {
            if let Some(bytes) = content(file) {
                fs::write(folder.join(&**name), bytes)?;
            }
        }
        Ok(())
    }
}

/// What is durable, and what is on its way there, after a number of operations.
#[derive(Clone, Default)]
struct Platter {
    files: BTreeMap<Arc<str>, File>,
    acknowledged: Vec<u64>,
    operations: usize,
}

#[derive(Clone, Default)]
struct File {
    /// None until the first sync: the file itself may be missing.
    synced: Option<Vec<u8>>,
    /// Each change with its place in the log.
    pending: Vec<(usize, Change)>,
}

impl Platter {
    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Acknowledge(mark) => self.acknowledged.push(*mark),
            Operation::Change(name, change) => {
                self.files.entry(name.clone()).or_default().pending.push((self.operations, change.clone()));
            }
            Operation::Sync { file: name, covers, succeeded } => {
                let file = self.files.entry(name.clone()).or_default();
                let covered = file.pending.partition_point(|(place, _)| place < covers);
                let covered = file.pending.drain(..covered);
                if *succeeded {
                    let image = file.synced.get_or_insert_default();
                    covered.for_each(|(_, change)| change.apply(image));
                }
            }
            Operation::Delete(name) => {
                self.files.remove(name);
            }
        }
        self.operations += 1;
    }
}

impl File {
    fn torn(&self, dice: &mut Dice) -> Option<Vec<u8>> {
        let mut image = match &self.synced {
            Some(image) => image.clone(),
            None if dice.roll(2) == 0 => return None,
            None => Vec::new(),
        };
        for (_, change) in &self.pending {
            match (dice.roll(3), change) {
                (0, _) => {}
                (1, Change::Write { offset, bytes }) => {
                    let into_sector = offset % SECTOR;
                    let sectors = (into_sector + bytes.len()).div_ceil(SECTOR);
                    let tear = (dice.roll(sectors) * SECTOR).saturating_sub(into_sector);
                    // A disk may write the sectors in any order.
                    match dice.roll(2) {
                        0 => put(&mut image, *offset, &bytes[..tear]),
                        _ => put(&mut image, offset + tear, &bytes[tear..]),
                    }
                }
                _ => change.apply(&mut image),
            }
        }
        Some(image)
    }
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => put(image, *offset, bytes),
            Self::Truncate(size) => image.resize(*size, 0),
        }
    }
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(bytes);
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        size(bits >> 32) % sides.max(1)
    }
}

/// A number of SQLite's as a size; it passes none that is negative.
fn size(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or(0)
}

/// Locks, also after a panic elsewhere: the data is whole between any two statements, and SQLite's C must not unwind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file's place in its folder. Without a disk, as the folder is not or no longer watched, it does nothing.
struct Entry {
    disk: Weak<Shared>,
    name: Arc<str>,
}

impl Entry {
    fn find(path: &CStr) -> Option<Self> {
        let path = Path::new(path.to_str().ok()?);
        let (folder, name) = (path.parent()?, path.file_name()?.to_str()?);
        let disk = lock(&WATCHED).iter().find(|disk| disk.upgrade().is_some_and(|disk| disk.folder == folder))?.clone();
        Some(Self { disk, name: name.into() })
    }

    /// # Safety
    ///
    /// `path` is null, as for temporary files, or a C string.
    unsafe fn of(path: *const c_char) -> Self {
        // SAFETY: as the caller says.
        let path = (!path.is_null()).then(|| unsafe { CStr::from_ptr(path) });
        path.and_then(Self::find).unwrap_or_else(|| Self { disk: Weak::new(), name: "".into() })
    }

    fn record(&self, operation: impl FnOnce(Arc<str>) -> Operation) {
        if let Some(disk) = self.disk.upgrade() {
            lock(&disk.state).log.operations.push(operation(self.name.clone()));
        }
    }

    /// How many operations have been logged since the folder is watched.
    fn operations(&self) -> usize {
        self.disk.upgrade().map_or(0, |disk| {
            let log = &lock(&disk.state).log;
            log.start.operations + log.operations.len()
        })
    }

    /// Counts a call and, if it is to fail, gives the fault and SQLite's code for it.
    fn fault(&self, call: Call) -> Option<(Fault, c_int)> {
        let disk = self.disk.upgrade()?;
        let mut state = lock(&disk.state);
        let plan = state.plan.as_mut()?;
        let code = call.code(plan.fault)?;
        let due = plan.due.contains(&plan.injected.calls);
        plan.injected.calls += 1;
        due.then(|| {
            plan.injected.hit.get_or_insert_with(|| (call, self.name.to_string()));
            (plan.fault, code)
        })
    }
}

impl Call {
    /// What the unix VFS answers to SQLite, if the fault can happen to the call.
    fn code(self, fault: Fault) -> Option<c_int> {
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

/// An open file, as SQLite holds it: the real one follows in the same allocation.
#[repr(C)]
struct OpenFile {
    base: sqlite3_file,
    entry: Entry,
}

/// Registers the VFS as the default one.
fn register() -> Option<()> {
    // SAFETY: a null name asks for the default VFS.
    let pointer = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
    // SAFETY: SQLite's answer is null or a VFS.
    let real = unsafe { pointer.as_ref()? };
    let vfs = Box::leak(Box::new(sqlite3_vfs {
        szOsFile: real.szOsFile + c_int::try_from(size_of::<OpenFile>()).ok()?,
        zName: c"disk-under-test".as_ptr(),
        pNext: ptr::null_mut(),
        pAppData: pointer.cast(),
        xOpen: Some(xOpen),
        xDelete: Some(xDelete),
        xAccess: Some(xAccess),
        xFullPathname: Some(xFullPathname),
        xDlOpen: Some(xDlOpen),
        xDlError: Some(xDlError),
        xDlSym: Some(xDlSym),
        xDlClose: Some(xDlClose),
        xRandomness: Some(xRandomness),
        xSleep: Some(xSleep),
        xCurrentTime: Some(xCurrentTime),
        xGetLastError: Some(xGetLastError),
        xCurrentTimeInt64: Some(xCurrentTimeInt64),
        xSetSystemCall: Some(xSetSystemCall),
        xGetSystemCall: Some(xGetSystemCall),
        xNextSystemCall: Some(xNextSystemCall),
        ..*real
    }));
    // SAFETY: the VFS lives as long as the process.
    (unsafe { ffi::sqlite3_vfs_register(vfs, 1) } == SQLITE_OK).then_some(())
}

/// Version 2, which has no memory-mapped reads: each read is a call that can fail.
static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(xClose),
    xRead: Some(xRead),
    xWrite: Some(xWrite),
    xTruncate: Some(xTruncate),
    xSync: Some(xSync),
    xFileSize: Some(xFileSize),
    xLock: Some(xLock),
    xUnlock: Some(xUnlock),
    xCheckReservedLock: Some(xCheckReservedLock),
    xFileControl: Some(xFileControl),
    xSectorSize: Some(xSectorSize),
    xDeviceCharacteristics: Some(xDeviceCharacteristics),
    xShmMap: Some(xShmMap),
    xShmLock: Some(xShmLock),
    xShmBarrier: Some(xShmBarrier),
    xShmUnmap: Some(xShmUnmap),
    xFetch: None,
    xUnfetch: None,
};

/// # Safety
///
/// `file` was opened by [`xOpen`] and not closed.
unsafe fn entry<'file>(file: *mut sqlite3_file) -> &'file Entry {
    // SAFETY: as the caller says; nothing changes the entry until `xClose`.
    unsafe { &(*file.cast::<OpenFile>()).entry }
}

/// Calls what is behind a file or VFS; SQLite calls nothing that is absent there.
macro_rules! real {
    (file $file:ident.$method:ident($($argument:expr),*), $absent:expr) => {{
        let real = $file.byte_add(size_of::<OpenFile>());
        match (*(*real).pMethods).$method {
            Some(method) => method(real $(, $argument)*),
            None => $absent,
        }
    }};
    (vfs $vfs:ident.$method:ident($($argument:expr),*), $absent:expr) => {{
        let real: *mut sqlite3_vfs = (*$vfs).pAppData.cast();
        match (*real).$method {
            Some(method) => method(real $(, $argument)*),
            None => $absent,
        }
    }};
}

/// Defines the functions that pass the call on, unless it is to fail, and record nothing.
macro_rules! pass_on {
    ($kind:ident: $this:ty;
     $($method:ident($($argument:ident: $type:ty),*) -> $result:ty, $absent:expr $(, $call:ident)?;)*) => {$(
        unsafe extern "C" fn $method(this: *mut $this $(, $argument: $type)*) -> $result {
            // SAFETY: SQLite passes what this VFS gave it, and arguments as the real one expects them.
            unsafe {
                $(if let Some((_, code)) = entry(this).fault(Call::$call) {
                    return code;
                })?
                real!($kind this.$method($($argument),*), $absent)
            }
        }
    )*};
}

// `xAccess` can't fail: the unix VFS tells of a file that it can't look at that it is not there.
pass_on! { vfs: sqlite3_vfs;
    xAccess(path: *const c_char, flags: c_int, answer: *mut c_int) -> c_int, ffi::SQLITE_IOERR_ACCESS;
    xFullPathname(path: *const c_char, length: c_int, full: *mut c_char) -> c_int, ffi::SQLITE_CANTOPEN;
    xDlOpen(path: *const c_char) -> *mut c_void, ptr::null_mut();
    xDlError(length: c_int, message: *mut c_char) -> (), ();
    xDlSym(library: *mut c_void, symbol: *const c_char) -> Option<Symbol>, None;
    xDlClose(library: *mut c_void) -> (), ();
    xRandomness(length: c_int, bytes: *mut c_char) -> c_int, 0;
    xSleep(microseconds: c_int) -> c_int, 0;
    xCurrentTime(days: *mut f64) -> c_int, ffi::SQLITE_ERROR;
    xGetLastError(length: c_int, message: *mut c_char) -> c_int, 0;
    xCurrentTimeInt64(milliseconds: *mut sqlite3_int64) -> c_int, ffi::SQLITE_ERROR;
    xSetSystemCall(name: *const c_char, call: ffi::sqlite3_syscall_ptr) -> c_int, ffi::SQLITE_NOTFOUND;
    xGetSystemCall(name: *const c_char) -> ffi::sqlite3_syscall_ptr, None;
    xNextSystemCall(name: *const c_char) -> *const c_char, ptr::null();
}

/// What the bindings have [`xDlSym`] return.
type Symbol = unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void, *const c_char);

// Sector size and characteristics are the real disk's: SQLite is to rely here on what it relies on there.
pass_on! { file: sqlite3_file;
    xRead(bytes: *mut c_void, count: c_int, offset: sqlite3_int64) -> c_int, ffi::SQLITE_IOERR_READ, Read;
    xFileSize(size: *mut sqlite3_int64) -> c_int, ffi::SQLITE_IOERR_FSTAT, FileSize;
    xLock(level: c_int) -> c_int, ffi::SQLITE_IOERR_LOCK;
    xUnlock(level: c_int) -> c_int, ffi::SQLITE_IOERR_UNLOCK;
    xCheckReservedLock(reserved: *mut c_int) -> c_int, ffi::SQLITE_IOERR_CHECKRESERVEDLOCK;
    xFileControl(operation: c_int, argument: *mut c_void) -> c_int, ffi::SQLITE_NOTFOUND;
    xSectorSize() -> c_int, 0;
    xDeviceCharacteristics() -> c_int, 0;
    xShmMap(region: c_int, size: c_int, extend: c_int, at: *mut *mut c_void) -> c_int, ffi::SQLITE_IOERR_SHMMAP, ShmMap;
    xShmLock(offset: c_int, count: c_int, flags: c_int) -> c_int, ffi::SQLITE_IOERR_SHMLOCK;
    xShmBarrier() -> (), ();
    xShmUnmap(delete: c_int) -> c_int, SQLITE_OK;
}

unsafe extern "C" fn xOpen(
    vfs: *mut sqlite3_vfs,
    path: ffi::sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes this VFS, a path or null, and `szOsFile` bytes. Null methods say that nothing is open.
    unsafe {
        let (entry, open) = (Entry::of(path), file.cast::<OpenFile>());
        let real = file.byte_add(size_of::<OpenFile>());
        (*file).pMethods = ptr::null();
        (*real).pMethods = ptr::null();
        if let Some((_, code)) = entry.fault(Call::Open) {
            return code;
        }
        let code = real!(vfs vfs.xOpen(path, real, flags, flags_out), ffi::SQLITE_CANTOPEN);
        if !(*real).pMethods.is_null() {
            open.write(OpenFile { base: sqlite3_file { pMethods: &raw const METHODS }, entry });
        }
        code
    }
}

unsafe extern "C" fn xClose(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite passes an open file, for the last time.
    unsafe {
        let code = real!(file file.xClose(), SQLITE_OK);
        file.cast::<OpenFile>().drop_in_place();
        code
    }
}

unsafe extern "C" fn xDelete(vfs: *mut sqlite3_vfs, path: *const c_char, sync_folder: c_int) -> c_int {
    // SAFETY: SQLite passes this VFS and a path.
    unsafe {
        let entry = Entry::of(path);
        if let Some((_, code)) = entry.fault(Call::Delete) {
            return code;
        }
        let code = real!(vfs vfs.xDelete(path, sync_folder), ffi::SQLITE_IOERR_DELETE);
        if code == SQLITE_OK {
            entry.record(Operation::Delete);
        }
        code
    }
}

unsafe extern "C" fn xWrite(file: *mut sqlite3_file, data: *const c_void, count: c_int, at: sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes an open file and `count` bytes.
    unsafe {
        let (count, failure) = match entry(file).fault(Call::Write) {
            Some((Fault::ShortWrite, code)) => (count / 2, code),
            Some((_, code)) => return code,
            None => (count, SQLITE_OK),
        };
        let code = real!(file file.xWrite(data, count, at), ffi::SQLITE_IOERR_WRITE);
        if code != SQLITE_OK {
            return code;
        }
        entry(file).record(|name| {
            let bytes = slice::from_raw_parts(data.cast::<u8>(), size(count)).into();
            Operation::Change(name, Change::Write { offset: size(at), bytes })
        });
        failure
    }
}

unsafe extern "C" fn xTruncate(file: *mut sqlite3_file, length: sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes an open file.
    unsafe {
        if let Some((_, code)) = entry(file).fault(Call::Truncate) {
            return code;
        }
        let code = real!(file file.xTruncate(length), ffi::SQLITE_IOERR_TRUNCATE);
        if code == SQLITE_OK {
            entry(file).record(|name| Operation::Change(name, Change::Truncate(size(length))));
        }
        code
    }
}

unsafe extern "C" fn xSync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: SQLite passes an open file.
    unsafe {
        let covers = entry(file).operations();
        let code = match entry(file).fault(Call::Sync) {
            Some((_, code)) => code,
            None => real!(file file.xSync(flags), ffi::SQLITE_IOERR_FSYNC),
        };
        entry(file).record(|name| Operation::Sync { file: name, covers, succeeded: code == SQLITE_OK });
        code
    }
}

#[cfg(test)]
mod tests {
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

    /// The rows of an intact database, none if the table is missing.
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

    /// How many acknowledged commits the worst cut took, with this many torn variants of each.
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
}
