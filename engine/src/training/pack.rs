//! Packing of weights in the order in which tiles read them: `[block of steps][panel][step][vector][16
//! channels]`.

use std::ops::Range;

use rayon::prelude::*;

use super::im2col::Im2col;
use super::{ConvShape, ScaledWeights};
use crate::cache_line::CacheLine;
use crate::dispatch::AnyKernel;
use crate::kernels::{Job, Kernel, Simd, Vector};

/// The operand that weights are multiplied with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    /// Inputs: the sum goes over taps and inputs.
    Forward,
    /// Output gradients: the sum goes over taps (from this one down, a stride apart) and outputs.
    Backward([usize; 2]),
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
    /// Channels of the result.
    pub(super) fn n_columns(&self) -> usize {
        match self.direction {
            Direction::Forward => self.shape.outputs,
            Direction::Backward(_) => self.shape.inputs,
        }
    }
}

/// Splits a sum of `depth` steps into the fewest pieces of at most `max_len` steps; returns the length of all
/// but the last.
pub(super) fn piece_len(depth: usize, max_len: usize) -> usize {
    depth.div_ceil(depth.div_ceil(max_len).max(1)).max(1)
}

/// Packs weights in blocks of `steps`. A sum without steps gets one step of zeros.
pub(super) fn pack_weights(
    kernel: AnyKernel,
    matrix: WeightMatrix<'_>,
    steps: usize,
    dst: &mut Vec<CacheLine>,
) {
    let vectors = kernel.layout().vectors;
    let panels = matrix.n_columns().div_ceil(16 * vectors);
    let count = matrix.im2col.depth().max(1) * panels * vectors;
    if dst.len() < count {
        *dst = CacheLine::zeros(count);
    }
    dst[..count].par_chunks_mut(steps * panels * vectors).enumerate().for_each(|(block, lines)| {
        let steps = block * steps..block * steps + lines.len() / (panels * vectors);
        let groups = lines.par_chunks_mut(PANELS_AT_ONCE * steps.len() * vectors);
        groups.enumerate().for_each(|(group, dst)| {
            let first_channel = group * PANELS_AT_ONCE * vectors * 16;
            kernel.run_f32(PackPanels { matrix, steps: steps.clone(), first_channel, dst });
        });
    });
}

/// Panels packed at once; their weights are adjacent in memory.
const PANELS_AT_ONCE: usize = 4;
/// Prefetch distance in rows of weights.
const PREFETCH_ROWS: usize = 8;

/// Packs some panels of a block of steps.
struct PackPanels<'a> {
    matrix: WeightMatrix<'a>,
    steps: Range<usize>,
    first_channel: usize,
    dst: &'a mut [CacheLine],
}

impl Job for PackPanels<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        if self.matrix.im2col.is_empty() {
            self.dst.fill(bytemuck::Zeroable::zeroed());
            return;
        }
        match self.matrix.direction {
            Direction::Forward => self.forward(kernel),
            Direction::Backward(last) => self.backward(kernel, last),
        }
    }
}

/// Loads 16 values, or `lanes` values followed by zeros if `lanes` is below 16.
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
    /// A step is a row of the weights: 16 outputs of it at a time.
    #[inline(always)]
    fn forward<K: Kernel>(self, kernel: K) {
        let WeightMatrix { shape, weights, .. } = self.matrix;
        let (outputs, simd, zero) = (shape.outputs, kernel.simd(), kernel.simd().splat(0.0));
        let steps = self.steps.len();
        let vectors = self.dst.len() / steps;
        for (index, step) in self.steps.enumerate() {
            for vector in 0..vectors {
                let channel = self.first_channel + 16 * vector;
                let lanes = outputs.saturating_sub(channel).min(16);
                let line = (vector / K::VECTORS * steps + index) * K::VECTORS + vector % K::VECTORS;
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

    /// A step is an output: 16 outputs of 16 inputs are transposed at a time.
    #[inline(always)]
    fn backward<K: Kernel>(self, kernel: K, last: [usize; 2]) {
        let WeightMatrix { shape, weights, im2col, .. } = self.matrix;
        let ConvShape { inputs, outputs, kernel: side, stride, .. } = *shape;
        let (simd, zero) = (kernel.simd(), kernel.simd().splat(0.0));
        let steps = self.steps.len();
        for vector in 0..self.dst.len() / steps {
            let channel = self.first_channel + 16 * vector;
            let lanes = inputs.saturating_sub(channel).min(16);
            let mut step = self.steps.start;
            while step < self.steps.end {
                let (tap, first) = (step / outputs, step % outputs);
                let count = (outputs - first).min(self.steps.end - step).min(16);
                let (tap_y, tap_x) = (tap / im2col.taps[1], tap % im2col.taps[1]);
                let tap = (last[0] - tap_y * stride) * side + last[1] - tap_x * stride;
                let src = weights.values.as_ptr().wrapping_add((tap * inputs + channel) * outputs + first);
                let mut rows = [zero; 16];
                // SAFETY: the values are inside the inputs' rows and the scales; a cache line is 16 values.
                unsafe {
                    let scale =
                        weights.scale.map(|scale| load_partial(kernel, scale.as_ptr().add(first), count));
                    for (lane, row) in rows.iter_mut().enumerate().take(lanes) {
                        let src = src.add(lane * outputs);
                        simd.prefetch(src.wrapping_add(16 * PREFETCH_ROWS / 2).cast());
                        *row = load_partial(kernel, src, count);
                        if let Some(scale) = scale {
                            *row = simd.mul_add(*row, scale, zero);
                        }
                    }
                    let columns = simd.transpose(rows);
                    for (index, values) in columns.iter().enumerate().take(count) {
                        let index = step - self.steps.start + index;
                        let line = (vector / K::VECTORS * steps + index) * K::VECTORS + vector % K::VECTORS;
                        simd.store(self.dst.as_mut_ptr().add(line).cast(), *values);
                    }
                }
                step += count;
            }
        }
    }
}
