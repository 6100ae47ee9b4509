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

/// Minimizes a function with an L1 penalty, `evaluate(x) + Σ l1_weights_i |x_i|`, by OWL-QN from `start`.
/// `evaluate` is the smooth part: it gets a point, returns the value there and writes the gradient to its
/// second argument. `inverse` multiplies a vector by an approximate inverse Hessian of the smooth part, which
/// must be diagonal, so that weights do not affect each other. `on_iteration` is called with the number of
/// iterations done.
///
/// The progress holds the objective with the penalty and the largest component of the pseudo-gradient.
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
    let mut objective = |point: &[f64], gradient: &mut [f64]| evaluate(point, gradient) + penalty(point);
    let start_point = Evaluation::compute(start, &mut objective);
    let gradient_at = |point: &Evaluation| pseudo_gradient(point, l1_weights);
    let step = |current: &Evaluation, pseudo_grad: &[f64], mut direction: Vec<f64>| {
        // As in the paper, a component that would go uphill becomes 0.
        for (d, slope) in direction.iter_mut().zip(pseudo_grad) {
            if *d * slope >= 0.0 {
                *d = 0.0;
            }
        }
        backtracking_step(current, pseudo_grad, &direction, vectors, &mut objective)
    };
    minimize_with(start_point, inverse, stopping, gradient_at, step, on_iteration)
}

/// What OWL-QN uses at `point` in place of the gradient of the objective, as the L1 penalty,
/// `Σ l1_weights_i |x_i|`, has none where a weight is 0. For each weight it is the one-sided derivative of
/// smallest magnitude: 0 where the weight is 0 and the penalty outweighs the gradient of the smooth part, and
/// so keeps it at 0 (equation 4 of Andrew and Gao).
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

/// Takes a step of OWL-QN by backtracking line search: halves the step from `current` along `direction` until
/// the objective with the penalty, which `evaluate` returns, decreases enough. A weight whose sign would
/// change becomes 0; one that is 0 now may only move against its pseudo-gradient. Returns the new point;
/// `None` if no step decreases the objective.
fn backtracking_step(
    current: &Evaluation,
    pseudo_grad: &[f64],
    direction: &[f64],
    vectors: VectorOps,
    evaluate: &mut impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Option<Evaluation> {
    let mut length = 1.0;
    for _ in 0..MAX_HALVINGS {
        let projected = |((&x, &d), &slope): ((&f64, &f64), &f64)| {
            // Only its sign matters.
            let orthant = if x != 0.0 { x } else { -slope };
            let moved = x + length * d;
            if moved * orthant > 0.0 { moved } else { 0.0 }
        };
        let point: Vec<f64> = current.point.iter().zip(direction).zip(pseudo_grad).map(projected).collect();
        let change: Vec<f64> = point.iter().zip(&current.point).map(|(to, from)| to - from).collect();
        let expected_change = vectors.dot(pseudo_grad, &change);
        let next = Evaluation::compute(point, evaluate);
        if expected_change < 0.0 && next.value <= current.value + SUFFICIENT_DECREASE * expected_change {
            return Some(next);
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
