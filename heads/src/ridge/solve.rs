//! Solves for one `alpha`: with an `f32` factor, refined to `f64` accuracy, where that is enough.

use faer::Mat;

use super::problem::RidgeProblem;
use crate::dense::factor::{Cholesky, EigenDecomposition};
use crate::error::HeadError;
use crate::vector::VectorOps;

/// Matrix size from which a refined `f32` factor is faster than an `f64` one.
const MIN_REFINED_SIZE: usize = 512;
/// Relative error at which the iteration stops.
const TOLERANCE: f64 = 1e-7;
/// Maximum number of steps; if more are needed, a factor in `f64` is cheaper.
const MAX_STEPS: usize = 5;

impl RidgeProblem<'_> {
    /// Solves the ridge regression for one `alpha`; returns the weights `W` `[F, T]` (primal), or `A`
    /// `[N, T]` with `W = XᵀA` (dual). Tries the fastest method first: for large problems a Cholesky factor
    /// in `f32`, refined to `f64` accuracy; then a factor in `f64`; then, as the matrix must be singular, an
    /// eigendecomposition.
    pub(super) fn solve(&self, alpha: f64) -> Result<Mat<f64>, HeadError> {
        if self.rhs.nrows() >= MIN_REFINED_SIZE
            && let Some(factor) = Cholesky::factorize_roughly(self.shifted_gram(alpha))
            && let Some(solution) = solve_refined(self, &factor, alpha)
        {
            return Ok(solution);
        }
        match Cholesky::factorize(self.shifted_gram(alpha)) {
            Some(factor) => Ok(factor.solve(self.rhs.clone())),
            // In dual form Y is not entirely in the span of XXᵀ, but the rest vanishes in W = XᵀA.
            None => Ok(EigenDecomposition::decompose(&self.gram())?.pseudo_solve(alpha, self.rhs.as_ref())),
        }
    }
}

/// Solves the problem for one `alpha` by conjugate gradients (CG) for each target, preconditioned by a
/// Cholesky `factor` in `f32` of the matrix [`RidgeProblem::shifted_gram`]. Returns the solution `[n, T]` as
/// [`RidgeProblem::solve`] does; `None` if more than [`MAX_STEPS`] steps are needed.
///
/// This is faster than a factor in `f64`: a step takes two products with the features, which is little next
/// to the Gram matrix. Each step multiplies the error by about `ε κ`, where `ε` is the rounding error of
/// `f32` and `κ` the condition number of the matrix: one to three steps suffice.
fn solve_refined(problem: &RidgeProblem<'_>, factor: &Cholesky<f32>, alpha: f64) -> Option<Mat<f64>> {
    let (size, n_targets) = (problem.rhs.nrows(), problem.rhs.ncols());
    let mut systems: Vec<CgState> =
        (0..n_targets).map(|t| CgState::new(problem.rhs.col_as_slice(t))).collect();
    precondition(factor, &mut systems);
    let mut previous_error = 1.0;
    for _ in 0..MAX_STEPS {
        systems.iter_mut().for_each(CgState::update_direction);
        let products =
            problem.apply_shifted_gram(alpha, &Mat::from_fn(size, n_targets, |i, t| systems[t].direction[i]));
        systems.iter_mut().enumerate().for_each(|(t, system)| system.step(products.col_as_slice(t)));
        precondition(factor, &mut systems);
        let error = systems.iter().map(CgState::relative_error).fold(0.0, max_or_nan);
        // The error after the correction shrinks at about the rate of the last step.
        if error * (error / previous_error) <= TOLERANCE {
            let corrected = |i: usize, t: usize| systems[t].solution[i] + systems[t].correction[i];
            return Some(Mat::from_fn(size, n_targets, corrected));
        }
        previous_error = error;
    }
    None
}

/// The state of preconditioned conjugate gradients for the linear system of one target; all vectors are
/// `[n]`.
struct CgState {
    /// The current approximation of the solution.
    solution: Vec<f64>,
    /// The right-hand side minus the matrix times the solution.
    residual: Vec<f64>,
    /// The preconditioned residual: an estimate of the error of the solution.
    correction: Vec<f64>,
    /// Along which the next step moves the solution.
    direction: Vec<f64>,
    /// `residual · correction` at the last direction update.
    residual_dot_correction: f64,
}

impl CgState {
    /// The state of conjugate gradients before the first step, for a linear system with the right-hand side
    /// `rhs` `[n]`; the first estimate of the solution is 0.
    fn new(rhs: &[f64]) -> Self {
        let zero = vec![0.0; rhs.len()];
        Self {
            solution: zero.clone(),
            residual: rhs.to_vec(),
            correction: zero.clone(),
            direction: zero,
            // Makes the first `beta` 0, as there is no previous direction.
            residual_dot_correction: f64::INFINITY,
        }
    }

    /// Starts a step of conjugate gradients: computes the direction to move along, the correction plus `beta`
    /// times the previous direction, so that the two are conjugate.
    fn update_direction(&mut self) {
        let vectors = VectorOps::new();
        let residual_dot_correction = vectors.dot(&self.residual, &self.correction);
        let beta = residual_dot_correction / self.residual_dot_correction;
        for (direction, correction) in self.direction.iter_mut().zip(&self.correction) {
            *direction = correction + beta * *direction;
        }
        self.residual_dot_correction = residual_dot_correction;
    }

    /// Completes a step of conjugate gradients: moves the solution along the direction to where the quadratic
    /// objective is least, and updates the residual. `product` `[n]` is the matrix of the linear system times
    /// the direction.
    fn step(&mut self, product: &[f64]) {
        let vectors = VectorOps::new();
        let curvature = vectors.dot(&self.direction, product);
        if self.residual_dot_correction != 0.0 {
            let step_length = self.residual_dot_correction / curvature;
            vectors.add_scaled(&mut self.solution, step_length, &self.direction);
            vectors.add_scaled(&mut self.residual, -step_length, product);
        }
    }

    /// An estimate of the relative error of the solution, which decides when to stop: the norm of the
    /// correction divided by the norm of the corrected solution.
    fn relative_error(&self) -> f64 {
        let vectors = VectorOps::new();
        let squared_correction = vectors.dot(&self.correction, &self.correction);
        let corrected: Vec<f64> = self.solution.iter().zip(&self.correction).map(|(s, c)| s + c).collect();
        if squared_correction == 0.0 {
            0.0
        } else {
            (squared_correction / vectors.dot(&corrected, &corrected)).sqrt()
        }
    }
}

/// Sets the correction of each system, an estimate of the error of its solution, from which conjugate
/// gradients get the next direction: the inverse of the factorized matrix times the residual, in `f32`.
fn precondition(factor: &Cholesky<f32>, systems: &mut [CgState]) {
    // Each residual is divided by its largest value, since `f32` could overflow or underflow: features may
    // have any scale, and residuals shrink from step to step.
    let scales: Vec<f64> = systems
        .iter()
        .map(|system| system.residual.iter().fold(0.0, |top: f64, value| top.max(value.abs())))
        .map(|largest| if largest > 0.0 { largest } else { 1.0 })
        .collect();
    let size = systems[0].residual.len();
    let rhs = Mat::from_fn(size, systems.len(), |i, t| (systems[t].residual[i] / scales[t]) as f32);
    let solved = factor.solve(rhs);
    for ((system, column), scale) in systems.iter_mut().zip(solved.col_iter()).zip(scales) {
        for (correction, &value) in system.correction.iter_mut().zip(column.iter()) {
            *correction = scale * f64::from(value);
        }
    }
}

/// The larger value, or NaN if either is NaN (`f64::max` would hide it).
fn max_or_nan(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use headstock_split::KeyedRng;

    use super::*;
    use crate::data::{FeatureMatrix, TrainingSet};
    use crate::dense::means::ClassMeans;

    /// Rows of `width` features, far from 0 and highly correlated, of three classes with different weights.
    fn with_problem(count: usize, width: usize, scale: f32, check: impl FnOnce(&RidgeProblem<'_>)) {
        let mut rng = KeyedRng::new(&[count as u64]);
        let mut values = Vec::new();
        for _ in 0..count {
            let common = rng.uniform() as f32;
            values.extend((0..width).map(|_| scale * (5.0 + 10.0 * common + rng.uniform() as f32)));
        }
        let labels: Vec<u32> = (0..count).map(|row| (row % 3) as u32).collect();
        let data = TrainingSet::new(FeatureMatrix::new(&values, width).unwrap(), &labels, 3).unwrap();
        let classes = ClassMeans::compute(&data, None);
        check(&RidgeProblem::new(data.features(), &classes, &[0.5, 1.0, 2.0]));
    }

    #[test]
    fn a_refined_solution_matches_an_f64_factorization() {
        for (count, width) in [(90, 60), (60, 90)] {
            with_problem(count, width, 1.0, |problem| {
                for alpha in [10.0, 0.1] {
                    let rough = Cholesky::factorize_roughly(problem.shifted_gram(alpha)).unwrap();
                    let refined = solve_refined(problem, &rough, alpha).unwrap();
                    let exact = Cholesky::<f64>::factorize(problem.shifted_gram(alpha))
                        .unwrap()
                        .solve(problem.rhs.clone());
                    let error = (&refined - &exact).norm_l2() / exact.norm_l2();
                    assert!(error < TOLERANCE, "{count} rows, alpha {alpha}: {error:e}");
                    // Without refinement f32 must not be accurate enough, or the test would be vacuous.
                    let unrefined = rough
                        .solve(Mat::from_fn(exact.nrows(), exact.ncols(), |i, t| problem.rhs[(i, t)] as f32));
                    let unrefined =
                        Mat::from_fn(exact.nrows(), exact.ncols(), |i, t| f64::from(unrefined[(i, t)]));
                    assert!((unrefined - &exact).norm_l2() / exact.norm_l2() > 10.0 * TOLERANCE);
                }
            });
        }
    }

    #[test]
    fn refinement_gives_up_where_f32_cannot_precondition() {
        // Products that overflow f32, and a matrix that is singular up to f32 rounding.
        with_problem(90, 60, 1e20, |problem| {
            assert!(Cholesky::<f32>::factorize_roughly(problem.shifted_gram(1.0)).is_none());
        });
        with_problem(60, 60, 1.0, |problem| {
            let rough = Cholesky::factorize_roughly(problem.shifted_gram(1e-9));
            assert!(rough.and_then(|rough| solve_refined(problem, &rough, 1e-9)).is_none());
        });
    }
}
