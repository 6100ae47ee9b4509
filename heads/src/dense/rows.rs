//! Matrices whose rows are computed on demand: centered and scaled features.

use std::ops::Range;

use pulp::Arch;

use super::Real;
use crate::data::FeatureMatrix;

/// A matrix `[N, F]`, such as centered features, whose rows are computed in `f64` when they are read, so that
/// the whole matrix is never in memory. [`super::gram`] reads its Gram matrices from it block by block.
pub(crate) trait RowSource: Sync {
    /// Number of rows, `N`.
    fn n_rows(&self) -> usize;
    /// Number of columns, `F`.
    fn width(&self) -> usize;
    /// Computes the entries of row `row` in the range `columns` and writes them to `out` (of the same
    /// length), with the SIMD instructions of `arch`.
    fn read_row<T: Real>(&self, arch: Arch, row: usize, columns: Range<usize>, out: &mut [T]);

    /// Computes a block of the matrix for a matrix product: the columns `columns` of the rows with the
    /// indices `rows`. `out`, a buffer that callers reuse, then holds exactly this block, `[rows, columns]`,
    /// row-major.
    fn read_block<T: Real>(
        &self,
        rows: impl IntoIterator<Item = usize>,
        columns: Range<usize>,
        out: &mut Vec<T>,
    ) {
        let arch = Arch::new();
        let mut end = 0;
        for row in rows {
            out.resize(out.len().max(end + columns.len()), T::default());
            self.read_row(arch, row, columns.clone(), &mut out[end..end + columns.len()]);
            end += columns.len();
        }
        out.truncate(end);
    }
}

/// Features whose rows belong to groups, such as classes: the mean of its group is subtracted from a row, and
/// the result is multiplied by the scale of its group.
pub(crate) struct CenteredRows<'a> {
    /// The raw features, `[N, F]`.
    pub(crate) features: FeatureMatrix<'a>,
    /// The group of each row, `[N]`.
    pub(crate) group: &'a [u32],
    /// The mean of each group, `[groups, F]`, or one mean for all.
    pub(crate) means: &'a [f64],
    /// Factor for the rows of each group, `[groups]`.
    pub(crate) scales: &'a [f64],
}

impl RowSource for CenteredRows<'_> {
    fn n_rows(&self) -> usize {
        self.features.len()
    }

    fn width(&self) -> usize {
        self.features.width()
    }

    /// Computes the centered and scaled features of row `row` in the range `columns`, and writes them to
    /// `out` (of the same length): `(x - mean) · scale` for each feature `x`, with the mean of the feature
    /// and the scale in the row's group (such as its class).
    fn read_row<T: Real>(&self, arch: Arch, row: usize, columns: Range<usize>, out: &mut [T]) {
        let group = self.group[row] as usize;
        // `means` is `[groups, F]`, or `[F]` if all groups share one mean.
        let start = if self.means.len() == self.width() { 0 } else { group * self.width() };
        let mean = &self.means[start + columns.start..start + columns.end];
        let (values, scale) = (&self.features.row(row)[columns], self.scales[group]);
        arch.dispatch(
            #[inline(always)]
            || {
                for ((out, &x), mean) in out.iter_mut().zip(values).zip(mean) {
                    *out = T::from_f64((f64::from(x) - mean) * scale);
                }
            },
        );
    }
}

/// A subset of the rows of a feature matrix, such as those of a class, standardized: each feature minus its
/// mean, divided by its scale (the standard deviation).
pub(crate) struct StandardizedRows<'a> {
    /// All features.
    pub(crate) features: FeatureMatrix<'a>,
    /// Indices into `features` of the rows of the subset.
    pub(crate) row_indices: &'a [usize],
    /// Mean of each feature, `[F]`.
    pub(crate) mean: &'a [f64],
    /// Reciprocal scale of each feature, `[F]`.
    pub(crate) inverse_scale: &'a [f64],
}

impl RowSource for StandardizedRows<'_> {
    fn n_rows(&self) -> usize {
        self.row_indices.len()
    }

    fn width(&self) -> usize {
        self.features.width()
    }

    /// Computes the standardized features of a row in the range `columns`, `(x - mean) / scale` for each
    /// feature `x`, and writes them to `out` (of the same length). `row` is a position in the subset.
    fn read_row<T: Real>(&self, arch: Arch, row: usize, columns: Range<usize>, out: &mut [T]) {
        let values = &self.features.row(self.row_indices[row])[columns.clone()];
        let (mean, inverse_scale) = (&self.mean[columns.clone()], &self.inverse_scale[columns]);
        arch.dispatch(
            #[inline(always)]
            || {
                for (((out, &x), mean), factor) in out.iter_mut().zip(values).zip(mean).zip(inverse_scale) {
                    *out = T::from_f64((f64::from(x) - mean) * factor);
                }
            },
        );
    }
}
