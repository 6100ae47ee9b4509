//! Newton steps on the free dual coefficients, solved exactly.
//!
//! If few samples are free, their coefficients are optimized alone, using the products of these samples with
//! each other: the system of a step is solved by Cholesky, as in Chapelle, *Training a support vector machine
//! in the primal*, Neural Computation 2007, and the cost of a step does not depend on the number of features.
//! Steps continue until these coefficients are optimal; then all samples are evaluated again.

use super::{DualSolver, PROXIMAL, SvmLoss, best_fraction, is_free};

/// Maximum number of Newton steps before the other samples are evaluated.
const MAX_STEPS: u64 = 50;

/// Maximum number of halvings of a step that hits bounds.
const MAX_HALVINGS: u32 = 10;

/// The part of the dual problem that concerns the samples in the kernel cache: all that an exact Newton step
/// needs. Every vector has one entry per cached sample, in the order of the cache.
struct LocalProblem {
    /// Dual coefficients.
    values: Vec<f64>,
    /// Derivatives of the dual objective.
    gradient: Vec<f64>,
    /// Labels `y_i`, 1 or -1.
    signs: Vec<f64>,
    /// What the loss adds to the diagonal of the Hessian.
    diagonal: Vec<f64>,
    /// Upper bounds of the coefficients.
    upper: Vec<f64>,
    /// Added to the diagonal of the Newton system, in addition to the dual's own.
    proximal: f64,
}

/// A step of the dual coefficients of the cached samples and its effect.
struct ExactStep {
    /// How much the dual objective decreases.
    gain: f64,
    /// The new coefficients. One that reaches a bound equals it to the bit, or it would count as free.
    values: Vec<f64>,
    /// The best fraction of the projected direction.
    fraction: f64,
    /// Change of the gradient for the whole projected direction.
    gradient_change: Vec<f64>,
}

impl DualSolver<'_> {
    /// Optimizes the dual coefficients of the `free` samples of an SVM (those not stuck at a bound) while all
    /// others stay as they are, by exact Newton steps until one decreases the dual objective by at most
    /// `min_gain`. `gradient` `[N]` is that of the dual objective. Samples that were free before and are
    /// still cached take part, too.
    ///
    /// Returns false and does nothing if there are too many free samples for the cache. Does not update the
    /// weights `w`, which the caller recomputes later.
    pub(super) fn exact_steps(&mut self, free: &[usize], gradient: &[f64], min_gain: f64) -> bool {
        if !self.kernel.ensure_cached(free, &self.problem) {
            return false;
        }
        let samples = self.kernel.samples().to_vec();
        let gather =
            |value: &dyn Fn(usize) -> f64| -> Vec<f64> { samples.iter().map(|&i| value(i)).collect() };
        let mean_squared_norm =
            samples.iter().map(|&i| self.problem.squared_norms[i]).sum::<f64>() / samples.len() as f64;
        let mut local = LocalProblem {
            values: gather(&|i| self.dual_coef[i]),
            gradient: gather(&|i| gradient[i]),
            signs: gather(&|i| self.sign(i)),
            diagonal: gather(&|i| self.diagonal(i)),
            upper: gather(&|i| self.upper_bound(i)),
            proximal: match self.problem.loss {
                SvmLoss::Hinge => PROXIMAL * mean_squared_norm,
                SvmLoss::SquaredHinge => 0.0,
            },
        };
        for _ in 0..MAX_STEPS {
            let Some(step) = self.exact_step(&local) else { break };
            local.values = step.values;
            for (gradient, change) in local.gradient.iter_mut().zip(&step.gradient_change) {
                *gradient += step.fraction * change;
            }
            if step.gain <= min_gain {
                break;
            }
        }
        for (&i, value) in samples.iter().zip(local.values) {
            self.dual_coef[i] = value;
        }
        true
    }

    /// The best step along the Newton direction of the cached samples' dual coefficients: they are clamped to
    /// their bounds, and the length of the step is halved while the dual objective decreases more for it.
    /// `None` if no length decreases the objective, or if the Newton system is singular.
    fn exact_step(&mut self, local: &LocalProblem) -> Option<ExactStep> {
        let free_rows = local.free_rows();
        let gather = |values: &[f64]| -> Vec<f64> { free_rows.iter().map(|&k| values[k]).collect() };
        let diagonal: Vec<f64> = free_rows.iter().map(|&k| local.diagonal[k] + local.proximal).collect();
        let mut direction = gather(&local.gradient);
        if !self.kernel.solve(&free_rows, &gather(&local.signs), &diagonal, &mut direction) {
            return None;
        }
        let mut best: Option<ExactStep> = None;
        for halving in 0..MAX_HALVINGS {
            let length = 0.5f64.powi(halving as i32);
            let mut values = local.values.clone();
            for (&k, d) in free_rows.iter().zip(&direction) {
                values[k] = (values[k] - length * d).clamp(0.0, local.upper[k]);
            }
            let change: Vec<f64> = values.iter().zip(&local.values).map(|(to, from)| to - from).collect();
            // The derivative of the dual objective along `change`; negative if it decreases.
            let descent = self.vectors.dot(&local.gradient, &change);
            if descent < 0.0 {
                let signed_change: Vec<f64> = change.iter().zip(&local.signs).map(|(c, s)| c * s).collect();
                let mut gradient_change = self.kernel.multiply(&signed_change, self.vectors);
                // The Hessian times the change.
                for (k, value) in gradient_change.iter_mut().enumerate() {
                    *value = local.signs[k] * *value + local.diagonal[k] * change[k];
                }
                let curvature = self.vectors.dot(&gradient_change, &change);
                // The feasible set is a box, so any fraction of the step is feasible: take the best one.
                let fraction = best_fraction(descent, curvature);
                let gain = -fraction * (descent + 0.5 * fraction * curvature);
                if best.as_ref().is_some_and(|best| gain <= best.gain) {
                    break;
                }
                if fraction < 1.0 {
                    for ((value, change), upper) in values.iter_mut().zip(&change).zip(&local.upper) {
                        *value = (*value - (1.0 - fraction) * change).clamp(0.0, *upper);
                    }
                }
                best = Some(ExactStep { gain, values, fraction, gradient_change });
            }
        }
        best
    }
}

impl LocalProblem {
    /// The cached samples, by their rows in the kernel matrix, whose dual coefficients a Newton step may
    /// change: those between their bounds, and those at a bound that a step against the gradient would leave.
    fn free_rows(&self) -> Vec<usize> {
        let free = |&k: &usize| is_free(self.values[k], self.upper[k], self.gradient[k]);
        (0..self.values.len()).filter(free).collect()
    }
}
