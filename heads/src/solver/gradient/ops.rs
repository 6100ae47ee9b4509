//! Shared pieces of the hand-written gradients.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::solver::adamw::AdamWSlot;

/// Rows of a product per parallel task.
const ROWS_PER_TASK: usize = 128;
/// Columns of a product, or units of a layer, per parallel task. The sizes are fixed and each piece is summed
/// on one thread, so the bits do not depend on the number of threads.
pub(super) const UNITS_PER_TASK: usize = 64;

/// A trainable parameter, such as the weights of a layer, with its gradient and AdamW state. All vectors have
/// the same length.
#[derive(Debug)]
pub(super) struct AdamWParameter {
    /// The current values.
    pub(super) value: Vec<f32>,
    /// Gradient of the loss in the current step.
    pub(super) gradient: Vec<f32>,
    /// Moving average of the gradient.
    exp_avg: Vec<f32>,
    /// Moving average of the squared gradient.
    exp_avg_sq: Vec<f32>,
}

impl AdamWParameter {
    /// A parameter that starts training from `value`, with zero gradient and moving averages.
    pub(super) fn new(value: Vec<f32>) -> Self {
        let zeros = vec![0.0; value.len()];
        Self { gradient: zeros.clone(), exp_avg: zeros.clone(), exp_avg_sq: zeros, value }
    }

    /// The whole parameter as the argument of [`AdamW::update`](crate::solver::adamw::AdamW::update).
    pub(super) fn as_slot(&mut self) -> AdamWSlot<'_> {
        let Self { value, gradient, exp_avg, exp_avg_sq } = self;
        AdamWSlot { value, gradient, exp_avg, exp_avg_sq }
    }

    /// The parameter in parts of `chunk_len` values, to be updated in parallel: each is an argument of
    /// [`AdamW::update`](crate::solver::adamw::AdamW::update).
    pub(super) fn chunks(&mut self, chunk_len: usize) -> impl IndexedParallelIterator<Item = AdamWSlot<'_>> {
        let means = self.exp_avg.par_chunks_mut(chunk_len).zip(self.exp_avg_sq.par_chunks_mut(chunk_len));
        let values = self.value.par_chunks_mut(chunk_len).zip(self.gradient.par_chunks_mut(chunk_len));
        let to_slot =
            |((value, gradient), (exp_avg, exp_avg_sq))| AdamWSlot { value, gradient, exp_avg, exp_avg_sq };
        values.zip(means).map(to_slot)
    }
}

/// Whether `class` is the prediction for a row of logits `[C]`: the class with the highest one; ties go to
/// the lowest class.
pub(super) fn is_top_class(logits: &[f32], class: usize) -> bool {
    let logit = logits[class];
    let (before, after) = logits.split_at(class);
    before.iter().all(|&other| other < logit) && after.iter().all(|&other| other <= logit)
}

/// Returns the log-loss of a sample of class `label` from its logits `[C]`. Replaces the logits by the
/// gradients of `scale` times the loss, `scale (softmax - one-hot)`, for the backward pass.
pub(super) fn cross_entropy_backward(logits: &mut [f32], label: usize, scale: f32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let label_logit = f64::from(logits[label] - max);
    let mut sum = 0.0;
    for logit in &mut *logits {
        *logit = (*logit - max).exp();
        sum += f64::from(*logit);
    }
    let normalizer = (f64::from(scale) / sum) as f32;
    for value in &mut *logits {
        *value *= normalizer;
    }
    logits[label] -= scale;
    sum.ln() - label_logit
}

/// Matrix product for the forward and backward pass: writes `left · right` (`[n, k]` and `[k, m]`) to `out`
/// `[n, m]`, or adds it to `out`, as `accum` says. Each thread computes pieces of a fixed size, so the result
/// is the same with any number of threads.
pub(super) fn parallel_gemm(
    out: MatMut<'_, f32>,
    accum: Accum,
    left: MatRef<'_, f32>,
    right: MatRef<'_, f32>,
) {
    let mut pieces =
        Vec::with_capacity(out.nrows().div_ceil(ROWS_PER_TASK) * out.ncols().div_ceil(UNITS_PER_TASK));
    let mut remaining_rows = out;
    for row in (0..left.nrows()).step_by(ROWS_PER_TASK) {
        let (mut strip, below) = remaining_rows.split_at_row_mut(ROWS_PER_TASK.min(left.nrows() - row));
        remaining_rows = below;
        for column in (0..right.ncols()).step_by(UNITS_PER_TASK) {
            let (piece, later) = strip.split_at_col_mut(UNITS_PER_TASK.min(right.ncols() - column));
            strip = later;
            pieces.push((row, column, piece));
        }
    }
    pieces.into_par_iter().for_each(|(row, column, piece)| {
        let left = left.subrows(row, piece.nrows());
        let right = right.subcols(column, piece.ncols());
        matmul(piece, accum, left, right, 1.0, Par::Seq);
    });
}

#[cfg(test)]
mod tests {
    use headstock_split::KeyedRng;

    use super::*;

    #[test]
    fn the_lowest_class_wins_a_tie() {
        let right = |class: usize| is_top_class(&[1.0, 3.0, 3.0, f32::NAN], class);
        assert_eq!([right(0), right(1), right(2)], [false, false, false]);
        let right = |class: usize| is_top_class(&[1.0, 3.0, 3.0], class);
        assert_eq!([right(0), right(1), right(2)], [false, true, false]);
    }

    #[test]
    fn a_product_of_any_shape_is_the_schoolbook_one() {
        let integers = |n: usize, key: u64| -> Vec<f32> {
            let mut random = KeyedRng::new(&[key]);
            (0..n).map(|_| random.below(15) as f32 - 7.0).collect()
        };
        for (n, width, units) in [(1, 1, 1), (3, 7, 65), (129, 5, 3), (200, 33, 130)] {
            let (left, right) = (integers(n * width, 1), integers(width * units, 2));
            let mut out = vec![0.0; n * units];
            parallel_gemm(
                MatMut::from_row_major_slice_mut(&mut out, n, units),
                Accum::Replace,
                MatRef::from_row_major_slice(&left, n, width),
                MatRef::from_row_major_slice(&right, width, units),
            );
            for (i, out) in out.chunks_exact(units).enumerate() {
                for (j, &found) in out.iter().enumerate() {
                    let expected: f32 = (0..width).map(|k| left[i * width + k] * right[k * units + j]).sum();
                    assert_eq!(found, expected, "({n}, {width}, {units}) at ({i}, {j})");
                }
            }
        }
    }
}
