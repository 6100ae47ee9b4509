//! The unit of memory: a cache line of 64 bytes.

use bytemuck::{Pod, Zeroable};

/// The values that are loaded together: one pixel of a channel block (16 channels in `f32`, 32 in `bf16`), or
/// one step's weights of 16 output channels.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct CacheLine([u8; 64]);

impl CacheLine {
    /// Size in bytes.
    pub(crate) const BYTES: usize = size_of::<Self>();

    /// `count` cache lines of zeros. The allocator gets pages of zeros from the OS, so nothing is written
    /// here.
    pub(crate) fn zeros(count: usize) -> Vec<Self> {
        bytemuck::zeroed_vec(count)
    }
}

/// A buffer of cache lines that threads share; each user states which thread writes which lines.
#[derive(Debug)]
pub(crate) struct Arena {
    lines: *mut [CacheLine],
}

// SAFETY: the arena owns plain memory; users of `pointer` must not write what other threads read.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// A buffer of `count` cache lines of zeros.
    pub(crate) fn new(count: usize) -> Self {
        Self { lines: Box::into_raw(CacheLine::zeros(count).into_boxed_slice()) }
    }

    /// Makes the buffer at least `count` lines long: a shorter one is replaced with one of zeros, so its
    /// contents are lost. Training reuses one arena for layers of different sizes.
    pub(crate) fn grow(&mut self, count: usize) {
        if self.lines.len() < count {
            *self = Self::new(count);
        }
    }

    /// Pointer to the first cache line.
    pub(crate) fn pointer(&self) -> *mut CacheLine {
        self.lines.cast()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::into_raw` and is not used again.
        drop(unsafe { Box::from_raw(self.lines) });
    }
}

/// A pointer that threads share; each user states why no two threads write the same values.
#[derive(Clone, Copy)]
pub(crate) struct SharedPtr<T>(*mut T);

// SAFETY: users must not write what other threads read or write.
unsafe impl<T> Send for SharedPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SharedPtr<T> {}

impl<T> SharedPtr<T> {
    /// A pointer to the first of `values`, which must outlive it.
    pub(crate) fn new(values: &mut [T]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// The pointer to value `index`, which must be inside the allocation when it is used.
    #[inline(always)]
    pub(crate) fn offset(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}
