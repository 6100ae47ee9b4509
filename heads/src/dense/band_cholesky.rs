//! Cholesky factorization of band matrices.

use faer::ColMut;
use pulp::{Arch, Simd, WithSimd};

use super::gram::LowerTriangular;

/// Number of diagonals below the main one. Twice as many are found slightly sooner, but take longer to solve
/// and twice the memory.
pub(crate) const BANDWIDTH: usize = 16;
/// Columns solved together: four AVX-512 registers of `f64`, eight AVX ones. This hides the latency of the
/// products, each of which needs the previous one.
pub(crate) const LANES: usize = 32;

/// The factor `L` of `B = L Lᵀ`.
#[derive(Clone, Debug)]
pub(crate) struct BandCholesky {
    /// The entries left of the diagonal of each row, the nearest last.
    off_diagonal: Vec<[f64; BANDWIDTH]>,
    /// Reciprocals of the diagonal.
    inverse_diagonal: Vec<f64>,
}

impl BandCholesky {
    /// Factors the lower diagonals of a matrix (the others count as 0) with `shift` added to its diagonal.
    ///
    /// `None` if the matrix is not positive definite beyond rounding: if a pivot is at most `n ε` times the
    /// largest diagonal value.
    pub(crate) fn new(matrix: &LowerTriangular, shift: f64) -> Option<Self> {
        let size = matrix.size();
        let floor = size as f64 * f64::EPSILON * (matrix.diagonal().fold(0.0, f64::max) + shift);
        let matrix = matrix.as_ref();
        let (mut off_diagonal, mut inverse_diagonal) =
            (Vec::<[f64; BANDWIDTH]>::with_capacity(size), Vec::with_capacity(size));
        for i in 0..size {
            let mut row = [0.0; BANDWIDTH];
            let mut pivot = matrix[(i, i)] + shift;
            for j in i.saturating_sub(BANDWIDTH)..i {
                // Row j ends where column j of row i begins.
                let (k, overlap) = (j + BANDWIDTH - i, &off_diagonal[j][i - j..]);
                let sum: f64 = row.iter().zip(overlap).map(|(a, b)| a * b).sum();
                row[k] = (matrix[(i, j)] - sum) * inverse_diagonal[j];
                pivot -= row[k] * row[k];
            }
            if pivot.is_nan() || pivot <= floor {
                return None;
            }
            off_diagonal.push(row);
            inverse_diagonal.push(1.0 / pivot.sqrt());
        }
        Some(Self { off_diagonal, inverse_diagonal })
    }

    /// `n`
    pub(crate) fn size(&self) -> usize {
        self.off_diagonal.len()
    }

    /// Forward substitution: writes `L⁻¹` times columns `[n, m]` (row-major) to `out`, and the squared norm
    /// of each result column to `squares` `[m]`. `m` is a multiple of [`LANES`]. The bits of a column depend
    /// on that column only.
    pub(crate) fn forward_substitute(&self, columns: &[f64], out: &mut [f64], squares: &mut [f64]) {
        Arch::new().dispatch(ForwardSubstitution { factor: self, columns, out, squares });
    }

    /// Replaces a column `b` `[n]` by `B⁻¹ b`.
    pub(crate) fn solve(&self, mut column: ColMut<'_, f64>) {
        for (i, (off_diagonal, inverse_diagonal)) in
            self.off_diagonal.iter().zip(&self.inverse_diagonal).enumerate()
        {
            let start = i.saturating_sub(BANDWIDTH);
            let sum: f64 =
                (start..i).zip(&off_diagonal[start + BANDWIDTH - i..]).map(|(j, l)| l * column[j]).sum();
            column[i] = (column[i] - sum) * inverse_diagonal;
        }
        for (i, (off_diagonal, inverse_diagonal)) in
            self.off_diagonal.iter().zip(&self.inverse_diagonal).enumerate().rev()
        {
            column[i] *= inverse_diagonal;
            let (start, value) = (i.saturating_sub(BANDWIDTH), column[i]);
            (start..i).zip(&off_diagonal[start + BANDWIDTH - i..]).for_each(|(j, l)| column[j] -= l * value);
        }
    }
}

/// The SIMD operation of [`BandCholesky::forward_substitute`].
struct ForwardSubstitution<'a> {
    factor: &'a BandCholesky,
    columns: &'a [f64],
    out: &'a mut [f64],
    squares: &'a mut [f64],
}

impl ForwardSubstitution<'_> {
    /// A row of [`LANES`] columns takes `V` registers.
    #[inline(always)]
    fn substitute<S: Simd, const V: usize>(self, simd: S) {
        let width = self.squares.len();
        for first in (0..width).step_by(LANES) {
            let mut squares = [simd.splat_f64s(0.0); V];
            for (i, (off_diagonal, &inverse_diagonal)) in
                self.factor.off_diagonal.iter().zip(&self.factor.inverse_diagonal).enumerate()
            {
                let (solved, rest) = self.out.split_at_mut(i * width);
                let mut sums = [simd.splat_f64s(0.0); V];
                sums.copy_from_slice(registers::<S>(&self.columns[i * width + first..]));
                let start = i.saturating_sub(BANDWIDTH);
                let rows = solved[start * width..].chunks_exact(width);
                for (row, &factor) in rows.zip(&off_diagonal[start + BANDWIDTH - i..]) {
                    let (factor, row) = (simd.splat_f64s(-factor), registers::<S>(&row[first..]));
                    for v in 0..V {
                        sums[v] = simd.mul_add_f64s(factor, row[v], sums[v]);
                    }
                }
                let inverse_diagonal = simd.splat_f64s(inverse_diagonal);
                for v in 0..V {
                    sums[v] = simd.mul_f64s(sums[v], inverse_diagonal);
                    squares[v] = simd.mul_add_f64s(sums[v], sums[v], squares[v]);
                }
                S::as_mut_simd_f64s(&mut rest[first..first + LANES]).0.copy_from_slice(&sums);
            }
            S::as_mut_simd_f64s(&mut self.squares[first..first + LANES]).0.copy_from_slice(&squares);
        }
    }
}

/// The first [`LANES`] values as SIMD registers.
#[inline(always)]
fn registers<S: Simd>(values: &[f64]) -> &[S::f64s] {
    S::as_simd_f64s(&values[..LANES]).0
}

impl WithSimd for ForwardSubstitution<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match LANES / S::F64_LANES {
            4 => self.substitute::<S, 4>(simd),
            8 => self.substitute::<S, 8>(simd),
            16 => self.substitute::<S, 16>(simd),
            _ => self.substitute::<S, LANES>(simd),
        }
    }
}

#[cfg(test)]
mod tests {
    use faer::{Mat, MatRef};

    use super::*;
    use crate::random::KeyedRng;
    use crate::vector::available_archs;

    /// Marks entries that must not be read.
    const UNREAD: f64 = f64::NAN;

    /// The lower triangle of a diagonally dominant band matrix, column-major.
    fn band(size: usize) -> Vec<f64> {
        let mut rng = KeyedRng::new(&[size as u64]);
        let mut value = |k: usize| match (k % size).checked_sub(k / size) {
            Some(0) => 2.0 * BANDWIDTH as f64,
            Some(1..=BANDWIDTH) => 2.0 * rng.uniform() - 1.0,
            _ => UNREAD,
        };
        (0..size * size).map(&mut value).collect()
    }

    fn to_dense(lower: &[f64], size: usize, shift: f64) -> Mat<f64> {
        let lower = MatRef::from_column_major_slice(lower, size, size);
        Mat::from_fn(size, size, |i, j| match i.abs_diff(j) {
            0 => lower[(i, i)] + shift,
            1..=BANDWIDTH => lower[(i.max(j), i.min(j))],
            _ => 0.0,
        })
    }

    fn test_columns(size: usize) -> Vec<f64> {
        (0..size * 2 * LANES).map(|k| (k as f64 * 0.7).sin()).collect()
    }

    /// The result columns and their squared norms.
    fn forward_substitute_on(factor: &BandCholesky, columns: &[f64], arch: Arch) -> (Vec<f64>, Vec<f64>) {
        let mut out = vec![UNREAD; columns.len()];
        let mut squares = vec![UNREAD; columns.len() / factor.size()];
        arch.dispatch(ForwardSubstitution { factor, columns, out: &mut out, squares: &mut squares });
        (out, squares)
    }

    #[test]
    fn bands_of_every_size_are_solved() {
        for size in [1, 2, BANDWIDTH, BANDWIDTH + 1, 5 * BANDWIDTH + 3] {
            let lower = band(size);
            let factor =
                BandCholesky::new(&LowerTriangular::from_column_major(lower.clone(), size), 1.5).unwrap();
            let rhs = test_columns(size);
            let rhs = MatRef::from_row_major_slice(&rhs, size, 2 * LANES);
            let mut solution = rhs.to_owned();
            solution.as_mut().col_iter_mut().for_each(|column| factor.solve(column));
            let error = (to_dense(&lower, size, 1.5) * &solution - rhs).norm_l2() / rhs.norm_l2();
            assert!(error < 1e-14, "{size}: {error:e}");
        }
    }

    /// `(L⁻¹ X)ᵀ L⁻¹ X = Xᵀ B⁻¹ X`
    #[test]
    fn forward_substitution_alone_gives_the_quadratic_form() {
        for size in [1, BANDWIDTH + 1, 5 * BANDWIDTH + 3] {
            let factor =
                BandCholesky::new(&LowerTriangular::from_column_major(band(size), size), 0.0).unwrap();
            let rhs = test_columns(size);
            let (half, squares) = forward_substitute_on(&factor, &rhs, Arch::new());
            let half = MatRef::from_row_major_slice(&half, size, 2 * LANES);
            let rhs = MatRef::from_row_major_slice(&rhs, size, 2 * LANES);
            let mut solution = rhs.to_owned();
            solution.as_mut().col_iter_mut().for_each(|column| factor.solve(column));
            let (found, expected) = (half.transpose() * half, rhs.transpose() * &solution);
            assert!((&found - &expected).norm_l2() < 1e-14 * expected.norm_l2(), "{size}");
            for (k, square) in squares.iter().enumerate() {
                assert!((square - found[(k, k)]).abs() <= 1e-14 * square, "{size}: column {k}");
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_processor_or_column_position() {
        let size = 3 * BANDWIDTH + 1;
        let factor = BandCholesky::new(&LowerTriangular::from_column_major(band(size), size), 0.0).unwrap();
        let rhs = test_columns(size);
        let (out, squares) = forward_substitute_on(&factor, &rhs, Arch::new());
        for arch in available_archs() {
            assert_eq!(
                forward_substitute_on(&factor, &rhs, arch),
                (out.clone(), squares.clone()),
                "{arch:?}"
            );
        }
        let rotated = |values: &[f64]| -> Vec<f64> {
            let rotate = |row: &[f64]| [&row[5..], &row[..5]].concat();
            values.chunks_exact(2 * LANES).flat_map(rotate).collect()
        };
        assert_eq!(
            forward_substitute_on(&factor, &rotated(&rhs), Arch::new()),
            (rotated(&out), rotated(&squares))
        );
    }

    #[test]
    fn a_band_that_is_not_positive_definite_beyond_rounding_has_no_factor() {
        let ones = |size: usize| LowerTriangular::from_column_major(vec![1.0; size * size], size);
        for size in [2, BANDWIDTH + 1] {
            assert!(BandCholesky::new(&ones(size), 1e-16).is_none());
            assert!(BandCholesky::new(&ones(size), 1e-12).is_some());
            assert!(BandCholesky::new(&ones(size), -2.0).is_none());
        }
        assert!(BandCholesky::new(&LowerTriangular::from_column_major(vec![f64::NAN], 1), 1.0).is_none());
    }
}
