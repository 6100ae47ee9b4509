//! The SVM problem of `svm`: prepares the samples, loads warm starts, runs the solver, and converts its
//! weights.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::{MultiClass, SvmConfig, SvmLoss};
use crate::affine::Affine;
use crate::data::TrainingSet;
use crate::error::HeadError;
use crate::gemm::PackedWeights;
use crate::solver::crammer_singer;
use crate::solver::dual_coordinate_descent::{MarginLoss, Progress, SvmStopping};
use crate::solver::gradient::check_warm_start;
use crate::solver::one_vs_rest::{OneVsRest, SvmSolution};
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
            MultiClass::Ovr => {
                let problem = self.one_vs_rest(c);
                let (done, total) = (AtomicU64::new(0), problem.positive_classes().len() as u64);
                problem.solve(initial_dual_coef, stopping, || {
                    on_done(done.fetch_add(1, Ordering::Relaxed) + 1, total);
                })
            }
            MultiClass::CrammerSinger => {
                let cost: Vec<f64> = self.class_weights.iter().map(|weight| c * weight).collect();
                let problem = crammer_singer::CrammerSingerProblem {
                    features: self.prepared.features(),
                    squared_norms: &self.squared_norms,
                    intercept_scaling: self.config.intercept_scaling,
                    labels: self.labels,
                    cost: &cost,
                };
                let solution = crammer_singer::solve(problem, initial_dual_coef, stopping);
                on_done(1, 1);
                SvmSolution {
                    weight: solution.weight,
                    constant_weights: solution.constant_weights,
                    dual_coef: solution.dual_coef,
                    outcomes: vec![(solution.progress, solution.converged)],
                }
            }
        }
    }

    /// The input of the solver for `multi_class = "ovr"` with the regularization `c`: one binary problem per
    /// class, against the rest.
    fn one_vs_rest(&self, c: f64) -> OneVsRest<'_> {
        OneVsRest {
            features: self.prepared.features(),
            squared_norms: &self.squared_norms,
            intercept_scaling: self.config.intercept_scaling,
            labels: self.labels,
            c,
            class_weights: &self.class_weights,
            loss: match self.config.loss {
                SvmLoss::SquaredHinge => MarginLoss::SquaredHinge,
                SvmLoss::Hinge => MarginLoss::Hinge,
            },
        }
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
            MultiClass::Ovr => self.one_vs_rest(c).positive_classes(),
            MultiClass::CrammerSinger => 0..classes,
        };
        let width = self.prepared.features().width();
        let scores = self.scores(&weight[positive_classes.start * width..], &bias[positive_classes.start..]);
        Ok(match self.config.multi_class {
            MultiClass::Ovr => self.one_vs_rest(c).dual_coef_from_scores(&scores),
            MultiClass::CrammerSinger => {
                let cost: Vec<f64> = self.class_weights.iter().map(|weight| c * weight).collect();
                crammer_singer::dual_coef_from_scores(&scores, self.labels, &cost)
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
