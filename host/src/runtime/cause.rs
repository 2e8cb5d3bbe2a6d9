//! The text of the engine's errors, with limited work: a component chooses the names in them.

use std::{
    fmt::{self, Write as _},
    num::NonZeroUsize,
    ptr,
};

use wasmtime::{FrameInfo, WasmBacktrace};

use crate::excerpt::{Clip, excerpt};

/// Longest text of an error, in bytes: [`FRAMES`] lines of the log with names that are not cut.
pub(super) const MAX_CAUSE: usize = 4 << 10;

/// Frames of a backtrace, wasmtime's default. It copies a name of at most 100,000 bytes for each, a limit of
/// its parser.
pub(super) const FRAMES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(19);

/// Longest function name in a backtrace, in bytes: the names of all frames fit in [`MAX_CAUSE`].
pub(super) const MAX_NAME: usize = 160;

/// Most links in an error's chain; the engine's have up to five.
const MAX_LINKS: usize = 16;

/// Returns what happened and the functions in which it did, the innermost first.
///
/// The engine's own formatting of a backtrace is never used. It may demangle names, and a mangled name of
/// 450 bytes can take hundreds of megabytes.
pub(super) fn cause(error: &wasmtime::Error) -> String {
    let mut clip = Clip::new(MAX_CAUSE);
    // An error says that the text is cut, which its end shows.
    let _ = write_cause(&mut clip, error);
    clip.into_text()
}

fn write_cause(clip: &mut Clip, error: &wasmtime::Error) -> fmt::Result {
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    let is_backtrace = |link: *const dyn std::error::Error| backtrace.is_some_and(|trace| ptr::addr_eq(trace, link));
    for (number, link) in error.chain().filter(|link| !is_backtrace(*link)).take(MAX_LINKS).enumerate() {
        if number > 0 {
            clip.write_str(": ")?;
        }
        // An error says that the line has ended; the next link goes on.
        let _ = write!(FirstLine(clip), "{link}");
    }
    for frame in backtrace.map(WasmBacktrace::frames).unwrap_or_default() {
        write_frame(clip, frame)?;
    }
    Ok(())
}

fn write_frame(clip: &mut Clip, frame: &FrameInfo) -> fmt::Result {
    match frame.module_offset() {
        Some(offset) => write!(clip, "; at {offset:#x} in ")?,
        None => clip.write_str("; in ")?,
    }
    match frame.func_name() {
        Some(name) => clip.write_str(&excerpt(name, MAX_NAME)),
        None => write!(clip, "function {}", frame.func_index()),
    }
}

/// Takes a text up to its first line break. A backtrace, should one be formatted all the same, has its names
/// after that.
struct FirstLine<'a>(&'a mut Clip);

impl fmt::Write for FirstLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match text.split_once('\n') {
            None => self.0.write_str(text),
            Some((line, _)) => self.0.write_str(line).and(Err(fmt::Error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_written_up_to_their_first_line() {
        let error = wasmtime::Error::msg("the root\nand more").context("about\nnames").context("first");
        assert_eq!(cause(&error), "first: about: the root");
    }

    #[test]
    fn a_text_is_cut_at_its_limit() {
        let text = cause(&wasmtime::Error::msg("x".repeat(100_000)).context("y".repeat(100)));
        assert!(text.starts_with("yyy") && text.contains(": xxx"), "{text}");
        assert!((MAX_CAUSE..MAX_CAUSE + 100).contains(&text.len()), "{}", text.len());
    }
}
