//! Runs the plan of a network on one thread.

use std::marker::PhantomData;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::cache_line::CacheLine;
use crate::dispatch::AnyKernel;
use crate::gemm::{Gemm, RowSpans};
use crate::image::{NormalizeImages, PixelValues};
use crate::kernels::{ImagePixels, LinePixels, Stride, TileEpilogue, TileOutput, TileResidual};
use crate::layer::{Method, PackedConv, channel_vectors};
use crate::network::{Network, Op, ValueType};
use crate::pad::{Pad, Subsample, TensorView};
use crate::plan::{
    BufferSlot, Plan, PlannedNode, component_stride, padded_images, padded_input, transformed_lines,
};
use crate::pool::{GlobalAvgPool, MaxPool, Strides, UnpackOutput};
use crate::team::{Worker, part_range};
use crate::winograd::{
    COMPONENTS, InputTiles, InverseTransform, Tiling, TransformSource, TransformTiles, TransformedTiles,
};

/// Layout of the values that a run returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputLayout {
    /// Global average pool, `[N, C]`.
    Pooled,
    /// `[N, C, H', W']`.
    Nchw,
    /// `[N, H', W', C]`.
    Nhwc,
}

/// Runs the plan on one thread. The threads of a team run the same nodes, each computes its share of a node,
/// and they synchronize after each node.
///
/// While the team runs, no other thread uses the arena, which has `plan.arena_lines` lines; the plan belongs
/// to `network`.
pub(crate) struct Executor<'a> {
    pub(crate) network: &'a Network,
    pub(crate) plan: &'a Plan,
    /// The first line of the memory that the team's threads share: all values and scratch memory.
    pub(crate) arena: *mut CacheLine,
    /// This thread's place in the team.
    pub(crate) worker: Worker<'a>,
    /// Pixels of the whole batch.
    pub(crate) values: PixelValues<'a>,
    /// Index of the last stage to run, and of the tap at its end.
    pub(crate) stage: usize,
    /// Layout of the output.
    pub(crate) layout: OutputLayout,
    /// The output of the whole batch.
    pub(crate) out: *mut f32,
    pub(crate) observer: Option<&'a dyn LayerObserver>,
}

/// Callbacks before and after each layer, from the first thread of each team: for layer times and activation
/// statistics.
pub(crate) trait LayerObserver: Sync {
    /// Called before the node with this index runs on `input`.
    fn before_layer(&self, _node: usize, _input: TensorView) {}

    /// Called after the node has run on a group of images, in time `_elapsed`.
    fn after_layer(&self, _node: usize, _elapsed: Duration) {}
}

/// A convolution with its buffers for a group of images.
#[derive(Clone, Copy)]
struct ConvContext<'a> {
    planned: &'a PlannedNode,
    /// The GEMM and vector code, not the convolution's kernel.
    kernel: AnyKernel,
    packed: &'a PackedConv,
    input: TensorView,
    output: TileOutput,
    /// Height and width of the output.
    output_size: (usize, usize),
}

impl Executor<'_> {
    /// Runs the network on the images with indices `images` of the batch, a group at a time so that values
    /// fit the cache, and writes their output.
    pub(crate) fn run(&self, images: Range<usize>) {
        let group_size = self.plan.stages[self.stage].group_size;
        let mut first = images.start;
        while first < images.end {
            let count = group_size.min(images.end - first);
            self.run_stage(self.stage, first, count);
            self.write_output(first, count);
            self.worker.wait();
            first += count;
        }
    }

    /// Computes the value at the end of `stage` for images `first..first + count` of the batch, and stores it
    /// in the slot of the arena that the plan gives it. Works on one group of images of this stage at a time;
    /// for each, the previous stage runs first (recursively), in its own smaller groups.
    fn run_stage(&self, stage: usize, first: usize, count: usize) {
        let stage_plan = &self.plan.stages[stage];
        let mut n_done = 0;
        while n_done < count {
            let n_images = stage_plan.group_size.min(count - n_done);
            if let Some(previous) = stage.checked_sub(1) {
                self.run_stage(previous, first + n_done, n_images);
            }
            for planned in &stage_plan.planned_nodes {
                let is_last = self.network.nodes[planned.node].output == self.network.taps[stage];
                let observer = self.observer.filter(|_| self.worker.rank == 0);
                let started = observer.map(|observer| {
                    let size = self.plan.sizes[self.network.nodes[planned.node].input];
                    observer.before_layer(planned.node, self.tensor_view(planned.input, n_images, size));
                    Instant::now()
                });
                // The last node appends to the images of earlier groups.
                let skipped_images = if is_last { n_done } else { 0 };
                self.run_node(planned, first + n_done, n_images, skipped_images);
                self.worker.wait();
                if let (Some(observer), Some(started)) = (observer, started) {
                    observer.after_layer(planned.node, started.elapsed());
                }
            }
            n_done += n_images;
        }
    }

    /// Pointer to the line at `offset` in the arena.
    fn line_at(&self, offset: usize) -> *mut CacheLine {
        // SAFETY: the plan's offsets are inside the arena.
        unsafe { self.arena.add(offset) }
    }

    /// A view of the first `images` images, of `height` x `width` pixels, of the value in a slot of the
    /// arena.
    fn tensor_view(&self, slot: BufferSlot, images: usize, (height, width): (usize, usize)) -> TensorView {
        let BufferSlot { offset, block_stride } = slot;
        TensorView { lines: self.line_at(offset), block_stride, images, height, width }
    }

    /// Computes this thread's share of a node (a layer) for images `first..first + images` of the batch. The
    /// output is stored in its slot of the arena, after `skipped_images` images that are there already.
    fn run_node(&self, planned: &PlannedNode, first: usize, images: usize, skipped_images: usize) {
        let node = &self.network.nodes[planned.node];
        let (input_size, output_size) = (self.plan.sizes[node.input], self.plan.sizes[node.output]);
        let (rows, columns) = output_size;
        let input = self.tensor_view(planned.input, images, input_size);
        let output_lines = self.line_at(planned.output.offset + skipped_images * rows * columns);
        match &node.op {
            Op::MaxPool { kernel_size, stride, padding } => {
                let units = self.network.n_blocks(node.output) * images * rows;
                node.kernel.run(MaxPool {
                    input,
                    kernel_size: *kernel_size,
                    stride: *stride,
                    padding: *padding,
                    output: output_lines,
                    block_stride: planned.output.block_stride,
                    units: self.worker.own_range(units),
                });
            }
            Op::Convolution { packed, residual, relu } => {
                let epilogue = TileEpilogue::Add {
                    bias: packed.bias.as_ptr(),
                    residual: residual.map(|_| TileResidual {
                        lines: self.line_at(planned.residual.offset),
                        block_stride: planned.residual.block_stride,
                    }),
                    floor: if *relu { 0.0 } else { f32::NEG_INFINITY },
                };
                let block_stride = planned.output.block_stride;
                let output = TileOutput { lines: output_lines, block_stride, epilogue };
                let context =
                    ConvContext { planned, kernel: node.kernel, packed, input, output, output_size };
                match packed.method {
                    Method::FirstLayer => self.first_layer_conv(context, first),
                    Method::Pointwise => self.pointwise_conv(context),
                    Method::Direct => self.direct_conv(context),
                    Method::Winograd => self.winograd_conv(context),
                }
            }
        }
    }

    /// Computes this thread's share of the first layer, on the images of the batch from index `first` on:
    /// copies them, normalized and padded, to scratch memory, then multiplies the rows of the copy. The
    /// threads wait in between, since each reads what others copied.
    fn first_layer_conv(&self, context: ConvContext<'_>, first: usize) {
        let ConvContext { planned, kernel, packed, input, .. } = context;
        let padded = padded_images(packed, input.height, input.width);
        let padded_rows: *mut f32 = self.line_at(planned.scratch).cast();
        kernel.run(NormalizeImages {
            values: self.values,
            first_image: first,
            normalization: &self.network.normalization,
            padded,
            dst: padded_rows,
            units: self.worker.own_range(input.images * padded.n_rows()),
        });
        self.worker.wait();
        let row_bytes = padded.row_len * size_of::<f32>();
        self.gemm_rows::<ImagePixels>(context, padded_rows.cast(), padded.n_rows() * row_bytes, row_bytes);
    }

    /// Computes this thread's share of a 1 x 1 convolution: one GEMM, over a subsampled copy of the input if
    /// the stride is above 1. Pixels are adjacent lines, so that tiles may go across rows and images.
    fn pointwise_conv(&self, context: ConvContext<'_>) {
        let ConvContext { planned, kernel, packed, input, output, output_size: (height, width) } = context;
        let pixels = input.images * height * width;
        let mut input_lines = input.lines;
        if packed.stride > 1 {
            let dst = self.line_at(planned.scratch);
            let units = self.worker.own_range(packed.panels.k_blocks * input.images * height);
            let block_stride = planned.copy_block_stride;
            kernel.run(Subsample { input, stride: packed.stride, dst, block_stride, units });
            self.worker.wait();
            input_lines = dst;
        }
        // The threads share tiles of `max_rows` pixels; the last tile may have fewer.
        let max_rows = kernel.layout().max_rows;
        let (panels, tiles) = self.partition(packed, pixels.div_ceil(max_rows), pixels * packed.inputs);
        let (start, end) = ((tiles.start * max_rows).min(pixels), (tiles.end * max_rows).min(pixels));
        // SAFETY: the pixels are inside the input.
        let src = unsafe { input_lines.add(start).cast() };
        self.gemm::<LinePixels>(context, 0, panels, RowSpans::single(src, start, end - start), output);
    }

    /// Computes this thread's share of a convolution of any size and stride: copies the input, padded with
    /// zeros, to scratch memory; then one GEMM sums over channels and positions in the convolution's kernel.
    fn direct_conv(&self, context: ConvContext<'_>) {
        let ConvContext { planned, kernel, packed, input, .. } = context;
        let padded = padded_input(packed, input.height, input.width);
        let copy = self.line_at(planned.scratch);
        let units = self.worker.own_range(packed.input_blocks() * input.images * padded.n_rows());
        kernel.run(Pad { input, padded, dst: copy, block_stride: planned.copy_block_stride, units });
        self.worker.wait();
        let image_bytes = padded.image_len() * CacheLine::BYTES;
        self.gemm_rows::<LinePixels>(context, copy.cast(), image_bytes, padded.row_len() * CacheLine::BYTES);
    }

    /// Computes this thread's share of a convolution whose GEMM reads `src`, a padded copy of the input with
    /// images `image_bytes` and rows `row_bytes` apart. The padding separates the rows, so the GEMM goes over
    /// the output row by row: a span of pixels is one row.
    fn gemm_rows<S: Stride>(
        &self,
        context: ConvContext<'_>,
        src: *const u8,
        image_bytes: usize,
        row_bytes: usize,
    ) {
        let ConvContext { packed, input, output, output_size: (height, width), .. } = context;
        let (panels, rows) =
            self.partition(packed, input.images * height, input.images * input.height * input.width);
        // Rows are numbered across images; each GEMM takes the rows of one image.
        let mut start = rows.start;
        while start < rows.end {
            let (image, y) = (start / height, start % height);
            let count = (height - y).min(rows.end - start);
            let src_stride = row_bytes * packed.stride;
            // SAFETY: the image and the row are inside the copy.
            let src = unsafe { src.add(image * image_bytes + y * src_stride) };
            let pixel = start * width;
            let spans = RowSpans { src, pixel, count, length: width, src_stride, dst_stride: width };
            self.gemm::<S>(context, 0, panels.clone(), spans, output);
            start += count;
        }
    }

    /// Computes this thread's share of a 3 x 3 convolution by Winograd's algorithm, some tiles at a time so
    /// that they fit the cache. A tile, 4 x 4 outputs and the inputs that they need, is transformed to 36
    /// components; each component is multiplied with that of the weights in its own GEMM; the products are
    /// transformed to outputs.
    fn winograd_conv(&self, context: ConvContext<'_>) {
        let ConvContext { planned, kernel, packed, input, output, .. } = context;
        let tiling = Tiling { height: input.height, width: input.width };
        let n_tiles = input.images * tiling.tiles_per_image();
        let (blocks, vectors) = (packed.panels.k_blocks, channel_vectors(packed.outputs));
        let transformed_tiles = |offset: usize, blocks: usize| TransformedTiles {
            lines: self.line_at(offset),
            component_stride: component_stride(blocks, planned.tiles),
            panel_stride: planned.tiles,
            panel_blocks: 1,
        };
        // The scratch memory holds the transformed inputs, then their products with the transformed kernels.
        let inputs = transformed_tiles(planned.scratch, blocks);
        let products = transformed_tiles(planned.scratch + transformed_lines(blocks, planned.tiles), vectors);
        let mut first = 0;
        while first < n_tiles {
            // The threads share the units of each of the three jobs, and wait for each other in between.
            let tiles = first..n_tiles.min(first + planned.tiles);
            let count = tiles.len();
            // Input transform.
            let units = self.worker.own_range(blocks * count);
            let TensorView { lines, block_stride, .. } = input;
            let source = TransformSource { lines, pixel_stride: 1, block_stride };
            let kind = PhantomData::<InputTiles>;
            kernel.run(TransformTiles { tiling, source, tiles: tiles.clone(), units, dst: inputs, kind });
            self.worker.wait();
            // GEMMs: a unit is a panel of one component's weights; adjacent panels are multiplied together.
            let units = self.worker.own_range(COMPONENTS * packed.panels.count);
            let mut unit = units.start;
            while unit < units.end {
                let (component, start) = (unit / packed.panels.count, unit % packed.panels.count);
                let end = packed.panels.count.min(start + units.end - unit);
                let spans = RowSpans::single(inputs.component(component).cast(), 0, count);
                let lines = products.component(component);
                let block_stride = products.panel_stride;
                let product = TileOutput { lines, block_stride, epilogue: TileEpilogue::Raw };
                self.gemm::<LinePixels>(context, component, start..end, spans, product);
                unit += end - start;
            }
            self.worker.wait();
            // Output transform.
            let units = self.worker.own_range(vectors * count);
            first = tiles.end;
            kernel.run(InverseTransform { tiling, products, tiles, units, output });
        }
    }

    /// Returns this thread's share of a GEMM: a range of the panels of weights, and a range of `0..units`,
    /// the rows or tiles of pixels. The team is a grid: `panel_parts` parts of the panels times parts of the
    /// units, such that the largest share is smallest. Of equal grids, `input_len`, a measure of the input's
    /// size, decides whether the threads rather split the panels or the units.
    fn partition(&self, packed: &PackedConv, units: usize, input_len: usize) -> (Range<usize>, Range<usize>) {
        let Worker { rank, team_size, .. } = self.worker;
        let panels = packed.panels.count;
        // Threads that split the panels all read every value, those that split the units every weight. With
        // more weights (16 `f32` per cache line) than values it is better to split the panels.
        let prefers_panels = packed.weights.len() * 16 > input_len;
        let panel_parts = (1..=team_size)
            .filter(|parts| team_size % parts == 0)
            .min_by_key(|&parts| {
                let largest_share = panels.div_ceil(parts) * units.div_ceil(team_size / parts);
                (largest_share, if prefers_panels { team_size - parts } else { parts })
            })
            .unwrap_or(1);
        let own_units = part_range(rank / panel_parts, team_size / panel_parts, units);
        (part_range(rank % panel_parts, panel_parts, panels), own_units)
    }

    /// Multiplies the panels with indices `panels`, of the weight matrix with index `matrix` (the component
    /// for Winograd, else 0), with the pixels of `spans`, and stores the results in `output`. All
    /// convolutions come down to this. In debug builds, checks that all accesses are inside the arena.
    fn gemm<S: Stride>(
        &self,
        context: ConvContext<'_>,
        matrix: usize,
        panels: Range<usize>,
        spans: RowSpans,
        output: TileOutput,
    ) {
        let ConvContext { packed, planned, kernel, .. } = context;
        if panels.is_empty() || spans.count * spans.length == 0 {
            return;
        }
        let layout = kernel.layout();
        // The first line of the weights of these panels.
        let first = (matrix * packed.panels.count + panels.start) * packed.panels.lines_per_panel(layout);
        debug_assert!(
            first + panels.len() * packed.panels.lines_per_panel(layout) <= packed.weights.len(),
            "panels"
        );
        debug_assert!(packed.bias.len() >= 16 * panels.end * layout.vectors_per_panel, "biases");
        // All reads (4 bytes per step) and writes end before the arena's slack, which only rows that a tile
        // does not need may read.
        #[cfg(debug_assertions)]
        {
            let end = (self.plan.arena_lines - crate::plan::READ_SLACK) * CacheLine::BYTES;
            let arena_offset = |address: usize| address - self.arena.addr();
            let farthest = planned.offsets.iter().max().map_or(0, |offset| offset + 4 * packed.panels.steps);
            let read = (spans.count - 1) * spans.src_stride + (spans.length - 1) * S::BYTES + farthest;
            debug_assert!(arena_offset(spans.src.addr()) + read <= end, "activations");
            // The products of Winograd components are `f32`, all others have the precision of the output.
            let vectors_per_line = match output.epilogue {
                TileEpilogue::Raw => 1,
                TileEpilogue::Add { .. } => {
                    self.network.values[self.network.nodes[planned.node].output].precision.vectors_per_line()
                }
            };
            let block = (panels.end * layout.vectors_per_panel - 1) / vectors_per_line * output.block_stride;
            let lines = block + spans.pixel + (spans.count - 1) * spans.dst_stride + spans.length;
            debug_assert!(arena_offset(output.lines.addr()) + lines * CacheLine::BYTES <= end, "output");
        }
        kernel.run(Gemm {
            offsets: &planned.offsets,
            steps: packed.panels.steps,
            weights: packed.weights[first..].as_ptr(),
            panels: panels.len(),
            spans,
            output,
            vector: panels.start * layout.vectors_per_panel,
            stride: PhantomData::<S>,
        });
    }

    /// Writes this thread's share of the requested output, from the arena to the caller's memory as `f32` in
    /// the requested layout, for images `first..first + count` of the batch: averages over pixels, or all
    /// values.
    fn write_output(&self, first: usize, count: usize) {
        let Self { stage, layout, out, .. } = *self;
        let value = self.network.taps[stage];
        let ValueType { channels, precision } = self.network.values[value];
        let (height, width) = self.plan.sizes[value];
        let kernel = self.network.kernel_for(precision);
        let slot = self.plan.stages[stage].output;
        let input = self.tensor_view(slot, count, (height, width));
        let units = self.worker.own_range(count * channels.div_ceil(16 * precision.vectors_per_line()));
        let pixels = height * width;
        let image_len = if layout == OutputLayout::Pooled { channels } else { channels * pixels };
        // SAFETY: the session has checked the length of the output.
        let out = unsafe { out.add(first * image_len) };
        let strides = match layout {
            OutputLayout::Pooled => return kernel.run(GlobalAvgPool { input, channels, out, units }),
            OutputLayout::Nchw => Strides { channel: pixels, pixel: 1 },
            OutputLayout::Nhwc => Strides { channel: 1, pixel: channels },
        };
        kernel.run(UnpackOutput { input, channels, strides, out, units });
    }
}
