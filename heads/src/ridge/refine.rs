//! The solution for one `alpha` by a factor in `f32`, made exact.

use faer::Mat;

use super::problem::Problem;
use crate::dense::factor::Cholesky;
use crate::vector::Vectors;

/// Length of the error that is left, beside the solution's.
const TOLERANCE: f64 = 1e-7;
/// Steps at most. Where more are needed, a factor in `f64` costs less.
const STEPS: usize = 5;

/// Conjugate gradients for each target, preconditioned by the factor of the problem's matrix; nothing when they take too many
/// steps.
///
/// A step takes two products with the features in `f64`, little beside the matrix of all their products. It leaves about
/// `ε κ` of the error, where `ε` is `f32`'s and `κ` the matrix's condition: one to three do.
pub(super) fn solve(problem: &Problem<'_>, factor: &Cholesky<f32>, alpha: f64) -> Option<Mat<f64>> {
    let (size, count) = (problem.right.nrows(), problem.right.ncols());
    let mut targets: Vec<Target> = (0..count).map(|t| Target::new(problem.right.col_as_slice(t))).collect();
    correct(factor, &mut targets);
    let mut before = 1.0;
    for _ in 0..STEPS {
        targets.iter_mut().for_each(Target::turn);
        let products = problem.apply(alpha, &Mat::from_fn(size, count, |i, t| targets[t].direction[i]));
        targets.iter_mut().enumerate().for_each(|(t, target)| target.step(products.col_as_slice(t)));
        correct(factor, &mut targets);
        let error = targets.iter().map(Target::error).fold(0.0, most);
        // What the correction leaves of the error is what the last step has left of it.
        if error * (error / before) <= TOLERANCE {
            return Some(Mat::from_fn(size, count, |i, t| targets[t].solution[i] + targets[t].correction[i]));
        }
        before = error;
    }
    None
}

/// A target's solution so far.
struct Target {
    solution: Vec<f64>,
    residual: Vec<f64>,
    /// About what the solution is off by.
    correction: Vec<f64>,
    direction: Vec<f64>,
    /// `residual · correction` when the direction was last turned.
    slope: f64,
}

impl Target {
    fn new(right: &[f64]) -> Self {
        let zero = vec![0.0; right.len()];
        Self {
            solution: zero.clone(),
            residual: right.to_vec(),
            correction: zero.clone(),
            direction: zero,
            slope: f64::INFINITY,
        }
    }

    /// The next direction, conjugate to the last.
    fn turn(&mut self) {
        let vectors = Vectors::new();
        let slope = vectors.dot(&self.residual, &self.correction);
        let share = slope / self.slope;
        for (direction, correction) in self.direction.iter_mut().zip(&self.correction) {
            *direction = correction + share * *direction;
        }
        self.slope = slope;
    }

    /// To the lowest point along the direction, whose product with the matrix is `product`.
    fn step(&mut self, product: &[f64]) {
        let vectors = Vectors::new();
        let curvature = vectors.dot(&self.direction, product);
        if self.slope != 0.0 {
            let length = self.slope / curvature;
            vectors.add_scaled(&mut self.solution, length, &self.direction);
            vectors.add_scaled(&mut self.residual, -length, product);
        }
    }

    /// The length of the correction beside that of the solution with it.
    fn error(&self) -> f64 {
        let vectors = Vectors::new();
        let square = vectors.dot(&self.correction, &self.correction);
        let with: Vec<f64> = self.solution.iter().zip(&self.correction).map(|(s, c)| s + c).collect();
        if square == 0.0 { 0.0 } else { (square / vectors.dot(&with, &with)).sqrt() }
    }
}

/// The corrections that the factor gives for the residuals.
fn correct(factor: &Cholesky<f32>, targets: &mut [Target]) {
    // Residuals shrink from step to step, and features may be of any size: each comes to 1 at most.
    let scales: Vec<f64> = targets
        .iter()
        .map(|target| target.residual.iter().fold(0.0, |top: f64, value| top.max(value.abs())))
        .map(|top| if top > 0.0 { top } else { 1.0 })
        .collect();
    let size = targets[0].residual.len();
    let right = Mat::from_fn(size, targets.len(), |i, t| (targets[t].residual[i] / scales[t]) as f32);
    let solved = factor.solve(right);
    for ((target, column), scale) in targets.iter_mut().zip(solved.col_iter()).zip(scales) {
        for (correction, &value) in target.correction.iter_mut().zip(column.iter()) {
            *correction = scale * f64::from(value);
        }
    }
}

/// The larger one; not a number where either is none.
fn most(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Features, TrainingSet};
    use crate::dense::means::ClassMeans;
    use crate::random::Keyed;

    /// Rows of `width` features, far from 0 and with much in common, of three classes with weights of their own.
    fn on_rows(count: usize, width: usize, scale: f32, act: impl FnOnce(&Problem<'_>)) {
        let mut random = Keyed::new(&[count as u64]);
        let mut values = Vec::new();
        for _ in 0..count {
            let common = random.uniform() as f32;
            values.extend((0..width).map(|_| scale * (5.0 + 10.0 * common + random.uniform() as f32)));
        }
        let labels: Vec<u32> = (0..count).map(|row| (row % 3) as u32).collect();
        let data = TrainingSet::new(Features::new(&values, width).unwrap(), &labels, 3).unwrap();
        let classes = ClassMeans::new(&data);
        act(&Problem::new(data.features(), &classes, &[0.5, 1.0, 2.0]));
    }

    #[test]
    fn a_refined_solution_is_that_of_a_factor_in_f64() {
        for (count, width) in [(90, 60), (60, 90)] {
            on_rows(count, width, 1.0, |problem| {
                for alpha in [10.0, 0.1] {
                    let rough = Cholesky::rough(problem.shifted(alpha)).unwrap();
                    let refined = solve(problem, &rough, alpha).unwrap();
                    let exact =
                        Cholesky::<f64>::new(problem.shifted(alpha)).unwrap().solve(problem.right.clone());
                    let error = (&refined - &exact).norm_l2() / exact.norm_l2();
                    assert!(error < TOLERANCE, "{count} rows, alpha {alpha}: {error:e}");
                    // The test would pass with no refinement if f32 were enough.
                    let alone = rough.solve(Mat::from_fn(exact.nrows(), exact.ncols(), |i, t| {
                        problem.right[(i, t)] as f32
                    }));
                    let alone = Mat::from_fn(exact.nrows(), exact.ncols(), |i, t| f64::from(alone[(i, t)]));
                    assert!((alone - &exact).norm_l2() / exact.norm_l2() > 10.0 * TOLERANCE);
                }
            });
        }
    }

    #[test]
    fn what_f32_cannot_precondition_is_left_to_f64() {
        // Products beyond f32's largest value, and a matrix that differs from a singular one by less than f32's rounding.
        on_rows(90, 60, 1e20, |problem| assert!(Cholesky::<f32>::rough(problem.shifted(1.0)).is_none()));
        on_rows(60, 60, 1.0, |problem| {
            let rough = Cholesky::rough(problem.shifted(1e-9));
            assert!(rough.and_then(|rough| solve(problem, &rough, 1e-9)).is_none());
        });
    }
}
