//! Newton steps on the multipliers that are free to move, solved by conjugate gradients.

use super::{Loss, PROXIMAL, Plane, State, best_fraction};

/// Newton steps in a round, at most.
const STEPS: u64 = 10;

/// The residual, relative to the first, at which a direction is good enough: the next step corrects what is
/// left.
const RESIDUAL: f64 = 0.03;

/// Conjugate gradient iterations for a direction, at most.
const ITERATIONS: usize = 200;

/// Halvings of a step that runs into bounds, at most.
const HALVINGS: usize = 10;

/// A step of the free multipliers and what it does.
struct Step {
    /// By how much it lowers the dual.
    gain: f64,
    /// The part of `change` that is best.
    fraction: f64,
    change: Vec<f64>,
    plane: Plane,
}

impl State<'_> {
    /// Projected Newton steps from where the dual has this `gradient`; none raises the dual.
    pub(super) fn newton_steps(&mut self, mut gradient: Vec<f64>, steps: u64) {
        for _ in 0..steps.min(STEPS) {
            let free = self.free(&gradient);
            let slope: Vec<f64> = free.iter().map(|&i| gradient[i]).collect();
            let Some(step) = self.newton_step(&free, &slope) else { return };
            for (&i, change) in free.iter().zip(&step.change) {
                self.multipliers[i] =
                    (self.multipliers[i] + step.fraction * change).clamp(0.0, self.upper(i));
            }
            self.vectors.add_scaled(&mut self.plane.weight, step.fraction, &step.plane.weight);
            self.plane.constant += step.fraction * step.plane.constant;
            gradient = self.gradient();
        }
    }

    /// The best of the Newton direction's projections on the bounds, from the whole on and halving; nothing
    /// if none gains.
    fn newton_step(&self, free: &[usize], slope: &[f64]) -> Option<Step> {
        let direction = self.newton_direction(free, slope);
        let mut best: Option<Step> = None;
        let mut length = 1.0;
        for _ in 0..HALVINGS {
            let project = |(&i, d): (&usize, &f64)| {
                let start = self.multipliers[i];
                (start + length * d).clamp(0.0, self.upper(i)) - start
            };
            let change: Vec<f64> = free.iter().zip(&direction).map(project).collect();
            let descent = self.vectors.dot(slope, &change);
            if descent < 0.0 {
                // The multipliers are a box, so that any fraction of the step stays inside: take the best
                // one.
                let plane = self.combine(free, &change);
                let diagonal: f64 = free.iter().zip(&change).map(|(&i, c)| self.diagonal(i) * c * c).sum();
                let curvature = self.squared_norm(&plane) + diagonal;
                let fraction = best_fraction(descent, curvature);
                let gain = -fraction * (descent + 0.5 * fraction * curvature);
                if best.as_ref().is_some_and(|best| gain <= best.gain) {
                    break;
                }
                best = Some(Step { gain, fraction, change, plane });
            }
            length *= 0.5;
        }
        best
    }

    /// Solves `H d = -slope` by conjugate gradients, where `H` is the dual's Hessian over the free samples;
    /// see [`PROXIMAL`].
    fn newton_direction(&self, free: &[usize], slope: &[f64]) -> Vec<f64> {
        let proximal = match self.problem.loss {
            Loss::Hinge => {
                PROXIMAL * free.iter().map(|&i| self.problem.squared_norms[i]).sum::<f64>()
                    / free.len() as f64
            }
            Loss::SquaredHinge => 0.0,
        };
        let mut direction = vec![0.0; free.len()];
        let mut residual: Vec<f64> = slope.iter().map(|s| -s).collect();
        let mut search = residual.clone();
        let mut norm = self.vectors.dot(&residual, &residual);
        let enough = RESIDUAL * RESIDUAL * norm;
        for _ in 0..ITERATIONS {
            if norm <= enough {
                break;
            }
            let plane = self.combine(free, &search);
            let image: Vec<f64> = free
                .iter()
                .zip(&search)
                .map(|(&i, s)| self.margin(&plane, i) + (self.diagonal(i) + proximal) * s)
                .collect();
            let curvature = self.vectors.dot(&search, &image);
            let step = norm / curvature;
            if !step.is_finite() {
                break;
            }
            self.vectors.add_scaled(&mut direction, step, &search);
            self.vectors.add_scaled(&mut residual, -step, &image);
            let before = std::mem::replace(&mut norm, self.vectors.dot(&residual, &residual));
            for (s, r) in search.iter_mut().zip(&residual) {
                *s = r + norm / before * *s;
            }
        }
        direction
    }
}
