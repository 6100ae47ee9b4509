//! Gradient with respect to the input by Winograd's algorithm: a convolution of the output gradient with
//! rotated kernels.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::{TiledConv, Workspace, transformed_lines, transformed_tiles};
use crate::cache_line::{Arena, CacheLine, SharedPtr};
use crate::dispatch::AnyKernel;
use crate::gemm::{Gemm, RowSpans};
use crate::kernels::{Job, Kernel, LinePixels, Simd, TileEpilogue, TileOutput};
use crate::team::split_evenly;
use crate::training::im2col_gemm::{EpilogueSink, TileTarget, with_thread_buffer};
use crate::training::operands::TrainEpilogue;
use crate::winograd::{
    COMPONENTS, IN_SIDE, InputTiles, InverseTransform, TAPS, TransformedTiles, transform_both_axes,
    transform_kernel_row,
};

/// Steps (output channels) of a panel whose kernels a unit of work transforms.
const KERNEL_STEPS: usize = 64;
/// Groups of tiles that are transformed before the kernels are read.
const GROUPS_AT_ONCE: usize = 4;

/// Computes the gradient of the loss with respect to the input of a 3 x 3 convolution by Winograd's
/// algorithm: as GEMMs of transformed tiles of the output gradient with transformed kernels, one per
/// component.
pub(in crate::training) struct WinogradInputGrad<'a> {
    pub(in crate::training) gemm_kernel: AnyKernel,
    pub(in crate::training) tiled: TiledConv,
    /// Input channels of the convolution, `C`.
    pub(in crate::training) inputs: usize,
    /// Output channels of the convolution, `O`.
    pub(in crate::training) outputs: usize,
    /// Gradient with respect to the output, `[N, H, W, O]`.
    pub(in crate::training) grad_output: &'a [f32],
    /// Rotated kernels, packed tap by tap: `[tap][panel of inputs][output channel][vector][16 inputs]`.
    pub(in crate::training) weights: &'a [CacheLine],
    pub(in crate::training) epilogue: TrainEpilogue<'a>,
}

/// Transformed kernels of some panels of input channels: `[component][panel][output channel][vector]`.
#[derive(Clone, Copy)]
struct TransformedKernels<'a> {
    arena: &'a Arena,
    /// The panel that is stored first.
    first_panel: usize,
    /// Lines between two components: odd, so that they map to different cache sets.
    component_stride: usize,
    /// Lines of a panel of one component.
    panel_len: usize,
}

impl WinogradInputGrad<'_> {
    /// Computes the gradient of the loss with respect to the input of a convolution by Winograd's algorithm
    /// on the threads of the current rayon pool, and writes it to `grad_input`, `[N, H, W, C]`. For each set
    /// of tiles of the output gradient and each chunk of panels of kernels (ranges of input channels):
    /// transforms tiles and kernels to 36 components, multiplies these, and transforms the products to pixels
    /// of the result.
    pub(in crate::training) fn run(&self, workspace: Workspace<'_>, grad_input: &mut [f32]) {
        let Workspace { block_sizes, thread_buffers, kernel_arena, tile_arena } = workspace;
        let vectors = self.gemm_kernel.layout().vectors_per_panel;
        let (n_blocks, n_panels) = (self.outputs / 16, self.inputs.div_ceil(16 * vectors));
        let (panel_len, n_threads) = (self.outputs * vectors, rayon::current_num_threads());
        let kernel_bytes = COMPONENTS * n_panels * panel_len * CacheLine::BYTES;
        // Chunks are ranges of panels, groups are ranges of tiles. A set of groups is processed at a time.
        // Each chunk is split into parts, so that there is enough work for all threads: a unit of work is a
        // group of tiles by a part of a chunk.
        let chunks = split_evenly(n_panels, kernel_bytes.div_ceil(block_sizes.kernel_bytes).min(n_panels));

        let max_panels = chunks.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let tile_bytes = COMPONENTS * (n_blocks + max_panels * vectors) * CacheLine::BYTES;
        let [min_tiles, max_tiles] = block_sizes.thread_tiles;
        let group_tiles = (block_sizes.thread_bytes / tile_bytes).clamp(min_tiles, max_tiles);
        let n_tiles = self.tiled.n_tiles();
        let groups = split_evenly(n_tiles, n_tiles.div_ceil(group_tiles));
        let parts_per_chunk = (2 * n_threads).div_ceil(groups.len()).min(max_panels);
        // A group that several units read is transformed beforehand.
        let is_shared = chunks.len() * parts_per_chunk > 1;

        // One line more for each component: the component stride is rounded up to an odd number.
        kernel_arena.grow(COMPONENTS * (max_panels * panel_len + 1));
        let out = SharedPtr::new(grad_input);
        let sets = groups.chunks(if is_shared { GROUPS_AT_ONCE } else { groups.len() });
        for (set_index, set) in sets.enumerate() {
            let first_tile = set[0].start;
            let set_tiles = set[set.len() - 1].end - first_tile;
            if is_shared {
                tile_arena.grow(transformed_lines(n_blocks, 1, set_tiles));
            }
            let shared = &*tile_arena;
            // The transformed tiles of the set, from its tile `start` on.
            let shared_tiles = |start: usize| {
                transformed_tiles(shared.pointer().wrapping_add(start), n_blocks, 1, set_tiles)
            };
            if is_shared {
                let ranges = split_evenly(set_tiles, set_tiles.min(4 * n_threads));
                ranges.into_par_iter().with_max_len(1).for_each(|tiles| {
                    let dst = shared_tiles(tiles.start);
                    self.transform_grad_output(first_tile + tiles.start..first_tile + tiles.end, dst);
                });
            }
            for chunk in &chunks {
                let component_stride = (chunk.len() * panel_len) | 1;
                let (arena, first_panel) = (&*kernel_arena, chunk.start);
                let kernels = TransformedKernels { arena, first_panel, component_stride, panel_len };
                if set_index == 0 || chunks.len() > 1 {
                    self.transform_kernels(kernels, chunk.clone(), n_panels);
                }
                let parts = split_evenly(chunk.len(), parts_per_chunk.min(chunk.len()));
                (0..set.len() * parts.len()).into_par_iter().with_max_len(1).for_each(|unit| {
                    let (group, part) = (set[unit / parts.len()].clone(), &parts[unit % parts.len()]);
                    let panels = chunk.start + part.start..chunk.start + part.end;
                    let product_blocks = panels.len() * vectors;
                    let own_lines = if is_shared { 0 } else { transformed_lines(n_blocks, 1, group.len()) };
                    let lines = own_lines + transformed_lines(product_blocks, 1, group.len());
                    with_thread_buffer(thread_buffers, lines, |buffer| {
                        let (own, products) = buffer.split_at_mut(own_lines);
                        let products =
                            transformed_tiles(products.as_mut_ptr(), product_blocks, 1, group.len());
                        let grad_output = if is_shared {
                            shared_tiles(group.start - first_tile)
                        } else {
                            let own_tiles = transformed_tiles(own.as_mut_ptr(), n_blocks, 1, group.len());
                            self.transform_grad_output(group.clone(), own_tiles);
                            own_tiles
                        };
                        self.multiply_components(kernels, grad_output, products, group.len(), panels.clone());
                        let channel_vectors = panels.start * vectors..panels.end * vectors;
                        self.inverse_transform(products, group, channel_vectors, out);
                    });
                });
            }
        }
    }

    /// Transforms the tiles `tiles` of the output gradient to the 36 components of Winograd's algorithm, in
    /// `dst`, where the first of them becomes tile 0. The output gradient is the input of the convolution
    /// that gives the input gradient.
    fn transform_grad_output(&self, tiles: Range<usize>, dst: TransformedTiles) {
        let Self { gemm_kernel, tiled, outputs, grad_output, .. } = *self;
        tiled.transform::<InputTiles, IN_SIDE>(gemm_kernel, grad_output, outputs, tiles, dst);
    }

    /// The last step of the input gradient by Winograd's algorithm: transforms `products`, of the tiles
    /// `tiles`, to pixels, applies the epilogue, and stores them in `out`, the whole gradient `[N, H, W, C]`.
    /// `vectors` are the vectors of 16 input channels that `products` has; those after the last channel are
    /// left out.
    fn inverse_transform(
        &self,
        products: TransformedTiles,
        tiles: Range<usize>,
        vectors: Range<usize>,
        out: SharedPtr<f32>,
    ) {
        let (channels, tiling) = (self.inputs, self.tiled.tiling);
        let (first_channel, accumulate) = (16 * vectors.start, self.epilogue.accumulate);
        // A unit of work is one vector of one tile. The target's `offsets` are for GEMMs, not for pixels.
        let units = 0..tiles.len() * ((channels / 16).min(vectors.end) - vectors.start);
        let target = TileTarget { out: out.offset(0), offsets: &[], first_channel, channels, accumulate };
        let output = EpilogueSink { target, epilogue: self.epilogue };
        self.gemm_kernel.run_f32(InverseTransform { tiling, products, tiles, units, output });
    }

    /// Transforms the 3 x 3 kernels of the panels `chunk` (of input channels) to the 36 components of
    /// Winograd's algorithm, and writes them to `kernels`, where the GEMMs of the input gradient read them.
    /// `n_panels` is the number of all panels of the packed weights. Training does it on every call, since
    /// the weights change.
    fn transform_kernels(&self, kernels: TransformedKernels<'_>, chunk: Range<usize>, n_panels: usize) {
        let TransformedKernels { arena, component_stride, panel_len, .. } = kernels;
        let steps = self.outputs;
        let (vectors, tap_stride) = (panel_len / steps, n_panels * panel_len);
        let parts = split_evenly(steps, steps.div_ceil(KERNEL_STEPS));
        (0..chunk.len() * parts.len()).into_par_iter().with_max_len(1).for_each(|unit| {
            let (index, steps) = (unit / parts.len(), &parts[unit % parts.len()]);
            let (first, count) = (steps.start * vectors, steps.len() * vectors);
            let src = &self.weights[(chunk.start + index) * panel_len + first..];
            // SAFETY: inside the arena; only this unit writes these lines of each component.
            let dst = unsafe { arena.pointer().add(index * panel_len + first) };
            self.gemm_kernel.run_f32(TransformKernels { src, tap_stride, count, dst, component_stride });
        });
    }

    /// The middle step of the input gradient by Winograd's algorithm: multiplies `n_tiles` transformed tiles
    /// of the output gradient with the panels `panels` (of input channels) of the transformed kernels, and
    /// writes the products to `products`. For each of the 36 components it is a GEMM, whose sums go over
    /// output channels.
    fn multiply_components(
        &self,
        kernels: TransformedKernels<'_>,
        grad_output: TransformedTiles,
        products: TransformedTiles,
        n_tiles: usize,
        panels: Range<usize>,
    ) {
        let TransformedKernels { arena, first_panel, component_stride, panel_len } = kernels;
        let block_offset = |block: usize| grad_output.line_index(block, 0) * CacheLine::BYTES;
        let offsets: Vec<usize> = (0..self.outputs / 16).map(block_offset).collect();
        for component in 0..COMPONENTS {
            let first_line = component * component_stride + (panels.start - first_panel) * panel_len;
            let tiles = grad_output.component(component).cast_const().cast();
            // Tiles, kernels and products have the sizes that the GEMM accesses.
            self.gemm_kernel.run_f32(Gemm {
                offsets: &offsets,
                steps: 16, // the output channels of a block
                weights: arena.pointer().wrapping_add(first_line),
                panels: panels.len(),
                spans: RowSpans::single(tiles, 0, n_tiles),
                output: TileOutput {
                    lines: products.component(component),
                    block_stride: products.panel_stride,
                    epilogue: TileEpilogue::Raw,
                },
                vector: 0,
                stride: PhantomData::<LinePixels>,
            });
        }
    }
}

/// Transforms some 3 x 3 kernels of a panel to their 36 components, 16 kernels at a time, one per lane.
struct TransformKernels<'a> {
    /// Packed weights from the first tap of the first kernels on.
    src: &'a [CacheLine],
    /// Lines between two taps.
    tap_stride: usize,
    /// Number of lines, of 16 kernels each.
    count: usize,
    /// The first component of the first kernels.
    dst: *mut CacheLine,
    /// Lines between two components.
    component_stride: usize,
}

impl Job for TransformKernels<'_> {
    /// Transforms `count` times 16 of the convolution's 3 x 3 kernels, one per lane, for Winograd's
    /// algorithm: loads their weights, a cache line per tap (cell of the kernel), and stores their 36
    /// components, a cache line each.
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let last_tap = TAPS * TAPS - 1;
        assert!(last_tap * self.tap_stride + self.count <= self.src.len(), "kernels are inside the weights");
        for index in 0..self.count {
            let mut taps = [[simd.splat(0.0); TAPS]; TAPS];
            for (tap, value) in taps.as_flattened_mut().iter_mut().enumerate() {
                // SAFETY: checked above.
                *value = unsafe { simd.load(self.src.as_ptr().add(tap * self.tap_stride + index).cast()) };
            }
            let components = transform_both_axes(
                taps,
                #[inline(always)]
                |row| transform_kernel_row(simd, row),
            );
            for (component, value) in components.as_flattened().iter().enumerate() {
                // SAFETY: the job's creator guarantees all components.
                unsafe { simd.store(self.dst.add(component * self.component_stride + index).cast(), *value) };
            }
        }
    }
}
