//! The least-squares problem of `ridge`, in primal (features) or dual (samples) form.

use faer::Mat;
use pulp::Arch;
use rayon::prelude::*;

use super::refine;
use crate::data::FeatureMatrix;
use crate::dense::Real;
use crate::dense::band_reduction::BandReduction;
use crate::dense::factor::{Cholesky, EigenDecomposition};
use crate::dense::gram::LowerTriangular;
use crate::dense::means::ClassMeans;
use crate::dense::rows::{CenteredRows, RowSource};
use crate::error::HeadError;
use crate::gemm::{copy_to_f64, gemm_nt, gemm_tn};
use crate::vector::VectorOps;

/// Matrix size from which a refined `f32` factor is faster than an `f64` one.
const MIN_REFINED_SIZE: usize = 512;
/// Rows per parallel task.
const ROWS_PER_TASK: usize = 128;

/// `X` `[N, F]` and `Y` `[N, T]`, both centered by their weighted means and multiplied by the roots of the
/// sample weights. This eliminates the free intercept and the weights: `|Y - X W|² + alpha |W|²`.
pub(super) struct RidgeProblem<'a> {
    classes: &'a ClassMeans,
    features: FeatureMatrix<'a>,
    /// The sample weight of each present class, `[K]`, and its square root.
    weights: &'a [f64],
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

/// The form with the smaller matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Formulation {
    /// `XᵀX`, `[F, F]`
    Primal,
    /// `XXᵀ`, `[N, N]`
    Dual,
}

impl<'a> RidgeProblem<'a> {
    /// The problem of at least two `classes`, whose samples have the weights `weights` `[K]`.
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
            // X is centered, so only the 2 of the class's own samples remains of Y.
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

    /// `X`
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

    /// An entry of `Y`.
    pub(super) fn target_value(&self, row: usize, t: usize) -> f64 {
        let is_positive = self.classes.class_of_row[row] as usize == self.target_classes.start + t;
        self.sqrt_weight(row) * (if is_positive { 1.0 } else { -1.0 } - self.target_mean(t))
    }

    /// The weighted mean of a target.
    fn target_mean(&self, t: usize) -> f64 {
        let class = self.target_classes.start + t;
        2.0 * self.weights[class] * self.classes.counts[class] as f64 / self.weight_sum - 1.0
    }

    /// The Gram matrix: `XᵀX` (primal) or `XXᵀ` (dual).
    fn gram<T: Real>(&self) -> LowerTriangular<T> {
        match self.formulation {
            Formulation::Primal => LowerTriangular::column_gram(&self.centered_rows()),
            Formulation::Dual => LowerTriangular::row_gram(&self.centered_rows()),
        }
    }

    /// The band reduction of the Gram matrix, from which every `alpha` is solved.
    pub(super) fn reduce_to_band(&self) -> BandReduction {
        BandReduction::new(self.gram())
    }

    /// The solution for one `alpha`, `[F, T]` or `[N, T]`.
    pub(super) fn solve(&self, alpha: f64) -> Result<Mat<f64>, HeadError> {
        if self.rhs.nrows() >= MIN_REFINED_SIZE
            && let Some(factor) = Cholesky::for_preconditioning(self.shifted_gram(alpha))
            && let Some(solution) = refine::solve(self, &factor, alpha)
        {
            return Ok(solution);
        }
        match Cholesky::new(self.shifted_gram(alpha)) {
            Some(factor) => Ok(factor.solve(self.rhs.clone())),
            // In dual form Y is not entirely in the span of XXᵀ, but the rest vanishes in W = XᵀA.
            None => Ok(EigenDecomposition::new(&self.gram())?.pseudo_solve_shifted(alpha, self.rhs.as_ref())),
        }
    }

    /// The Gram matrix plus `alpha`.
    pub(super) fn shifted_gram<T: Real>(&self, alpha: f64) -> LowerTriangular<T> {
        let mut matrix = self.gram();
        matrix.add_to_diagonal(std::iter::repeat(alpha));
        matrix
    }

    /// The Gram matrix plus `alpha` times columns, without forming the matrix.
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
                let values = self.x_times(&self.xt_times(&row_major_values(columns)));
                Mat::from_fn(columns.nrows(), n_targets, |row, t| values[row * n_targets + t])
            }
        };
        product += faer::Scale(alpha) * columns;
        product
    }

    /// `X` times weights `[T, F]`, `[N, T]`.
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
                for (row, values) in out.chunks_exact_mut(n_targets).enumerate() {
                    let sqrt_weight = self.sqrt_weight(first + row);
                    values
                        .iter_mut()
                        .zip(&offsets)
                        .for_each(|(value, offset)| *value = sqrt_weight * (*value - offset));
                }
            },
        );
        out
    }

    /// `Xᵀ` times values `[N, T]`, `[T, F]`.
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

    /// The weights `[T, F]` and intercepts `[T]` of a solution.
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

/// The values of a matrix, row by row.
fn row_major_values(matrix: &Mat<f64>) -> Vec<f64> {
    matrix.row_iter().flat_map(|row| row.iter().copied()).collect()
}
