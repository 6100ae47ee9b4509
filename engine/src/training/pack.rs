//! Weights in the order in which tiles read them: `[block of steps][panel][step][vector][16 channels]`.

use rayon::prelude::*;

use super::im2col::Im2col;
use super::{ConvShape, ScaledWeights};
use crate::cache_line::CacheLine;
use crate::dispatch::AnyKernel;
use crate::kernels::{Job, Kernel, Simd, Vector};

/// What weights are multiplied with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    /// Inputs: the sum goes over taps and inputs.
    Forward,
    /// Outputs: the sum goes over taps, from these on down by a stride, and outputs.
    Backward([usize; 2]),
}

impl Direction {
    /// Channels of the result.
    pub(super) fn result_channels(self, shape: &ConvShape) -> usize {
        match self {
            Self::Forward => shape.outputs,
            Self::Backward(_) => shape.inputs,
        }
    }
}

/// Where a sum of `depth` steps is cut: as few pieces as there can be, of one length but the last.
pub(super) fn piece_len(depth: usize, max_len: usize) -> usize {
    depth.div_ceil(depth.div_ceil(max_len).max(1)).max(1)
}

/// Packs weights in blocks of `steps`. A sum over nothing gets a step of zeros.
pub(super) fn pack_weights(
    kernel: AnyKernel,
    shape: &ConvShape,
    (direction, im2col): (Direction, &Im2col),
    weights: ScaledWeights<'_>,
    steps: usize,
    dst: &mut Vec<CacheLine>,
) {
    let depth = im2col.depth().max(1);
    let vectors = kernel.layout().vectors;
    let panels = direction.result_channels(shape).div_ceil(16 * vectors);
    let count = depth * panels * vectors;
    if dst.len() < count {
        *dst = CacheLine::zeros(count);
    }
    let block_lines = steps * panels * vectors;
    dst[..count].par_chunks_mut(block_lines).enumerate().for_each(|(block, lines)| {
        let steps = block * steps..block * steps + lines.len() / (panels * vectors);
        lines.par_chunks_mut(PANELS_AT_ONCE * steps.len() * vectors).enumerate().for_each(
            |(group, lines)| {
                let first = group * PANELS_AT_ONCE * vectors * 16;
                kernel.run_f32(PackPanels {
                    shape,
                    direction,
                    im2col,
                    weights,
                    steps: steps.clone(),
                    first_channel: first,
                    dst: lines,
                });
            },
        );
    });
}

/// Panels that are packed at once: what is read for them lies side by side.
const PANELS_AT_ONCE: usize = 4;
/// Rows of weights that are asked for before they are read.
const PREFETCH_ROWS: usize = 8;

/// Some panels of a block of steps.
struct PackPanels<'a> {
    shape: &'a ConvShape,
    direction: Direction,
    im2col: &'a Im2col,
    weights: ScaledWeights<'a>,
    steps: std::ops::Range<usize>,
    /// The first channel.
    first_channel: usize,
    dst: &'a mut [CacheLine],
}

impl Job for PackPanels<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        if self.im2col.is_empty() {
            self.dst.fill(bytemuck::Zeroable::zeroed());
            return;
        }
        match self.direction {
            Direction::Forward => self.forward(kernel),
            Direction::Backward(last) => self.backward(kernel, last),
        }
    }
}

/// 16 values, or as many as there are and zeros.
///
/// # Safety
/// `lanes` values at `from` are valid for reads.
#[inline(always)]
unsafe fn load_partial<K: Kernel>(kernel: K, from: *const f32, lanes: usize) -> Vector<K> {
    // SAFETY: the caller's promise.
    unsafe {
        if lanes >= 16 {
            return kernel.simd().load(from);
        }
        let mut values = [0.0; 16];
        from.copy_to_nonoverlapping(values.as_mut_ptr(), lanes);
        kernel.simd().load(values.as_ptr())
    }
}

impl PackPanels<'_> {
    #[inline(always)]
    fn forward<K: Kernel>(self, kernel: K) {
        let (outputs, simd, zero) = (self.shape.outputs, kernel.simd(), kernel.simd().splat(0.0));
        let steps = self.steps.len();
        let vectors = self.dst.len() / steps;
        for (index, step) in self.steps.enumerate() {
            for vector in 0..vectors {
                let channel = self.first_channel + 16 * vector;
                let lanes = outputs.saturating_sub(channel).min(16);
                let line = (vector / K::VECTORS * steps + index) * K::VECTORS + vector % K::VECTORS;
                // SAFETY: the values are inside the step's row and the scales; a cell is 16 values.
                unsafe {
                    let src = self.weights.values.as_ptr().wrapping_add(step * outputs + channel);
                    simd.prefetch(src.wrapping_add(PREFETCH_ROWS * outputs).cast());
                    let mut values = load_partial(kernel, src, lanes);
                    if let Some(scale) = self.weights.scale {
                        let scale = load_partial(kernel, scale.as_ptr().wrapping_add(channel), lanes);
                        values = simd.mul_add(values, scale, zero);
                    }
                    simd.store(self.dst.as_mut_ptr().add(line).cast(), values);
                }
            }
        }
    }

    /// 16 outputs of 16 inputs at a time, where a step is an output.
    #[inline(always)]
    fn backward<K: Kernel>(self, kernel: K, last: [usize; 2]) {
        let ConvShape { inputs, outputs, kernel: side, stride, .. } = *self.shape;
        let (simd, zero) = (kernel.simd(), kernel.simd().splat(0.0));
        let steps = self.steps.len();
        for vector in 0..self.dst.len() / steps {
            let channel = self.first_channel + 16 * vector;
            let lanes = inputs.saturating_sub(channel).min(16);
            let mut step = self.steps.start;
            while step < self.steps.end {
                let (tap, first) = (step / outputs, step % outputs);
                let count = (outputs - first).min(self.steps.end - step).min(16);
                let (tap_y, tap_x) = (tap / self.im2col.taps[1], tap % self.im2col.taps[1]);
                let tap = (last[0] - tap_y * stride) * side + last[1] - tap_x * stride;
                let src =
                    self.weights.values.as_ptr().wrapping_add((tap * inputs + channel) * outputs + first);
                let mut rows = [zero; 16];
                // SAFETY: the values are inside the inputs' rows and the scales; a cell is 16 values.
                unsafe {
                    let scale = self
                        .weights
                        .scale
                        .map(|scale| load_partial(kernel, scale.as_ptr().add(first), count));
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
