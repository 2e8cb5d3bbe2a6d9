//! The SQLite VFS: every call goes on to the real one, is recorded, and fails where it is to.

#![allow(unsafe_code, reason = "a VFS is a table of C functions")]
#![allow(non_snake_case, reason = "the functions bear the names of their places in that table")]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    path::Path,
    ptr, slice,
    sync::{Arc, Weak},
};

use rusqlite::ffi::{self, SQLITE_OK, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

use super::{
    Call, Fault, Shared, WATCHED, lock,
    platter::{Change, Operation},
};

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

    /// Returns how many operations have been logged since the folder is watched.
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
        let plan = state.plan.as_mut().filter(|plan| plan.only.is_none_or(|only| only == call))?;
        let code = call.code(plan.fault)?;
        let due = plan.due.contains(&plan.injected.calls);
        plan.injected.calls += 1;
        due.then(|| {
            plan.injected.hit.get_or_insert_with(|| (call, self.name.to_string()));
            (plan.fault, code)
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
pub(super) fn register() -> Option<()> {
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

/// Function that the bindings have [`xDlSym`] return.
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

/// Returns a number of SQLite's as a size; it passes none that is negative.
fn size(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or(0)
}
