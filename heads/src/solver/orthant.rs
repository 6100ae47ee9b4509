//! Orthant-wise limited-memory quasi-Newton: L-BFGS for an objective with an absolute value of each weight in it.
//!
//! Andrew and Gao, *Scalable training of L1-regularized log-linear models*, ICML 2007. A step stays in the orthant that
//! the pseudo-gradient points into, where the absolute values are linear; a weight that would leave it becomes 0.

use crate::solver::lbfgs::{At, InverseHessian, Minimum, SUFFICIENT_DECREASE, Stopping, descend};
use crate::vector::Vectors;

/// Halvings of a step, at most.
const HALVINGS: usize = 40;

/// Minimises `evaluate(x) + Σ absolute_i |x_i|` from `start`, where `evaluate` returns the value of the smooth part and fills
/// in its gradient. `inverse` is about the smooth part's inverse Hessian: a diagonal, so that no weight is moved for another's
/// sake. The progress holds the whole value,
/// and the largest component of the pseudo-gradient.
pub(crate) fn minimize(
    start: Vec<f64>,
    absolute: &[f64],
    inverse: &InverseHessian<'_>,
    stopping: Stopping,
    mut evaluate: impl FnMut(&[f64], &mut [f64]) -> f64,
    on_iteration: impl Fn(u64),
) -> Minimum {
    let vectors = Vectors::new();
    let penalty = |point: &[f64]| -> f64 { point.iter().zip(absolute).map(|(x, a)| a * x.abs()).sum() };
    let mut at = At { gradient: vec![0.0; start.len()], point: start, value: 0.0 };
    at.value = evaluate(&at.point, &mut at.gradient) + penalty(&at.point);
    let slope = |at: &At| pseudo_gradient(at, absolute);
    let step = |at: &At, slope: &[f64], mut direction: Vec<f64>| {
        for (d, slope) in direction.iter_mut().zip(slope) {
            if *d * slope >= 0.0 {
                *d = 0.0;
            }
        }
        step(at, slope, &direction, vectors, |point, gradient| evaluate(point, gradient) + penalty(point))
    };
    descend(at, inverse, stopping, slope, step, on_iteration)
}

/// The one-sided derivative of least size, by each weight: their equation 4.
fn pseudo_gradient(at: &At, absolute: &[f64]) -> Vec<f64> {
    let of = |((&x, &g), &a): ((&f64, &f64), &f64)| {
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
    at.point.iter().zip(&at.gradient).zip(absolute).map(of).collect()
}

/// The longest of the halved steps, projected on the orthant, that lowers the value enough.
fn step(
    from: &At,
    slope: &[f64],
    direction: &[f64],
    vectors: Vectors,
    mut evaluate: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Option<At> {
    let mut length = 1.0;
    for _ in 0..HALVINGS {
        let moved = |((&x, &d), &slope): ((&f64, &f64), &f64)| {
            let orthant = if x != 0.0 { x } else { -slope };
            let to = x + length * d;
            if to * orthant > 0.0 { to } else { 0.0 }
        };
        let point: Vec<f64> = from.point.iter().zip(direction).zip(slope).map(moved).collect();
        let change: Vec<f64> = point.iter().zip(&from.point).map(|(to, from)| to - from).collect();
        let promised = vectors.dot(slope, &change);
        let mut gradient = vec![0.0; point.len()];
        let value = evaluate(&point, &mut gradient);
        if promised < 0.0 && value <= from.value + SUFFICIENT_DECREASE * promised {
            return Some(At { point, value, gradient });
        }
        length *= 0.5;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOPPING: Stopping = Stopping { tolerance: 1e-10, iterations: 200 };

    /// `½ Σ scale_i (x_i - target_i)² + Σ |x_i|`, whose optimum is known: soft thresholding.
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
