//! Features as the closed forms take them: centred and scaled on their way into a block.

use std::ops::Range;

use pulp::Arch;

use super::Real;
use crate::data::Features;

/// A matrix `[N, F]`, computed in `f64`, that is made row by row when it is needed.
pub(crate) trait Rows: Sync {
    /// `N`
    fn count(&self) -> usize;
    /// `F`
    fn width(&self) -> usize;
    /// Writes some columns of a row.
    fn read<T: Real>(&self, arch: Arch, row: usize, columns: Range<usize>, out: &mut [T]);

    /// Some columns of some rows, row-major.
    fn block<T: Real>(&self, rows: impl IntoIterator<Item = usize>, columns: Range<usize>, out: &mut Vec<T>) {
        let arch = Arch::new();
        let mut end = 0;
        for row in rows {
            out.resize(out.len().max(end + columns.len()), T::default());
            self.read(arch, row, columns.clone(), &mut out[end..end + columns.len()]);
            end += columns.len();
        }
        out.truncate(end);
    }
}

/// Rows less a mean, times a number: both those of the row's group.
pub(crate) struct Centred<'a> {
    /// `[N, F]`
    pub(crate) features: Features<'a>,
    /// The group of each row, `[N]`.
    pub(crate) group: &'a [u32],
    /// The mean of each group, `[groups, F]`; or one for all.
    pub(crate) means: &'a [f64],
    /// What the rows of each group are multiplied by, `[groups]`.
    pub(crate) scales: &'a [f64],
}

impl Rows for Centred<'_> {
    fn count(&self) -> usize {
        self.features.len()
    }

    fn width(&self) -> usize {
        self.features.width()
    }

    fn read<T: Real>(&self, arch: Arch, row: usize, columns: Range<usize>, out: &mut [T]) {
        let group = self.group[row] as usize;
        let start = if self.means.len() == self.width() { 0 } else { group * self.width() };
        let mean = &self.means[start + columns.start..start + columns.end];
        let (values, scale) = (&self.features.row(row)[columns], self.scales[group]);
        arch.dispatch(
            #[inline(always)]
            || {
                for ((out, &x), mean) in out.iter_mut().zip(values).zip(mean) {
                    *out = T::of((f64::from(x) - mean) * scale);
                }
            },
        );
    }
}

/// Some rows, each feature less its mean and divided by its scale.
pub(crate) struct Standardised<'a> {
    /// All features.
    pub(crate) features: Features<'a>,
    /// The rows to take.
    pub(crate) chosen: &'a [usize],
    /// `[F]`
    pub(crate) mean: &'a [f64],
    /// What to multiply by, `[F]`.
    pub(crate) inverse: &'a [f64],
}

impl Rows for Standardised<'_> {
    fn count(&self) -> usize {
        self.chosen.len()
    }

    fn width(&self) -> usize {
        self.features.width()
    }

    fn read<T: Real>(&self, arch: Arch, row: usize, columns: Range<usize>, out: &mut [T]) {
        let values = &self.features.row(self.chosen[row])[columns.clone()];
        let (mean, inverse) = (&self.mean[columns.clone()], &self.inverse[columns]);
        arch.dispatch(
            #[inline(always)]
            || {
                for (((out, &x), mean), inverse) in out.iter_mut().zip(values).zip(mean).zip(inverse) {
                    *out = T::of((f64::from(x) - mean) * inverse);
                }
            },
        );
    }
}
