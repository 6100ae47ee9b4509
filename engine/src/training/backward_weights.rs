//! Gradient with respect to the weights: for each tap, input channel and output channel a sum over all
//! positions of the output. It is the GEMM of the transposed im2col matrix with the output gradient.

use std::ops::Range;
use std::sync::Mutex;

use rayon::prelude::*;

use super::im2col::{Im2col, PositionGrid, TapRange, pack_lines};
use super::im2col_gemm::with_thread_buffer;
use super::operands::{ScaleBiasGrad, ScaledWeights};
use super::pack::{load_partial, piece_len};
use crate::cache_line::{CacheLine, SharedPtr};
use crate::dispatch::AnyKernel;
use crate::gemm::split_into_tiles;
use crate::kernels::{Job, Kernel, Simd, Stride, TileOperands, TileSink, multiply_tile};
use crate::team::split_evenly;

/// Maximum number of positions (output pixels) in a piece, the part of a slice that is summed at once: the
/// inputs of a tile fit the L1 cache, the output gradient the L2 cache.
pub(super) const MAX_PIECE: usize = 128;
/// Maximum number of output channels in a chunk, the columns of the weights that a unit of work computes.
const MAX_COLUMNS: usize = 2048;
/// Minimum number of positions in a slice, a range of output pixels. The sums of slices are computed in
/// parallel and then added.
const MIN_SLICE: usize = 3136;
/// Maximum number of slices.
const MAX_SLICES: usize = 16;

/// Computes the gradient of the loss with respect to the weights of a convolution, and with respect to their
/// scale and a bias; the fields are the arguments of
/// [`ConvOps::backward_weights`](super::ConvOps::backward_weights).
pub(super) struct BackwardWeights<'a> {
    pub(super) gemm_kernel: AnyKernel,
    /// The inputs under the kernel at each position of the output.
    pub(super) im2col: Im2col,
    /// Number of images.
    pub(super) batch: usize,
    /// Number of output channels, `O`.
    pub(super) outputs: usize,
    /// `[N, H, W, C]`
    pub(super) input: &'a [f32],
    /// Gradient with respect to the output, `[N, H', W', O]`.
    pub(super) grad_output: &'a [f32],
    pub(super) weights: ScaledWeights<'a>,
    /// Whether the gradient of the weights is added to the values in the destination.
    pub(super) accumulate: bool,
}

/// How the gradient of the weights is split into units of work. It is a matrix `[K * K * C, O]`: a row per
/// tap (cell of the kernel) and input channel, a column per output channel. A unit sums over a slice of
/// positions, for a group of rows and a chunk of columns. Slices and groups determine the order of sums, so
/// they depend only on sizes and the kernel.
struct WorkSplit {
    /// Tiles of rows of the matrix: what the GEMM's kernel computes at a time.
    tiles: Vec<TapRange>,
    /// Groups of rows, as ranges of tiles.
    groups: Vec<Range<usize>>,
    /// Chunks of columns, as ranges of panels of output channels.
    chunks: Vec<Range<usize>>,
    /// Ranges of positions, the output pixels of all images.
    slices: Vec<Range<usize>>,
}

impl WorkSplit {
    /// Splits the computation of the gradient of the weights into units of work: each sums over a slice of
    /// the `positions` output pixels, for a group of rows (taps and input channels) and a chunk of columns
    /// (output channels) of the gradient. There are at least two units per thread, if there are enough panels
    /// (vectors of output channels that a tile computes).
    fn plan(job: &BackwardWeights<'_>, positions: usize) -> Self {
        let layout = job.gemm_kernel.layout();
        let tap_row_tiles = |tap_row| {
            let tiles = split_into_tiles(job.im2col.tap_row_len(), layout.max_rows);
            tiles.map(move |(start, len)| TapRange { tap_row, start, len })
        };
        let tiles: Vec<TapRange> = (0..job.im2col.taps[0]).flat_map(tap_row_tiles).collect();
        let n_slices = positions.div_ceil(MIN_SLICE).min(MAX_SLICES);
        // Groups of at most 24 tiles. With fewer than 4 slices they have at most 16 tiles, and their number
        // is a multiple of 4, so that there are enough units of work for the threads.
        let n_groups = if n_slices >= 4 {
            tiles.len().div_ceil(24)
        } else {
            tiles.len().div_ceil(16).next_multiple_of(4).min(tiles.len())
        };
        let n_panels = job.outputs.div_ceil(16 * layout.vectors_per_panel);
        let min_chunks = (2 * rayon::current_num_threads()).div_ceil(n_slices * n_groups);
        let n_chunks = job.outputs.div_ceil(MAX_COLUMNS).max(min_chunks).min(n_panels);
        Self {
            groups: split_evenly(tiles.len(), n_groups),
            tiles,
            chunks: split_evenly(n_panels, n_chunks),
            slices: split_evenly(positions, n_slices),
        }
    }

    /// The rows of the gradient of the weights that group `group` computes, in the matrix with a row per tap
    /// (cell of the kernel) and input channel. `tap_row_len` is the number of matrix rows for one row of
    /// taps.
    fn weight_rows(&self, group: usize, tap_row_len: usize) -> Range<usize> {
        let first_row = |range: &TapRange| range.tap_row * tap_row_len + range.start;
        let tiles = &self.tiles[self.groups[group].clone()];
        let last_tile = &tiles[tiles.len() - 1];
        first_row(&tiles[0])..first_row(last_tile) + last_tile.len
    }
}

impl BackwardWeights<'_> {
    /// Computes the gradient of the loss with respect to the weights of a convolution and writes it to
    /// `grad_weight`, `[K, K, C, O]` (kernel row and column, input channel, output channel); returns the
    /// gradients of scale and bias. The output pixels are split into slices, whose sums the threads of the
    /// current rayon pool compute in parallel and then add. `partial_sums` is a buffer for these sums, which
    /// grows if needed; `thread_buffers` has a buffer per thread.
    pub(super) fn run(
        self,
        thread_buffers: &[Mutex<Vec<CacheLine>>],
        partial_sums: &mut Vec<f32>,
        grad_weight: &mut [f32],
    ) -> ScaleBiasGrad {
        let grid = PositionGrid { batch: self.batch, im2col: self.im2col };
        let vectors = self.gemm_kernel.layout().vectors_per_panel;
        let (depth, tap_row_len) = (self.im2col.depth(), self.im2col.tap_row_len());
        let split = WorkSplit::plan(&self, grid.positions());
        // Output channels, padded to whole panels.
        let width = self.outputs.next_multiple_of(16 * vectors);
        let (n_groups, n_chunks, n_slices) = (split.groups.len(), split.chunks.len(), split.slices.len());
        let partial_len = if n_slices > 1 { n_slices * depth * width } else { 0 };
        if partial_sums.len() < partial_len {
            *partial_sums = vec![0.0; partial_len];
        }
        let mut scale_sums = vec![0.0f32; n_groups * width];
        let mut bias_sums = vec![0.0f64; n_slices * width];
        let longest = split.slices.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let piece = piece_len(longest, MAX_PIECE);
        let max_rows =
            (0..n_groups).map(|group| split.weight_rows(group, tap_row_len).len()).max().unwrap_or(0);
        let max_panels = split.chunks.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let (tile_lines, gradient_lines) = (piece, piece * max_panels * vectors);
        let sum_lines = if n_slices > 1 { 0 } else { max_rows * max_panels * vectors };

        let shared_partial = SharedPtr::new(partial_sums);
        let shared_bias = SharedPtr::new(&mut bias_sums);
        let (grad_weight, shared_scale) = (SharedPtr::new(grad_weight), SharedPtr::new(&mut scale_sums));
        let dst = GradOutputs { grad_weight, scale_sums: shared_scale, width };
        // A unit of work computes the sums of a slice for a group of rows and a chunk of panels. A single
        // slice is the total; with several, their sums are stored and added afterwards.
        (0..n_slices * n_groups * n_chunks).into_par_iter().with_max_len(1).for_each(|unit| {
            let (slice, group) = (unit / n_chunks / n_groups, unit / n_chunks % n_groups);
            let chunk = unit % n_chunks;
            let (rows, panels) = (split.weight_rows(group, tap_row_len), split.chunks[chunk].clone());
            with_thread_buffer(thread_buffers, tile_lines + gradient_lines + sum_lines, |buffer| {
                let (inputs, buffer) = buffer.split_at_mut(tile_lines);
                let (gradients, sums) = buffer.split_at_mut(gradient_lines);
                // Only this unit writes these rows and columns of the slice's partial sums.
                let sums = if n_slices > 1 {
                    let first = (slice * depth + rows.start) * width + panels.start * 16 * vectors;
                    SumRows { ptr: shared_partial.offset(first), stride: width }
                } else {
                    SumRows { ptr: sums.as_mut_ptr().cast(), stride: panels.len() * 16 * vectors }
                };
                self.gemm_kernel.run_f32(SliceJob {
                    job: &self,
                    grid: &grid,
                    tiles: &split.tiles[split.groups[group].clone()],
                    panels: panels.clone(),
                    positions: split.slices[slice].clone(),
                    piece,
                    bias_sums: (group == 0).then(|| shared_bias.offset(slice * width)),
                    inputs,
                    gradients,
                    sums,
                });
                if n_slices == 1 {
                    let slices = SliceSums { first: sums, count: 1, slice_stride: 0 };
                    self.gemm_kernel.run_f32(ReduceSlices { job: &self, rows, panels, slices, dst, group });
                }
            });
        });
        if n_slices > 1 {
            (0..n_groups * n_chunks).into_par_iter().with_max_len(1).for_each(|unit| {
                let (group, panels) = (unit / n_chunks, split.chunks[unit % n_chunks].clone());
                let rows = split.weight_rows(group, tap_row_len);
                let ptr = shared_partial.offset(rows.start * width + panels.start * 16 * vectors);
                let first = SumRows { ptr, stride: width };
                let slices = SliceSums { first, count: n_slices, slice_stride: depth * width };
                self.gemm_kernel.run_f32(ReduceSlices { job: &self, rows, panels, slices, dst, group });
            });
        }
        // Sums of a column of `[n_rows, width]`, whose values are given by index.
        let column_sum = |column: usize, n_rows: usize, value: &dyn Fn(usize) -> f64| {
            (0..n_rows).map(|row| value(row * width + column)).sum::<f64>() as f32
        };
        let scale = |column| column_sum(column, n_groups, &|index| f64::from(scale_sums[index]));
        let bias = |column| column_sum(column, n_slices, &|index| bias_sums[index]);
        ScaleBiasGrad {
            scale: (0..self.outputs).map(scale).collect(),
            bias: (0..self.outputs).map(bias).collect(),
        }
    }
}

/// Where sums for the gradient of the weights are in memory: a row per row of the weights (tap and input
/// channel), with a value per output channel. Rows are `stride` values apart.
#[derive(Clone, Copy)]
pub(super) struct SumRows {
    pub(super) ptr: *mut f32,
    pub(super) stride: usize,
}

/// The sums of `count` slices of positions, each laid out like `first`; slices are `slice_stride` values
/// apart.
#[derive(Clone, Copy)]
pub(super) struct SliceSums {
    pub(super) first: SumRows,
    pub(super) count: usize,
    pub(super) slice_stride: usize,
}

/// Where the gradients of weights and scale go; each unit of work writes its own rows and columns.
#[derive(Clone, Copy)]
pub(super) struct GradOutputs {
    /// Gradient of the weights, `[K * K * C, O]`.
    pub(super) grad_weight: SharedPtr<f32>,
    /// Partial sums of the gradient of the scale, `[groups, width]`.
    pub(super) scale_sums: SharedPtr<f32>,
    /// Output channels, padded to whole panels.
    pub(super) width: usize,
}

/// Computes the gradient of some rows (taps and input channels) and columns (output channels) of the weights,
/// summed over the positions (output pixels) of a slice.
struct SliceJob<'a> {
    job: &'a BackwardWeights<'a>,
    grid: &'a PositionGrid,
    /// The rows, in tiles.
    tiles: &'a [TapRange],
    /// The columns, in panels of output channels.
    panels: Range<usize>,
    positions: Range<usize>,
    /// Number of positions summed at a time.
    piece: usize,
    /// Destination of the slice's sums of the output gradient, `[width]`, if this job computes them.
    bias_sums: Option<*mut f64>,
    /// Buffer for the inputs of a tile: a line per position.
    inputs: &'a mut [CacheLine],
    /// Buffer for packed panels of the output gradient.
    gradients: &'a mut [CacheLine],
    /// Destination of the sums, a row per row of the tiles.
    sums: SumRows,
}

/// Distances in the buffer of a tile's inputs, which has a cache line per position: a row of the tile is an
/// input (4 bytes), a step of its sums is a position.
pub(super) struct InputLines;

impl Stride for InputLines {
    const BYTES: usize = 4;
    const STEP: usize = CacheLine::BYTES;
}

/// Stores the sums of a tile, gradients of weights, to rows at `dst`, or adds them to the values there.
pub(super) struct SumSink {
    pub(super) dst: *mut f32,
    /// Values between two rows.
    pub(super) stride: usize,
    pub(super) accumulate: bool,
}

impl TileSink for SumSink {
    /// Stores `sums`, row `row` of a tile, or adds them to the values in memory. They are summed over some
    /// positions: the gradients of the weights of one input channel at one tap (cell of the kernel), or a
    /// Winograd component of these gradients, for all output channels of a panel.
    #[inline(always)]
    unsafe fn write_row<K: Kernel>(&self, kernel: K, row: usize, sums: &K::Sums) {
        let simd = kernel.simd();
        for (index, &vector) in sums.as_ref().iter().enumerate() {
            // SAFETY: the creator of the sink guarantees whole panels for each row.
            unsafe {
                let dst = self.dst.add(row * self.stride + 16 * index);
                simd.store(dst, if self.accumulate { simd.add(vector, simd.load(dst)) } else { vector });
            }
        }
    }
}

impl Job for SliceJob<'_> {
    /// Computes a part of the gradient of a convolution's weights, one unit of work of a thread. The part has
    /// the rows `tiles` (a row is a kernel position and an input channel) and the columns `panels` (output
    /// channels), and sums input times output gradient over `positions` (output pixels) only: a slice of all
    /// positions, whose sums are added up later. A GEMM computes `piece` positions at a time, which fit the
    /// cache. The sums of the output gradient are the gradient of the bias.
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let mut start = self.positions.start;
        while start < self.positions.end {
            let end = self.positions.end.min(start + self.piece);
            let count = end - start;
            for (index, panel) in self.panels.clone().enumerate() {
                let lines = &mut self.gradients[index * count * K::VECTORS_PER_PANEL..]
                    [..count * K::VECTORS_PER_PANEL];
                let sums = pack_gradient(kernel, self.job, start, panel, lines);
                if let Some(bias_sums) = self.bias_sums {
                    // A panel has 16 or 32 channels; `sums` has room for 32.
                    for (lane, sum) in sums[..K::VECTORS_PER_PANEL].as_flattened().iter().enumerate() {
                        let dst = bias_sums.wrapping_add(panel * 16 * K::VECTORS_PER_PANEL + lane);
                        // SAFETY: only this job writes the sums of this slice and these channels.
                        unsafe { *dst += f64::from(*sum) };
                    }
                }
            }
            let mut row = 0;
            for &range in self.tiles {
                // SAFETY: there is a line for each position; only this job writes these rows and columns.
                unsafe {
                    let inputs = self.inputs.as_mut_ptr();
                    pack_lines(self.grid, self.job.input, start..end, range, inputs);
                    for index in 0..self.panels.len() {
                        // A GEMM whose steps are positions; the output gradient takes the place of weights.
                        let operands = TileOperands {
                            activations: inputs.cast_const().cast(),
                            offsets: &[0], // the sums over the positions are not split
                            steps: count,
                            weights: self.gradients.as_ptr().add(index * count * K::VECTORS_PER_PANEL),
                        };
                        let dst =
                            self.sums.ptr.add(row * self.sums.stride + index * 16 * K::VECTORS_PER_PANEL);
                        let accumulate = start > self.positions.start;
                        let sink = SumSink { dst, stride: self.sums.stride, accumulate };
                        multiply_tile::<K, InputLines>(kernel, range.len, &operands, &sink);
                    }
                }
                row += range.len;
            }
            start = end;
        }
    }
}

/// Copies the output gradient of panel `panel` of output channels, at the positions (output pixels) from
/// `first` on, to `dst`: a cache line per position and vector of 16 channels. The GEMM of the gradient of the
/// weights reads it there in place of weights. Returns for each vector of the panel, one or two, the sums of
/// its channels over these positions, a part of the gradient of the bias; the second is 0 if the panel has
/// one vector.
#[inline(always)]
fn pack_gradient<K: Kernel>(
    kernel: K,
    job: &BackwardWeights<'_>,
    first: usize,
    panel: usize,
    dst: &mut [CacheLine],
) -> [[f32; 16]; 2] {
    let (simd, outputs) = (kernel.simd(), job.outputs);
    let mut sums = [[0.0; 16]; 2];
    for (vector, vector_sums) in sums.iter_mut().enumerate().take(K::VECTORS_PER_PANEL) {
        let column = (panel * K::VECTORS_PER_PANEL + vector) * 16;
        let lanes = outputs.saturating_sub(column).min(16);
        let mut sum = simd.splat(0.0);
        for (index, line) in dst.iter_mut().skip(vector).step_by(K::VECTORS_PER_PANEL).enumerate() {
            let src = job.grad_output.as_ptr().wrapping_add((first + index) * outputs + column);
            // SAFETY: the lanes are inside the gradient; a cache line has 16 values.
            unsafe {
                let values = load_partial(kernel, src, lanes);
                sum = simd.add(sum, values);
                simd.store(std::ptr::from_mut(line).cast(), values);
            }
        }
        // SAFETY: 16 values.
        unsafe { simd.store(vector_sums.as_mut_ptr(), sum) };
    }
    sums
}

/// Finishes the gradients of some weights `w` of a convolution that computes with `scale * w` (a scale per
/// output channel, such as that of a frozen BatchNorm), and of the scale. Adds up the sums of the slices of
/// positions to `s`, the gradient by `scale * w`. Then `scale * s` is the gradient of `w`, and the sum of
/// `w * s` over the rows (kernel positions and input channels) that of the scale.
pub(super) struct ReduceSlices<'a> {
    pub(super) job: &'a BackwardWeights<'a>,
    /// Rows of the weights `[K * K * C, O]`.
    pub(super) rows: Range<usize>,
    /// Panels of output channels.
    pub(super) panels: Range<usize>,
    pub(super) slices: SliceSums,
    pub(super) dst: GradOutputs,
    /// Row of `dst.scale_sums` to which the sums for the gradient of the scale are added.
    pub(super) group: usize,
}

impl Job for ReduceSlices<'_> {
    /// Finishes the gradients of the weights `w` in `rows` and `panels` and of the scales of their output
    /// channels, 16 channels at a time; the convolution computes with `scale * w`. Adds up the sums of all
    /// slices of positions to `s`, the gradient by `scale * w`. Stores `scale * s`, the gradient of `w`, or
    /// adds it (`job.accumulate`); adds `w * s` to this group's part of the gradient of the scale.
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let (simd, outputs) = (kernel.simd(), self.job.outputs);
        let zero = simd.splat(0.0);
        let ScaledWeights { values: weights, scale } = self.job.weights;
        let SumRows { ptr, stride } = self.slices.first;
        let first_column = self.panels.start * 16 * K::VECTORS_PER_PANEL;
        let vectors = (outputs.min(self.panels.end * 16 * K::VECTORS_PER_PANEL) - first_column).div_ceil(16);
        // Only this job writes these columns of the group (the rows of this job).
        let scale_sums = self.dst.scale_sums.offset(self.group * self.dst.width + first_column);
        for (row_index, row) in self.rows.clone().enumerate() {
            for vector in 0..vectors {
                let column = first_column + 16 * vector;
                let index = row * outputs + column;
                let lanes = (outputs - column).min(16);
                // SAFETY: slices and scale sums have whole panels; only valid lanes of weights and results
                // are accessed.
                unsafe {
                    let mut sum = zero;
                    for slice in 0..self.slices.count {
                        let offset = slice * self.slices.slice_stride + row_index * stride + 16 * vector;
                        sum = simd.add(sum, simd.load(ptr.add(offset)));
                    }
                    let scale_sum = scale_sums.add(16 * vector);
                    let weight = load_partial(kernel, weights.as_ptr().add(index), lanes);
                    simd.store(scale_sum, simd.mul_add(weight, sum, simd.load(scale_sum)));
                    let out = self.dst.grad_weight.offset(index);
                    let mut grad_weight = match scale {
                        Some(scale) => {
                            simd.mul_add(load_partial(kernel, scale.as_ptr().add(column), lanes), sum, zero)
                        }
                        None => sum,
                    };
                    if self.job.accumulate {
                        grad_weight = simd.add(grad_weight, load_partial(kernel, out, lanes));
                    }
                    if lanes == 16 {
                        simd.store(out, grad_weight);
                    } else {
                        let mut values = [0.0f32; 16];
                        simd.store(values.as_mut_ptr(), grad_weight);
                        values.as_ptr().copy_to_nonoverlapping(out, lanes);
                    }
                }
            }
        }
    }
}
