//! Gradient with respect to the weights: a sum over all positions for each tap, input and output.

use std::ops::Range;
use std::sync::Mutex;

use rayon::prelude::*;

use super::im2col::{Im2col, PositionGrid, TapRange, pack_lines};
use super::im2col_gemm::with_thread_buffer;
use super::pack::{load_partial, piece_len};
use super::{ScaleBiasGrad, ScaledWeights, split_evenly};
use crate::cache_line::{CacheLine, SharedPtr};
use crate::dispatch::AnyKernel;
use crate::gemm::split_into_tiles;
use crate::kernels::{Job, Kernel, Simd};
use crate::tile::{Stride, TileOperands, TileSink, multiply_tile};

/// Maximum number of positions summed at once: the inputs of a tile fit the L1 cache, the gradients the L2
/// cache.
pub(super) const MAX_PIECE: usize = 128;
/// Maximum number of outputs in a chunk.
const MAX_COLUMNS: usize = 2048;
/// Minimum number of positions in a slice. The sums of slices are computed in parallel and then added.
const MIN_SLICE: usize = 3136;
/// Maximum number of slices.
const MAX_SLICES: usize = 16;

/// The gradient with respect to the weights of a convolution; fields as in
/// [`ConvOps::backward_weights`](super::ConvOps::backward_weights).
pub(super) struct BackwardWeights<'a> {
    pub(super) kernel: AnyKernel,
    pub(super) im2col: Im2col,
    pub(super) batch: usize,
    pub(super) outputs: usize,
    pub(super) input: &'a [f32],
    pub(super) gradient: &'a [f32],
    pub(super) weights: ScaledWeights<'a>,
    pub(super) accumulate: bool,
}

/// How the work is split. Slices and groups, which determine the order of sums, depend only on sizes and the
/// kernel.
struct WorkSplit {
    /// Tiles of rows of the weights.
    tiles: Vec<TapRange>,
    /// Ranges of tiles.
    groups: Vec<Range<usize>>,
    /// Ranges of panels.
    chunks: Vec<Range<usize>>,
    /// Ranges of positions.
    slices: Vec<Range<usize>>,
}

impl WorkSplit {
    fn new(job: &BackwardWeights<'_>, positions: usize) -> Self {
        let layout = job.kernel.layout();
        let tap_row_tiles = |tap| {
            let tiles = split_into_tiles(job.im2col.tap_row_len(), layout.rows);
            tiles.map(move |(start, len)| TapRange { tap, start, len })
        };
        let tiles: Vec<TapRange> = (0..job.im2col.taps[0]).flat_map(tap_row_tiles).collect();
        let slices = positions.div_ceil(MIN_SLICE).min(MAX_SLICES);
        let groups = if slices >= 4 {
            tiles.len().div_ceil(24)
        } else {
            tiles.len().div_ceil(16).next_multiple_of(4).min(tiles.len())
        };
        let panels = job.outputs.div_ceil(16 * layout.vectors);
        let min_chunks = (2 * rayon::current_num_threads()).div_ceil(slices * groups);
        let chunks = job.outputs.div_ceil(MAX_COLUMNS).max(min_chunks).min(panels);
        Self {
            groups: split_evenly(tiles.len(), groups),
            tiles,
            chunks: split_evenly(panels, chunks),
            slices: split_evenly(positions, slices),
        }
    }

    /// Rows of the weights `[K * K * C, O]` in a group.
    fn weight_rows(&self, group: usize, tap_row_len: usize) -> Range<usize> {
        let first_row = |range: &TapRange| range.tap * tap_row_len + range.start;
        let tiles = &self.tiles[self.groups[group].clone()];
        let last = &tiles[tiles.len() - 1];
        first_row(&tiles[0])..first_row(last) + last.len
    }
}

impl BackwardWeights<'_> {
    /// Computes the gradients on the threads of the current rayon pool.
    pub(super) fn run(
        self,
        thread_buffers: &[Mutex<Vec<CacheLine>>],
        partial_sums: &mut Vec<f32>,
        weight_gradient: &mut [f32],
    ) -> ScaleBiasGrad {
        let grid = PositionGrid { batch: self.batch, im2col: self.im2col };
        let vectors = self.kernel.layout().vectors;
        let (depth, tap_row_len) = (self.im2col.depth(), self.im2col.tap_row_len());
        let split = WorkSplit::new(&self, grid.positions());
        let width = self.outputs.next_multiple_of(16 * vectors);
        let (groups, chunks, slices) = (split.groups.len(), split.chunks.len(), split.slices.len());
        let partial_len = if slices > 1 { slices * depth * width } else { 0 };
        if partial_sums.len() < partial_len {
            *partial_sums = vec![0.0; partial_len];
        }
        let mut scale_sums = vec![0.0f32; groups * width];
        let mut bias_sums = vec![0.0f64; slices * width];
        let longest = split.slices.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let piece = piece_len(longest, MAX_PIECE);
        let max_rows =
            (0..groups).map(|group| split.weight_rows(group, tap_row_len).len()).max().unwrap_or(0);
        let max_panels = split.chunks.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let (tile_lines, gradient_lines) = (piece, piece * max_panels * vectors);
        let sum_lines = if slices > 1 { 0 } else { max_rows * max_panels * vectors };

        let shared_partial = SharedPtr::new(partial_sums);
        let shared_bias = SharedPtr::new(&mut bias_sums);
        let (out, shared_scale) = (SharedPtr::new(weight_gradient), SharedPtr::new(&mut scale_sums));
        let outputs = GradOutputs { out, scale_sums: shared_scale, width };
        (0..slices * groups * chunks).into_par_iter().with_max_len(1).for_each(|unit| {
            let (slice, group, chunk) = (unit / chunks / groups, unit / chunks % groups, unit % chunks);
            let (rows, panels) = (split.weight_rows(group, tap_row_len), split.chunks[chunk].clone());
            with_thread_buffer(thread_buffers, tile_lines + gradient_lines + sum_lines, |buffer| {
                let (inputs, buffer) = buffer.split_at_mut(tile_lines);
                let (gradients, sums) = buffer.split_at_mut(gradient_lines);
                // The slice's rows and columns of the partial sums are this unit's.
                let sums = if slices > 1 {
                    let first = (slice * depth + rows.start) * width + panels.start * 16 * vectors;
                    SumRows { ptr: shared_partial.offset(first), stride: width }
                } else {
                    SumRows { ptr: sums.as_mut_ptr().cast(), stride: panels.len() * 16 * vectors }
                };
                self.kernel.run_f32(SliceJob {
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
                if slices == 1 {
                    let slices = SliceSums { first: sums, count: 1, slice_stride: 0 };
                    self.kernel.run_f32(ReduceSlices { job: &self, rows, panels, slices, outputs, group });
                }
            });
        });
        if slices > 1 {
            (0..groups * chunks).into_par_iter().with_max_len(1).for_each(|unit| {
                let (group, panels) = (unit / chunks, split.chunks[unit % chunks].clone());
                let rows = split.weight_rows(group, tap_row_len);
                let ptr = shared_partial.offset(rows.start * width + panels.start * 16 * vectors);
                let first = SumRows { ptr, stride: width };
                let slices = SliceSums { first, count: slices, slice_stride: depth * width };
                self.kernel.run_f32(ReduceSlices { job: &self, rows, panels, slices, outputs, group });
            });
        }
        let column_sum = |column: usize, parts: usize, value: &dyn Fn(usize) -> f64| {
            (0..parts).map(|part| value(part * width + column)).sum::<f64>() as f32
        };
        let scale = |column| column_sum(column, groups, &|index| f64::from(scale_sums[index]));
        let bias = |column| column_sum(column, slices, &|index| bias_sums[index]);
        ScaleBiasGrad {
            scale: (0..self.outputs).map(scale).collect(),
            bias: (0..self.outputs).map(bias).collect(),
        }
    }
}

/// Rows of sums, `stride` values apart.
#[derive(Clone, Copy)]
pub(super) struct SumRows {
    pub(super) ptr: *mut f32,
    pub(super) stride: usize,
}

/// The sums of `count` slices, `slice_stride` values apart.
#[derive(Clone, Copy)]
pub(super) struct SliceSums {
    pub(super) first: SumRows,
    pub(super) count: usize,
    pub(super) slice_stride: usize,
}

/// The results; each unit writes its own rows and columns.
#[derive(Clone, Copy)]
pub(super) struct GradOutputs {
    /// Gradient of the weights.
    pub(super) out: SharedPtr<f32>,
    /// Partial sums of the gradient of the scale, `[groups, width]`.
    pub(super) scale_sums: SharedPtr<f32>,
    pub(super) width: usize,
}

/// Computes the sums of some rows and columns over the positions of a slice.
struct SliceJob<'a> {
    job: &'a BackwardWeights<'a>,
    grid: &'a PositionGrid,
    tiles: &'a [TapRange],
    panels: Range<usize>,
    positions: Range<usize>,
    piece: usize,
    /// Destination of the slice's sums of the gradient, `[width]`, if this job computes them.
    bias_sums: Option<*mut f64>,
    /// Buffer for the inputs of a tile.
    inputs: &'a mut [CacheLine],
    /// Buffer for gradients.
    gradients: &'a mut [CacheLine],
    sums: SumRows,
}

/// Inputs of a position in a cache line: a row of the tile is an input, a step is a position.
pub(super) struct InputLines;

impl Stride for InputLines {
    const BYTES: usize = 4;
    const STEP: usize = CacheLine::BYTES;
}

/// Stores sums, or adds them to the values at `dst`.
pub(super) struct SumSink {
    pub(super) dst: *mut f32,
    pub(super) stride: usize,
    pub(super) accumulate: bool,
}

impl TileSink for SumSink {
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
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let mut first = self.positions.start;
        while first < self.positions.end {
            let last = self.positions.end.min(first + self.piece);
            let count = last - first;
            for (index, panel) in self.panels.clone().enumerate() {
                let lines = &mut self.gradients[index * count * K::VECTORS..][..count * K::VECTORS];
                let sums = pack_gradient(kernel, self.job, first, panel, lines);
                if let Some(bias_sums) = self.bias_sums {
                    // With one vector per panel, the second vector of `sums` would belong to another unit.
                    for (lane, sum) in sums[..K::VECTORS].as_flattened().iter().enumerate() {
                        // SAFETY: only this unit writes the slice's column.
                        unsafe { *bias_sums.add(panel * 16 * K::VECTORS + lane) += f64::from(*sum) };
                    }
                }
            }
            let mut row = 0;
            for &range in self.tiles {
                // SAFETY: there is a line for each position; only this unit writes these rows and columns.
                unsafe {
                    let inputs = self.inputs.as_mut_ptr();
                    pack_lines(self.grid, self.job.input, first..last, range, inputs);
                    for index in 0..self.panels.len() {
                        let operands = TileOperands {
                            activations: inputs.cast_const().cast(),
                            offsets: &[0],
                            steps: count,
                            weights: self.gradients.as_ptr().add(index * count * K::VECTORS),
                        };
                        let dst = self.sums.ptr.add(row * self.sums.stride + index * 16 * K::VECTORS);
                        let accumulate = first > self.positions.start;
                        let sink = SumSink { dst, stride: self.sums.stride, accumulate };
                        multiply_tile::<K, InputLines>(kernel, range.len, &operands, &sink);
                    }
                }
                row += range.len;
            }
            first = last;
        }
    }
}

/// Packs a panel of the gradient at the positions from `first` on; returns its sums over these positions.
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
    for (vector, sums) in sums.iter_mut().enumerate().take(K::VECTORS) {
        let column = (panel * K::VECTORS + vector) * 16;
        let lanes = outputs.saturating_sub(column).min(16);
        let mut sum = simd.splat(0.0);
        for (index, line) in dst.iter_mut().skip(vector).step_by(K::VECTORS).enumerate() {
            let src = job.gradient.as_ptr().wrapping_add((first + index) * outputs + column);
            // SAFETY: the lanes are inside the gradient; a cache line has 16 values.
            unsafe {
                let values = load_partial(kernel, src, lanes);
                sum = simd.add(sum, values);
                simd.store(std::ptr::from_mut(line).cast(), values);
            }
        }
        // SAFETY: 16 values.
        unsafe { simd.store(sums.as_mut_ptr(), sum) };
    }
    sums
}

/// Adds the sums of slices, and computes the gradients of weights and scale from the total.
pub(super) struct ReduceSlices<'a> {
    pub(super) job: &'a BackwardWeights<'a>,
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
    pub(super) slices: SliceSums,
    pub(super) outputs: GradOutputs,
    pub(super) group: usize,
}

impl Job for ReduceSlices<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let (simd, outputs) = (kernel.simd(), self.job.outputs);
        let zero = simd.splat(0.0);
        let ScaledWeights { values, scale } = self.job.weights;
        let SumRows { ptr, stride } = self.slices.first;
        let first = self.panels.start * 16 * K::VECTORS;
        let vectors = (outputs.min(self.panels.end * 16 * K::VECTORS) - first).div_ceil(16);
        // The group's columns are this unit's.
        let scale_sums = self.outputs.scale_sums.offset(self.group * self.outputs.width + first);
        for (row_index, row) in self.rows.clone().enumerate() {
            for vector in 0..vectors {
                let column = first + 16 * vector;
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
                    let weight = load_partial(kernel, values.as_ptr().add(index), lanes);
                    simd.store(scale_sum, simd.mul_add(weight, sum, simd.load(scale_sum)));
                    let out = self.outputs.out.offset(index);
                    let mut scaled = match scale {
                        Some(scale) => {
                            simd.mul_add(load_partial(kernel, scale.as_ptr().add(column), lanes), sum, zero)
                        }
                        None => sum,
                    };
                    if self.job.accumulate {
                        scaled = simd.add(scaled, load_partial(kernel, out, lanes));
                    }
                    if lanes == 16 {
                        simd.store(out, scaled);
                    } else {
                        let mut values = [0.0f32; 16];
                        simd.store(values.as_mut_ptr(), scaled);
                        values.as_ptr().copy_to_nonoverlapping(out, lanes);
                    }
                }
            }
        }
    }
}
