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

/// The factor `L` of `A = L Lᵀ`.
#[derive(Clone, Debug)]
pub(crate) struct Cholesky<T = f64>(LowerTriangular<T>);

impl<T: Real> Cholesky<T> {
    /// Factors in place. `None` if `A` is not positive definite beyond rounding: if a pivot is at most `n ε`
    /// times the largest diagonal value, the relative tolerance of numpy's `matrix_rank`.
    pub(crate) fn new(matrix: LowerTriangular<T>) -> Option<Self> {
        let largest = matrix.diagonal().fold(0.0, f64::max);
        let floor = matrix.size() as f64 * T::epsilon_impl().into() * largest;
        let factor = Self::for_preconditioning(matrix)?;
        let definite = factor.0.diagonal().all(|root| root * root > floor);
        definite.then_some(factor)
    }

    /// Factors in place any matrix with positive pivots, even if they are only rounding: enough for a
    /// preconditioner.
    pub(crate) fn for_preconditioning(mut matrix: LowerTriangular<T>) -> Option<Self> {
        let mut rest = matrix.as_mut();
        while rest.nrows() > 0 {
            let width = rest.nrows().min(PANEL_COLUMNS);
            let (left, right) = rest.split_at_col_mut(width);
            let (mut diagonal, mut below) = left.split_at_row_mut(width);
            factor_tile(diagonal.as_mut())?;
            let diagonal = diagonal.as_ref();
            row_chunks(below.as_mut(), COLUMNS_PER_TASK).into_par_iter().for_each(|(_, chunk)| {
                solve_lower_triangular_in_place(diagonal, chunk.transpose_mut(), Par::Seq);
            });
            let (mut trailing, below) = (right.split_at_row_mut(width).1, below.as_ref());
            tiles(trailing.as_mut(), PANEL_COLUMNS).into_par_iter().for_each(|mut tile| {
                let (rows, columns) = (tile.rows(), tile.columns());
                let left = below.subrows(rows.start, rows.len());
                tile.add_product(left, below.subrows(columns.start, columns.len()), T::from_f64(-1.0));
            });
            rest = trailing;
        }
        Some(Self(matrix))
    }

    /// `A⁻¹ B` for `B` `[n, m]`.
    pub(crate) fn solve(&self, mut rhs: Mat<T>) -> Mat<T> {
        let factor = self.0.as_ref();
        column_chunks(rhs.as_mut(), COLUMNS_PER_TASK).into_par_iter().for_each(|(_, mut chunk)| {
            solve_lower_triangular_in_place(factor, chunk.as_mut(), Par::Seq);
            solve_upper_triangular_in_place(factor.transpose(), chunk, Par::Seq);
        });
        rhs
    }
}

/// The Cholesky factor of one tile, in place; `None` when a pivot is not positive.
fn factor_tile<T: Real>(matrix: MatMut<'_, T>) -> Option<()> {
    let params = Spec::<LltParams, T>::new(Auto::<T>::auto());
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<T>(matrix.nrows(), Par::Seq, params));
    let stack = MemStack::new(&mut memory);
    cholesky_in_place(matrix, Default::default(), Par::Seq, stack, params).ok().map(drop)
}

/// Eigenvectors `V` and ascending eigenvalues `λ` of `A = V diag(λ) Vᵀ`.
#[derive(Clone, Debug)]
pub(crate) struct EigenDecomposition {
    /// `λ`, `[n]`; values that are negative by rounding are set to 0.
    values: Vec<f64>,
    /// `V`, `[n, n]`, one vector per column.
    vectors: Mat<f64>,
}

impl EigenDecomposition {
    /// Decomposes a positive semidefinite matrix.
    ///
    /// # Errors
    /// [`HeadError::Diverged`] when the iteration does not converge.
    pub(crate) fn new(matrix: &LowerTriangular) -> Result<Self, HeadError> {
        let size = matrix.size();
        let (mut values, mut vectors) = (vec![0.0; size], Mat::zeros(size, size));
        let params = Spec::<SelfAdjointEvdParams, f64>::new(Auto::<f64>::auto());
        let scratch = self_adjoint_evd_scratch::<f64>(size, ComputeEigenvectors::Yes, Par::Seq, params);
        let mut memory = MemBuffer::new(scratch);
        let stack = MemStack::new(&mut memory);
        let diagonal = DiagMut::from_slice_mut(&mut values);
        self_adjoint_evd(matrix.as_ref(), diagonal, Some(vectors.as_mut()), Par::Seq, stack, params)
            .map_err(|_| {
                HeadError::Diverged("the eigenvalues of the features' covariance did not converge".into())
            })?;
        values.iter_mut().for_each(|value| *value = value.max(0.0));
        Ok(Self { values, vectors })
    }

    /// `V diag(f(λ)) Vᵀ B` for `B` `[n, m]`.
    fn apply_spectral(&self, f: impl Fn(f64) -> f64, rhs: MatRef<'_, f64>) -> Mat<f64> {
        let mut inner = parallel_matmul(self.vectors.transpose(), rhs);
        let factors: Vec<f64> = self.values.iter().map(|&value| f(value)).collect();
        for column in inner.col_iter_mut() {
            for (value, factor) in column.iter_mut().zip(&factors) {
                *value *= factor;
            }
        }
        parallel_matmul(self.vectors.as_ref(), inner.as_ref())
    }

    /// `A⁺ B` as in LAPACK's `gelsd` (scipy's `lstsq`), but with the cutoff for eigenvalues at `n ε` times
    /// the largest one (there `ε` times).
    pub(crate) fn pseudo_solve(&self, rhs: MatRef<'_, f64>) -> Mat<f64> {
        self.pseudo_solve_shifted(0.0, rhs)
    }

    /// `(A + shift)⁻¹ B` for `shift >= 0` and `B` in the span of `A`. Directions with a zero eigenvalue are
    /// left out: `B` has only rounding errors there.
    pub(crate) fn pseudo_solve_shifted(&self, shift: f64, rhs: MatRef<'_, f64>) -> Mat<f64> {
        let floor = self.values.len() as f64 * f64::EPSILON * self.values.last().copied().unwrap_or_default();
        self.apply_spectral(|value| if value > floor { 1.0 / (value + shift) } else { 0.0 }, rhs)
    }
}

/// `A B`, in parallel over the columns of the result.
fn parallel_matmul(left: MatRef<'_, f64>, right: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(left.nrows(), right.ncols());
    column_chunks(out.as_mut(), COLUMNS_PER_TASK).into_par_iter().for_each(|(first, chunk)| {
        let right = right.subcols(first, chunk.ncols());
        matmul(chunk, Accum::Replace, left, right, 1.0, Par::Seq);
    });
    out
}

/// Splits a matrix into column blocks of at most `max_columns`, each with the index of its first column.
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

/// Splits a matrix into row blocks of at most `max_rows`, each with the index of its first row.
pub(super) fn row_chunks<T>(matrix: MatMut<'_, T>, max_rows: usize) -> Vec<(usize, MatMut<'_, T>)> {
    let transposed = column_chunks(matrix.transpose_mut(), max_rows);
    transposed.into_iter().map(|(first, chunk)| (first, chunk.transpose_mut())).collect()
}

/// `B Bᵀ` for random `B` `[size, rank]`, column-major.
#[cfg(test)]
pub(super) fn random_positive_semidefinite(size: usize, rank: usize) -> Vec<f64> {
    let mut rng = crate::random::KeyedRng::new(&[size as u64, rank as u64]);
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
            let by_eigen = EigenDecomposition::new(&matrix).unwrap().pseudo_solve(rhs.as_ref());
            assert!(residual(&values, &by_eigen, &rhs) < 1e-9, "{size} by eigenvectors");
            let by_cholesky = Cholesky::new(matrix).unwrap().solve(rhs.clone());
            assert!(residual(&values, &by_cholesky, &rhs) < 1e-9, "{size} by Cholesky");
        }
    }

    #[test]
    fn a_singular_matrix_has_no_cholesky_factor_and_is_solved_where_it_can_be() {
        let values = random_positive_semidefinite(40, 12);
        assert!(Cholesky::new(LowerTriangular::from_column_major(values.clone(), 40)).is_none());
        let matrix = MatRef::from_column_major_slice(&values, 40, 40);
        let rhs = parallel_matmul(matrix, Mat::from_fn(40, 2, |i, j| (i + j) as f64).as_ref());
        let solution = EigenDecomposition::new(&LowerTriangular::from_column_major(values.clone(), 40))
            .unwrap()
            .pseudo_solve(rhs.as_ref());
        assert!(residual(&values, &solution, &rhs) < 1e-10);
    }
}
