//! A symmetric matrix brought to a band, from which systems are solved for many shifts of its diagonal.

use std::cmp::Ordering;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as turn_back_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as turn_back_in_place,
    apply_block_householder_sequence_transpose_on_the_left_in_place_scratch as turn_scratch,
    apply_block_householder_sequence_transpose_on_the_left_in_place_with_conj as turn_in_place,
    make_householder_in_place,
};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, ColMut, Conj, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::band::{BAND, BandCholesky, LANES};
use super::factor::{column_chunks, row_chunks};
use super::gram::{Lower, tiles};
use crate::vector::Vectors;

/// Reflections that columns are turned by at a time.
const REFLECTIONS: usize = 64;
/// Rows of a product that a thread computes at a time.
const ROWS: usize = 128;
/// Side of the tiles of what is not yet reduced.
const TILE: usize = 192;

/// `Q` and `B` of `A = Q B Qᵀ`, `Q` orthogonal and `B` a band (Bischof, Lang and Sun 2000, *A framework for symmetric band
/// reduction*).
///
/// A tridiagonal `B`, or eigenvalues, would be solved sooner but found later: down to this width nearly all the work is products
/// of matrices. Of 2,048 rows the band takes a third of the time of faer's tridiagonal matrix and a sixth of its eigenvectors'.
#[derive(Clone, Debug)]
pub(crate) struct Reduced {
    /// `B` in the lower [`BAND`] diagonals and the main one. Column `j` below that has the vector of the `j`th reflection of
    /// those that `Q` is the product of, without the 1 that it begins with.
    matrix: Lower,
    /// `T` of each block of reflections `I - V T⁻¹ Vᵀ`, side by side.
    factors: Mat<f64>,
}

impl Reduced {
    /// Reduces in place.
    pub(crate) fn new(mut matrix: Lower) -> Self {
        let mut lengths = Vec::with_capacity(matrix.size());
        let mut rest = matrix.as_mut();
        while rest.nrows() > BAND {
            let (left, right) = rest.split_at_col_mut(BAND);
            let below = left.split_at_row_mut(BAND).1;
            let mut trailing = right.split_at_row_mut(BAND).1;
            let vectors = reduce(below, &mut lengths);
            let count = vectors.ncols();
            let both = update(trailing.as_ref(), &vectors, &lengths[lengths.len() - count..]);
            let (left, right) = (both.subcols(0, 2 * count), both.subcols(count, 2 * count));
            tiles(trailing.as_mut(), TILE).into_par_iter().for_each(|mut tile| {
                let (rows, columns) = (tile.rows(), tile.columns());
                let left = left.subrows(rows.start, rows.len());
                tile.add(left, right.subrows(columns.start, columns.len()), -1.0);
            });
            rest = trailing;
        }
        let count = lengths.len();
        let mut factors = Mat::zeros(REFLECTIONS.min(count), count);
        let vectors = reflections(&matrix);
        column_chunks(factors.as_mut(), REFLECTIONS).into_par_iter().for_each(|(first, chunk)| {
            let width = chunk.ncols();
            let vectors = vectors.submatrix(first, first, count - first, width);
            block_factor(vectors, &lengths[first..first + width], chunk.subrows_mut(0, width));
        });
        Self { matrix, factors }
    }

    /// Replaces columns `[n, m]` by `Qᵀ` times them, on this thread.
    pub(crate) fn turn(&self, columns: MatMut<'_, f64>) {
        let count = self.factors.ncols();
        if count > 0 {
            let mut memory = MemBuffer::new(turn_scratch::<f64>(count, REFLECTIONS, columns.ncols()));
            let (stack, below) = (MemStack::new(&mut memory), columns.split_at_row_mut(BAND).1);
            turn_in_place(reflections(&self.matrix), self.factors.as_ref(), Conj::No, below, Par::Seq, stack);
        }
    }

    /// `Qᵀ` times columns `[n, m]`.
    pub(crate) fn turned(&self, columns: &Mat<f64>) -> Mat<f64> {
        let mut out = columns.clone();
        column_chunks(out.as_mut(), LANES).into_par_iter().for_each(|(_, chunk)| self.turn(chunk));
        out
    }

    /// Replaces columns `[n, m]` by `Q` times them, on this thread.
    fn turn_back(&self, columns: MatMut<'_, f64>) {
        let count = self.factors.ncols();
        if count > 0 {
            let mut memory = MemBuffer::new(turn_back_scratch::<f64>(count, REFLECTIONS, columns.ncols()));
            let (stack, below) = (MemStack::new(&mut memory), columns.split_at_row_mut(BAND).1);
            turn_back_in_place(
                reflections(&self.matrix),
                self.factors.as_ref(),
                Conj::No,
                below,
                Par::Seq,
                stack,
            );
        }
    }

    /// The Cholesky factor of `B + shift`; nothing when that is not positive definite beyond rounding.
    pub(crate) fn cholesky(&self, shift: f64) -> Option<BandCholesky> {
        BandCholesky::new(&self.matrix, shift)
    }

    /// `(A + shift)⁻¹` times columns `[n, m]`; nothing when `A + shift` is not positive definite beyond rounding.
    pub(crate) fn solve(&self, shift: f64, right: &Mat<f64>) -> Option<Mat<f64>> {
        let factor = self.cholesky(shift)?;
        let mut out = right.clone();
        column_chunks(out.as_mut(), LANES).into_par_iter().for_each(|(_, mut chunk)| {
            self.turn(chunk.as_mut());
            chunk.as_mut().col_iter_mut().for_each(|column| factor.solve(column));
            self.turn_back(chunk);
        });
        Some(out)
    }
}

/// The vectors of the reflections, unit lower triangular, from the diagonal below the band on.
fn reflections(matrix: &Lower) -> MatRef<'_, f64> {
    let count = matrix.size().saturating_sub(BAND);
    matrix.as_ref().submatrix(matrix.size() - count, 0, count, count)
}

/// Makes columns `[m, BAND]` upper triangular by reflections `I - v vᵀ / length`. Below the triangle comes what follows the 1
/// that a `v` begins with. Returns the `v`, `[m, min(m, BAND)]`.
fn reduce(mut out: MatMut<'_, f64>, lengths: &mut Vec<f64>) -> Mat<f64> {
    let (height, width) = out.shape();
    let count = height.min(width);
    let vectors = Vectors::new();
    let mut columns: Vec<f64> = out.as_ref().col_iter().flat_map(|column| column.iter().copied()).collect();
    for k in 0..count {
        let (done, later) = columns.split_at_mut((k + 1) * height);
        let (head, tail) = done[k * height..].split_at_mut(k + 1);
        let length = make_householder_in_place(&mut head[k], ColMut::from_slice_mut(tail)).tau;
        for column in later.chunks_exact_mut(height) {
            let (head, rest) = column.split_at_mut(k + 1);
            let share = (head[k] + vectors.dot::<f64, f64>(tail, rest)) / length;
            head[k] -= share;
            vectors.add_scaled::<f64>(rest, -share, tail);
        }
        lengths.push(length);
    }
    let columns = MatRef::from_column_major_slice(&columns, height, width);
    out.copy_from(columns);
    Mat::from_fn(height, count, |i, j| match i.cmp(&j) {
        Ordering::Less => 0.0,
        Ordering::Equal => 1.0,
        Ordering::Greater => columns[(i, j)],
    })
}

/// `T` of a product `I - V T⁻¹ Vᵀ` of reflections: `VᵀV` above the diagonal, the lengths on it (Puglisi 1992, *Modification of the
/// Householder method based on the compact WY representation*). What is on and above the diagonal of the vectors is not looked
/// at, nor is that below the result's.
fn block_factor(vectors: MatRef<'_, f64>, lengths: &[f64], mut out: MatMut<'_, f64>) {
    let (top, below) = vectors.split_at_row(vectors.ncols());
    let (upper, whole) = (BlockStructure::TriangularUpper, BlockStructure::Rectangular);
    let (of_top, of_transposed) = (BlockStructure::UnitTriangularLower, BlockStructure::UnitTriangularUpper);
    let transposed = top.transpose();
    triangular::matmul(
        out.as_mut(),
        upper,
        Accum::Replace,
        transposed,
        of_transposed,
        top,
        of_top,
        1.0,
        Par::Seq,
    );
    let transposed = below.transpose();
    triangular::matmul(out.as_mut(), upper, Accum::Add, transposed, whole, below, whole, 1.0, Par::Seq);
    for (i, &length) in lengths.iter().enumerate() {
        out[(i, i)] = length;
    }
}

/// `V W V`, side by side, with which `(I - V T⁻¹ Vᵀ)ᵀ A (I - V T⁻¹ Vᵀ) = A - V Wᵀ - W Vᵀ`.
fn update(matrix: MatRef<'_, f64>, vectors: &Mat<f64>, lengths: &[f64]) -> Mat<f64> {
    let (height, count) = vectors.shape();
    let mut factor = Mat::zeros(count, count);
    block_factor(vectors.as_ref(), lengths, factor.as_mut());
    let factor = factor.transpose();
    let mut both = Mat::zeros(height, 3 * count);
    both.subcols_mut(0, count).copy_from(vectors);
    both.subcols_mut(2 * count, count).copy_from(vectors);
    // A V T⁻¹
    let mut product = both.subcols_mut(count, count);
    row_chunks(product.as_mut(), ROWS).into_par_iter().for_each(|(first, mut out)| {
        symmetric_times(matrix, vectors.as_ref(), first, out.as_mut());
        solve_lower_triangular_in_place(factor, out.transpose_mut(), Par::Seq);
    });
    // Less half of V T⁻ᵀ Vᵀ of it.
    let mut inner = Mat::zeros(count, count);
    matmul(inner.as_mut(), Accum::Replace, vectors.transpose(), product.as_ref(), 1.0, Par::Seq);
    solve_lower_triangular_in_place(factor, inner.as_mut(), Par::Seq);
    matmul(product, Accum::Add, vectors.as_ref(), inner.as_ref(), -0.5, Par::Seq);
    both
}

/// The rows from `first` on of the product of a symmetric matrix, of which the lower triangle is looked at, and columns.
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
    let (own, own_columns) = (matrix.submatrix(first, first, rows, rows), columns.subrows(first, rows));
    let whole = BlockStructure::Rectangular;
    for (own, structure) in
        [(own, BlockStructure::TriangularLower), (own.transpose(), BlockStructure::StrictTriangularUpper)]
    {
        let (out, add) = (out.as_mut(), Accum::Add);
        triangular::matmul(out, whole, add, own, structure, own_columns, whole, 1.0, Par::Seq);
    }
    let (lower, rest) = (matrix.submatrix(last, first, below, rows), columns.subrows(last, below));
    matmul(out, Accum::Add, lower.transpose(), rest, 1.0, Par::Seq);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::factor::positive;
    use crate::random::Keyed;

    /// Of no reflection, of few, and of several blocks and tiles; the last columns a panel of their own that is too short.
    const SIZES: [usize; 6] = [1, BAND, BAND + 1, 3 * BAND + 5, REFLECTIONS + BAND, 3 * TILE - 3];

    fn random(rows: usize, columns: usize) -> Mat<f64> {
        let mut random = Keyed::new(&[rows as u64, columns as u64]);
        Mat::from_fn(rows, columns, |_, _| random.uniform() - 0.5)
    }

    /// `|(A + shift) X - B| / |B|`
    fn residual(values: &[f64], shift: f64, solution: &Mat<f64>, right: &Mat<f64>) -> f64 {
        let matrix = MatRef::from_column_major_slice(values, right.nrows(), right.nrows());
        let product = matrix * solution + faer::Scale(shift) * solution;
        (product - right).norm_l2() / right.norm_l2()
    }

    #[test]
    fn systems_are_solved_for_every_shift() {
        for size in SIZES {
            let (values, right) = (positive(size, size + 20), random(size, LANES + 3));
            let reduced = Reduced::new(Lower::from_columns(values.clone(), size));
            for shift in [0.0, 0.01, 100.0] {
                let solution = reduced.solve(shift, &right).unwrap();
                let residual = residual(&values, shift, &solution, &right);
                assert!(residual < 1e-9, "{size} and {shift}: {residual:e}");
            }
        }
    }

    #[test]
    fn columns_are_turned_into_those_of_the_band() {
        for size in SIZES {
            let values = positive(size, size);
            let matrix = MatRef::from_column_major_slice(&values, size, size);
            let reduced = Reduced::new(Lower::from_columns(values.clone(), size));
            let q = reduced.turned(&Mat::identity(size, size));
            let near = |found: Mat<f64>, expected: Mat<f64>, what: &str| {
                let error = (found - &expected).norm_l2() / expected.norm_l2();
                assert!(error < 1e-13 * (10.0 + size as f64), "{what} of {size}: {error:e}");
            };
            near(&q * q.transpose(), Mat::identity(size, size), "Qᵀ Q");
            let mut back = q.clone();
            reduced.turn_back(back.as_mut());
            near(back, Mat::identity(size, size), "Q Qᵀ");
            let band = reduced.matrix.as_ref();
            let band = Mat::from_fn(size, size, |i, j| match i.abs_diff(j) {
                0..=BAND => band[(i.max(j), i.min(j))],
                _ => 0.0,
            });
            near(&q * matrix * q.transpose(), band, "B");
        }
    }

    /// Reflections that have nothing to do, and others of what is only rounding.
    #[test]
    fn singular_matrices_are_solved_with_a_shift_and_not_without() {
        let size = REFLECTIONS + 3 * BAND;
        let right = random(size, 2);
        let diagonal = (0..size * size).map(|k| if k % (size + 1) == 0 { (k % 7) as f64 } else { 0.0 });
        let sparse = positive(size, 40).into_iter().enumerate();
        let sparse = sparse
            .map(|(k, v)| if [k % size, k / size].iter().any(|k| k.is_multiple_of(3)) { 0.0 } else { v });
        let constant = vec![3.0; size * size];
        for values in [vec![0.0; size * size], diagonal.collect(), sparse.collect(), constant] {
            let reduced = Reduced::new(Lower::from_columns(values.clone(), size));
            assert!(reduced.solve(0.0, &right).is_none());
            let residual = residual(&values, 0.1, &reduced.solve(0.1, &right).unwrap(), &right);
            assert!(residual < 1e-10, "{residual:e}");
        }
    }
}
