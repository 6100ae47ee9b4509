//! Temperature scaling: one temperature for all logits.
//!
//! C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, *On Calibration of Modern Neural Networks*, 2017. The
//! log-loss is convex in the inverse temperature; a safeguarded Newton method finds its minimum inside a
//! shrinking bracket.

use rayon::prelude::*;

use crate::data::Logits;

/// Log half-width of the bracket of the inverse temperature, relative to the standard deviation of the logits
/// (scikit-learn's bracket, but relative).
const LOG_BRACKET: f64 = 10.0;

/// Relative bracket width or step length at which the search stops.
const TOLERANCE: f64 = 1e-13;

/// More iterations than bisecting the bracket needs.
const MAX_ITERATIONS: usize = 200;

/// Rows per partial sum; fixed, so that sums do not depend on the number of threads.
const BLOCK: usize = 256;

/// The temperature as described in [`Calibration::fit`](super::Calibration::fit). Logits must be finite and
/// labels in range.
pub(super) fn fit(logits: &Logits, labels: &[u32]) -> f64 {
    let loss = TemperatureLoss { logits, labels };
    let logit_std = loss.logit_std();
    if logit_std == 0.0 {
        return 1.0;
    }
    let (low, high) = ((-LOG_BRACKET).exp() / logit_std, LOG_BRACKET.exp() / logit_std);
    let best = loss.minimize(low, high);
    let n = labels.len() as f64;
    let loss_floor = ((n + 2.0) / (n + 1.0)).ln();
    let inverse = if loss.evaluate(best).value < loss_floor {
        loss.inverse_temperature_at_loss(loss_floor, low, best)
    } else {
        best
    };
    inverse.recip()
}

/// The mean log-loss as a function of the inverse temperature.
struct TemperatureLoss<'a> {
    logits: &'a Logits,
    labels: &'a [u32],
}

/// The loss and its first two derivatives at one inverse temperature.
#[derive(Clone, Copy, Debug, Default)]
struct LossPoint {
    value: f64,
    slope: f64,
    curvature: f64,
}

impl TemperatureLoss<'_> {
    /// Standard deviation of the logits within a row, over all rows.
    fn logit_std(&self) -> f64 {
        let classes = self.logits.classes() as f64;
        let variance = self.mean_over_rows(|row, _| {
            let mean = row.iter().copied().map(f64::from).sum::<f64>() / classes;
            row.iter().map(|&z| (f64::from(z) - mean).powi(2)).sum::<f64>() / classes
        });
        variance.sqrt()
    }

    /// The loss and its derivatives at an inverse temperature.
    fn evaluate(&self, inverse: f64) -> LossPoint {
        self.mean_over_rows(|row, label| {
            let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let (mut sum, mut first, mut second) = (0.0, 0.0, 0.0);
            for &z in row {
                let z = f64::from(z) - max;
                let weight = (inverse * z).exp();
                sum += weight;
                first += weight * z;
                second += weight * z * z;
            }
            let (mean, label_logit) = (first / sum, f64::from(row[label as usize]) - max);
            LossPoint {
                value: sum.ln() - inverse * label_logit,
                slope: mean - label_logit,
                curvature: second / sum - mean * mean,
            }
        })
    }

    /// The inverse temperature between `low` and `high` with the lowest loss.
    fn minimize(&self, mut low: f64, mut high: f64) -> f64 {
        if self.evaluate(low).slope >= 0.0 {
            return low;
        }
        if self.evaluate(high).slope <= 0.0 {
            return high;
        }
        let mut inverse = 1.0f64.clamp(low, high);
        for _ in 0..MAX_ITERATIONS {
            let LossPoint { slope, curvature, .. } = self.evaluate(inverse);
            if slope < 0.0 {
                low = inverse;
            } else {
                high = inverse;
            }
            let newton = inverse - slope / curvature;
            // Newton steps outside the bracket are replaced by bisection (in log space).
            let next = if (low..=high).contains(&newton) { newton } else { (low * high).sqrt() };
            if (next / inverse - 1.0).abs() < TOLERANCE || high / low - 1.0 < TOLERANCE {
                return next;
            }
            inverse = next;
        }
        inverse
    }

    /// The inverse temperature in `low..high` at which the loss falls to `target_loss`, by bisection on a log scale. The
    /// loss must decrease from `low` to `high`. It bounds the temperature where the optimum is infinitely low.
    fn inverse_temperature_at_loss(&self, target_loss: f64, mut low: f64, mut high: f64) -> f64 {
        for _ in 0..MAX_ITERATIONS {
            let middle = (low * high).sqrt();
            if high / low - 1.0 < TOLERANCE {
                return middle;
            }
            if self.evaluate(middle).value > target_loss { low = middle } else { high = middle }
        }
        high
    }

    /// Mean of `f` over all rows and their labels.
    fn mean_over_rows<T: Averageable>(&self, f: impl Fn(&[f32], u32) -> T + Sync) -> T {
        let classes = self.logits.classes();
        let blocks: Vec<T> = self
            .logits
            .as_slice()
            .par_chunks(BLOCK * classes)
            .zip(self.labels.par_chunks(BLOCK))
            .map(|(rows, labels)| {
                let rows = rows.chunks_exact(classes).zip(labels);
                rows.fold(T::default(), |sum, (row, &label)| sum.add(f(row, label)))
            })
            .collect();
        let sum = blocks.into_iter().fold(T::default(), T::add);
        sum.scale(1.0 / self.labels.len() as f64)
    }
}

/// A value that can be averaged.
trait Averageable: Copy + Default + Send {
    fn add(self, other: Self) -> Self;
    fn scale(self, factor: f64) -> Self;
}

impl Averageable for f64 {
    fn add(self, other: Self) -> Self {
        self + other
    }

    fn scale(self, factor: f64) -> Self {
        self * factor
    }
}

impl Averageable for LossPoint {
    fn add(self, other: Self) -> Self {
        Self {
            value: self.value + other.value,
            slope: self.slope + other.slope,
            curvature: self.curvature + other.curvature,
        }
    }

    fn scale(self, factor: f64) -> Self {
        Self { value: self.value * factor, slope: self.slope * factor, curvature: self.curvature * factor }
    }
}
