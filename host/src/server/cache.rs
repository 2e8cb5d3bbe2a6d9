//! Cache of compiled components, on disk: a component is compiled once, and not at each start.
//!
//! What it holds is machine code that runs in this process. A file is therefore used only if its tag (HMAC-SHA256) shows
//! that a host with the cache's key wrote it, for this component and this engine. Several processes may share a cache:
//! files are written under another name and renamed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
#[cfg(target_os = "linux")]
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::geteuid;
use sha2::Sha256;
use uuid::Uuid;

use crate::{
    files::{self, Limit},
    runtime::Digest,
};

/// Default of the maximum size, in bytes: some twenty components with a JavaScript engine in them.
pub(crate) const SIZE: u64 = 1 << 30;

/// Name of the file with the key.
const KEY: &str = "key";

/// Bytes of the key, and of a tag: those of SHA-256.
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 32;

/// Bytes of code that are copied and authenticated at a time: they fit the processor's cache.
const CHUNK: usize = 128 << 10;

/// Beginning of the names of files that are being written.
const UNFINISHED: &str = ".new-";

/// Age at which the process that was writing a file is taken for dead.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// Folder of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheConfig {
    pub(crate) folder: PathBuf,
    /// Maximum size of its files, in bytes: those that were not used for longest are removed.
    pub(crate) size: u64,
}

/// Cache that is open.
pub(super) struct Cache {
    config: CacheConfig,
    key: Hmac<Sha256>,
    /// Name of the engine that the code is for.
    engine: String,
}

impl Cache {
    /// Opens a cache for the code of an engine. Makes the folder and the key where there are none. Blocks its thread.
    ///
    /// # Errors
    ///
    /// A folder or a key that others than this user can write or read.
    pub(super) fn open(config: &CacheConfig, engine: String) -> Result<Self> {
        let folder = &config.folder;
        let open = || -> Result<_> {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            require_own(folder, 0o022, "others can write it: run chmod go-w on it")?;
            let key = read_key(folder)?;
            Ok(Hmac::new_from_slice(&key)?)
        };
        let key = open().with_context(|| format!("can't use the component cache {}", folder.display()))?;
        Ok(Self { config: config.clone(), key, engine })
    }

    /// Returns the code of a component, of so many bytes at most; `None` where it is not there. Blocks its thread.
    ///
    /// The file is a copy that nobody else can change: it is mapped, which costs less than another copy.
    pub(super) fn read(&self, digest: &Digest, most: usize) -> Option<File> {
        let name = self.name(digest);
        let path = self.config.folder.join(&name);
        let most = most.saturating_add(TAG_BYTES) as u64;
        let (mac, folder) = (self.mac(&name), self.config.folder.clone());
        let copy = move |file, size| copied(file, size, mac, &folder);
        let code = match files::read_with(&path, Limit::new(most, "raise pool.compiled-size"), copy) {
            Ok(code) => code,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(file = %path.display(), %error, "cached component can't be read, it is compiled again");
                }
                return None;
            }
        };
        let Some(code) = code else {
            tracing::warn!(file = %path.display(), "cached component is not what a host with this key wrote, it is compiled again");
            return None;
        };
        // The time of the last use. Without it the file is removed earlier.
        let _ = OpenOptions::new().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(code)
    }

    /// Keeps the code of a component, and removes what is over the maximum size. Blocks its thread.
    pub(super) fn write(&self, digest: &Digest, code: &[u8]) {
        if let Err(error) = self.try_write(digest, code) {
            tracing::warn!(folder = %self.config.folder.display(), %error, "compiled component not cached");
        }
    }

    fn try_write(&self, digest: &Digest, code: &[u8]) -> io::Result<()> {
        if code.len().saturating_add(TAG_BYTES) as u64 > self.config.size {
            return Ok(());
        }
        let name = self.name(digest);
        let tag = self.mac(&name).chain_update(code).finalize().into_bytes();
        let unfinished = Unfinished::new(&self.config.folder, &[code, &tag])?;
        fs::rename(&unfinished.0, self.config.folder.join(&name))?;
        self.remove_oldest(&name)
    }

    /// Removes the files that were not used for longest, but for the newest, until the others are within the size.
    fn remove_oldest(&self, newest: &str) -> io::Result<()> {
        let (mut files, mut size) = (Vec::new(), 0);
        for entry in fs::read_dir(&self.config.folder)? {
            let entry = entry?;
            // Another process may have removed it.
            let Ok(metadata) = entry.metadata() else { continue };
            let (name, used) = (entry.file_name(), metadata.modified()?);
            if name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if name != KEY {
                size += metadata.len();
                files.push((used, name != newest, entry.path(), metadata.len()));
            }
        }
        files.sort();
        for (_, is_other, path, bytes) in files {
            if size > self.config.size && is_other {
                fs::remove_file(path)?;
                size -= bytes;
            }
        }
        Ok(())
    }

    fn name(&self, digest: &Digest) -> String {
        format!("{digest}-{}", self.engine)
    }

    /// Returns the beginning of the tag of a file of this name: its code follows.
    fn mac(&self, name: &str) -> Hmac<Sha256> {
        // The name has no zero byte, so that no part of it can be taken for code.
        self.key.clone().chain_update(name).chain_update([0])
    }
}

/// Copies the code of a file to one without a name; `None` where the tag at its end is of other code.
fn copied(file: File, size: u64, mut mac: Hmac<Sha256>, folder: &Path) -> io::Result<Option<File>> {
    let mut copy = unnamed(folder)?;
    let (mut chunk, mut left) = (vec![0; CHUNK], size.saturating_sub(TAG_BYTES as u64));
    while left > 0 {
        let read = (&file).take(left).read(&mut chunk)?;
        if read == 0 {
            return Ok(None);
        }
        mac.update(&chunk[..read]);
        copy.write_all(&chunk[..read])?;
        left -= read as u64;
    }
    let mut tag = Vec::new();
    file.take(TAG_BYTES as u64).read_to_end(&mut tag)?;
    #[cfg(target_os = "linux")]
    fcntl_add_seals(&copy, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(mac.verify_slice(&tag).is_ok().then_some(copy))
}

/// Makes a file in memory, or in the folder where the system has no such files.
fn unnamed(folder: &Path) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        _ = folder;
        Ok(memfd_create("component", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
    }
    #[cfg(not(target_os = "linux"))]
    {
        // Its name is removed when it is dropped.
        let unfinished = Unfinished::new(folder, &[])?;
        OpenOptions::new().read(true).write(true).open(&unfinished.0)
    }
}

/// File that is being written; removed when it is dropped, unless it has another name by then.
pub(super) struct Unfinished(pub(super) PathBuf);

impl Unfinished {
    /// Writes a file that this user alone can read.
    pub(super) fn new(folder: &Path, parts: &[&[u8]]) -> io::Result<Self> {
        let unfinished = Self(folder.join(format!("{UNFINISHED}{}", Uuid::now_v7())));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished.0)?;
        for part in parts {
            file.write_all(part)?;
        }
        Ok(unfinished)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Reads the key of a cache, and makes one where there is none.
fn read_key(folder: &Path) -> Result<Vec<u8>> {
    let path = folder.join(KEY);
    if !path.try_exists()? {
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).context("no random bytes for a key")?;
        let unfinished = Unfinished::new(folder, &[&key])?;
        File::open(&unfinished.0)?.sync_all()?;
        match fs::hard_link(&unfinished.0, &path) {
            // Another process was first.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            linked => linked?,
        }
    }
    require_own(&path, 0o077, "others can read it: remove the cache, it is made anew")?;
    let key = files::read(&path, Limit::fixed(KEY_BYTES as u64))?;
    ensure!(key.len() == KEY_BYTES, "{} has {} bytes in place of {KEY_BYTES}: remove it", path.display(), key.len());
    Ok(key)
}

/// Checks that a file or folder is this user's, and that others have none of the rights in `forbidden`.
fn require_own(path: &Path, forbidden: u32, advice: &str) -> Result<()> {
    let metadata = fs::metadata(path)?;
    ensure!(metadata.uid() == geteuid().as_raw(), "{} belongs to another user", path.display());
    ensure!(metadata.mode() & forbidden == 0, "{}: {advice}", path.display());
    Ok(())
}
