//! Cache of the products of support vectors with each other, reused between Newton steps.

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Accum, MatMut, MatRef, Par};

use super::BinarySvmProblem;
use crate::dense::factor::factor_tile;
use crate::vector::VectorOps;

/// Maximum number of cached samples. Products and factor take `12 n²` bytes per thread, 19 MiB for this
/// value, and a factorization takes `n³ / 3` operations, at most a tenth of a second. If more samples are
/// free, `C` is small relative to their number, and conjugate gradients need few iterations.
pub(super) const MAX_SAMPLES: usize = 1280;

/// Rows of a product computed at a time.
pub(super) const ROWS_PER_BLOCK: usize = 128;

/// Marks a sample that is not cached.
const NOT_CACHED: u32 = u32::MAX;

/// The kernel matrix of some samples: the dot products `x_i·x_j` of their features (including the constant
/// feature for the intercept) with each other. With them, Newton steps on the dual coefficients of these
/// samples do not need the features.
pub(super) struct KernelCache {
    /// The cached samples, in the order of insertion.
    samples: Vec<usize>,
    /// Row of each sample, or [`NOT_CACHED`]; `[N]`.
    row_of: Vec<u32>,
    /// The dot products: the lower triangle of the kernel matrix, row by row.
    products: Vec<f64>,
    /// Scratch space of the factorization.
    factor: Vec<f64>,
}

impl KernelCache {
    /// A cache without any dot products yet, for a binary SVM problem with `count` samples.
    pub(super) fn new(count: usize) -> Self {
        let row_of = vec![NOT_CACHED; count];
        Self { samples: Vec::new(), row_of, products: Vec::new(), factor: Vec::new() }
    }

    /// Indices of the cached samples, in the order of the kernel matrix's rows.
    pub(super) fn samples(&self) -> &[usize] {
        &self.samples
    }

    /// Makes sure that the dot products of the `wanted` samples (indices into `problem`) with each other are
    /// cached, as exact Newton steps need them, by computing those that are missing. If they do not all fit,
    /// the cache is emptied first. Returns false and changes nothing if more than [`MAX_SAMPLES`] are wanted.
    pub(super) fn ensure_cached(&mut self, wanted: &[usize], problem: &BinarySvmProblem<'_>) -> bool {
        if wanted.len() > MAX_SAMPLES {
            return false;
        }
        let mut missing: Vec<usize> =
            wanted.iter().copied().filter(|&i| self.row_of[i] == NOT_CACHED).collect();
        if self.samples.len() + missing.len() > MAX_SAMPLES {
            self.samples.drain(..).for_each(|i| self.row_of[i] = NOT_CACHED);
            self.products.clear();
            missing = wanted.to_vec();
        }
        for rows in missing.chunks(ROWS_PER_BLOCK) {
            self.append(rows, problem);
        }
        true
    }

    /// Adds the samples `missing` (indices into `problem`, at most [`ROWS_PER_BLOCK`]) to the cache: computes
    /// their dot products with all cached samples and with each other.
    fn append(&mut self, missing: &[usize], problem: &BinarySvmProblem<'_>) {
        let first = self.samples.len();
        for (row, &i) in (first as u32..).zip(missing) {
            self.row_of[i] = row;
        }
        self.samples.extend(missing);
        let triangle_start = |row: usize| row * (row + 1) / 2;
        self.products.resize(triangle_start(self.samples.len()), 0.0);

        let width = problem.features.width();
        let read_rows = |samples: &[usize], out: &mut Vec<f64>| {
            out.clear();
            for &i in samples {
                out.extend(problem.features.row(i).iter().map(|&x| f64::from(x)));
            }
        };
        let (mut new_rows, mut cached_rows, mut product) =
            (Vec::new(), Vec::new(), vec![0.0; ROWS_PER_BLOCK * ROWS_PER_BLOCK]);
        read_rows(missing, &mut new_rows);
        for (columns, first_column) in self.samples.chunks(ROWS_PER_BLOCK).zip((0..).step_by(ROWS_PER_BLOCK))
        {
            read_rows(columns, &mut cached_rows);
            let product = &mut product[..missing.len() * columns.len()];
            matmul(
                MatMut::from_row_major_slice_mut(&mut *product, missing.len(), columns.len()),
                Accum::Replace,
                MatRef::from_row_major_slice(&new_rows, missing.len(), width),
                MatRef::from_row_major_slice(&cached_rows, columns.len(), width).transpose(),
                1.0,
                Par::Seq,
            );
            for (row, product) in (first..).zip(product.chunks_exact(columns.len())) {
                // Only the part of the block on and below the diagonal is stored.
                let n_columns = columns.len().min((row + 1).saturating_sub(first_column));
                let out = &mut self.products[triangle_start(row) + first_column.min(row)..][..n_columns];
                for (out, product) in out.iter_mut().zip(product) {
                    // Plus the product of the constant features.
                    *out = product + problem.intercept_scaling * problem.intercept_scaling;
                }
            }
        }
    }

    /// Products of a cached sample with those before it in the cache and with itself: a row of the lower
    /// triangle, `[row + 1]`.
    fn triangle_row(&self, row: usize) -> &[f64] {
        &self.products[row * (row + 1) / 2..][..=row]
    }

    /// The kernel matrix times a vector: `Σ_j (x_i·x_j) coefficients_j` for each cached sample `i`. Both
    /// vectors are in cache order. A Newton step gets the change of the gradient from it.
    pub(super) fn multiply(&self, coefficients: &[f64], vectors: VectorOps) -> Vec<f64> {
        let mut out = vec![0.0; coefficients.len()];
        for (row, &factor) in coefficients.iter().enumerate() {
            // The matrix is symmetric: each entry below the diagonal counts in its row and in its column.
            let (before, diagonal) = self.triangle_row(row).split_at(row);
            out[row] += vectors.dot(before, &coefficients[..row]) + diagonal[0] * factor;
            if factor != 0.0 {
                vectors.add_scaled(&mut out[..row], factor, before);
            }
        }
        out
    }

    /// Solves the Newton system `(S K S + D) d = rhs` for a step `d` of the dual coefficients of the cached
    /// samples in `rows` (ascending) by Cholesky: `K` is their part of the kernel matrix, `S` the diagonal
    /// matrix of their labels `signs` (1 or -1), `D` that of `diagonal`. Overwrites `rhs` with `d`. Returns
    /// false if the matrix is not positive definite beyond rounding; then `rhs` has no meaning.
    pub(super) fn solve(&mut self, rows: &[usize], signs: &[f64], diagonal: &[f64], rhs: &mut [f64]) -> bool {
        let n = rows.len();
        let mut factor = std::mem::take(&mut self.factor);
        factor.resize(factor.len().max(n * n), 0.0);
        for (k, &row) in rows.iter().enumerate() {
            let products = self.triangle_row(row);
            for ((j, &column), sign) in rows[..=k].iter().enumerate().zip(signs) {
                factor[j * n + k] = signs[k] * sign * products[column];
            }
            factor[k * n + k] += diagonal[k];
        }
        let mut matrix = MatMut::from_column_major_slice_mut(&mut factor[..n * n], n, n);
        let factored = factor_tile(matrix.as_mut()).is_some();
        if factored {
            let mut solution = MatMut::from_column_major_slice_mut(&mut *rhs, n, 1);
            solve_lower_triangular_in_place(matrix.as_ref(), solution.as_mut(), Par::Seq);
            solve_upper_triangular_in_place(matrix.transpose(), solution, Par::Seq);
        }
        self.factor = factor;
        factored && rhs.iter().all(|d| d.is_finite())
    }
}
