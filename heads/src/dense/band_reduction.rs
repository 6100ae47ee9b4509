//! Reduction of a symmetric matrix to band form, to solve systems with many shifts of its diagonal.

use std::cmp::Ordering;

use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
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

/// A function of faer that applies a sequence of Householder reflectors to a matrix.
type ApplyReflectors = fn(MatRef<'_, f64>, MatRef<'_, f64>, Conj, MatMut<'_, f64>, Par, &mut MemStack);

/// `Q` and `B` of `A = Q B Qᵀ`, with `Q` orthogonal and `B` a band matrix (Bischof, Lang and Sun 2000, *A
/// framework for symmetric band reduction*). Computed once, it solves `(A + shift I) X = Y` for many shifts,
/// such as the `alphas` of a ridge regression: `A + shift I = Q (B + shift I) Qᵀ`.
///
/// `Q` is a product of Householder reflectors `I - v vᵀ / tau`, one per column of `A` that is reduced. A
/// block of them is stored in compact WY form `I - V T⁻¹ Vᵀ`, where `V` has the vectors `v` as columns and
/// `T` is a small triangular matrix, so that `Q` is applied by matrix products.
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
    /// Factors a symmetric matrix `A` as `Q B Qᵀ` with a band matrix `B`, in the memory of `matrix`, to solve
    /// systems with many shifts of `A`. Takes [`BANDWIDTH`] columns (a panel) at a time: a QR factorization
    /// makes the part of the panel below the band zero. The Householder reflectors of the QR factorization
    /// are then applied from both sides to the trailing matrix (the rows and columns after the panel), which
    /// is reduced next.
    pub(crate) fn reduce(mut matrix: LowerTriangular) -> Self {
        let mut taus = Vec::with_capacity(matrix.size());
        let mut unreduced = matrix.as_mut();
        while unreduced.nrows() > BANDWIDTH {
            let (panel, other_columns) = unreduced.split_at_col_mut(BANDWIDTH);
            let below_band = panel.split_at_row_mut(BANDWIDTH).1;
            let mut trailing = other_columns.split_at_row_mut(BANDWIDTH).1;
            let vectors = triangularize_panel(below_band, &mut taus);
            let count = vectors.ncols();
            let factors = two_sided_update_factors(trailing.as_ref(), &vectors, &taus[taus.len() - count..]);
            // Subtracts V Wᵀ + W Vᵀ = [V, W] [W, V]ᵀ from the trailing matrix.
            let (v_and_w, w_and_v) = (factors.subcols(0, 2 * count), factors.subcols(count, 2 * count));
            tiles(trailing.as_mut(), TILE_SIDE).into_par_iter().for_each(|mut tile| {
                let (rows, columns) = (tile.rows(), tile.columns());
                let v_and_w = v_and_w.subrows(rows.start, rows.len());
                tile.add_product(v_and_w, w_and_v.subrows(columns.start, columns.len()), -1.0);
            });
            unreduced = trailing;
        }
        // The factor T of each block of reflectors, with which `apply_q` applies the block at once.
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

    /// Multiplies `columns` `[n, m]` by `Qᵀ` from the left, in place and on the calling thread. With
    /// `A = Q B Qᵀ`, it turns right-hand sides of systems with `A` into those of systems with the band matrix
    /// `B`, which are cheap to solve.
    pub(crate) fn apply_q_transpose(&self, columns: MatMut<'_, f64>) {
        self.apply(columns, apply_qt_scratch::<f64>, apply_qt_in_place::<f64>);
    }

    /// Returns `Qᵀ · columns`, as large as `columns` `[n, m]`, for the orthogonal matrix `Q` of this
    /// reduction `A = Q B Qᵀ`; in parallel over the columns. It prepares the systems `(A + αI) X = columns`
    /// of a ridge regression for many penalties `α`: they become `(B + αI) QᵀX = Qᵀ columns`, which are cheap
    /// to solve for each `α`, as `B` is a band matrix.
    pub(crate) fn q_transpose_times(&self, columns: &Mat<f64>) -> Mat<f64> {
        let mut out = columns.clone();
        column_chunks(out.as_mut(), LANES)
            .into_par_iter()
            .for_each(|(_, chunk)| self.apply_q_transpose(chunk));
        out
    }

    /// Multiplies `columns` `[n, m]` by `Q` or `Qᵀ` from the left, as faer's functions `scratch` (its memory)
    /// and `apply_in_place` do. The first [`BANDWIDTH`] rows do not change, because no Householder reflector
    /// of `Q` touches them.
    fn apply(
        &self,
        columns: MatMut<'_, f64>,
        scratch: fn(usize, usize, usize) -> StackReq,
        apply_in_place: ApplyReflectors,
    ) {
        let count = self.wy_factors.ncols();
        if count > 0 {
            let mut memory = MemBuffer::new(scratch(count, REFLECTORS_PER_BLOCK, columns.ncols()));
            let (stack, below) = (MemStack::new(&mut memory), columns.split_at_row_mut(BANDWIDTH).1);
            let (vectors, factors) = (reflectors(&self.matrix), self.wy_factors.as_ref());
            apply_in_place(vectors, factors, Conj::No, below, Par::Seq, stack);
        }
    }

    /// The Cholesky factor of the band matrix `B + shift I`, to solve systems with this shift; `None` if that
    /// matrix is not positive definite beyond rounding.
    pub(crate) fn cholesky(&self, shift: f64) -> Option<BandCholesky> {
        BandCholesky::factorize(&self.matrix, shift)
    }

    /// Solves `(A + shift I) X = rhs` for the matrix `A = Q B Qᵀ` of this reduction, such as a ridge
    /// regression with the penalty `shift`; `rhs` and the returned `X` are `[n, m]`. Computed as
    /// `X = Q (B + shift I)⁻¹ Qᵀ rhs`, in parallel over the columns. `None` if `A + shift I` is not positive
    /// definite beyond rounding.
    pub(crate) fn solve(&self, shift: f64, rhs: &Mat<f64>) -> Option<Mat<f64>> {
        let factor = self.cholesky(shift)?;
        let mut out = rhs.clone();
        column_chunks(out.as_mut(), LANES).into_par_iter().for_each(|(_, mut chunk)| {
            self.apply_q_transpose(chunk.as_mut());
            chunk.as_mut().col_iter_mut().for_each(|column| factor.solve(column));
            // From solutions of systems with the band matrix to those of systems with `A`.
            self.apply(chunk, apply_q_scratch::<f64>, apply_q_in_place::<f64>);
        });
        Some(out)
    }
}

/// A view of the part of the matrix below the band, where the vectors `v` of the Householder reflectors are
/// stored, one per column. As faer expects, they are unit lower triangular: the diagonal of the view counts
/// as 1, and what is above it as 0.
fn reflectors(matrix: &LowerTriangular) -> MatRef<'_, f64> {
    let count = matrix.size().saturating_sub(BANDWIDTH);
    matrix.as_ref().submatrix(matrix.size() - count, 0, count, count)
}

/// QR-factors `panel` `[m, BANDWIDTH]`, the part of a panel below the band in [`BandReduction::reduce`], in
/// place. It applies Householder reflectors `I - v vᵀ / tau`, one per column: the upper triangle becomes `R`,
/// and below it are the vectors `v` without their leading 1. Appends the `tau` of each reflector to `taus`.
/// Returns the vectors as columns of a matrix `[m, min(m, BANDWIDTH)]`, with the leading 1 and zeros above
/// it.
fn triangularize_panel(mut panel: MatMut<'_, f64>, taus: &mut Vec<f64>) -> Mat<f64> {
    let (height, width) = panel.shape();
    let count = height.min(width);
    let vectors = VectorOps::new();
    let mut columns: Vec<f64> = panel.as_ref().col_iter().flat_map(|column| column.iter().copied()).collect();
    for k in 0..count {
        // Column k becomes a reflector, which is then applied to the columns after it.
        let (done, trailing) = columns.split_at_mut((k + 1) * height);
        // The vector `v` of the reflector is a 1, in the place of `head[k]`, and `tail`.
        let (head, tail) = done[k * height..].split_at_mut(k + 1);
        let tau = make_householder_in_place(&mut head[k], ColMut::from_slice_mut(tail)).tau;
        for column in trailing.chunks_exact_mut(height) {
            let (column_head, column_tail) = column.split_at_mut(k + 1);
            let coefficient = (column_head[k] + vectors.dot::<f64, f64>(tail, column_tail)) / tau;
            column_head[k] -= coefficient;
            vectors.add_scaled::<f64>(column_tail, -coefficient, tail);
        }
        taus.push(tau);
    }
    let columns = MatRef::from_column_major_slice(&columns, height, width);
    panel.copy_from(columns);
    Mat::from_fn(height, count, |i, j| match i.cmp(&j) {
        Ordering::Less => 0.0,
        Ordering::Equal => 1.0,
        Ordering::Greater => columns[(i, j)],
    })
}

/// Computes the upper triangular factor `T` `[k, k]` with which the product of `k` Householder reflectors
/// `I - v vᵀ / tau` is `I - V T⁻¹ Vᵀ`: so they are applied at once, by matrix products. `vectors` `[m, k]` is
/// `V`, with the vectors `v` as columns, unit lower triangular: only its part below the diagonal is read.
/// `taus` `[k]` has the `tau` of each. `T` is written to the upper triangle of `out`; the rest of `out` does
/// not change.
fn compact_wy_factor(vectors: MatRef<'_, f64>, taus: &[f64], mut out: MatMut<'_, f64>) {
    let (top, below) = vectors.split_at_row(vectors.ncols());
    let full = BlockStructure::Rectangular;
    let triangles = [BlockStructure::UnitTriangularUpper, BlockStructure::UnitTriangularLower];
    // T is VᵀV above the diagonal and has the taus on it (Puglisi 1992, *Modification of the Householder
    // method based on the compact WY representation*). VᵀV is the sum of the products of the triangular top
    // of V and of the rest.
    for (part, accum, [left, right]) in [(top, Accum::Replace, triangles), (below, Accum::Add, [full; 2])] {
        let (out, upper, transposed) = (out.as_mut(), BlockStructure::TriangularUpper, part.transpose());
        triangular::matmul(out, upper, accum, transposed, left, part, right, 1.0, Par::Seq);
    }
    for (i, &tau) in taus.iter().enumerate() {
        out[(i, i)] = tau;
    }
}

/// Computes the factors of the update `A - V Wᵀ - W Vᵀ`, with which [`BandReduction::reduce`] applies the `k`
/// reflectors of a panel from both sides to the trailing matrix `A`, here `matrix` `[m, m]`. `vectors`
/// `[m, k]` is `V`, with the vector of each reflector as a column; `taus` `[k]` has their `tau`. Returns
/// `[V, W, V]` side by side, `[m, 3k]`: the first `2k` columns are `[V, W]` and the last `2k` are `[W, V]`,
/// so that the update is a single product, `A - [V, W] [W, V]ᵀ`.
fn two_sided_update_factors(matrix: MatRef<'_, f64>, vectors: &Mat<f64>, taus: &[f64]) -> Mat<f64> {
    // The product of the reflectors is P = I - V T⁻¹ Vᵀ; W is such that Pᵀ A P = A - V Wᵀ - W Vᵀ.
    let (height, count) = vectors.shape();
    let mut factor = Mat::zeros(count, count);
    compact_wy_factor(vectors.as_ref(), taus, factor.as_mut());
    let t_transpose = factor.transpose();
    let mut v_w_v = Mat::zeros(height, 3 * count);
    v_w_v.subcols_mut(0, count).copy_from(vectors);
    v_w_v.subcols_mut(2 * count, count).copy_from(vectors);
    // W starts as A V T⁻¹.
    let mut w = v_w_v.subcols_mut(count, count);
    row_chunks(w.as_mut(), ROWS_PER_TASK).into_par_iter().for_each(|(first, mut out)| {
        symmetric_times(matrix, vectors.as_ref(), first, out.as_mut());
        solve_lower_triangular_in_place(t_transpose, out.transpose_mut(), Par::Seq);
    });
    // Then half of V T⁻ᵀ Vᵀ (A V T⁻¹) is subtracted: the update has this term once, but V Wᵀ and W Vᵀ
    // both contain it.
    let mut half_correction = Mat::zeros(count, count);
    matmul(half_correction.as_mut(), Accum::Replace, vectors.transpose(), w.as_ref(), 1.0, Par::Seq);
    solve_lower_triangular_in_place(t_transpose, half_correction.as_mut(), Par::Seq);
    matmul(w, Accum::Add, vectors.as_ref(), half_correction.as_ref(), -0.5, Par::Seq);
    v_w_v
}

/// Computes a block of rows of the product of a symmetric `matrix` `[m, m]` and `columns` `[m, k]`, and
/// overwrites `out` with it: the rows from `first` on, as many as `out` has. Only the lower triangle of the
/// matrix is read. [`two_sided_update_factors`] computes `A V` with it, one block per parallel task.
fn symmetric_times(
    matrix: MatRef<'_, f64>,
    columns: MatRef<'_, f64>,
    first: usize,
    mut out: MatMut<'_, f64>,
) {
    let rows = out.nrows();
    let (end, rows_below) = (first + rows, columns.nrows() - first - rows);
    let left_of_diagonal = matrix.submatrix(first, 0, rows, first);
    matmul(out.as_mut(), Accum::Replace, left_of_diagonal, columns.subrows(0, first), 1.0, Par::Seq);
    let (diagonal_block, block_columns) =
        (matrix.submatrix(first, first, rows, rows), columns.subrows(first, rows));
    // The diagonal block is its lower triangle plus the transpose of that, without the diagonal.
    let full = BlockStructure::Rectangular;
    for (block, structure) in [
        (diagonal_block, BlockStructure::TriangularLower),
        (diagonal_block.transpose(), BlockStructure::StrictTriangularUpper),
    ] {
        let (out, add) = (out.as_mut(), Accum::Add);
        triangular::matmul(out, full, add, block, structure, block_columns, full, 1.0, Par::Seq);
    }
    // What is right of the diagonal block is the transpose of what is below.
    let below_diagonal = matrix.submatrix(end, first, rows_below, rows);
    matmul(out, Accum::Add, below_diagonal.transpose(), columns.subrows(end, rows_below), 1.0, Par::Seq);
}

#[cfg(test)]
mod tests {
    use headstock_split::KeyedRng;

    use super::*;
    use crate::dense::factor::random_positive_semidefinite;

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
            let reduced = BandReduction::reduce(LowerTriangular::from_column_major(values.clone(), size));
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
            let reduced = BandReduction::reduce(LowerTriangular::from_column_major(values.clone(), size));
            let q = reduced.q_transpose_times(&Mat::identity(size, size));
            let assert_near = |found: Mat<f64>, expected: Mat<f64>, name: &str| {
                let error = (found - &expected).norm_l2() / expected.norm_l2();
                assert!(error < 1e-13 * (10.0 + size as f64), "{name} of {size}: {error:e}");
            };
            assert_near(&q * q.transpose(), Mat::identity(size, size), "Qᵀ Q");
            let mut q_times = q.clone();
            reduced.apply(q_times.as_mut(), apply_q_scratch::<f64>, apply_q_in_place::<f64>);
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
            let reduced = BandReduction::reduce(LowerTriangular::from_column_major(values.clone(), size));
            assert!(reduced.solve(0.0, &rhs).is_none());
            let residual = residual(&values, 0.1, &reduced.solve(0.1, &rhs).unwrap(), &rhs);
            assert!(residual < 1e-10, "{residual:e}");
        }
    }
}
