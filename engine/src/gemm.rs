//! A matrix product in tiles: pixels by output channels, one thread's share.

use std::marker::PhantomData;

use crate::cache_line::CacheLine;
use crate::kernels::{Job, Kernel};
use crate::tile::{Stride, Tile, TileOutput};

/// Bytes of weights that stay in the L2 cache while tiles of pixels pass by. Half of what the smallest server core has:
/// the other half is for activations.
const WEIGHTS_IN_CACHE: usize = 256 << 10;

/// Runs of pixels one after the other, `count` times `length`.
#[derive(Clone, Copy)]
pub(crate) struct RowSpans {
    pub(crate) count: usize,
    pub(crate) length: usize,
    /// Bytes from a run's activations to the next one's.
    pub(crate) src_stride: usize,
    /// Pixels from a run's output to the next one's.
    pub(crate) dst_stride: usize,
}

/// All tiles of some runs by some panels.
pub(crate) struct Gemm<'a, S> {
    pub(crate) activations: *const u8,
    pub(crate) offsets: &'a [usize],
    pub(crate) steps: usize,
    pub(crate) weights: *const CacheLine,
    pub(crate) panels: usize,
    pub(crate) spans: RowSpans,
    pub(crate) output: TileOutput,
    /// The first pixel of the output.
    pub(crate) pixel: usize,
    /// The first vector of 16 channels of the output.
    pub(crate) vector: usize,
    pub(crate) stride: PhantomData<S>,
}

impl<S: Stride> Job for Gemm<'_, S> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let panel = self.offsets.len() * self.steps * K::VECTORS;
        let panels_at_once = (WEIGHTS_IN_CACHE / (panel * CacheLine::BYTES)).clamp(1, self.panels);
        let mut first = 0;
        while first < self.panels {
            let last = (first + panels_at_once).min(self.panels);
            for span in 0..self.spans.count {
                for (start, rows) in split_into_tiles(self.spans.length, K::ROWS) {
                    for index in first..last {
                        // SAFETY: the maker of the job vouches for all pixels of all runs and for all panels.
                        unsafe {
                            let activations =
                                self.activations.add(span * self.spans.src_stride + start * S::BYTES);
                            kernel.compute_tile::<S>(
                                rows,
                                &Tile {
                                    activations,
                                    offsets: self.offsets,
                                    steps: self.steps,
                                    weights: self.weights.add(index * panel),
                                    output: self.output,
                                    pixel: self.pixel + span * self.spans.dst_stride + start,
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
pub(crate) fn split_into_tiles(length: usize, rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = length.div_ceil(rows);
    (0..count).map(move |index| {
        let (start, end) = (index * length / count, (index + 1) * length / count);
        (start, end - start)
    })
}
