//! The program's allocator: small blocks from a heap that is kept, large ones from the kernel.
//!
//! musl's own gives each small block back to the kernel at once: reading one path then costs mmap, a page fault and
//! munmap (an eighth of the node plugin's processor time under the bench). A heap that kept large blocks as well would
//! hold on to the megabytes that one look at a blank disk takes.

#![allow(
    unsafe_code,
    reason = "an allocator is unsafe by its nature; every call goes on to one that keeps the contract"
)]

use std::alloc::{GlobalAlloc, Layout, System};

use dlmalloc::GlobalDlmalloc;

/// Bytes from which on musl maps a block by itself and unmaps it when it is freed (`MMAP_THRESHOLD` of mallocng).
const LARGE: usize = 131_052;

/// Small blocks from dlmalloc, large ones from musl.
pub(crate) struct Allocator;

fn large(size: usize) -> bool {
    size >= LARGE
}

// SAFETY: a block's size decides alone who made it, and the caller passes the same layout to `dealloc` and `realloc` as to
// `alloc`; so each block goes back to where it came from.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if large(layout.size()) {
            // SAFETY: the caller's promise is passed on.
            return unsafe { System.alloc(layout) };
        }
        // SAFETY: as above.
        unsafe { GlobalDlmalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if large(layout.size()) {
            // SAFETY: the caller's promise is passed on.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: as above.
        unsafe { GlobalDlmalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if large(layout.size()) {
            // SAFETY: made by `System.alloc` with this layout.
            return unsafe { System.dealloc(block, layout) };
        }
        // SAFETY: made by dlmalloc with this layout.
        unsafe { GlobalDlmalloc.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match (large(layout.size()), large(size)) {
            // SAFETY: made by `System.alloc` with this layout, and stays there.
            (true, true) => unsafe { System.realloc(block, layout, size) },
            // SAFETY: made by dlmalloc with this layout, and stays there.
            (false, false) => unsafe { GlobalDlmalloc.realloc(block, layout, size) },
            _ => {
                // SAFETY: the caller promises that `size`, rounded up to the alignment, fits an `isize`.
                let moved = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
                // SAFETY: `size` is not zero, says the caller.
                let new = unsafe { self.alloc(moved) };
                if !new.is_null() {
                    // SAFETY: two different blocks of at least so many bytes; the old one is not used again.
                    unsafe {
                        std::ptr::copy_nonoverlapping(block, new, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                }
                new
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LARGE;

    #[test]
    fn a_block_keeps_its_bytes_when_it_grows_and_shrinks_past_the_limit() {
        let byte = |at: usize| u8::try_from(at % 251).unwrap();
        let mut block = Vec::with_capacity(LARGE / 2);
        block.extend((0..LARGE / 2).map(byte));
        for capacity in [LARGE - 1, LARGE, 3 * LARGE] {
            block.reserve_exact(capacity - block.len());
            block.extend((block.len()..capacity).map(byte));
        }
        for length in [2 * LARGE, LARGE, LARGE - 1, 100] {
            block.truncate(length);
            block.shrink_to_fit();
            assert!(
                block.iter().enumerate().all(|(at, is)| *is == byte(at)),
                "{length}"
            );
        }
        let zeros = vec![0_u8; 2 * LARGE];
        assert!(zeros.iter().all(|byte| *byte == 0));
    }
}
