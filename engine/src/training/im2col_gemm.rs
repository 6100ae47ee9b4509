//! GEMM of im2col rows with packed weights. The rows are packed a few tiles at a time.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::im2col::{MAX_STEPS, PositionGrid, ROW_BYTES, pack_rows};
use super::operands::TrainEpilogue;
use super::pack::piece_len;
use crate::cache_line::{CacheLine, SharedPtr};
use crate::dispatch::AnyKernel;
use crate::gemm::split_into_tiles;
use crate::kernels::{Job, Kernel, Simd, Stride, TileOperands, TileSink, Vector, multiply_tile};
use crate::team::split_evenly;
use crate::winograd::PixelSink;

/// Tiles (some rows of the im2col matrix each) packed at once: with [`MAX_STEPS`] they fill a part of the L2
/// cache, and each panel of weights is read once for all of them.
const TILES_PER_BLOCK: usize = 8;

/// A convolution as one GEMM, the forward pass or the gradient with respect to the input: the product of the
/// im2col matrix `[positions, depth]` of `input` with weights `[depth, channels]`.
pub(super) struct Im2colGemm<'a> {
    pub(super) gemm_kernel: AnyKernel,
    pub(super) grid: PositionGrid,
    /// Number of channels of the result.
    pub(super) channels: usize,
    /// The source of the im2col matrix, `[N, H, W, C]`.
    pub(super) input: &'a [f32],
    /// Packed weights, `[block of steps][panel][step][vector][16 channels]`.
    pub(super) weights: &'a [CacheLine],
    pub(super) output_map: OutputMap<'a>,
}

/// Maps the positions of a grid to pixels of the result `[N, H, W, C]`, with the epilogue to apply there. In
/// the gradient with respect to the input of a convolution with a stride, a grid covers only some pixels.
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

/// Calls `work` with a buffer of `count` cache lines, that of the current thread of the rayon pool among
/// `thread_buffers`, and returns the result of `work`. The buffers are reused, so that a unit of work
/// allocates nothing; a buffer still has the contents of its last use.
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
    /// Computes a convolution (forward, or the gradient with respect to the input) as a GEMM: multiplies the
    /// im2col matrix, whose rows have the inputs under the kernel at a position, with the packed weights.
    /// Writes the result to `output`, `[N, H, W, C]`, where and how `output_map` says. The threads of the
    /// current rayon pool share the work: a unit is a range of positions by a range of panels of weights.
    /// `thread_buffers` has a buffer per thread for the im2col rows.
    pub(super) fn run(&self, thread_buffers: &[Mutex<Vec<CacheLine>>], output: &mut [f32]) {
        let layout = self.gemm_kernel.layout();
        let (n_positions, n_threads) = (self.grid.positions(), rayon::current_num_threads());
        let n_panels = self.channels.div_ceil(16 * layout.vectors_per_panel);
        let n_tiles = n_positions.div_ceil(layout.max_rows);
        // Blocks are ranges of tiles, a multiple of the number of threads; with few positions, each block is
        // split along the panels too.
        let n_blocks = n_tiles.div_ceil(TILES_PER_BLOCK).next_multiple_of(n_threads).min(n_tiles);
        let n_parts = (2 * n_threads).div_ceil(n_blocks).min(n_panels);
        let max_tiles = TILES_PER_BLOCK.max(n_tiles.div_ceil(n_blocks));
        let buffer_lines = max_tiles * layout.max_rows * ROW_BYTES / CacheLine::BYTES;
        let out = SharedPtr::new(output);
        let (blocks, parts) = (split_evenly(n_tiles, n_blocks), split_evenly(n_panels, n_parts));
        (0..n_blocks * n_parts).into_par_iter().with_max_len(1).for_each(|unit| {
            let (tiles, panels) = (&blocks[unit / n_parts], parts[unit % n_parts].clone());
            let positions = tiles.start * layout.max_rows..(tiles.end * layout.max_rows).min(n_positions);
            with_thread_buffer(thread_buffers, buffer_lines, |buffer| {
                self.gemm_kernel.run_f32(GemmBlock { gemm: self, positions, panels, out, buffer });
            });
        });
    }

    /// For each position of the im2col matrix, the offset of its pixel's first channel in the result
    /// `[N, H, W, C]` of the GEMM. In the gradient with respect to the input of a convolution with a stride,
    /// the positions are only some of the result's pixels.
    fn output_offsets(&self, positions: Range<usize>) -> Vec<usize> {
        let OutputMap { first, stride, size, .. } = self.output_map;
        // Index of the pixel `[image, y * stride + first[0], x * stride + first[1]]` in `[N, H, W, C]`.
        positions
            .map(|position| {
                let (image, y, x) = self.grid.locate(position);
                ((image * size[0] + y * stride + first[0]) * size[1] + x * stride + first[1]) * self.channels
            })
            .collect()
    }
}

/// Computes a block of the result of [`Im2colGemm`]: the channels of some panels of weights at some
/// positions.
struct GemmBlock<'a> {
    gemm: &'a Im2colGemm<'a>,
    positions: Range<usize>,
    panels: Range<usize>,
    /// The whole result.
    out: SharedPtr<f32>,
    /// Space for the im2col rows of the positions.
    buffer: &'a mut [CacheLine],
}

/// Rows written by [`pack_rows`].
struct Im2colRows;

impl Stride for Im2colRows {
    const BYTES: usize = ROW_BYTES;
}

impl Job for GemmBlock<'_> {
    /// Computes the convolution's result at the job's positions for the output channels of its panels of
    /// weights (a panel is the weights of `16 * VECTORS_PER_PANEL` output channels). Each value is a sum of
    /// `depth` products, called steps. To keep the im2col rows in the cache, at most [`MAX_STEPS`] steps are
    /// done at a time: packs the inputs of these steps for all positions, multiplies them with each panel,
    /// and adds the sums to the result so far. Applies the epilogue with the last steps.
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let Im2colGemm { grid, channels, input, weights, output_map, .. } = self.gemm;
        let n_panels = channels.div_ceil(16 * K::VECTORS_PER_PANEL);
        let depth = grid.im2col.depth().max(1);
        let steps = piece_len(depth, MAX_STEPS);
        let (first, rows) = (self.positions.start, self.positions.len());
        let buffer = self.buffer.as_mut_ptr();
        let offsets = self.gemm.output_offsets(self.positions.clone());
        let mut start = 0;
        while start < depth {
            let end = depth.min(start + steps);
            let n_steps = end - start;
            // If all inputs are padding, there are no steps, and the GEMM reads one zero per row.
            // SAFETY: the buffer has space for all rows.
            unsafe {
                if grid.im2col.is_empty() {
                    (0..rows).for_each(|row| buffer.cast::<u8>().add(row * ROW_BYTES).write_bytes(0, 4));
                } else {
                    pack_rows(grid, input, first, rows, start..end, buffer);
                }
            }
            for panel in self.panels.clone() {
                // The weights are packed as [blocks of steps, panels, steps of the block, vectors].
                let line = (start * n_panels + panel * n_steps) * K::VECTORS_PER_PANEL;
                for (tile_start, tile_rows) in split_into_tiles(rows, K::MAX_ROWS) {
                    let target = TileTarget {
                        out: self.out.offset(0),
                        offsets: &offsets[tile_start..tile_start + tile_rows],
                        first_channel: panel * 16 * K::VECTORS_PER_PANEL,
                        channels: *channels,
                        accumulate: start > 0 || output_map.epilogue.accumulate,
                    };
                    let is_last = end == depth;
                    target.prefetch(kernel, is_last.then_some(&output_map.epilogue));
                    // SAFETY: rows and weights are inside, and no other thread writes these positions'
                    // channels.
                    unsafe {
                        let operands = TileOperands {
                            activations: buffer.cast::<u8>().add(tile_start * ROW_BYTES),
                            offsets: &[0], // one k-block
                            steps: n_steps,
                            weights: weights.as_ptr().add(line),
                        };
                        // Whether the result has all channels of the panel.
                        let is_whole = target.first_channel + 16 * K::VECTORS_PER_PANEL <= *channels;
                        if is_whole && !is_last {
                            let sink = PartialSink(target);
                            multiply_tile::<K, Im2colRows>(kernel, tile_rows, &operands, &sink);
                        } else {
                            let epilogue =
                                if is_last { output_map.epilogue } else { TrainEpilogue::default() };
                            let sink = EpilogueSink { target, epilogue };
                            multiply_tile::<K, Im2colRows>(kernel, tile_rows, &operands, &sink);
                        }
                    }
                }
            }
            start = end;
        }
    }
}

/// Where the sums of a tile, some positions by the channels of a panel, go in the result `[N, H, W, C]`.
#[derive(Clone, Copy)]
pub(super) struct TileTarget<'a> {
    /// The whole result.
    pub(super) out: *mut f32,
    /// Offset of each row of the tile in the result.
    pub(super) offsets: &'a [usize],
    /// First channel of the panel.
    pub(super) first_channel: usize,
    /// Number of channels of the result.
    pub(super) channels: usize,
    /// Whether sums are added to the values in `out`.
    pub(super) accumulate: bool,
}

impl TileTarget<'_> {
    /// Prefetches to the cache what the tile will read after its sums are computed: the values to which the
    /// sums are added, and the tensors of `epilogue`, which is `None` if the sums are not complete then.
    #[inline(always)]
    fn prefetch<K: Kernel>(&self, kernel: K, epilogue: Option<&TrainEpilogue<'_>>) {
        let inputs =
            epilogue.map(|epilogue| [epilogue.addend, epilogue.mask]).into_iter().flatten().flatten();
        let accumulated = self.accumulate.then_some(self.out.cast_const());
        for values in inputs.map(<[f32]>::as_ptr).chain(accumulated) {
            for offset in self.offsets {
                for vector in 0..K::VECTORS_PER_PANEL {
                    let index = offset + self.first_channel + 16 * vector;
                    kernel.simd().prefetch(values.wrapping_add(index).cast());
                }
            }
        }
    }
}

/// Stores sums of a whole panel that are not complete yet, without an epilogue.
struct PartialSink<'a>(TileTarget<'a>);

impl TileSink for PartialSink<'_> {
    /// Stores `sums`, the sums of row `row` of the tile (a position) for all channels of the panel, in the
    /// result, or adds them to the values there. They are incomplete: later steps of the GEMM add more
    /// products, and the last ones apply the epilogue.
    #[inline(always)]
    unsafe fn write_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        let (TileTarget { out, offsets, first_channel, accumulate, .. }, simd) = (self.0, kernel.simd());
        for (index, &vector) in sums.as_ref().iter().enumerate() {
            // SAFETY: the result has the panel's channels of each row.
            unsafe {
                let dst = out.add(*offsets.get_unchecked(row) + first_channel + 16 * index);
                simd.store(dst, if accumulate { simd.add(vector, simd.load(dst)) } else { vector });
            }
        }
    }
}

/// Applies the epilogue to complete sums and stores them in the result.
pub(super) struct EpilogueSink<'a> {
    pub(super) target: TileTarget<'a>,
    pub(super) epilogue: TrainEpilogue<'a>,
}

impl EpilogueSink<'_> {
    /// Applies the epilogue to `sums`, the 16 channels from `channel` on of one pixel of a convolution or
    /// gradient, and stores them at `index` in the result. The epilogue adds the bias and another tensor,
    /// applies the ReLU, and zeroes masked values, each if it is given.
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

    /// Applies the epilogue to `sums`, the last channels of one pixel, fewer than 16, from `channel` on, and
    /// stores them at `index` in the result: copies everything to arrays of 16 values, so that
    /// [`store_full`](Self::store_full) can do the work, and copies the channels back.
    ///
    /// # Safety
    /// The channels up to the last must be inside everything that is read and written.
    #[inline(always)]
    unsafe fn store_partial<K: Kernel>(&self, kernel: K, index: usize, channel: usize, sums: Vector<K>) {
        let lanes = self.target.channels - channel;
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
    /// Applies the epilogue to `sums`, the complete sums of row `row` of the tile (a position) for all
    /// channels of the panel, and stores them in the result. Leaves out channels that the result does not
    /// have: the last panel may be padded.
    #[inline(always)]
    unsafe fn write_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        for (vector_index, &vector) in sums.as_ref().iter().enumerate() {
            let channel = self.target.first_channel + 16 * vector_index;
            let index = self.target.offsets[row] + channel;
            if channel + 16 <= self.target.channels {
                // SAFETY: the result has all of these channels.
                unsafe { self.store_full(kernel, index, channel, vector) };
            } else if channel < self.target.channels {
                // SAFETY: the result has the channels that are written.
                unsafe { self.store_partial(kernel, index, channel, vector) };
            }
        }
    }
}

/// For Winograd's algorithm, which is used only if the channels of the result are whole vectors.
impl PixelSink for EpilogueSink<'_> {
    /// Applies the epilogue to `sums`, 16 channels of pixel `pixel` of a gradient computed by Winograd's
    /// algorithm, and stores them in the result. `vector` counts vectors of 16 channels from the panel's
    /// first channel, `self.target.first_channel`, on.
    #[inline(always)]
    unsafe fn store_vector<K: Kernel>(&self, kernel: K, pixel: usize, vector: usize, sums: Vector<K>) {
        let channel = self.target.first_channel + 16 * vector;
        // SAFETY: the caller upholds the same contract.
        unsafe { self.store_full(kernel, pixel * self.target.channels + channel, channel, sums) }
    }
}
