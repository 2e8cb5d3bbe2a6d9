//! The place of a database's files: notices that one was removed, renamed or replaced while it is in use.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// A file as a path led to it when the database was opened.
#[derive(Debug)]
struct Seen {
    path: PathBuf,
    identity: Identity,
}

/// Files of an open database.
#[derive(Debug)]
pub(super) struct Place {
    database: Seen,
    /// The write-ahead log and its index.
    log: Vec<Seen>,
}

/// A file that is no longer where it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Moved {
    /// The database itself: what is written would be kept where nobody looks for it.
    #[error("{0} was removed, renamed or replaced")]
    Database(String),
    /// The write-ahead log or its index.
    #[error("{0} was removed, renamed or replaced")]
    Log(String),
    /// The place can't be looked at now.
    #[error("{0}")]
    NotKnown(String),
}

impl Place {
    /// Looks at the database's file, before SQLite opens it.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { database: Seen::at(path.to_owned())?, log: Vec::new() })
    }

    /// Looks at the log and its index, which SQLite has made by now beside the file that the path leads to.
    pub(super) fn with_log(mut self) -> io::Result<Self> {
        let file = fs::canonicalize(&self.database.path)?;
        for suffix in ["-wal", "-shm"] {
            let mut path = file.clone().into_os_string();
            path.push(suffix);
            self.log.push(Seen::at(path.into())?);
        }
        Ok(self)
    }

    /// Returns the path of the database's file.
    pub(super) fn path(&self) -> &Path {
        &self.database.path
    }

    /// Checks that the paths lead to the same files still.
    pub(super) fn require_unmoved(&self) -> Result<(), Moved> {
        self.database.require_unmoved(Moved::Database)?;
        self.log.iter().try_for_each(|file| file.require_unmoved(Moved::Log))
    }
}

impl Seen {
    fn at(path: PathBuf) -> io::Result<Self> {
        Ok(Self { identity: identity(&fs::metadata(&path)?), path })
    }

    fn require_unmoved(&self, moved: fn(String) -> Moved) -> Result<(), Moved> {
        let path = self.path.display();
        match fs::metadata(&self.path) {
            Ok(file) if identity(&file) == self.identity => Ok(()),
            Ok(_) => Err(moved(path.to_string())),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(moved(path.to_string()))
            }
            Err(error) => Err(Moved::NotKnown(format!("{path} can't be looked at: {error}"))),
        }
    }
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(file: &fs::Metadata) -> Identity {
    (file.dev(), file.ino())
}
