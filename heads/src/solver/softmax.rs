//! The gradient of a row's log-loss with respect to its logits, in SIMD instructions.

use pulp::{Arch, Simd, WithSimd};

use crate::dense::Real;

/// Number of partial sums or maxima in a reduction, which a processor computes at the same time. It is fixed,
/// so that every processor gives the same bits.
const LANES: usize = 16;

/// A floating-point type in which solvers compute logits: `f64`, or `f32` where speed matters more.
pub(crate) trait LogitFloat: Real {
    /// `e` to the power of this number, which must be at most 0, as softmax needs it after it has subtracted
    /// the largest logit.
    fn exp_non_positive(self) -> Self;
}

impl LogitFloat for f64 {
    /// `e` to the power of this number, which must be at most 0, by the standard library.
    #[inline(always)]
    fn exp_non_positive(self) -> Self {
        self.exp()
    }
}

impl LogitFloat for f32 {
    /// `e` to the power of this number, which must be at most 0, accurate to two units in the last place. Own
    /// code without branches, as a loop of it can be compiled to SIMD instructions, unlike one of `f32::exp`.
    /// Computes `2ⁿ eʳ` with integer `n` and `|r| <= ½ ln 2`, where `eʳ` is the polynomial of the Cephes
    /// library (Moshier 1989). Arguments below -87, whose result would be too small for a normal `f32`, count
    /// as -87.
    #[inline(always)]
    fn exp_non_positive(self) -> Self {
        /// `1.5 · 2²³`: adding this rounds a number to an integer in its last bits.
        const ROUND: f32 = 12_582_912.0;
        /// ln 2, split into a part with few bits, whose product with `n` is exact, and the rest.
        const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
        let x = self.max(-87.0);
        let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], x));
        // `eʳ` is `1 + r + r² tail`.
        let terms = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
        let tail = terms.iter().fold(1.987_569_1e-4f32, |sum, &term| sum.mul_add(r, term));
        // 2ⁿ: the last bits of `shifted` are n, which is added to the exponent of 1.
        let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
        power * tail.mul_add(r * r, r + 1.0)
    }
}

/// Computes the log-loss of one sample of class `label` in logistic regression, and its gradient with respect
/// to the sample's logits. `logits` `[K]` come without the intercepts `bias` `[K]`, which are added first.
/// Returns the log-loss without the weight. Overwrites `logits` with the gradient of the weighted loss,
/// `sample_weight (softmax - one-hot)`. `arch` is the SIMD level to compute with.
pub(crate) fn softmax_residual<T: LogitFloat>(
    arch: Arch,
    logits: &mut [T],
    bias: &[T],
    label: usize,
    sample_weight: f64,
) -> f64 {
    arch.dispatch(SoftmaxResidual { logits, bias, label, sample_weight })
}

/// The arguments of [`softmax_residual`]. A struct, not a closure: `with_simd` must be inlined to use the
/// processor's instructions.
struct SoftmaxResidual<'a, T> {
    logits: &'a mut [T],
    bias: &'a [T],
    label: usize,
    sample_weight: f64,
}

impl<T: LogitFloat> WithSimd for SoftmaxResidual<'_, T> {
    type Output = f64;

    /// Adds the intercepts to the logits, returns the log-loss of the sample, and overwrites the logits with
    /// the gradient of the weighted loss, as [`softmax_residual`] describes. Subtracts the largest logit
    /// first, so that no exponential overflows.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let Self { logits, bias, label, sample_weight } = self;
        for (logit, &bias) in logits.iter_mut().zip(bias) {
            *logit += bias;
        }
        let larger = |a: T, b: T| if b > a { b } else { a };
        let max = reduce_lanes(logits, logits[label], |&logit| logit, larger);
        let label_logit: f64 = logits[label].into() - max.into();
        for logit in logits.iter_mut() {
            *logit = (*logit - max).exp_non_positive();
        }
        let sum = reduce_lanes(logits, 0.0, |&power| power.into(), |a: f64, b| a + b);
        let scale = T::from_f64(sample_weight / sum);
        for logit in logits.iter_mut() {
            *logit *= scale;
        }
        logits[label] -= T::from_f64(sample_weight);
        sum.ln() - label_logit
    }
}

/// The sum or the maximum of `map(value)` over the `values`: `combine` adds two numbers or takes the larger.
/// Computes [`LANES`] partial results (each over every `LANES`-th value), which can run in SIMD instructions,
/// then combines these. `start` must be neutral, such as 0 for a sum. The order is fixed, so that every
/// processor gives the same bits.
#[inline(always)]
fn reduce_lanes<T, U: Copy>(values: &[T], start: U, map: impl Fn(&T) -> U, combine: impl Fn(U, U) -> U) -> U {
    let mut lanes = [start; LANES];
    let (blocks, remainder) = values.as_chunks::<LANES>();
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane = combine(*lane, map(value));
        }
    }
    let combined = remainder.iter().fold(start, |combined, value| combine(combined, map(value)));
    lanes.into_iter().fold(combined, combine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::available_archs;

    #[test]
    fn powers_in_f32_are_off_by_two_units_in_the_last_place_at_most() {
        for i in 0..=870_000 {
            let x = -(i as f32) / 10_000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(x.exp_non_positive()) - exact).abs() / exact;
            assert!(error <= 2.0 * f64::from(f32::EPSILON), "{x}: {error:e}");
        }
        assert_eq!(0f32.exp_non_positive(), 1.0);
        assert!(f32::NEG_INFINITY.exp_non_positive() < 1e-37);
    }

    #[test]
    fn residuals_match_the_formula_on_every_processor() {
        for classes in [1, 2, 15, 16, 37] {
            let bias: Vec<f64> = (0..classes).map(|k| (k as f64 * 1.7).cos()).collect();
            let logits: Vec<f64> = (0..classes).map(|k| 20.0 * (k as f64 * 0.9).sin()).collect();
            let label = classes / 2;
            let powers: Vec<f64> =
                logits.iter().zip(&bias).map(|(logit, bias)| (logit + bias).exp()).collect();
            let sum: f64 = powers.iter().sum();
            let to_f32 = |values: &[f64]| -> Vec<f32> { values.iter().map(|&value| value as f32).collect() };
            let mut bits = Vec::new();
            for arch in available_archs() {
                let (mut wide, mut narrow) = (logits.clone(), to_f32(&logits));
                let losses = [
                    softmax_residual(arch, &mut wide, &bias, label, 0.25),
                    softmax_residual(arch, &mut narrow, &to_f32(&bias), label, 0.25),
                ];
                for (k, power) in powers.iter().enumerate() {
                    let one_hot = if k == label { 1.0 } else { 0.0 };
                    let expected = 0.25 * (power / sum - one_hot);
                    assert!((wide[k] - expected).abs() < 1e-14, "{classes}, {k}");
                    assert!((f64::from(narrow[k]) - expected).abs() < 1e-6, "{classes}, {k} in f32");
                }
                let loss = -(powers[label] / sum).ln();
                assert!((losses[0] - loss).abs() < 1e-13 && (losses[1] - loss).abs() < 1e-5, "{losses:?}");
                bits.push((wide, narrow, losses.map(f64::to_bits)));
            }
            assert!(bits.iter().all(|same| *same == bits[0]), "{classes}");
        }
    }
}
