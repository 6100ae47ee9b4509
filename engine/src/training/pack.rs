//! Weights in the order in which tiles read them: `[block of steps][panel][step][vector][16 channels]`.

use rayon::prelude::*;

use super::gather::Gather;
use super::{Shape, Weights};
use crate::cell::Cell;
use crate::kernels::{Job, Kernel, Simd, Vector};
use crate::machine::Machine;

/// What weights are multiplied with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Inputs: the sum goes over taps and inputs.
    Forward,
    /// Outputs: the sum goes over taps, from these on down by a stride, and outputs.
    Backward([usize; 2]),
}

impl Order {
    /// Channels of the result.
    pub(super) fn columns(self, shape: &Shape) -> usize {
        match self {
            Self::Forward => shape.outputs,
            Self::Backward(_) => shape.inputs,
        }
    }
}

/// Where a sum of `depth` steps is cut: as few pieces as there can be, of one length but the last.
pub(super) fn piece(depth: usize, most: usize) -> usize {
    depth.div_ceil(depth.div_ceil(most).max(1)).max(1)
}

/// Packs weights in blocks of `steps`. A sum over nothing gets a step of zeros.
pub(super) fn packed(
    machine: Machine,
    shape: &Shape,
    (order, gather): (Order, &Gather),
    weights: Weights<'_>,
    steps: usize,
    to: &mut Vec<Cell>,
) {
    let depth = gather.depth().max(1);
    let vectors = machine.layout().vectors;
    let panels = order.columns(shape).div_ceil(16 * vectors);
    let count = depth * panels * vectors;
    if to.len() < count {
        *to = Cell::zeros(count);
    }
    let whole = steps * panels * vectors;
    to[..count].par_chunks_mut(whole).enumerate().for_each(|(block, cells)| {
        let steps = block * steps..block * steps + cells.len() / (panels * vectors);
        cells.par_chunks_mut(PANELS * steps.len() * vectors).enumerate().for_each(|(group, cells)| {
            let first = group * PANELS * vectors * 16;
            machine.run_wide(Panels {
                shape,
                order,
                gather,
                weights,
                steps: steps.clone(),
                first,
                to: cells,
            });
        });
    });
}

/// Panels that are packed at once: what is read for them lies side by side.
const PANELS: usize = 4;
/// Rows of weights that are asked for before they are read.
const AHEAD: usize = 8;

/// Some panels of a block of steps.
struct Panels<'a> {
    shape: &'a Shape,
    order: Order,
    gather: &'a Gather,
    weights: Weights<'a>,
    steps: std::ops::Range<usize>,
    /// The first channel.
    first: usize,
    to: &'a mut [Cell],
}

impl Job for Panels<'_> {
    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        if self.gather.is_empty() {
            self.to.fill(bytemuck::Zeroable::zeroed());
            return;
        }
        match self.order {
            Order::Forward => self.forward(kernel),
            Order::Backward(last) => self.backward(kernel, last),
        }
    }
}

/// 16 values, or as many as there are and zeros.
///
/// # Safety
/// `lanes` values at `from` are valid for reads.
#[inline(always)]
unsafe fn some<K: Kernel>(kernel: K, from: *const f32, lanes: usize) -> Vector<K> {
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

impl Panels<'_> {
    #[inline(always)]
    fn forward<K: Kernel>(self, kernel: K) {
        let (outputs, simd, zero) = (self.shape.outputs, kernel.simd(), kernel.simd().splat(0.0));
        let steps = self.steps.len();
        let vectors = self.to.len() / steps;
        for (index, step) in self.steps.enumerate() {
            for vector in 0..vectors {
                let channel = self.first + 16 * vector;
                let lanes = outputs.saturating_sub(channel).min(16);
                let cell = (vector / K::VECTORS * steps + index) * K::VECTORS + vector % K::VECTORS;
                // SAFETY: the values are inside the step's row and the scales; a cell is 16 values.
                unsafe {
                    let from = self.weights.values.as_ptr().wrapping_add(step * outputs + channel);
                    simd.prefetch(from.wrapping_add(AHEAD * outputs).cast());
                    let mut values = some(kernel, from, lanes);
                    if let Some(scale) = self.weights.scale {
                        let scale = some(kernel, scale.as_ptr().wrapping_add(channel), lanes);
                        values = simd.mul_add(values, scale, zero);
                    }
                    simd.store(self.to.as_mut_ptr().add(cell).cast(), values);
                }
            }
        }
    }

    /// 16 outputs of 16 inputs at a time, where a step is an output.
    #[inline(always)]
    fn backward<K: Kernel>(self, kernel: K, last: [usize; 2]) {
        let Shape { inputs, outputs, kernel: side, stride, .. } = *self.shape;
        let (simd, zero) = (kernel.simd(), kernel.simd().splat(0.0));
        let steps = self.steps.len();
        for vector in 0..self.to.len() / steps {
            let channel = self.first + 16 * vector;
            let lanes = inputs.saturating_sub(channel).min(16);
            let mut step = self.steps.start;
            while step < self.steps.end {
                let (tap, first) = (step / outputs, step % outputs);
                let count = (outputs - first).min(self.steps.end - step).min(16);
                let (tap_y, tap_x) = (tap / self.gather.taps[1], tap % self.gather.taps[1]);
                let tap = (last[0] - tap_y * stride) * side + last[1] - tap_x * stride;
                let from =
                    self.weights.values.as_ptr().wrapping_add((tap * inputs + channel) * outputs + first);
                let mut rows = [zero; 16];
                // SAFETY: the values are inside the inputs' rows and the scales; a cell is 16 values.
                unsafe {
                    let scale =
                        self.weights.scale.map(|scale| some(kernel, scale.as_ptr().add(first), count));
                    for (lane, row) in rows.iter_mut().enumerate().take(lanes) {
                        let from = from.add(lane * outputs);
                        simd.prefetch(from.wrapping_add(16 * AHEAD / 2).cast());
                        *row = some(kernel, from, count);
                        if let Some(scale) = scale {
                            *row = simd.mul_add(*row, scale, zero);
                        }
                    }
                    let columns = simd.transpose(rows);
                    for (index, values) in columns.iter().enumerate().take(count) {
                        let index = step - self.steps.start + index;
                        let cell = (vector / K::VECTORS * steps + index) * K::VECTORS + vector % K::VECTORS;
                        simd.store(self.to.as_mut_ptr().add(cell).cast(), *values);
                    }
                }
                step += count;
            }
        }
    }
}
