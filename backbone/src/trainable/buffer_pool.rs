//! Buffers that training steps reuse, because touching fresh pages costs as much as the arithmetic on them.

use std::ops::{Deref, DerefMut};

/// Free buffers.
#[derive(Debug, Default)]
pub(super) struct BufferPool(Vec<Vec<f32>>);

/// A buffer in use; its initial contents are arbitrary.
#[derive(Debug)]
pub(super) struct Buffer {
    values: Vec<f32>,
    length: usize,
}

impl BufferPool {
    /// A buffer of `length` values: the smallest free one of at most twice the length, or a new one.
    pub(super) fn acquire(&mut self, length: usize) -> Buffer {
        let fits = |values: &Vec<f32>| (length..=2 * length).contains(&values.len());
        let best = (0..self.0.len()).filter(|&i| fits(&self.0[i])).min_by_key(|&i| self.0[i].len());
        let values = best.map_or_else(|| vec![0.0; length], |i| self.0.swap_remove(i));
        Buffer { values, length }
    }

    pub(super) fn acquire_copy(&mut self, source: &[f32]) -> Buffer {
        let mut buffer = self.acquire(source.len());
        buffer.copy_from_slice(source);
        buffer
    }

    pub(super) fn release(&mut self, buffer: Buffer) {
        self.0.push(buffer.values);
    }

    pub(super) fn release_all(&mut self, buffers: impl IntoIterator<Item = Buffer>) {
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
