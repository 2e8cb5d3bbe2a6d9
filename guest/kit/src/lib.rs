//! Parts that a component in `no_std` Rust needs beside its logic: an allocator for one request, a panic handler that
//! traps, and `cabi_realloc`. With `std` a `wasm32-wasip2` component would import WASI, which hosts refuse.
//!
//! A component names the crate once; there is nothing to call:
//!
//! ```text
//! #![no_std]
//! extern crate alloc;
//! use workspaces_guest_kit as _;
//! ```
//!
//! On every other target the crate is empty, so that a component's logic is tested natively.
#![cfg_attr(target_family = "wasm", no_std)]

#[cfg(target_family = "wasm")]
extern crate alloc;

#[cfg(target_family = "wasm")]
#[allow(unsafe_code, reason = "an allocator is unsafe by nature")]
mod arena;

#[cfg(target_family = "wasm")]
mod exports {
    #![allow(unsafe_code, reason = "the exports of the canonical ABI are unsafe by nature")]

    use alloc::alloc::{Layout, alloc, handle_alloc_error, realloc};

    use crate::arena::Arena;

    #[global_allocator]
    static ALLOCATOR: Arena = Arena::new();

    #[panic_handler]
    fn trap(_: &core::panic::PanicInfo<'_>) -> ! {
        core::arch::wasm32::unreachable()
    }

    /// The allocator of the canonical ABI, which std would have brought on this target.
    ///
    /// # Safety
    ///
    /// Called by the canonical ABI alone: `old`, `old_size` and `align` are those of an earlier
    /// call, or `old_size` is 0; `align` is a power of two, and `new_size` is not 0 unless
    /// `old_size` is.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn cabi_realloc(old: *mut u8, old_size: usize, align: usize, new_size: usize) -> *mut u8 {
        if new_size == 0 {
            return core::ptr::without_provenance_mut(align);
        }
        // SAFETY: the caller's promise, above; the new size was just seen not to be 0.
        let (memory, layout) = unsafe {
            if old_size == 0 {
                let layout = Layout::from_size_align_unchecked(new_size, align);
                (alloc(layout), layout)
            } else {
                let layout = Layout::from_size_align_unchecked(old_size, align);
                (realloc(old, layout, new_size), layout)
            }
        };
        if memory.is_null() {
            handle_alloc_error(layout)
        }
        memory
    }
}
