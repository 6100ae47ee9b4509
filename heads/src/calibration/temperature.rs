//! Temperature scaling: one temperature for all logits.
//!
//! C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, *On Calibration of Modern Neural Networks*, 2017. The
//! log-loss is convex in the inverse temperature; a safeguarded Newton method finds its minimum inside a
//! shrinking bracket.

use std::array::from_fn;

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
const ROWS_PER_BLOCK: usize = 256;

/// The temperature by which logits must be divided so that their softmax is calibrated: that with the lowest
/// mean log-loss on `logits` `[N, C]` of images with `labels` `[N]`, limited as
/// [`Calibration::fit`](super::Calibration::fit) says. Logits must be finite and labels in range. The search
/// is in the inverse temperature, the factor of the logits, because the loss is convex in it.
pub(super) fn fit(logits: &Logits, labels: &[u32]) -> f64 {
    let loss = TemperatureLoss { logits, labels };
    let logit_std = loss.logit_std();
    if logit_std == 0.0 {
        return 1.0;
    }
    // The inverse temperature is searched within a factor of exp(LOG_BRACKET) around 1 / logit_std.
    let (low, high) = ((-LOG_BRACKET).exp() / logit_std, LOG_BRACKET.exp() / logit_std);
    let best = loss.minimize(low, high);
    let n = labels.len() as f64;
    // A lower loss would claim more certainty than `n` correct images of `n` support.
    let loss_floor = ((n + 2.0) / (n + 1.0)).ln();
    let [best_loss, ..] = loss.evaluate(best);
    let inverse =
        if best_loss < loss_floor { loss.inverse_temperature_at_loss(loss_floor, low, best) } else { best };
    inverse.recip()
}

/// The mean log-loss (cross-entropy) of the softmax of `inverse temperature · logits`, as a function of the
/// inverse temperature.
struct TemperatureLoss<'a> {
    logits: &'a Logits,
    labels: &'a [u32],
}

impl TemperatureLoss<'_> {
    /// Root mean square over the rows of the standard deviation of the logits within a row: the scale of the
    /// logits, from which the search for the temperature starts.
    fn logit_std(&self) -> f64 {
        let classes = self.logits.classes() as f64;
        let [variance] = self.mean_over_rows(|row, _| {
            let mean = row.iter().copied().map(f64::from).sum::<f64>() / classes;
            [row.iter().map(|&z| (f64::from(z) - mean).powi(2)).sum::<f64>() / classes]
        });
        variance.sqrt()
    }

    /// The mean log-loss at an inverse temperature and its first two derivatives with respect to it (slope
    /// and curvature), for Newton's method. With softmax probabilities `p`, the loss of a row of logits `z`
    /// has the first derivative `Σ p z - z_label`, and its second derivative is the variance of `z` under
    /// `p`.
    fn evaluate(&self, inverse: f64) -> [f64; 3] {
        self.mean_over_rows(|row, label| {
            // Subtracting the maximum changes no probability and keeps the exponentials from overflowing.
            let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let (mut sum, mut sum_z, mut sum_z_squared) = (0.0, 0.0, 0.0);
            for &z in row {
                let z = f64::from(z) - max;
                let weight = (inverse * z).exp();
                sum += weight;
                sum_z += weight * z;
                sum_z_squared += weight * z * z;
            }
            let (mean, label_logit) = (sum_z / sum, f64::from(row[label as usize]) - max);
            [sum.ln() - inverse * label_logit, mean - label_logit, sum_z_squared / sum - mean * mean]
        })
    }

    /// The inverse temperature between `low` and `high` with the lowest loss: where the slope of the (convex)
    /// loss is 0, or `low` or `high` if it is 0 nowhere between them. Newton's method, with a bracket
    /// `low..high` that shrinks around the minimum.
    fn minimize(&self, mut low: f64, mut high: f64) -> f64 {
        let slope = |inverse| self.evaluate(inverse)[1];
        if slope(low) >= 0.0 {
            return low;
        }
        if slope(high) <= 0.0 {
            return high;
        }
        let mut inverse = 1.0f64.clamp(low, high);
        for _ in 0..MAX_ITERATIONS {
            let [_, slope, curvature] = self.evaluate(inverse);
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

    /// The inverse temperature in `low..high` at which the loss falls to `target_loss`, by bisection on a log
    /// scale; the loss must decrease from `low` to `high`. Used where all images are predicted correctly, so
    /// that the loss has no minimum: it falls forever as the temperature goes to 0.
    fn inverse_temperature_at_loss(&self, target_loss: f64, mut low: f64, mut high: f64) -> f64 {
        for _ in 0..MAX_ITERATIONS {
            let middle = (low * high).sqrt();
            if high / low - 1.0 < TOLERANCE {
                return middle;
            }
            if self.evaluate(middle)[0] > target_loss { low = middle } else { high = middle }
        }
        high
    }

    /// The mean of each of the numbers `f(row of logits, label)`, such as the loss of an image, over all
    /// rows, in parallel. The bits do not depend on the number of threads, because partial sums of fixed
    /// blocks are added in order.
    fn mean_over_rows<const N: usize>(&self, f: impl Fn(&[f32], u32) -> [f64; N] + Sync) -> [f64; N] {
        let add = |a: [f64; N], b: [f64; N]| from_fn(|i| a[i] + b[i]);
        let classes = self.logits.classes();
        let blocks: Vec<[f64; N]> = self
            .logits
            .as_slice()
            .par_chunks(ROWS_PER_BLOCK * classes)
            .zip(self.labels.par_chunks(ROWS_PER_BLOCK))
            .map(|(rows, labels)| {
                let rows = rows.chunks_exact(classes).zip(labels);
                rows.fold([0.0; N], |sum, (row, &label)| add(sum, f(row, label)))
            })
            .collect();
        blocks.into_iter().fold([0.0; N], add).map(|sum| sum * (1.0 / self.labels.len() as f64))
    }
}
