//! Reduction of a symmetric matrix to band form, to solve systems with many shifts of its diagonal.

use std::cmp::Ordering;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as apply_q_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply_q_in_place,
    apply_block_householder_sequence_transpose_on_the_left_in_place_scratch as apply_qt_scratch,
    apply_block_householder_sequence_transpose_on_the_left_in_place_with_conj as apply_qt_in_place,
    make_householder_in_place,
};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, ColMut, Conj, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::band_cholesky::{BANDWIDTH, BandCholesky, LANES};
use super::factor::{column_chunks, row_chunks};
use super::gram::{LowerTriangular, tiles};
use crate::vector::VectorOps;

/// Householder reflectors per block of the compact WY representation.
const REFLECTORS_PER_BLOCK: usize = 64;
/// Rows of a product per parallel task.
const ROWS_PER_TASK: usize = 128;
/// Side of the tiles of the trailing matrix.
const TILE_SIDE: usize = 192;

/// `Q` and `B` of `A = Q B Qᵀ`, with `Q` orthogonal and `B` a band matrix (Bischof, Lang and Sun 2000, *A
/// framework for symmetric band reduction*).
///
/// A tridiagonal `B`, or eigenvalues, would be faster to solve with but slower to find: at this bandwidth
/// nearly all the work is matrix products. For 2,048 rows it takes a third of the time of faer's
/// tridiagonalization and a sixth of that of its eigenvectors.
#[derive(Clone, Debug)]
pub(crate) struct BandReduction {
    /// `B` in the main and the lower [`BANDWIDTH`] diagonals. Below the band, column `j` holds the vector of
    /// the `j`-th reflector of `Q`, without its leading 1.
    matrix: LowerTriangular,
    /// `T` of each block of reflectors `I - V T⁻¹ Vᵀ`, side by side.
    wy_factors: Mat<f64>,
}

impl BandReduction {
    /// Reduces a matrix in place.
    pub(crate) fn new(mut matrix: LowerTriangular) -> Self {
        let mut taus = Vec::with_capacity(matrix.size());
        let mut rest = matrix.as_mut();
        while rest.nrows() > BANDWIDTH {
            let (left, right) = rest.split_at_col_mut(BANDWIDTH);
            let below = left.split_at_row_mut(BANDWIDTH).1;
            let mut trailing = right.split_at_row_mut(BANDWIDTH).1;
            let vectors = triangularize_panel(below, &mut taus);
            let count = vectors.ncols();
            let vwv = two_sided_update(trailing.as_ref(), &vectors, &taus[taus.len() - count..]);
            let (left, right) = (vwv.subcols(0, 2 * count), vwv.subcols(count, 2 * count));
            tiles(trailing.as_mut(), TILE_SIDE).into_par_iter().for_each(|mut tile| {
                let (rows, columns) = (tile.rows(), tile.columns());
                let left = left.subrows(rows.start, rows.len());
                tile.add_product(left, right.subrows(columns.start, columns.len()), -1.0);
            });
            rest = trailing;
        }
        let count = taus.len();
        let mut wy_factors = Mat::zeros(REFLECTORS_PER_BLOCK.min(count), count);
        let vectors = reflectors(&matrix);
        column_chunks(wy_factors.as_mut(), REFLECTORS_PER_BLOCK).into_par_iter().for_each(
            |(first, chunk)| {
                let width = chunk.ncols();
                let vectors = vectors.submatrix(first, first, count - first, width);
                compact_wy_factor(vectors, &taus[first..first + width], chunk.subrows_mut(0, width));
            },
        );
        Self { matrix, wy_factors }
    }

    /// Replaces columns `[n, m]` by `Qᵀ` times them, on the calling thread.
    pub(crate) fn apply_q_transpose(&self, columns: MatMut<'_, f64>) {
        let count = self.wy_factors.ncols();
        if count > 0 {
            let mut memory =
                MemBuffer::new(apply_qt_scratch::<f64>(count, REFLECTORS_PER_BLOCK, columns.ncols()));
            let (stack, below) = (MemStack::new(&mut memory), columns.split_at_row_mut(BANDWIDTH).1);
            apply_qt_in_place(
                reflectors(&self.matrix),
                self.wy_factors.as_ref(),
                Conj::No,
                below,
                Par::Seq,
                stack,
            );
        }
    }

    /// `Qᵀ` times columns `[n, m]`.
    pub(crate) fn q_transpose_times(&self, columns: &Mat<f64>) -> Mat<f64> {
        let mut out = columns.clone();
        column_chunks(out.as_mut(), LANES)
            .into_par_iter()
            .for_each(|(_, chunk)| self.apply_q_transpose(chunk));
        out
    }

    /// Replaces columns `[n, m]` by `Q` times them, on the calling thread.
    fn apply_q(&self, columns: MatMut<'_, f64>) {
        let count = self.wy_factors.ncols();
        if count > 0 {
            let mut memory =
                MemBuffer::new(apply_q_scratch::<f64>(count, REFLECTORS_PER_BLOCK, columns.ncols()));
            let (stack, below) = (MemStack::new(&mut memory), columns.split_at_row_mut(BANDWIDTH).1);
            apply_q_in_place(
                reflectors(&self.matrix),
                self.wy_factors.as_ref(),
                Conj::No,
                below,
                Par::Seq,
                stack,
            );
        }
    }

    /// The Cholesky factor of `B + shift`; `None` if that is not positive definite beyond rounding.
    pub(crate) fn cholesky(&self, shift: f64) -> Option<BandCholesky> {
        BandCholesky::new(&self.matrix, shift)
    }

    /// `(A + shift)⁻¹` times columns `[n, m]`; `None` if `A + shift` is not positive definite beyond
    /// rounding.
    pub(crate) fn solve(&self, shift: f64, rhs: &Mat<f64>) -> Option<Mat<f64>> {
        let factor = self.cholesky(shift)?;
        let mut out = rhs.clone();
        column_chunks(out.as_mut(), LANES).into_par_iter().for_each(|(_, mut chunk)| {
            self.apply_q_transpose(chunk.as_mut());
            chunk.as_mut().col_iter_mut().for_each(|column| factor.solve(column));
            self.apply_q(chunk);
        });
        Some(out)
    }
}

/// The vectors of the reflectors, unit lower triangular, starting at the diagonal below the band.
fn reflectors(matrix: &LowerTriangular) -> MatRef<'_, f64> {
    let count = matrix.size().saturating_sub(BANDWIDTH);
    matrix.as_ref().submatrix(matrix.size() - count, 0, count, count)
}

/// QR-factors a panel `[m, BANDWIDTH]` in place with reflectors `I - v vᵀ / tau`: the upper triangle becomes
/// `R`, and below it are the `v` without their leading 1. Appends the `tau`; returns the `v`,
/// `[m, min(m, BANDWIDTH)]`.
fn triangularize_panel(mut out: MatMut<'_, f64>, taus: &mut Vec<f64>) -> Mat<f64> {
    let (height, width) = out.shape();
    let count = height.min(width);
    let vectors = VectorOps::new();
    let mut columns: Vec<f64> = out.as_ref().col_iter().flat_map(|column| column.iter().copied()).collect();
    for k in 0..count {
        let (done, trailing) = columns.split_at_mut((k + 1) * height);
        let (head, tail) = done[k * height..].split_at_mut(k + 1);
        let tau = make_householder_in_place(&mut head[k], ColMut::from_slice_mut(tail)).tau;
        for column in trailing.chunks_exact_mut(height) {
            let (head, rest) = column.split_at_mut(k + 1);
            let coefficient = (head[k] + vectors.dot::<f64, f64>(tail, rest)) / tau;
            head[k] -= coefficient;
            vectors.add_scaled::<f64>(rest, -coefficient, tail);
        }
        taus.push(tau);
    }
    let columns = MatRef::from_column_major_slice(&columns, height, width);
    out.copy_from(columns);
    Mat::from_fn(height, count, |i, j| match i.cmp(&j) {
        Ordering::Less => 0.0,
        Ordering::Equal => 1.0,
        Ordering::Greater => columns[(i, j)],
    })
}

/// `T` of a product of reflectors `I - V T⁻¹ Vᵀ`: `VᵀV` above the diagonal, the `tau` on it (Puglisi 1992,
/// *Modification of the Householder method based on the compact WY representation*). Reads only the part of
/// `vectors` below the diagonal; does not write below the diagonal of `out`.
fn compact_wy_factor(vectors: MatRef<'_, f64>, taus: &[f64], mut out: MatMut<'_, f64>) {
    let (top, below) = vectors.split_at_row(vectors.ncols());
    let (upper, full) = (BlockStructure::TriangularUpper, BlockStructure::Rectangular);
    let (top_structure, transposed_structure) =
        (BlockStructure::UnitTriangularLower, BlockStructure::UnitTriangularUpper);
    let transposed = top.transpose();
    triangular::matmul(
        out.as_mut(),
        upper,
        Accum::Replace,
        transposed,
        transposed_structure,
        top,
        top_structure,
        1.0,
        Par::Seq,
    );
    let transposed = below.transpose();
    triangular::matmul(out.as_mut(), upper, Accum::Add, transposed, full, below, full, 1.0, Par::Seq);
    for (i, &tau) in taus.iter().enumerate() {
        out[(i, i)] = tau;
    }
}

/// `[V, W, V]` side by side, with `(I - V T⁻¹ Vᵀ)ᵀ A (I - V T⁻¹ Vᵀ) = A - V Wᵀ - W Vᵀ`.
fn two_sided_update(matrix: MatRef<'_, f64>, vectors: &Mat<f64>, taus: &[f64]) -> Mat<f64> {
    let (height, count) = vectors.shape();
    let mut factor = Mat::zeros(count, count);
    compact_wy_factor(vectors.as_ref(), taus, factor.as_mut());
    let factor = factor.transpose();
    let mut vwv = Mat::zeros(height, 3 * count);
    vwv.subcols_mut(0, count).copy_from(vectors);
    vwv.subcols_mut(2 * count, count).copy_from(vectors);
    // A V T⁻¹
    let mut product = vwv.subcols_mut(count, count);
    row_chunks(product.as_mut(), ROWS_PER_TASK).into_par_iter().for_each(|(first, mut out)| {
        symmetric_times(matrix, vectors.as_ref(), first, out.as_mut());
        solve_lower_triangular_in_place(factor, out.transpose_mut(), Par::Seq);
    });
    // Subtract half of V T⁻ᵀ Vᵀ times it.
    let mut half_correction = Mat::zeros(count, count);
    matmul(half_correction.as_mut(), Accum::Replace, vectors.transpose(), product.as_ref(), 1.0, Par::Seq);
    solve_lower_triangular_in_place(factor, half_correction.as_mut(), Par::Seq);
    matmul(product, Accum::Add, vectors.as_ref(), half_correction.as_ref(), -0.5, Par::Seq);
    vwv
}

/// Rows of the product of a symmetric matrix (of which the lower triangle is read) and `columns`, starting at
/// row `first`.
fn symmetric_times(
    matrix: MatRef<'_, f64>,
    columns: MatRef<'_, f64>,
    first: usize,
    mut out: MatMut<'_, f64>,
) {
    let rows = out.nrows();
    let (last, below) = (first + rows, columns.nrows() - first - rows);
    let left = matrix.submatrix(first, 0, rows, first);
    matmul(out.as_mut(), Accum::Replace, left, columns.subrows(0, first), 1.0, Par::Seq);
    let (diagonal_block, block_columns) =
        (matrix.submatrix(first, first, rows, rows), columns.subrows(first, rows));
    let full = BlockStructure::Rectangular;
    for (block, structure) in [
        (diagonal_block, BlockStructure::TriangularLower),
        (diagonal_block.transpose(), BlockStructure::StrictTriangularUpper),
    ] {
        let (out, add) = (out.as_mut(), Accum::Add);
        triangular::matmul(out, full, add, block, structure, block_columns, full, 1.0, Par::Seq);
    }
    let (lower, rest) = (matrix.submatrix(last, first, below, rows), columns.subrows(last, below));
    matmul(out, Accum::Add, lower.transpose(), rest, 1.0, Par::Seq);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::factor::random_positive_semidefinite;
    use crate::random::KeyedRng;

    /// Without reflectors, with few, and with several blocks and tiles; in the last the final panel is short.
    const SIZES: [usize; 6] =
        [1, BANDWIDTH, BANDWIDTH + 1, 3 * BANDWIDTH + 5, REFLECTORS_PER_BLOCK + BANDWIDTH, 3 * TILE_SIDE - 3];

    fn random_matrix(rows: usize, columns: usize) -> Mat<f64> {
        let mut rng = KeyedRng::new(&[rows as u64, columns as u64]);
        Mat::from_fn(rows, columns, |_, _| rng.uniform() - 0.5)
    }

    /// `|(A + shift) X - B| / |B|`
    fn residual(values: &[f64], shift: f64, solution: &Mat<f64>, rhs: &Mat<f64>) -> f64 {
        let matrix = MatRef::from_column_major_slice(values, rhs.nrows(), rhs.nrows());
        let product = matrix * solution + faer::Scale(shift) * solution;
        (product - rhs).norm_l2() / rhs.norm_l2()
    }

    #[test]
    fn systems_are_solved_for_every_shift() {
        for size in SIZES {
            let (values, rhs) =
                (random_positive_semidefinite(size, size + 20), random_matrix(size, LANES + 3));
            let reduced = BandReduction::new(LowerTriangular::from_column_major(values.clone(), size));
            for shift in [0.0, 0.01, 100.0] {
                let solution = reduced.solve(shift, &rhs).unwrap();
                let residual = residual(&values, shift, &solution, &rhs);
                assert!(residual < 1e-9, "{size} and {shift}: {residual:e}");
            }
        }
    }

    #[test]
    fn q_reduces_the_matrix_to_a_band() {
        for size in SIZES {
            let values = random_positive_semidefinite(size, size);
            let matrix = MatRef::from_column_major_slice(&values, size, size);
            let reduced = BandReduction::new(LowerTriangular::from_column_major(values.clone(), size));
            let q = reduced.q_transpose_times(&Mat::identity(size, size));
            let assert_near = |found: Mat<f64>, expected: Mat<f64>, name: &str| {
                let error = (found - &expected).norm_l2() / expected.norm_l2();
                assert!(error < 1e-13 * (10.0 + size as f64), "{name} of {size}: {error:e}");
            };
            assert_near(&q * q.transpose(), Mat::identity(size, size), "Qᵀ Q");
            let mut q_times = q.clone();
            reduced.apply_q(q_times.as_mut());
            assert_near(q_times, Mat::identity(size, size), "Q Qᵀ");
            let band = reduced.matrix.as_ref();
            let band = Mat::from_fn(size, size, |i, j| match i.abs_diff(j) {
                0..=BANDWIDTH => band[(i.max(j), i.min(j))],
                _ => 0.0,
            });
            assert_near(&q * matrix * q.transpose(), band, "B");
        }
    }

    /// Some reflectors are the identity, others are computed from rounding errors.
    #[test]
    fn singular_matrices_are_solved_with_a_shift_and_not_without() {
        let size = REFLECTORS_PER_BLOCK + 3 * BANDWIDTH;
        let rhs = random_matrix(size, 2);
        let diagonal = (0..size * size).map(|k| if k % (size + 1) == 0 { (k % 7) as f64 } else { 0.0 });
        let sparse = random_positive_semidefinite(size, 40).into_iter().enumerate();
        let sparse = sparse
            .map(|(k, v)| if [k % size, k / size].iter().any(|k| k.is_multiple_of(3)) { 0.0 } else { v });
        let constant = vec![3.0; size * size];
        for values in [vec![0.0; size * size], diagonal.collect(), sparse.collect(), constant] {
            let reduced = BandReduction::new(LowerTriangular::from_column_major(values.clone(), size));
            assert!(reduced.solve(0.0, &rhs).is_none());
            let residual = residual(&values, 0.1, &reduced.solve(0.1, &rhs).unwrap(), &rhs);
            assert!(residual < 1e-10, "{residual:e}");
        }
    }
}
