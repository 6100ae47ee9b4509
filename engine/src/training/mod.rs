//! Training convolutions in `f32`, NHWC: forward, and the gradients with respect to the input and the
//! weights.
//!
//! All three are GEMMs with im2col, of which only a few rows at a time are copied. Gradients of 3 x 3 kernels
//! with stride 1 use Winograd's algorithm. Weights are `[K, K, C, O]` and are packed on every call. A *tap*
//! is one of the `K * K` positions in a kernel.
//!
//! Work is split along results, and sums are split at positions that depend on sizes only: results have the
//! same bits on any number of threads.

mod backward_weights;
mod im2col;
mod im2col_gemm;
mod operands;
mod pack;
#[cfg(test)]
mod tests;
mod winograd;

use std::sync::Mutex;

use self::backward_weights::BackwardWeights;
use self::im2col::{Im2col, MAX_STEPS, PositionGrid};
use self::im2col_gemm::{Im2colGemm, OutputMap};
use self::operands::check_lengths;
pub use self::operands::{ScaleBiasGrad, ScaledWeights, TrainEpilogue, WeightGrad};
use self::pack::{Direction, WeightMatrix, pack_weights, piece_len};
use self::winograd::{BlockSizes, TiledConv, WinogradInputGrad, Workspace};
use crate::cache_line::{Arena, CacheLine};
pub use crate::conv_shape::ConvShape;
use crate::dispatch::{AnyKernel, KernelSet};
use crate::error::EngineError;
use crate::isa::Isa;

/// Convolutions on the threads of the current rayon pool, with buffers that are reused by later calls.
#[derive(Debug)]
pub struct ConvOps {
    gemm_kernel: AnyKernel,
    block_sizes: BlockSizes,
    packed_weights: Vec<CacheLine>,
    /// Sums of the weights' gradient over parts of the positions, before they are added.
    partial_sums: Vec<f32>,
    /// A buffer per thread.
    thread_buffers: Vec<Mutex<Vec<CacheLine>>>,
    /// Kernels transformed by Winograd's algorithm.
    kernel_arena: Arena,
    /// Tiles transformed by Winograd's algorithm.
    tile_arena: Arena,
}

impl ConvOps {
    /// Convolutions with the `f32` kernel of `isa`.
    ///
    /// # Errors
    /// [`EngineError::UnavailableIsa`] if this CPU does not support `isa`.
    pub fn new(isa: Isa) -> Result<Self, EngineError> {
        Ok(Self {
            gemm_kernel: KernelSet::new(isa)?.f32,
            block_sizes: BlockSizes::default(),
            packed_weights: Vec::new(),
            partial_sums: Vec::new(),
            thread_buffers: Vec::new(),
            kernel_arena: Arena::new(0),
            tile_arena: Arena::new(0),
        })
    }

    /// Writes the convolution of `input`, `[N, H, W, C]`, followed by `epilogue`, to `out`, `[N, H', W', O]`.
    ///
    /// # Errors
    /// [`EngineError::Convolution`] if the shape is invalid or a slice does not fit it.
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
        let input_len = ("input", input.len(), shape.input_len());
        let output_len = ("output", out.len(), shape.output_len());
        check_lengths(shape, &[input_len, output_len, values, scale, bias, addend, mask])?;
        let matrix = WeightMatrix {
            shape,
            direction: Direction::Forward,
            im2col: Im2col::for_forward(shape),
            weights,
        };
        let output_map = OutputMap { first: [0; 2], stride: 1, size: shape.output_size(), epilogue };
        self.im2col_conv(matrix, input, output_map, out);
        Ok(())
    }

    /// Writes the gradient with respect to the input, followed by `epilogue`, to `grad_input`,
    /// `[N, H, W, C]`, given the gradient with respect to the output, `[N, H', W', O]`.
    ///
    /// # Errors
    /// [`EngineError::Convolution`] if the shape is invalid or a slice does not fit it.
    pub fn backward_input(
        &mut self,
        shape: &ConvShape,
        grad_output: &[f32],
        weights: ScaledWeights<'_>,
        epilogue: TrainEpilogue<'_>,
        grad_input: &mut [f32],
    ) -> Result<(), EngineError> {
        let [values, scale] = weights.slice_lengths(shape);
        let [bias, addend, mask] = epilogue.slice_lengths(shape.inputs, shape.input_len());
        let grad_output_len = ("output gradient", grad_output.len(), shape.output_len());
        let grad_input_len = ("input gradient", grad_input.len(), shape.input_len());
        check_lengths(shape, &[grad_output_len, grad_input_len, values, scale, bias, addend, mask])?;
        let size = [shape.height, shape.width];
        let [height, width] = shape.output_size();
        // The inputs whose row and column have the remainders `phase` modulo the stride are all under the
        // same taps, every `stride`-th one: for these inputs the gradient is a convolution of the output
        // gradient.
        for phase in (0..shape.stride).flat_map(|y| (0..shape.stride).map(move |x| [y, x])) {
            let taps = phase.map(|remainder| PhaseTaps::for_remainder(shape, remainder));
            let grid = [0, 1].map(|axis| (size[axis].saturating_sub(phase[axis])).div_ceil(shape.stride));
            if grid.contains(&0) {
                continue;
            }
            let im2col = Im2col {
                height,
                width,
                channels: shape.outputs,
                taps: taps.map(|taps| taps.count),
                stride: 1,
                first: taps.map(|taps| taps.first_output),
                grid,
            };
            let adds_nothing = epilogue.bias.is_none() && epilogue.addend.is_none() && !epilogue.relu;
            if im2col.is_empty() && epilogue.accumulate && adds_nothing {
                continue;
            }
            let direction = Direction::Backward { last_tap: taps.map(|taps| taps.last) };
            let matrix = WeightMatrix { shape, direction, im2col, weights };
            match TiledConv::for_shape(shape) {
                Some(tiled) => self.winograd_grad_input(tiled, matrix, grad_output, epilogue, grad_input),
                None => {
                    let output_map = OutputMap { first: phase, stride: shape.stride, size, epilogue };
                    self.im2col_conv(matrix, grad_output, output_map, grad_input);
                }
            }
        }
        Ok(())
    }

    /// Writes the gradient with respect to the weights before scaling to `out`, `[K, K, C, O]`, given
    /// `input`, `[N, H, W, C]`, and the gradient with respect to the output, `[N, H', W', O]`. Returns the
    /// gradients with respect to the scale and a bias.
    ///
    /// # Errors
    /// [`EngineError::Convolution`] if the shape is invalid or a slice does not fit it.
    pub fn backward_weights(
        &mut self,
        shape: &ConvShape,
        input: &[f32],
        grad_output: &[f32],
        weights: ScaledWeights<'_>,
        out: WeightGrad<'_>,
    ) -> Result<ScaleBiasGrad, EngineError> {
        let WeightGrad { values: grad_weight, accumulate } = out;
        let [values, scale] = weights.slice_lengths(shape);
        let input_len = ("input", input.len(), shape.input_len());
        let grad_output_len = ("output gradient", grad_output.len(), shape.output_len());
        let grad_weight_len = ("weight gradient", grad_weight.len(), shape.weights_len());
        check_lengths(shape, &[input_len, grad_output_len, grad_weight_len, values, scale])?;
        self.ensure_thread_buffers();
        let job = BackwardWeights {
            gemm_kernel: self.gemm_kernel,
            im2col: Im2col::for_forward(shape),
            batch: shape.batch,
            outputs: shape.outputs,
            input,
            grad_output,
            weights,
            accumulate,
        };
        let Self { block_sizes, partial_sums, thread_buffers, kernel_arena, tile_arena, .. } = self;
        Ok(match TiledConv::for_shape(shape) {
            Some(tiled) => {
                let workspace =
                    Workspace { block_sizes: *block_sizes, thread_buffers, kernel_arena, tile_arena };
                job.run_winograd(tiled, workspace, partial_sums, grad_weight)
            }
            None => job.run(thread_buffers, partial_sums, grad_weight),
        })
    }

    /// Writes the product of the im2col matrix of `input` with the weights `matrix` to `output`, as
    /// `output_map` says: a forward pass, or the gradient with respect to some inputs.
    fn im2col_conv(
        &mut self,
        matrix: WeightMatrix<'_>,
        input: &[f32],
        output_map: OutputMap<'_>,
        output: &mut [f32],
    ) {
        self.ensure_thread_buffers();
        let WeightMatrix { shape, im2col, .. } = matrix;
        let (gemm_kernel, channels) = (self.gemm_kernel, matrix.n_columns());
        let steps = piece_len(im2col.depth().max(1), MAX_STEPS);
        pack_weights(gemm_kernel, matrix, steps, &mut self.packed_weights);
        let grid = PositionGrid { batch: shape.batch, im2col };
        Im2colGemm { gemm_kernel, grid, channels, input, weights: &self.packed_weights, output_map }
            .run(&self.thread_buffers, output);
    }

    /// Writes the gradient with respect to the input to `grad_input` by Winograd's algorithm.
    fn winograd_grad_input(
        &mut self,
        tiled: TiledConv,
        matrix: WeightMatrix<'_>,
        grad_output: &[f32],
        epilogue: TrainEpilogue<'_>,
        grad_input: &mut [f32],
    ) {
        self.ensure_thread_buffers();
        let gemm_kernel = self.gemm_kernel;
        let Self { block_sizes, packed_weights, thread_buffers, kernel_arena, tile_arena, .. } = self;
        let ConvShape { inputs, outputs, .. } = *matrix.shape;
        pack_weights(gemm_kernel, matrix, outputs, packed_weights);
        let workspace = Workspace { block_sizes: *block_sizes, thread_buffers, kernel_arena, tile_arena };
        let weights = packed_weights;
        WinogradInputGrad { gemm_kernel, tiled, inputs, outputs, grad_output, weights, epilogue }
            .run(workspace, grad_input);
    }

    /// Ensures a buffer for each thread of the pool.
    fn ensure_thread_buffers(&mut self) {
        let threads = rayon::current_num_threads();
        if self.thread_buffers.len() < threads {
            self.thread_buffers.resize_with(threads, Mutex::default);
        }
    }
}

/// Along one axis, the taps of the kernel that are ever over inputs with one remainder modulo the stride.
#[derive(Clone, Copy)]
struct PhaseTaps {
    /// Number of taps.
    count: usize,
    /// The largest tap; the others are a stride apart.
    last: usize,
    /// The output for which the largest tap is over the first of these inputs; may be outside.
    first_output: isize,
}

impl PhaseTaps {
    /// The taps over the inputs `remainder`, `remainder + stride`, ... Tap `t` is over input `i` for output
    /// `o` if `i + padding = o * stride + t`.
    fn for_remainder(shape: &ConvShape, remainder: usize) -> Self {
        let smallest = (remainder + shape.padding) % shape.stride;
        let count = shape.kernel.saturating_sub(smallest).div_ceil(shape.stride);
        let last = smallest + count.saturating_sub(1) * shape.stride;
        let distance = (remainder + shape.padding).cast_signed() - last.cast_signed();
        Self { count, last, first_output: distance.div_euclid(shape.stride.cast_signed()) }
    }
}
