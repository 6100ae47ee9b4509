//! The derivative by the weights: sums over tiles of what they are at each point, and these back to taps.

use std::ops::Range;

use rayon::prelude::*;

use super::{TiledConv, Workspace, transformed_lines, transformed_tiles};
use crate::cache_line::CacheLine;
use crate::gemm::split_into_tiles;
use crate::kernels::{Job, Kernel, Simd};
use crate::tile::{TileOperands, multiply_tile};
use crate::training::backward_weights::{
    self, BackwardWeights, GradOutputs, MAX_PIECE, ReduceSlices, SliceSums, SumRows, SumSink,
};
use crate::training::im2col_gemm::{SharedOutput, with_thread_buffer};
use crate::training::{ScaleBiasGrad, split_evenly};
use crate::winograd::{
    COMPONENTS, GradientTiles, IN_SIDE, InputTiles, OUT_SIDE, TAPS, TransformedTiles, kernel_gradient,
};

/// Tiles that are transformed by a unit.
const TILES_PER_UNIT: usize = 32;
/// Blocks of 16 inputs whose sums a unit makes.
const BLOCKS_PER_UNIT: usize = 2;

impl BackwardWeights<'_> {
    /// As [`run`](Self::run), of a convolution in tiles.
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
        let results = GradOutputs {
            out: SharedOutput(weight_gradient.as_mut_ptr()),
            scale_sums: SharedOutput(scale_sums.as_mut_ptr()),
            width,
        };

        // Sums of a unit, and what they are at the taps.
        let (sums_lines, taps_lines) =
            (COMPONENTS * BLOCKS_PER_UNIT * 16 * vectors, TAPS * TAPS * BLOCKS_PER_UNIT * 16 * vectors);
        let partial_len = if sets.len() > 1 { ranges.len() * panels * sums_lines * 16 } else { 0 };
        if partial_sums.len() < partial_len {
            *partial_sums = vec![0.0; partial_len];
        }
        let partial = SharedOutput(partial_sums.as_mut_ptr());
        for (number, set) in sets.iter().enumerate() {
            let count = set.len();
            let input_lines = transformed_lines(blocks, 1, count);
            tile_arena.grow(input_lines + transformed_lines(panels, vectors, count));
            let shared = &*tile_arena;
            let transformed = || {
                let gradients = shared.pointer().wrapping_add(input_lines);
                let inputs = transformed_tiles(shared.pointer(), blocks, 1, count);
                (inputs, transformed_tiles(gradients, panels, vectors, count))
            };

            let pieces = split_evenly(count, count.div_ceil(TILES_PER_UNIT));
            (0..2 * pieces.len()).into_par_iter().with_max_len(1).for_each(|unit| {
                let piece = pieces[unit / 2].clone();
                let range = set.start + piece.start..set.start + piece.end;
                let (mut inputs_dst, mut gradients_dst) = transformed();
                if unit % 2 == 0 {
                    inputs_dst.lines = inputs_dst.lines.wrapping_add(piece.start);
                    tiled.transform::<InputTiles, IN_SIDE>(kernel, (self.input, inputs), range, inputs_dst);
                } else {
                    gradients_dst.lines = gradients_dst.lines.wrapping_add(piece.start * vectors);
                    let gradient = (self.gradient, self.outputs);
                    tiled.transform::<GradientTiles, OUT_SIDE>(kernel, gradient, range, gradients_dst);
                }
            });
            (0..ranges.len() * panels).into_par_iter().with_max_len(1).for_each(|unit| {
                let (range, panel) = (unit / panels, unit % panels);
                with_thread_buffer(thread_buffers, sums_lines + taps_lines, |buffer| {
                    let (sums, taps) = buffer.split_at_mut(sums_lines);
                    let sums = if sets.len() > 1 {
                        // SAFETY: inside; the unit's sums are its own.
                        unsafe { partial.offset(unit * sums_lines * 16) }
                    } else {
                        sums.as_mut_ptr().cast()
                    };
                    let blocks = ranges[range].clone();
                    kernel.run_f32(ComponentSums {
                        transformed: transformed(),
                        count,
                        blocks: blocks.clone(),
                        panel,
                        sums,
                        accumulate: number > 0,
                    });
                    if number + 1 == sets.len() {
                        let rows = 16 * blocks.start..16 * blocks.end;
                        let taps = taps.as_mut_ptr().cast();
                        kernel.run_f32(KernelGradTransform { sums, rows: rows.len(), taps });
                        for tap in 0..TAPS * TAPS {
                            let stride = 16 * vectors;
                            // SAFETY: there is room for all taps.
                            let tap_sums = unsafe { taps.add(tap * rows.len() * stride) };
                            kernel.run_f32(ReduceSlices {
                                job: &self,
                                rows: tap * inputs + rows.start..tap * inputs + rows.end,
                                panels: panel..panel + 1,
                                slices: SliceSums {
                                    first: SumRows { ptr: tap_sums, stride },
                                    count: 1,
                                    slice_stride: 0,
                                },
                                outputs: results,
                                group: range,
                            });
                        }
                    }
                });
            });
        }
        let sum = |column: usize| {
            (0..ranges.len()).map(|range| f64::from(scale_sums[range * width + column])).sum::<f64>()
        };
        ScaleBiasGrad {
            scale: (0..self.outputs).map(|column| sum(column) as f32).collect(),
            bias: column_sums(self.gradient, self.outputs),
        }
    }
}

/// Sums over all rows, of pieces as long as those that the direct way sums.
fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let of_piece = |rows: &[f32]| {
        let mut sums = vec![0.0f32; columns];
        for row in rows.chunks_exact(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        sums
    };
    let pieces: Vec<Vec<f32>> = values.par_chunks(MAX_PIECE * columns).map(of_piece).collect();
    (0..columns)
        .map(|column| pieces.iter().map(|piece| f64::from(piece[column])).sum::<f64>() as f32)
        .collect()
}

/// Sums of a panel for some blocks of inputs at all points, `[point][input][vector][16]`.
struct ComponentSums {
    transformed: (TransformedTiles, TransformedTiles),
    /// Tiles.
    count: usize,
    blocks: Range<usize>,
    panel: usize,
    sums: *mut f32,
    accumulate: bool,
}

impl Job for ComponentSums {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let (inputs, gradients) = self.transformed;
        let stride = 16 * K::VECTORS;
        let mut row = 0;
        for component in 0..COMPONENTS {
            let gradient =
                component * gradients.component_stride + gradients.line_index(self.panel * K::VECTORS, 0);
            for block in self.blocks.clone() {
                let input = component * inputs.component_stride + inputs.line_index(block, 0);
                for (first, rows) in split_into_tiles(16, K::ROWS) {
                    // SAFETY: the maker of the job vouches for all tiles and for the sums, which are this unit's.
                    unsafe {
                        let operands = TileOperands {
                            activations: inputs.lines.add(input).cast::<f32>().add(first).cast_const().cast(),
                            offsets: &[0],
                            steps: self.count,
                            weights: gradients.lines.add(gradient),
                        };
                        let dst = self.sums.add(row * stride);
                        let sink = SumSink { dst, stride, accumulate: self.accumulate };
                        multiply_tile::<K, backward_weights::InputLines>(kernel, rows, &operands, &sink);
                    }
                    row += rows;
                }
            }
        }
    }
}

/// Sums at the points to those at the taps, `[tap][input][vector][16]`.
struct KernelGradTransform {
    sums: *const f32,
    /// Inputs.
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
                // SAFETY: the maker of the job vouches for all points.
                *value = unsafe { simd.load(self.sums.add(component * component_len + offset)) };
            }
            for (tap, value) in kernel_gradient(simd, components).as_flattened().iter().enumerate() {
                // SAFETY: and for all taps.
                unsafe { simd.store(self.taps.add(tap * component_len + offset), *value) };
            }
        }
    }
}
