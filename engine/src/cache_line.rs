//! The unit of memory: 64 bytes, a cache line.

use bytemuck::{Pod, Zeroable};

/// One pixel's channels of one block (16 of `f32`, 32 of `bf16`), or one step's weights for 16 output channels.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct CacheLine([u8; 64]);

impl CacheLine {
    pub(crate) const BYTES: usize = size_of::<Self>();

    /// `count` cells of zeros. Memory straight from the system costs nothing until it is touched.
    pub(crate) fn zeros(count: usize) -> Vec<Self> {
        bytemuck::zeroed_vec(count)
    }
}

/// Cells that threads share; who writes which is said where they do.
#[derive(Debug)]
pub(crate) struct Arena {
    lines: *mut [CacheLine],
}

// SAFETY: it owns plain memory; `pointer` leaves it to its users not to write what others read.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// `count` cells of zeros.
    pub(crate) fn new(count: usize) -> Self {
        Self { lines: Box::into_raw(CacheLine::zeros(count).into_boxed_slice()) }
    }

    /// Makes it `count` cells of zeros if it is smaller.
    pub(crate) fn grow(&mut self, count: usize) {
        if self.lines.len() < count {
            *self = Self::new(count);
        }
    }

    /// The first cell.
    pub(crate) fn pointer(&self) -> *mut CacheLine {
        self.lines.cast()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: it was a box, and is given up.
        drop(unsafe { Box::from_raw(self.lines) });
    }
}
