//! Binary linear support vector machines.
//!
//! Dual coordinate descent with shrinking (Hsieh, Chang, Lin, Keerthi and Sundararajan, *A dual coordinate
//! descent method for large-scale linear SVM*, ICML 2008, as in LIBLINEAR) quickly identifies the support
//! vectors, but needs long for their exact dual coefficients when `C` is large. So a few sweeps are followed
//! by Newton steps on the support vectors alone, projected on the bounds, as in Moré and Toraldo, *On the
//! solution of large quadratic programming problems with bound constraints*, SIAM J. Optim. 1991: solved
//! exactly for few support vectors, by conjugate gradients for many. All steps decrease the same dual.

mod exact_newton;
mod kernel_cache;
mod newton_cg;
#[cfg(test)]
mod tests;

use headstock_split::KeyedRng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::FeatureMatrix;
use crate::head::HeadShape;
use crate::vector::VectorOps;
use kernel_cache::KernelCache;

/// Sweeps between two evaluations of the whole problem.
const SWEEPS_PER_ROUND: u64 = 4;

/// Gain of a Newton step, relative to the tolerated gap, below which no further step follows.
const MIN_RELATIVE_GAIN: f64 = 0.01;

/// Rounds after which a round takes one more Newton step. Problems for which one step is enough are solved by
/// then.
const ROUNDS_PER_EXTRA_STEP: u64 = 10;

/// Added to the diagonal of the hinge's Hessian, relative to the mean squared norm of the samples. The
/// Hessian is singular; without this, directions run along its null space into the bounds, and steps have no
/// effect. The optimum does not change, only the steps get shorter, as in the proximal point method
/// (Rockafellar, SIAM J. Control Optim. 1976).
const PROXIMAL: f64 = 1e-4;

/// Loss of a photo with slack `ξ = max(0, 1 - y (w·x + b))`, where `y` is 1 for photos of the class and -1
/// for the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SvmLoss {
    /// The squared slack, `C ξ²`.
    #[default]
    SquaredHinge,
    /// The slack, `C ξ`.
    Hinge,
}

/// `min ½ |w|² + Σ C_i loss(y_i w·x_i)`, where `x_i` includes a constant feature for the intercept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BinarySvmProblem<'a> {
    /// `[N, F]`
    pub(crate) features: FeatureMatrix<'a>,
    /// `|x_i|²` including the constant feature, `[N]`.
    pub(crate) squared_norms: &'a [f64],
    /// Value of the constant feature.
    pub(crate) intercept_scaling: f64,
    /// Whether `y_i` is 1, rather than -1, `[N]`.
    pub(crate) positive: &'a [bool],
    /// `C_i` of the negative samples, then of the positive ones.
    pub(crate) cost: [f64; 2],
    /// The loss.
    pub(crate) loss: SvmLoss,
}

/// Stopping rule, and seed of the sample order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SvmStopping {
    /// Duality gap, relative to the objective, at which to stop.
    pub(crate) tolerance: f64,
    /// Maximum number of rounds (a few sweeps and a few Newton steps each).
    pub(crate) rounds: u64,
    /// Seed of the order in which samples are visited.
    pub(crate) seed: [u64; 2],
}

/// The weights of the features and of the constant feature.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WeightVector {
    /// `[F]`
    pub(crate) weight: Vec<f64>,
    /// The weight of the constant feature.
    pub(crate) constant_weight: f64,
}

impl WeightVector {
    /// Weights of 0 for `width` features.
    fn zero(width: usize) -> Self {
        Self { weight: vec![0.0; width], constant_weight: 0.0 }
    }
}

/// Quality of the weights after a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Progress {
    /// The objective.
    pub(crate) primal: f64,
    /// Upper bound of the distance to the optimum: primal minus dual objective.
    pub(crate) gap: f64,
}

/// The result of [`solve`].
#[derive(Clone, Debug)]
pub(crate) struct BinarySvmSolution {
    /// `w`
    pub(crate) w: WeightVector,
    /// Dual coefficients `α`, `[N]`: `w = Σ α_i y_i x_i`.
    pub(crate) dual_coef: Vec<f64>,
    /// One entry per round.
    pub(crate) progress: Vec<Progress>,
    /// Whether the duality gap fell below the tolerance.
    pub(crate) converged: bool,
}

/// The solution of a linear support vector machine for all classes; `K` is the number of binary problems
/// (one if there are two classes), or of classes if they are in a single problem.
#[derive(Clone, Debug)]
pub(crate) struct SvmSolution {
    /// Weights of the features, `[K, F]`.
    pub(crate) weight: Vec<f64>,
    /// Weights of the constant feature, `[K]`.
    pub(crate) constant_weights: Vec<f64>,
    /// Dual coefficients, from which a fit with another `C` can start: `[K, N]`, or `[N, K]` if all classes
    /// are in a single problem.
    pub(crate) dual_coef: Vec<f64>,
    /// The progress of each problem, and whether it converged.
    pub(crate) outcomes: Vec<(Vec<Progress>, bool)>,
}

/// Solves the problem, optionally from initial dual coefficients `[N]`. A round is a few sweeps of coordinate
/// descent, an evaluation of the duality gap, and Newton steps on the support vectors.
pub(crate) fn solve(
    problem: BinarySvmProblem<'_>,
    initial_dual_coef: Option<&[f64]>,
    stopping: SvmStopping,
) -> BinarySvmSolution {
    let mut solver = DualSolver::new(problem);
    let mut active: Vec<usize> = (0..problem.features.len()).collect();
    let mut progress: Vec<Progress> = Vec::new();
    let mut converged = false;
    let mut skip_sweep = initial_dual_coef.is_some_and(|dual_coef| solver.warm_start(dual_coef));
    for round in 0..stopping.rounds {
        if !skip_sweep {
            solver.sweep(&mut active, KeyedRng::new(&[stopping.seed[0], stopping.seed[1], round]));
        }
        let (status, gradient) = solver.evaluate();
        let Progress { primal, gap } = status;
        let halved = progress.last().is_none_or(|last| gap <= 0.5 * last.gap);
        progress.push(status);
        if gap <= stopping.tolerance * primal {
            converged = true;
            break;
        }
        active = solver.unshrunk_samples(&gradient);
        let min_gain = MIN_RELATIVE_GAIN * stopping.tolerance * primal;
        let solved_exactly = solver.exact_steps(&solver.free_samples(&gradient), &gradient, min_gain);
        if !solved_exactly {
            solver.newton_steps(gradient, 1 + round / ROUNDS_PER_EXTRA_STEP);
        }
        // While exact steps make progress, sweeps would only cost time.
        skip_sweep = solved_exactly && halved;
        if solved_exactly && !skip_sweep {
            solver.recompute_weights();
        }
    }
    BinarySvmSolution { w: solver.w, dual_coef: solver.dual_coef, progress, converged }
}

/// Estimated memory of [`solve`] in bytes for a problem of this shape, besides the features and the result.
pub(crate) fn memory_bytes(shape: HeadShape) -> u64 {
    let cached = shape.samples.min(kernel_cache::MAX_SAMPLES) as u64;
    // Products, a factor, two blocks of rows; sample order, gradient and other lists over all samples.
    12 * cached * cached
        + 2 * (kernel_cache::ROWS_PER_BLOCK * shape.features * size_of::<f64>()) as u64
        + 40 * shape.samples as u64
}

/// The fraction (at most 1) of a step that decreases the dual objective most, from the objective's first
/// derivative (`descent`, negative) and second derivative (`curvature`) along the step. Where the objective
/// is linear, rounding may make the curvature negative.
fn best_fraction(descent: f64, curvature: f64) -> f64 {
    if curvature > 0.0 { (-descent / curvature).min(1.0) } else { 1.0 }
}

/// Whether a dual coefficient is between its bounds, 0 and `upper`, or at a bound that a step against its
/// `gradient` would leave.
fn is_free(value: f64, upper: f64, gradient: f64) -> bool {
    (value > 0.0 || gradient < 0.0) && (value < upper || gradient > 0.0)
}

/// The problem and the current state of the solver.
struct DualSolver<'a> {
    problem: BinarySvmProblem<'a>,
    vectors: VectorOps,
    /// Dual coefficients `α`, `[N]`.
    dual_coef: Vec<f64>,
    /// `Σ α_i y_i x_i`, except during exact Newton steps.
    w: WeightVector,
    /// Products of the samples that were free.
    kernel: KernelCache,
}

impl<'a> DualSolver<'a> {
    /// Starts from zero coefficients.
    fn new(problem: BinarySvmProblem<'a>) -> Self {
        Self {
            problem,
            vectors: VectorOps::new(),
            dual_coef: vec![0.0; problem.features.len()],
            w: WeightVector::zero(problem.features.width()),
            kernel: KernelCache::new(problem.features.len()),
        }
    }

    /// `y_i`: 1 or -1.
    fn sign(&self, i: usize) -> f64 {
        if self.problem.positive[i] { 1.0 } else { -1.0 }
    }

    /// `C_i` of a sample.
    fn cost(&self, i: usize) -> f64 {
        self.problem.cost[usize::from(self.problem.positive[i])]
    }

    /// What the loss adds to the diagonal entry of a sample in the Hessian of the dual objective.
    fn diagonal(&self, i: usize) -> f64 {
        match self.problem.loss {
            SvmLoss::SquaredHinge => 0.5 / self.cost(i),
            SvmLoss::Hinge => 0.0,
        }
    }

    /// The upper bound of the coefficient of a sample; the lower bound is 0.
    fn upper_bound(&self, i: usize) -> f64 {
        match self.problem.loss {
            SvmLoss::SquaredHinge => f64::INFINITY,
            SvmLoss::Hinge => self.cost(i),
        }
    }

    /// The margin of a sample, `y_i w·x_i`.
    fn margin(&self, w: &WeightVector, i: usize) -> f64 {
        let score = self.vectors.dot(self.problem.features.row(i), &w.weight)
            + w.constant_weight * self.problem.intercept_scaling;
        self.sign(i) * score
    }

    /// Starts from the multiple of `initial_dual_coef` `[N]` within the bounds with the lowest dual
    /// objective, so that a warm start is never worse than a cold start. Returns whether that multiple
    /// differs from zero.
    fn warm_start(&mut self, initial_dual_coef: &[f64]) -> bool {
        let initial_dual_coef: Vec<f64> =
            initial_dual_coef.iter().enumerate().map(|(i, v)| v.clamp(0.0, self.upper_bound(i))).collect();
        let samples: Vec<usize> = (0..initial_dual_coef.len()).collect();
        let w = self.weighted_sum(&samples, &initial_dual_coef);
        let diagonal: f64 = initial_dual_coef.iter().enumerate().map(|(i, v)| self.diagonal(i) * v * v).sum();
        let curvature = self.squared_norm(&w) + diagonal;
        let max_multiples = initial_dual_coef
            .iter()
            .enumerate()
            .filter(|&(_, &v)| v > 0.0)
            .map(|(i, v)| self.upper_bound(i) / v);
        let multiple = (initial_dual_coef.iter().sum::<f64>() / curvature)
            .min(max_multiples.fold(f64::INFINITY, f64::min));
        if !(multiple > 0.0 && multiple.is_finite()) {
            return false;
        }
        let scaled = |(i, v): (usize, &f64)| (multiple * v).min(self.upper_bound(i));
        self.dual_coef = initial_dual_coef.iter().enumerate().map(scaled).collect();
        true
    }

    /// Adds `scale y_i x_i` to `w`.
    fn add_sample(&self, w: &mut WeightVector, scale: f64, i: usize) {
        let scale = self.sign(i) * scale;
        self.vectors.add_scaled(&mut w.weight, scale, self.problem.features.row(i));
        w.constant_weight += scale * self.problem.intercept_scaling;
    }

    /// `|w|²`, including the weight of the constant feature.
    fn squared_norm(&self, w: &WeightVector) -> f64 {
        self.vectors.dot(&w.weight, &w.weight) + w.constant_weight * w.constant_weight
    }

    /// `Σ scale_k y_k x_k` over the indices in `samples`.
    fn weighted_sum(&self, samples: &[usize], scales: &[f64]) -> WeightVector {
        let mut w = WeightVector::zero(self.problem.features.width());
        for (&i, &scale) in samples.iter().zip(scales) {
            if scale != 0.0 {
                self.add_sample(&mut w, scale, i);
            }
        }
        w
    }

    /// A few passes of dual coordinate descent over the `active` samples in random orders, with shrinking:
    /// samples that are at a bound and would stay there are removed from `active` (Hsieh et al., algorithm
    /// 3).
    fn sweep(&mut self, active: &mut Vec<usize>, mut rng: KeyedRng) {
        let mut w = std::mem::replace(&mut self.w, WeightVector::zero(0));
        let (mut highest_before, mut lowest_before) = (f64::INFINITY, f64::NEG_INFINITY);
        for _ in 0..SWEEPS_PER_ROUND {
            rng.shuffle(active);
            let (mut highest, mut lowest) = (f64::NEG_INFINITY, f64::INFINITY);
            active.retain(|&i| {
                let (value, upper) = (self.dual_coef[i], self.upper_bound(i));
                let gradient = self.margin(&w, i) - 1.0 + self.diagonal(i) * value;
                let projected = if value == 0.0 {
                    if gradient > highest_before {
                        return false;
                    }
                    gradient.min(0.0)
                } else if value == upper {
                    if gradient < lowest_before {
                        return false;
                    }
                    gradient.max(0.0)
                } else {
                    gradient
                };
                highest = highest.max(projected);
                lowest = lowest.min(projected);
                if projected != 0.0 {
                    let curvature = self.problem.squared_norms[i] + self.diagonal(i);
                    let new_value = (value - gradient / curvature).clamp(0.0, upper);
                    self.dual_coef[i] = new_value;
                    self.add_sample(&mut w, new_value - value, i);
                }
                true
            });
            highest_before = if highest > 0.0 { highest } else { f64::INFINITY };
            lowest_before = if lowest < 0.0 { lowest } else { f64::NEG_INFINITY };
        }
        self.w = w;
    }

    /// Derivative of the dual objective with respect to each coefficient, `[N]`, at the current weights.
    fn gradient(&self) -> Vec<f64> {
        let derivative = |(i, value): (usize, &f64)| self.margin(&self.w, i) - 1.0 + self.diagonal(i) * value;
        self.dual_coef.iter().enumerate().map(derivative).collect()
    }

    /// Recomputes the weights from the dual coefficients, so that rounding errors do not accumulate.
    fn recompute_weights(&mut self) {
        let samples: Vec<usize> = (0..self.dual_coef.len()).collect();
        self.w = self.weighted_sum(&samples, &self.dual_coef);
    }

    /// Recomputes the weights and evaluates all samples: objective, duality gap, and the derivative of the
    /// dual objective with respect to each coefficient, `[N]`.
    fn evaluate(&mut self) -> (Progress, Vec<f64>) {
        self.recompute_weights();
        let gradient = self.gradient();
        let half_norm = 0.5 * self.squared_norm(&self.w);
        let (mut primal, mut dual) = (half_norm, -half_norm);
        for (i, (&value, derivative)) in self.dual_coef.iter().zip(&gradient).enumerate() {
            let slack = (self.diagonal(i) * value - derivative).max(0.0);
            primal += self.cost(i)
                * match self.problem.loss {
                    SvmLoss::SquaredHinge => slack * slack,
                    SvmLoss::Hinge => slack,
                };
            dual += value - 0.5 * self.diagonal(i) * value * value;
        }
        (Progress { primal, gap: primal - dual }, gradient)
    }

    /// Samples whose coefficient is between its bounds, or at a bound but would leave it at this `gradient`
    /// `[N]`: Newton steps change these.
    fn free_samples(&self, gradient: &[f64]) -> Vec<usize> {
        let free = |&i: &usize| is_free(self.dual_coef[i], self.upper_bound(i), gradient[i]);
        (0..gradient.len()).filter(free).collect()
    }

    /// Samples that the next sweeps visit: the free ones, and those at a bound with a gradient no larger than
    /// the largest of a free one. The others are evaluated again each round.
    fn unshrunk_samples(&self, gradient: &[f64]) -> Vec<usize> {
        let largest = self.free_samples(gradient).iter().map(|&i| gradient[i].abs()).fold(0.0, f64::max);
        (0..gradient.len())
            .filter(|&i| {
                let value = self.dual_coef[i];
                (value > 0.0 || gradient[i] <= largest)
                    && (value < self.upper_bound(i) || gradient[i] >= -largest)
            })
            .collect()
    }
}
