//! One thread's way through the network.

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

/// What is wanted of the last segment.
#[derive(Clone, Copy)]
pub(crate) struct OutputRequest {
    pub(crate) stage: usize,
    pub(crate) layout: OutputLayout,
    pub(crate) out: *mut f32,
}

/// One member's way. All members of a team go the same way, and meet after each step.
///
/// The arena is the team's alone while they run, and as large as the plan says; the plan is the network's.
pub(crate) struct Executor<'a> {
    pub(crate) network: &'a Network,
    pub(crate) plan: &'a Plan,
    pub(crate) arena: *mut CacheLine,
    pub(crate) worker: Worker<'a>,
    pub(crate) values: PixelValues<'a>,
    pub(crate) request: OutputRequest,
    pub(crate) observer: Option<&'a dyn LayerObserver>,
}

/// Is told of each layer, by the first member of each team.
pub(crate) trait LayerObserver: Sync {
    /// The node of this number is about to read this.
    fn before_layer(&self, _node: usize, _input: TensorView) {}

    /// The node of this number has run.
    fn after_layer(&self, _node: usize, _elapsed: Duration) {}
}

/// A step's surroundings.
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
    /// Photos `photos` of the batch.
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

    /// The value at the end of `segment` for `count` photos from `first` on; it is put `slot` photos into its place.
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
                    let node = &self.network.nodes[step.node];
                    observer.before_layer(
                        step.node,
                        self.tensor_view(step.input, n_images, self.plan.sizes[node.input]),
                    );
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

    /// The cell of a place, `slot` photos of `size` into it.
    fn line_at(
        &self,
        slot: BufferSlot,
        skipped_images: usize,
        (height, width): (usize, usize),
    ) -> *mut CacheLine {
        // SAFETY: the plan's places are inside the arena.
        unsafe { self.arena.add(slot.offset + skipped_images * height * width) }
    }

    fn tensor_view(&self, slot: BufferSlot, images: usize, (height, width): (usize, usize)) -> TensorView {
        let lines = self.line_at(slot, 0, (height, width));
        TensorView { lines, block_stride: slot.block_stride, images, height, width }
    }

    fn scratch_lines(&self, step: &Step) -> *mut CacheLine {
        self.line_at(BufferSlot { offset: step.scratch, block_stride: 0 }, 0, (0, 0))
    }

    fn run_step(&self, step: &Step, first: usize, images: usize, skipped_images: usize) {
        let node = &self.network.nodes[step.node];
        let (input_size, output_size) = (self.plan.sizes[node.input], self.plan.sizes[node.output]);
        let input = self.tensor_view(step.input, images, input_size);
        let output_lines = self.line_at(step.output, skipped_images, output_size);
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
                        lines: self.line_at(step.residual, 0, output_size),
                        block_stride: step.residual.block_stride,
                    }),
                    floor: if *relu { 0.0 } else { f32::NEG_INFINITY },
                };
                let output =
                    TileOutput { lines: output_lines, block_stride: step.output.block_stride, epilogue };
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

    /// The first layer, from rows of the photo.
    fn image_conv(&self, context: StepContext<'_>, first: usize) {
        let StepContext { step, kernel, packed, input, .. } = context;
        let padded = padded_images(packed, input.height, input.width);
        let padded_rows: *mut f32 = self.scratch_lines(step).cast();
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

    fn pointwise_conv(&self, context: StepContext<'_>) {
        let StepContext { step, kernel, packed, input, output, output_size } = context;
        let pixels = input.images * output_size.0 * output_size.1;
        let mut input_lines = input.lines;
        if packed.stride > 1 {
            let copy = self.scratch_lines(step);
            let units = self.worker.own_range(packed.panels.k_blocks * input.images * output_size.0);
            kernel.run(Subsample {
                input,
                stride: packed.stride,
                dst: copy,
                block_stride: step.copy_block_stride,
                units,
            });
            self.worker.wait();
            input_lines = copy;
        }
        let rows = kernel.layout().rows;
        let (panels, tiles) = self.partition_work(packed, pixels.div_ceil(rows), pixels * packed.inputs);
        let (start, end) = ((tiles.start * rows).min(pixels), (tiles.end * rows).min(pixels));
        // SAFETY: the pixels are those of the value.
        let input_lines = unsafe { input_lines.add(start).cast() };
        let spans = RowSpans { count: 1, length: end - start, src_stride: 0, dst_stride: 0 };
        self.gemm::<LinePixels>(context, 0, panels, (input_lines, start, spans), output);
    }

    fn direct_conv(&self, context: StepContext<'_>) {
        let StepContext { step, kernel, packed, input, .. } = context;
        let padded = padded_input(packed, input.height, input.width);
        let copy = self.scratch_lines(step);
        let blocks = packed.panels.k_blocks / (packed.kernel * packed.kernel);
        let units = self.worker.own_range(blocks * input.images * padded.n_rows());
        kernel.run(Pad { input, padded, dst: copy, block_stride: step.copy_block_stride, units });
        self.worker.wait();
        let (image_bytes, row_bytes) =
            (padded.image_len() * CacheLine::BYTES, padded.row_len() * CacheLine::BYTES);
        self.gemm_rows::<LinePixels>(context, copy.cast(), image_bytes, row_bytes);
    }

    /// A product whose runs are rows of the output, from rows at `from`: `photo` bytes from a photo to the next, `row` from
    /// a row to the next.
    fn gemm_rows<S: Stride>(
        &self,
        context: StepContext<'_>,
        src: *const u8,
        image_bytes: usize,
        row_bytes: usize,
    ) {
        let StepContext { packed, input, output, output_size: (height, width), .. } = context;
        let (panels, rows) =
            self.partition_work(packed, input.images * height, input.images * input.height * input.width);
        let mut start = rows.start;
        while start < rows.end {
            let (image, y) = (start / height, start % height);
            let count = (height - y).min(rows.end - start);
            let row_step = row_bytes * packed.stride;
            // SAFETY: photos and rows are those of the copy.
            let src = unsafe { src.add(image * image_bytes + y * row_step) };
            let spans = RowSpans { count, length: width, src_stride: row_step, dst_stride: width };
            self.gemm::<S>(context, 0, panels.clone(), (src, start * width, spans), output);
            start += count;
        }
    }

    fn winograd_conv(&self, context: StepContext<'_>) {
        let StepContext { step, kernel, packed, input, output, .. } = context;
        let tiling = Tiling { height: input.height, width: input.width };
        let n_tiles = input.images * tiling.tiles_per_image();
        let (blocks, vectors) = (packed.panels.k_blocks, channel_vectors(packed.outputs));
        // SAFETY: the plan has room for the points, and after them for the products.
        let products = unsafe { self.scratch_lines(step).add(transformed_lines(blocks, step.tiles)) };
        let transformed_tiles = |cells: *mut CacheLine, blocks: usize| TransformedTiles {
            lines: cells,
            component_stride: component_stride(blocks, step.tiles),
            panel_stride: step.tiles,
            panel_blocks: 1,
        };
        let (inputs, products) =
            (transformed_tiles(self.scratch_lines(step), blocks), transformed_tiles(products, vectors));
        let mut first = 0;
        while first < n_tiles {
            let tiles = first..n_tiles.min(first + step.tiles);
            let count = tiles.len();

            let units = self.worker.own_range(blocks * count);
            let source =
                TransformSource { lines: input.lines, pixel_stride: 1, block_stride: input.block_stride };
            let kind = PhantomData::<InputTiles>;
            kernel.run(TransformTiles { tiling, source, tiles: tiles.clone(), units, dst: inputs, kind });
            self.worker.wait();
            let units = self.worker.own_range(COMPONENTS * packed.panels.count);
            let mut unit = units.start;
            while unit < units.end {
                let (component, start) = (unit / packed.panels.count, unit % packed.panels.count);
                let end = packed.panels.count.min(start + units.end - unit);
                // SAFETY: points and blocks are those of the step's own memory.
                let (src, dst) = unsafe {
                    (
                        inputs.lines.add(component * inputs.component_stride),
                        products.lines.add(component * products.component_stride),
                    )
                };
                let product = TileOutput {
                    lines: dst,
                    block_stride: products.panel_stride,
                    epilogue: TileEpilogue::Raw,
                };
                let spans = RowSpans { count: 1, length: count, src_stride: 0, dst_stride: 0 };
                self.gemm::<LinePixels>(context, component, start..end, (src.cast(), 0, spans), product);
                unit += end - start;
            }
            self.worker.wait();
            let units = self.worker.own_range(vectors * count);
            kernel.run(InverseTransform {
                tiling,
                transformed: products,
                tiles: tiles.clone(),
                units,
                output,
            });
            first = tiles.end;
        }
    }

    /// This member's share of a product: panels, and units (tiles or rows) of pixels.
    fn partition_work(
        &self,
        packed: &PackedConv,
        units: usize,
        values: usize,
    ) -> (Range<usize>, Range<usize>) {
        let Worker { rank, team_size, .. } = self.worker;
        let panels = packed.panels.count;
        // Each member reads all of what it has no share of; with fewer values than weights it is the values.
        let split_panels = packed.weights.len() * 16 > values;
        let panel_parts = (1..=team_size)
            .filter(|parts| team_size % parts == 0)
            .min_by_key(|&parts| {
                let longest = panels.div_ceil(parts) * units.div_ceil(team_size / parts);
                (longest, if split_panels { team_size - parts } else { parts })
            })
            .unwrap_or(1);
        (
            part_range(rank % panel_parts, panel_parts, panels),
            part_range(rank / panel_parts, team_size / panel_parts, units),
        )
    }

    /// Some panels of a layer's matrix by the pixels of runs: where these are read, the first one's number in the output, and
    /// their lengths.
    fn gemm<S: Stride>(
        &self,
        context: StepContext<'_>,
        matrix: usize,
        panels: Range<usize>,
        (activations, pixel, spans): (*const u8, usize, RowSpans),
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
        // What is read and written is the arena's, and what tiles may read past that is there.
        #[cfg(debug_assertions)]
        {
            let end = (self.plan.arena_lines - crate::plan::READ_SLACK) * CacheLine::BYTES;
            let arena_offset = |address: usize| address - self.arena.addr();
            let farthest = step.offsets.iter().max().map_or(0, |offset| offset + 4 * packed.panels.steps);
            let read = (spans.count - 1) * spans.src_stride + (spans.length - 1) * S::BYTES + farthest;
            debug_assert!(arena_offset(activations.addr()) + read <= end, "activations");
            // The products of Winograd's points are `f32`, all others what the output is kept in.
            let parts = match output.epilogue {
                TileEpilogue::Raw => 1,
                TileEpilogue::Add { .. } => {
                    self.network.values[self.network.nodes[step.node].output].1.parts()
                }
            };
            let block = (panels.end * layout.vectors - 1) / parts * output.block_stride;
            let cells = block + pixel + (spans.count - 1) * spans.dst_stride + spans.length;
            debug_assert!(arena_offset(output.lines.addr()) + cells * CacheLine::BYTES <= end, "output");
        }
        kernel.run(Gemm {
            activations,
            offsets: &step.offsets,
            steps: packed.panels.steps,
            weights: packed.weights[first..].as_ptr(),
            panels: panels.len(),
            spans,
            output,
            pixel,
            vector: panels.start * layout.vectors,
            stride: PhantomData::<S>,
        });
    }

    /// Writes what is wanted of `count` photos from `first` on.
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
        // SAFETY: the session has checked that there is room for all photos.
        let dst = unsafe { out.add(first * image_len) };
        let strides = match layout {
            OutputLayout::Pooled => {
                return kernel.run(GlobalAvgPool { input, channels, features: dst, units });
            }
            OutputLayout::Nchw => Strides { channel: pixels, pixel: 1 },
            OutputLayout::Nhwc => Strides { channel: 1, pixel: channels },
        };
        kernel.run(UnpackOutput { input, channels, strides, out: dst, units });
    }
}
