//! Buffers that training steps reuse, because touching fresh pages costs as much as the arithmetic on them.

use std::ops::{Deref, DerefMut};

/// Memory of released buffers, from which later buffers are taken.
#[derive(Debug, Default)]
pub(super) struct BufferPool(Vec<Vec<f32>>);

/// A buffer in use, which dereferences to a slice; its initial contents are arbitrary.
#[derive(Debug)]
pub(super) struct Buffer {
    /// At least `length` values.
    values: Vec<f32>,
    /// The number of values in use.
    length: usize,
}

impl BufferPool {
    /// A buffer of `length` values with arbitrary contents. It reuses the smallest released buffer that is
    /// long enough, but at most twice as long, or else allocates memory.
    pub(super) fn acquire(&mut self, length: usize) -> Buffer {
        let fits = |values: &Vec<f32>| (length..=2 * length).contains(&values.len());
        let best = (0..self.0.len()).filter(|&i| fits(&self.0[i])).min_by_key(|&i| self.0[i].len());
        let values = best.map_or_else(|| vec![0.0; length], |i| self.0.swap_remove(i));
        Buffer { values, length }
    }

    /// A buffer from the pool with a copy of `source`.
    pub(super) fn acquire_copy(&mut self, source: &[f32]) -> Buffer {
        let mut buffer = self.acquire(source.len());
        buffer.copy_from_slice(source);
        buffer
    }

    /// Makes buffers available to [`acquire`](Self::acquire); an `Option<Buffer>` is accepted, too.
    pub(super) fn release(&mut self, buffers: impl IntoIterator<Item = Buffer>) {
        self.0.extend(buffers.into_iter().map(|buffer| buffer.values));
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.length]
    }
}
