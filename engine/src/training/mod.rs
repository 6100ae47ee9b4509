//! Convolutions whose weights change: forward, and the derivatives by the input and by the weights, in `f32`, channels last.
//!
//! All three are matrix products, and no matrix of what lies under the kernel is made of the photos: a few rows of it at a time are
//! copied to where a tile reads them. Derivatives of 3 x 3 taps and stride 1 are products at Winograd's points. Weights come as they
//! are trained, `[K, K, C, O]`, and are packed in every product.
//!
//! Work is split along results, and sums are cut at places that depend on sizes alone: the bits do not depend on the threads.

mod by_weights;
mod gather;
mod pack;
mod product;
#[cfg(test)]
mod tests;
mod winograd;

use std::ops::Range;
use std::sync::Mutex;

use self::by_weights::ByWeights;
use self::gather::{Gather, Grid, STEPS};
use self::pack::{Order, packed, piece};
use self::product::{Ends, Rows};
use self::winograd::{Limits, Product, Rooms, Tiles};
use crate::cell::{Arena, Cell};
use crate::error::EngineError;
use crate::isa::Isa;
use crate::machine::{Machine, Machines};

/// Sizes of a convolution: `[N, H, W, C]` to `[N, H', W', O]`, with a square kernel, and stride and padding the same along both axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// `N`
    pub photos: usize,
    /// `H`
    pub height: usize,
    /// `W`
    pub width: usize,
    /// `C`
    pub inputs: usize,
    /// `O`
    pub outputs: usize,
    /// `K`
    pub kernel: usize,
    /// Pixels from an output's inputs to the next one's.
    pub stride: usize,
    /// Pixels of zeros around the photo.
    pub padding: usize,
}

/// Weights `[K, K, C, O]`, and what those of each output are multiplied by, `[O]`; nothing for 1.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// The weights.
    pub values: &'a [f32],
    /// The factors.
    pub scale: Option<&'a [f32]>,
}

/// What happens to sums before they are stored, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finish<'a> {
    /// They are added to what is there already, which is 0 where `mask` is not above 0.
    pub accumulate: bool,
    /// Is added, a value for each channel of the result.
    pub bias: Option<&'a [f32]>,
    /// Is added, of the result's size.
    pub other: Option<&'a [f32]>,
    /// What is negative becomes 0.
    pub relu: bool,
    /// Of the result's size: where it is not above 0 the result is 0.
    pub mask: Option<&'a [f32]>,
}

/// Sums over all positions, of each output.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// Of the gradient times what the convolution gives without the scale, `[O]`.
    pub products: Vec<f32>,
    /// Of the gradient, `[O]`.
    pub gradients: Vec<f32>,
}

/// Convolutions on the threads of the rayon pool at hand, and the memory that they work in, which stays.
#[derive(Debug)]
pub struct Products {
    machine: Machine,
    limits: Limits,
    packed: Vec<Cell>,
    partial: Vec<f32>,
    threads: Vec<Mutex<Vec<Cell>>>,
    /// Kernels and tiles at Winograd's points.
    kernels: Arena,
    tiles: Arena,
}

impl Shape {
    /// `[H', W']`
    #[must_use]
    pub fn out(&self) -> [usize; 2] {
        [self.height, self.width].map(|side| {
            let room = (side + 2 * self.padding).checked_sub(self.kernel);
            room.map_or(0, |room| room / self.stride.max(1) + 1)
        })
    }

    fn input(&self) -> usize {
        self.photos * self.height * self.width * self.inputs
    }

    fn output(&self) -> usize {
        let [height, width] = self.out();
        self.photos * height * width * self.outputs
    }

    fn weights(&self) -> usize {
        self.kernel * self.kernel * self.inputs * self.outputs
    }

    /// What lies under the kernel at each position of the output.
    fn gather(&self) -> Gather {
        let first = -self.padding.cast_signed();
        Gather {
            height: self.height,
            width: self.width,
            channels: self.inputs,
            taps: [self.kernel; 2],
            stride: self.stride,
            first: [first; 2],
            grid: self.out(),
        }
    }

    /// # Errors
    /// [`EngineError::Product`] when a size is 0 or a slice of another one.
    fn check(&self, parts: &[(&'static str, usize, usize)]) -> Result<(), EngineError> {
        let refused = |problem: String| Err(EngineError::Product { shape: *self, problem });
        let sizes =
            [self.photos, self.inputs, self.outputs, self.kernel, self.stride, self.height, self.width];
        if sizes.contains(&0) || self.out().contains(&0) {
            return refused("there is no position".to_owned());
        }
        match parts.iter().find(|(_, found, expected)| found != expected) {
            Some((what, found, expected)) => refused(format!("{what} has {found} values, not {expected}")),
            None => Ok(()),
        }
    }
}

impl Weights<'_> {
    fn parts(&self, shape: &Shape) -> [(&'static str, usize, usize); 2] {
        let scale = self.scale.map_or(shape.outputs, <[f32]>::len);
        [("weights", self.values.len(), shape.weights()), ("scale", scale, shape.outputs)]
    }
}

impl Finish<'_> {
    fn parts(&self, channels: usize, size: usize) -> [(&'static str, usize, usize); 3] {
        let of = |slice: Option<&[f32]>, or| slice.map_or(or, <[f32]>::len);
        [
            ("bias", of(self.bias, channels), channels),
            ("other", of(self.other, size), size),
            ("mask", of(self.mask, size), size),
        ]
    }
}

impl Products {
    /// By the kernels of `isa` for `f32`.
    ///
    /// # Errors
    /// [`EngineError::Isa`] when this machine does not have it.
    pub fn new(isa: Isa) -> Result<Self, EngineError> {
        let machine = Machines::new(isa)?.wide;
        Ok(Self {
            machine,
            limits: Limits::default(),
            packed: Vec::new(),
            partial: Vec::new(),
            threads: Vec::new(),
            kernels: Arena::new(0),
            tiles: Arena::new(0),
        })
    }

    /// `[N, H, W, C]` to `[N, H', W', O]`.
    ///
    /// # Errors
    /// [`EngineError::Product`] when a slice does not fit the shape.
    pub fn forward(
        &mut self,
        shape: &Shape,
        input: &[f32],
        weights: Weights<'_>,
        finish: Finish<'_>,
        out: &mut [f32],
    ) -> Result<(), EngineError> {
        let [values, scale] = weights.parts(shape);
        let [bias, other, mask] = finish.parts(shape.outputs, shape.output());
        let (from, to) = (("input", input.len(), shape.input()), ("output", out.len(), shape.output()));
        shape.check(&[from, to, values, scale, bias, other, mask])?;
        let gather = shape.gather();
        let order = Order::Forward;
        let ends = Ends { first: [0; 2], step: 1, size: shape.out(), finish };
        self.direct(shape, (order, weights), gather, input, ends, out);
        Ok(())
    }

    /// The derivative by the input, `[N, H, W, C]`, for that by the output, `[N, H', W', O]`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn by_input(
        &mut self,
        shape: &Shape,
        gradient: &[f32],
        weights: Weights<'_>,
        finish: Finish<'_>,
        by_input: &mut [f32],
    ) -> Result<(), EngineError> {
        let [values, scale] = weights.parts(shape);
        let [bias, other, mask] = finish.parts(shape.inputs, shape.input());
        let from = ("gradient", gradient.len(), shape.output());
        let to = ("derivative by the input", by_input.len(), shape.input());
        shape.check(&[from, to, values, scale, bias, other, mask])?;
        let size = [shape.height, shape.width];
        let [height, width] = shape.out();
        for first in (0..shape.stride).flat_map(|y| (0..shape.stride).map(move |x| [y, x])) {
            // An input of this remainder lies under every `stride`-th tap, from the last on.
            let taps = first.map(|at| Taps::new(shape, at));
            let grid = [0, 1].map(|axis| (size[axis].saturating_sub(first[axis])).div_ceil(shape.stride));
            if grid.contains(&0) {
                continue;
            }
            let gather = Gather {
                height,
                width,
                channels: shape.outputs,
                taps: taps.map(|taps| taps.count),
                stride: 1,
                first: taps.map(|taps| taps.first),
                grid,
            };
            let adds_nothing = finish.bias.is_none() && finish.other.is_none() && !finish.relu;
            if gather.is_empty() && finish.accumulate && adds_nothing {
                continue;
            }
            let order = Order::Backward(taps.map(|taps| taps.last));
            match Tiles::of(shape) {
                Some(tiles) => {
                    self.at_points(shape, tiles, (order, weights), (gather, gradient), finish, by_input);
                }
                None => {
                    let ends = Ends { first, step: shape.stride, size, finish };
                    self.direct(shape, (order, weights), gather, gradient, ends, by_input);
                }
            }
        }
        Ok(())
    }

    /// The derivative by the weights, `[K, K, C, O]`, scale included, for that by the output; it is added to what is there with `add`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn by_weights(
        &mut self,
        shape: &Shape,
        input: &[f32],
        gradient: &[f32],
        weights: Weights<'_>,
        add: bool,
        by_weights: &mut [f32],
    ) -> Result<Sums, EngineError> {
        let [values, scale] = weights.parts(shape);
        let from = [("input", input.len(), shape.input()), ("gradient", gradient.len(), shape.output())];
        let to = ("derivative by the weights", by_weights.len(), shape.weights());
        shape.check(&[from[0], from[1], to, values, scale])?;
        self.ready();
        let job = ByWeights {
            machine: self.machine,
            gather: shape.gather(),
            photos: shape.photos,
            outputs: shape.outputs,
            input,
            gradient,
            weights,
            add,
        };
        let Self { limits, partial, threads, kernels, tiles, .. } = self;
        Ok(match Tiles::of(shape) {
            Some(of_shape) => {
                let rooms = Rooms { limits: *limits, threads, kernels, tiles };
                job.at_points(of_shape, rooms, partial, by_weights)
            }
            None => job.run(threads, partial, by_weights),
        })
    }

    fn direct(
        &mut self,
        shape: &Shape,
        (order, weights): (Order, Weights<'_>),
        gather: Gather,
        from: &[f32],
        ends: Ends<'_>,
        to: &mut [f32],
    ) {
        self.ready();
        let (machine, columns) = (self.machine, order.columns(shape));
        let steps = piece(gather.depth().max(1), STEPS);
        packed(machine, shape, (order, &gather), weights, steps, &mut self.packed);
        let grid = Grid { photos: shape.photos, gather };
        Rows { machine, grid, columns, from, weights: &self.packed, ends }.run(&self.threads, to);
    }

    fn at_points(
        &mut self,
        shape: &Shape,
        of_shape: Tiles,
        (order, weights): (Order, Weights<'_>),
        (gather, from): (Gather, &[f32]),
        finish: Finish<'_>,
        to: &mut [f32],
    ) {
        self.ready();
        let Self { machine, limits, packed: weights_packed, threads, kernels, tiles, .. } = self;
        let (machine, channels) = (*machine, [gather.channels, order.columns(shape)]);
        packed(machine, shape, (order, &gather), weights, gather.channels, weights_packed);
        let rooms = Rooms { limits: *limits, threads, kernels, tiles };
        Product { machine, tiles: of_shape, channels, from, weights: weights_packed, finish }.run(rooms, to);
    }

    /// Room for each thread of the pool.
    fn ready(&mut self) {
        let threads = rayon::current_num_threads();
        if self.threads.len() < threads {
            self.threads.resize_with(threads, Mutex::default);
        }
    }
}

/// `0..count` in parts of one length, or one more.
fn even(count: usize, parts: usize) -> Vec<Range<usize>> {
    (0..parts).map(|part| part * count / parts..(part + 1) * count / parts).collect()
}

/// The taps of the kernel over inputs of one remainder, along an axis.
#[derive(Clone, Copy)]
struct Taps {
    count: usize,
    /// The largest; the others are a stride apart.
    last: usize,
    /// The output, seen from the first input, that it belongs to.
    first: isize,
}

impl Taps {
    fn new(shape: &Shape, at: usize) -> Self {
        let smallest = (at + shape.padding) % shape.stride;
        let count = shape.kernel.saturating_sub(smallest).div_ceil(shape.stride);
        let last = smallest + count.saturating_sub(1) * shape.stride;
        let from = (at + shape.padding).cast_signed() - last.cast_signed();
        Self { count, last, first: from.div_euclid(shape.stride.cast_signed()) }
    }
}
