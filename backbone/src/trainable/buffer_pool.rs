//! Memory that steps take from and give back: fresh pages cost as much as the arithmetic on them.

use std::ops::{Deref, DerefMut};

/// Values that nobody uses at the moment.
#[derive(Debug, Default)]
pub(super) struct BufferPool(Vec<Vec<f32>>);

/// Values of a step; whoever takes them overwrites them.
#[derive(Debug)]
pub(super) struct Buffer {
    values: Vec<f32>,
    length: usize,
}

impl BufferPool {
    /// `length` values, left from whatever was there before.
    pub(super) fn acquire(&mut self, length: usize) -> Buffer {
        let fits = |values: &Vec<f32>| (length..=2 * length).contains(&values.len());
        let best = (0..self.0.len()).filter(|&at| fits(&self.0[at])).min_by_key(|&at| self.0[at].len());
        let values = best.map_or_else(|| vec![0.0; length], |at| self.0.swap_remove(at));
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
