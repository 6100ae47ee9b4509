//! Limited-memory BFGS with a strong Wolfe line search.
//!
//! Nocedal and Wright, *Numerical Optimization*, 2nd edition: algorithm 7.4 for the direction, 3.5 and 3.6
//! for the step. The initial inverse Hessian is given by the caller and scaled by the curvature of the last
//! step (7.20).

use std::collections::VecDeque;

use crate::vector::VectorOps;

/// Number of latest steps that the inverse Hessian is built from.
const MAX_PAIRS: usize = 10;
/// Sufficient decrease: fraction of the decrease predicted by the slope.
pub(crate) const SUFFICIENT_DECREASE: f64 = 1e-4;
/// Curvature condition: fraction of the initial slope that may remain.
const CURVATURE: f64 = 0.9;
/// Maximum number of evaluations per line search.
const MAX_EVALUATIONS: usize = 30;

/// When L-BFGS and OWL-QN stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LbfgsStopping {
    /// Largest gradient component at which to stop.
    pub(crate) tolerance: f64,
    /// Maximum number of iterations.
    pub(crate) iterations: u64,
}

/// The result of L-BFGS or OWL-QN.
#[derive(Clone, Debug)]
pub(crate) struct Minimum {
    /// The best point.
    pub(crate) point: Vec<f64>,
    /// Value and largest gradient component, at the start and after each iteration.
    pub(crate) progress: Vec<(f64, f64)>,
    /// Whether the gradient is below the tolerance.
    pub(crate) converged: bool,
}

/// Minimizes a smooth function by the quasi-Newton method L-BFGS, from the point `start` until `stopping` is
/// met. `evaluate` is the function: it gets a point, returns the value there and writes the gradient to its
/// second argument. `inverse` multiplies a vector by an approximate inverse Hessian: the better it is, the
/// fewer iterations are needed. `on_iteration` is called with the number of iterations done.
pub(crate) fn minimize(
    start: Vec<f64>,
    inverse: &InverseHessian<'_>,
    stopping: LbfgsStopping,
    mut evaluate: impl FnMut(&[f64], &mut [f64]) -> f64,
    on_iteration: impl Fn(u64),
) -> Minimum {
    let vectors = VectorOps::new();
    let start_point = Evaluation::compute(start, &mut evaluate);
    let gradient_at = |point: &Evaluation| point.gradient.clone();
    let step = |current: &Evaluation, _: &[f64], direction: Vec<f64>| {
        line_search(current, &direction, vectors, &mut evaluate)
    };
    minimize_with(start_point, inverse, stopping, gradient_at, step, on_iteration)
}

/// The loop that L-BFGS and OWL-QN share: takes steps from `current` until the largest component of the
/// gradient (OWL-QN's pseudo-gradient) is small enough. `gradient_at` returns that gradient. `step` gets a
/// point, its gradient and the quasi-Newton direction; it returns a point with a lower value, or `None` if it
/// finds none. `inverse` multiplies a vector by an approximate inverse Hessian.
pub(crate) fn minimize_with(
    mut current: Evaluation,
    inverse: &InverseHessian<'_>,
    stopping: LbfgsStopping,
    gradient_at: impl Fn(&Evaluation) -> Vec<f64>,
    mut step: impl FnMut(&Evaluation, &[f64], Vec<f64>) -> Option<Evaluation>,
    on_iteration: impl Fn(u64),
) -> Minimum {
    let mut gradient = gradient_at(&current);
    let mut progress = vec![(current.value, max_abs(&gradient))];
    let mut memory =
        LbfgsMemory { pairs: VecDeque::new(), inverse_hessian: inverse, vectors: VectorOps::new() };
    for iteration in 1..=stopping.iterations {
        if max_abs(&gradient) <= stopping.tolerance {
            break;
        }
        let Some(next) = step(&current, &gradient, memory.direction(&gradient)) else {
            if memory.pairs.is_empty() {
                break;
            }
            // Rounding errors in the gradients may have made the stored curvature, and so the direction,
            // wrong: try again without it.
            memory.pairs.clear();
            continue;
        };
        memory.push(&current, &next);
        current = next;
        gradient = gradient_at(&current);
        progress.push((current.value, max_abs(&gradient)));
        on_iteration(iteration);
    }
    Minimum { converged: max_abs(&gradient) <= stopping.tolerance, point: current.point, progress }
}

/// The largest absolute value of a gradient, which is near 0 at a minimum; solvers stop by it.
fn max_abs(vector: &[f64]) -> f64 {
    vector.iter().fold(0.0, |top, g| g.abs().max(top))
}

/// A point with the value and the gradient of the objective there.
pub(crate) struct Evaluation {
    pub(crate) point: Vec<f64>,
    pub(crate) value: f64,
    pub(crate) gradient: Vec<f64>,
}

impl Evaluation {
    /// Evaluates the objective at `point` by `evaluate`, which returns the value and writes the gradient.
    pub(crate) fn compute(point: Vec<f64>, evaluate: &mut impl FnMut(&[f64], &mut [f64]) -> f64) -> Self {
        let mut gradient = vec![0.0; point.len()];
        let value = evaluate(&point, &mut gradient);
        Self { point, value, gradient }
    }
}

/// What L-BFGS remembers of an iteration: the step and the change of the gradient along it, which tell the
/// curvature in that direction.
struct CurvaturePair {
    step: Vec<f64>,
    gradient_change: Vec<f64>,
    /// `1 / (step · gradient_change)`
    rho: f64,
}

/// An approximate inverse Hessian, up to a factor, as its product with a vector.
pub(crate) type InverseHessian<'a> = dyn Fn(&[f64]) -> Vec<f64> + 'a;

/// The approximate inverse Hessian of L-BFGS: the curvature of the last steps, on top of the caller's
/// approximation.
struct LbfgsMemory<'a> {
    /// Oldest first, at most [`MAX_PAIRS`].
    pairs: VecDeque<CurvaturePair>,
    /// The caller's approximation.
    inverse_hessian: &'a InverseHessian<'a>,
    vectors: VectorOps,
}

impl LbfgsMemory<'_> {
    /// Stores the curvature along the step from the point `previous` to `current`, to improve the next
    /// directions; of more than [`MAX_PAIRS`] steps the oldest is removed. A step without positive curvature
    /// is ignored: with it the inverse Hessian might not be positive definite.
    fn push(&mut self, previous: &Evaluation, current: &Evaluation) {
        let difference =
            |to: &[f64], from: &[f64]| -> Vec<f64> { to.iter().zip(from).map(|(a, b)| a - b).collect() };
        let (step, gradient_change) =
            (difference(&current.point, &previous.point), difference(&current.gradient, &previous.gradient));
        let curvature = self.vectors.dot(&step, &gradient_change);
        if curvature > 0.0 {
            self.pairs.push_back(CurvaturePair { step, gradient_change, rho: 1.0 / curvature });
            if self.pairs.len() > MAX_PAIRS {
                self.pairs.pop_front();
            }
        }
    }

    /// The direction of the next step: minus the approximate inverse Hessian times `gradient`. The two loops,
    /// over the stored steps from the last to the first and back, add their curvature to the caller's inverse
    /// Hessian, without forming a matrix (two-loop recursion, algorithm 7.4 of Nocedal and Wright).
    fn direction(&self, gradient: &[f64]) -> Vec<f64> {
        let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut alphas = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs.iter().rev() {
            let alpha = pair.rho * self.vectors.dot(&pair.step, &direction);
            self.vectors.add_scaled(&mut direction, -alpha, &pair.gradient_change);
            alphas.push(alpha);
        }
        // Makes the caller's inverse Hessian match the curvature of the last step (7.20).
        let scale = self.pairs.back().map_or(1.0, |last| {
            1.0 / (last.rho
                * self.vectors.dot(&last.gradient_change, &(self.inverse_hessian)(&last.gradient_change)))
        });
        direction = (self.inverse_hessian)(&direction);
        direction.iter_mut().for_each(|d| *d *= scale);
        for (pair, alpha) in self.pairs.iter().zip(alphas.iter().rev()) {
            let beta = pair.rho * self.vectors.dot(&pair.gradient_change, &direction);
            self.vectors.add_scaled(&mut direction, alpha - beta, &pair.step);
        }
        direction
    }
}

/// A step length that the line search tried, with the value of the objective there and its slope along the
/// direction.
#[derive(Clone, Copy)]
struct Trial {
    length: f64,
    value: f64,
    slope: f64,
}

/// Decides how far a step of L-BFGS goes: returns a point along `direction` from `current` that satisfies the
/// strong Wolfe conditions (the value falls enough, and the slope flattens enough). If it finds none, as
/// close to the minimum where rounding errors dominate, it returns the lowest point tried; `None` if no point
/// is lower than `current`.
fn line_search(
    current: &Evaluation,
    direction: &[f64],
    vectors: VectorOps,
    evaluate: &mut impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Option<Evaluation> {
    let start = Trial { length: 0.0, value: current.value, slope: vectors.dot(&current.gradient, direction) };
    if start.slope >= 0.0 || !start.slope.is_finite() {
        return None;
    }
    let mut lowest: Option<Evaluation> = None;
    // The step length lies between `low`, the best so far, and `high`, once that exists.
    let (mut low, mut high): (Trial, Option<Trial>) = (start, None);
    let mut length = 1.0;
    for _ in 0..MAX_EVALUATIONS {
        let mut point = current.point.clone();
        vectors.add_scaled(&mut point, length, direction);
        let next = Evaluation::compute(point, evaluate);
        let value = next.value;
        let trial = Trial { length, value, slope: vectors.dot(&next.gradient, direction) };
        let is_lower = value < lowest.as_ref().map_or(current.value, |lowest| lowest.value);
        if is_lower {
            lowest = Some(next);
        }
        let sufficient_decrease = value <= start.value + SUFFICIENT_DECREASE * length * start.slope;
        if !sufficient_decrease || value >= low.value {
            high = Some(trial);
        } else if trial.slope.abs() <= -CURVATURE * start.slope {
            return lowest;
        } else {
            // Where the value rises from here toward `high`, the minimum lies back toward the old `low`.
            if trial.slope * (high.map_or(f64::INFINITY, |high| high.length) - length) >= 0.0 {
                high = Some(low);
            }
            low = trial;
        }
        length = match high {
            None => 2.0 * length,
            Some(high) if (high.length - low.length).abs() <= f64::EPSILON * low.length => break,
            Some(high) => cubic_minimum(low, high),
        };
    }
    lowest
}

/// The next step length that the line search tries, between the trials `low` and `high`: the minimum of the
/// cubic polynomial with their values and slopes (equation 3.59 of Nocedal and Wright), but at least a tenth
/// of the interval away from its ends, so that the interval shrinks. The middle if there is no minimum.
fn cubic_minimum(low: Trial, high: Trial) -> f64 {
    let width = high.length - low.length;
    let d1 = low.slope + high.slope - 3.0 * (low.value - high.value) / (low.length - high.length);
    let d2 = width.signum() * (d1 * d1 - low.slope * high.slope).sqrt();
    let share = 1.0 - (high.slope + d2 - d1) / (high.slope - low.slope + 2.0 * d2);
    let share = if share.is_finite() { share.clamp(0.1, 0.9) } else { 0.5 };
    low.length + share * width
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOPPING: LbfgsStopping = LbfgsStopping { tolerance: 1e-9, iterations: 500 };

    fn rosenbrock(x: &[f64], gradient: &mut [f64]) -> f64 {
        gradient.fill(0.0);
        (0..x.len() - 1)
            .map(|i| {
                let (a, b) = (x[i + 1] - x[i] * x[i], 1.0 - x[i]);
                gradient[i] += -400.0 * x[i] * a - 2.0 * b;
                gradient[i + 1] += 200.0 * a;
                100.0 * a * a + b * b
            })
            .sum()
    }

    #[test]
    fn rosenbrocks_valley_leads_to_its_known_minimum() {
        let mut evaluations = 0;
        let counted = |x: &[f64], gradient: &mut [f64]| {
            evaluations += 1;
            rosenbrock(x, gradient)
        };
        let minimum = minimize(vec![-1.2, 1.0, -1.2, 1.0], &|v| v.to_vec(), STOPPING, counted, |_| {});
        assert!(minimum.converged, "{:?}", minimum.progress);
        // 58 evaluations in 43 iterations; other processors may round differently.
        assert!(evaluations < 63, "{evaluations}");
        assert!(minimum.point.iter().all(|x| (x - 1.0).abs() < 1e-7), "{:?}", minimum.point);
    }

    /// Sine waves on a parabola with steep and flat starts: wherever the search ends, both Wolfe conditions
    /// hold.
    #[test]
    fn the_line_search_ends_where_both_of_wolfes_conditions_hold() {
        for case in 0..400 {
            let (wave, steep) = (1.0 + f64::from(case % 20), 10f64.powf(f64::from(case / 20 % 5) - 2.0));
            let shift = f64::from(case / 100) * 0.7;
            let function = |x: &[f64], gradient: &mut [f64]| {
                let x = steep * x[0];
                gradient[0] = steep * ((x - 3.0) * 0.2 + 0.5 * (wave * x + shift).cos());
                0.1 * (x - 3.0).powi(2) + 0.5 / wave * (wave * x + shift).sin()
            };
            let mut gradient = vec![0.0];
            let value = function(&[0.0], &mut gradient);
            let direction = [-gradient[0].signum()];
            let start = Evaluation { point: vec![0.0], value, gradient: gradient.clone() };
            let end = line_search(&start, &direction, VectorOps::new(), &mut &function).unwrap();
            let slope = gradient[0] * direction[0];
            let length = end.point[0] * direction[0];
            assert!(end.value <= value + SUFFICIENT_DECREASE * length * slope, "case {case}");
            assert!(end.gradient[0].abs() <= -CURVATURE * slope, "case {case}");
        }
    }

    #[test]
    fn no_iteration_raises_the_value() {
        let minimum = minimize(vec![-1.2, 1.0, -1.2, 1.0], &|v| v.to_vec(), STOPPING, rosenbrock, |_| {});
        assert!(minimum.progress.is_sorted_by(|before, after| before.0 > after.0));
    }

    #[test]
    fn an_exact_inverse_solves_a_separable_quadratic_in_one_iteration() {
        let scales = [1e-6, 1.0, 1e6];
        let exact = |v: &[f64]| -> Vec<f64> { v.iter().zip(&scales).map(|(v, s)| v / s).collect() };
        let quadratic = |x: &[f64], gradient: &mut [f64]| {
            (0..3)
                .map(|i| {
                    gradient[i] = scales[i] * (x[i] - 3.0);
                    0.5 * scales[i] * (x[i] - 3.0).powi(2)
                })
                .sum()
        };
        let minimum = minimize(vec![0.0; 3], &exact, STOPPING, quadratic, |_| {});
        assert_eq!((minimum.converged, minimum.progress.len()), (true, 2));
    }

    #[test]
    fn too_few_iterations_are_reported() {
        let stopping = LbfgsStopping { iterations: 3, ..STOPPING };
        let minimum = minimize(vec![-1.2, 1.0], &|v| v.to_vec(), stopping, rosenbrock, |_| {});
        assert_eq!((minimum.converged, minimum.progress.len()), (false, 4));
    }

    #[test]
    fn a_value_that_is_not_a_number_stops_the_search() {
        let minimum = minimize(vec![1.0], &|v| v.to_vec(), STOPPING, |_, _| f64::NAN, |_| {});
        assert_eq!(minimum.point, [1.0]);
    }
}
