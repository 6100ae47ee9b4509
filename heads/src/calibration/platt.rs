//! A sigmoid of a class's logit.
//!
//! J. Platt, *Probabilistic Outputs for Support Vector Machines*, 1999, with its smoothed targets, found by Newton's method
//! as H.-T. Lin, C.-J. Lin and R. C. Weng, *A Note on Platt's Probabilistic Outputs for Support Vector Machines*, 2007.

use serde::{Deserialize, Serialize};

/// `1 / (1 + exp(-(slope · logit + intercept)))`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sigmoid {
    /// By how much a logit counts.
    pub slope: f64,
    /// The log-odds of a logit of 0.
    pub intercept: f64,
}

/// Newton's steps at most; it takes about ten.
const STEPS: usize = 100;

/// Halvings of a step at most.
const HALVINGS: usize = 60;

impl Sigmoid {
    /// Fits to which of `values` are positive. With values that are all equal the slope is 0.
    pub(super) fn fit(values: &[f64], positive: &[bool]) -> Self {
        let n = values.len() as f64;
        let positives = positive.iter().filter(|&&positive| positive).count() as f64;
        let target = [1.0 / (n - positives + 2.0), (positives + 1.0) / (positives + 2.0)];
        // Of mean 0 and variance 1 every scale of logits is solved as well.
        let mean = values.iter().sum::<f64>() / n;
        let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt();
        let unit = |value: f64| if deviation > 0.0 { (value - mean) / deviation } else { 0.0 };
        let samples: Vec<(f64, f64)> = values
            .iter()
            .zip(positive)
            .map(|(&value, &positive)| (unit(value), target[usize::from(positive)]))
            .collect();
        let share = (positives * target[1] + (n - positives) * target[0]) / n;
        let (slope, intercept) = minimum(&samples, (share / (1.0 - share)).ln());
        if deviation > 0.0 {
            Self { slope: slope / deviation, intercept: intercept - slope * mean / deviation }
        } else {
            Self { slope: 0.0, intercept }
        }
    }

    /// The probability of a logit.
    pub(super) fn probability(&self, value: f64) -> f64 {
        sigmoid(self.slope * value + self.intercept)
    }

    pub(super) fn is_sound(&self) -> bool {
        self.slope.is_finite() && self.intercept.is_finite()
    }
}

fn sigmoid(odds: f64) -> f64 {
    1.0 / (1.0 + (-odds).exp())
}

/// The slope and intercept that minimise the cross entropy of `samples`, each a value and a target between 0 and 1.
fn minimum(samples: &[(f64, f64)], intercept: f64) -> (f64, f64) {
    let loss = |slope: f64, intercept: f64| -> f64 {
        let each = samples.iter().map(|&(x, target)| {
            let odds = slope * x + intercept;
            odds.max(0.0) + (-odds.abs()).exp().ln_1p() - target * odds
        });
        each.sum()
    };
    let (mut slope, mut intercept) = (0.0, intercept);
    let mut value = loss(slope, intercept);
    for _ in 0..STEPS {
        let (mut gradient, mut xx, mut x1, mut one) = ([0.0; 2], 0.0, 0.0, 0.0);
        for &(x, target) in samples {
            let p = sigmoid(slope * x + intercept);
            let curvature = p * (1.0 - p);
            gradient[0] += (p - target) * x;
            gradient[1] += p - target;
            xx += curvature * x * x;
            x1 += curvature * x;
            one += curvature;
        }
        // Kept away from singular, as there: all values may be equal.
        let ridge = 1e-12 * (xx + one) + f64::MIN_POSITIVE;
        let (xx, one) = (xx + ridge, one + ridge);
        let determinant = xx * one - x1 * x1;
        let step = [
            -(one * gradient[0] - x1 * gradient[1]) / determinant,
            -(xx * gradient[1] - x1 * gradient[0]) / determinant,
        ];
        let descent = gradient[0] * step[0] + gradient[1] * step[1];
        let mut length = 1.0;
        let mut found = None;
        for _ in 0..HALVINGS {
            let (s, i) = (slope + length * step[0], intercept + length * step[1]);
            let next = loss(s, i);
            if next < value + 1e-4 * length * descent {
                found = Some((s, i, next));
                break;
            }
            length /= 2.0;
        }
        // No step is a step down any more: the minimum, as far as doubles tell.
        let Some(next) = found else { break };
        (slope, intercept, value) = next;
    }
    (slope, intercept)
}
