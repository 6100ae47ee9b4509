//! The SVM problem of `svm`: prepares the samples, loads warm starts, runs the solver, and converts its
//! weights.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::{MultiClass, SvmConfig};
use crate::affine::Affine;
use crate::data::TrainingSet;
use crate::error::HeadError;
use crate::gemm::PackedWeights;
use crate::solver::crammer_singer;
use crate::solver::dual_coordinate_descent::{
    self, BinarySvmProblem, BinarySvmSolution, Progress, SvmLoss, SvmSolution, SvmStopping,
};
use crate::solver::gradient::check_warm_start;
use crate::standardize::PreparedFeatures;
use crate::tensors::Tensors;
use crate::vector::VectorOps;

/// Rows per parallel task.
const ROWS_PER_TASK: usize = 64;

/// The training samples of `svm`, prepared for the solver: fits with any `C` share it, also those on a fold
/// of a cross-validation.
pub(super) struct SvmProblem<'a> {
    config: &'a SvmConfig,
    labels: &'a [u32],
    prepared: PreparedFeatures<'a>,
    /// `|x_i|²` including the constant feature, `[N]`.
    squared_norms: Vec<f64>,
    /// The weight in the loss of a sample of each class, `[classes]`.
    class_weights: Vec<f64>,
}

impl<'a> SvmProblem<'a> {
    /// Prepares the samples of `data` for fits with any `C`: standardizes the features if `config` says so,
    /// and computes class weights and squared norms.
    pub(super) fn new(config: &'a SvmConfig, data: &TrainingSet<'a>) -> Self {
        let prepared = PreparedFeatures::new(data.features(), config.standardize);
        // `constant` is the value of the constant feature, whose weight gives the intercept.
        let (vectors, constant) = (VectorOps::new(), config.intercept_scaling);
        let features = prepared.features();
        let rows = features.as_slice().par_chunks_exact(features.width());
        let squared_norms = rows.map(|row| vectors.dot(row, row) + constant * constant).collect();
        let class_weights = data.class_weights(config.class_weight);
        Self { config, labels: data.labels(), prepared, squared_norms, class_weights }
    }

    /// Fits the SVM with the regularization `c`, until the duality gap is at most `tolerance` times the
    /// objective. `initial_dual_coef`, if given, are the dual coefficients to start from, in the order of
    /// [`SvmSolution`]: of a solution with another `C`, or of a warm start. `on_done` is called for progress,
    /// with the number of binary problems that are solved and their total.
    pub(super) fn solve(
        &self,
        c: f64,
        initial_dual_coef: Option<&[f64]>,
        tolerance: f64,
        on_done: &(dyn Fn(u64, u64) + Sync),
    ) -> SvmSolution {
        let stopping = SvmStopping { tolerance, rounds: self.config.max_iter, seed: [self.config.seed, 0] };
        match self.config.multi_class {
            MultiClass::Ovr => self.solve_one_vs_rest(c, initial_dual_coef, stopping, on_done),
            MultiClass::CrammerSinger => {
                let cost = self.class_costs(c);
                let problem = crammer_singer::CrammerSingerProblem {
                    features: self.prepared.features(),
                    squared_norms: &self.squared_norms,
                    intercept_scaling: self.config.intercept_scaling,
                    labels: self.labels,
                    cost: &cost,
                };
                let solution = crammer_singer::solve(problem, initial_dual_coef, stopping);
                on_done(1, 1);
                solution
            }
        }
    }

    /// The positive class of each binary problem of `multi_class = "ovr"`, in the order of the solution. With
    /// two classes there is one problem, that of class 1.
    fn positive_classes(&self) -> Range<usize> {
        let classes = self.class_weights.len();
        if classes == 2 { 1..2 } else { 0..classes }
    }

    /// Solves the `K` binary SVM problems, one per class against the rest, in parallel, optionally starting
    /// from dual coefficients `[K, N]`, and joins their solutions: `min ½ |w|² + Σ C_i loss(y_i w·x_i)`,
    /// where `x_i` includes a constant feature for the intercept and `y_i` is 1 for the samples of the class.
    /// Calls `on_done` after each problem.
    fn solve_one_vs_rest(
        &self,
        c: f64,
        initial_dual_coef: Option<&[f64]>,
        stopping: SvmStopping,
        on_done: &(dyn Fn(u64, u64) + Sync),
    ) -> SvmSolution {
        let samples = self.labels.len();
        let (done, total) = (AtomicU64::new(0), self.positive_classes().len() as u64);
        let solve = |(index, class): (usize, usize)| {
            let positive: Vec<bool> = self.labels.iter().map(|&label| label as usize == class).collect();
            let problem = BinarySvmProblem {
                features: self.prepared.features(),
                squared_norms: &self.squared_norms,
                intercept_scaling: self.config.intercept_scaling,
                positive: &positive,
                cost: self.binary_costs(c, class),
                loss: self.config.loss,
            };
            let initial_dual_coef =
                initial_dual_coef.map(|coef| &coef[index * samples..(index + 1) * samples]);
            // Each problem visits the samples in another order.
            let [seed, key] = stopping.seed;
            let stopping = SvmStopping { seed: [seed, key + class as u64], ..stopping };
            let solution = dual_coordinate_descent::solve(problem, initial_dual_coef, stopping);
            on_done(done.fetch_add(1, Ordering::Relaxed) + 1, total);
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
    fn binary_costs(&self, c: f64, class: usize) -> [f64; 2] {
        let is_binary = self.class_weights.len() == 2;
        let rest_weight = if is_binary { self.class_weights[1 - class] } else { 1.0 };
        [c * rest_weight, c * self.class_weights[class]]
    }

    /// Converts an earlier head to dual coefficients `[K, N]`, for a warm start of the binary problems: those
    /// that the weights of the head would have if they were optimal. `scores` `[N, K]` are the head's outputs
    /// `w·x + b` for each sample. For the hinge the scores do not determine the dual coefficients of samples
    /// exactly at their margin, which become 0.
    fn one_vs_rest_dual_coef(&self, c: f64, scores: &[f64]) -> Vec<f64> {
        let positive_classes = self.positive_classes();
        let problem_coef = |(index, class): (usize, usize)| {
            let cost = self.binary_costs(c, class);
            let rows = scores.chunks_exact(positive_classes.len()).zip(self.labels);
            rows.map(move |(scores, &label)| {
                let positive = label as usize == class;
                let slack = 1.0 - if positive { scores[index] } else { -scores[index] };
                cost[usize::from(positive)]
                    * match self.config.loss {
                        SvmLoss::SquaredHinge => 2.0 * slack.max(0.0),
                        SvmLoss::Hinge => f64::from(u8::from(slack > 0.0)),
                    }
            })
        };
        positive_classes.clone().enumerate().flat_map(problem_coef).collect()
    }

    /// `C_i` of the samples of each class with the regularization `c`, `[classes]`.
    fn class_costs(&self, c: f64) -> Vec<f64> {
        self.class_weights.iter().map(|weight| c * weight).collect()
    }

    /// Converts the tensors of an earlier head to dual coefficients, from which [`solve`](Self::solve) can
    /// start with the regularization `c` (warm start): those that its weights would have if they were
    /// optimal. Classes that the earlier head lacks start with zero weights.
    ///
    /// # Errors
    /// When the tensors are not those of an `svm`, or have a different width or more classes.
    pub(super) fn warm_start_dual_coef(&self, warm_start: &Tensors, c: f64) -> Result<Vec<f64>, HeadError> {
        let (weight, bias) = self.load_warm_start(warm_start)?;
        let classes = self.class_weights.len();
        let positive_classes = match self.config.multi_class {
            MultiClass::Ovr => self.positive_classes(),
            MultiClass::CrammerSinger => 0..classes,
        };
        let width = self.prepared.features().width();
        let scores = self.scores(&weight[positive_classes.start * width..], &bias[positive_classes.start..]);
        Ok(match self.config.multi_class {
            MultiClass::Ovr => self.one_vs_rest_dual_coef(c, &scores),
            MultiClass::CrammerSinger => {
                crammer_singer::dual_coef_from_scores(&scores, self.labels, &self.class_costs(c))
            }
        })
    }

    /// Reads an earlier head; returns its weights `[classes, F]` and, second, its intercepts `[classes]`.
    /// They are converted to take the prepared features, and are 0 for classes that the earlier head lacks.
    fn load_warm_start(&self, warm_start: &Tensors) -> Result<(Vec<f64>, Vec<f64>), HeadError> {
        let (width, classes) = (self.prepared.features().width(), self.class_weights.len());
        let head = Affine::load(warm_start, "")?;
        check_warm_start(&head, width, classes)?;
        let (mut weight, mut bias) = head.with_classes(classes).to_f64();
        self.prepared.standardize_weights(&mut weight, &mut bias);
        Ok((weight, bias))
    }

    /// The scores `w·x + b` of all training samples, `[N, K]`, for `K` weight vectors `[K, F]` and intercepts
    /// `[K]`. In parallel; a warm start gets its dual coefficients from them.
    fn scores(&self, weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let features = self.prepared.features();
        let packed = PackedWeights::pack(weight, features.width());
        let mut scores = vec![0.0; features.len() * bias.len()];
        let blocks = features.as_slice().par_chunks(ROWS_PER_TASK * features.width());
        scores.par_chunks_mut(ROWS_PER_TASK * bias.len()).zip(blocks).for_each(|(scores, rows)| {
            packed.multiply(rows, scores);
            for scores in scores.chunks_exact_mut(bias.len()) {
                scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
            }
        });
        scores
    }

    /// Converts a solution of the solver to the head that is saved, with weights and intercepts for all
    /// classes that take the raw features.
    pub(super) fn to_affine(&self, solution: &SvmSolution) -> Result<Affine, HeadError> {
        let width = self.prepared.features().width();
        let mut weight = solution.weight.clone();
        let mut bias: Vec<f64> =
            solution.constant_weights.iter().map(|w| w * self.config.intercept_scaling).collect();
        if bias.len() < self.class_weights.len() {
            // Two classes share one hyperplane: class 0 gets its negative.
            weight = weight.iter().map(|w| -w).chain(weight.iter().copied()).collect();
            bias = vec![-bias[0], bias[0]];
        }
        self.prepared.unstandardize_weights(&mut weight, &mut bias);
        Affine::from_f64(&weight, &bias, width)
    }

    /// Logs a warning for each binary problem (or the single one) whose duality gap did not reach the
    /// tolerance of the config.
    pub(super) fn warn_unless_converged(&self, solution: &SvmSolution) {
        let first_class = match self.config.multi_class {
            MultiClass::Ovr if self.class_weights.len() == 2 => 1,
            _ => 0,
        };
        for (class, (progress, converged)) in (first_class..).zip(&solution.outcomes) {
            let (false, Some(Progress { primal, gap })) = (*converged, progress.last()) else { continue };
            let suffix = match self.config.multi_class {
                MultiClass::Ovr => format!(" for class {class}"),
                MultiClass::CrammerSinger => String::new(),
            };
            tracing::warn!(
                "the head `svm` has not converged{suffix} and may be less accurate: the duality gap is \
                 {:.1e} of the objective, above `tol` = {:.1e} (rounds: {}); raise `max_iter`, lower `C`, or \
                 set `standardize = true`",
                gap / primal,
                self.config.tol,
                progress.len()
            );
        }
    }
}
