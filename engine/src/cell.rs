//! The unit of memory: 64 bytes, a cache line.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};

/// One pixel's channels of one block (16 of `f32`, 32 of `bf16`), or one step's weights for 16 output channels.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Cell([u8; Self::BYTES]);

impl Cell {
    pub(crate) const BYTES: usize = 64;

    /// `count` cells of zeros. Memory straight from the system costs nothing until it is touched.
    pub(crate) fn zeros(count: usize) -> Vec<Self> {
        if count == 0 {
            return Vec::new();
        }
        let Ok(layout) = Layout::array::<Self>(count) else {
            panic!("{count} cells are more than can be addressed")
        };
        // SAFETY: the layout is not empty; a cell of zeros is a cell; the vector takes over memory of its own layout.
        unsafe {
            let memory = alloc_zeroed(layout).cast::<Self>();
            if memory.is_null() {
                handle_alloc_error(layout);
            }
            Vec::from_raw_parts(memory, count, count)
        }
    }
}

/// Cells that threads share; who writes which is said where they do.
pub(crate) struct Arena {
    cells: *mut [Cell],
}

// SAFETY: it owns plain memory; `pointer` leaves it to its users not to write what others read.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// `count` cells of zeros.
    pub(crate) fn new(count: usize) -> Self {
        Self { cells: Box::into_raw(Cell::zeros(count).into_boxed_slice()) }
    }

    /// The first cell.
    pub(crate) fn pointer(&self) -> *mut Cell {
        self.cells.cast()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: it was a box, and is given up.
        drop(unsafe { Box::from_raw(self.cells) });
    }
}

/// Cells as `f32`.
pub(crate) fn as_f32(cells: &mut [Cell]) -> &mut [f32] {
    let length = cells.len() * Cell::BYTES / size_of::<f32>();
    // SAFETY: the same bytes; any are valid `f32`; a cell is aligned more strictly.
    unsafe { std::slice::from_raw_parts_mut(cells.as_mut_ptr().cast(), length) }
}

/// Cells as the bits of `bf16`.
pub(crate) fn as_bf16(cells: &mut [Cell]) -> &mut [u16] {
    let length = cells.len() * Cell::BYTES / size_of::<u16>();
    // SAFETY: as in `as_f32`.
    unsafe { std::slice::from_raw_parts_mut(cells.as_mut_ptr().cast(), length) }
}
