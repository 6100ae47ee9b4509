//! Isotonic regression: a non-decreasing function of a class's logit.
//!
//! B. Zadrozny and C. Elkan, *Transforming Classifier Scores into Accurate Multiclass Probability Estimates*,
//! 2002. Fitted by pooling adjacent violators (Ayer et al. 1955) with linear interpolation between the fitted
//! values, as scikit-learn's `IsotonicRegression(out_of_bounds="clip")`.

use serde::{Deserialize, Serialize};

/// A piecewise linear function, constant before the first and after the last point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IsotonicCurve {
    /// Logits, strictly ascending.
    pub logits: Vec<f64>,
    /// Probability at each logit, non-decreasing.
    pub probabilities: Vec<f64>,
}

/// Neighboring values that share one probability (a block of pooled adjacent violators).
#[derive(Clone, Copy, Debug)]
struct PavBlock {
    first: f64,
    last: f64,
    positives: f64,
    n_values: f64,
}

impl PavBlock {
    /// The share of positive values.
    fn mean(self) -> f64 {
        self.positives / self.n_values
    }
}

impl IsotonicCurve {
    /// Fits to `values` (at least one) and whether each is positive.
    pub(super) fn fit(values: &[f64], is_positive: &[bool]) -> Self {
        let mut samples: Vec<(f64, bool)> = values.iter().copied().zip(is_positive.iter().copied()).collect();
        samples.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut blocks: Vec<PavBlock> = Vec::new();
        for equal in samples.chunk_by(|a, b| a.0 == b.0) {
            let positives = equal.iter().filter(|(_, positive)| *positive).count();
            let value = equal[0].0;
            let mut block = PavBlock {
                first: value,
                last: value,
                positives: positives as f64,
                n_values: equal.len() as f64,
            };
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
        let mut curve = Self { logits: Vec::new(), probabilities: Vec::new() };
        for block in blocks {
            curve.push(block.first, block.mean());
            if block.last > block.first {
                curve.push(block.last, block.mean());
            }
        }
        curve
    }

    /// Appends a point.
    fn push(&mut self, logit: f64, probability: f64) {
        self.logits.push(logit);
        self.probabilities.push(probability);
    }

    /// The probability of a logit.
    pub(super) fn probability(&self, value: f64) -> f64 {
        let Self { logits, probabilities } = self;
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
