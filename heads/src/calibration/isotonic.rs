//! Isotonic regression: a non-decreasing function of a class's logit.
//!
//! B. Zadrozny and C. Elkan, *Transforming Classifier Scores into Accurate Multiclass Probability Estimates*,
//! 2002. Fitted by pooling adjacent violators (Ayer et al. 1955) with linear interpolation between the fitted
//! values, as scikit-learn's `IsotonicRegression(out_of_bounds="clip")`.

use serde::{Deserialize, Serialize};

/// A fitted curve that maps the logit of a class to its probability: a non-decreasing, piecewise linear
/// function, constant before the first and after the last point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IsotonicCurve {
    /// Logits, strictly ascending.
    pub logits: Vec<f64>,
    /// Probability at each logit, non-decreasing.
    pub probabilities: Vec<f64>,
}

/// Neighboring logits that share one probability: a block of the algorithm that pools adjacent violators
/// (PAV).
#[derive(Clone, Copy, Debug)]
struct PavBlock {
    /// The lowest logit.
    first: f64,
    /// The highest logit.
    last: f64,
    /// Number of logits that belong to images of the class.
    positives: f64,
    /// Number of all logits in the block.
    n_values: f64,
}

impl PavBlock {
    /// The share of the logits that belong to images of the class: the fitted probability.
    fn mean(self) -> f64 {
        self.positives / self.n_values
    }
}

impl IsotonicCurve {
    /// Fits the non-decreasing curve that maps the logits `values` `[N]` (at least one) of one class to its
    /// probability with the least squared error. `is_positive` `[N]` says which of them belong to images of
    /// the class.
    pub(super) fn fit(values: &[f64], is_positive: &[bool]) -> Self {
        let mut samples: Vec<(f64, bool)> = values.iter().copied().zip(is_positive.iter().copied()).collect();
        samples.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut blocks: Vec<PavBlock> = Vec::new();
        for equal_values in samples.chunk_by(|a, b| a.0 == b.0) {
            let positives = equal_values.iter().filter(|(_, positive)| *positive).count();
            let value = equal_values[0].0;
            let mut block = PavBlock {
                first: value,
                last: value,
                positives: positives as f64,
                n_values: equal_values.len() as f64,
            };
            // The curve must not decrease: while it would, a block is joined with the one before it.
            while let Some(previous) = blocks.pop_if(|last| last.mean() >= block.mean()) {
                block = PavBlock {
                    first: previous.first,
                    last: block.last,
                    positives: previous.positives + block.positives,
                    n_values: previous.n_values + block.n_values,
                };
            }
            blocks.push(block);
        }
        let points = |block: PavBlock| {
            let last = (block.last > block.first).then_some(block.last);
            [Some(block.first), last].into_iter().flatten().map(move |logit| (logit, block.mean()))
        };
        let (logits, probabilities) = blocks.into_iter().flat_map(points).unzip();
        Self { logits, probabilities }
    }

    /// The calibrated probability of the class at the logit `value`: linear interpolation between the points
    /// of the curve, constant before the first and after the last.
    pub(super) fn probability(&self, value: f64) -> f64 {
        let Self { logits, probabilities } = self;
        // Index of the first point at or above the value.
        let upper = logits.partition_point(|&logit| logit < value);
        if upper == 0 {
            return probabilities[0];
        }
        if upper == logits.len() {
            return probabilities[upper - 1];
        }
        let fraction = (value - logits[upper - 1]) / (logits[upper] - logits[upper - 1]);
        let interpolated =
            probabilities[upper - 1] + fraction * (probabilities[upper] - probabilities[upper - 1]);
        // Rounding may exceed the next value; clamp to keep the function non-decreasing.
        interpolated.min(probabilities[upper])
    }

    /// Whether a loaded curve has points, with logits that ascend and probabilities that do not decrease.
    pub(super) fn is_valid(&self) -> bool {
        let Self { logits, probabilities } = self;
        !logits.is_empty()
            && logits.len() == probabilities.len()
            && logits.iter().all(|logit| logit.is_finite())
            && logits.is_sorted_by(|a, b| a < b)
            && probabilities.iter().all(|p| (0.0..=1.0).contains(p))
            && probabilities.is_sorted()
    }
}
