//! The gradient of a row's log-loss with respect to its logits, in SIMD instructions.

use pulp::{Arch, Simd, WithSimd};

use crate::dense::Real;

/// Values reduced together; fixed, so that every processor gives the same bits.
const LANES: usize = 16;

/// The floating-point type of logits.
pub(crate) trait LogitFloat: Real {
    /// `e` to the power of a number from `-∞` to 0.
    fn exp_non_positive(self) -> Self;
}

impl LogitFloat for f64 {
    #[inline(always)]
    fn exp_non_positive(self) -> Self {
        self.exp()
    }
}

impl LogitFloat for f32 {
    /// `2ⁿ eʳ` with integer `n` and `|r| <= ½ ln 2`, with the polynomial of the Cephes library (Moshier 1989)
    /// for `eʳ`: accurate to two units in the last place, without branches. Arguments below -87 are clamped.
    #[inline(always)]
    fn exp_non_positive(self) -> Self {
        /// Adding this rounds a number to an integer in its last bits.
        const ROUND: f32 = 12_582_912.0;
        /// ln 2, split into a part with few bits and the rest.
        const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
        let x = self.max(-87.0);
        let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], x));
        let terms = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
        let tail = terms.iter().fold(1.987_569_1e-4f32, |sum, &term| sum.mul_add(r, term));
        let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
        power * tail.mul_add(r * r, r + 1.0)
    }
}

/// Adds `bias` to the logits `[K]` of a row and replaces them by `sample_weight (softmax - one-hot)`; returns
/// the log-loss.
pub(crate) fn softmax_residual<T: LogitFloat>(
    arch: Arch,
    logits: &mut [T],
    bias: &[T],
    label: usize,
    sample_weight: f64,
) -> f64 {
    arch.dispatch(SoftmaxResidual { logits, bias, label, sample_weight })
}

/// A struct, not a closure: `with_simd` must be inlined to use the processor's instructions.
struct SoftmaxResidual<'a, T> {
    logits: &'a mut [T],
    bias: &'a [T],
    label: usize,
    sample_weight: f64,
}

impl<T: LogitFloat> WithSimd for SoftmaxResidual<'_, T> {
    type Output = f64;

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

/// Reduces all mapped values with `combine`, starting from `start`, which must be neutral.
#[inline(always)]
fn reduce_lanes<T, U: Copy>(values: &[T], start: U, map: impl Fn(&T) -> U, combine: impl Fn(U, U) -> U) -> U {
    let mut lanes = [start; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane = combine(*lane, map(value));
        }
    }
    let rest = rest.iter().fold(start, |sum, value| combine(sum, map(value)));
    lanes.into_iter().fold(rest, combine)
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
