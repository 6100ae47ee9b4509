//! The least-squares problem of `ridge`, in the space of the features or in that of the samples.

use faer::Mat;
use pulp::Arch;
use rayon::prelude::*;

use super::refine;
use crate::data::Features;
use crate::dense::Real;
use crate::dense::factor::{Cholesky, Eigen};
use crate::dense::gram::Lower;
use crate::dense::means::ClassMeans;
use crate::dense::reduced::Reduced;
use crate::dense::rows::{Centred, Rows};
use crate::error::HeadError;
use crate::product::{times, transposed, widen};
use crate::vector::Vectors;

/// Side of the matrix from which on a factor in `f32` that is refined is faster than one in `f64`.
const REFINED: usize = 512;
/// Rows whose products with the weights a thread computes at a time.
const BLOCK: usize = 128;

/// `X` `[N, F]` and `Y` `[N, T]`, both less their weighted means and times the roots of the samples' weights, so that the
/// free intercept and the weights are gone: `|Y - X W|² + alpha |W|²`.
pub(super) struct Problem<'a> {
    classes: &'a ClassMeans,
    features: Features<'a>,
    /// The weight of a sample of each class that has samples, `[K]`, and its root.
    weights: &'a [f64],
    roots: Vec<f64>,
    /// The sum of the samples' weights.
    pub(super) sum: f64,
    /// `[F]`
    mean: Vec<f64>,
    /// The class that each target is 1 for, `[T]`: with two classes, the second alone.
    targets: std::ops::Range<usize>,
    /// In the space of the features, `XᵀY` `[F, T]` for `(XᵀX + alpha) W`; in that of the samples, `Y` for
    /// `(XXᵀ + alpha) A`, where `W = XᵀA`.
    pub(super) right: Mat<f64>,
    pub(super) space: Space,
}

/// Where a problem is solved: where its matrix is smaller.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// `XᵀX`, `[F, F]`
    Features,
    /// `XXᵀ`, `[N, N]`
    Samples,
}

impl<'a> Problem<'a> {
    /// The problem of `classes`, at least two, whose samples weigh `weights` `[K]`.
    pub(super) fn new(features: Features<'a>, classes: &'a ClassMeans, weights: &'a [f64]) -> Self {
        let of_class: Vec<f64> = weights.iter().zip(&classes.counts).map(|(w, &n)| w * n as f64).collect();
        let count = of_class.len();
        let space = if features.len() > features.width() { Space::Features } else { Space::Samples };
        let mut problem = Self {
            classes,
            features,
            weights,
            roots: weights.iter().map(|weight| weight.sqrt()).collect(),
            sum: of_class.iter().sum(),
            mean: classes.mean_of_means(of_class.iter().copied()),
            targets: if count == 2 { 1..2 } else { 0..count },
            right: Mat::new(),
            space,
        };
        problem.right = match space {
            // X is centred, so of Y only the 2 of the class's own samples remains.
            Space::Features => Mat::from_fn(features.width(), problem.targets.len(), |feature, t| {
                let class = problem.targets.start + t;
                2.0 * of_class[class] * (classes.mean(class)[feature] - problem.mean[feature])
            }),
            Space::Samples => {
                Mat::from_fn(features.len(), problem.targets.len(), |row, t| problem.target(row, t))
            }
        };
        problem
    }

    /// `X`
    pub(super) fn rows(&self) -> impl Rows {
        Centred {
            features: self.features,
            group: &self.classes.of_row,
            means: &self.mean,
            scales: &self.roots,
        }
    }

    /// The root of a sample's weight.
    pub(super) fn root(&self, row: usize) -> f64 {
        self.roots[self.classes.of_row[row] as usize]
    }

    /// Number of targets, `T`.
    pub(super) fn targets(&self) -> usize {
        self.targets.len()
    }

    /// A value of `Y`.
    pub(super) fn target(&self, row: usize, t: usize) -> f64 {
        let own = self.classes.of_row[row] as usize == self.targets.start + t;
        self.root(row) * (if own { 1.0 } else { -1.0 } - self.target_mean(t))
    }

    /// The weighted mean of a target.
    fn target_mean(&self, t: usize) -> f64 {
        let class = self.targets.start + t;
        2.0 * self.weights[class] * self.classes.counts[class] as f64 / self.sum - 1.0
    }

    fn matrix<T: Real>(&self) -> Lower<T> {
        match self.space {
            Space::Features => Lower::of_columns(&self.rows()),
            Space::Samples => Lower::of_rows(&self.rows()),
        }
    }

    /// The matrix as a band, from which it is solved for every `alpha`.
    pub(super) fn reduced(&self) -> Reduced {
        Reduced::new(self.matrix())
    }

    /// The solution for one `alpha`.
    pub(super) fn solve(&self, alpha: f64) -> Result<Mat<f64>, HeadError> {
        if self.right.nrows() >= REFINED
            && let Some(factor) = Cholesky::rough(self.shifted(alpha))
            && let Some(solution) = refine::solve(self, &factor, alpha)
        {
            return Ok(solution);
        }
        match Cholesky::new(self.shifted(alpha)) {
            Some(factor) => Ok(factor.solve(self.right.clone())),
            // In the samples' space Y is not all in the span of XXᵀ, but what is not is gone from W = XᵀA.
            None => Ok(Eigen::new(&self.matrix())?.pseudo_solve_shifted(alpha, self.right.as_ref())),
        }
    }

    /// The matrix plus `alpha`.
    pub(super) fn shifted<T: Real>(&self, alpha: f64) -> Lower<T> {
        let mut matrix = self.matrix();
        matrix.add_to_diagonal(std::iter::repeat(alpha));
        matrix
    }

    /// The matrix plus `alpha` times some columns, without the matrix.
    pub(super) fn apply(&self, alpha: f64, columns: &Mat<f64>) -> Mat<f64> {
        let targets = columns.ncols();
        let mut product = match self.space {
            Space::Features => {
                let planes: Vec<f64> = columns.col_iter().flat_map(|column| column.iter().copied()).collect();
                let planes = self.times_transposed(&self.times(&planes));
                Mat::from_fn(columns.nrows(), targets, |feature, t| planes[t * self.mean.len() + feature])
            }
            Space::Samples => {
                let values = self.times(&self.times_transposed(&by_row(columns)));
                Mat::from_fn(columns.nrows(), targets, |row, t| values[row * targets + t])
            }
        };
        product += faer::Scale(alpha) * columns;
        product
    }

    /// `X` times planes `[T, F]`, `[N, T]`.
    fn times(&self, planes: &[f64]) -> Vec<f64> {
        let (width, arch, vectors) = (self.mean.len(), Arch::new(), Vectors::new());
        let offsets: Vec<f64> =
            planes.chunks_exact(width).map(|plane| vectors.dot(plane, &self.mean)).collect();
        let targets = offsets.len();
        let mut out = vec![0.0; self.features.len() * targets];
        out.par_chunks_mut(BLOCK * targets).enumerate().for_each_init(Vec::new, |wide, (block, out)| {
            let first = block * BLOCK;
            let rows = &self.features.as_slice()[first * width..][..out.len() / targets * width];
            wide.resize(rows.len(), 0.0);
            widen(arch, rows, wide);
            times(wide, planes, width, out);
            for (row, values) in out.chunks_exact_mut(targets).enumerate() {
                let root = self.root(first + row);
                values.iter_mut().zip(&offsets).for_each(|(value, offset)| *value = root * (*value - offset));
            }
        });
        out
    }

    /// `Xᵀ` times values `[N, T]`, `[T, F]`.
    fn times_transposed(&self, values: &[f64]) -> Vec<f64> {
        let targets = values.len() / self.features.len();
        let mut sums = vec![0.0; targets];
        let mut factors = Vec::with_capacity(values.len());
        for (row, values) in values.chunks_exact(targets).enumerate() {
            for (sum, value) in sums.iter_mut().zip(values) {
                let factor = self.root(row) * value;
                *sum += factor;
                factors.push(factor);
            }
        }
        let mut planes = transposed(&factors, self.features);
        for (plane, sum) in planes.chunks_exact_mut(self.mean.len()).zip(sums) {
            Vectors::new().add_scaled(plane, -sum, &self.mean);
        }
        planes
    }

    /// The weights `[T, F]` and intercepts `[T]` of a solution.
    pub(super) fn planes(&self, solution: &Mat<f64>) -> (Vec<f64>, Vec<f64>) {
        let vectors = Vectors::new();
        let weight: Vec<f64> = match self.space {
            Space::Features => solution.col_iter().flat_map(|column| column.iter().copied()).collect(),
            Space::Samples => self.times_transposed(&by_row(solution)),
        };
        let of_plane = |(t, weight)| self.target_mean(t) - vectors.dot::<f64, f64>(weight, &self.mean);
        let bias = weight.chunks_exact(self.mean.len()).enumerate().map(of_plane).collect();
        (weight, bias)
    }
}

/// The values of a matrix, row by row.
fn by_row(matrix: &Mat<f64>) -> Vec<f64> {
    matrix.row_iter().flat_map(|row| row.iter().copied()).collect()
}
