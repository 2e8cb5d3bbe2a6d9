//! Files that an operator names: regular files alone, read whole, up to a size and within a time.

use std::{
    fs::{self, File, FileType, OpenOptions},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

use rustix::fs::OFlags;

/// Longest time that a file system may take: one on a network that is lost never answers.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of threads that hang in a file system at the same time.
const MAX_HANGING: usize = 64;

/// Threads that hang now.
static HANGING: AtomicUsize = AtomicUsize::new(0);

/// Maximum size of a kind of file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    bytes: u64,
    /// Advice for a file that is larger.
    advice: &'static str,
}

impl Limit {
    pub(crate) const fn new(bytes: u64, advice: &'static str) -> Self {
        Self { bytes, advice }
    }

    /// Returns the limit of a file whose format has nothing to say in more than so many bytes.
    pub(crate) const fn fixed(bytes: u64) -> Self {
        Self::new(bytes, "check that it is the right file")
    }

    fn exceeded(self) -> io::Error {
        let Self { bytes, advice } = self;
        io::Error::new(ErrorKind::FileTooLarge, format!("it has over {bytes} bytes, the limit: {advice}"))
    }

    /// Reads to the end. Makes room for `size` bytes before.
    ///
    /// # Errors
    ///
    /// More bytes than the limit, or an error of the reader.
    pub(crate) fn read(self, reader: impl io::Read, size: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        let read = reader.take(self.bytes.saturating_add(1)).read_to_end(&mut bytes)?;
        if read as u64 > self.bytes { Err(self.exceeded()) } else { Ok(bytes) }
    }
}

/// Reads a file. Follows symbolic links; a FIFO, a device, a folder or a socket is never opened.
///
/// Blocks for [`TIMEOUT`] at most.
///
/// # Errors
///
/// The reason, without the file's name.
pub(crate) fn read(path: &Path, limit: Limit) -> io::Result<Vec<u8>> {
    read_with(path, limit, move |file, size| limit.read(file, size))
}

/// Opens a file as [`read`] does, and has it read by `work`, which gets its size in bytes too.
///
/// # Errors
///
/// As [`read`], and those of `work`.
pub(crate) fn read_with<T: Send + 'static>(
    path: &Path,
    limit: Limit,
    work: impl FnOnce(File, u64) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let path = path.to_owned();
    within_timeout(move || {
        // To open a device may start something: its kind is looked at before, and once more when it is open.
        require_regular(fs::metadata(&path)?.file_type())?;
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path)?;
        let metadata = file.metadata()?;
        require_regular(metadata.file_type())?;
        if metadata.len() > limit.bytes {
            return Err(limit.exceeded());
        }
        work(file, metadata.len())
    })?
}

/// Reads a file of text, as [`read`] does.
///
/// # Errors
///
/// As [`read`], and bytes that are not UTF-8.
#[cfg(any(feature = "cli", feature = "jwt"))]
pub(crate) fn read_text(path: &Path, limit: Limit) -> io::Result<String> {
    let text = String::from_utf8(read(path, limit)?);
    text.map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not text in UTF-8"))
}

/// Does blocking work of an async task in a thread of its own.
///
/// # Errors
///
/// A panic in the work.
#[cfg(any(feature = "cli", feature = "jwt"))]
pub(crate) async fn unblocked<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// Runs work that may hang in a file system, in a thread of its own, and waits [`TIMEOUT`] for it. A thread that hangs
/// is left behind; it does not keep the process from ending.
///
/// # Errors
///
/// The timeout, or too many threads that hang already.
pub(crate) fn within_timeout<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    within(TIMEOUT, work)
}

fn within<T: Send + 'static>(timeout: Duration, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let hangs = |text: String| io::Error::new(ErrorKind::TimedOut, text);
    if HANGING.load(Relaxed) >= MAX_HANGING {
        return Err(hangs(format!("{MAX_HANGING} reads of files hang already: check the file systems")));
    }
    // Without a buffer: a result is either taken, or its thread knows that it is late.
    let (sender, result) = sync_channel(0);
    thread::Builder::new().name("file".into()).spawn(move || {
        if sender.send(work()).is_err() {
            HANGING.fetch_sub(1, Relaxed);
        }
    })?;
    result.recv_timeout(timeout).map_err(|error| match error {
        RecvTimeoutError::Timeout => {
            HANGING.fetch_add(1, Relaxed);
            hangs(format!("its file system did not answer within {timeout:?}"))
        }
        RecvTimeoutError::Disconnected => io::Error::other("reading it failed"),
    })
}

fn require_regular(kind: FileType) -> io::Result<()> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {what}: give a regular file")))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_that_hangs_is_given_up_and_left_behind() {
        let (release, held) = sync_channel::<()>(0);
        let start = Instant::now();
        let result = within(Duration::from_millis(50), move || held.recv().is_err());
        assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::TimedOut));
        assert!(start.elapsed() < TIMEOUT && HANGING.load(Relaxed) == 1);
        drop(release);
        let deadline = Instant::now() + Duration::from_secs(20);
        while HANGING.load(Relaxed) != 0 {
            assert!(Instant::now() < deadline, "the thread that came back is still counted");
            thread::yield_now();
        }
        assert!(matches!(within(TIMEOUT, || 7), Ok(7)));
    }

    #[test]
    fn what_is_no_regular_file_is_named_and_not_opened() {
        for (path, what) in [("/dev/zero", "a device"), ("/dev/null", "a device"), ("/proc/self", "a folder")] {
            let error = read(Path::new(path), Limit::fixed(10)).map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|error| error.contains(what)), "{path}: {error:?}");
        }
        // Of size 0 by its metadata, and larger.
        let error = read(Path::new("/proc/self/status"), Limit::fixed(10)).map_err(|error| error.kind());
        assert_eq!(error, Err(ErrorKind::FileTooLarge));
        assert!(read(Path::new("/proc/self/status"), Limit::fixed(1 << 20)).is_ok_and(|text| !text.is_empty()));
    }
}
