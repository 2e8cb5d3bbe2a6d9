//! Files that others must not read: databases, their copies, and files with secrets.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
#[cfg(feature = "sqlite")]
use std::{io, os::unix::fs::OpenOptionsExt as _};

/// Files that a warning was logged of.
static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Creates an empty file that its owner alone can read and write. Leaves an existing file as it is, and does not open
/// it: closing it would release the locks that SQLite holds on it in this process.
///
/// # Errors
///
/// Where the file can't be created.
#[cfg(feature = "sqlite")]
pub(crate) fn create(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match fs::metadata(path) {
            // A symbolic link to a file that is missing.
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                options.create_new(false).create(true).open(path).map(drop)
            }
            _ => Ok(()),
        },
        created => created.map(drop),
    }
}

/// Logs a warning where every user of the system can read or write the file, once for each file. `what` says what it
/// holds.
pub(crate) fn warn_if_others_can_read(path: &Path, what: &str) {
    let Ok(file) = fs::metadata(path) else { return };
    let mode = file.permissions().mode() & 0o777;
    if mode & 0o006 != 0 && WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned()) {
        tracing::warn!(
            path = %path.display(),
            mode = %format_args!("{mode:o}"),
            "every user of the system can read {what}: `chmod o-rwx` the file"
        );
    }
}
