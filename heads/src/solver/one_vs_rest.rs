//! One-vs-rest support vector machines.

use rayon::prelude::*;

use super::dual_coordinate_descent::{
    self, BinarySvmProblem, BinarySvmSolution, MarginLoss, Progress, SvmStopping,
};
use crate::data::FeatureMatrix;

/// One binary problem per class: `min ½ |w|² + Σ C_i loss(y_i w·x_i)`, where `x_i` includes a constant
/// feature for the intercept and `y_i` is 1 for the samples of the class. With two classes there is one
/// problem, that of the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneVsRest<'a> {
    /// `[N, F]`
    pub(crate) features: FeatureMatrix<'a>,
    /// `|x_i|²` including the constant feature, `[N]`.
    pub(crate) squared_norms: &'a [f64],
    /// Value of the constant feature.
    pub(crate) intercept_scaling: f64,
    /// The class of each sample, `[N]`.
    pub(crate) labels: &'a [u32],
    /// `C`, the weight of the losses relative to `½ |w|²`.
    pub(crate) c: f64,
    /// Factor of `C` for the samples of each class, `[classes]`; in the problem of another class it applies
    /// only if there are just two classes.
    pub(crate) class_weights: &'a [f64],
    /// The loss of a sample as a function of its margin `y_i w·x_i`.
    pub(crate) loss: MarginLoss,
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

impl OneVsRest<'_> {
    /// The positive class of each binary problem, in the order of the solution. With two classes there is one
    /// problem, that of class 1.
    pub(crate) fn positive_classes(&self) -> std::ops::Range<usize> {
        let classes = self.class_weights.len();
        if classes == 2 { 1..2 } else { 0..classes }
    }

    /// Solves the `K` binary SVM problems, one per class against the rest, in parallel, optionally starting
    /// from dual coefficients `[K, N]`, and joins their solutions. Calls `on_done` after each problem, for
    /// progress.
    pub(crate) fn solve(
        &self,
        initial_dual_coef: Option<&[f64]>,
        stopping: SvmStopping,
        on_done: impl Fn() + Sync,
    ) -> SvmSolution {
        let samples = self.labels.len();
        let solve = |(index, class): (usize, usize)| {
            let positive: Vec<bool> = self.labels.iter().map(|&label| label as usize == class).collect();
            let problem = BinarySvmProblem {
                features: self.features,
                squared_norms: self.squared_norms,
                intercept_scaling: self.intercept_scaling,
                positive: &positive,
                cost: self.cost(class),
                loss: self.loss,
            };
            let initial_dual_coef =
                initial_dual_coef.map(|coef| &coef[index * samples..(index + 1) * samples]);
            // Each problem visits the samples in another order.
            let [seed, key] = stopping.seed;
            let stopping = SvmStopping { seed: [seed, key + class as u64], ..stopping };
            let solution = dual_coordinate_descent::solve(problem, initial_dual_coef, stopping);
            on_done();
            solution
        };
        let problems: Vec<(usize, usize)> = self.positive_classes().enumerate().collect();
        // One problem per task: their run times differ.
        let solutions: Vec<BinarySvmSolution> = problems.into_par_iter().with_max_len(1).map(solve).collect();
        SvmSolution {
            weight: solutions.iter().flat_map(|s| s.w.weight.iter().copied()).collect(),
            constant_weights: solutions.iter().map(|s| s.w.constant_weight).collect(),
            dual_coef: solutions.iter().flat_map(|s| s.dual_coef.iter().copied()).collect(),
            outcomes: solutions.into_iter().map(|s| (s.progress, s.converged)).collect(),
        }
    }

    /// The weights `C_i` of the losses in the binary problem of `class`: first that of the negative samples
    /// (the rest), then that of the positive ones (the class). As in scikit-learn, the class weight of the
    /// rest counts only if the rest is a single class.
    fn cost(&self, class: usize) -> [f64; 2] {
        let is_binary = self.class_weights.len() == 2;
        let rest_weight = if is_binary { self.class_weights[1 - class] } else { 1.0 };
        [self.c * rest_weight, self.c * self.class_weights[class]]
    }

    /// Converts an earlier head to dual coefficients `[K, N]`, for a warm start of [`solve`](Self::solve):
    /// those that the weights of the head would have if they were optimal. `scores` `[N, K]` are the head's
    /// outputs `w·x + b` for each sample. For the hinge the scores do not determine the dual coefficients of
    /// samples exactly at their margin, which become 0.
    pub(crate) fn dual_coef_from_scores(&self, scores: &[f64]) -> Vec<f64> {
        let positive_classes = self.positive_classes();
        let problem_coef = |(index, class): (usize, usize)| {
            let cost = self.cost(class);
            let rows = scores.chunks_exact(positive_classes.len()).zip(self.labels);
            rows.map(move |(scores, &label)| {
                let positive = label as usize == class;
                let slack = 1.0 - if positive { scores[index] } else { -scores[index] };
                cost[usize::from(positive)]
                    * match self.loss {
                        MarginLoss::SquaredHinge => 2.0 * slack.max(0.0),
                        MarginLoss::Hinge => f64::from(u8::from(slack > 0.0)),
                    }
            })
        };
        positive_classes.clone().enumerate().flat_map(problem_coef).collect()
    }
}
