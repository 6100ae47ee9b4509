//! Matrices whose rows are computed on demand: centered and scaled features.

use std::ops::Range;

use pulp::Arch;

use super::Real;
use crate::data::FeatureMatrix;

/// A matrix `[N, F]` whose rows are computed in `f64` when they are read.
pub(crate) trait RowSource: Sync {
    /// `N`
    fn n_rows(&self) -> usize;
    /// `F`
    fn width(&self) -> usize;
    /// Writes `columns` of a row to `out`.
    fn read_row<T: Real>(&self, arch: Arch, row: usize, columns: Range<usize>, out: &mut [T]);

    /// Reads `columns` of several rows into `out`, row-major.
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

/// Rows minus a mean and times a scale, both of the row's group.
pub(crate) struct CenteredRows<'a> {
    /// `[N, F]`
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

    fn read_row<T: Real>(&self, arch: Arch, row: usize, columns: Range<usize>, out: &mut [T]) {
        let group = self.group[row] as usize;
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

/// A subset of rows, with each feature centered and divided by its scale.
pub(crate) struct StandardizedRows<'a> {
    /// All features.
    pub(crate) features: FeatureMatrix<'a>,
    /// Indices of the rows.
    pub(crate) row_indices: &'a [usize],
    /// `[F]`
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

    fn read_row<T: Real>(&self, arch: Arch, row: usize, columns: Range<usize>, out: &mut [T]) {
        let values = &self.features.row(self.row_indices[row])[columns.clone()];
        let (mean, inverse_scale) = (&self.mean[columns.clone()], &self.inverse_scale[columns]);
        arch.dispatch(
            #[inline(always)]
            || {
                for (((out, &x), mean), scale) in out.iter_mut().zip(values).zip(mean).zip(inverse_scale) {
                    *out = T::from_f64((f64::from(x) - mean) * scale);
                }
            },
        );
    }
}
