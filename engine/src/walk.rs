//! One thread's way through the network.

use std::marker::PhantomData;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::cell::Cell;
use crate::gather::{Pad, Pixels, Subsample};
use crate::image::{Frame, Values};
use crate::layer::{Method, Packed, vectors};
use crate::machine::Machine;
use crate::network::{Network, Op};
use crate::plan::{Place, Plan, Step, framed, padded, point_stride, transformed};
use crate::pool::{MaxPool, Mean, Spread, Strides};
use crate::product::{Product, Runs};
use crate::session::Form;
use crate::team::{Member, share};
use crate::tile::{Cells, Finish, Image, Output, Residual, Stride};
use crate::winograd::{FromPoints, Inputs, POINTS, Source, Tiling, ToPoints, Transformed};

/// What is wanted of the last segment.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) segment: usize,
    pub(crate) form: Form,
    pub(crate) out: *mut f32,
}

/// One member's way. All members of a team go the same way, and meet after each step.
///
/// The arena is the team's alone while they run, and as large as the plan says; the plan is the network's.
pub(crate) struct Walk<'a> {
    pub(crate) network: &'a Network,
    pub(crate) plan: &'a Plan,
    pub(crate) arena: *mut Cell,
    pub(crate) member: Member<'a>,
    pub(crate) values: Values<'a>,
    pub(crate) wanted: Wanted,
    pub(crate) watch: Option<&'a dyn Watch>,
}

/// Is told of each layer, by the first member of each team.
pub(crate) trait Watch: Sync {
    /// The node of this number is about to read this.
    fn reads(&self, _node: usize, _input: Pixels) {}

    /// The node of this number has run.
    fn done(&self, _node: usize, _took: Duration) {}
}

/// A step's surroundings.
#[derive(Clone, Copy)]
struct Scene<'a> {
    step: &'a Step,
    machine: Machine,
    packed: &'a Packed,
    input: Pixels,
    output: Output,
    /// Height and width of the output.
    size: (usize, usize),
}

impl Walk<'_> {
    /// Photos `photos` of the batch.
    pub(crate) fn run(&self, photos: Range<usize>) {
        let Wanted { segment, .. } = self.wanted;
        let group = self.plan.segments[segment].group;
        let mut first = photos.start;
        while first < photos.end {
            let count = group.min(photos.end - first);
            self.segment(segment, first, count, 0);
            self.emit(first, count);
            self.member.wait();
            first += count;
        }
    }

    /// The value at the end of `segment` for `count` photos from `first` on; it is put `slot` photos into its place.
    fn segment(&self, segment: usize, first: usize, count: usize, slot: usize) {
        let plan = &self.plan.segments[segment];
        let mut done = 0;
        while done < count {
            let photos = plan.group.min(count - done);
            if let Some(before) = segment.checked_sub(1) {
                self.segment(before, first + done, photos, 0);
            }
            for step in &plan.steps {
                let last = self.network.nodes[step.node].output == self.network.taps[segment];
                let watch = self.watch.filter(|_| self.member.index == 0);
                let started = watch.map(|watch| {
                    let node = &self.network.nodes[step.node];
                    watch.reads(step.node, self.pixels(step.input, photos, self.plan.sizes[node.input]));
                    Instant::now()
                });
                self.step(step, first + done, photos, if last { slot + done } else { 0 });
                self.member.wait();
                if let (Some(watch), Some(started)) = (watch, started) {
                    watch.done(step.node, started.elapsed());
                }
            }
            done += photos;
        }
    }

    /// The cell of a place, `slot` photos of `size` into it.
    fn cell(&self, place: Place, slot: usize, (height, width): (usize, usize)) -> *mut Cell {
        // SAFETY: the plan's places are inside the arena.
        unsafe { self.arena.add(place.offset + slot * height * width) }
    }

    fn pixels(&self, place: Place, photos: usize, (height, width): (usize, usize)) -> Pixels {
        let cells = self.cell(place, 0, (height, width));
        Pixels { cells, block: place.block, photos, height, width }
    }

    fn scratch(&self, step: &Step) -> *mut Cell {
        self.cell(Place { offset: step.scratch, block: 0 }, 0, (0, 0))
    }

    fn step(&self, step: &Step, first: usize, photos: usize, slot: usize) {
        let node = &self.network.nodes[step.node];
        let (from, size) = (self.plan.sizes[node.input], self.plan.sizes[node.output]);
        let input = self.pixels(step.input, photos, from);
        let to = self.cell(step.output, slot, size);
        match &node.op {
            Op::MaxPool { kernel, stride, padding } => {
                let units = self.network.blocks(node.output) * photos * size.0;
                node.machine.run(MaxPool {
                    from: input,
                    kernel: *kernel,
                    stride: *stride,
                    padding: *padding,
                    to,
                    block: step.output.block,
                    units: self.member.share(units),
                });
            }
            Op::Convolution { packed, residual, relu } => {
                let finish = Finish::Add {
                    bias: packed.bias.as_ptr(),
                    residual: residual.map(|_| Residual {
                        cells: self.cell(step.residual, 0, size),
                        block: step.residual.block,
                    }),
                    floor: if *relu { 0.0 } else { f32::NEG_INFINITY },
                };
                let output = Output { cells: to, block: step.output.block, finish };
                let scene = Scene { step, machine: node.machine, packed, input, output, size };
                match packed.method {
                    Method::Image => self.image(scene, first),
                    Method::Pointwise => self.pointwise(scene),
                    Method::Direct => self.direct(scene),
                    Method::Winograd => self.winograd(scene),
                }
            }
        }
    }

    /// The first layer, from rows of the photo.
    fn image(&self, scene: Scene<'_>, first: usize) {
        let Scene { step, machine, packed, input, .. } = scene;
        let framed = framed(packed, input.height, input.width);
        let rows: *mut f32 = self.scratch(step).cast();
        machine.run(Frame {
            values: self.values,
            first,
            normalisation: &self.network.normalisation,
            framed,
            to: rows,
            units: self.member.share(input.photos * framed.rows()),
        });
        self.member.wait();
        let row = framed.row * size_of::<f32>();
        self.rows::<Image>(scene, rows.cast(), framed.rows() * row, row);
    }

    fn pointwise(&self, scene: Scene<'_>) {
        let Scene { step, machine, packed, input, output, size } = scene;
        let pixels = input.photos * size.0 * size.1;
        let mut from = input.cells;
        if packed.stride > 1 {
            let to = self.scratch(step);
            let units = self.member.share(packed.panels.segments * input.photos * size.0);
            machine.run(Subsample { from: input, stride: packed.stride, to, block: step.block, units });
            self.member.wait();
            from = to;
        }
        let rows = machine.layout().rows;
        let (panels, tiles) = self.grid(packed, pixels.div_ceil(rows), pixels * packed.inputs);
        let (start, end) = ((tiles.start * rows).min(pixels), (tiles.end * rows).min(pixels));
        // SAFETY: the pixels are those of the value.
        let from = unsafe { from.add(start).cast() };
        let runs = Runs { count: 1, length: end - start, from: 0, to: 0 };
        self.multiply::<Cells>(scene, 0, panels, (from, start, runs), output);
    }

    fn direct(&self, scene: Scene<'_>) {
        let Scene { step, machine, packed, input, .. } = scene;
        let padded = padded(packed, input.height, input.width);
        let to = self.scratch(step);
        let blocks = packed.panels.segments / (packed.kernel * packed.kernel);
        let units = self.member.share(blocks * input.photos * padded.rows());
        machine.run(Pad { from: input, padded, to, block: step.block, units });
        self.member.wait();
        let (photo, row) = (padded.photo() * Cell::BYTES, padded.row() * Cell::BYTES);
        self.rows::<Cells>(scene, to.cast(), photo, row);
    }

    /// A product whose runs are rows of the output, from rows at `from`: `photo` bytes from a photo to the next, `row` from
    /// a row to the next.
    fn rows<S: Stride>(&self, scene: Scene<'_>, from: *const u8, photo: usize, row: usize) {
        let Scene { packed, input, output, size: (height, width), .. } = scene;
        let (panels, rows) =
            self.grid(packed, input.photos * height, input.photos * input.height * input.width);
        let mut start = rows.start;
        while start < rows.end {
            let (index, y) = (start / height, start % height);
            let count = (height - y).min(rows.end - start);
            let down = row * packed.stride;
            // SAFETY: photos and rows are those of the copy.
            let from = unsafe { from.add(index * photo + y * down) };
            let runs = Runs { count, length: width, from: down, to: width };
            self.multiply::<S>(scene, 0, panels.clone(), (from, start * width, runs), output);
            start += count;
        }
    }

    fn winograd(&self, scene: Scene<'_>) {
        let Scene { step, machine, packed, input, output, .. } = scene;
        let tiling = Tiling { height: input.height, width: input.width };
        let all = input.photos * tiling.count();
        let (blocks, vectors) = (packed.panels.segments, vectors(packed.outputs));
        // SAFETY: the plan has room for the points, and after them for the products.
        let products = unsafe { self.scratch(step).add(transformed(blocks, step.tiles)) };
        let at = |cells: *mut Cell, blocks: usize| Transformed {
            cells,
            point: point_stride(blocks, step.tiles),
            panel: step.tiles,
            blocks: 1,
        };
        let (points, products) = (at(self.scratch(step), blocks), at(products, vectors));
        let mut first = 0;
        while first < all {
            let tiles = first..all.min(first + step.tiles);
            let count = tiles.len();

            let units = self.member.share(blocks * count);
            let source = Source { cells: input.cells, pixel: 1, block: input.block };
            let of = PhantomData::<Inputs>;
            machine.run(ToPoints { tiling, source, tiles: tiles.clone(), units, to: points, of });
            self.member.wait();
            let units = self.member.share(POINTS * packed.panels.count);
            let mut unit = units.start;
            while unit < units.end {
                let (point, start) = (unit / packed.panels.count, unit % packed.panels.count);
                let end = packed.panels.count.min(start + units.end - unit);
                // SAFETY: points and blocks are those of the step's own memory.
                let (from, to) = unsafe {
                    (points.cells.add(point * points.point), products.cells.add(point * products.point))
                };
                let to = Output { cells: to, block: products.panel, finish: Finish::Raw };
                let runs = Runs { count: 1, length: count, from: 0, to: 0 };
                self.multiply::<Cells>(scene, point, start..end, (from.cast(), 0, runs), to);
                unit += end - start;
            }
            self.member.wait();
            let units = self.member.share(vectors * count);
            machine.run(FromPoints { tiling, from: products, tiles: tiles.clone(), units, output });
            first = tiles.end;
        }
    }

    /// This member's share of a product: panels, and units (tiles or rows) of pixels.
    fn grid(&self, packed: &Packed, units: usize, values: usize) -> (Range<usize>, Range<usize>) {
        let Member { index, of, .. } = self.member;
        let panels = packed.panels.count;
        // Each member reads all of what it has no share of; with fewer values than weights it is the values.
        let by_panels = packed.weights.len() * 16 > values;
        let across = (1..=of)
            .filter(|across| of % across == 0)
            .min_by_key(|&across| {
                let longest = panels.div_ceil(across) * units.div_ceil(of / across);
                (longest, if by_panels { of - across } else { across })
            })
            .unwrap_or(1);
        (share(index % across, across, panels), share(index / across, of / across, units))
    }

    /// Some panels of a layer's matrix by the pixels of runs: where these are read, the first one's number in the output, and
    /// their lengths.
    fn multiply<S: Stride>(
        &self,
        scene: Scene<'_>,
        matrix: usize,
        panels: Range<usize>,
        (activations, pixel, runs): (*const u8, usize, Runs),
        output: Output,
    ) {
        let Scene { packed, step, machine, .. } = scene;
        if panels.is_empty() || runs.count * runs.length == 0 {
            return;
        }
        let layout = machine.layout();
        let first = (matrix * packed.panels.count + panels.start) * packed.panels.cells(layout);
        debug_assert!(first + panels.len() * packed.panels.cells(layout) <= packed.weights.len(), "panels");
        debug_assert!(packed.bias.len() >= 16 * panels.end * layout.vectors, "biases");
        // What is read and written is the arena's, and what tiles may read past that is there.
        #[cfg(debug_assertions)]
        {
            let end = (self.plan.cells - crate::plan::ROOM) * Cell::BYTES;
            let at = |address: usize| address - self.arena.addr();
            let farthest = step.offsets.iter().max().map_or(0, |offset| offset + 4 * packed.panels.steps);
            let read = (runs.count - 1) * runs.from + (runs.length - 1) * S::BYTES + farthest;
            debug_assert!(at(activations.addr()) + read <= end, "activations");
            // The products of Winograd's points are `f32`, all others what the output is kept in.
            let parts = match output.finish {
                Finish::Raw => 1,
                Finish::Add { .. } => self.network.values[self.network.nodes[step.node].output].1.parts(),
            };
            let block = (panels.end * layout.vectors - 1) / parts * output.block;
            let cells = block + pixel + (runs.count - 1) * runs.to + runs.length;
            debug_assert!(at(output.cells.addr()) + cells * Cell::BYTES <= end, "output");
        }
        machine.run(Product {
            activations,
            offsets: &step.offsets,
            steps: packed.panels.steps,
            weights: packed.weights[first..].as_ptr(),
            panels: panels.len(),
            runs,
            output,
            pixel,
            vector: panels.start * layout.vectors,
            stride: PhantomData::<S>,
        });
    }

    /// Writes what is wanted of `count` photos from `first` on.
    fn emit(&self, first: usize, count: usize) {
        let Wanted { segment, form, out } = self.wanted;
        let value = self.network.taps[segment];
        let ((channels, precision), (height, width)) = (self.network.values[value], self.plan.sizes[value]);
        let machine = self.network.machine(precision);
        let place = self.plan.segments[segment].output;
        let from = self.pixels(place, count, (height, width));
        let units = self.member.share(count * channels.div_ceil(16 * precision.parts()));
        let pixels = height * width;
        let each = if form == Form::Pooled { channels } else { channels * pixels };
        // SAFETY: the session has checked that there is room for all photos.
        let to = unsafe { out.add(first * each) };
        let strides = match form {
            Form::Pooled => return machine.run(Mean { from, channels, features: to, units }),
            Form::Planes => Strides { channel: pixels, pixel: 1 },
            Form::ChannelsLast => Strides { channel: 1, pixel: channels },
        };
        machine.run(Spread { from, channels, strides, values: to, units });
    }
}
