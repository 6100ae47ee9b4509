//! Runs the plan of a network on one thread.

use std::marker::PhantomData;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::cache_line::CacheLine;
use crate::dispatch::AnyKernel;
use crate::gemm::{Gemm, RowSpans};
use crate::image::{NormalizeImages, PixelValues};
use crate::layer::{Method, PackedConv, channel_vectors};
use crate::network::{Network, Op};
use crate::pad::{Pad, Subsample, TensorView};
use crate::plan::{BufferSlot, Plan, Step, component_stride, padded_images, padded_input, transformed_lines};
use crate::pool::{GlobalAvgPool, MaxPool, Strides, UnpackOutput};
use crate::session::OutputLayout;
use crate::team::{Worker, part_range};
use crate::tile::{ImagePixels, LinePixels, Stride, TileEpilogue, TileOutput, TileResidual};
use crate::winograd::{
    COMPONENTS, InputTiles, InverseTransform, Tiling, TransformSource, TransformTiles, TransformedTiles,
};

/// The last stage to run, and where and how its value is written.
#[derive(Clone, Copy)]
pub(crate) struct OutputRequest {
    pub(crate) stage: usize,
    pub(crate) layout: OutputLayout,
    pub(crate) out: *mut f32,
}

/// Runs the plan on one thread. The threads of a team execute the same steps and synchronize after each.
///
/// While the team runs, no other thread uses the arena, which has `plan.arena_lines` lines; the plan belongs to
/// `network`.
pub(crate) struct Executor<'a> {
    pub(crate) network: &'a Network,
    pub(crate) plan: &'a Plan,
    pub(crate) arena: *mut CacheLine,
    pub(crate) worker: Worker<'a>,
    pub(crate) values: PixelValues<'a>,
    pub(crate) request: OutputRequest,
    pub(crate) observer: Option<&'a dyn LayerObserver>,
}

/// Callbacks before and after each layer, from the first thread of each team.
pub(crate) trait LayerObserver: Sync {
    /// Called before `node` runs on `input`.
    fn before_layer(&self, _node: usize, _input: TensorView) {}

    /// Called after `node` has run.
    fn after_layer(&self, _node: usize, _elapsed: Duration) {}
}

/// The inputs of a convolution step.
#[derive(Clone, Copy)]
struct StepContext<'a> {
    step: &'a Step,
    kernel: AnyKernel,
    packed: &'a PackedConv,
    input: TensorView,
    output: TileOutput,
    /// Height and width of the output.
    output_size: (usize, usize),
}

impl Executor<'_> {
    /// Runs images `images` of the batch and writes their output.
    pub(crate) fn run(&self, images: Range<usize>) {
        let OutputRequest { stage, .. } = self.request;
        let group = self.plan.stages[stage].group_size;
        let mut first = images.start;
        while first < images.end {
            let count = group.min(images.end - first);
            self.run_stage(stage, first, count, 0);
            self.write_output(first, count);
            self.worker.wait();
            first += count;
        }
    }

    /// Computes the value at the end of `stage` for images `first..first + count` of the batch. It is stored
    /// `skipped_images` images after the start of its slot.
    fn run_stage(&self, stage: usize, first: usize, count: usize, skipped_images: usize) {
        let stage_plan = &self.plan.stages[stage];
        let mut n_done = 0;
        while n_done < count {
            let n_images = stage_plan.group_size.min(count - n_done);
            if let Some(previous) = stage.checked_sub(1) {
                self.run_stage(previous, first + n_done, n_images, 0);
            }
            for step in &stage_plan.steps {
                let last = self.network.nodes[step.node].output == self.network.taps[stage];
                let observer = self.observer.filter(|_| self.worker.rank == 0);
                let started = observer.map(|observer| {
                    let size = self.plan.sizes[self.network.nodes[step.node].input];
                    observer.before_layer(step.node, self.tensor_view(step.input, n_images, size));
                    Instant::now()
                });
                self.run_step(step, first + n_done, n_images, if last { skipped_images + n_done } else { 0 });
                self.worker.wait();
                if let (Some(observer), Some(started)) = (observer, started) {
                    observer.after_layer(step.node, started.elapsed());
                }
            }
            n_done += n_images;
        }
    }

    /// The line at `offset` in the arena.
    fn line_at(&self, offset: usize) -> *mut CacheLine {
        // SAFETY: the plan's offsets are inside the arena.
        unsafe { self.arena.add(offset) }
    }

    /// The first `images` images, of `height` x `width` pixels, in a slot.
    fn tensor_view(&self, slot: BufferSlot, images: usize, (height, width): (usize, usize)) -> TensorView {
        let BufferSlot { offset, block_stride } = slot;
        TensorView { lines: self.line_at(offset), block_stride, images, height, width }
    }

    /// This thread's share of a step for images `first..first + images` of the batch; `skipped_images` is as
    /// in [`run_stage`](Self::run_stage).
    fn run_step(&self, step: &Step, first: usize, images: usize, skipped_images: usize) {
        let node = &self.network.nodes[step.node];
        let (input_size, output_size) = (self.plan.sizes[node.input], self.plan.sizes[node.output]);
        let input = self.tensor_view(step.input, images, input_size);
        let output_lines = self.line_at(step.output.offset + skipped_images * output_size.0 * output_size.1);
        match &node.op {
            Op::MaxPool { kernel, stride, padding } => {
                let units = self.network.n_blocks(node.output) * images * output_size.0;
                node.kernel.run(MaxPool {
                    input,
                    kernel: *kernel,
                    stride: *stride,
                    padding: *padding,
                    output: output_lines,
                    block_stride: step.output.block_stride,
                    units: self.worker.own_range(units),
                });
            }
            Op::Convolution { packed, residual, relu } => {
                let epilogue = TileEpilogue::Add {
                    bias: packed.bias.as_ptr(),
                    residual: residual.map(|_| TileResidual {
                        lines: self.line_at(step.residual.offset),
                        block_stride: step.residual.block_stride,
                    }),
                    floor: if *relu { 0.0 } else { f32::NEG_INFINITY },
                };
                let block_stride = step.output.block_stride;
                let output = TileOutput { lines: output_lines, block_stride, epilogue };
                let context = StepContext { step, kernel: node.kernel, packed, input, output, output_size };
                match packed.method {
                    Method::Image => self.image_conv(context, first),
                    Method::Pointwise => self.pointwise_conv(context),
                    Method::Direct => self.direct_conv(context),
                    Method::Winograd => self.winograd_conv(context),
                }
            }
        }
    }

    /// The first layer, which reads padded and normalized rows of the images.
    fn image_conv(&self, context: StepContext<'_>, first: usize) {
        let StepContext { step, kernel, packed, input, .. } = context;
        let padded = padded_images(packed, input.height, input.width);
        let padded_rows: *mut f32 = self.line_at(step.scratch).cast();
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

    /// A 1 x 1 convolution: one GEMM, over a subsampled copy of the input if the stride is above 1.
    fn pointwise_conv(&self, context: StepContext<'_>) {
        let StepContext { step, kernel, packed, input, output, output_size } = context;
        let pixels = input.images * output_size.0 * output_size.1;
        let mut input_lines = input.lines;
        if packed.stride > 1 {
            let dst = self.line_at(step.scratch);
            let units = self.worker.own_range(packed.panels.k_blocks * input.images * output_size.0);
            let block_stride = step.copy_block_stride;
            kernel.run(Subsample { input, stride: packed.stride, dst, block_stride, units });
            self.worker.wait();
            input_lines = dst;
        }
        let rows = kernel.layout().rows;
        let (panels, tiles) = self.partition(packed, pixels.div_ceil(rows), pixels * packed.inputs);
        let (start, end) = ((tiles.start * rows).min(pixels), (tiles.end * rows).min(pixels));
        // SAFETY: the pixels are inside the input.
        let src = unsafe { input_lines.add(start).cast() };
        self.gemm::<LinePixels>(context, 0, panels, RowSpans::single(src, start, end - start), output);
    }

    /// A convolution as one GEMM over channels and taps, which reads a padded copy of the input.
    fn direct_conv(&self, context: StepContext<'_>) {
        let StepContext { step, kernel, packed, input, .. } = context;
        let padded = padded_input(packed, input.height, input.width);
        let copy = self.line_at(step.scratch);
        let blocks = packed.panels.k_blocks / (packed.kernel * packed.kernel);
        let units = self.worker.own_range(blocks * input.images * padded.n_rows());
        kernel.run(Pad { input, padded, dst: copy, block_stride: step.copy_block_stride, units });
        self.worker.wait();
        let image_bytes = padded.image_len() * CacheLine::BYTES;
        self.gemm_rows::<LinePixels>(context, copy.cast(), image_bytes, padded.row_len() * CacheLine::BYTES);
    }

    /// A GEMM over rows of the output. `src` is the first row it reads; images are `image_bytes` and rows
    /// `row_bytes` apart.
    fn gemm_rows<S: Stride>(
        &self,
        context: StepContext<'_>,
        src: *const u8,
        image_bytes: usize,
        row_bytes: usize,
    ) {
        let StepContext { packed, input, output, output_size: (height, width), .. } = context;
        let (panels, rows) =
            self.partition(packed, input.images * height, input.images * input.height * input.width);
        let mut start = rows.start;
        while start < rows.end {
            let (image, y) = (start / height, start % height);
            let count = (height - y).min(rows.end - start);
            let row_step = row_bytes * packed.stride;
            // SAFETY: the image and the row are inside the copy.
            let src = unsafe { src.add(image * image_bytes + y * row_step) };
            let pixel = start * width;
            let spans =
                RowSpans { src, pixel, count, length: width, src_stride: row_step, dst_stride: width };
            self.gemm::<S>(context, 0, panels.clone(), spans, output);
            start += count;
        }
    }

    /// A 3 x 3 convolution by Winograd's algorithm: input transform, one GEMM per component, output
    /// transform.
    fn winograd_conv(&self, context: StepContext<'_>) {
        let StepContext { step, kernel, packed, input, output, .. } = context;
        let tiling = Tiling { height: input.height, width: input.width };
        let n_tiles = input.images * tiling.tiles_per_image();
        let (blocks, vectors) = (packed.panels.k_blocks, channel_vectors(packed.outputs));
        let transformed_tiles = |offset: usize, blocks: usize| TransformedTiles {
            lines: self.line_at(offset),
            component_stride: component_stride(blocks, step.tiles),
            panel_stride: step.tiles,
            panel_blocks: 1,
        };
        // The scratch memory holds the transformed inputs, then the products.
        let inputs = transformed_tiles(step.scratch, blocks);
        let products = transformed_tiles(step.scratch + transformed_lines(blocks, step.tiles), vectors);
        let mut first = 0;
        while first < n_tiles {
            let tiles = first..n_tiles.min(first + step.tiles);
            let count = tiles.len();

            let units = self.worker.own_range(blocks * count);
            let TensorView { lines, block_stride, .. } = input;
            let source = TransformSource { lines, pixel_stride: 1, block_stride };
            let kind = PhantomData::<InputTiles>;
            kernel.run(TransformTiles { tiling, source, tiles: tiles.clone(), units, dst: inputs, kind });
            self.worker.wait();
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
            let units = self.worker.own_range(vectors * count);
            first = tiles.end;
            kernel.run(InverseTransform { tiling, transformed: products, tiles, units, output });
        }
    }

    /// This thread's share of a GEMM: panels of weights, and units (tiles or rows) of pixels. `values` is the
    /// number of input values.
    fn partition(&self, packed: &PackedConv, units: usize, values: usize) -> (Range<usize>, Range<usize>) {
        let Worker { rank, team_size, .. } = self.worker;
        let panels = packed.panels.count;
        // Threads that split the panels all read every value, those that split the units every weight. With
        // more weights than values it is better to split the panels.
        let split_panels = packed.weights.len() * 16 > values;
        let panel_parts = (1..=team_size)
            .filter(|parts| team_size % parts == 0)
            .min_by_key(|&parts| {
                let longest = panels.div_ceil(parts) * units.div_ceil(team_size / parts);
                (longest, if split_panels { team_size - parts } else { parts })
            })
            .unwrap_or(1);
        let own_units = part_range(rank / panel_parts, team_size / panel_parts, units);
        (part_range(rank % panel_parts, panel_parts, panels), own_units)
    }

    /// Multiplies panels `panels` of weight matrix `matrix` (the component for Winograd, else 0) with the
    /// pixels of `spans`.
    fn gemm<S: Stride>(
        &self,
        context: StepContext<'_>,
        matrix: usize,
        panels: Range<usize>,
        spans: RowSpans,
        output: TileOutput,
    ) {
        let StepContext { packed, step, kernel, .. } = context;
        if panels.is_empty() || spans.count * spans.length == 0 {
            return;
        }
        let layout = kernel.layout();
        let first = (matrix * packed.panels.count + panels.start) * packed.panels.n_lines(layout);
        debug_assert!(first + panels.len() * packed.panels.n_lines(layout) <= packed.weights.len(), "panels");
        debug_assert!(packed.bias.len() >= 16 * panels.end * layout.vectors, "biases");
        // All reads and writes are inside the arena, including the slack that tiles may read.
        #[cfg(debug_assertions)]
        {
            let end = (self.plan.arena_lines - crate::plan::READ_SLACK) * CacheLine::BYTES;
            let arena_offset = |address: usize| address - self.arena.addr();
            let farthest = step.offsets.iter().max().map_or(0, |offset| offset + 4 * packed.panels.steps);
            let read = (spans.count - 1) * spans.src_stride + (spans.length - 1) * S::BYTES + farthest;
            debug_assert!(arena_offset(spans.src.addr()) + read <= end, "activations");
            // The products of Winograd components are `f32`, all others have the precision of the output.
            let parts = match output.epilogue {
                TileEpilogue::Raw => 1,
                TileEpilogue::Add { .. } => {
                    self.network.values[self.network.nodes[step.node].output].1.parts()
                }
            };
            let block = (panels.end * layout.vectors - 1) / parts * output.block_stride;
            let lines = block + spans.pixel + (spans.count - 1) * spans.dst_stride + spans.length;
            debug_assert!(arena_offset(output.lines.addr()) + lines * CacheLine::BYTES <= end, "output");
        }
        kernel.run(Gemm {
            offsets: &step.offsets,
            steps: packed.panels.steps,
            weights: packed.weights[first..].as_ptr(),
            panels: panels.len(),
            spans,
            output,
            vector: panels.start * layout.vectors,
            stride: PhantomData::<S>,
        });
    }

    /// Writes the requested output of images `first..first + count`.
    fn write_output(&self, first: usize, count: usize) {
        let OutputRequest { stage, layout, out } = self.request;
        let value = self.network.taps[stage];
        let ((channels, precision), (height, width)) = (self.network.values[value], self.plan.sizes[value]);
        let kernel = self.network.kernel_for(precision);
        let slot = self.plan.stages[stage].output;
        let input = self.tensor_view(slot, count, (height, width));
        let units = self.worker.own_range(count * channels.div_ceil(16 * precision.parts()));
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
