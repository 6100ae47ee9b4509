//! The least-squares problem of `ridge`, in primal (features) or dual (samples) form.

use faer::Mat;
use pulp::Arch;
use rayon::prelude::*;

use crate::data::FeatureMatrix;
use crate::dense::Real;
use crate::dense::gram::{GramAxis, LowerTriangular};
use crate::dense::means::ClassMeans;
use crate::dense::rows::{CenteredRows, RowSource};
use crate::gemm::{copy_to_f64, gemm_nt, gemm_tn};
use crate::vector::VectorOps;

/// Rows per parallel task.
const ROWS_PER_TASK: usize = 128;

/// The least-squares problem of ridge regression: the weights `W` `[F, T]` shall minimize
/// `|Y - X W|² + alpha |W|²`. Each of the `T` targets is 1 for the samples of a class and -1 for the others.
///
/// `X` `[N, F]` are the features and `Y` `[N, T]` the targets, both centered by their weighted means and
/// multiplied by the square roots of the sample weights. So the problem needs neither an intercept nor
/// weights. `X` is never stored: the methods compute what they need from the raw features.
pub(super) struct RidgeProblem<'a> {
    classes: &'a ClassMeans,
    features: FeatureMatrix<'a>,
    /// The sample weight of each present class, `[K]`.
    weights: &'a [f64],
    /// The square roots of `weights`, `[K]`.
    sqrt_class_weights: Vec<f64>,
    /// The sum of the sample weights.
    pub(super) weight_sum: f64,
    /// Weighted mean of the features, `[F]`.
    mean: Vec<f64>,
    /// The class for which each target is 1, `[T]`; with two classes only the second.
    target_classes: std::ops::Range<usize>,
    /// Primal: `XᵀY` `[F, T]` of `(XᵀX + alpha) W = XᵀY`. Dual: `Y` of `(XXᵀ + alpha) A = Y`, with `W = XᵀA`.
    pub(super) rhs: Mat<f64>,
    pub(super) formulation: Formulation,
}

/// Which of two equivalent linear systems is solved: the one with the smaller matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Formulation {
    /// With the Gram matrix of the features, `XᵀX` `[F, F]`; the unknowns are the weights `W`.
    Primal,
    /// With the Gram matrix of the samples, `XXᵀ` `[N, N]`; the unknowns are `A`, which gives `W = XᵀA`.
    Dual,
}

impl<'a> RidgeProblem<'a> {
    /// Sets up a ridge regression for at least two `classes`; `weights` `[K]` is the sample weight of each.
    /// Chooses the linear system with the smaller matrix, primal (of features) or dual (of samples), and
    /// computes its right-hand side; neither depends on `alpha`.
    pub(super) fn new(features: FeatureMatrix<'a>, classes: &'a ClassMeans, weights: &'a [f64]) -> Self {
        let class_weight_sums: Vec<f64> =
            weights.iter().zip(&classes.counts).map(|(w, &n)| w * n as f64).collect();
        let n_present = class_weight_sums.len();
        let formulation =
            if features.len() > features.width() { Formulation::Primal } else { Formulation::Dual };
        let mut problem = Self {
            classes,
            features,
            weights,
            sqrt_class_weights: weights.iter().map(|weight| weight.sqrt()).collect(),
            weight_sum: class_weight_sums.iter().sum(),
            mean: classes.mean_of_means(class_weight_sums.iter().copied()),
            target_classes: if n_present == 2 { 1..2 } else { 0..n_present },
            rhs: Mat::new(),
            formulation,
        };
        problem.rhs = match formulation {
            // The target is 2 for samples of the class and 0 for others, minus a constant. X is centered, so
            // the constant vanishes in XᵀY, which leaves twice the sum over the centered rows of the class.
            Formulation::Primal => {
                Mat::from_fn(features.width(), problem.target_classes.len(), |feature, t| {
                    let class = problem.target_classes.start + t;
                    2.0 * class_weight_sums[class] * (classes.mean(class)[feature] - problem.mean[feature])
                })
            }
            Formulation::Dual => Mat::from_fn(features.len(), problem.target_classes.len(), |row, t| {
                problem.target_value(row, t)
            }),
        };
        problem
    }

    /// The matrix `X` `[N, F]` of the least-squares problem: the features, centered and multiplied by the
    /// roots of the sample weights. Its rows are computed when they are read, for example for the Gram
    /// matrix, so it never has to fit in memory.
    pub(super) fn centered_rows(&self) -> impl RowSource {
        CenteredRows {
            features: self.features,
            group: &self.classes.class_of_row,
            means: &self.mean,
            scales: &self.sqrt_class_weights,
        }
    }

    /// The square root of a sample's weight.
    pub(super) fn sqrt_weight(&self, row: usize) -> f64 {
        self.sqrt_class_weights[self.classes.class_of_row[row] as usize]
    }

    /// Number of targets, `T`.
    pub(super) fn n_targets(&self) -> usize {
        self.target_classes.len()
    }

    /// The entry of `Y` of a sample and a target: ±1, centered and weighted.
    pub(super) fn target_value(&self, row: usize, t: usize) -> f64 {
        let is_positive = self.classes.class_of_row[row] as usize == self.target_classes.start + t;
        self.sqrt_weight(row) * (if is_positive { 1.0 } else { -1.0 } - self.target_mean(t))
    }

    /// The weighted mean over the samples of the ±1 of a target.
    fn target_mean(&self, t: usize) -> f64 {
        let class = self.target_classes.start + t;
        2.0 * self.weights[class] * self.classes.counts[class] as f64 / self.weight_sum - 1.0
    }

    /// The Gram matrix, the left-hand side of the linear system without `alpha`: `XᵀX` `[F, F]` (primal) or
    /// `XXᵀ` `[N, N]` (dual), in `f32` or `f64`.
    pub(super) fn gram<T: Real>(&self) -> LowerTriangular<T> {
        let axis = match self.formulation {
            Formulation::Primal => GramAxis::Columns,
            Formulation::Dual => GramAxis::Rows,
        };
        LowerTriangular::gram(&self.centered_rows(), axis)
    }

    /// The matrix of the linear system to solve: the Gram matrix, `XᵀX` (primal) or `XXᵀ` (dual), plus
    /// `alpha` on its diagonal.
    pub(super) fn shifted_gram<T: Real>(&self, alpha: f64) -> LowerTriangular<T> {
        let mut matrix = self.gram();
        matrix.add_to_diagonal(std::iter::repeat(alpha));
        matrix
    }

    /// The product, `[n, T]`, of the matrix of the linear system `[n, n]`, `XᵀX + alpha` (primal) or
    /// `XXᵀ + alpha` (dual), and `columns` `[n, T]`. It is computed in `f64` from the features without
    /// forming the matrix: [`solve`](Self::solve) needs it in each step of conjugate gradients.
    pub(super) fn apply_shifted_gram(&self, alpha: f64, columns: &Mat<f64>) -> Mat<f64> {
        let n_targets = columns.ncols();
        let mut product = match self.formulation {
            Formulation::Primal => {
                let weights: Vec<f64> =
                    columns.col_iter().flat_map(|column| column.iter().copied()).collect();
                let weights = self.xt_times(&self.x_times(&weights));
                Mat::from_fn(columns.nrows(), n_targets, |feature, t| weights[t * self.mean.len() + feature])
            }
            Formulation::Dual => {
                let products = self.x_times(&self.xt_times(&row_major_values(columns)));
                Mat::from_fn(columns.nrows(), n_targets, |row, t| products[row * n_targets + t])
            }
        };
        product += faer::Scale(alpha) * columns;
        product
    }

    /// The product of `X` `[N, F]`, the centered and weighted features, and the `weights` `[T, F]` of each
    /// target: `[N, T]`, in parallel over rows, for [`apply_shifted_gram`](Self::apply_shifted_gram). `X`
    /// itself is never formed: the mean's part is subtracted from the products of the raw features.
    fn x_times(&self, weights: &[f64]) -> Vec<f64> {
        let (width, arch, vectors) = (self.mean.len(), Arch::new(), VectorOps::new());
        let offsets: Vec<f64> = weights.chunks_exact(width).map(|w| vectors.dot(w, &self.mean)).collect();
        let n_targets = offsets.len();
        let mut out = vec![0.0; self.features.len() * n_targets];
        out.par_chunks_mut(ROWS_PER_TASK * n_targets).enumerate().for_each_init(
            Vec::new,
            |converted, (block, out)| {
                let first = block * ROWS_PER_TASK;
                let rows = &self.features.as_slice()[first * width..][..out.len() / n_targets * width];
                converted.resize(rows.len(), 0.0);
                copy_to_f64(arch, rows, converted);
                gemm_nt(converted, weights, width, out);
                for (row, products) in out.chunks_exact_mut(n_targets).enumerate() {
                    let sqrt_weight = self.sqrt_weight(first + row);
                    products
                        .iter_mut()
                        .zip(&offsets)
                        .for_each(|(product, offset)| *product = sqrt_weight * (*product - offset));
                }
            },
        );
        out
    }

    /// The product of `Xᵀ`, the transposed centered and weighted features, and `values` `[N, T]` (one for
    /// each sample and target), transposed to `[T, F]`. It turns a dual solution into weights, and serves
    /// [`apply_shifted_gram`](Self::apply_shifted_gram). `X` itself is never formed: the mean's part is
    /// subtracted from the products of the raw features.
    fn xt_times(&self, values: &[f64]) -> Vec<f64> {
        let n_targets = values.len() / self.features.len();
        let mut sums = vec![0.0; n_targets];
        let mut factors = Vec::with_capacity(values.len());
        for (row, values) in values.chunks_exact(n_targets).enumerate() {
            for (sum, value) in sums.iter_mut().zip(values) {
                let factor = self.sqrt_weight(row) * value;
                *sum += factor;
                factors.push(factor);
            }
        }
        let mut out = gemm_tn(&factors, self.features);
        for (w, sum) in out.chunks_exact_mut(self.mean.len()).zip(sums) {
            VectorOps::new().add_scaled(w, -sum, &self.mean);
        }
        out
    }

    /// Converts a result of [`solve`](Self::solve) to what the head stores: the weights `[T, F]`, then the
    /// intercepts `[T]`, both for the raw features.
    pub(super) fn weights_and_intercepts(&self, solution: &Mat<f64>) -> (Vec<f64>, Vec<f64>) {
        let vectors = VectorOps::new();
        let weight: Vec<f64> = match self.formulation {
            Formulation::Primal => solution.col_iter().flat_map(|column| column.iter().copied()).collect(),
            Formulation::Dual => self.xt_times(&row_major_values(solution)),
        };
        let intercept = |(t, weight)| self.target_mean(t) - vectors.dot::<f64, f64>(weight, &self.mean);
        let bias = weight.chunks_exact(self.mean.len()).enumerate().map(intercept).collect();
        (weight, bias)
    }
}

/// Copies a matrix, which faer stores column by column, to a list row by row.
fn row_major_values(matrix: &Mat<f64>) -> Vec<f64> {
    matrix.row_iter().flat_map(|row| row.iter().copied()).collect()
}
