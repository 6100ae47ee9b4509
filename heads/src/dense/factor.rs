//! Factorizations of symmetric matrices and their solvers.

use faer::diag::DiagMut;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltParams, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::evd::{
    ComputeEigenvectors, SelfAdjointEvdParams, self_adjoint_evd, self_adjoint_evd_scratch,
};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Accum, Auto, Mat, MatMut, MatRef, Par, Spec};
use rayon::prelude::*;

use super::Real;
use super::gram::{LowerTriangular, tiles};
use crate::error::HeadError;

/// Columns eliminated at a time, and side of the tiles of the trailing matrix.
const PANEL_COLUMNS: usize = 192;
/// Columns of a result per parallel task.
const COLUMNS_PER_TASK: usize = 64;

/// The Cholesky factor `L` of a symmetric positive definite matrix `A = L Lᵀ`, to solve `A X = B`.
#[derive(Clone, Debug)]
pub(crate) struct Cholesky<T = f64> {
    lower: LowerTriangular<T>,
}

impl<T: Real> Cholesky<T> {
    /// Computes the Cholesky factor `L` of a symmetric positive definite matrix `A = L Lᵀ` in the memory of
    /// `matrix`, to solve systems with `A`. `None` if `A` is not positive definite beyond rounding: if a
    /// pivot (the square of a diagonal entry of `L`) is at most `n ε` times the largest diagonal value of
    /// `A`, the relative tolerance of numpy's `matrix_rank`.
    pub(crate) fn factorize(matrix: LowerTriangular<T>) -> Option<Self> {
        let largest = matrix.diagonal().fold(0.0, f64::max);
        let min_pivot = matrix.size() as f64 * T::epsilon_impl().into() * largest;
        let factor = Self::factorize_roughly(matrix)?;
        let is_definite = factor.lower.diagonal().all(|root| root * root > min_pivot);
        is_definite.then_some(factor)
    }

    /// Computes the Cholesky factor `L` of a symmetric matrix `A = L Lᵀ` in the memory of `matrix`, by blocks
    /// of columns and in parallel. Unlike [`factorize`](Self::factorize) it accepts any positive pivots
    /// (squares of the diagonal entries of `L`), even if they are only rounding errors: good enough for the
    /// preconditioner of an iterative solver. `None` if a pivot is not positive.
    pub(crate) fn factorize_roughly(mut matrix: LowerTriangular<T>) -> Option<Self> {
        let mut unfactored = matrix.as_mut();
        while unfactored.nrows() > 0 {
            let width = unfactored.nrows().min(PANEL_COLUMNS);
            let (panel, other_columns) = unfactored.split_at_col_mut(width);
            let (mut diagonal, mut below) = panel.split_at_row_mut(width);
            factor_tile(diagonal.as_mut())?;
            let diagonal = diagonal.as_ref();
            row_chunks(below.as_mut(), COLUMNS_PER_TASK).into_par_iter().for_each(|(_, chunk)| {
                solve_lower_triangular_in_place(diagonal, chunk.transpose_mut(), Par::Seq);
            });
            // The rest of the matrix, minus the product of the finished columns.
            let (mut trailing, below) = (other_columns.split_at_row_mut(width).1, below.as_ref());
            tiles(trailing.as_mut(), PANEL_COLUMNS).into_par_iter().for_each(|mut tile| {
                let (rows, columns) = (tile.rows(), tile.columns());
                let row_factors = below.subrows(rows.start, rows.len());
                let column_factors = below.subrows(columns.start, columns.len());
                tile.add_product(row_factors, column_factors, T::from_f64(-1.0));
            });
            unfactored = trailing;
        }
        Some(Self { lower: matrix })
    }

    /// Solves `A X = rhs` with the factored matrix `A = L Lᵀ`, by forward substitution with `L` and backward
    /// substitution with `Lᵀ`; `rhs` and the returned `X` are `[n, m]`. In parallel over the columns.
    pub(crate) fn solve(&self, mut rhs: Mat<T>) -> Mat<T> {
        let factor = self.lower.as_ref();
        column_chunks(rhs.as_mut(), COLUMNS_PER_TASK).into_par_iter().for_each(|(_, mut chunk)| {
            solve_lower_triangular_in_place(factor, chunk.as_mut(), Par::Seq);
            solve_upper_triangular_in_place(factor.transpose(), chunk, Par::Seq);
        });
        rhs
    }
}

/// Replaces a tile on the diagonal by its Cholesky factor, on the calling thread; `None` when a pivot is not
/// positive.
pub(crate) fn factor_tile<T: Real>(matrix: MatMut<'_, T>) -> Option<()> {
    let params = Spec::<LltParams, T>::new(Auto::<T>::auto());
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<T>(matrix.nrows(), Par::Seq, params));
    let stack = MemStack::new(&mut memory);
    cholesky_in_place(matrix, Default::default(), Par::Seq, stack, params).ok().map(drop)
}

/// Eigenvectors `V` and ascending eigenvalues `λ` of a symmetric matrix `A = V diag(λ) Vᵀ`, to solve systems
/// for which `A` is too close to singular for a Cholesky factor.
#[derive(Clone, Debug)]
pub(crate) struct EigenDecomposition {
    /// `λ`, `[n]`; values that are negative by rounding are set to 0.
    values: Vec<f64>,
    /// `V`, `[n, n]`, one vector per column.
    vectors: Mat<f64>,
}

impl EigenDecomposition {
    /// Computes all eigenvalues and eigenvectors of a symmetric positive semidefinite matrix, on the calling
    /// thread, to solve systems for which a Cholesky factor does not exist. Eigenvalues that are negative by
    /// rounding become 0.
    ///
    /// # Errors
    /// [`HeadError::Diverged`] when the iteration does not converge.
    pub(crate) fn decompose(matrix: &LowerTriangular) -> Result<Self, HeadError> {
        let size = matrix.size();
        let (mut values, mut vectors) = (vec![0.0; size], Mat::zeros(size, size));
        let params = Spec::<SelfAdjointEvdParams, f64>::new(Auto::<f64>::auto());
        let scratch = self_adjoint_evd_scratch::<f64>(size, ComputeEigenvectors::Yes, Par::Seq, params);
        let mut memory = MemBuffer::new(scratch);
        let stack = MemStack::new(&mut memory);
        let diagonal = DiagMut::from_slice_mut(&mut values);
        self_adjoint_evd(matrix.as_ref(), diagonal, Some(vectors.as_mut()), Par::Seq, stack, params)
            .map_err(|_| {
                let problem =
                    "the eigenvalues of the features' covariance did not converge: use a different head";
                HeadError::Diverged(problem.into())
            })?;
        values.iter_mut().for_each(|value| *value = value.max(0.0));
        Ok(Self { values, vectors })
    }

    /// Solves `(A + shift I) X = rhs` for a matrix `A` that may be singular, with `shift >= 0` and columns
    /// `rhs` `[n, m]` in the span of `A`; returns `X`. Eigenvectors whose eigenvalue is 0 up to rounding are
    /// left out: along them `rhs` has only rounding errors, which a division would blow up. With a `shift` of
    /// 0 it is the least-squares solution by the pseudo-inverse, as in LAPACK's `gelsd` (scipy's `lstsq`),
    /// but eigenvalues up to `n ε` times the largest one count as 0; there it is `ε` times.
    pub(crate) fn pseudo_solve(&self, shift: f64, rhs: MatRef<'_, f64>) -> Mat<f64> {
        let largest = self.values.last().copied().unwrap_or_default();
        let rounding = self.values.len() as f64 * f64::EPSILON * largest;
        let inverse = |&value: &f64| if value > rounding { 1.0 / (value + shift) } else { 0.0 };
        let factors: Vec<f64> = self.values.iter().map(inverse).collect();
        let mut coordinates = parallel_matmul(self.vectors.transpose(), rhs);
        for column in coordinates.col_iter_mut() {
            for (value, factor) in column.iter_mut().zip(&factors) {
                *value *= factor;
            }
        }
        parallel_matmul(self.vectors.as_ref(), coordinates.as_ref())
    }
}

/// Returns the matrix product `left · right`, computed in parallel over blocks of its columns, for products
/// with all eigenvectors of a matrix.
fn parallel_matmul(left: MatRef<'_, f64>, right: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(left.nrows(), right.ncols());
    column_chunks(out.as_mut(), COLUMNS_PER_TASK).into_par_iter().for_each(|(first, chunk)| {
        let right = right.subcols(first, chunk.ncols());
        matmul(chunk, Accum::Replace, left, right, 1.0, Par::Seq);
    });
    out
}

/// Splits a matrix into blocks of at most `max_columns` columns for parallel tasks. Returns pairs of the
/// index of a block's first column, and the block.
pub(super) fn column_chunks<T>(matrix: MatMut<'_, T>, max_columns: usize) -> Vec<(usize, MatMut<'_, T>)> {
    let (mut chunks, mut rest, mut first) = (Vec::new(), matrix, 0);
    while rest.ncols() > 0 {
        let width = rest.ncols().min(max_columns);
        let (chunk, right) = rest.split_at_col_mut(width);
        chunks.push((first, chunk));
        (rest, first) = (right, first + width);
    }
    chunks
}

/// Splits a matrix into blocks of at most `max_rows` rows for parallel tasks. Returns pairs of the index of a
/// block's first row, and the block.
pub(super) fn row_chunks<T>(matrix: MatMut<'_, T>, max_rows: usize) -> Vec<(usize, MatMut<'_, T>)> {
    let transposed = column_chunks(matrix.transpose_mut(), max_rows);
    transposed.into_iter().map(|(first, chunk)| (first, chunk.transpose_mut())).collect()
}

/// A test matrix `B Bᵀ` `[size, size]`, column-major, for a random `B` `[size, rank]`: positive semidefinite
/// with this rank.
#[cfg(test)]
pub(super) fn random_positive_semidefinite(size: usize, rank: usize) -> Vec<f64> {
    let mut rng = headstock_split::KeyedRng::new(&[size as u64, rank as u64]);
    let factor = Mat::from_fn(size, rank, |_, _| rng.uniform() - 0.5);
    let square = parallel_matmul(factor.as_ref(), factor.transpose());
    square.col_iter().flat_map(|column| column.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `|A X - B| / |B|`
    fn residual(values: &[f64], solution: &Mat<f64>, rhs: &Mat<f64>) -> f64 {
        let matrix = MatRef::from_column_major_slice(values, rhs.nrows(), rhs.nrows());
        (parallel_matmul(matrix, solution.as_ref()) - rhs).norm_l2() / rhs.norm_l2()
    }

    #[test]
    fn systems_of_several_panels_are_solved() {
        for size in [1, PANEL_COLUMNS, 2 * PANEL_COLUMNS + 31] {
            let values = random_positive_semidefinite(size, size + 50);
            let rhs = Mat::from_fn(size, COLUMNS_PER_TASK + 3, |i, j| ((i * 7 + j * 3) % 11) as f64 - 5.0);
            let matrix = LowerTriangular::from_column_major(values.clone(), size);
            let by_eigen = EigenDecomposition::decompose(&matrix).unwrap().pseudo_solve(0.0, rhs.as_ref());
            assert!(residual(&values, &by_eigen, &rhs) < 1e-9, "{size} by eigenvectors");
            let by_cholesky = Cholesky::factorize(matrix).unwrap().solve(rhs.clone());
            assert!(residual(&values, &by_cholesky, &rhs) < 1e-9, "{size} by Cholesky");
        }
    }

    #[test]
    fn a_singular_matrix_has_no_cholesky_factor_and_is_solved_where_it_can_be() {
        let values = random_positive_semidefinite(40, 12);
        assert!(Cholesky::factorize(LowerTriangular::from_column_major(values.clone(), 40)).is_none());
        let matrix = MatRef::from_column_major_slice(&values, 40, 40);
        let rhs = parallel_matmul(matrix, Mat::from_fn(40, 2, |i, j| (i + j) as f64).as_ref());
        let solution = EigenDecomposition::decompose(&LowerTriangular::from_column_major(values.clone(), 40))
            .unwrap()
            .pseudo_solve(0.0, rhs.as_ref());
        assert!(residual(&values, &solution, &rhs) < 1e-10);
    }
}
