//! One thread's share of a GEMM, in tiles of pixels by output channels.

use std::marker::PhantomData;

use crate::cache_line::CacheLine;
use crate::kernels::{Job, Kernel, Stride, Tile, TileOperands, TileOutput};

/// Bytes of weights that stay in the L2 cache while tiles of pixels are processed: half of the L2 cache of
/// the smallest server core; the other half is for activations.
const WEIGHTS_IN_CACHE: usize = 256 << 10;

/// The pixels that a GEMM reads and writes: `count` spans of `length` consecutive pixels each, such as rows
/// of a padded copy of the input.
#[derive(Clone, Copy)]
pub(crate) struct RowSpans {
    /// Activations of the first pixel.
    pub(crate) src: *const u8,
    /// Index of the first pixel in the output.
    pub(crate) pixel: usize,
    /// Number of spans.
    pub(crate) count: usize,
    /// Pixels of a span.
    pub(crate) length: usize,
    /// Bytes between the activations of two spans.
    pub(crate) src_stride: usize,
    /// Output pixels between two spans.
    pub(crate) dst_stride: usize,
}

impl RowSpans {
    /// One span of `length` pixels, whose activations start at `src` and whose output starts at `pixel`.
    pub(crate) fn single(src: *const u8, pixel: usize, length: usize) -> Self {
        Self { src, pixel, count: 1, length, src_stride: 0, dst_stride: 0 }
    }
}

/// Multiplies the pixels of `spans` with panels of weights. `offsets`, `steps` and `weights` are those of
/// [`TileOperands`]; the panels follow each other in `weights`. The job's creator guarantees that the
/// pointers are valid for all spans and panels.
pub(crate) struct Gemm<'a, S> {
    pub(crate) offsets: &'a [usize],
    pub(crate) steps: usize,
    pub(crate) weights: *const CacheLine,
    /// Number of panels.
    pub(crate) panels: usize,
    pub(crate) spans: RowSpans,
    pub(crate) output: TileOutput,
    /// The first vector of 16 output channels.
    pub(crate) vector: usize,
    /// Distance between pixels in memory.
    pub(crate) stride: PhantomData<S>,
}

impl<S: Stride> Job for Gemm<'_, S> {
    /// Multiplies the pixels of all spans with all panels of weights, tile by tile: a tile is some pixels by
    /// the output channels of one panel. The outer loop goes over groups of panels whose weights fit the L2
    /// cache, then come all tiles of pixels, and last the panels of the group: so weights are read from the
    /// L2 cache, and the activations of a tile from the L1 cache.
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let panel_lines = self.offsets.len() * self.steps * K::VECTORS_PER_PANEL;
        let panels_at_once = (WEIGHTS_IN_CACHE / (panel_lines * CacheLine::BYTES)).clamp(1, self.panels);
        let RowSpans { src, pixel, count, length, src_stride, dst_stride } = self.spans;
        let mut group_start = 0;
        while group_start < self.panels {
            let group_end = (group_start + panels_at_once).min(self.panels);
            for span in 0..count {
                for (start, rows) in split_into_tiles(length, K::MAX_ROWS) {
                    for panel in group_start..group_end {
                        // SAFETY: the job's creator guarantees all pixels of all spans and all panels.
                        unsafe {
                            let operands = TileOperands {
                                activations: src.add(span * src_stride + start * S::BYTES),
                                offsets: self.offsets,
                                steps: self.steps,
                                weights: self.weights.add(panel * panel_lines),
                            };
                            let tile = Tile {
                                operands,
                                output: self.output,
                                pixel: pixel + span * dst_stride + start,
                                vector: self.vector + panel * K::VECTORS_PER_PANEL,
                            };
                            kernel.compute_tile::<S>(rows, &tile);
                        }
                    }
                }
            }
            group_start = group_end;
        }
    }
}

/// Splits `length` rows of a GEMM, e.g. a row per pixel, into the fewest tiles of at most `max_rows` rows.
/// Yields the first row and the number of rows of each tile. The numbers differ by at most one, since a tile
/// with few rows multiplies slowly.
#[inline(always)]
pub(crate) fn split_into_tiles(length: usize, max_rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = length.div_ceil(max_rows);
    (0..count).map(move |index| {
        let (start, end) = (index * length / count, (index + 1) * length / count);
        (start, end - start)
    })
}
