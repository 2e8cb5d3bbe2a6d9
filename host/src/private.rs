//! Files that others must not read: databases, their copies, and files with secrets.

#[cfg(any(feature = "cli", feature = "sqlite", feature = "tls"))]
use std::collections::BTreeSet;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use std::io;
#[cfg(feature = "postgres")]
use std::os::unix::fs::MetadataExt as _;
#[cfg(feature = "sqlite")]
use std::os::unix::fs::OpenOptionsExt as _;
#[cfg(any(feature = "cli", feature = "sqlite", feature = "tls"))]
use std::path::PathBuf;
#[cfg(any(feature = "cli", feature = "sqlite", feature = "tls"))]
use std::sync::{Mutex, PoisonError};
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

#[cfg(feature = "postgres")]
use crate::files;

/// Files that a warning was logged of.
#[cfg(any(feature = "cli", feature = "sqlite", feature = "tls"))]
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

/// Returns the mode of a file that every user of the system can read or write.
#[cfg(any(feature = "cli", feature = "sqlite", feature = "tls"))]
pub(crate) fn mode_for_others(path: &Path) -> Option<u32> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o006 != 0).then_some(mode)
}

/// Logs a warning where every user of the system can read or write the file, once for each file. `what` says what it
/// holds.
#[cfg(any(feature = "cli", feature = "sqlite", feature = "tls"))]
pub(crate) fn warn_if_others_can_read(path: &Path, what: &str) {
    let Some(mode) = mode_for_others(path) else { return };
    if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned()) {
        tracing::warn!(
            path = %path.display(),
            mode = %format_args!("{mode:o}"),
            "every user of the system can read {what}: `chmod o-rwx` the file"
        );
    }
}

/// Asserts that the owner alone can read and write a file, as libpq asks of files with secrets.
///
/// # Errors
///
/// The mode and the remedy, or why the file can't be looked at; without the file's name.
#[cfg(feature = "postgres")]
pub(crate) fn require_owner_alone(path: &Path) -> io::Result<()> {
    require_mode(path, |_| 0o077)
}

/// Asserts the same, save that root's file may be read by its group.
///
/// # Errors
///
/// As [`require_owner_alone`].
#[cfg(feature = "postgres")]
pub(crate) fn require_owner_or_roots_group(path: &Path) -> io::Result<()> {
    require_mode(path, |owner| if owner == 0 { 0o037 } else { 0o077 })
}

/// Asserts that a file's mode has none of the bits that `forbidden` returns for the id of its owner.
#[cfg(feature = "postgres")]
fn require_mode(path: &Path, forbidden: impl Fn(u32) -> u32) -> io::Result<()> {
    let path = path.to_owned();
    let file = files::within_timeout(move || fs::metadata(path))??;
    let mode = file.permissions().mode() & 0o777;
    if mode & forbidden(file.uid()) == 0 {
        return Ok(());
    }
    let reason = format!("other users can read or write it (mode {mode:o}): `chmod 0600` it");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}
