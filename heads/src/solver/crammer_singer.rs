//! One support vector machine for all classes at once.
//!
//! The objective is Crammer and Singer's (*On the algorithmic implementation of multiclass kernel-based vector machines*,
//! JMLR 2001), the solver the sequential dual method with shrinking (Keerthi, Sundararajan, Chang, Hsieh and Lin, *A
//! sequential dual method for large scale multi-class linear SVMs*, KDD 2008), which LIBLINEAR runs: the multipliers of
//! one sample, a value a class, are brought to their optimum together, sample after sample.

#[cfg(test)]
mod tests;

use rayon::prelude::*;

use super::dual_coordinate_descent::{Progress, Stopping};
use crate::data::Features;
use crate::product::{PackedWeights, transposed};
use crate::random::Keyed;
use crate::vector::Vectors;

/// Sweeps between two looks at the whole problem.
const SWEEPS: u64 = 10;

/// Samples that a thread looks at at a time.
const BLOCK: usize = 64;

/// `min ½ Σ_m |w_m|² + Σ_i C_i max_m ([m ≠ y_i] + w_m·x_i - w_{y_i}·x_i)`, where `x_i` has one more, constant feature for the
/// intercepts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Problem<'a> {
    /// `[N, F]`
    pub(crate) features: Features<'a>,
    /// `|x_i|²` with the constant feature, `[N]`.
    pub(crate) squared_norms: &'a [f64],
    /// The constant feature.
    pub(crate) constant: f64,
    /// `y_i`, `[N]`.
    pub(crate) labels: &'a [u32],
    /// `C_i` of the samples of each class, `[C]`.
    pub(crate) cost: &'a [f64],
}

/// What [`solve`] found.
#[derive(Clone, Debug)]
pub(crate) struct Solution {
    /// Weights of the features, `[C, F]`.
    pub(crate) weight: Vec<f64>,
    /// Weights of the constant feature, `[C]`.
    pub(crate) constant: Vec<f64>,
    /// Those of the dual, `[N, C]`: `w_m = Σ α_im x_i`.
    pub(crate) multipliers: Vec<f64>,
    /// A record per round.
    pub(crate) progress: Vec<Progress>,
    /// Whether the gap came below the tolerance.
    pub(crate) converged: bool,
}

/// Solves the problem, from a guess of the multipliers if there is one.
pub(crate) fn solve(problem: Problem<'_>, guess: Option<&[f64]>, stopping: Stopping) -> Solution {
    let mut state = State::new(problem);
    let mut progress = Vec::new();
    let mut converged = false;
    let started = guess.is_some_and(|guess| state.start(guess));
    for round in 0..stopping.rounds {
        if round > 0 || !started {
            state.sweep(Keyed::new(&[stopping.seed[0], stopping.seed[1], round]));
        }
        let look = state.look();
        progress.push(look);
        if look.gap <= stopping.tolerance * look.primal {
            converged = true;
            break;
        }
    }
    let State { weight, constant, multipliers, .. } = state;
    Solution { weight, constant, multipliers, progress, converged }
}

struct State<'a> {
    problem: Problem<'a>,
    vectors: Vectors,
    multipliers: Vec<f64>,
    weight: Vec<f64>,
    constant: Vec<f64>,
    /// The classes of each sample whose multipliers may move, `[N]`; fewer than two where none may.
    moving: Vec<Vec<u32>>,
}

/// A class of a sample whose multiplier may move.
#[derive(Clone, Copy)]
struct Moving {
    class: u32,
    /// Derivative of the dual by the multiplier.
    gradient: f64,
    /// The multiplier.
    value: f64,
    /// Its upper bound: `C_i` for the sample's own class, 0 for another.
    upper: f64,
}

impl<'a> State<'a> {
    fn new(problem: Problem<'a>) -> Self {
        let (samples, classes) = (problem.features.len(), problem.cost.len());
        Self {
            problem,
            vectors: Vectors::new(),
            multipliers: vec![0.0; samples * classes],
            weight: vec![0.0; classes * problem.features.width()],
            constant: vec![0.0; classes],
            moving: vec![(0..classes as u32).collect(); samples],
        }
    }

    /// Starts from the multiple of `guess` at which the dual is lowest among those within the bounds; whether that is other
    /// than zero. So no guess is worse than none.
    fn start(&mut self, guess: &[f64]) -> bool {
        let classes = self.problem.cost.len();
        let (mut room, mut linear) = (f64::INFINITY, 0.0);
        for (values, &label) in guess.chunks_exact(classes).zip(self.problem.labels) {
            let own = values[label as usize];
            linear += own;
            if own > 0.0 {
                room = room.min(self.problem.cost[label as usize] / own);
            }
        }
        self.multipliers = guess.to_vec();
        self.combine();
        let multiple = (linear / self.squared_norm()).min(room);
        let useful = multiple > 0.0 && multiple.is_finite();
        let multiple = if useful { multiple } else { 0.0 };
        for value in self.multipliers.iter_mut().chain(&mut self.weight).chain(&mut self.constant) {
            *value *= multiple;
        }
        useful
    }

    /// The weights of the multipliers, computed anew, so that rounding does not pile up.
    fn combine(&mut self) {
        self.weight = transposed(&self.multipliers, self.problem.features);
        let mut sums = vec![0.0; self.constant.len()];
        for values in self.multipliers.chunks_exact(sums.len()) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
        }
        self.constant = sums.into_iter().map(|sum| sum * self.problem.constant).collect();
    }

    fn squared_norm(&self) -> f64 {
        self.vectors.dot(&self.weight, &self.weight) + self.vectors.dot(&self.constant, &self.constant)
    }

    fn sweep(&mut self, mut random: Keyed) {
        let mut active: Vec<usize> = (0..self.moving.len()).filter(|&i| self.moving[i].len() > 1).collect();
        let mut row = vec![0.0; self.problem.features.width()];
        for _ in 0..SWEEPS {
            random.shuffle(&mut active);
            active.retain(|&i| self.visit(i, &mut row));
        }
    }

    /// Brings the multipliers of sample `i` to their optimum, the others as they are; whether any may still move. `row` is
    /// room for its features.
    fn visit(&mut self, i: usize, row: &mut [f64]) -> bool {
        let (width, classes) = (self.problem.features.width(), self.problem.cost.len());
        for (value, &x) in row.iter_mut().zip(self.problem.features.row(i)) {
            *value = f64::from(x);
        }
        let label = self.problem.labels[i];
        let cost = self.problem.cost[label as usize];
        let mut moving: Vec<Moving> = self.moving[i]
            .iter()
            .map(|&class| {
                let m = class as usize;
                let score = self.vectors.dot(&self.weight[m * width..(m + 1) * width], row)
                    + self.constant[m] * self.problem.constant;
                Moving::new(class, label, score, self.multipliers[i * classes + m], cost)
            })
            .collect();
        let violation = settle(&mut moving);
        self.moving[i].clear();
        self.moving[i].extend(moving.iter().map(|m| m.class));
        if moving.len() < 2 {
            return false;
        }
        if violation > 0.0 {
            let curvature = self.problem.squared_norms[i];
            for (moving, value) in moving.iter().zip(optimum(&moving, curvature, cost)) {
                let (m, change) = (moving.class as usize, value - moving.value);
                if change != 0.0 {
                    self.multipliers[i * classes + m] = value;
                    self.vectors.add_scaled(&mut self.weight[m * width..(m + 1) * width], change, row);
                    self.constant[m] += change * self.problem.constant;
                }
            }
        }
        true
    }

    /// Looks at every sample: how good the weights are, and which multipliers may move.
    fn look(&mut self) -> Progress {
        self.combine();
        let Problem { features, labels, cost, constant, .. } = self.problem;
        let classes = cost.len();
        let packed = PackedWeights::new(&self.weight, features.width());
        let offsets: Vec<f64> = self.constant.iter().map(|w| w * constant).collect();
        let blocks = features.as_slice().par_chunks(BLOCK * features.width());
        let losses: Vec<f64> = blocks
            .zip(labels.par_chunks(BLOCK))
            .zip(self.multipliers.par_chunks(BLOCK * classes))
            .zip(self.moving.par_chunks_mut(BLOCK))
            .map(|(((rows, labels), multipliers), all_moving)| {
                let mut scores = vec![0.0; labels.len() * classes];
                packed.times(rows, &mut scores);
                let rows = scores.chunks_exact_mut(classes).zip(multipliers.chunks_exact(classes));
                let mut loss = 0.0;
                for (((scores, values), &label), out) in rows.zip(labels).zip(all_moving) {
                    scores.iter_mut().zip(&offsets).for_each(|(score, offset)| *score += offset);
                    let cost = cost[label as usize];
                    let mut moving: Vec<Moving> = (0..classes)
                        .map(|m| Moving::new(m as u32, label, scores[m], values[m], cost))
                        .collect();
                    let largest = moving.iter().map(|m| m.gradient).fold(f64::NEG_INFINITY, f64::max);
                    loss += cost * (largest - scores[label as usize]);
                    settle(&mut moving);
                    out.clear();
                    out.extend(moving.iter().map(|m| m.class));
                }
                loss
            })
            .collect();
        let half_norm = 0.5 * self.squared_norm();
        let own = self.multipliers.chunks_exact(classes).zip(labels).map(|(values, &l)| values[l as usize]);
        let (primal, dual) = (half_norm + losses.iter().sum::<f64>(), own.sum::<f64>() - half_norm);
        Progress { primal, gap: primal - dual }
    }
}

impl Moving {
    fn new(class: u32, label: u32, score: f64, value: f64, cost: f64) -> Self {
        let own = class == label;
        Self {
            class,
            gradient: score + f64::from(u8::from(!own)),
            value,
            upper: if own { cost } else { 0.0 },
        }
    }
}

/// Drops the classes that are at their bound and would stay there, and gives the violation of the optimum among the others:
/// by how much the largest derivative exceeds the smallest one of a multiplier that may grow.
fn settle(moving: &mut Vec<Moving>) -> f64 {
    let growing = moving.iter().filter(|m| m.value < m.upper).map(|m| m.gradient);
    let smallest = growing.fold(f64::INFINITY, f64::min);
    moving.retain(|m| m.value < m.upper || m.gradient >= smallest);
    moving.iter().map(|m| m.gradient).fold(f64::NEG_INFINITY, f64::max) - smallest
}

/// The minimum of `Σ ½ A α_m² + B_m α_m` within the bounds, the sum of all multipliers of the sample being 0, where `A` is
/// `curvature` and `B` what makes the gradient that of `moving`: algorithm 3.1 of the paper on the sequential dual method.
fn optimum(moving: &[Moving], curvature: f64, cost: f64) -> Vec<f64> {
    let linear = |m: &Moving| m.gradient - curvature * m.value;
    let mut reached: Vec<f64> = moving.iter().map(|m| linear(m) + curvature * m.upper).collect();
    reached.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut sum = reached[0] - curvature * cost;
    let mut count = 1;
    while count < reached.len() && sum < count as f64 * reached[count] {
        sum += reached[count];
        count += 1;
    }
    let level = sum / count as f64;
    moving.iter().map(|m| ((level - linear(m)) / curvature).min(m.upper)).collect()
}

/// Multipliers `[N, C]` for weights with these `scores` `[N, C]`: a sample that costs something has its whole `C_i` on its own
/// class and on the one that costs most, as at the optimum where that one is alone.
pub(crate) fn multipliers_of(scores: &[f64], labels: &[u32], cost: &[f64]) -> Vec<f64> {
    let mut multipliers = vec![0.0; scores.len()];
    let rows = scores.chunks_exact(cost.len()).zip(multipliers.chunks_exact_mut(cost.len()));
    for ((scores, values), &label) in rows.zip(labels) {
        let own = label as usize;
        let reached = |m: usize| scores[m] + f64::from(u8::from(m != own));
        let worst = (0..cost.len()).fold(own, |worst, m| if reached(m) > reached(worst) { m } else { worst });
        values[own] += cost[own];
        values[worst] -= cost[own];
    }
    multipliers
}
