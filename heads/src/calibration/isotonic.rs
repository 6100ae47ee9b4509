//! A function of a class's logit that never falls.
//!
//! B. Zadrozny and C. Elkan, *Transforming Classifier Scores into Accurate Multiclass Probability Estimates*, 2002; found by
//! pooling adjacent violators (Ayer et al. 1955), with straight lines between the values that were fitted on, as
//! scikit-learn's `IsotonicRegression(out_of_bounds="clip")`.

use serde::{Deserialize, Serialize};

/// Straight lines through points; level before the first and after the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Isotonic {
    /// Logits, ascending.
    pub logits: Vec<f64>,
    /// The probability at each, never falling.
    pub probabilities: Vec<f64>,
}

/// Values next to each other that share a probability.
#[derive(Clone, Copy, Debug)]
struct Pool {
    first: f64,
    last: f64,
    positive: f64,
    count: f64,
}

impl Pool {
    fn level(self) -> f64 {
        self.positive / self.count
    }
}

impl Isotonic {
    /// Fits to which of `values`, at least one, are positive.
    pub(super) fn fit(values: &[f64], positive: &[bool]) -> Self {
        let mut samples: Vec<(f64, bool)> = values.iter().copied().zip(positive.iter().copied()).collect();
        samples.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut pools: Vec<Pool> = Vec::new();
        for equal in samples.chunk_by(|a, b| a.0 == b.0) {
            let hits = equal.iter().filter(|(_, positive)| *positive).count();
            let value = equal[0].0;
            let mut pool =
                Pool { first: value, last: value, positive: hits as f64, count: equal.len() as f64 };
            while let Some(before) = pools.pop_if(|before| before.level() >= pool.level()) {
                pool = Pool {
                    first: before.first,
                    last: pool.last,
                    positive: before.positive + pool.positive,
                    count: before.count + pool.count,
                };
            }
            pools.push(pool);
        }
        let mut steps = Self { logits: Vec::new(), probabilities: Vec::new() };
        for pool in pools {
            steps.push(pool.first, pool.level());
            if pool.last > pool.first {
                steps.push(pool.last, pool.level());
            }
        }
        steps
    }

    fn push(&mut self, logit: f64, probability: f64) {
        self.logits.push(logit);
        self.probabilities.push(probability);
    }

    /// The probability of a logit.
    pub(super) fn probability(&self, value: f64) -> f64 {
        let Self { logits, probabilities } = self;
        let next = logits.partition_point(|&logit| logit < value);
        if next == 0 {
            return probabilities[0];
        }
        if next == logits.len() {
            return probabilities[next - 1];
        }
        let way = (value - logits[next - 1]) / (logits[next] - logits[next - 1]);
        let between = probabilities[next - 1] + way * (probabilities[next] - probabilities[next - 1]);
        // Rounding may carry it past the next one, and it would fall again there.
        between.min(probabilities[next])
    }

    pub(super) fn is_sound(&self) -> bool {
        let Self { logits, probabilities } = self;
        !logits.is_empty()
            && logits.len() == probabilities.len()
            && logits.iter().all(|logit| logit.is_finite())
            && logits.is_sorted_by(|a, b| a < b)
            && probabilities.iter().all(|p| (0.0..=1.0).contains(p))
            && probabilities.is_sorted()
    }
}
