//! The allocator: memory for one request after the other.

use core::{
    alloc::{GlobalAlloc, Layout},
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Hands out memory from the front and takes back the last piece alone, until all are given back, as they are
/// at the end of a request: then it begins at the front again. What a request needs fits into the memory that the
/// instance begins with, so that the host maps nothing more for it.
pub(crate) struct Arena {
    /// Address at which the next piece begins; 0 where none is in use.
    next: AtomicUsize,
    /// Number of pieces in use.
    pieces: AtomicUsize,
}

const PAGE: usize = 1 << 16;

unsafe extern "C" {
    /// The first byte behind the stack and the data; the linker says where.
    static __heap_base: u8;
}

impl Arena {
    pub(crate) const fn new() -> Self {
        Self { next: AtomicUsize::new(0), pieces: AtomicUsize::new(0) }
    }

    /// Returns the end of a piece that begins at `start`, after growing the memory to it.
    fn reach(start: usize, size: usize) -> Option<usize> {
        let end = start.checked_add(size)?;
        let missing = end.saturating_sub(core::arch::wasm32::memory_size::<0>() * PAGE).div_ceil(PAGE);
        let is_there = missing == 0 || core::arch::wasm32::memory_grow::<0>(missing) != usize::MAX;
        is_there.then_some(end)
    }
}

// SAFETY: pieces lie one behind the other, above everything else in the memory, so that none overlaps
// another that is in use; there is one thread.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let next = match self.next.load(Relaxed) {
            0 => (&raw const __heap_base).addr(),
            next => next,
        };
        let piece = next
            .checked_next_multiple_of(layout.align())
            .and_then(|start| Some((start, Self::reach(start, layout.size())?)));
        match piece {
            Some((start, end)) => {
                self.next.store(end, Relaxed);
                self.pieces.store(self.pieces.load(Relaxed) + 1, Relaxed);
                ptr::with_exposed_provenance_mut(start)
            }
            None => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        let pieces = self.pieces.load(Relaxed) - 1;
        self.pieces.store(pieces, Relaxed);
        if pieces == 0 {
            self.next.store(0, Relaxed);
        } else if piece.addr() + layout.size() == self.next.load(Relaxed) {
            self.next.store(piece.addr(), Relaxed);
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if piece.addr() + layout.size() == self.next.load(Relaxed) {
            return match Self::reach(piece.addr(), size) {
                Some(end) => {
                    self.next.store(end, Relaxed);
                    piece
                }
                None => ptr::null_mut(),
            };
        }
        // SAFETY: the caller's promise for `realloc` covers all: a new layout that is valid, and an old
        // piece of the old size.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(piece, new, layout.size().min(size));
                self.dealloc(piece, layout);
            }
            new
        }
    }
}
