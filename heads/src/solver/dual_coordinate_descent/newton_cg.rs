//! Newton steps on the free dual coefficients, solved by conjugate gradients.

use super::{DualSolver, PROXIMAL, SvmLoss, WeightVector, best_fraction};

/// Maximum number of Newton steps per round.
const MAX_STEPS: u64 = 10;

/// Relative residual at which a direction is accurate enough; the next step corrects the rest.
const RELATIVE_RESIDUAL: f64 = 0.03;

/// Maximum number of conjugate gradient iterations per direction.
const MAX_CG_ITERATIONS: usize = 200;

/// Maximum number of halvings of a step that hits bounds.
const MAX_HALVINGS: usize = 10;

/// A step of the free dual coefficients and its effect.
struct NewtonStep {
    /// How much the dual objective decreases.
    gain: f64,
    /// The fraction of `change` that decreases the objective most, at most 1.
    fraction: f64,
    /// Change of each free coefficient.
    change: Vec<f64>,
    /// Change of the weights for the whole `change`.
    w: WeightVector,
}

impl DualSolver<'_> {
    /// Takes up to `steps` Newton steps (at most [`MAX_STEPS`]) on those dual coefficients of an SVM that are
    /// free, not stuck at a bound: for problems with too many of them to be solved exactly. `gradient` `[N]`
    /// is that of the dual objective at the start. Updates coefficients and weights; no step increases the
    /// objective.
    pub(super) fn newton_steps(&mut self, mut gradient: Vec<f64>, steps: u64) {
        for _ in 0..steps.min(MAX_STEPS) {
            let free = self.free_samples(&gradient);
            let free_gradient: Vec<f64> = free.iter().map(|&i| gradient[i]).collect();
            let Some(step) = self.newton_step(&free, &free_gradient) else { return };
            for (&i, change) in free.iter().zip(&step.change) {
                self.dual_coef[i] =
                    (self.dual_coef[i] + step.fraction * change).clamp(0.0, self.upper_bound(i));
            }
            self.vectors.add_scaled(&mut self.w.weight, step.fraction, &step.w.weight);
            self.w.constant_weight += step.fraction * step.w.constant_weight;
            gradient = self.gradient();
        }
    }

    /// The best step along the Newton direction of the dual coefficients of the `free` samples: they are
    /// clamped to their bounds, and the length of the step is halved while the dual objective decreases more
    /// for it. `free_gradient` is the gradient of that objective, one entry per free sample. `None` if no
    /// length decreases the objective.
    fn newton_step(&self, free: &[usize], free_gradient: &[f64]) -> Option<NewtonStep> {
        let direction = self.newton_direction(free, free_gradient);
        let mut best: Option<NewtonStep> = None;
        let mut step_length = 1.0;
        for _ in 0..MAX_HALVINGS {
            let project = |(&i, d): (&usize, &f64)| {
                let start = self.dual_coef[i];
                (start + step_length * d).clamp(0.0, self.upper_bound(i)) - start
            };
            let change: Vec<f64> = free.iter().zip(&direction).map(project).collect();
            // The derivative of the dual objective along `change`; negative if it decreases.
            let descent = self.vectors.dot(free_gradient, &change);
            if descent < 0.0 {
                // The feasible set is a box, so any fraction of the step is feasible: take the best one.
                let w = self.weighted_sum(free, &change);
                let diagonal: f64 = free.iter().zip(&change).map(|(&i, c)| self.diagonal(i) * c * c).sum();
                let curvature = self.squared_norm(&w) + diagonal;
                let fraction = best_fraction(descent, curvature);
                let gain = -fraction * (descent + 0.5 * fraction * curvature);
                if best.as_ref().is_some_and(|best| gain <= best.gain) {
                    break;
                }
                best = Some(NewtonStep { gain, fraction, change, w });
            }
            step_length *= 0.5;
        }
        best
    }

    /// The Newton direction `d` of the dual coefficients of the `free` samples, one entry each: solves
    /// `H d = -free_gradient` by conjugate gradients, roughly. `H` is the Hessian of the dual objective over
    /// these samples; for the hinge a multiple of the identity is added (see [`PROXIMAL`]), because `H` is
    /// singular.
    fn newton_direction(&self, free: &[usize], free_gradient: &[f64]) -> Vec<f64> {
        let proximal = match self.problem.loss {
            SvmLoss::Hinge => {
                PROXIMAL * free.iter().map(|&i| self.problem.squared_norms[i]).sum::<f64>()
                    / free.len() as f64
            }
            SvmLoss::SquaredHinge => 0.0,
        };
        let mut direction = vec![0.0; free.len()];
        let mut residual: Vec<f64> = free_gradient.iter().map(|g| -g).collect();
        let mut search_direction = residual.clone();
        let mut squared_norm = self.vectors.dot(&residual, &residual);
        let target = RELATIVE_RESIDUAL * RELATIVE_RESIDUAL * squared_norm;
        for _ in 0..MAX_CG_ITERATIONS {
            if squared_norm <= target {
                break;
            }
            let w = self.weighted_sum(free, &search_direction);
            let hessian_times_search: Vec<f64> = free
                .iter()
                .zip(&search_direction)
                .map(|(&i, s)| self.margin(&w, i) + (self.diagonal(i) + proximal) * s)
                .collect();
            let curvature = self.vectors.dot(&search_direction, &hessian_times_search);
            let step_length = squared_norm / curvature;
            if !step_length.is_finite() {
                break;
            }
            self.vectors.add_scaled(&mut direction, step_length, &search_direction);
            self.vectors.add_scaled(&mut residual, -step_length, &hessian_times_search);
            let previous = std::mem::replace(&mut squared_norm, self.vectors.dot(&residual, &residual));
            for (s, r) in search_direction.iter_mut().zip(&residual) {
                *s = r + squared_norm / previous * *s;
            }
        }
        direction
    }
}
