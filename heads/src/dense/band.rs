//! Cholesky factors of bands.

use faer::ColMut;
use pulp::{Arch, Simd, WithSimd};

use super::gram::Lower;

/// Diagonals of a band below the main one. Twice as many are found a little sooner, but solved later and kept in twice the memory.
pub(crate) const BAND: usize = 16;
/// Columns that are solved for side by side: four AVX-512 registers of `f64`, eight AVX ones. That hides the latency of the
/// products, of which each needs the one before.
pub(crate) const LANES: usize = 32;

/// `L` of `B = L Lᵀ`.
#[derive(Clone, Debug)]
pub(crate) struct BandCholesky {
    /// For each row what is left of the diagonal, the nearest last.
    left: Vec<[f64; BAND]>,
    /// One over the diagonal.
    inverse: Vec<f64>,
}

impl BandCholesky {
    /// The factor of the lower diagonals of a matrix, as if the others were 0, and a shift of its diagonal.
    ///
    /// There is none when that is not positive definite beyond rounding: when a pivot is at most `n ε` times the largest value
    /// of the diagonal.
    pub(crate) fn new(matrix: &Lower, shift: f64) -> Option<Self> {
        let size = matrix.size();
        let floor = size as f64 * f64::EPSILON * (matrix.diagonal().fold(0.0, f64::max) + shift);
        let matrix = matrix.as_ref();
        let (mut left, mut inverse) = (Vec::<[f64; BAND]>::with_capacity(size), Vec::with_capacity(size));
        for i in 0..size {
            let mut row = [0.0; BAND];
            let mut pivot = matrix[(i, i)] + shift;
            for j in i.saturating_sub(BAND)..i {
                // Row j ends where column j of row i begins.
                let (k, shared) = (j + BAND - i, &left[j][i - j..]);
                let sum: f64 = row.iter().zip(shared).map(|(a, b)| a * b).sum();
                row[k] = (matrix[(i, j)] - sum) * inverse[j];
                pivot -= row[k] * row[k];
            }
            if pivot.is_nan() || pivot <= floor {
                return None;
            }
            left.push(row);
            inverse.push(1.0 / pivot.sqrt());
        }
        Some(Self { left, inverse })
    }

    /// `n`
    pub(crate) fn size(&self) -> usize {
        self.left.len()
    }

    /// `L⁻¹` times columns `[n, m]`, row-major, to `out`, and the sums of the squares of what comes out, `[m]`. `m` is a multiple
    /// of [`LANES`]. The bits of a column depend on nothing but the column.
    pub(crate) fn forward(&self, columns: &[f64], out: &mut [f64], squares: &mut [f64]) {
        Arch::new().dispatch(Forward { factor: self, columns, out, squares });
    }

    /// Replaces a column `[n]` by `B⁻¹` times it.
    pub(crate) fn solve(&self, mut column: ColMut<'_, f64>) {
        for (i, (left, inverse)) in self.left.iter().zip(&self.inverse).enumerate() {
            let start = i.saturating_sub(BAND);
            let sum: f64 = (start..i).zip(&left[start + BAND - i..]).map(|(j, l)| l * column[j]).sum();
            column[i] = (column[i] - sum) * inverse;
        }
        for (i, (left, inverse)) in self.left.iter().zip(&self.inverse).enumerate().rev() {
            column[i] *= inverse;
            let (start, value) = (i.saturating_sub(BAND), column[i]);
            (start..i).zip(&left[start + BAND - i..]).for_each(|(j, l)| column[j] -= l * value);
        }
    }
}

/// The operation of [`BandCholesky::forward`].
struct Forward<'a> {
    factor: &'a BandCholesky,
    columns: &'a [f64],
    out: &'a mut [f64],
    squares: &'a mut [f64],
}

impl Forward<'_> {
    /// A row of [`LANES`] columns takes `V` registers.
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let width = self.squares.len();
        for first in (0..width).step_by(LANES) {
            let mut squares = [simd.splat_f64s(0.0); V];
            for (i, (left, &inverse)) in self.factor.left.iter().zip(&self.factor.inverse).enumerate() {
                let (done, rest) = self.out.split_at_mut(i * width);
                let mut sums = [simd.splat_f64s(0.0); V];
                sums.copy_from_slice(registers::<S>(&self.columns[i * width + first..]));
                let start = i.saturating_sub(BAND);
                let rows = done[start * width..].chunks_exact(width);
                for (row, &factor) in rows.zip(&left[start + BAND - i..]) {
                    let (factor, row) = (simd.splat_f64s(-factor), registers::<S>(&row[first..]));
                    for v in 0..V {
                        sums[v] = simd.mul_add_f64s(factor, row[v], sums[v]);
                    }
                }
                let inverse = simd.splat_f64s(inverse);
                for v in 0..V {
                    sums[v] = simd.mul_f64s(sums[v], inverse);
                    squares[v] = simd.mul_add_f64s(sums[v], sums[v], squares[v]);
                }
                S::as_mut_simd_f64s(&mut rest[first..first + LANES]).0.copy_from_slice(&sums);
            }
            S::as_mut_simd_f64s(&mut self.squares[first..first + LANES]).0.copy_from_slice(&squares);
        }
    }
}

/// [`LANES`] values.
#[inline(always)]
fn registers<S: Simd>(values: &[f64]) -> &[S::f64s] {
    S::as_simd_f64s(&values[..LANES]).0
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match LANES / S::F64_LANES {
            4 => self.run::<S, 4>(simd),
            8 => self.run::<S, 8>(simd),
            16 => self.run::<S, 16>(simd),
            _ => self.run::<S, LANES>(simd),
        }
    }
}

#[cfg(test)]
mod tests {
    use faer::{Mat, MatRef};

    use super::*;
    use crate::random::Keyed;
    use crate::vector::processors;

    /// Not there to be looked at.
    const OUTSIDE: f64 = f64::NAN;

    /// The lower triangle of a band whose diagonal outweighs the rest of its row; column-major.
    fn band(size: usize) -> Vec<f64> {
        let mut random = Keyed::new(&[size as u64]);
        let mut value = |k: usize| match (k % size).checked_sub(k / size) {
            Some(0) => 2.0 * BAND as f64,
            Some(1..=BAND) => 2.0 * random.uniform() - 1.0,
            _ => OUTSIDE,
        };
        (0..size * size).map(&mut value).collect()
    }

    fn whole(lower: &[f64], size: usize, shift: f64) -> Mat<f64> {
        let lower = MatRef::from_column_major_slice(lower, size, size);
        Mat::from_fn(size, size, |i, j| match i.abs_diff(j) {
            0 => lower[(i, i)] + shift,
            1..=BAND => lower[(i.max(j), i.min(j))],
            _ => 0.0,
        })
    }

    fn columns(size: usize) -> Vec<f64> {
        (0..size * 2 * LANES).map(|k| (k as f64 * 0.7).sin()).collect()
    }

    /// What comes out, and the sums of its squares.
    fn forward(factor: &BandCholesky, columns: &[f64], arch: Arch) -> (Vec<f64>, Vec<f64>) {
        let mut out = vec![OUTSIDE; columns.len()];
        let mut squares = vec![OUTSIDE; columns.len() / factor.size()];
        arch.dispatch(Forward { factor, columns, out: &mut out, squares: &mut squares });
        (out, squares)
    }

    #[test]
    fn bands_of_every_size_are_solved() {
        for size in [1, 2, BAND, BAND + 1, 5 * BAND + 3] {
            let lower = band(size);
            let factor = BandCholesky::new(&Lower::from_columns(lower.clone(), size), 1.5).unwrap();
            let right = columns(size);
            let right = MatRef::from_row_major_slice(&right, size, 2 * LANES);
            let mut solution = right.to_owned();
            solution.as_mut().col_iter_mut().for_each(|column| factor.solve(column));
            let error = (whole(&lower, size, 1.5) * &solution - right).norm_l2() / right.norm_l2();
            assert!(error < 1e-14, "{size}: {error:e}");
        }
    }

    /// `(L⁻¹ X)ᵀ L⁻¹ X = Xᵀ B⁻¹ X`
    #[test]
    fn half_solved_columns_have_the_products_that_solved_ones_have_with_the_others() {
        for size in [1, BAND + 1, 5 * BAND + 3] {
            let factor = BandCholesky::new(&Lower::from_columns(band(size), size), 0.0).unwrap();
            let right = columns(size);
            let (half, squares) = forward(&factor, &right, Arch::new());
            let half = MatRef::from_row_major_slice(&half, size, 2 * LANES);
            let right = MatRef::from_row_major_slice(&right, size, 2 * LANES);
            let mut solution = right.to_owned();
            solution.as_mut().col_iter_mut().for_each(|column| factor.solve(column));
            let (found, expected) = (half.transpose() * half, right.transpose() * &solution);
            assert!((&found - &expected).norm_l2() < 1e-14 * expected.norm_l2(), "{size}");
            for (k, square) in squares.iter().enumerate() {
                assert!((square - found[(k, k)]).abs() <= 1e-14 * square, "{size}: column {k}");
            }
        }
    }

    #[test]
    fn every_processor_gives_the_same_bits_wherever_a_column_stands() {
        let size = 3 * BAND + 1;
        let factor = BandCholesky::new(&Lower::from_columns(band(size), size), 0.0).unwrap();
        let right = columns(size);
        let (out, squares) = forward(&factor, &right, Arch::new());
        for arch in processors() {
            assert_eq!(forward(&factor, &right, arch), (out.clone(), squares.clone()), "{arch:?}");
        }
        let turned = |values: &[f64]| -> Vec<f64> {
            let turn = |row: &[f64]| [&row[5..], &row[..5]].concat();
            values.chunks_exact(2 * LANES).flat_map(turn).collect()
        };
        assert_eq!(forward(&factor, &turned(&right), Arch::new()), (turned(&out), turned(&squares)));
    }

    #[test]
    fn a_band_that_is_not_positive_definite_beyond_rounding_has_no_factor() {
        let ones = |size: usize| Lower::from_columns(vec![1.0; size * size], size);
        for size in [2, BAND + 1] {
            assert!(BandCholesky::new(&ones(size), 1e-16).is_none());
            assert!(BandCholesky::new(&ones(size), 1e-12).is_some());
            assert!(BandCholesky::new(&ones(size), -2.0).is_none());
        }
        assert!(BandCholesky::new(&Lower::from_columns(vec![f64::NAN], 1), 1.0).is_none());
    }
}
