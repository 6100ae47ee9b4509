//! The derivative of a row's log-loss by its logits, in vector instructions.

use pulp::{Arch, Simd, WithSimd};

use crate::dense::Real;

/// Values that are looked at together: their number is fixed, so that every processor gives the same bits.
const LANES: usize = 16;

/// What logits are computed in.
pub(crate) trait Logit: Real {
    /// `e` to the power of a number from `-∞` to 0.
    fn exp_of_negative(self) -> Self;
}

impl Logit for f64 {
    #[inline(always)]
    fn exp_of_negative(self) -> Self {
        self.exp()
    }
}

impl Logit for f32 {
    /// `2ⁿ eʳ` with `n` whole and `|r| <= ½ ln 2`, and the polynomial of the Cephes library (Moshier 1989) for `eʳ`: off by
    /// no more than two units in the last place, and without a branch. What is below `e⁻⁸⁷` becomes that.
    #[inline(always)]
    fn exp_of_negative(self) -> Self {
        /// Adding it leaves a number rounded to a whole one in the last bits.
        const ROUND: f32 = 12_582_912.0;
        /// ln 2, in a part that has few bits and the rest.
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

/// Adds `bias` to the logits `[K]` of a row and replaces them by `share (softmax - one-hot)`; returns the log-loss.
pub(crate) fn residual<T: Logit>(arch: Arch, logits: &mut [T], bias: &[T], label: usize, share: f64) -> f64 {
    arch.dispatch(Residual { logits, bias, label, share })
}

/// An operation of its own, not a closure: it has to be inlined for the processor's instructions.
struct Residual<'a, T> {
    logits: &'a mut [T],
    bias: &'a [T],
    label: usize,
    share: f64,
}

impl<T: Logit> WithSimd for Residual<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let Self { logits, bias, label, share } = self;
        for (logit, &bias) in logits.iter_mut().zip(bias) {
            *logit += bias;
        }
        let larger = |a: T, b: T| if b > a { b } else { a };
        let top = across(logits, logits[label], |&logit| logit, larger);
        let own: f64 = logits[label].into() - top.into();
        for logit in logits.iter_mut() {
            *logit = (*logit - top).exp_of_negative();
        }
        let sum = across(logits, 0.0, |&power| power.into(), |a: f64, b| a + b);
        let scale = T::of(share / sum);
        for logit in logits.iter_mut() {
            *logit *= scale;
        }
        logits[label] -= T::of(share);
        sum.ln() - own
    }
}

/// Joins what is made of all values and of `start`, any number of times that changes nothing.
#[inline(always)]
fn across<T, U: Copy>(values: &[T], start: U, of: impl Fn(&T) -> U, join: impl Fn(U, U) -> U) -> U {
    let mut lanes = [start; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane = join(*lane, of(value));
        }
    }
    let rest = rest.iter().fold(start, |sum, value| join(sum, of(value)));
    lanes.into_iter().fold(rest, join)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::processors;

    #[test]
    fn powers_in_f32_are_off_by_two_units_in_the_last_place_at_most() {
        for i in 0..=870_000 {
            let x = -(i as f32) / 10_000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(x.exp_of_negative()) - exact).abs() / exact;
            assert!(error <= 2.0 * f64::from(f32::EPSILON), "{x}: {error:e}");
        }
        assert_eq!(0f32.exp_of_negative(), 1.0);
        assert!(f32::NEG_INFINITY.exp_of_negative() < 1e-37);
    }

    #[test]
    fn residuals_are_those_of_the_formula_on_every_processor() {
        for classes in [1, 2, 15, 16, 37] {
            let bias: Vec<f64> = (0..classes).map(|k| (k as f64 * 1.7).cos()).collect();
            let logits: Vec<f64> = (0..classes).map(|k| 20.0 * (k as f64 * 0.9).sin()).collect();
            let label = classes / 2;
            let powers: Vec<f64> =
                logits.iter().zip(&bias).map(|(logit, bias)| (logit + bias).exp()).collect();
            let sum: f64 = powers.iter().sum();
            let narrow = |values: &[f64]| -> Vec<f32> { values.iter().map(|&value| value as f32).collect() };
            let mut bits = Vec::new();
            for arch in processors() {
                let (mut wide, mut short) = (logits.clone(), narrow(&logits));
                let losses = [
                    residual(arch, &mut wide, &bias, label, 0.25),
                    residual(arch, &mut short, &narrow(&bias), label, 0.25),
                ];
                for (k, power) in powers.iter().enumerate() {
                    let own = if k == label { 1.0 } else { 0.0 };
                    let expected = 0.25 * (power / sum - own);
                    assert!((wide[k] - expected).abs() < 1e-14, "{classes}, {k}");
                    assert!((f64::from(short[k]) - expected).abs() < 1e-6, "{classes}, {k} in f32");
                }
                let loss = -(powers[label] / sum).ln();
                assert!((losses[0] - loss).abs() < 1e-13 && (losses[1] - loss).abs() < 1e-5, "{losses:?}");
                bits.push((wide, short, losses.map(f64::to_bits)));
            }
            assert!(bits.iter().all(|same| *same == bits[0]), "{classes}");
        }
    }
}
