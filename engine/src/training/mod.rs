//! Convolutions whose weights change: forward, and the derivatives by the input and by the weights, in `f32`, channels last.
//!
//! All three are matrix products, and no matrix of what lies under the kernel is made of the photos: a few rows of it at a time are
//! copied to where a tile reads them. Derivatives of 3 x 3 taps and stride 1 are products at Winograd's points. Weights come as they
//! are trained, `[K, K, C, O]`, and are packed in every product.
//!
//! Work is split along results, and sums are cut at places that depend on sizes alone: the bits do not depend on the threads.

mod backward_weights;
mod im2col;
mod im2col_gemm;
mod pack;
#[cfg(test)]
mod tests;
mod winograd;

use std::ops::Range;
use std::sync::Mutex;

use self::backward_weights::BackwardWeights;
use self::im2col::{Im2col, MAX_STEPS, PositionGrid};
use self::im2col_gemm::{Im2colGemm, OutputMap};
use self::pack::{Direction, pack_weights, piece_len};
use self::winograd::{BlockSizes, TiledConv, WinogradInputGrad, Workspace};
use crate::cache_line::{Arena, CacheLine};
use crate::dispatch::{AnyKernel, KernelSet};
use crate::error::EngineError;
use crate::isa::Isa;

/// Sizes of a convolution: `[N, H, W, C]` to `[N, H', W', O]`, with a square kernel, and stride and padding the same along both axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// `N`
    pub batch: usize,
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
pub struct ScaledWeights<'a> {
    /// The weights.
    pub values: &'a [f32],
    /// The factors.
    pub scale: Option<&'a [f32]>,
}

/// What happens to sums before they are stored, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainEpilogue<'a> {
    /// They are added to what is there already, which is 0 where `mask` is not above 0.
    pub accumulate: bool,
    /// Is added, a value for each channel of the result.
    pub bias: Option<&'a [f32]>,
    /// Is added, of the result's size.
    pub addend: Option<&'a [f32]>,
    /// What is negative becomes 0.
    pub relu: bool,
    /// Of the result's size: where it is not above 0 the result is 0.
    pub mask: Option<&'a [f32]>,
}

/// Sums over all positions, of each output.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleBiasGrad {
    /// Of the gradient times what the convolution gives without the scale, `[O]`.
    pub scale: Vec<f32>,
    /// Of the gradient, `[O]`.
    pub bias: Vec<f32>,
}

/// Convolutions on the threads of the rayon pool at hand, and the memory that they work in, which stays.
#[derive(Debug)]
pub struct ConvOps {
    kernel: AnyKernel,
    block_sizes: BlockSizes,
    packed_weights: Vec<CacheLine>,
    partial_sums: Vec<f32>,
    thread_buffers: Vec<Mutex<Vec<CacheLine>>>,
    /// Kernels and tiles at Winograd's points.
    kernel_arena: Arena,
    tile_arena: Arena,
}

impl ConvShape {
    /// `[H', W']`
    #[must_use]
    pub fn output_size(&self) -> [usize; 2] {
        [self.height, self.width].map(|side| {
            let span = (side + 2 * self.padding).checked_sub(self.kernel);
            span.map_or(0, |room| room / self.stride.max(1) + 1)
        })
    }

    fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.inputs
    }

    fn output_len(&self) -> usize {
        let [height, width] = self.output_size();
        self.batch * height * width * self.outputs
    }

    fn weights_len(&self) -> usize {
        self.kernel * self.kernel * self.inputs * self.outputs
    }

    /// What lies under the kernel at each position of the output.
    fn im2col(&self) -> Im2col {
        let first = -self.padding.cast_signed();
        Im2col {
            height: self.height,
            width: self.width,
            channels: self.inputs,
            taps: [self.kernel; 2],
            stride: self.stride,
            first: [first; 2],
            grid: self.output_size(),
        }
    }

    /// # Errors
    /// [`EngineError::Product`] when a size is 0 or a slice of another one.
    fn check_lengths(&self, slices: &[(&'static str, usize, usize)]) -> Result<(), EngineError> {
        let reject = |problem: String| Err(EngineError::Convolution { shape: *self, problem });
        let sizes =
            [self.batch, self.inputs, self.outputs, self.kernel, self.stride, self.height, self.width];
        if sizes.contains(&0) || self.output_size().contains(&0) {
            return reject("there is no position".to_owned());
        }
        match slices.iter().find(|(_, found, expected)| found != expected) {
            Some((what, found, expected)) => reject(format!("{what} has {found} values, not {expected}")),
            None => Ok(()),
        }
    }
}

impl ScaledWeights<'_> {
    fn slice_lengths(&self, shape: &ConvShape) -> [(&'static str, usize, usize); 2] {
        let scale = self.scale.map_or(shape.outputs, <[f32]>::len);
        [("weights", self.values.len(), shape.weights_len()), ("scale", scale, shape.outputs)]
    }
}

impl TrainEpilogue<'_> {
    fn slice_lengths(&self, channels: usize, size: usize) -> [(&'static str, usize, usize); 3] {
        let len_or = |slice: Option<&[f32]>, or| slice.map_or(or, <[f32]>::len);
        [
            ("bias", len_or(self.bias, channels), channels),
            ("other", len_or(self.addend, size), size),
            ("mask", len_or(self.mask, size), size),
        ]
    }
}

impl ConvOps {
    /// By the kernels of `isa` for `f32`.
    ///
    /// # Errors
    /// [`EngineError::Isa`] when this machine does not have it.
    pub fn new(isa: Isa) -> Result<Self, EngineError> {
        let kernel = KernelSet::new(isa)?.f32;
        Ok(Self {
            kernel,
            block_sizes: BlockSizes::default(),
            packed_weights: Vec::new(),
            partial_sums: Vec::new(),
            thread_buffers: Vec::new(),
            kernel_arena: Arena::new(0),
            tile_arena: Arena::new(0),
        })
    }

    /// `[N, H, W, C]` to `[N, H', W', O]`.
    ///
    /// # Errors
    /// [`EngineError::Product`] when a slice does not fit the shape.
    pub fn forward(
        &mut self,
        shape: &ConvShape,
        input: &[f32],
        weights: ScaledWeights<'_>,
        epilogue: TrainEpilogue<'_>,
        out: &mut [f32],
    ) -> Result<(), EngineError> {
        let [values, scale] = weights.slice_lengths(shape);
        let [bias, addend, mask] = epilogue.slice_lengths(shape.outputs, shape.output_len());
        let (input_check, output_check) =
            (("input", input.len(), shape.input_len()), ("output", out.len(), shape.output_len()));
        shape.check_lengths(&[input_check, output_check, values, scale, bias, addend, mask])?;
        let im2col = shape.im2col();
        let direction = Direction::Forward;
        let output_map = OutputMap { first: [0; 2], stride: 1, size: shape.output_size(), epilogue };
        self.im2col_conv(shape, (direction, weights), im2col, input, output_map, out);
        Ok(())
    }

    /// The derivative by the input, `[N, H, W, C]`, for that by the output, `[N, H', W', O]`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn backward_input(
        &mut self,
        shape: &ConvShape,
        gradient: &[f32],
        weights: ScaledWeights<'_>,
        epilogue: TrainEpilogue<'_>,
        input_gradient: &mut [f32],
    ) -> Result<(), EngineError> {
        let [values, scale] = weights.slice_lengths(shape);
        let [bias, addend, mask] = epilogue.slice_lengths(shape.inputs, shape.input_len());
        let gradient_check = ("gradient", gradient.len(), shape.output_len());
        let output_check = ("derivative by the input", input_gradient.len(), shape.input_len());
        shape.check_lengths(&[gradient_check, output_check, values, scale, bias, addend, mask])?;
        let size = [shape.height, shape.width];
        let [height, width] = shape.output_size();
        for first in (0..shape.stride).flat_map(|y| (0..shape.stride).map(move |x| [y, x])) {
            // An input of this remainder lies under every `stride`-th tap, from the last on.
            let taps = first.map(|offset| PhaseTaps::new(shape, offset));
            let grid = [0, 1].map(|axis| (size[axis].saturating_sub(first[axis])).div_ceil(shape.stride));
            if grid.contains(&0) {
                continue;
            }
            let im2col = Im2col {
                height,
                width,
                channels: shape.outputs,
                taps: taps.map(|taps| taps.count),
                stride: 1,
                first: taps.map(|taps| taps.first),
                grid,
            };
            let adds_nothing = epilogue.bias.is_none() && epilogue.addend.is_none() && !epilogue.relu;
            if im2col.is_empty() && epilogue.accumulate && adds_nothing {
                continue;
            }
            let direction = Direction::Backward(taps.map(|taps| taps.last));
            match TiledConv::for_shape(shape) {
                Some(tiles) => {
                    self.winograd_conv(
                        shape,
                        tiles,
                        (direction, weights),
                        (im2col, gradient),
                        epilogue,
                        input_gradient,
                    );
                }
                None => {
                    let output_map = OutputMap { first, stride: shape.stride, size, epilogue };
                    self.im2col_conv(
                        shape,
                        (direction, weights),
                        im2col,
                        gradient,
                        output_map,
                        input_gradient,
                    );
                }
            }
        }
        Ok(())
    }

    /// The derivative by the weights, `[K, K, C, O]`, scale included, for that by the output; it is added to what is there with `add`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn backward_weights(
        &mut self,
        shape: &ConvShape,
        input: &[f32],
        gradient: &[f32],
        weights: ScaledWeights<'_>,
        accumulate: bool,
        weight_gradient: &mut [f32],
    ) -> Result<ScaleBiasGrad, EngineError> {
        let [values, scale] = weights.slice_lengths(shape);
        let inputs_check =
            [("input", input.len(), shape.input_len()), ("gradient", gradient.len(), shape.output_len())];
        let output_check = ("derivative by the weights", weight_gradient.len(), shape.weights_len());
        shape.check_lengths(&[inputs_check[0], inputs_check[1], output_check, values, scale])?;
        self.ensure_workspaces();
        let job = BackwardWeights {
            kernel: self.kernel,
            im2col: shape.im2col(),
            batch: shape.batch,
            outputs: shape.outputs,
            input,
            gradient,
            weights,
            accumulate,
        };
        let Self { block_sizes, partial_sums, thread_buffers, kernel_arena, tile_arena, .. } = self;
        Ok(match TiledConv::for_shape(shape) {
            Some(tiled) => {
                let workspace =
                    Workspace { block_sizes: *block_sizes, thread_buffers, kernel_arena, tile_arena };
                job.run_winograd(tiled, workspace, partial_sums, weight_gradient)
            }
            None => job.run(thread_buffers, partial_sums, weight_gradient),
        })
    }

    fn im2col_conv(
        &mut self,
        shape: &ConvShape,
        (direction, weights): (Direction, ScaledWeights<'_>),
        im2col: Im2col,
        input: &[f32],
        output_map: OutputMap<'_>,
        output: &mut [f32],
    ) {
        self.ensure_workspaces();
        let (kernel, columns) = (self.kernel, direction.result_channels(shape));
        let steps = piece_len(im2col.depth().max(1), MAX_STEPS);
        pack_weights(kernel, shape, (direction, &im2col), weights, steps, &mut self.packed_weights);
        let grid = PositionGrid { batch: shape.batch, im2col };
        Im2colGemm { kernel, grid, columns, input, weights: &self.packed_weights, output_map }
            .run(&self.thread_buffers, output);
    }

    fn winograd_conv(
        &mut self,
        shape: &ConvShape,
        tiled: TiledConv,
        (direction, weights): (Direction, ScaledWeights<'_>),
        (im2col, gradient): (Im2col, &[f32]),
        epilogue: TrainEpilogue<'_>,
        input_gradient: &mut [f32],
    ) {
        self.ensure_workspaces();
        let Self { kernel, block_sizes, packed_weights, thread_buffers, kernel_arena, tile_arena, .. } = self;
        let (kernel, channels) = (*kernel, [im2col.channels, direction.result_channels(shape)]);
        pack_weights(kernel, shape, (direction, &im2col), weights, im2col.channels, packed_weights);
        let workspace = Workspace { block_sizes: *block_sizes, thread_buffers, kernel_arena, tile_arena };
        WinogradInputGrad { kernel, tiled, channels, gradient, weights: packed_weights, epilogue }
            .run(workspace, input_gradient);
    }

    /// Room for each thread of the pool.
    fn ensure_workspaces(&mut self) {
        let threads = rayon::current_num_threads();
        if self.thread_buffers.len() < threads {
            self.thread_buffers.resize_with(threads, Mutex::default);
        }
    }
}

/// `0..count` in parts of one length, or one more.
fn split_evenly(count: usize, parts: usize) -> Vec<Range<usize>> {
    (0..parts).map(|part| part * count / parts..(part + 1) * count / parts).collect()
}

/// The taps of the kernel over inputs of one remainder, along an axis.
#[derive(Clone, Copy)]
struct PhaseTaps {
    count: usize,
    /// The largest; the others are a stride apart.
    last: usize,
    /// The output, seen from the first input, that it belongs to.
    first: isize,
}

impl PhaseTaps {
    fn new(shape: &ConvShape, offset: usize) -> Self {
        let smallest = (offset + shape.padding) % shape.stride;
        let count = shape.kernel.saturating_sub(smallest).div_ceil(shape.stride);
        let last = smallest + count.saturating_sub(1) * shape.stride;
        let first = (offset + shape.padding).cast_signed() - last.cast_signed();
        Self { count, last, first: first.div_euclid(shape.stride.cast_signed()) }
    }
}
