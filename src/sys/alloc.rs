//! Memory that cannot be had: an error like others, instead of Rust's abort.
//!
//! Everything here allocates a little at a time, so nobody could do more about it than end. Storage stays sound: that
//! is so whenever the program ends.

use std::alloc::{GlobalAlloc, Layout, System};

use super::process;

struct Checked;

#[global_allocator]
static ALLOCATOR: Checked = Checked;

// SAFETY: everything is passed to the system's allocator, which fulfils the contract; null pointers are never returned.
unsafe impl GlobalAlloc for Checked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        checked(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        checked(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        checked(unsafe { System.realloc(old, layout, size) })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn checked(memory: *mut u8) -> *mut u8 {
    if memory.is_null() {
        const TEXT: &[u8] =
            b"error: out of memory\nhint: ulimit -v, the batch job or its control group sets the limit\n";
        // SAFETY: `TEXT` is valid for reading. If it cannot be written, the exit code still tells.
        unsafe { libc::write(2, TEXT.as_ptr().cast(), TEXT.len()) };
        process::exit(1)
    }
    memory
}
