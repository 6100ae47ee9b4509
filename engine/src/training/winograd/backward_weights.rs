//! Gradient with respect to the weights: per component, a GEMM that sums over tiles; then the transform to
//! taps.

use std::ops::Range;

use rayon::prelude::*;

use super::{TiledConv, Workspace, transformed_lines, transformed_tiles};
use crate::cache_line::{CacheLine, SharedPtr};
use crate::gemm::split_into_tiles;
use crate::kernels::{Job, Kernel, Simd};
use crate::tile::{TileOperands, multiply_tile};
use crate::training::backward_weights::{
    BackwardWeights, GradOutputs, InputLines, MAX_PIECE, ReduceSlices, SliceSums, SumRows, SumSink,
};
use crate::training::im2col_gemm::with_thread_buffer;
use crate::training::{ScaleBiasGrad, split_evenly};
use crate::winograd::{
    COMPONENTS, GradientTiles, IN_SIDE, InputTiles, OUT_SIDE, TAPS, TransformedTiles, kernel_gradient,
};

/// Tiles that a unit of work transforms.
const TILES_PER_UNIT: usize = 32;
/// Blocks of 16 inputs whose sums a unit of work computes.
const BLOCKS_PER_UNIT: usize = 2;

impl BackwardWeights<'_> {
    /// As [`run`](Self::run), by Winograd's algorithm.
    pub(in crate::training) fn run_winograd(
        self,
        tiled: TiledConv,
        workspace: Workspace<'_>,
        partial_sums: &mut Vec<f32>,
        weight_gradient: &mut [f32],
    ) -> ScaleBiasGrad {
        let Workspace { block_sizes, thread_buffers, tile_arena, .. } = workspace;
        let (kernel, inputs) = (self.kernel, self.im2col.channels);
        let vectors = kernel.layout().vectors;
        let (blocks, panels) = (inputs / 16, self.outputs.div_ceil(16 * vectors));
        let width = panels * 16 * vectors;
        let tile_bytes = COMPONENTS * (blocks + panels * vectors) * CacheLine::BYTES;
        let max_tiles = (block_sizes.set_bytes / tile_bytes).max(block_sizes.set_tiles);
        let sets = split_evenly(tiled.n_tiles(), tiled.n_tiles().div_ceil(max_tiles));
        let ranges = split_evenly(blocks, blocks.div_ceil(BLOCKS_PER_UNIT));
        let mut scale_sums = vec![0.0f32; ranges.len() * width];
        let (out, shared_scale) = (SharedPtr::new(weight_gradient), SharedPtr::new(&mut scale_sums));
        let outputs = GradOutputs { out, scale_sums: shared_scale, width };

        // Lines of a unit's sums per component, and of its gradients per tap.
        let unit_lines = BLOCKS_PER_UNIT * 16 * vectors;
        let (sums_lines, taps_lines) = (COMPONENTS * unit_lines, TAPS * TAPS * unit_lines);
        let partial_len = if sets.len() > 1 { ranges.len() * panels * sums_lines * 16 } else { 0 };
        if partial_sums.len() < partial_len {
            *partial_sums = vec![0.0; partial_len];
        }
        let partial = SharedPtr::new(partial_sums);
        for (set_index, set) in sets.iter().enumerate() {
            let count = set.len();
            let input_lines = transformed_lines(blocks, 1, count);
            tile_arena.grow(input_lines + transformed_lines(panels, vectors, count));
            let shared = &*tile_arena;
            // The transformed tiles of inputs and gradients, from tile `start` of the set on.
            let input_tiles =
                |start: usize| transformed_tiles(shared.pointer().wrapping_add(start), blocks, 1, count);
            let gradient_tiles = |start: usize| {
                let lines = shared.pointer().wrapping_add(input_lines + start * vectors);
                transformed_tiles(lines, panels, vectors, count)
            };

            let pieces = split_evenly(count, count.div_ceil(TILES_PER_UNIT));
            (0..2 * pieces.len()).into_par_iter().with_max_len(1).for_each(|unit| {
                let piece = &pieces[unit / 2];
                let tiles = set.start + piece.start..set.start + piece.end;
                if unit % 2 == 0 {
                    let dst = input_tiles(piece.start);
                    tiled.transform::<InputTiles, IN_SIDE>(kernel, self.input, inputs, tiles, dst);
                } else {
                    let (channels, dst) = (self.outputs, gradient_tiles(piece.start));
                    tiled.transform::<GradientTiles, OUT_SIDE>(kernel, self.gradient, channels, tiles, dst);
                }
            });
            (0..ranges.len() * panels).into_par_iter().with_max_len(1).for_each(|unit| {
                let (range, panel) = (unit / panels, unit % panels);
                with_thread_buffer(thread_buffers, sums_lines + taps_lines, |buffer| {
                    let (sums, taps) = buffer.split_at_mut(sums_lines);
                    // With several sets the sums persist between them; only this unit writes its sums.
                    let sums = if sets.len() > 1 {
                        partial.offset(unit * sums_lines * 16)
                    } else {
                        sums.as_mut_ptr().cast()
                    };
                    let blocks = ranges[range].clone();
                    kernel.run_f32(ComponentSums {
                        inputs: input_tiles(0),
                        gradients: gradient_tiles(0),
                        count,
                        blocks: blocks.clone(),
                        panel,
                        sums,
                        accumulate: set_index > 0,
                    });
                    if set_index + 1 == sets.len() {
                        let rows = 16 * blocks.start..16 * blocks.end;
                        let (taps, stride) = (taps.as_mut_ptr().cast(), 16 * vectors);
                        kernel.run_f32(KernelGradTransform { sums, rows: rows.len(), taps });
                        for tap in 0..TAPS * TAPS {
                            // SAFETY: the buffer has space for all taps.
                            let ptr = unsafe { taps.add(tap * rows.len() * stride) };
                            let first = SumRows { ptr, stride };
                            kernel.run_f32(ReduceSlices {
                                job: &self,
                                rows: tap * inputs + rows.start..tap * inputs + rows.end,
                                panels: panel..panel + 1,
                                slices: SliceSums { first, count: 1, slice_stride: 0 },
                                outputs,
                                group: range,
                            });
                        }
                    }
                });
            });
        }
        let scale = |column: usize| {
            let sums = (0..ranges.len()).map(|range| f64::from(scale_sums[range * width + column]));
            sums.sum::<f64>() as f32
        };
        ScaleBiasGrad {
            scale: (0..self.outputs).map(scale).collect(),
            bias: column_sums(self.gradient, self.outputs),
        }
    }
}

/// Sums of columns: in `f32` within pieces of [`MAX_PIECE`] rows, as without Winograd's algorithm, in `f64`
/// over them.
fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let piece_sums = |rows: &[f32]| {
        let mut sums = vec![0.0f32; columns];
        for row in rows.chunks_exact(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        sums
    };
    let pieces: Vec<Vec<f32>> = values.par_chunks(MAX_PIECE * columns).map(piece_sums).collect();
    (0..columns)
        .map(|column| pieces.iter().map(|piece| f64::from(piece[column])).sum::<f64>() as f32)
        .collect()
}

/// Sums over tiles of a panel and some blocks of inputs, for all components:
/// `[component][input][vector][16]`.
struct ComponentSums {
    inputs: TransformedTiles,
    gradients: TransformedTiles,
    /// Number of tiles.
    count: usize,
    blocks: Range<usize>,
    panel: usize,
    sums: *mut f32,
    accumulate: bool,
}

impl Job for ComponentSums {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let Self { inputs, gradients, .. } = self;
        let stride = 16 * K::VECTORS;
        let mut row = 0;
        for component in 0..COMPONENTS {
            let gradient = gradients.line_index(self.panel * K::VECTORS, 0);
            let weights = gradients.component(component).wrapping_add(gradient);
            for block in self.blocks.clone() {
                let input = inputs.component(component).wrapping_add(inputs.line_index(block, 0));
                for (first, rows) in split_into_tiles(16, K::ROWS) {
                    // SAFETY: the job's creator guarantees all tiles, and the sums, which only this unit
                    // writes.
                    unsafe {
                        let operands = TileOperands {
                            activations: input.cast::<f32>().add(first).cast_const().cast(),
                            offsets: &[0],
                            steps: self.count,
                            weights,
                        };
                        let dst = self.sums.add(row * stride);
                        let sink = SumSink { dst, stride, accumulate: self.accumulate };
                        multiply_tile::<K, InputLines>(kernel, rows, &operands, &sink);
                    }
                    row += rows;
                }
            }
        }
    }
}

/// Transforms the sums per component to the gradients of the taps, `[tap][input][vector][16]`.
struct KernelGradTransform {
    sums: *const f32,
    /// Number of inputs.
    rows: usize,
    taps: *mut f32,
}

impl Job for KernelGradTransform {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let component_len = self.rows * K::VECTORS * 16;
        for offset in (0..component_len).step_by(16) {
            let mut components = [[simd.splat(0.0); IN_SIDE]; IN_SIDE];
            for (component, value) in components.as_flattened_mut().iter_mut().enumerate() {
                // SAFETY: the job's creator guarantees all components.
                *value = unsafe { simd.load(self.sums.add(component * component_len + offset)) };
            }
            for (tap, value) in kernel_gradient(simd, components).as_flattened().iter().enumerate() {
                // SAFETY: the job's creator guarantees all taps.
                unsafe { simd.store(self.taps.add(tap * component_len + offset), *value) };
            }
        }
    }
}
