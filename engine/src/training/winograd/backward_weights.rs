//! Gradient with respect to the weights by Winograd's algorithm: for each component a GEMM that sums over
//! tiles; then the transform of the components to taps, the cells of the kernels.

use std::ops::Range;

use rayon::prelude::*;

use super::{TiledConv, Workspace, transformed_lines, transformed_tiles};
use crate::cache_line::{CacheLine, SharedPtr};
use crate::gemm::split_into_tiles;
use crate::kernels::{Job, Kernel, Simd, TileOperands, multiply_tile};
use crate::team::split_evenly;
use crate::training::backward_weights::{
    BackwardWeights, GradOutputs, InputLines, MAX_PIECE, ReduceSlices, SliceSums, SumRows, SumSink,
};
use crate::training::im2col_gemm::with_thread_buffer;
use crate::training::operands::ScaleBiasGrad;
use crate::winograd::{
    COMPONENTS, GradientTiles, IN_SIDE, InputTiles, OUT_SIDE, TAPS, TransformedTiles, kernel_gradient_row,
    transform_both_axes,
};

/// Tiles that a unit of work transforms.
const TILES_PER_UNIT: usize = 32;
/// Blocks of 16 inputs whose sums a unit of work computes.
const BLOCKS_PER_UNIT: usize = 2;

impl BackwardWeights<'_> {
    /// Computes the gradient of the loss with respect to the weights of a 3 x 3 convolution by Winograd's
    /// algorithm, on the current rayon pool. Writes it to `grad_weight`, `[K, K, C, O]`; returns the
    /// gradients of scale and bias. For a set of tiles at a time, transforms input and output gradient and
    /// sums their products over the tiles; after the last set, transforms the sums to the gradients of the
    /// weights. `partial_sums`, which grows if needed, holds the sums if there are several sets.
    pub(in crate::training) fn run_winograd(
        self,
        tiled: TiledConv,
        workspace: Workspace<'_>,
        partial_sums: &mut Vec<f32>,
        grad_weight: &mut [f32],
    ) -> ScaleBiasGrad {
        let Workspace { block_sizes, thread_buffers, tile_arena, .. } = workspace;
        let (gemm_kernel, inputs) = (self.gemm_kernel, self.im2col.channels);
        let vectors = gemm_kernel.layout().vectors_per_panel;
        let (n_blocks, n_panels) = (inputs / 16, self.outputs.div_ceil(16 * vectors));
        // Output channels, padded to whole panels.
        let width = n_panels * 16 * vectors;
        let tile_bytes = COMPONENTS * (n_blocks + n_panels * vectors) * CacheLine::BYTES;
        let max_tiles = (block_sizes.set_bytes / tile_bytes).max(block_sizes.set_tiles);
        // A set of tiles at a time is transformed and summed; for the sums, a unit of work is a range of
        // blocks of inputs by a panel of outputs.
        let sets = split_evenly(tiled.n_tiles(), tiled.n_tiles().div_ceil(max_tiles));
        let block_ranges = split_evenly(n_blocks, n_blocks.div_ceil(BLOCKS_PER_UNIT));
        let mut scale_sums = vec![0.0f32; block_ranges.len() * width];
        let (grad_weight, shared_scale) = (SharedPtr::new(grad_weight), SharedPtr::new(&mut scale_sums));
        let dst = GradOutputs { grad_weight, scale_sums: shared_scale, width };

        // Lines of a unit's sums per component, and of its gradients per tap.
        let unit_lines = BLOCKS_PER_UNIT * 16 * vectors;
        let (sums_lines, taps_lines) = (COMPONENTS * unit_lines, TAPS * TAPS * unit_lines);
        let partial_len = if sets.len() > 1 { block_ranges.len() * n_panels * sums_lines * 16 } else { 0 };
        if partial_sums.len() < partial_len {
            *partial_sums = vec![0.0; partial_len];
        }
        let partial = SharedPtr::new(partial_sums);
        for (set_index, set) in sets.iter().enumerate() {
            let n_tiles = set.len();
            let input_lines = transformed_lines(n_blocks, 1, n_tiles);
            tile_arena.grow(input_lines + transformed_lines(n_panels, vectors, n_tiles));
            let shared = &*tile_arena;
            // The transformed tiles of inputs and gradients, from tile `start` of the set on.
            let input_tiles =
                |start: usize| transformed_tiles(shared.pointer().wrapping_add(start), n_blocks, 1, n_tiles);
            let gradient_tiles = |start: usize| {
                let lines = shared.pointer().wrapping_add(input_lines + start * vectors);
                transformed_tiles(lines, n_panels, vectors, n_tiles)
            };

            let pieces = split_evenly(n_tiles, n_tiles.div_ceil(TILES_PER_UNIT));
            // Even units transform inputs, odd ones gradients.
            (0..2 * pieces.len()).into_par_iter().with_max_len(1).for_each(|unit| {
                let piece = &pieces[unit / 2];
                let tiles = set.start + piece.start..set.start + piece.end;
                if unit % 2 == 0 {
                    let dst = input_tiles(piece.start);
                    tiled.transform::<InputTiles, IN_SIDE>(gemm_kernel, self.input, inputs, tiles, dst);
                } else {
                    let (gradient, channels, dst) =
                        (self.grad_output, self.outputs, gradient_tiles(piece.start));
                    tiled.transform::<GradientTiles, OUT_SIDE>(gemm_kernel, gradient, channels, tiles, dst);
                }
            });
            (0..block_ranges.len() * n_panels).into_par_iter().with_max_len(1).for_each(|unit| {
                let (range_index, panel) = (unit / n_panels, unit % n_panels);
                with_thread_buffer(thread_buffers, sums_lines + taps_lines, |buffer| {
                    let (own_sums, taps) = buffer.split_at_mut(sums_lines);
                    // With several sets the sums persist between them; only this unit writes its sums.
                    let sums = if sets.len() > 1 {
                        partial.offset(unit * sums_lines * 16)
                    } else {
                        own_sums.as_mut_ptr().cast()
                    };
                    let blocks = block_ranges[range_index].clone();
                    gemm_kernel.run_f32(ComponentSums {
                        inputs: input_tiles(0),
                        gradients: gradient_tiles(0),
                        n_tiles,
                        blocks: blocks.clone(),
                        panel,
                        sums,
                        accumulate: set_index > 0,
                    });
                    if set_index + 1 == sets.len() {
                        let rows = 16 * blocks.start..16 * blocks.end;
                        let (taps, stride) = (taps.as_mut_ptr().cast(), 16 * vectors);
                        gemm_kernel.run_f32(KernelGradTransform { sums, inputs: rows.len(), taps });
                        for tap in 0..TAPS * TAPS {
                            // SAFETY: the buffer has space for all taps.
                            let ptr = unsafe { taps.add(tap * rows.len() * stride) };
                            let first = SumRows { ptr, stride };
                            gemm_kernel.run_f32(ReduceSlices {
                                job: &self,
                                rows: tap * inputs + rows.start..tap * inputs + rows.end,
                                panels: panel..panel + 1,
                                slices: SliceSums { first, count: 1, slice_stride: 0 }, // the total
                                dst,
                                group: range_index,
                            });
                        }
                    }
                });
            });
        }
        let scale = |column: usize| {
            let sums = (0..block_ranges.len()).map(|range| f64::from(scale_sums[range * width + column]));
            sums.sum::<f64>() as f32
        };
        ScaleBiasGrad {
            scale: (0..self.outputs).map(scale).collect(),
            bias: column_sums(self.grad_output, self.outputs),
        }
    }
}

/// Sum of each column of `values`, `[rows, columns]`. For the output gradient, a row per pixel and a column
/// per output channel, it is the gradient of the bias. Adds in `f32` within pieces of [`MAX_PIECE`] rows, as
/// the gradient without Winograd's algorithm does, and in `f64` over the pieces.
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

/// Computes, for each of the 36 components of Winograd's algorithm, the sums over tiles of the products of
/// some blocks of transformed inputs with a panel of transformed output gradients.
struct ComponentSums {
    inputs: TransformedTiles,
    gradients: TransformedTiles,
    n_tiles: usize,
    /// Blocks of 16 input channels.
    blocks: Range<usize>,
    /// Panel of output channels.
    panel: usize,
    /// Destination, `[component][input channel][vector][16 output channels]`.
    sums: *mut f32,
    /// Whether the sums are added to the values there.
    accumulate: bool,
}

impl Job for ComponentSums {
    /// The middle step of the gradient of the weights by Winograd's algorithm: for each of the 36 components
    /// and each block of 16 input channels, multiplies the transformed inputs with the transformed output
    /// gradients of the panel of output channels, a GEMM whose sums go over tiles. [`KernelGradTransform`]
    /// transforms the sums to gradients of weights.
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let Self { inputs, gradients, .. } = self;
        let stride = 16 * K::VECTORS_PER_PANEL;
        let mut row = 0;
        for component in 0..COMPONENTS {
            let first_line = gradients.line_index(self.panel * K::VECTORS_PER_PANEL, 0);
            // The output gradient takes the place of the GEMM's weights, a tile that of a step.
            let weights = gradients.component(component).wrapping_add(first_line);
            for block in self.blocks.clone() {
                let input = inputs.component(component).wrapping_add(inputs.line_index(block, 0));
                for (first, rows) in split_into_tiles(16, K::MAX_ROWS) {
                    // SAFETY: the job's creator guarantees all tiles, and the sums, which only this unit
                    // writes.
                    unsafe {
                        let operands = TileOperands {
                            activations: input.cast::<f32>().add(first).cast_const().cast(),
                            offsets: &[0], // one k-block
                            steps: self.n_tiles,
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

/// Transforms the sums of all components, `[component][input channel][vector][16 output channels]`, to the
/// gradients of the 3 x 3 weights (taps).
struct KernelGradTransform {
    sums: *const f32,
    /// Number of input channels.
    inputs: usize,
    /// Destination, `[tap][input channel][vector][16 output channels]`.
    taps: *mut f32,
}

impl Job for KernelGradTransform {
    /// The last step of the gradient of the weights by Winograd's algorithm: transforms the 36 sums of
    /// components to the gradients of 3 x 3 weights, for 16 kernels of the convolution at a time (one input
    /// channel, 16 output channels), one per lane.
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let component_len = self.inputs * K::VECTORS_PER_PANEL * 16;
        for offset in (0..component_len).step_by(16) {
            let mut components = [[simd.splat(0.0); IN_SIDE]; IN_SIDE];
            for (component, value) in components.as_flattened_mut().iter_mut().enumerate() {
                // SAFETY: the job's creator guarantees all components.
                *value = unsafe { simd.load(self.sums.add(component * component_len + offset)) };
            }
            let gradients = transform_both_axes(
                components,
                #[inline(always)]
                |row| kernel_gradient_row(simd, row),
            );
            for (tap, value) in gradients.as_flattened().iter().enumerate() {
                // SAFETY: the job's creator guarantees all taps.
                unsafe { simd.store(self.taps.add(tap * component_len + offset), *value) };
            }
        }
    }
}
