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

/// The Cholesky factor `L` of a band matrix `B = L Lᵀ`, `[n, n]`. `L` is a band too, so a factorization or a
/// solution takes time proportional to `n`.
#[derive(Clone, Debug)]
pub(crate) struct BandCholesky {
    /// The [`BANDWIDTH`] entries of `L` left of the diagonal of each row, the nearest to the diagonal last;
    /// entries that would be left of the first column are 0.
    off_diagonal: Vec<[f64; BANDWIDTH]>,
    /// Reciprocals of the diagonal of `L`, `[n]`.
    inverse_diagonal: Vec<f64>,
}

impl BandCholesky {
    /// Computes the Cholesky factor `L` of a band matrix `B = L Lᵀ` `[n, n]`, to solve systems with `B`. `B`
    /// has the main and the lower [`BANDWIDTH`] diagonals of `matrix` (other entries count as 0), with
    /// `shift`, such as the penalty of a ridge regression, added to the main diagonal. `None` if `B` is not
    /// positive definite beyond rounding: if a pivot is at most `n ε` times the largest diagonal value.
    pub(crate) fn factorize(matrix: &LowerTriangular, shift: f64) -> Option<Self> {
        let size = matrix.size();
        let min_pivot = size as f64 * f64::EPSILON * (matrix.diagonal().fold(0.0, f64::max) + shift);
        let matrix = matrix.as_ref();
        let (mut off_diagonal, mut inverse_diagonal) =
            (Vec::<[f64; BANDWIDTH]>::with_capacity(size), Vec::with_capacity(size));
        for i in 0..size {
            // Row i of `L` left of the diagonal, and the square of its diagonal entry.
            let mut row = [0.0; BANDWIDTH];
            let mut pivot = matrix[(i, i)] + shift;
            for j in i.saturating_sub(BANDWIDTH)..i {
                // `row[k]` is entry (i, j) of `L`. Rows i and j both have entries for the columns from
                // `i - BANDWIDTH` to `j - 1`: at the start of `row`, and from `i - j` on in row j.
                let (k, overlap) = (j + BANDWIDTH - i, &off_diagonal[j][i - j..]);
                let sum: f64 = row.iter().zip(overlap).map(|(a, b)| a * b).sum();
                row[k] = (matrix[(i, j)] - sum) * inverse_diagonal[j];
                pivot -= row[k] * row[k];
            }
            if pivot.is_nan() || pivot <= min_pivot {
                return None;
            }
            off_diagonal.push(row);
            inverse_diagonal.push(1.0 / pivot.sqrt());
        }
        Some(Self { off_diagonal, inverse_diagonal })
    }

    /// Number of rows, `n`.
    pub(crate) fn size(&self) -> usize {
        self.off_diagonal.len()
    }

    /// Solves `L X = columns` by forward substitution, for `columns` `[n, m]` (row-major). Writes `X`
    /// `[n, m]` to `out` and the squared norm of each column of `X` to `squares` `[m]`; leave-one-out errors
    /// of a ridge regression are computed from both. `m` is a multiple of [`LANES`]. The bits of a column
    /// depend on that column only.
    pub(crate) fn forward_substitute(&self, columns: &[f64], out: &mut [f64], squares: &mut [f64]) {
        Arch::new().dispatch(ForwardSubstitution { factor: self, columns, out, squares });
    }

    /// Solves `B x = b` with the factored band matrix `B = L Lᵀ`, for one `column` `b` `[n]`, which is
    /// replaced by `x`: forward substitution with `L`, then backward substitution with `Lᵀ`.
    pub(crate) fn solve(&self, mut column: ColMut<'_, f64>) {
        // Row i of `off_diagonal` holds columns i - BANDWIDTH to i - 1; `start` is the first that exists.
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

/// The arguments of [`BandCholesky::forward_substitute`], for pulp, which compiles the computation for
/// several SIMD instruction sets and picks one at run time.
struct ForwardSubstitution<'a> {
    factor: &'a BandCholesky,
    /// Right-hand sides, `[n, m]`, row-major.
    columns: &'a [f64],
    /// Receives the solutions, `[n, m]`, row-major.
    out: &'a mut [f64],
    /// Receives the squared norm of each solution, `[m]`.
    squares: &'a mut [f64],
}

impl ForwardSubstitution<'_> {
    /// Solves `L X = columns` by forward substitution with the SIMD instructions `S`, for the right-hand
    /// sides `self.columns` `[n, m]`. Writes `X` `[n, m]` to `self.out` and the squared norm of each column
    /// of `X` to `self.squares` `[m]`; matrices are row-major. [`LANES`] columns are solved at a time: their
    /// values in one row take `V` SIMD registers.
    #[inline(always)]
    fn substitute<S: Simd, const V: usize>(self, simd: S) {
        let width = self.squares.len();
        for first_column in (0..width).step_by(LANES) {
            let mut squares = [simd.splat_f64s(0.0); V];
            for (i, (off_diagonal, &inverse_diagonal)) in
                self.factor.off_diagonal.iter().zip(&self.factor.inverse_diagonal).enumerate()
            {
                let (solved, unsolved) = self.out.split_at_mut(i * width);
                let mut sums = [simd.splat_f64s(0.0); V];
                sums.copy_from_slice(registers::<S>(&self.columns[i * width + first_column..]));
                // Subtracts the earlier rows of the solution times their entries in row i of L.
                let start = i.saturating_sub(BANDWIDTH);
                let rows = solved[start * width..].chunks_exact(width);
                for (row, &entry) in rows.zip(&off_diagonal[start + BANDWIDTH - i..]) {
                    let (minus_entry, row) = (simd.splat_f64s(-entry), registers::<S>(&row[first_column..]));
                    for v in 0..V {
                        sums[v] = simd.mul_add_f64s(minus_entry, row[v], sums[v]);
                    }
                }
                let inverse_diagonal = simd.splat_f64s(inverse_diagonal);
                for v in 0..V {
                    sums[v] = simd.mul_f64s(sums[v], inverse_diagonal);
                    squares[v] = simd.mul_add_f64s(sums[v], sums[v], squares[v]);
                }
                S::as_mut_simd_f64s(&mut unsolved[first_column..first_column + LANES])
                    .0
                    .copy_from_slice(&sums);
            }
            let out = &mut self.squares[first_column..first_column + LANES];
            S::as_mut_simd_f64s(out).0.copy_from_slice(&squares);
        }
    }
}

/// The first [`LANES`] values as SIMD vectors.
#[inline(always)]
fn registers<S: Simd>(values: &[f64]) -> &[S::f64s] {
    S::as_simd_f64s(&values[..LANES]).0
}

impl WithSimd for ForwardSubstitution<'_> {
    type Output = ();

    /// Runs the forward substitution with the SIMD instructions `S` that pulp chose for the processor. The
    /// generic constant is the number of registers that hold [`LANES`] values (one row of the columns that
    /// are solved at a time). It must be a constant, so there is a case for each.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match LANES / S::F64_LANES {
            // AVX-512
            4 => self.substitute::<S, 4>(simd),
            // AVX2
            8 => self.substitute::<S, 8>(simd),
            // NEON
            16 => self.substitute::<S, 16>(simd),
            // No SIMD: one value per register.
            _ => self.substitute::<S, LANES>(simd),
        }
    }
}

#[cfg(test)]
mod tests {
    use faer::{Mat, MatRef};
    use headstock_split::KeyedRng;

    use super::*;
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
                BandCholesky::factorize(&LowerTriangular::from_column_major(lower.clone(), size), 1.5)
                    .unwrap();
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
                BandCholesky::factorize(&LowerTriangular::from_column_major(band(size), size), 0.0).unwrap();
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
        let factor =
            BandCholesky::factorize(&LowerTriangular::from_column_major(band(size), size), 0.0).unwrap();
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
            assert!(BandCholesky::factorize(&ones(size), 1e-16).is_none());
            assert!(BandCholesky::factorize(&ones(size), 1e-12).is_some());
            assert!(BandCholesky::factorize(&ones(size), -2.0).is_none());
        }
        assert!(
            BandCholesky::factorize(&LowerTriangular::from_column_major(vec![f64::NAN], 1), 1.0).is_none()
        );
    }
}
