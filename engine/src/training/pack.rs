//! Packing of weights in the order in which tiles read them: `[block of steps][panel][step][vector][16
//! channels]`. A step of a sum is one of its products: a row of the weights as a matrix.

use std::ops::Range;

use rayon::prelude::*;

use super::im2col::Im2col;
use super::operands::ScaledWeights;
use crate::cache_line::CacheLine;
use crate::conv_shape::ConvShape;
use crate::dispatch::AnyKernel;
use crate::kernels::{Job, Kernel, Simd, Vector};

/// What the weights are multiplied with, which decides the order in which they are packed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    /// Inputs: the sum goes over taps and input channels.
    Forward,
    /// Output gradients: the sum goes over taps and output channels.
    Backward {
        /// Row and column of the last tap, with which the sum starts; the others are a stride apart.
        last_tap: [usize; 2],
    },
}

/// The weights of a GEMM as a matrix `[im2col.depth(), n_columns()]`.
#[derive(Clone, Copy)]
pub(super) struct WeightMatrix<'a> {
    pub(super) shape: &'a ConvShape,
    pub(super) direction: Direction,
    pub(super) im2col: Im2col,
    pub(super) weights: ScaledWeights<'a>,
}

impl WeightMatrix<'_> {
    /// Number of columns of the matrix, the channels of the GEMM's result: the convolution's outputs in a
    /// forward pass, its inputs in the gradient with respect to the input.
    pub(super) fn n_columns(&self) -> usize {
        match self.direction {
            Direction::Forward => self.shape.outputs,
            Direction::Backward { .. } => self.shape.inputs,
        }
    }
}

/// Splits a sum of `depth` products (steps) into the fewest pieces of at most `max_len`, of nearly equal
/// length, which a GEMM sums one after the other so that its operands fit the cache. Returns the length of
/// all pieces but the last, which may be shorter.
pub(super) fn piece_len(depth: usize, max_len: usize) -> usize {
    depth.div_ceil(depth.div_ceil(max_len).max(1)).max(1)
}

/// Packs the weights of a training convolution for its GEMM: writes them to `dst`, which grows if it is too
/// short, in the order in which the tiles of `gemm_kernel` read them,
/// `[block of steps][panel][step][vector][16 channels]`. A step is one product of each sum, a row of the
/// matrix; a block has `block_steps` of them. A panel is the channels of a tile. A sum without steps (no tap
/// is over the inputs) gets one step of zeros.
pub(super) fn pack_weights(
    gemm_kernel: AnyKernel,
    matrix: WeightMatrix<'_>,
    block_steps: usize,
    dst: &mut Vec<CacheLine>,
) {
    let vectors_per_panel = gemm_kernel.layout().vectors_per_panel;
    let panels = matrix.n_columns().div_ceil(16 * vectors_per_panel);
    let step_lines = panels * vectors_per_panel;
    let n_lines = matrix.im2col.depth().max(1) * step_lines;
    if dst.len() < n_lines {
        *dst = CacheLine::zeros(n_lines);
    }
    dst[..n_lines].par_chunks_mut(block_steps * step_lines).enumerate().for_each(|(block, lines)| {
        let steps = block * block_steps..block * block_steps + lines.len() / step_lines;
        let groups = lines.par_chunks_mut(PANELS_AT_ONCE * steps.len() * vectors_per_panel);
        groups.enumerate().for_each(|(group, dst)| {
            let first_channel = group * PANELS_AT_ONCE * vectors_per_panel * 16;
            gemm_kernel.run_f32(PackPanels { matrix, steps: steps.clone(), first_channel, dst });
        });
    });
}

/// Panels that a unit of work packs; their weights are adjacent in memory.
const PANELS_AT_ONCE: usize = 4;
/// Prefetch distance in rows of weights.
const PREFETCH_ROWS: usize = 8;

/// Packs some panels (vectors of channels) of the block of steps `steps` to `dst`: a unit of work of
/// [`pack_weights`].
struct PackPanels<'a> {
    matrix: WeightMatrix<'a>,
    steps: Range<usize>,
    /// The first of the panels' channels.
    first_channel: usize,
    dst: &'a mut [CacheLine],
}

impl Job for PackPanels<'_> {
    /// Packs the panels: copies their weights to `dst` in the order in which the GEMM of a forward pass, or
    /// of the gradient with respect to the input, reads them, so that it reads memory contiguously.
    /// `gemm_kernel` has the vector instructions of the CPU and the number of vectors in a panel. If the
    /// im2col matrix is empty, no weight is ever multiplied with an input (all of it is padding), and `dst`
    /// becomes zeros.
    #[inline(always)]
    fn run<K: Kernel>(self, gemm_kernel: K) {
        if self.matrix.im2col.is_empty() {
            self.dst.fill(bytemuck::Zeroable::zeroed());
            return;
        }
        match self.matrix.direction {
            Direction::Forward => self.pack_forward(gemm_kernel),
            Direction::Backward { last_tap } => self.pack_backward(gemm_kernel, last_tap),
        }
    }
}

/// Loads a vector of 16 values whose first `lanes` come from `src` and whose others are 0: the last channels
/// of a row may not fill a vector. With 16 `lanes` or more, all come from `src`.
///
/// # Safety
/// `lanes.min(16)` values at `src` must be valid for reads.
#[inline(always)]
pub(super) unsafe fn load_partial<K: Kernel>(kernel: K, src: *const f32, lanes: usize) -> Vector<K> {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if lanes >= 16 {
            return kernel.simd().load(src);
        }
        let mut values = [0.0; 16];
        src.copy_to_nonoverlapping(values.as_mut_ptr(), lanes);
        kernel.simd().load(values.as_ptr())
    }
}

impl PackPanels<'_> {
    /// Packs the rows `self.steps` of the weights `[K * K * C, O]` (a row is a position in the convolution
    /// kernel and an input channel), from output channel `first_channel` on, for the GEMM of a forward pass.
    /// The layout of `dst` is `[panels, steps, vectors of a panel, 16 channels]`, in which the GEMM reads it;
    /// channels beyond `O` are 0. Weights are multiplied by the scale of their output channel, if there is
    /// one.
    #[inline(always)]
    fn pack_forward<K: Kernel>(self, kernel: K) {
        let WeightMatrix { shape, weights, .. } = self.matrix;
        let (outputs, simd, zero) = (shape.outputs, kernel.simd(), kernel.simd().splat(0.0));
        let steps = self.steps.len();
        let vectors = self.dst.len() / steps;
        for (index, step) in self.steps.enumerate() {
            for vector in 0..vectors {
                let channel = self.first_channel + 16 * vector;
                let lanes = outputs.saturating_sub(channel).min(16);
                let line = (vector / K::VECTORS_PER_PANEL * steps + index) * K::VECTORS_PER_PANEL
                    + vector % K::VECTORS_PER_PANEL;
                // SAFETY: the values are inside the step's row and the scales; a cache line is 16 values.
                unsafe {
                    let src = weights.values.as_ptr().wrapping_add(step * outputs + channel);
                    simd.prefetch(src.wrapping_add(PREFETCH_ROWS * outputs).cast());
                    let mut values = load_partial(kernel, src, lanes);
                    if let Some(scale) = weights.scale {
                        let scale = load_partial(kernel, scale.as_ptr().wrapping_add(channel), lanes);
                        values = simd.mul_add(values, scale, zero);
                    }
                    simd.store(self.dst.as_mut_ptr().add(line).cast(), values);
                }
            }
        }
    }

    /// Packs weights, multiplied by their scale, for the GEMM of the gradient with respect to the input. A
    /// step of its sums is a tap (cell of the kernel) and output channel; the taps go backward from row and
    /// column `last_tap`, a stride apart. The vectors have input channels, but the weights `[K * K * C, O]`
    /// have output channels adjacent in memory, so 16 x 16 weights are transposed at a time.
    #[inline(always)]
    fn pack_backward<K: Kernel>(self, kernel: K, last_tap: [usize; 2]) {
        let WeightMatrix { shape, weights, im2col, .. } = self.matrix;
        let ConvShape { inputs, outputs, kernel: kernel_size, stride, .. } = *shape;
        let (simd, zero) = (kernel.simd(), kernel.simd().splat(0.0));
        let steps = self.steps.len();
        for vector in 0..self.dst.len() / steps {
            let channel = self.first_channel + 16 * vector;
            let lanes = inputs.saturating_sub(channel).min(16);
            let mut step = self.steps.start;
            while step < self.steps.end {
                let (step_tap, first) = (step / outputs, step % outputs);
                let count = (outputs - first).min(self.steps.end - step).min(16);
                let tap_y = last_tap[0] - step_tap / im2col.taps[1] * stride;
                let tap_x = last_tap[1] - step_tap % im2col.taps[1] * stride;
                let tap = tap_y * kernel_size + tap_x;
                let src = weights.values.as_ptr().wrapping_add((tap * inputs + channel) * outputs + first);
                let mut rows = [zero; 16];
                // SAFETY: the values are inside the inputs' rows and the scales; a cache line is 16 values.
                unsafe {
                    let scale =
                        weights.scale.map(|scale| load_partial(kernel, scale.as_ptr().add(first), count));
                    for (lane, row) in rows.iter_mut().enumerate().take(lanes) {
                        let src = src.add(lane * outputs);
                        // Four cache lines ahead in the same row.
                        simd.prefetch(src.wrapping_add(16 * PREFETCH_ROWS / 2).cast());
                        *row = load_partial(kernel, src, count);
                        if let Some(scale) = scale {
                            *row = simd.mul_add(*row, scale, zero);
                        }
                    }
                    let columns = simd.transpose(rows);
                    for (lane, values) in columns.iter().enumerate().take(count) {
                        let step_index = step - self.steps.start + lane;
                        let line = (vector / K::VECTORS_PER_PANEL * steps + step_index)
                            * K::VECTORS_PER_PANEL
                            + vector % K::VECTORS_PER_PANEL;
                        simd.store(self.dst.as_mut_ptr().add(line).cast(), *values);
                    }
                }
                step += count;
            }
        }
    }
}
