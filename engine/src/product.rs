//! A matrix product in tiles: pixels by output channels, one thread's share.

use std::marker::PhantomData;

use crate::cell::Cell;
use crate::kernels::{Job, Kernel};
use crate::tile::{Output, Stride, Tile};

/// Bytes of weights that stay in the L2 cache while tiles of pixels pass by. Half of what the smallest server core has:
/// the other half is for activations.
const WEIGHTS_IN_CACHE: usize = 256 << 10;

/// Runs of pixels one after the other, `count` times `length`.
#[derive(Clone, Copy)]
pub(crate) struct Runs {
    pub(crate) count: usize,
    pub(crate) length: usize,
    /// Bytes from a run's activations to the next one's.
    pub(crate) from: usize,
    /// Pixels from a run's output to the next one's.
    pub(crate) to: usize,
}

/// All tiles of some runs by some panels.
pub(crate) struct Product<'a, S> {
    pub(crate) activations: *const u8,
    pub(crate) offsets: &'a [usize],
    pub(crate) steps: usize,
    pub(crate) weights: *const Cell,
    pub(crate) panels: usize,
    pub(crate) runs: Runs,
    pub(crate) output: Output,
    /// The first pixel of the output.
    pub(crate) pixel: usize,
    /// The first vector of 16 channels of the output.
    pub(crate) vector: usize,
    pub(crate) stride: PhantomData<S>,
}

impl<S: Stride> Job for Product<'_, S> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let panel = self.offsets.len() * self.steps * K::VECTORS;
        let together = (WEIGHTS_IN_CACHE / (panel * Cell::BYTES)).clamp(1, self.panels);
        let mut first = 0;
        while first < self.panels {
            let last = (first + together).min(self.panels);
            for run in 0..self.runs.count {
                for (start, rows) in tiles(self.runs.length, K::ROWS) {
                    for index in first..last {
                        // SAFETY: the maker of the job vouches for all pixels of all runs and for all panels.
                        unsafe {
                            let activations = self.activations.add(run * self.runs.from + start * S::BYTES);
                            kernel.tile::<S>(
                                rows,
                                &Tile {
                                    activations,
                                    offsets: self.offsets,
                                    steps: self.steps,
                                    weights: self.weights.add(index * panel),
                                    output: self.output,
                                    pixel: self.pixel + run * self.runs.to + start,
                                    vector: self.vector + index * K::VECTORS,
                                },
                            );
                        }
                    }
                }
            }
            first = last;
        }
    }
}

/// `length` pixels in as few tiles as there can be, none much shorter than the others: start and rows of each.
#[inline(always)]
pub(crate) fn tiles(length: usize, rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = length.div_ceil(rows);
    (0..count).map(move |index| {
        let (start, end) = (index * length / count, (index + 1) * length / count);
        (start, end - start)
    })
}
