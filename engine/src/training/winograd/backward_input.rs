//! The derivative by the input: a convolution of that by the output, with kernels turned around.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::{TiledConv, Workspace, transformed_lines, transformed_tiles};
use crate::cache_line::{Arena, CacheLine};
use crate::dispatch::AnyKernel;
use crate::gemm::{self, RowSpans};
use crate::kernels::{Job, Kernel, Simd};
use crate::tile::{self, LinePixels, TileOutput};
use crate::training::im2col_gemm::{EpilogueSink, SharedOutput, TileTarget, with_thread_buffer};
use crate::training::{TrainEpilogue, split_evenly};
use crate::winograd::{
    COMPONENTS, IN_SIDE, InputTiles, InverseTransform, TAPS, TransformedTiles, transform_kernel,
};

/// Steps of a panel's kernels that are transformed by a unit.
const KERNEL_STEPS: usize = 64;
/// Groups of tiles that are transformed before kernels pass by.
const GROUPS_AT_ONCE: usize = 4;

/// A convolution as products at the points.
pub(in crate::training) struct WinogradInputGrad<'a> {
    pub(in crate::training) kernel: AnyKernel,
    pub(in crate::training) tiled: TiledConv,
    /// Channels that sums go over, and those of the result.
    pub(in crate::training) channels: [usize; 2],
    /// `[N, H, W, C]`
    pub(in crate::training) gradient: &'a [f32],
    /// Packed, a tap after the other.
    pub(in crate::training) weights: &'a [CacheLine],
    pub(in crate::training) epilogue: TrainEpilogue<'a>,
}

/// Kernels of some panels at the points.
#[derive(Clone, Copy)]
struct TransformedKernels<'a> {
    arena: &'a Arena,
    /// The first panel.
    first_panel: usize,
    /// Cells from a point to the next: odd.
    component_stride: usize,
    /// Cells of a panel.
    panel_len: usize,
}

impl WinogradInputGrad<'_> {
    pub(in crate::training) fn run(&self, workspace: Workspace<'_>, input_gradient: &mut [f32]) {
        let Workspace { block_sizes, thread_buffers, kernel_arena, tile_arena } = workspace;
        let [sources, columns] = self.channels;
        let vectors = self.kernel.layout().vectors;
        let (blocks, panels) = (sources / 16, columns.div_ceil(16 * vectors));
        let (panel, n_threads) = (sources * vectors, rayon::current_num_threads());
        let chunks = split_evenly(
            panels,
            (COMPONENTS * panels * panel * CacheLine::BYTES).div_ceil(block_sizes.kernel_bytes).min(panels),
        );

        let max_panels = chunks.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let tile_bytes = COMPONENTS * (blocks + max_panels * vectors) * CacheLine::BYTES;
        let [min_tiles, max_tiles] = block_sizes.thread_tiles;
        let n_tiles = self.tiled.n_tiles();
        let groups = split_evenly(
            n_tiles,
            n_tiles.div_ceil((block_sizes.thread_bytes / tile_bytes).clamp(min_tiles, max_tiles)),
        );
        let parts = (2 * n_threads).div_ceil(groups.len()).min(max_panels);
        // Where a group is taken more than once it is transformed beforehand.
        let is_shared = chunks.len() * parts > 1;

        kernel_arena.grow(COMPONENTS * (max_panels * panel + 1));
        let out = SharedOutput(input_gradient.as_mut_ptr());
        for (number, set) in groups.chunks(if is_shared { GROUPS_AT_ONCE } else { groups.len() }).enumerate()
        {
            let first = set[0].start;
            let count = set[set.len() - 1].end - first;
            if is_shared {
                tile_arena.grow(transformed_lines(blocks, 1, count));
                let shared = &*tile_arena;
                split_evenly(count, count.min(4 * n_threads)).into_par_iter().with_max_len(1).for_each(
                    |tiles| {
                        let mut to = transformed_tiles(shared.pointer(), blocks, 1, count);
                        to.lines = to.lines.wrapping_add(tiles.start);
                        self.transform(first + tiles.start..first + tiles.end, to);
                    },
                );
            }
            let shared = &*tile_arena;
            for chunk in &chunks {
                let point = (chunk.len() * panel) | 1;
                let kernels = TransformedKernels {
                    arena: kernel_arena,
                    first_panel: chunk.start,
                    component_stride: point,
                    panel_len: panel,
                };
                if number == 0 || chunks.len() > 1 {
                    self.transform_kernels(kernels, chunk.clone(), panels);
                }
                let parts = split_evenly(chunk.len(), parts.min(chunk.len()));
                (0..set.len() * parts.len()).into_par_iter().with_max_len(1).for_each(|unit| {
                    let (group, part) = (set[unit / parts.len()].clone(), &parts[unit % parts.len()]);
                    let panels = chunk.start + part.start..chunk.start + part.end;
                    let width = panels.len() * vectors;
                    let own_lines = if is_shared { 0 } else { transformed_lines(blocks, 1, group.len()) };
                    with_thread_buffer(
                        thread_buffers,
                        own_lines + transformed_lines(width, 1, group.len()),
                        |cells| {
                            let (tiles, products) = cells.split_at_mut(own_lines);
                            let products = transformed_tiles(products.as_mut_ptr(), width, 1, group.len());
                            let inputs = if is_shared {
                                let mut inputs = transformed_tiles(shared.pointer(), blocks, 1, count);
                                inputs.lines = inputs.lines.wrapping_add(group.start - first);
                                inputs
                            } else {
                                let inputs = transformed_tiles(tiles.as_mut_ptr(), blocks, 1, group.len());
                                self.transform(group.clone(), inputs);
                                inputs
                            };
                            self.multiply_components(
                                kernels,
                                (inputs, products),
                                group.len(),
                                panels.clone(),
                            );
                            self.inverse_transform(
                                products,
                                group,
                                panels.start * vectors..panels.end * vectors,
                                out,
                            );
                        },
                    );
                });
            }
        }
    }

    fn transform(&self, tiles: Range<usize>, to: TransformedTiles) {
        self.tiled.transform::<InputTiles, IN_SIDE>(
            self.kernel,
            (self.gradient, self.channels[0]),
            tiles,
            to,
        );
    }

    /// Transforms products of tiles back, and finishes some vectors of channels, as many of them as there are.
    fn inverse_transform(
        &self,
        transformed: TransformedTiles,
        tiles: Range<usize>,
        vectors: Range<usize>,
        out: SharedOutput,
    ) {
        let columns = self.channels[1];
        let (column, adds) = (16 * vectors.start, self.epilogue.accumulate);
        let units = 0..tiles.len() * ((columns / 16).min(vectors.end) - vectors.start);
        let target = TileTarget { out: out.0, offsets: &[], column, columns, accumulate: adds };
        let output = EpilogueSink { target, epilogue: self.epilogue };
        self.kernel.run_f32(InverseTransform {
            tiling: self.tiled.tiling,
            transformed,
            tiles,
            units,
            output,
        });
    }

    /// Transforms kernels of some panels, of so many in all.
    fn transform_kernels(&self, kernels: TransformedKernels<'_>, chunk: Range<usize>, panels: usize) {
        let steps = self.channels[0];
        let parts = split_evenly(steps, steps.div_ceil(KERNEL_STEPS));
        (0..chunk.len() * parts.len()).into_par_iter().with_max_len(1).for_each(|unit| {
            let (index, steps) = (unit / parts.len(), parts[unit % parts.len()].clone());
            let (tap, vectors) = (panels * kernels.panel_len, kernels.panel_len / self.channels[0]);
            let within = steps.start * vectors..steps.end * vectors;
            let start = (chunk.start + index) * kernels.panel_len + within.start;
            // SAFETY: the unit's cells of each point are its own, and inside.
            let dst = unsafe { kernels.arena.pointer().add(index * kernels.panel_len + within.start) };
            let from = &self.weights[start..];
            self.kernel.run_f32(TransformKernels {
                src: from,
                tap_stride: tap,
                count: within.len(),
                dst,
                component_stride: kernels.component_stride,
            });
        });
    }

    /// Products of tiles with panels, point by point.
    fn multiply_components(
        &self,
        kernels: TransformedKernels<'_>,
        (inputs, products): (TransformedTiles, TransformedTiles),
        count: usize,
        panels: Range<usize>,
    ) {
        let offsets: Vec<usize> =
            (0..self.channels[0] / 16).map(|block| inputs.line_index(block, 0) * CacheLine::BYTES).collect();
        for component in 0..COMPONENTS {
            let start = component * kernels.component_stride
                + (panels.start - kernels.first_panel) * kernels.panel_len;
            let output = products.lines.wrapping_add(component * products.component_stride);
            // All of these are as many as the product takes.
            self.kernel.run_f32(gemm::Gemm {
                activations: inputs
                    .lines
                    .wrapping_add(component * inputs.component_stride)
                    .cast_const()
                    .cast(),
                offsets: &offsets,
                steps: 16,
                weights: kernels.arena.pointer().wrapping_add(start),
                panels: panels.len(),
                spans: RowSpans { count: 1, length: count, src_stride: 0, dst_stride: 0 },
                output: TileOutput {
                    lines: output,
                    block_stride: products.panel_stride,
                    epilogue: tile::TileEpilogue::Raw,
                },
                pixel: 0,
                vector: 0,
                stride: PhantomData::<LinePixels>,
            });
        }
    }
}

/// Transforms kernels, 16 at a time.
struct TransformKernels<'a> {
    /// From the first one's first tap on.
    src: &'a [CacheLine],
    /// Cells from a tap to the next.
    tap_stride: usize,
    count: usize,
    /// The first point of the first one, and cells from a point to the next.
    dst: *mut CacheLine,
    component_stride: usize,
}

impl Job for TransformKernels<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        let simd = kernel.simd();
        let last = TAPS * TAPS - 1;
        assert!(last * self.tap_stride + self.count <= self.src.len(), "kernels are inside");
        for index in 0..self.count {
            let mut taps = [[simd.splat(0.0); TAPS]; TAPS];
            for (tap, value) in taps.as_flattened_mut().iter_mut().enumerate() {
                // SAFETY: checked above.
                *value = unsafe { simd.load(self.src.as_ptr().add(tap * self.tap_stride + index).cast()) };
            }
            for (component, value) in transform_kernel(simd, taps).as_flattened().iter().enumerate() {
                // SAFETY: the maker of the job vouches for all points.
                unsafe { simd.store(self.dst.add(component * self.component_stride + index).cast(), *value) };
            }
        }
    }
}
