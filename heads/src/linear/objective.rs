//! The objective that L-BFGS minimizes for `linear`.

use super::{LinearConfig, Penalty, l2_factor};
use crate::affine::{ABSENT_CLASS_LOGIT, Affine};
use crate::data::TrainingSet;
use crate::error::HeadError;
use crate::head::{FitContext, Head, History};
use crate::solver::lbfgs::{self, InverseHessian, LbfgsStopping, Minimum};
use crate::solver::logistic::LogisticObjective;
use crate::solver::owlqn;
use crate::standardize::PreparedFeatures;

/// Gradient size down to which `f32` products are used; their error is a hundredth of it.
const F32_GRADIENT_LIMIT: f64 = 1e-5;

/// A function for the solvers that returns the objective at a point, its first argument, and writes the
/// gradient to the second.
type Evaluate<'a> = dyn Fn(&[f64], &mut [f64]) -> f64 + 'a;

/// The objective of logistic regression on a set of samples, for any regularization `C`. A *point* is the
/// vector of all weights and intercepts that the solver changes, in the order of [`LogisticObjective`].
/// Classes without samples are excluded: their free intercepts would go to minus infinity.
pub(super) struct LogisticProblem<'a> {
    config: &'a LinearConfig,
    prepared: &'a PreparedFeatures<'a>,
    logistic: LogisticObjective<'a>,
    /// Classes with samples, ascending.
    present: Vec<usize>,
    classes: usize,
    /// The sum of the sample weights, `Σ s_i`.
    weight_sum: f64,
}

impl<'a> LogisticProblem<'a> {
    /// Sets up the objective of logistic regression on the labels of `data` and their `prepared` features,
    /// for fits with any `C`. `class_weights` `[classes]` has the sample weight `s_i` of each class.
    pub(super) fn new(
        config: &'a LinearConfig,
        data: &TrainingSet<'_>,
        prepared: &'a PreparedFeatures<'a>,
        class_weights: &[f64],
    ) -> Self {
        let (present, labels) = data.present_classes();
        let weights: Vec<f64> = data.labels().iter().map(|&label| class_weights[label as usize]).collect();
        let logistic = LogisticObjective::new(prepared.features(), labels, &weights, present.len());
        Self {
            config,
            prepared,
            logistic,
            present,
            classes: data.classes(),
            weight_sum: weights.iter().sum(),
        }
    }

    /// The point with zero weights and intercepts, where the solver starts without a warm start.
    pub(super) fn zero_point(&self) -> Vec<f64> {
        vec![0.0; self.logistic.point_len()]
    }

    /// Converts the affine map of a warm start, which is for the raw features, into the point where the
    /// solver starts: weights and intercepts for the prepared features, of the classes with samples.
    pub(super) fn to_point(&self, map: &Affine) -> Vec<f64> {
        let (mut weight, mut bias) = map.to_f64();
        self.prepared.standardize_weights(&mut weight, &mut bias);
        let width = map.width();
        let rows = self.present.iter().flat_map(|&class| &weight[class * width..][..width]);
        self.logistic.pack(rows.copied().collect(), self.present.iter().map(|&class| bias[class]).collect())
    }

    /// Fits logistic regression with the regularization `c`; the solver starts from the point `start`.
    /// Returns the fitted affine map from raw features to logits and, second, the history: one row per
    /// iteration. Logs a warning if the solver does not converge.
    pub(super) fn fit(
        &self,
        c: f64,
        start: Vec<f64>,
        context: &FitContext<'_>,
    ) -> Result<(Affine, History), HeadError> {
        let iterations = self.config.max_iter;
        let minimum = self.minimize(c, start, &|done| (context.on_step)(done, iterations));
        if !minimum.converged {
            let gradient = minimum.progress.last().map_or(f64::NAN, |last| last.1);
            tracing::warn!(
                "the head `linear` has not converged and may be less accurate: the gradient is \
                 {gradient:.1e}, above `tol` = {:.1e} (iterations: {}); raise `max_iter`, or set \
                 `standardize = true`",
                self.config.tol,
                minimum.progress.len() - 1
            );
        }
        // `minimize` divides the objective by this.
        let scale = c * self.weight_sum;
        let row = |(i, (value, gradient)): (usize, &(f64, f64))| vec![i as f64, value * scale, *gradient];
        let rows = minimum.progress.iter().enumerate().map(row).collect();
        let history = History { columns: vec!["iteration", "objective", "gradient"], rows };
        Ok((self.to_affine(minimum.point)?, history))
    }

    /// Computes the loss by which cross-validation chooses `C`: fits with the regularization `c` from
    /// `point`, and returns the sum of the log-losses of the held-out samples. `point` becomes the optimum,
    /// so that the fit with the next `C` starts there.
    pub(super) fn held_out_loss(
        &self,
        c: f64,
        point: &mut Vec<f64>,
        held_out: &TrainingSet<'_>,
    ) -> Result<f64, HeadError> {
        let Minimum { point: optimum, .. } = self.minimize(c, std::mem::take(point), &|_| {});
        point.clone_from(&optimum);
        let logits = self.to_affine(optimum)?.logits(held_out.features())?;
        // The log-loss `ln Σ exp(logit) - logit[label]`; logits relative to the largest do not overflow.
        let loss = |(row, &label): (&[f32], &u32)| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|logit| f64::from(logit - max).exp()).sum();
            sum.ln() - f64::from(row[label as usize] - max)
        };
        Ok(logits.rows().zip(held_out.labels()).map(loss).sum())
    }

    /// Minimizes the objective of logistic regression with the regularization `c` from the point `start`:
    /// first with fast `f32` products, then with `f64` products. The objective is divided by `c Σ s_i`, with
    /// the sample weights `s_i`, so that `tol` does not depend on the number of samples. `on_iteration` is
    /// called with the number of iterations done.
    fn minimize(&self, c: f64, start: Vec<f64>, on_iteration: &dyn Fn(u64)) -> Minimum {
        // A single class is certain at any point.
        if self.present.len() == 1 {
            return Minimum { point: start, progress: Vec::new(), converged: true };
        }
        let l1_ratio = match self.config.penalty {
            Penalty::L2 => 0.0,
            Penalty::L1 => 1.0,
            Penalty::ElasticNet => self.config.l1_ratio,
        };
        let scale = c * self.weight_sum;
        // The L2 penalty is `½ lambda |W|²`.
        let lambda = (1.0 - l1_ratio) * l2_factor(self.present.len()) / scale;
        let inverse = self.inverse_hessian(lambda, l1_ratio);
        // The intercepts, which come last, are not penalized.
        let n_weights = start.len() - self.present.len();
        let l1_weights: Vec<f64> =
            (0..start.len()).map(|i| if i < n_weights { l1_ratio / scale } else { 0.0 }).collect();
        let run_solver = |start: Vec<f64>, evaluate: &Evaluate<'_>, tolerance: f64, iterations_done: u64| {
            let stopping =
                LbfgsStopping { tolerance, iterations: self.config.max_iter.saturating_sub(iterations_done) };
            let on_iteration = |iteration| on_iteration(iterations_done + iteration);
            if l1_ratio == 0.0 {
                lbfgs::minimize(start, &*inverse, stopping, evaluate, on_iteration)
            } else {
                owlqn::minimize(start, &l1_weights, &*inverse, stopping, evaluate, on_iteration)
            }
        };
        let evaluate_f32 =
            |point: &[f64], gradient: &mut [f64]| self.logistic.evaluate_f32(lambda, point, gradient);
        let evaluate_f64 =
            |point: &[f64], gradient: &mut [f64]| self.logistic.evaluate(lambda, point, gradient);
        let mut progress = Vec::new();
        let rough_minimum = run_solver(start, &evaluate_f32, self.config.tol.max(F32_GRADIENT_LIMIT), 0);
        progress.extend(rough_minimum.progress);
        // The exact solver starts from this point and reports it again.
        progress.pop();
        let exact_minimum =
            run_solver(rough_minimum.point, &evaluate_f64, self.config.tol, progress.len() as u64);
        progress.extend(exact_minimum.progress);
        Minimum { progress, ..exact_minimum }
    }

    /// An approximate inverse Hessian of the objective, from which the solver starts; a good one saves
    /// iterations. It comes from the covariance of the features if there is no L1 penalty (`l1_ratio` is 0)
    /// and the covariance pays off. Otherwise it is diagonal, which OWL-QN needs. `lambda` is the factor of
    /// the L2 penalty.
    fn inverse_hessian(&self, lambda: f64, l1_ratio: f64) -> Box<InverseHessian<'static>> {
        if l1_ratio == 0.0
            && let Some(inverse) = self.logistic.inverse_covariance(lambda)
        {
            return Box::new(inverse);
        }
        Box::new(self.logistic.inverse_diagonal(lambda))
    }

    /// Converts a point of the solver into the head, an affine map from raw features to the logits of all
    /// classes: the inverse of [`to_point`](Self::to_point). A class without samples gets the constant logit
    /// [`ABSENT_CLASS_LOGIT`].
    fn to_affine(&self, point: Vec<f64>) -> Result<Affine, HeadError> {
        let (present_weight, present_bias) = self.logistic.unpack(point);
        let width = present_weight.len() / self.present.len();
        let mut weight = vec![0.0; self.classes * width];
        let mut bias = vec![0.0; self.classes];
        for (k, &class) in self.present.iter().enumerate() {
            weight[class * width..][..width].copy_from_slice(&present_weight[k * width..][..width]);
            bias[class] = present_bias[k];
        }
        self.prepared.unstandardize_weights(&mut weight, &mut bias);
        let absent = (0..self.classes).filter(|class| !self.present.contains(class));
        absent.for_each(|class| bias[class] = ABSENT_CLASS_LOGIT);
        Affine::from_f64(&weight, &bias, width)
    }
}
