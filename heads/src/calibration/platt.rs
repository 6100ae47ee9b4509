//! Platt scaling: a sigmoid of a class's logit.
//!
//! J. Platt, *Probabilistic Outputs for Support Vector Machines*, 1999, with its smoothed targets, fitted by
//! Newton's method as in H.-T. Lin, C.-J. Lin and R. C. Weng, *A Note on Platt's Probabilistic Outputs for
//! Support Vector Machines*, 2007.

use serde::{Deserialize, Serialize};

/// A fitted sigmoid that maps the logit of a class to its probability:
/// `1 / (1 + exp(-(slope · logit + intercept)))`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sigmoid {
    /// Factor of the logit.
    pub slope: f64,
    /// Log-odds at a logit of 0.
    pub intercept: f64,
}

/// Maximum number of Newton iterations; about ten are needed.
const MAX_ITERATIONS: usize = 100;

/// Maximum number of step halvings in the line search.
const MAX_HALVINGS: usize = 60;

impl Sigmoid {
    /// Fits the sigmoid that maps the logits `values` `[N]` of one class to its probability. `is_positive`
    /// `[N]` says which of them belong to images of the class. If all values are equal, the slope is 0.
    pub(super) fn fit(values: &[f64], is_positive: &[bool]) -> Self {
        let n = values.len() as f64;
        let n_positive = is_positive.iter().filter(|&&positive| positive).count() as f64;
        // Platt's smoothed targets of negative and positive samples, in place of 0 and 1.
        let targets = [1.0 / (n - n_positive + 2.0), (n_positive + 1.0) / (n_positive + 2.0)];
        // Standardized values make the solver independent of the scale of the logits.
        let mean = values.iter().sum::<f64>() / n;
        let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt();
        let standardize = |value: f64| if deviation > 0.0 { (value - mean) / deviation } else { 0.0 };
        let samples: Vec<(f64, f64)> = values
            .iter()
            .zip(is_positive)
            .map(|(&value, &positive)| (standardize(value), targets[usize::from(positive)]))
            .collect();
        // The solver starts from the best constant: slope 0 and the log-odds of the mean target.
        let mean_target = (n_positive * targets[1] + (n - n_positive) * targets[0]) / n;
        let (slope, intercept) = minimize_cross_entropy(&samples, (mean_target / (1.0 - mean_target)).ln());
        // The sigmoid of the standardized values, as one of the logits.
        if deviation > 0.0 {
            Self { slope: slope / deviation, intercept: intercept - slope * mean / deviation }
        } else {
            Self { slope: 0.0, intercept }
        }
    }

    /// The calibrated probability of the class at the logit `value`.
    pub(super) fn probability(&self, value: f64) -> f64 {
        sigmoid(self.slope * value + self.intercept)
    }

    /// Whether the parameters of a loaded sigmoid are finite.
    pub(super) fn is_valid(&self) -> bool {
        self.slope.is_finite() && self.intercept.is_finite()
    }
}

/// The logistic function: the probability that has these log-odds.
fn sigmoid(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

/// Fits `sigmoid(slope · value + intercept)` to `samples`, pairs `(value, target probability)`. Returns the
/// pair `(slope, intercept)` with the lowest cross-entropy, found by Newton's method with a backtracking line
/// search, from a slope of 0 and `initial_intercept`.
fn minimize_cross_entropy(samples: &[(f64, f64)], initial_intercept: f64) -> (f64, f64) {
    let loss = |slope: f64, intercept: f64| -> f64 {
        let losses = samples.iter().map(|&(x, target)| {
            let log_odds = slope * x + intercept;
            // ln(1 + exp(log_odds)) - target · log_odds, without overflow.
            log_odds.max(0.0) + (-log_odds.abs()).exp().ln_1p() - target * log_odds
        });
        losses.sum()
    };
    let (mut slope, mut intercept) = (0.0, initial_intercept);
    let mut current_loss = loss(slope, intercept);
    for _ in 0..MAX_ITERATIONS {
        // The Hessian with respect to (slope, intercept) is [[h_xx, h_x1], [h_x1, h_11]].
        let (mut gradient, mut h_xx, mut h_x1, mut h_11) = ([0.0; 2], 0.0, 0.0, 0.0);
        for &(x, target) in samples {
            let p = sigmoid(slope * x + intercept);
            let curvature = p * (1.0 - p);
            gradient[0] += (p - target) * x;
            gradient[1] += p - target;
            h_xx += curvature * x * x;
            h_x1 += curvature * x;
            h_11 += curvature;
        }
        // A small ridge keeps the Hessian regular if all values are equal, as in Lin et al.
        let ridge = 1e-12 * (h_xx + h_11) + f64::MIN_POSITIVE;
        let (h_xx, h_11) = (h_xx + ridge, h_11 + ridge);
        let determinant = h_xx * h_11 - h_x1 * h_x1;
        // Newton's step: minus the inverse of the Hessian times the gradient.
        let step = [
            -(h_11 * gradient[0] - h_x1 * gradient[1]) / determinant,
            -(h_xx * gradient[1] - h_x1 * gradient[0]) / determinant,
        ];
        let directional_derivative = gradient[0] * step[0] + gradient[1] * step[1];
        let mut step_length = 1.0;
        let mut accepted = None;
        for _ in 0..MAX_HALVINGS {
            let (next_slope, next_intercept) =
                (slope + step_length * step[0], intercept + step_length * step[1]);
            let next_loss = loss(next_slope, next_intercept);
            // Armijo's condition: the loss falls by at least 1e-4 of what the gradient promises.
            if next_loss < current_loss + 1e-4 * step_length * directional_derivative {
                accepted = Some((next_slope, next_intercept, next_loss));
                break;
            }
            step_length /= 2.0;
        }
        // No step decreases the loss any further: this is the minimum up to rounding.
        let Some(accepted) = accepted else { break };
        (slope, intercept, current_loss) = accepted;
    }
    (slope, intercept)
}
