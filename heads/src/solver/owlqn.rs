//! Orthant-wise limited-memory quasi-Newton (OWL-QN): L-BFGS with an L1 penalty.
//!
//! Andrew and Gao, *Scalable training of L1-regularized log-linear models*, ICML 2007. A step stays in the
//! orthant of the negative pseudo-gradient, where the penalty is linear; a weight that would leave it becomes
//! 0.

use crate::solver::lbfgs::{
    Evaluation, InverseHessian, LbfgsStopping, Minimum, SUFFICIENT_DECREASE, minimize_with,
};
use crate::vector::VectorOps;

/// Maximum number of halvings of a step.
const MAX_HALVINGS: usize = 40;

/// Minimizes `evaluate(x) + Σ l1_weights_i |x_i|` from `start`, where `evaluate` returns the value of the
/// smooth part and fills in its gradient. `inverse` approximates the smooth part's inverse Hessian and must
/// be diagonal, so that weights do not affect each other. The progress holds the full objective and the
/// largest component of the pseudo-gradient.
pub(crate) fn minimize(
    start: Vec<f64>,
    l1_weights: &[f64],
    inverse: &InverseHessian<'_>,
    stopping: LbfgsStopping,
    mut evaluate: impl FnMut(&[f64], &mut [f64]) -> f64,
    on_iteration: impl Fn(u64),
) -> Minimum {
    let vectors = VectorOps::new();
    let penalty = |point: &[f64]| -> f64 { point.iter().zip(l1_weights).map(|(x, a)| a * x.abs()).sum() };
    let mut start_point = Evaluation { gradient: vec![0.0; start.len()], point: start, value: 0.0 };
    start_point.value = evaluate(&start_point.point, &mut start_point.gradient) + penalty(&start_point.point);
    let slope = |point: &Evaluation| pseudo_gradient(point, l1_weights);
    let step = |current: &Evaluation, slope: &[f64], mut direction: Vec<f64>| {
        for (d, slope) in direction.iter_mut().zip(slope) {
            if *d * slope >= 0.0 {
                *d = 0.0;
            }
        }
        backtracking_step(current, slope, &direction, vectors, |point, gradient| {
            evaluate(point, gradient) + penalty(point)
        })
    };
    minimize_with(start_point, inverse, stopping, slope, step, on_iteration)
}

/// The pseudo-gradient: the one-sided derivative of smallest magnitude for each weight (equation 4).
fn pseudo_gradient(point: &Evaluation, l1_weights: &[f64]) -> Vec<f64> {
    let component = |((&x, &g), &a): ((&f64, &f64), &f64)| {
        if x != 0.0 {
            g + a * x.signum()
        } else if g < -a {
            g + a
        } else if g > a {
            g - a
        } else {
            0.0
        }
    };
    point.point.iter().zip(&point.gradient).zip(l1_weights).map(component).collect()
}

/// Backtracking line search with projection on the orthant.
fn backtracking_step(
    current: &Evaluation,
    slope: &[f64],
    direction: &[f64],
    vectors: VectorOps,
    mut evaluate: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Option<Evaluation> {
    let mut length = 1.0;
    for _ in 0..MAX_HALVINGS {
        let projected = |((&x, &d), &slope): ((&f64, &f64), &f64)| {
            let orthant = if x != 0.0 { x } else { -slope };
            let to = x + length * d;
            if to * orthant > 0.0 { to } else { 0.0 }
        };
        let point: Vec<f64> = current.point.iter().zip(direction).zip(slope).map(projected).collect();
        let change: Vec<f64> = point.iter().zip(&current.point).map(|(to, from)| to - from).collect();
        let expected_change = vectors.dot(slope, &change);
        let mut gradient = vec![0.0; point.len()];
        let value = evaluate(&point, &mut gradient);
        if expected_change < 0.0 && value <= current.value + SUFFICIENT_DECREASE * expected_change {
            return Some(Evaluation { point, value, gradient });
        }
        length *= 0.5;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOPPING: LbfgsStopping = LbfgsStopping { tolerance: 1e-10, iterations: 200 };

    /// `½ Σ scale_i (x_i - target_i)² + Σ |x_i|` is minimized by soft thresholding.
    #[test]
    fn a_separable_lasso_has_its_known_optimum_with_exact_zeros() {
        let (scales, targets) = ([1.0, 4.0, 100.0, 2.0], [3.0, 0.2, -0.5, -0.4]);
        let smooth = |x: &[f64], gradient: &mut [f64]| {
            (0..4)
                .map(|i| {
                    gradient[i] = scales[i] * (x[i] - targets[i]);
                    0.5 * scales[i] * (x[i] - targets[i]).powi(2)
                })
                .sum()
        };
        let minimum = minimize(vec![0.0; 4], &[1.0; 4], &|v| v.to_vec(), STOPPING, smooth, |_| {});
        assert!(minimum.converged, "{:?}", minimum.progress);
        for (x, expected) in minimum.point.iter().zip([2.0, 0.0, -0.49, 0.0]) {
            assert!((x - expected).abs() < 1e-8, "{:?}", minimum.point);
        }
        assert_eq!([minimum.point[1], minimum.point[3]], [0.0, 0.0]);
    }

    #[test]
    fn no_iteration_raises_the_value() {
        let valley = |x: &[f64], gradient: &mut [f64]| {
            let (a, b) = (x[1] - x[0] * x[0], 1.0 - x[0]);
            gradient.copy_from_slice(&[-400.0 * x[0] * a - 2.0 * b, 200.0 * a]);
            100.0 * a * a + b * b
        };
        let minimum = minimize(vec![-1.2, 1.0], &[0.1, 0.1], &|v| v.to_vec(), STOPPING, valley, |_| {});
        assert!(minimum.progress.len() > 5);
        assert!(minimum.progress.is_sorted_by(|before, after| before.0 > after.0), "{:?}", minimum.progress);
    }
}
