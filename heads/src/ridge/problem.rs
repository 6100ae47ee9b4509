//! The least-squares problem of `ridge`, in the space of the features or in that of the samples.

use faer::Mat;

use crate::data::Features;
use crate::dense::factor::{Cholesky, Eigen};
use crate::dense::gram::Lower;
use crate::dense::means::ClassMeans;
use crate::dense::rows::{Centred, Rows};
use crate::error::HeadError;
use crate::product::transposed;
use crate::vector::Vectors;

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
    right: Mat<f64>,
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

    fn matrix(&self) -> Lower {
        match self.space {
            Space::Features => Lower::of_columns(&self.rows()),
            Space::Samples => Lower::of_rows(&self.rows()),
        }
    }

    /// The eigendecomposition that solves it for every `alpha`.
    pub(super) fn decompose(&self) -> Result<Eigen, HeadError> {
        Eigen::new(&self.matrix())
    }

    /// `Vᵀ` times the right side.
    pub(super) fn rotated(&self, eigen: &Eigen) -> Mat<f64> {
        crate::dense::factor::product(eigen.vectors.transpose(), self.right.as_ref())
    }

    /// The solution for one `alpha` from the decomposition.
    pub(super) fn solution(&self, eigen: &Eigen, alpha: f64) -> Mat<f64> {
        eigen.apply(|value| 1.0 / (value + alpha), self.right.as_ref())
    }

    /// The solution for one `alpha`.
    pub(super) fn solve(&self, alpha: f64) -> Result<Mat<f64>, HeadError> {
        let mut matrix = self.matrix();
        matrix.add_to_diagonal(std::iter::repeat(alpha));
        match Cholesky::new(matrix) {
            Some(factor) => Ok(factor.solve(self.right.clone())),
            None => Ok(self.solution(&self.decompose()?, alpha)),
        }
    }

    /// The weights `[T, F]` and intercepts `[T]` of a solution.
    pub(super) fn planes(&self, solution: &Mat<f64>) -> (Vec<f64>, Vec<f64>) {
        let vectors = Vectors::new();
        let weight: Vec<f64> = match self.space {
            Space::Features => solution.col_iter().flat_map(|column| column.iter().copied()).collect(),
            Space::Samples => {
                let mut factors = Vec::with_capacity(solution.nrows() * solution.ncols());
                let mut sums = vec![0.0; solution.ncols()];
                for row in 0..solution.nrows() {
                    for (t, sum) in sums.iter_mut().enumerate() {
                        let factor = self.root(row) * solution[(row, t)];
                        *sum += factor;
                        factors.push(factor);
                    }
                }
                let mut weight = transposed(&factors, self.features);
                for (weight, sum) in weight.chunks_exact_mut(self.mean.len()).zip(sums) {
                    vectors.add_scaled(weight, -sum, &self.mean);
                }
                weight
            }
        };
        let of_plane = |(t, weight)| self.target_mean(t) - vectors.dot::<f64, f64>(weight, &self.mean);
        let bias = weight.chunks_exact(self.mean.len()).enumerate().map(of_plane).collect();
        (weight, bias)
    }
}
