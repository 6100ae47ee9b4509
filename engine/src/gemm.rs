//! GEMM in tiles of pixels by output channels; one thread's share.

use std::marker::PhantomData;

use crate::cache_line::CacheLine;
use crate::kernels::{Job, Kernel};
use crate::tile::{Stride, Tile, TileOutput};

/// Bytes of weights that stay in the L2 cache while tiles of pixels are processed: half of the L2 cache of
/// the smallest server core; the other half is for activations.
const WEIGHTS_IN_CACHE: usize = 256 << 10;

/// `count` spans of `length` consecutive pixels each.
#[derive(Clone, Copy)]
pub(crate) struct RowSpans {
    /// Activations of the first pixel.
    pub(crate) src: *const u8,
    /// Index of the first pixel in the output.
    pub(crate) pixel: usize,
    pub(crate) count: usize,
    pub(crate) length: usize,
    /// Bytes between the activations of two spans.
    pub(crate) src_stride: usize,
    /// Output pixels between two spans.
    pub(crate) dst_stride: usize,
}

impl RowSpans {
    /// One span.
    pub(crate) fn single(src: *const u8, pixel: usize, length: usize) -> Self {
        Self { src, pixel, count: 1, length, src_stride: 0, dst_stride: 0 }
    }
}

/// Multiplies the pixels of `spans` with panels of weights. `offsets`, `steps` and `weights` are as in
/// [`Tile`].
pub(crate) struct Gemm<'a, S> {
    pub(crate) offsets: &'a [usize],
    pub(crate) steps: usize,
    pub(crate) weights: *const CacheLine,
    pub(crate) panels: usize,
    pub(crate) spans: RowSpans,
    pub(crate) output: TileOutput,
    /// The first vector of 16 output channels.
    pub(crate) vector: usize,
    pub(crate) stride: PhantomData<S>,
}

impl<S: Stride> Job for Gemm<'_, S> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let panel_lines = self.offsets.len() * self.steps * K::VECTORS;
        let panels_at_once = (WEIGHTS_IN_CACHE / (panel_lines * CacheLine::BYTES)).clamp(1, self.panels);
        let RowSpans { src, pixel, count, length, src_stride, dst_stride } = self.spans;
        let mut first = 0;
        while first < self.panels {
            let last = (first + panels_at_once).min(self.panels);
            for span in 0..count {
                for (start, rows) in split_into_tiles(length, K::ROWS) {
                    for panel in first..last {
                        // SAFETY: the job's creator guarantees all pixels of all spans and all panels.
                        unsafe {
                            let tile = Tile {
                                activations: src.add(span * src_stride + start * S::BYTES),
                                offsets: self.offsets,
                                steps: self.steps,
                                weights: self.weights.add(panel * panel_lines),
                                output: self.output,
                                pixel: pixel + span * dst_stride + start,
                                vector: self.vector + panel * K::VECTORS,
                            };
                            kernel.compute_tile::<S>(rows, &tile);
                        }
                    }
                }
            }
            first = last;
        }
    }
}

/// Splits `length` pixels into the fewest tiles of at most `rows` rows, whose heights differ by at most one.
/// Yields the start and height of each.
#[inline(always)]
pub(crate) fn split_into_tiles(length: usize, rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = length.div_ceil(rows);
    (0..count).map(move |index| {
        let (start, end) = (index * length / count, (index + 1) * length / count);
        (start, end - start)
    })
}
