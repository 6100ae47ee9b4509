//! The objective of multinomial logistic regression.

use faer::Mat;
use pulp::Arch;
use rayon::prelude::*;

use crate::data::FeatureMatrix;
use crate::dense::factor::Cholesky;
use crate::dense::gram::{GramAxis, LowerTriangular};
use crate::dense::rows::CenteredRows;
use crate::gemm::{copy_to_f64, gemm_nt, gemm_tn, gemm_tn_f32, par_fill_columns};
use crate::solver::softmax::{LogitFloat, softmax_residual};
use crate::standardize::column_means;
use crate::vector::VectorOps;

/// Assumed mean over the samples of `K p (1 - p)`, where `p` is the probability of one of `K` classes; for
/// [`LogisticObjective::inverse_covariance`].
const ASSUMED_SPREAD: f64 = 0.03;
/// Classes from which the inverse covariance pays off: with 10 it makes fits a third slower, with 120 twice
/// as fast.
const MIN_CLASSES: usize = 32;
/// Features up to which inverting a matrix `[F, F]` pays off.
const MAX_FEATURES: usize = 4096;
/// Rows per parallel task.
const ROWS_PER_TASK: usize = 256;

/// The objective that multinomial logistic regression minimizes: `1/S Σ s_i log-loss_i + ½ λ |W|²`, over
/// weights `W` `[K, F]` and intercepts `b` `[K]`, which are not penalized. `s_i` is the weight of sample `i`,
/// and `S = Σ s_i`. The functions get the regularization `λ` as an argument.
///
/// A *point* is what solvers vary: a vector of `W` and then the intercepts at the mean of the features,
/// `b + W·mean`, rather than `b`, those at 0. The objective is the same, but a change of the weights then
/// hardly changes the best intercepts, and solvers need far fewer iterations.
pub(crate) struct LogisticObjective<'a> {
    features: FeatureMatrix<'a>,
    labels: Vec<u32>,
    /// `s_i / S`, `[N]`.
    sample_weights: Vec<f64>,
    classes: usize,
    /// Mean of each feature, `[F]`.
    mean: Vec<f64>,
}

impl<'a> LogisticObjective<'a> {
    /// The objective of logistic regression on `features` `[N, F]` with `labels` `[N]` below `classes`.
    /// `weights` `[N]` is how much each sample counts in the mean loss.
    pub(crate) fn new(
        features: FeatureMatrix<'a>,
        labels: Vec<u32>,
        weights: &[f64],
        classes: usize,
    ) -> Self {
        let sum: f64 = weights.iter().sum();
        let sample_weights = weights.iter().map(|weight| weight / sum).collect();
        Self { features, labels, sample_weights, classes, mean: column_means(features) }
    }

    /// Length of a point, `K F + K`.
    pub(crate) fn point_len(&self) -> usize {
        self.classes * (self.features.width() + 1)
    }

    /// Converts a point of the solver to the weights `[K, F]` and, second, the intercepts `[K]` of an affine
    /// map.
    pub(crate) fn unpack(&self, mut point: Vec<f64>) -> (Vec<f64>, Vec<f64>) {
        let mut bias = point.split_off(self.classes * self.features.width());
        self.shift_intercepts(&point, &mut bias, -1.0);
        (point, bias)
    }

    /// Converts the weights `[K, F]` and intercepts `[K]` of an affine map to a point of the solver, as for a
    /// warm start: the inverse of [`unpack`](Self::unpack).
    pub(crate) fn pack(&self, mut weight: Vec<f64>, mut bias: Vec<f64>) -> Vec<f64> {
        self.shift_intercepts(&weight, &mut bias, 1.0);
        weight.append(&mut bias);
        weight
    }

    /// Converts the intercepts `bias` of an affine map (its outputs where all features are 0) in place to
    /// those that a point holds (its outputs at the mean of the features). `sign` is 1, or -1 to convert
    /// back.
    fn shift_intercepts(&self, weight: &[f64], bias: &mut [f64], sign: f64) {
        for (bias, weight) in bias.iter_mut().zip(weight.chunks_exact(self.features.width())) {
            *bias += sign * VectorOps::new().dot(weight, &self.mean);
        }
    }

    /// An approximate inverse Hessian of the objective, from which L-BFGS and OWL-QN start: a function that
    /// multiplies a vector, as long as a point, by it. It is diagonal, as OWL-QN needs: the inverse of the
    /// diagonal that the Hessian would have if every class had the probability `1/K` for every sample.
    /// `lambda` is the factor of the L2 penalty.
    pub(crate) fn inverse_diagonal(&self, lambda: f64) -> impl Fn(&[f64]) -> Vec<f64> + use<> {
        let classes = self.classes as f64;
        // The second derivative of the log-loss by a logit, `p (1 - p)`, for the probability `p = 1/K`.
        let spread = (1.0 - 1.0 / classes) / classes;
        let mut curvature = vec![0.0; self.features.width()];
        for (row, share) in self.features.rows().zip(&self.sample_weights) {
            for ((curvature, &x), mean) in curvature.iter_mut().zip(row).zip(&self.mean) {
                *curvature += share * (f64::from(x) - mean).powi(2);
            }
        }
        let weight = curvature.iter().map(|curvature| 1.0 / (lambda + spread * curvature));
        let weight = weight.cycle().take(self.classes * self.features.width());
        let diagonal: Vec<f64> = weight.chain(std::iter::repeat_n(1.0 / spread, self.classes)).collect();
        move |vector| vector.iter().zip(&diagonal).map(|(v, d)| v * d).collect()
    }

    /// A better initial inverse Hessian for L-BFGS than [`inverse_diagonal`](Self::inverse_diagonal), for
    /// many classes: a function that multiplies a vector, as long as a point, by it. `None` if it would cost
    /// more than it saves, or if the matrix to invert is singular.
    ///
    /// The Hessian is approximated, for each class, by the covariance `[F, F]` of the features times an
    /// assumed `p (1 - p)`, where `p` is the probability of the class: [`ASSUMED_SPREAD`]` / K`, which is
    /// close if few samples are uncertain (`1 / K` would be the bound of Böhning 1992).
    pub(crate) fn inverse_covariance(&self, lambda: f64) -> Option<impl Fn(&[f64]) -> Vec<f64> + use<>> {
        let (width, classes) = (self.features.width(), self.classes);
        if classes < MIN_CLASSES || width > MAX_FEATURES || self.features.len() < width {
            return None;
        }
        let spread = ASSUMED_SPREAD / classes as f64;
        // One scale per class is enough: callers give all samples of a class the same weight.
        let mut scales = vec![0.0; classes];
        for (&label, share) in self.labels.iter().zip(&self.sample_weights) {
            scales[label as usize] = (spread * share).sqrt();
        }
        let rows =
            CenteredRows { features: self.features, group: &self.labels, means: &self.mean, scales: &scales };
        // In `f32` it is as good a start as in `f64` at half the cost.
        let mut hessian = LowerTriangular::<f32>::gram(&rows, GramAxis::Columns);
        hessian.add_to_diagonal(std::iter::repeat_n(lambda, width));
        let inverse = Cholesky::factorize_roughly(hessian)?.solve(Mat::identity(width, width));
        let inverse: Vec<f32> = inverse.col_iter().flat_map(|column| column.iter().copied()).collect();
        Some(move |vector: &[f64]| {
            let (weight, bias) = vector.split_at(classes * width);
            let weight: Vec<f32> = weight.iter().map(|&v| v as f32).collect();
            let mut out = par_fill_columns(width, classes, |columns, out| {
                let mut products = vec![0.0f32; out.len()];
                gemm_nt(&weight, &inverse[columns.start * width..columns.end * width], width, &mut products);
                copy_to_f64(Arch::new(), &products, out);
            });
            out.extend(bias.iter().map(|v| v / spread));
            out
        })
    }

    /// Returns the objective of logistic regression (the mean log-loss plus the penalty `½ λ |W|²`, `λ` is
    /// `lambda`) at `point`, and writes its gradient, as long as `point`, to `gradient`. This is what L-BFGS
    /// and OWL-QN minimize. In `f64`; [`evaluate_f32`](Self::evaluate_f32) is faster.
    pub(crate) fn evaluate(&self, lambda: f64, point: &[f64], gradient: &mut [f64]) -> f64 {
        let arch = Arch::new();
        let weight = self.weights_of(point);
        let compute_logits = |rows: &[f32], scratch: &mut Vec<f64>, logits: &mut [f64]| {
            scratch.resize(rows.len(), 0.0);
            copy_to_f64(arch, rows, scratch);
            gemm_nt(scratch, weight, self.features.width(), logits);
        };
        self.evaluate_with(lambda, point, gradient, compute_logits, gemm_tn)
    }

    /// Returns the objective of logistic regression (`lambda` is the factor of the L2 penalty) at `point`,
    /// and writes its gradient to `gradient`, with logits in `f32`. It takes half the time of
    /// [`evaluate`](Self::evaluate): good for the first iterations of a solver. The error of the gradient is
    /// about `1e-7` times the size of the features.
    pub(crate) fn evaluate_f32(&self, lambda: f64, point: &[f64], gradient: &mut [f64]) -> f64 {
        let weight: Vec<f32> = self.weights_of(point).iter().map(|&value| value as f32).collect();
        let compute_logits = |rows: &[f32], _: &mut Vec<f32>, logits: &mut [f32]| {
            gemm_nt(rows, &weight, self.features.width(), logits);
        };
        self.evaluate_with(lambda, point, gradient, compute_logits, gemm_tn_f32)
    }

    /// The part of a point that holds the weights, `[K, F]`.
    fn weights_of<'p>(&self, point: &'p [f64]) -> &'p [f64] {
        &point[..self.classes * self.features.width()]
    }

    /// The common part of [`evaluate`](Self::evaluate) and [`evaluate_f32`](Self::evaluate_f32), with logits
    /// of type `T`: returns the objective at `point` and writes its gradient to `gradient`. The matrix
    /// products are arguments.
    ///
    /// `compute_logits` gets the features of a block of samples and scratch space, and writes their logits
    /// `[n, K]` without intercepts to its third argument. `weighted_row_sums` gets the gradients of the
    /// logits `[N, K]` and the features `[N, F]`; it returns their product `[K, F]`, the gradients of the
    /// weights.
    fn evaluate_with<T: LogitFloat>(
        &self,
        lambda: f64,
        point: &[f64],
        gradient: &mut [f64],
        compute_logits: impl Fn(&[f32], &mut Vec<T>, &mut [T]) + Sync,
        weighted_row_sums: impl Fn(&[T], FeatureMatrix<'_>) -> Vec<f64>,
    ) -> f64 {
        let (weight, bias) = point.split_at(self.classes * self.features.width());
        let mut bias = bias.to_vec();
        self.shift_intercepts(weight, &mut bias, -1.0);
        let bias: Vec<T> = bias.into_iter().map(T::from_f64).collect();
        let (weight_gradient, bias_gradient) = gradient.split_at_mut(weight.len());
        // The gradient of an intercept is the sum of the gradients of its logits.
        let (loss, residuals) = self.residuals(&bias, compute_logits, bias_gradient);
        // The gradients of a row sum to 0. The remaining rounding error would shift all intercepts together,
        // at no cost and so without bound.
        let drift = bias_gradient.iter().sum::<f64>() / self.classes as f64;
        bias_gradient.iter_mut().for_each(|sum| *sum -= drift);
        weight_gradient.copy_from_slice(&weighted_row_sums(&residuals, self.features));
        // The intercepts of a point are those at the mean, so features count from there.
        let vectors = VectorOps::new();
        for (gradient, &sum) in weight_gradient.chunks_exact_mut(self.features.width()).zip(&*bias_gradient) {
            vectors.add_scaled(gradient, -sum, &self.mean);
        }
        vectors.add_scaled(weight_gradient, lambda, weight);
        loss + 0.5 * lambda * vectors.dot(weight, weight)
    }

    /// Returns the mean log-loss of all samples (without the penalty) and, second, the *residuals*: its
    /// gradients with respect to the logits, `[N, K]`. Writes their sums over the samples, `[K]`, to `sums`;
    /// they are the gradients of the intercepts. `compute_logits` is that of
    /// [`evaluate_with`](Self::evaluate_with); it leaves out the intercepts `bias` `[K]`. Runs in parallel
    /// over blocks of samples.
    fn residuals<T: LogitFloat>(
        &self,
        bias: &[T],
        compute_logits: impl Fn(&[f32], &mut Vec<T>, &mut [T]) + Sync,
        sums: &mut [f64],
    ) -> (f64, Vec<T>) {
        let (width, classes, arch) = (self.features.width(), self.classes, Arch::new());
        let mut residuals = vec![T::default(); self.features.len() * classes];
        let block_results: Vec<(f64, Vec<f64>)> = residuals
            .par_chunks_mut(ROWS_PER_TASK * classes)
            .zip(self.features.as_slice().par_chunks(ROWS_PER_TASK * width))
            .zip(self.labels.par_chunks(ROWS_PER_TASK))
            .zip(self.sample_weights.par_chunks(ROWS_PER_TASK))
            .map_init(Vec::new, |scratch, (((logits, rows), labels), sample_weights)| {
                compute_logits(rows, scratch, logits);
                let (mut loss, mut sums) = (0.0, vec![0.0; classes]);
                for ((logits, &label), &sample_weight) in
                    logits.chunks_exact_mut(classes).zip(labels).zip(sample_weights)
                {
                    loss +=
                        sample_weight * softmax_residual(arch, logits, bias, label as usize, sample_weight);
                    VectorOps::new().add_scaled(&mut sums, 1.0, logits);
                }
                (loss, sums)
            })
            .collect();
        sums.fill(0.0);
        for (_, block_sums) in &block_results {
            VectorOps::new().add_scaled(sums, 1.0, block_sums);
        }
        (block_results.iter().map(|(loss, _)| loss).sum(), residuals)
    }
}

#[cfg(test)]
mod tests {
    use headstock_split::KeyedRng;

    use super::*;
    use crate::solver::lbfgs;

    #[test]
    fn the_gradient_is_the_one_of_finite_differences() {
        let (n, width, classes) = (23, 5, 3);
        let mut rng = KeyedRng::new(&[7]);
        let rows: Vec<f32> = (0..n * width).map(|_| rng.uniform() as f32 * 4.0 - 1.0).collect();
        let labels: Vec<u32> = (0..n).map(|_| rng.below(classes) as u32).collect();
        let weights: Vec<f64> = (0..n).map(|_| 0.5 + rng.uniform()).collect();
        let logistic =
            LogisticObjective::new(FeatureMatrix::new(&rows, width).unwrap(), labels, &weights, classes);
        let point: Vec<f64> = (0..logistic.point_len()).map(|_| rng.uniform() - 0.5).collect();

        let mut gradient = vec![0.0; point.len()];
        logistic.evaluate(0.3, &point, &mut gradient);
        let mut ignored = gradient.clone();
        for i in 0..point.len() {
            let mut value_at = |step: f64| {
                let mut point = point.clone();
                point[i] += step;
                logistic.evaluate(0.3, &point, &mut ignored)
            };
            let slope = (value_at(1e-5) - value_at(-1e-5)) / 2e-5;
            assert!((slope - gradient[i]).abs() < 1e-9, "component {i}: {slope} and {}", gradient[i]);
        }
    }

    /// On highly correlated features the fit needs few iterations.
    #[test]
    fn an_inverse_of_the_covariance_needs_few_iterations() {
        let (n, width, classes) = (600, 12, MIN_CLASSES);
        let mut rng = KeyedRng::new(&[3]);
        let rows: Vec<f32> = (0..n)
            .flat_map(|_| {
                let common = rng.uniform();
                (0..width).map(|_| (common + 0.02 * rng.uniform()) as f32).collect::<Vec<_>>()
            })
            .collect();
        let labels: Vec<u32> = (0..n).map(|_| rng.below(classes) as u32).collect();
        let logistic =
            LogisticObjective::new(FeatureMatrix::new(&rows, width).unwrap(), labels, &vec![1.0; n], classes);
        let stopping = lbfgs::LbfgsStopping { tolerance: 1e-8, iterations: 1000 };
        let iterations = |inverse: &dyn Fn(&[f64]) -> Vec<f64>| {
            let evaluate = |point: &[f64], gradient: &mut [f64]| logistic.evaluate(1e-4, point, gradient);
            let minimum =
                lbfgs::minimize(vec![0.0; logistic.point_len()], inverse, stopping, evaluate, |_| {});
            assert!(minimum.converged);
            minimum.progress.len()
        };
        let with_covariance = iterations(&logistic.inverse_covariance(1e-4).unwrap());
        let with_diagonal = iterations(&logistic.inverse_diagonal(1e-4));
        assert!(2 * with_covariance < with_diagonal, "{with_covariance} and {with_diagonal}");
    }

    #[test]
    fn huge_logits_neither_overflow_nor_lose_the_loss() {
        let logistic = LogisticObjective::new(FeatureMatrix::new(&[1.0], 1).unwrap(), vec![0], &[1.0], 2);
        let mut gradient = [0.0; 4];
        assert_eq!(logistic.evaluate(0.0, &[0.0, 0.0, 0.0, 1e6], &mut gradient), 1e6);
        assert_eq!(gradient[2..], [-1.0, 1.0]);
    }
}
