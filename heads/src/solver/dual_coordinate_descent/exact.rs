//! Newton steps on the multipliers that are free to move, solved exactly.
//!
//! The multipliers of few samples are worked on alone, by the products of these samples with each other: the system of
//! a step is factored by Cholesky, as in Chapelle, *Training a support vector machine in the primal*, Neural Computation
//! 2007, and a step costs nothing in the number of features. Steps go on until these multipliers are at their
//! optimum; then all samples are looked at again.

use super::{Loss, PROXIMAL, State, best_fraction};

/// Newton steps before the other samples are looked at, at most.
const STEPS: u64 = 50;

/// Halvings of a step that runs into bounds, at most.
const HALVINGS: u32 = 10;

/// The multipliers of the samples that the kernel holds, and all that a step needs of them.
struct Local {
    values: Vec<f64>,
    gradient: Vec<f64>,
    signs: Vec<f64>,
    diagonal: Vec<f64>,
    upper: Vec<f64>,
    /// What a system gets on its diagonal beside that of the dual.
    proximal: f64,
}

/// A step of the multipliers.
struct Step {
    /// By how much it lowers the dual.
    gain: f64,
    /// Where it leads. What reaches a bound is at the bound to the bit, or it would count as free.
    values: Vec<f64>,
    /// The part of the projected direction that it is.
    fraction: f64,
    /// By what the whole of that changes the gradient.
    bend: Vec<f64>,
}

impl State<'_> {
    /// Steps on the multipliers that are `free` where the dual has this `gradient`, and on those that were before, until
    /// one lowers the dual by less than `enough`. Whether there were few enough of them: if not, nothing is done. The plane is left
    /// as it was.
    pub(super) fn exact_steps(&mut self, free: &[usize], gradient: &[f64], enough: f64) -> bool {
        if !self.kernel.hold(free, &self.problem) {
            return false;
        }
        let samples = self.kernel.samples().to_vec();
        let of = |value: &dyn Fn(usize) -> f64| -> Vec<f64> { samples.iter().map(|&i| value(i)).collect() };
        let mean = samples.iter().map(|&i| self.problem.squared_norms[i]).sum::<f64>() / samples.len() as f64;
        let mut local = Local {
            values: of(&|i| self.multipliers[i]),
            gradient: of(&|i| gradient[i]),
            signs: of(&|i| self.sign(i)),
            diagonal: of(&|i| self.diagonal(i)),
            upper: of(&|i| self.upper(i)),
            proximal: if self.problem.loss == Loss::Hinge { PROXIMAL * mean } else { 0.0 },
        };
        for _ in 0..STEPS {
            let Some(step) = self.exact_step(&local) else { break };
            local.values = step.values;
            for (gradient, bend) in local.gradient.iter_mut().zip(&step.bend) {
                *gradient += step.fraction * bend;
            }
            if step.gain <= enough {
                break;
            }
        }
        for (&i, value) in samples.iter().zip(local.values) {
            self.multipliers[i] = value;
        }
        true
    }

    /// The best of the Newton direction's projections on the bounds, from the whole on and halving; nothing if none gains.
    fn exact_step(&mut self, local: &Local) -> Option<Step> {
        let free = local.free();
        let of = |values: &[f64]| -> Vec<f64> { free.iter().map(|&k| values[k]).collect() };
        let diagonal: Vec<f64> = free.iter().map(|&k| local.diagonal[k] + local.proximal).collect();
        let mut direction = of(&local.gradient);
        if !self.kernel.solve(&free, &of(&local.signs), &diagonal, &mut direction) {
            return None;
        }
        let mut best: Option<Step> = None;
        for halving in 0..HALVINGS {
            let length = 0.5f64.powi(halving as i32);
            let mut values = local.values.clone();
            for (&k, d) in free.iter().zip(&direction) {
                values[k] = (values[k] - length * d).clamp(0.0, local.upper[k]);
            }
            let change: Vec<f64> = values.iter().zip(&local.values).map(|(to, from)| to - from).collect();
            let descent = self.vectors.dot(&local.gradient, &change);
            if descent < 0.0 {
                let signed: Vec<f64> = change.iter().zip(&local.signs).map(|(c, s)| c * s).collect();
                let mut bend = self.kernel.times(&signed, self.vectors);
                for (k, bend) in bend.iter_mut().enumerate() {
                    *bend = local.signs[k] * *bend + local.diagonal[k] * change[k];
                }
                let curvature = self.vectors.dot(&bend, &change);
                // The multipliers are a box, so that any fraction of the step stays inside: take the best one.
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
                best = Some(Step { gain, values, fraction, bend });
            }
        }
        best
    }
}

impl Local {
    /// Rows whose multiplier is between its bounds, or at one but would leave it.
    fn free(&self) -> Vec<usize> {
        (0..self.values.len())
            .filter(|&k| {
                let (value, gradient) = (self.values[k], self.gradient[k]);
                (value > 0.0 || gradient < 0.0) && (value < self.upper[k] || gradient > 0.0)
            })
            .collect()
    }
}
