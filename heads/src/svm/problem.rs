//! The SVM problem of `svm`: prepares the samples, loads warm starts, runs the solver, and converts its
//! weights.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::{MultiClass, SvmConfig, SvmLoss};
use crate::affine::{Affine, BIAS, WEIGHT};
use crate::data::TrainingSet;
use crate::error::HeadError;
use crate::gemm::PackedWeights;
use crate::head::{Head, Tensors};
use crate::solver::crammer_singer;
use crate::solver::dual_coordinate_descent::{MarginLoss, Progress, SvmStopping};
use crate::solver::one_vs_rest::{OneVsRest, SvmSolution};
use crate::standardize::PreparedFeatures;
use crate::vector::VectorOps;

/// Rows per parallel task.
const ROWS_PER_TASK: usize = 64;

/// Samples prepared for fits with any `C`.
pub(super) struct SvmProblem<'a> {
    config: &'a SvmConfig,
    labels: &'a [u32],
    prepared: PreparedFeatures<'a>,
    /// `|x_i|²` including the constant feature, `[N]`.
    squared_norms: Vec<f64>,
    class_weights: Vec<f64>,
}

impl<'a> SvmProblem<'a> {
    pub(super) fn new(config: &'a SvmConfig, data: &TrainingSet<'a>) -> Self {
        let prepared = PreparedFeatures::new(data.features(), config.standardize);
        let (vectors, constant) = (VectorOps::new(), config.intercept_scaling);
        let features = prepared.features();
        let rows = features.as_slice().par_chunks_exact(features.width());
        let squared_norms = rows.map(|row| vectors.dot(row, row) + constant * constant).collect();
        let class_weights = data.class_weights(config.class_weight);
        Self { config, labels: data.labels(), prepared, squared_norms, class_weights }
    }

    /// Solves for this `C`, optionally from initial dual coefficients. `on_done` is called with the number of
    /// solved problems and their total.
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

    /// Initial dual coefficients from the tensors of an earlier fit: those that its weights would have at the
    /// optimum. New classes have zero weights.
    ///
    /// # Errors
    /// When it is not a head of this kind, or has another width or more classes.
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

    /// Weights `[C, F]` and intercepts `[C]` of the warm start, for the prepared features.
    fn load_warm_start(&self, warm_start: &Tensors) -> Result<(Vec<f64>, Vec<f64>), HeadError> {
        let (width, classes) = (self.prepared.features().width(), self.class_weights.len());
        let head = Affine::load(warm_start, "")?;
        if head.width() != width {
            return Err(HeadError::Width { expected: head.width(), found: width });
        }
        if head.classes() > classes {
            return Err(HeadError::Data(format!(
                "the warm-start head has {} classes, but the data has {classes}",
                head.classes()
            )));
        }
        let values = |name: &str, length: usize| -> Result<Vec<f64>, HeadError> {
            let values: Vec<f32> = warm_start[name].flatten_all()?.to_vec1()?;
            let mut values: Vec<f64> = values.into_iter().map(f64::from).collect();
            values.resize(length, 0.0);
            Ok(values)
        };
        let (mut weight, mut bias) = (values(WEIGHT, classes * width)?, values(BIAS, classes)?);
        self.prepared.standardize_weights(&mut weight, &mut bias);
        Ok((weight, bias))
    }

    /// `w·x + b` of all samples, `[N, K]`.
    fn scores(&self, weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let features = self.prepared.features();
        let packed = PackedWeights::new(weight, features.width());
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

    /// The affine head of a solution, for the raw features.
    pub(super) fn to_affine(&self, solution: &SvmSolution) -> Result<Affine, HeadError> {
        let width = self.prepared.features().width();
        let mut weight = solution.weight.clone();
        let mut bias: Vec<f64> =
            solution.constant_weights.iter().map(|w| w * self.config.intercept_scaling).collect();
        if bias.len() < self.class_weights.len() {
            weight = weight.iter().map(|w| -w).chain(weight.iter().copied()).collect();
            bias = vec![-bias[0], bias[0]];
        }
        self.prepared.unstandardize_weights(&mut weight, &mut bias);
        Affine::from_f64(&weight, &bias, width)
    }

    /// Logs a warning for each problem that did not converge.
    pub(super) fn warn_unless_converged(&self, solution: &SvmSolution) {
        let first = match self.config.multi_class {
            MultiClass::Ovr if self.class_weights.len() == 2 => 1,
            _ => 0,
        };
        for (class, (progress, converged)) in (first..).zip(&solution.outcomes) {
            let (false, Some(Progress { primal, gap })) = (*converged, progress.last()) else { continue };
            let suffix = match self.config.multi_class {
                MultiClass::Ovr => format!(" for class {class}"),
                MultiClass::CrammerSinger => String::new(),
            };
            tracing::warn!(
                "svm has not converged{suffix}: after {} rounds the duality gap is {:.1e} of the objective, above tol = {:.1e}; \
                 raise `max_iter`, lower `C`, or set `standardize = true`",
                progress.len(),
                gap / primal,
                self.config.tol
            );
        }
    }
}
