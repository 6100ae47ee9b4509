//! GEMM of im2col rows with packed weights. The rows are packed a few tiles at a time.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::im2col::{MAX_STEPS, PositionGrid, ROW_BYTES, pack_rows};
use super::pack::piece_len;
use super::{TrainEpilogue, split_evenly};
use crate::cache_line::{CacheLine, SharedPtr};
use crate::dispatch::AnyKernel;
use crate::gemm::split_into_tiles;
use crate::kernels::{Job, Kernel, Simd, Vector};
use crate::tile::{Stride, TileOperands, TileSink, multiply_tile};
use crate::winograd::PixelSink;

/// Tiles of rows packed at once: with [`MAX_STEPS`] they fill a part of the L2 cache, and each panel of
/// weights is read once for all of them.
const TILES_PER_BLOCK: usize = 8;

/// The product of the im2col matrix `[positions, depth]` of `input` with weights `[depth, columns]`.
pub(super) struct Im2colGemm<'a> {
    pub(super) kernel: AnyKernel,
    pub(super) grid: PositionGrid,
    /// Channels of the result.
    pub(super) columns: usize,
    pub(super) input: &'a [f32],
    pub(super) weights: &'a [CacheLine],
    pub(super) output_map: OutputMap<'a>,
}

/// Maps the positions of a grid to pixels of the result `[N, H, W, C]`, with the epilogue to apply there.
#[derive(Clone, Copy)]
pub(super) struct OutputMap<'a> {
    /// Row and column of the first position.
    pub(super) first: [usize; 2],
    /// Rows and columns between two positions.
    pub(super) stride: usize,
    /// `[H, W]`
    pub(super) size: [usize; 2],
    pub(super) epilogue: TrainEpilogue<'a>,
}

/// Calls `work` with a buffer of `count` cache lines that belongs to the current thread.
pub(super) fn with_thread_buffer<R>(
    thread_buffers: &[Mutex<Vec<CacheLine>>],
    count: usize,
    work: impl FnOnce(&mut [CacheLine]) -> R,
) -> R {
    let thread = rayon::current_thread_index().unwrap_or(0) % thread_buffers.len();
    let mut lines = thread_buffers[thread].lock().unwrap_or_else(PoisonError::into_inner);
    if lines.len() < count {
        *lines = CacheLine::zeros(count);
    }
    work(&mut lines[..count])
}

impl Im2colGemm<'_> {
    /// Computes the product on the threads of the current rayon pool.
    pub(super) fn run(&self, thread_buffers: &[Mutex<Vec<CacheLine>>], output: &mut [f32]) {
        let layout = self.kernel.layout();
        let (positions, n_threads) = (self.grid.positions(), rayon::current_num_threads());
        let panels = self.columns.div_ceil(16 * layout.vectors);
        let tiles = positions.div_ceil(layout.rows);
        // A multiple of the threads; with few positions, each block is split along the panels too.
        let blocks = tiles.div_ceil(TILES_PER_BLOCK).next_multiple_of(n_threads).min(tiles);
        let parts = (2 * n_threads).div_ceil(blocks).min(panels);
        let lines = TILES_PER_BLOCK.max(tiles.div_ceil(blocks)) * layout.rows * ROW_BYTES / CacheLine::BYTES;
        let out = SharedPtr::new(output);
        let (blocks, parts) = (split_evenly(tiles, blocks), split_evenly(panels, parts));
        (0..blocks.len() * parts.len()).into_par_iter().with_max_len(1).for_each(|unit| {
            let (rows, panels) = (&blocks[unit / parts.len()], parts[unit % parts.len()].clone());
            let positions = rows.start * layout.rows..(rows.end * layout.rows).min(positions);
            with_thread_buffer(thread_buffers, lines, |buffer| {
                self.kernel.run_f32(GemmBlock { gemm: self, positions, panels, out, buffer });
            });
        });
    }

    /// Offsets of positions in the result.
    fn offsets(&self, positions: Range<usize>) -> Vec<usize> {
        let OutputMap { first, stride, size, .. } = self.output_map;
        positions
            .map(|position| {
                let (image, y, x) = self.grid.locate(position);
                ((image * size[0] + y * stride + first[0]) * size[1] + x * stride + first[1]) * self.columns
            })
            .collect()
    }
}

/// The result of some positions and panels.
struct GemmBlock<'a> {
    gemm: &'a Im2colGemm<'a>,
    positions: Range<usize>,
    panels: Range<usize>,
    out: SharedPtr<f32>,
    buffer: &'a mut [CacheLine],
}

/// Rows written by [`pack_rows`].
struct Im2colRows;

impl Stride for Im2colRows {
    const BYTES: usize = ROW_BYTES;
}

impl Job for GemmBlock<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let Im2colGemm { grid, columns, input, weights, output_map, .. } = self.gemm;
        let panels = columns.div_ceil(16 * K::VECTORS);
        let depth = grid.im2col.depth().max(1);
        let steps = piece_len(depth, MAX_STEPS);
        let (first, rows) = (self.positions.start, self.positions.len());
        let buffer = self.buffer.as_mut_ptr();
        let offsets = self.gemm.offsets(self.positions.clone());
        let mut start = 0;
        while start < depth {
            let end = depth.min(start + steps);
            let length = end - start;
            // SAFETY: the buffer has space for all rows; a sum without steps reads one step of zeros.
            unsafe {
                if grid.im2col.is_empty() {
                    (0..rows).for_each(|row| buffer.cast::<u8>().add(row * ROW_BYTES).write_bytes(0, 4));
                } else {
                    pack_rows(grid, input, first, rows, start..end, buffer);
                }
            }
            for panel in self.panels.clone() {
                let line = (start * panels + panel * length) * K::VECTORS;
                for (first, rows) in split_into_tiles(rows, K::ROWS) {
                    let target = TileTarget {
                        out: self.out.offset(0),
                        offsets: &offsets[first..first + rows],
                        column: panel * 16 * K::VECTORS,
                        columns: *columns,
                        accumulate: start > 0 || output_map.epilogue.accumulate,
                    };
                    let is_last = end == depth;
                    target.prefetch(kernel, is_last.then_some(&output_map.epilogue));
                    // SAFETY: rows and weights are inside, and no other thread writes these positions'
                    // channels.
                    unsafe {
                        let operands = TileOperands {
                            activations: buffer.cast::<u8>().add(first * ROW_BYTES),
                            offsets: &[0],
                            steps: length,
                            weights: weights.as_ptr().add(line),
                        };
                        let is_whole = target.column + 16 * K::VECTORS <= *columns;
                        if is_whole && !is_last {
                            multiply_tile::<K, Im2colRows>(kernel, rows, &operands, &PartialSink(target));
                        } else {
                            let epilogue =
                                if is_last { output_map.epilogue } else { TrainEpilogue::default() };
                            let sink = EpilogueSink { target, epilogue };
                            multiply_tile::<K, Im2colRows>(kernel, rows, &operands, &sink);
                        }
                    }
                }
            }
            start = end;
        }
    }
}

/// Destination of the sums of a tile.
#[derive(Clone, Copy)]
pub(super) struct TileTarget<'a> {
    pub(super) out: *mut f32,
    /// Offset of each row in the result.
    pub(super) offsets: &'a [usize],
    /// First channel of the panel.
    pub(super) column: usize,
    pub(super) columns: usize,
    /// Whether sums are added to the values in `out`.
    pub(super) accumulate: bool,
}

impl TileTarget<'_> {
    /// Prefetches what the epilogue reads, and the values that sums are added to.
    #[inline(always)]
    fn prefetch<K: Kernel>(&self, kernel: K, epilogue: Option<&TrainEpilogue<'_>>) {
        let inputs =
            epilogue.map(|epilogue| [epilogue.addend, epilogue.mask]).into_iter().flatten().flatten();
        let accumulated = self.accumulate.then_some(self.out.cast_const());
        for values in inputs.map(<[f32]>::as_ptr).chain(accumulated) {
            for offset in self.offsets {
                for vector in 0..K::VECTORS {
                    let index = offset + self.column + 16 * vector;
                    kernel.simd().prefetch(values.wrapping_add(index).cast());
                }
            }
        }
    }
}

/// Stores incomplete sums of a whole panel.
struct PartialSink<'a>(TileTarget<'a>);

impl TileSink for PartialSink<'_> {
    #[inline(always)]
    unsafe fn write_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        let (TileTarget { out, offsets, column, accumulate, .. }, simd) = (self.0, kernel.simd());
        for (index, &vector) in sums.as_ref().iter().enumerate() {
            // SAFETY: the result has the panel's channels of each row.
            unsafe {
                let dst = out.add(*offsets.get_unchecked(row) + column + 16 * index);
                simd.store(dst, if accumulate { simd.add(vector, simd.load(dst)) } else { vector });
            }
        }
    }
}

/// Applies the epilogue to sums and stores them.
pub(super) struct EpilogueSink<'a> {
    pub(super) target: TileTarget<'a>,
    pub(super) epilogue: TrainEpilogue<'a>,
}

impl EpilogueSink<'_> {
    /// Stores 16 channels from `channel` on, at `index` in the result.
    ///
    /// # Safety
    /// The channels must be inside everything that is read and written.
    #[inline(always)]
    unsafe fn store_full<K: Kernel>(&self, kernel: K, index: usize, channel: usize, mut sums: Vector<K>) {
        let simd = kernel.simd();
        // SAFETY: guaranteed by the caller.
        unsafe {
            let TrainEpilogue { bias, addend, relu, mask, .. } = self.epilogue;
            let dst = self.target.out.add(index);
            if self.target.accumulate {
                sums = simd.add(sums, simd.load(dst));
            }
            if let Some(bias) = bias {
                sums = simd.add(sums, simd.load(bias.as_ptr().add(channel)));
            }
            if let Some(addend) = addend {
                sums = simd.add(sums, simd.load(addend.as_ptr().add(index)));
            }
            if relu {
                sums = simd.max(simd.splat(0.0), sums);
            }
            if let Some(mask) = mask {
                sums = simd.select_positive(sums, simd.load(mask.as_ptr().add(index)));
            }
            simd.store(dst, sums);
        }
    }

    /// As [`store_full`](Self::store_full), for the last channels, fewer than 16.
    ///
    /// # Safety
    /// The channels up to the last must be inside everything that is read and written.
    #[inline(always)]
    unsafe fn store_partial<K: Kernel>(&self, kernel: K, index: usize, channel: usize, sums: Vector<K>) {
        let lanes = self.target.columns - channel;
        let load_lanes = |src: *const f32| {
            let mut values = [0.0; 16];
            // SAFETY: guaranteed by the caller.
            unsafe { src.copy_to_nonoverlapping(values.as_mut_ptr(), lanes) };
            values
        };
        let mut out = load_lanes(self.target.out.wrapping_add(index));
        let bias = self.epilogue.bias.map(|bias| load_lanes(bias[channel..].as_ptr()));
        let [addend, mask] = [self.epilogue.addend, self.epilogue.mask]
            .map(|values| values.map(|values| load_lanes(values[index..].as_ptr())));
        let epilogue = TrainEpilogue {
            bias: bias.as_ref().map(<[f32; 16]>::as_slice),
            addend: addend.as_ref().map(<[f32; 16]>::as_slice),
            mask: mask.as_ref().map(<[f32; 16]>::as_slice),
            ..self.epilogue
        };
        let copy = EpilogueSink { target: TileTarget { out: out.as_mut_ptr(), ..self.target }, epilogue };
        // SAFETY: the copies have 16 values; only the lanes of the result are copied back.
        unsafe {
            copy.store_full(kernel, 0, 0, sums);
            out.as_ptr().copy_to_nonoverlapping(self.target.out.add(index), lanes);
        }
    }
}

impl TileSink for EpilogueSink<'_> {
    #[inline(always)]
    unsafe fn write_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        for (index, &vector) in sums.as_ref().iter().enumerate() {
            let channel = self.target.column + 16 * index;
            let index = self.target.offsets[row] + channel;
            if channel + 16 <= self.target.columns {
                // SAFETY: the result has all of these channels.
                unsafe { self.store_full(kernel, index, channel, vector) };
            } else if channel < self.target.columns {
                // SAFETY: the result has the channels that are written.
                unsafe { self.store_partial(kernel, index, channel, vector) };
            }
        }
    }
}

/// Only for channels in whole vectors.
impl PixelSink for EpilogueSink<'_> {
    #[inline(always)]
    unsafe fn store_vector<K: Kernel>(&self, kernel: K, pixel: usize, vector: usize, sums: Vector<K>) {
        let channel = self.target.column + 16 * vector;
        // SAFETY: the caller upholds the same contract.
        unsafe { self.store_full(kernel, pixel * self.target.columns + channel, channel, sums) }
    }
}
