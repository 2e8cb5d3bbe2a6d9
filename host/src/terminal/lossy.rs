//! Output that never waits for its reader: a bounded buffer, and a thread that writes it.

use std::{
    cell::Cell,
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Maximum bytes that wait for the thread; it writes as many at once.
const CAPACITY: usize = 1 << 20;

/// Maximum bytes of one write that are more than one line: those that a pipe takes whole (POSIX, `PIPE_BUF`), so
/// that lines of several processes do not mix.
const WRITE: usize = 4096;

/// Maximum time that [`Lossy::close`] waits for a reader.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for which the thread gathers lines before it writes them. It wakes and writes once for all of them.
const GATHER: Duration = Duration::from_millis(10);

/// Pause before another try at a descriptor that does not block.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

thread_local! {
    /// Mark of a writing thread, whose own lines always have room.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// Lines on their way to an output. Clones share it. Lines that there is no room for, or that can't be written,
/// are dropped and counted.
#[derive(Clone)]
pub(crate) struct Lossy(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    count: Box<dyn Fn(u64) + Send + Sync>,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// There is a line among them that is to be written at once.
    urgent: bool,
    dropped: u64,
    closed: bool,
    ended: bool,
}

impl Lossy {
    /// Starts the thread that writes to `output`. Every dropped line is given to `count` at once, and to `report`
    /// when there is room again: the number since the last report.
    pub(crate) fn start(
        name: &str,
        output: impl Write + Send + 'static,
        count: impl Fn(u64) + Send + Sync + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> Self {
        let shared = Shared { state: Mutex::default(), changed: Condvar::new(), count: Box::new(count) };
        let lossy = Self(Arc::new(shared));
        let shared = lossy.0.clone();
        let writing = thread::Builder::new().name(name.to_owned()).spawn(move || shared.write_all(output, report));
        if writing.is_err() {
            // Without a thread every line is dropped.
            lossy.0.lock().ended = true;
        }
        lossy
    }

    /// Appends a line, or several, with their line breaks. Those that are `urgent` are written at once, with all before
    /// them, the others within [`GATHER`].
    pub(crate) fn push(&self, lines: &[u8], urgent: bool) {
        let mut state = self.0.lock();
        let fits = state.waiting.len() + lines.len() <= CAPACITY || WRITES.get();
        if state.closed || state.ended || !fits {
            state.dropped += count(lines);
            drop(state);
            (self.0.count)(count(lines));
            return;
        }
        let before = state.waiting.len();
        state.waiting.extend_from_slice(lines);
        let is_half_full = before < CAPACITY / 2 && state.waiting.len() >= CAPACITY / 2;
        state.urgent |= urgent;
        drop(state);
        if before == 0 || is_half_full || urgent {
            self.0.changed.notify_all();
        }
    }

    /// Takes no more lines, and waits until all are written, for a second at most.
    pub(crate) fn close(&self) {
        let end = Instant::now() + FLUSH_TIMEOUT;
        let mut state = self.0.lock();
        state.closed = true;
        self.0.changed.notify_all();
        while !state.ended {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            (state, _) = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what comes until the output is closed.
    fn write_all(&self, output: impl Write, report: impl Fn(u64)) {
        WRITES.set(true);
        let mut output = Output { output, cut: false };
        let (mut lines, mut reported) = (Vec::new(), 0);
        while self.take(&mut lines) {
            let lost: u64 = pieces(&lines).filter(|piece| output.write(piece).is_err()).map(count).sum();
            let mut state = self.lock();
            state.dropped += lost;
            let dropped = state.dropped;
            drop(state);
            if lost > 0 {
                (self.count)(lost);
            } else if dropped > reported {
                report(dropped - reported);
                reported = dropped;
            }
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits for lines, and a moment for more of them, and takes them; returns whether there are any, or may be later.
    fn take(&self, lines: &mut Vec<u8>) -> bool {
        lines.clear();
        let mut state = self.lock();
        while state.waiting.is_empty() && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let end = Instant::now() + GATHER;
        while !state.closed && !state.urgent && state.waiting.len() < CAPACITY / 2 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.urgent = false;
        mem::swap(&mut state.waiting, lines);
        !lines.is_empty()
    }
}

/// Output of whole lines: one that was cut off is ended before the next.
struct Output<W> {
    output: W,
    cut: bool,
}

impl<W: Write> Output<W> {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.cut {
            self.write_part(b"\n")?;
        }
        self.write_part(lines)
    }

    fn write_part(&mut self, mut lines: &[u8]) -> io::Result<()> {
        while !lines.is_empty() {
            match self.output.write(lines) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.cut = lines[written - 1] != b'\n';
                    lines = &lines[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process made the descriptor so: it is shared.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY_PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Returns the lines in pieces of [`WRITE`] bytes at most, but for longer lines.
fn pieces(mut lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (head, tail) = lines.split_at(lines.len().min(WRITE));
        let end = match head.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None => tail.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| WRITE + at + 1),
        };
        let (piece, rest) = lines.split_at(end);
        lines = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    };

    use super::*;

    /// Output that waits for a word before each write, and fails where the word is no.
    struct Gate(mpsc::Receiver<bool>, Arc<Mutex<Vec<u8>>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Ok(false) = self.0.recv() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.1.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_without_room_are_dropped_and_counted_and_the_others_come_whole() {
        let (open, gate) = mpsc::channel();
        let (written, dropped) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (counted, reported) = (dropped.clone(), mpsc::channel());
        let lossy = Lossy::start(
            "test",
            Gate(gate, written.clone()),
            move |count| _ = counted.fetch_add(count, Relaxed),
            move |count| _ = reported.0.send(count),
        );
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        let pushed = 4 * CAPACITY as u64 / 100;
        (0..pushed).for_each(|_| lossy.push(&line, false));
        let lost = dropped.load(Relaxed);
        assert!(lost > pushed / 4 && lost < pushed, "{lost} of {pushed}");
        drop(open);
        assert_eq!(reported.1.recv(), Ok(lost));
        lossy.close();
        let written = written.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(written.chunks(100).all(|chunk| chunk == line));
        assert_eq!(written.len() as u64, (pushed - lost) * 100);
    }

    #[test]
    fn an_output_that_fails_or_blocks_ends_in_time() {
        let (open, gate) = mpsc::channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = dropped.clone();
        let lossy = Lossy::start(
            "test",
            Gate(gate, Arc::default()),
            move |count| _ = counted.fetch_add(count, Relaxed),
            |_| (),
        );
        assert!(open.send(false).is_ok());
        lossy.push(b"fails\n", true);
        let end = Instant::now() + Duration::from_secs(60);
        while dropped.load(Relaxed) == 0 && Instant::now() < end {
            thread::yield_now();
        }
        lossy.push(b"blocks\n", false);
        lossy.close();
        lossy.push(b"too late\n", false);
        assert_eq!(dropped.load(Relaxed), 2);
    }

    #[test]
    fn pieces_are_whole_lines() {
        let lines = [b"a\n".repeat(3000), b"b".repeat(9000), b"\nc\n".to_vec()].concat();
        let pieces: Vec<_> = pieces(&lines).collect();
        assert_eq!(pieces.concat(), lines);
        assert!(pieces.iter().all(|piece| piece.ends_with(b"\n")));
        assert_eq!(pieces.iter().filter(|piece| piece.len() > WRITE).count(), 1);
    }
}
