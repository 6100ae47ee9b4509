//! Gradient with respect to the input: a convolution of the output gradient with rotated kernels.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::{TiledConv, Workspace, transformed_lines, transformed_tiles};
use crate::cache_line::{Arena, CacheLine, SharedPtr};
use crate::dispatch::AnyKernel;
use crate::gemm::{Gemm, RowSpans};
use crate::kernels::{Job, Kernel, Simd};
use crate::tile::{LinePixels, TileEpilogue, TileOutput};
use crate::training::im2col_gemm::{EpilogueSink, TileTarget, with_thread_buffer};
use crate::training::{TrainEpilogue, split_evenly};
use crate::winograd::{
    COMPONENTS, IN_SIDE, InputTiles, InverseTransform, TAPS, TransformedTiles, transform_kernel,
};

/// Steps of a panel that a unit of work transforms.
const KERNEL_STEPS: usize = 64;
/// Groups of tiles that are transformed before the kernels are read.
const GROUPS_AT_ONCE: usize = 4;

/// The input gradient as GEMMs of transformed tiles.
pub(in crate::training) struct WinogradInputGrad<'a> {
    pub(in crate::training) kernel: AnyKernel,
    pub(in crate::training) tiled: TiledConv,
    /// Channels of the gradient, and of the result.
    pub(in crate::training) channels: [usize; 2],
    /// Gradient of the output, `[N, H, W, O]`.
    pub(in crate::training) gradient: &'a [f32],
    /// Packed weights, tap by tap.
    pub(in crate::training) weights: &'a [CacheLine],
    pub(in crate::training) epilogue: TrainEpilogue<'a>,
}

/// Transformed kernels of some panels.
#[derive(Clone, Copy)]
struct TransformedKernels<'a> {
    arena: &'a Arena,
    first_panel: usize,
    /// Lines between two components: odd, so that they map to different cache sets.
    component_stride: usize,
    /// Lines of a panel.
    panel_len: usize,
}

impl WinogradInputGrad<'_> {
    /// Computes the gradient on the threads of the current rayon pool.
    pub(in crate::training) fn run(&self, workspace: Workspace<'_>, input_gradient: &mut [f32]) {
        let Workspace { block_sizes, thread_buffers, kernel_arena, tile_arena } = workspace;
        let [sources, columns] = self.channels;
        let vectors = self.kernel.layout().vectors;
        let (blocks, panels) = (sources / 16, columns.div_ceil(16 * vectors));
        let (panel_len, n_threads) = (sources * vectors, rayon::current_num_threads());
        let kernel_bytes = COMPONENTS * panels * panel_len * CacheLine::BYTES;
        let chunks = split_evenly(panels, kernel_bytes.div_ceil(block_sizes.kernel_bytes).min(panels));

        let max_panels = chunks.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let tile_bytes = COMPONENTS * (blocks + max_panels * vectors) * CacheLine::BYTES;
        let [min_tiles, max_tiles] = block_sizes.thread_tiles;
        let group_tiles = (block_sizes.thread_bytes / tile_bytes).clamp(min_tiles, max_tiles);
        let n_tiles = self.tiled.n_tiles();
        let groups = split_evenly(n_tiles, n_tiles.div_ceil(group_tiles));
        let parts = (2 * n_threads).div_ceil(groups.len()).min(max_panels);
        // A group that several units read is transformed beforehand.
        let is_shared = chunks.len() * parts > 1;

        kernel_arena.grow(COMPONENTS * (max_panels * panel_len + 1));
        let out = SharedPtr::new(input_gradient);
        let sets = groups.chunks(if is_shared { GROUPS_AT_ONCE } else { groups.len() });
        for (set_index, set) in sets.enumerate() {
            let first = set[0].start;
            let count = set[set.len() - 1].end - first;
            if is_shared {
                tile_arena.grow(transformed_lines(blocks, 1, count));
            }
            let shared = &*tile_arena;
            // The transformed tiles of the set, from tile `start` on.
            let shared_tiles =
                |start: usize| transformed_tiles(shared.pointer().wrapping_add(start), blocks, 1, count);
            if is_shared {
                let parts = split_evenly(count, count.min(4 * n_threads));
                parts.into_par_iter().with_max_len(1).for_each(|tiles| {
                    let dst = shared_tiles(tiles.start);
                    self.transform(first + tiles.start..first + tiles.end, dst);
                });
            }
            for chunk in &chunks {
                let component_stride = (chunk.len() * panel_len) | 1;
                let (arena, first_panel) = (&*kernel_arena, chunk.start);
                let kernels = TransformedKernels { arena, first_panel, component_stride, panel_len };
                if set_index == 0 || chunks.len() > 1 {
                    self.transform_kernels(kernels, chunk.clone(), panels);
                }
                let parts = split_evenly(chunk.len(), parts.min(chunk.len()));
                (0..set.len() * parts.len()).into_par_iter().with_max_len(1).for_each(|unit| {
                    let (group, part) = (set[unit / parts.len()].clone(), &parts[unit % parts.len()]);
                    let panels = chunk.start + part.start..chunk.start + part.end;
                    let width = panels.len() * vectors;
                    let own_lines = if is_shared { 0 } else { transformed_lines(blocks, 1, group.len()) };
                    let lines = own_lines + transformed_lines(width, 1, group.len());
                    with_thread_buffer(thread_buffers, lines, |buffer| {
                        let (tiles, products) = buffer.split_at_mut(own_lines);
                        let products = transformed_tiles(products.as_mut_ptr(), width, 1, group.len());
                        let inputs = if is_shared {
                            shared_tiles(group.start - first)
                        } else {
                            let inputs = transformed_tiles(tiles.as_mut_ptr(), blocks, 1, group.len());
                            self.transform(group.clone(), inputs);
                            inputs
                        };
                        self.multiply_components(kernels, inputs, products, group.len(), panels.clone());
                        let vectors = panels.start * vectors..panels.end * vectors;
                        self.inverse_transform(products, group, vectors, out);
                    });
                });
            }
        }
    }

    /// Transforms tiles of the gradient.
    fn transform(&self, tiles: Range<usize>, dst: TransformedTiles) {
        let (kernel, channels) = (self.kernel, self.channels[0]);
        self.tiled.transform::<InputTiles, IN_SIDE>(kernel, self.gradient, channels, tiles, dst);
    }

    /// Transforms products of tiles to the result, for those of `vectors` (of 16 channels) that it has.
    fn inverse_transform(
        &self,
        transformed: TransformedTiles,
        tiles: Range<usize>,
        vectors: Range<usize>,
        out: SharedPtr<f32>,
    ) {
        let (columns, tiling) = (self.channels[1], self.tiled.tiling);
        let (column, accumulate) = (16 * vectors.start, self.epilogue.accumulate);
        let units = 0..tiles.len() * ((columns / 16).min(vectors.end) - vectors.start);
        let target = TileTarget { out: out.offset(0), offsets: &[], column, columns, accumulate };
        let output = EpilogueSink { target, epilogue: self.epilogue };
        self.kernel.run_f32(InverseTransform { tiling, transformed, tiles, units, output });
    }

    /// Transforms the kernels of panels `chunk`; `panels` is the number of all panels.
    fn transform_kernels(&self, kernels: TransformedKernels<'_>, chunk: Range<usize>, panels: usize) {
        let TransformedKernels { arena, component_stride, panel_len, .. } = kernels;
        let steps = self.channels[0];
        let (vectors, tap_stride) = (panel_len / steps, panels * panel_len);
        let parts = split_evenly(steps, steps.div_ceil(KERNEL_STEPS));
        (0..chunk.len() * parts.len()).into_par_iter().with_max_len(1).for_each(|unit| {
            let (index, steps) = (unit / parts.len(), &parts[unit % parts.len()]);
            let (first, count) = (steps.start * vectors, steps.len() * vectors);
            let src = &self.weights[(chunk.start + index) * panel_len + first..];
            // SAFETY: inside the arena; only this unit writes these lines of each component.
            let dst = unsafe { arena.pointer().add(index * panel_len + first) };
            self.kernel.run_f32(TransformKernels { src, tap_stride, count, dst, component_stride });
        });
    }

    /// Multiplies `count` transformed tiles with panels of the transformed kernels, component by component.
    fn multiply_components(
        &self,
        kernels: TransformedKernels<'_>,
        inputs: TransformedTiles,
        products: TransformedTiles,
        count: usize,
        panels: Range<usize>,
    ) {
        let blocks = 0..self.channels[0] / 16;
        let offsets: Vec<usize> =
            blocks.map(|block| inputs.line_index(block, 0) * CacheLine::BYTES).collect();
        for component in 0..COMPONENTS {
            let panel = (panels.start - kernels.first_panel) * kernels.panel_len;
            let weights = kernels.arena.pointer().wrapping_add(component * kernels.component_stride + panel);
            let block_stride = products.panel_stride;
            // Tiles, kernels and products have the sizes that the GEMM accesses.
            self.kernel.run_f32(Gemm {
                offsets: &offsets,
                steps: 16,
                weights,
                panels: panels.len(),
                spans: RowSpans::single(inputs.component(component).cast_const().cast(), 0, count),
                output: TileOutput {
                    lines: products.component(component),
                    block_stride,
                    epilogue: TileEpilogue::Raw,
                },
                vector: 0,
                stride: PhantomData::<LinePixels>,
            });
        }
    }
}

/// Transforms kernels, 16 at a time.
struct TransformKernels<'a> {
    /// Weights from the first tap of the first kernels on.
    src: &'a [CacheLine],
    /// Lines between two taps.
    tap_stride: usize,
    count: usize,
    /// The first component of the first kernels.
    dst: *mut CacheLine,
    /// Lines between two components.
    component_stride: usize,
}

impl Job for TransformKernels<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let last = TAPS * TAPS - 1;
        assert!(last * self.tap_stride + self.count <= self.src.len(), "kernels are inside the weights");
        for index in 0..self.count {
            let mut taps = [[simd.splat(0.0); TAPS]; TAPS];
            for (tap, value) in taps.as_flattened_mut().iter_mut().enumerate() {
                // SAFETY: checked above.
                *value = unsafe { simd.load(self.src.as_ptr().add(tap * self.tap_stride + index).cast()) };
            }
            for (component, value) in transform_kernel(simd, taps).as_flattened().iter().enumerate() {
                // SAFETY: the job's creator guarantees all components.
                unsafe { simd.store(self.dst.add(component * self.component_stride + index).cast(), *value) };
            }
        }
    }
}
