//! The derivative by the weights: a sum over all positions, for each tap, input and output.

use std::ops::Range;
use std::sync::Mutex;

use rayon::prelude::*;

use super::im2col::{self, Im2col, PositionGrid};
use super::im2col_gemm::{SharedOutput, with_thread_buffer};
use super::pack::piece_len;
use super::{ScaleBiasGrad, ScaledWeights, split_evenly};
use crate::cache_line::CacheLine;
use crate::dispatch::AnyKernel;
use crate::gemm::split_into_tiles;
use crate::kernels::{Job, Kernel, Simd, Vector};
use crate::tile::{Stride, TileOperands, TileSink, multiply_tile};

/// Positions that are summed at once, at most: their inputs for a tile are in the L1 cache, their gradients in the L2.
pub(super) const MAX_PIECE: usize = 128;
/// Outputs that are taken at once, at most.
const MAX_COLUMNS: usize = 2048;
/// Positions of a slice, at least. Where there are more, sums of slices are made side by side and then added.
const MIN_SLICE: usize = 3136;
/// Slices, at most.
const MAX_SLICES: usize = 16;

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

/// A tile of rows of the weights: the row of taps, the first value in it, and how many.
type RowTile = (usize, usize, usize);

/// How the work is cut. Slices and groups depend on the sizes and the kernel alone: sums are made of theirs.
struct WorkSplit {
    tiles: Vec<RowTile>,
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
        let gather = &job.im2col;
        let tiles: Vec<RowTile> = (0..gather.taps[0])
            .flat_map(|tap| {
                split_into_tiles(gather.tap_row_len(), layout.rows)
                    .map(move |(start, rows)| (tap, start, rows))
            })
            .collect();
        let slices = positions.div_ceil(MIN_SLICE).min(MAX_SLICES);
        let groups = if slices >= 4 {
            tiles.len().div_ceil(24)
        } else {
            tiles.len().div_ceil(16).next_multiple_of(4).min(tiles.len())
        };
        let panels = job.outputs.div_ceil(16 * layout.vectors);
        let enough = (2 * rayon::current_num_threads()).div_ceil(slices * groups);
        let chunks = job.outputs.div_ceil(MAX_COLUMNS).max(enough).min(panels);
        Self {
            groups: split_evenly(tiles.len(), groups),
            tiles,
            chunks: split_evenly(panels, chunks),
            slices: split_evenly(positions, slices),
        }
    }

    /// Rows of the weights in a group.
    fn weight_rows(&self, group: usize, line: usize) -> Range<usize> {
        let first_row = |&(tap, start, _): &RowTile| tap * line + start;
        let tiles = &self.tiles[self.groups[group].clone()];
        let last = &tiles[tiles.len() - 1];
        first_row(&tiles[0])..first_row(last) + last.2
    }
}

impl BackwardWeights<'_> {
    pub(super) fn run(
        self,
        thread_buffers: &[Mutex<Vec<CacheLine>>],
        partial_sums: &mut Vec<f32>,
        weight_gradient: &mut [f32],
    ) -> ScaleBiasGrad {
        let grid = PositionGrid { batch: self.batch, im2col: self.im2col };
        let layout = self.kernel.layout();
        let (depth, tap_row_len) = (self.im2col.depth(), self.im2col.tap_row_len());
        let split = WorkSplit::new(&self, grid.positions());
        let width = self.outputs.next_multiple_of(16 * layout.vectors);
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
        let (tile_lines, gradient_lines) = (piece, piece * max_panels * layout.vectors);
        let sum_lines = if slices > 1 { 0 } else { max_rows * max_panels * layout.vectors };

        let shared_partial = SharedOutput(partial_sums.as_mut_ptr());
        let results = GradOutputs {
            out: SharedOutput(weight_gradient.as_mut_ptr()),
            scale_sums: SharedOutput(scale_sums.as_mut_ptr()),
            width,
        };
        let shared_bias = SharedBiasSums(bias_sums.as_mut_ptr());
        (0..slices * groups * chunks).into_par_iter().with_max_len(1).for_each(|unit| {
            let (slice, group, chunk) = (unit / chunks / groups, unit / chunks % groups, unit % chunks);
            let (rows, panels) = (split.weight_rows(group, tap_row_len), split.chunks[chunk].clone());
            with_thread_buffer(thread_buffers, tile_lines + gradient_lines + sum_lines, |buffer| {
                let (tile, buffer) = buffer.split_at_mut(tile_lines);
                let (gradient, sums) = buffer.split_at_mut(gradient_lines);
                let first = panels.start * 16 * layout.vectors;
                let sum_rows = if slices > 1 {
                    // SAFETY: inside; the slice's rows and columns are this unit's.
                    let ptr = unsafe { shared_partial.offset((slice * depth + rows.start) * width + first) };
                    SumRows { ptr, stride: width }
                } else {
                    SumRows { ptr: sums.as_mut_ptr().cast(), stride: panels.len() * 16 * layout.vectors }
                };
                self.kernel.run_f32(SliceJob {
                    job: &self,
                    grid: &grid,
                    tiles: &split.tiles[split.groups[group].clone()],
                    panels: panels.clone(),
                    positions: split.slices[slice].clone(),
                    piece,
                    bias_sums: (group == 0).then_some((shared_bias, slice * width)),
                    buffers: (tile, gradient),
                    sums: sum_rows,
                });
                if slices == 1 {
                    let sources = SliceSums { first: sum_rows, count: 1, slice_stride: 0 };
                    self.kernel.run_f32(ReduceSlices {
                        job: &self,
                        rows,
                        panels,
                        slices: sources,
                        outputs: results,
                        group,
                    });
                }
            });
        });
        if slices > 1 {
            (0..groups * chunks).into_par_iter().with_max_len(1).for_each(|unit| {
                let (rows, panels) =
                    (split.weight_rows(unit / chunks, tap_row_len), split.chunks[unit % chunks].clone());
                // SAFETY: inside.
                let ptr =
                    unsafe { shared_partial.offset(rows.start * width + panels.start * 16 * layout.vectors) };
                let first = SumRows { ptr, stride: width };
                let sources = SliceSums { first, count: slices, slice_stride: depth * width };
                self.kernel.run_f32(ReduceSlices {
                    job: &self,
                    rows,
                    panels,
                    slices: sources,
                    outputs: results,
                    group: unit / chunks,
                });
            });
        }
        let columns = 0..self.outputs;
        let sum_parts = |column: usize, parts: usize, value: &dyn Fn(usize) -> f64| {
            (0..parts).map(|part| value(part * width + column)).sum::<f64>() as f32
        };
        ScaleBiasGrad {
            scale: columns
                .clone()
                .map(|column| sum_parts(column, groups, &|at| f64::from(scale_sums[at])))
                .collect(),
            bias: columns.map(|column| sum_parts(column, slices, &|at| bias_sums[at])).collect(),
        }
    }
}

/// Rows of sums, so many values apart.
#[derive(Clone, Copy)]
pub(super) struct SumRows {
    pub(super) ptr: *mut f32,
    pub(super) stride: usize,
}

/// Sums of slices, so many values apart.
#[derive(Clone, Copy)]
pub(super) struct SliceSums {
    pub(super) first: SumRows,
    pub(super) count: usize,
    pub(super) slice_stride: usize,
}

/// What the units write to, each to its own rows and columns.
#[derive(Clone, Copy)]
pub(super) struct GradOutputs {
    pub(super) out: SharedOutput,
    /// `[groups, width]`
    pub(super) scale_sums: SharedOutput,
    pub(super) width: usize,
}

/// Of gradients, `[slices, width]`.
#[derive(Clone, Copy)]
struct SharedBiasSums(*mut f64);

// SAFETY: as for `Shared`.
unsafe impl Send for SharedBiasSums {}
// SAFETY: as for `Shared`.
unsafe impl Sync for SharedBiasSums {}

/// The sums of some rows and columns over some positions.
struct SliceJob<'a> {
    job: &'a BackwardWeights<'a>,
    grid: &'a PositionGrid,
    tiles: &'a [RowTile],
    panels: Range<usize>,
    positions: Range<usize>,
    piece: usize,
    /// Where the sums of the gradient go, if they are wanted.
    bias_sums: Option<(SharedBiasSums, usize)>,
    /// For the inputs of a tile, and for gradients.
    buffers: (&'a mut [CacheLine], &'a mut [CacheLine]),
    sums: SumRows,
}

/// Inputs of a position in a cell.
pub(super) struct InputLines;

impl Stride for InputLines {
    const BYTES: usize = 4;
    const STEP: usize = CacheLine::BYTES;
}

/// Stores sums as they are, or adds them.
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
            // SAFETY: the maker has whole panels for each row.
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
        let (input_lines, gradient_lines) = self.buffers;
        let mut first = self.positions.start;
        while first < self.positions.end {
            let last = self.positions.end.min(first + self.piece);
            let count = last - first;
            for (index, panel) in self.panels.clone().enumerate() {
                let lines = &mut gradient_lines[index * count * K::VECTORS..][..count * K::VECTORS];
                let sums = pack_gradient(kernel, self.job, first, panel, lines);
                if let Some((SharedBiasSums(bias), offset)) = self.bias_sums {
                    // A kernel of one vector has sums for no more: what lies behind is another unit's.
                    for (lane, sum) in sums[..K::VECTORS].as_flattened().iter().enumerate() {
                        // SAFETY: this unit alone has the slice's column.
                        unsafe { *bias.add(offset + panel * 16 * K::VECTORS + lane) += f64::from(*sum) };
                    }
                }
            }
            let mut row = 0;
            for &(tap, start, rows) in self.tiles {
                // SAFETY: there is a cell for each position; rows and columns of the sums are this unit's.
                unsafe {
                    let inputs = input_lines.as_mut_ptr();
                    im2col::pack_lines(self.grid, self.job.input, first..last, (tap, start, rows), inputs);
                    for index in 0..self.panels.len() {
                        let operands = TileOperands {
                            activations: inputs.cast_const().cast(),
                            offsets: &[0],
                            steps: count,
                            weights: gradient_lines.as_ptr().add(index * count * K::VECTORS),
                        };
                        let dst = self.sums.ptr.add(row * self.sums.stride + index * 16 * K::VECTORS);
                        let accumulate = first > self.positions.start;
                        let sink = SumSink { dst, stride: self.sums.stride, accumulate };
                        multiply_tile::<K, InputLines>(kernel, rows, &operands, &sink);
                    }
                }
                row += rows;
            }
            first = last;
        }
    }
}

/// A panel of the gradient at some positions, from `first` on, and its sums over them.
#[inline(always)]
fn pack_gradient<K: Kernel>(
    kernel: K,
    job: &BackwardWeights<'_>,
    first: usize,
    panel: usize,
    dst: &mut [CacheLine],
) -> [[f32; 16]; 2] {
    let (simd, outputs) = (kernel.simd(), job.outputs);
    let mut all_sums = [[0.0; 16]; 2];
    for (vector, all) in all_sums.iter_mut().enumerate().take(K::VECTORS) {
        let column = (panel * K::VECTORS + vector) * 16;
        let lanes = outputs.saturating_sub(column).min(16);
        let mut sums = simd.splat(0.0);
        for (index, line) in dst.iter_mut().skip(vector).step_by(K::VECTORS).enumerate() {
            let index = (first + index) * outputs + column;
            // SAFETY: 16 values of the gradient, or a copy of as many as there are; a cell has 16.
            unsafe {
                let values = if lanes == 16 {
                    simd.load(job.gradient[index..index + 16].as_ptr())
                } else {
                    let mut values = [0.0; 16];
                    if lanes > 0 {
                        values[..lanes].copy_from_slice(&job.gradient[index..index + lanes]);
                    }
                    simd.load(values.as_ptr())
                };
                sums = simd.add(sums, values);
                simd.store(std::ptr::from_mut(line).cast(), values);
            }
        }
        // SAFETY: 16 values.
        unsafe { simd.store(all.as_mut_ptr(), sums) };
    }
    all_sums
}

/// Adds the sums of slices, and makes the derivative of them.
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
        let first = self.panels.start * 16 * K::VECTORS;
        let vectors = (outputs.min(self.panels.end * 16 * K::VECTORS) - first).div_ceil(16);
        // SAFETY: the group's columns are this unit's.
        let products = unsafe { self.outputs.scale_sums.offset(self.group * self.outputs.width + first) };
        for (row_index, row) in self.rows.clone().enumerate() {
            for vector in 0..vectors {
                let column = first + 16 * vector;
                let index = row * outputs + column;
                let lanes = (outputs - column).min(16);
                // SAFETY: sources and sums have whole panels; weights and results are read and written where they are.
                unsafe {
                    let mut sum = zero;
                    for source in 0..self.slices.count {
                        let SumRows { ptr, stride } = self.slices.first;
                        let src =
                            ptr.add(source * self.slices.slice_stride + row_index * stride + 16 * vector);
                        sum = simd.add(sum, simd.load(src));
                    }
                    let load_lanes = |from: *const f32| -> Vector<K> {
                        if lanes == 16 {
                            return simd.load(from);
                        }
                        let mut values = [0.0; 16];
                        from.copy_to_nonoverlapping(values.as_mut_ptr(), lanes);
                        simd.load(values.as_ptr())
                    };
                    let scale_sum = products.add(16 * vector);
                    simd.store(
                        scale_sum,
                        simd.mul_add(load_lanes(values.as_ptr().add(index)), sum, simd.load(scale_sum)),
                    );
                    let out = self.outputs.out.offset(index);
                    let scaled = match scale {
                        Some(scale) => simd.mul_add(load_lanes(scale.as_ptr().add(column)), sum, zero),
                        None => sum,
                    };
                    let scaled = if self.job.accumulate { simd.add(scaled, load_lanes(out)) } else { scaled };
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
