//! Multiclass support vector machine with one objective for all classes.
//!
//! The objective is Crammer and Singer's (*On the algorithmic implementation of multiclass kernel-based
//! vector machines*, JMLR 2001). The solver is the sequential dual method with shrinking (Keerthi,
//! Sundararajan, Chang, Hsieh and Lin, *A sequential dual method for large scale multi-class linear SVMs*,
//! KDD 2008), as in LIBLINEAR: sample after sample, the dual coefficients of one sample, one per class, are
//! optimized together.

#[cfg(test)]
mod tests;

use headstock_split::KeyedRng;
use rayon::prelude::*;

use super::dual_coordinate_descent::{Progress, SvmSolution, SvmStopping};
use crate::data::FeatureMatrix;
use crate::gemm::{PackedWeights, gemm_tn};
use crate::vector::VectorOps;

/// Sweeps between two evaluations of the whole problem.
const SWEEPS_PER_ROUND: u64 = 10;

/// Samples per parallel task.
const ROWS_PER_TASK: usize = 64;

/// `min ½ Σ_m |w_m|² + Σ_i C_i max_m ([m ≠ y_i] + w_m·x_i - w_{y_i}·x_i)`, where `x_i` includes a constant
/// feature for the intercepts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrammerSingerProblem<'a> {
    /// `[N, F]`
    pub(crate) features: FeatureMatrix<'a>,
    /// `|x_i|²` including the constant feature, `[N]`.
    pub(crate) squared_norms: &'a [f64],
    /// Value of the constant feature.
    pub(crate) intercept_scaling: f64,
    /// `y_i`, `[N]`.
    pub(crate) labels: &'a [u32],
    /// `C_i` of the samples of each class, `[C]`.
    pub(crate) cost: &'a [f64],
}

/// Solves the problem, optionally from initial dual coefficients `[N, C]`. A round is a few sweeps over the
/// samples and an evaluation of the duality gap.
pub(crate) fn solve(
    problem: CrammerSingerProblem<'_>,
    initial_dual_coef: Option<&[f64]>,
    stopping: SvmStopping,
) -> SvmSolution {
    let mut solver = CrammerSingerSolver::new(problem);
    let mut progress = Vec::new();
    let mut converged = false;
    let warm_started = initial_dual_coef.is_some_and(|dual_coef| solver.warm_start(dual_coef));
    for round in 0..stopping.rounds {
        if round > 0 || !warm_started {
            solver.sweep(KeyedRng::new(&[stopping.seed[0], stopping.seed[1], round]));
        }
        let status = solver.evaluate();
        progress.push(status);
        if status.gap <= stopping.tolerance * status.primal {
            converged = true;
            break;
        }
    }
    let CrammerSingerSolver { weight, constant_weights, dual_coef, .. } = solver;
    SvmSolution { weight, constant_weights, dual_coef, outcomes: vec![(progress, converged)] }
}

/// The problem and the current state of the solver.
struct CrammerSingerSolver<'a> {
    problem: CrammerSingerProblem<'a>,
    vectors: VectorOps,
    /// Dual coefficients `α`, `[N, C]`: `w_m = Σ α_im x_i`.
    dual_coef: Vec<f64>,
    /// Weights of the features, `[C, F]`.
    weight: Vec<f64>,
    /// Weights of the constant feature, `[C]`.
    constant_weights: Vec<f64>,
    /// The classes of each sample whose coefficients may change, `[N]`; fewer than two if none may.
    free_classes: Vec<Vec<u32>>,
}

/// A dual coefficient of a sample that may change.
#[derive(Clone, Copy)]
struct FreeCoef {
    class: u32,
    /// Derivative of the dual objective, which is minimized, with respect to the coefficient.
    gradient: f64,
    /// The coefficient.
    value: f64,
    /// Its upper bound: `C_i` for the sample's own class, 0 for the others.
    upper: f64,
}

impl<'a> CrammerSingerSolver<'a> {
    /// Starts from zero coefficients, all of which may change.
    fn new(problem: CrammerSingerProblem<'a>) -> Self {
        let (samples, classes) = (problem.features.len(), problem.cost.len());
        Self {
            problem,
            vectors: VectorOps::new(),
            dual_coef: vec![0.0; samples * classes],
            weight: vec![0.0; classes * problem.features.width()],
            constant_weights: vec![0.0; classes],
            free_classes: vec![(0..classes as u32).collect(); samples],
        }
    }

    /// Starts from the multiple of `initial_dual_coef` `[N, C]` within the bounds with the lowest dual
    /// objective, so that a warm start is never worse than a cold start. Returns whether that multiple
    /// differs from zero.
    fn warm_start(&mut self, initial_dual_coef: &[f64]) -> bool {
        let classes = self.problem.cost.len();
        let (mut max_multiple, mut linear) = (f64::INFINITY, 0.0);
        for (coefs, &label) in initial_dual_coef.chunks_exact(classes).zip(self.problem.labels) {
            let label_coef = coefs[label as usize];
            linear += label_coef;
            if label_coef > 0.0 {
                max_multiple = max_multiple.min(self.problem.cost[label as usize] / label_coef);
            }
        }
        self.dual_coef = initial_dual_coef.to_vec();
        self.recompute_weights();
        let multiple = (linear / self.squared_norm()).min(max_multiple);
        let is_usable = multiple > 0.0 && multiple.is_finite();
        let multiple = if is_usable { multiple } else { 0.0 };
        for value in self.dual_coef.iter_mut().chain(&mut self.weight).chain(&mut self.constant_weights) {
            *value *= multiple;
        }
        is_usable
    }

    /// Recomputes the weights from the dual coefficients, so that rounding errors do not accumulate.
    fn recompute_weights(&mut self) {
        self.weight = gemm_tn(&self.dual_coef, self.problem.features);
        let mut sums = vec![0.0; self.constant_weights.len()];
        for coefs in self.dual_coef.chunks_exact(sums.len()) {
            for (sum, coef) in sums.iter_mut().zip(coefs) {
                *sum += coef;
            }
        }
        self.constant_weights = sums.into_iter().map(|sum| sum * self.problem.intercept_scaling).collect();
    }

    /// `Σ_m |w_m|²`, including the weights of the constant feature.
    fn squared_norm(&self) -> f64 {
        self.vectors.dot(&self.weight, &self.weight)
            + self.vectors.dot(&self.constant_weights, &self.constant_weights)
    }

    /// Optimizes the coefficients of each sample that may change, a few times, in random orders.
    fn sweep(&mut self, mut rng: KeyedRng) {
        let mut active: Vec<usize> =
            (0..self.free_classes.len()).filter(|&i| self.free_classes[i].len() > 1).collect();
        let mut row = vec![0.0; self.problem.features.width()];
        for _ in 0..SWEEPS_PER_ROUND {
            rng.shuffle(&mut active);
            active.retain(|&i| self.update_sample(i, &mut row));
        }
    }

    /// Optimizes the coefficients of sample `i` while those of the other samples stay, and updates the
    /// weights; returns whether any may still change. `row` is scratch space for the features of the sample.
    fn update_sample(&mut self, i: usize, row: &mut [f64]) -> bool {
        let (width, classes) = (self.problem.features.width(), self.problem.cost.len());
        for (value, &x) in row.iter_mut().zip(self.problem.features.row(i)) {
            *value = f64::from(x);
        }
        let label = self.problem.labels[i];
        let cost = self.problem.cost[label as usize];
        let mut free: Vec<FreeCoef> = self.free_classes[i]
            .iter()
            .map(|&class| {
                let m = class as usize;
                let score = self.vectors.dot(&self.weight[m * width..(m + 1) * width], row)
                    + self.constant_weights[m] * self.problem.intercept_scaling;
                FreeCoef::new(class, label, score, self.dual_coef[i * classes + m], cost)
            })
            .collect();
        let violation = shrink(&mut free);
        self.free_classes[i].clear();
        self.free_classes[i].extend(free.iter().map(|coef| coef.class));
        if free.len() < 2 {
            return false;
        }
        if violation > 0.0 {
            let curvature = self.problem.squared_norms[i];
            for (coef, value) in free.iter().zip(solve_subproblem(&free, curvature, cost)) {
                let (m, change) = (coef.class as usize, value - coef.value);
                if change != 0.0 {
                    self.dual_coef[i * classes + m] = value;
                    self.vectors.add_scaled(&mut self.weight[m * width..(m + 1) * width], change, row);
                    self.constant_weights[m] += change * self.problem.intercept_scaling;
                }
            }
        }
        true
    }

    /// Evaluates all samples with recomputed weights: returns the objective and the duality gap, and updates
    /// which coefficients may change.
    fn evaluate(&mut self) -> Progress {
        self.recompute_weights();
        let CrammerSingerProblem { features, labels, cost, intercept_scaling, .. } = self.problem;
        let classes = cost.len();
        let packed = PackedWeights::pack(&self.weight, features.width());
        let offsets: Vec<f64> = self.constant_weights.iter().map(|w| w * intercept_scaling).collect();
        let blocks = features.as_slice().par_chunks(ROWS_PER_TASK * features.width());
        let losses: Vec<f64> = blocks
            .zip(labels.par_chunks(ROWS_PER_TASK))
            .zip(self.dual_coef.par_chunks(ROWS_PER_TASK * classes))
            .zip(self.free_classes.par_chunks_mut(ROWS_PER_TASK))
            .map(|(((rows, labels), dual_coef), block_free_classes)| {
                let mut scores = vec![0.0; labels.len() * classes];
                packed.multiply(rows, &mut scores);
                let rows = scores.chunks_exact_mut(classes).zip(dual_coef.chunks_exact(classes));
                let mut loss = 0.0;
                for (((scores, coefs), &label), free_classes) in rows.zip(labels).zip(block_free_classes) {
                    scores.iter_mut().zip(&offsets).for_each(|(score, offset)| *score += offset);
                    let cost = cost[label as usize];
                    let mut free: Vec<FreeCoef> = (0..classes)
                        .map(|m| FreeCoef::new(m as u32, label, scores[m], coefs[m], cost))
                        .collect();
                    let largest = free.iter().map(|coef| coef.gradient).fold(f64::NEG_INFINITY, f64::max);
                    loss += cost * (largest - scores[label as usize]);
                    shrink(&mut free);
                    free_classes.clear();
                    free_classes.extend(free.iter().map(|coef| coef.class));
                }
                loss
            })
            .collect();
        let half_norm = 0.5 * self.squared_norm();
        let label_coefs =
            self.dual_coef.chunks_exact(classes).zip(labels).map(|(coefs, &label)| coefs[label as usize]);
        let (primal, dual) = (half_norm + losses.iter().sum::<f64>(), label_coefs.sum::<f64>() - half_norm);
        Progress { primal, gap: primal - dual }
    }
}

impl FreeCoef {
    /// The coefficient of `class` of a sample with this `label` and `C_i`: `score` is `w·x_i` for the class,
    /// `value` the coefficient.
    fn new(class: u32, label: u32, score: f64, value: f64, cost: f64) -> Self {
        let is_label = class == label;
        Self {
            class,
            gradient: score + f64::from(u8::from(!is_label)),
            value,
            upper: if is_label { cost } else { 0.0 },
        }
    }
}

/// Removes the coefficients of a sample that are at their bound and would stay there. Returns by how much the
/// others violate optimality: the largest gradient minus the smallest one of a coefficient that may grow.
fn shrink(free: &mut Vec<FreeCoef>) -> f64 {
    let growable = free.iter().filter(|coef| coef.value < coef.upper).map(|coef| coef.gradient);
    let smallest = growable.fold(f64::INFINITY, f64::min);
    free.retain(|coef| coef.value < coef.upper || coef.gradient >= smallest);
    free.iter().map(|coef| coef.gradient).fold(f64::NEG_INFINITY, f64::max) - smallest
}

/// The new values of the `free` coefficients of a sample: the minimum of `Σ ½ A α_m² + B_m α_m` within the
/// bounds with coefficients that sum to 0, where `A` is `curvature` and `B` gives the gradients in `free`;
/// `cost` is `C_i` (algorithm 3.1 of the sequential dual method paper).
fn solve_subproblem(free: &[FreeCoef], curvature: f64, cost: f64) -> Vec<f64> {
    let linear = |coef: &FreeCoef| coef.gradient - curvature * coef.value;
    let mut breakpoints: Vec<f64> = free.iter().map(|coef| linear(coef) + curvature * coef.upper).collect();
    breakpoints.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut sum = breakpoints[0] - curvature * cost;
    let mut count = 1;
    while count < breakpoints.len() && sum < count as f64 * breakpoints[count] {
        sum += breakpoints[count];
        count += 1;
    }
    let threshold = sum / count as f64;
    free.iter().map(|coef| ((threshold - linear(coef)) / curvature).min(coef.upper)).collect()
}

/// Dual coefficients `[N, C]` for a warm start from weights with these `scores` `[N, C]`: a sample with a
/// positive loss has its whole `C_i` on its own class and on the class with the largest loss, as at the
/// optimum if that class is unique.
pub(crate) fn dual_coef_from_scores(scores: &[f64], labels: &[u32], cost: &[f64]) -> Vec<f64> {
    let mut dual_coef = vec![0.0; scores.len()];
    let rows = scores.chunks_exact(cost.len()).zip(dual_coef.chunks_exact_mut(cost.len()));
    for ((scores, coefs), &label) in rows.zip(labels) {
        let label = label as usize;
        let margin = |m: usize| scores[m] + f64::from(u8::from(m != label));
        let worst = (0..cost.len()).fold(label, |worst, m| if margin(m) > margin(worst) { m } else { worst });
        coefs[label] += cost[label];
        coefs[worst] -= cost[label];
    }
    dual_coef
}
