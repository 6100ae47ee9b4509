//! Cache of the products of support vectors with each other, reused between Newton steps.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltParams, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::cholesky::llt::solve::solve_in_place;
use faer::linalg::matmul::matmul;
use faer::{Accum, Auto, MatMut, MatRef, Par, Spec};

use super::BinarySvmProblem;
use crate::vector::VectorOps;

/// Maximum number of cached samples. Products and factor take `12 n²` bytes per thread, 19 MiB for this
/// value, and a factorization takes `n³ / 3` operations, at most a tenth of a second. If more samples are
/// free, `C` is small relative to their number, and conjugate gradients need few iterations.
pub(super) const MAX_SAMPLES: usize = 1280;

/// Rows of a product computed at a time.
pub(super) const ROWS_PER_BLOCK: usize = 128;

/// Marks a sample that is not cached.
const NOT_CACHED: u32 = u32::MAX;

/// `x_i·x_j`, including the constant feature, for some samples.
pub(super) struct KernelCache {
    /// The cached samples, in the order of insertion.
    samples: Vec<usize>,
    /// Row of each sample, or [`NOT_CACHED`]; `[N]`.
    row_of: Vec<u32>,
    /// The lower triangle, row by row.
    products: Vec<f64>,
    /// Scratch space of the factorization.
    factor: Vec<f64>,
}

impl KernelCache {
    /// An empty cache for `count` samples.
    pub(super) fn new(count: usize) -> Self {
        Self {
            samples: Vec::new(),
            row_of: vec![NOT_CACHED; count],
            products: Vec::new(),
            factor: Vec::new(),
        }
    }

    /// The cached samples.
    pub(super) fn samples(&self) -> &[usize] {
        &self.samples
    }

    /// Adds the `wanted` samples; evicts all others if they do not fit together. Returns false if `wanted`
    /// are too many.
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

    /// Adds samples that are not cached and computes their products with all cached ones.
    fn append(&mut self, missing: &[usize], problem: &BinarySvmProblem<'_>) {
        let first = self.samples.len();
        for (row, &i) in (first as u32..).zip(missing) {
            self.row_of[i] = row;
        }
        self.samples.extend(missing);
        let triangle_start = |row: usize| row * (row + 1) / 2;
        self.products.resize(triangle_start(self.samples.len()), 0.0);

        let width = problem.features.width();
        let read = |samples: &[usize], out: &mut Vec<f64>| {
            out.clear();
            for &i in samples {
                out.extend(problem.features.row(i).iter().map(|&x| f64::from(x)));
            }
        };
        let (mut left, mut right, mut product) =
            (Vec::new(), Vec::new(), vec![0.0; ROWS_PER_BLOCK * ROWS_PER_BLOCK]);
        read(missing, &mut left);
        for (columns, first_column) in self.samples.chunks(ROWS_PER_BLOCK).zip((0..).step_by(ROWS_PER_BLOCK))
        {
            read(columns, &mut right);
            let product = &mut product[..missing.len() * columns.len()];
            matmul(
                MatMut::from_row_major_slice_mut(&mut *product, missing.len(), columns.len()),
                Accum::Replace,
                MatRef::from_row_major_slice(&left, missing.len(), width),
                MatRef::from_row_major_slice(&right, columns.len(), width).transpose(),
                1.0,
                Par::Seq,
            );
            for (row, product) in (first..).zip(product.chunks_exact(columns.len())) {
                let n_columns = columns.len().min((row + 1).saturating_sub(first_column));
                let out = &mut self.products[triangle_start(row) + first_column.min(row)..][..n_columns];
                for (out, product) in out.iter_mut().zip(product) {
                    *out = product + problem.intercept_scaling * problem.intercept_scaling;
                }
            }
        }
    }

    /// A row of the lower triangle.
    fn triangle_row(&self, row: usize) -> &[f64] {
        &self.products[row * (row + 1) / 2..][..=row]
    }

    /// `Σ_j x_i·x_j coefficients_j` for all cached samples.
    pub(super) fn multiply(&self, coefficients: &[f64], vectors: VectorOps) -> Vec<f64> {
        let mut out = vec![0.0; coefficients.len()];
        for (row, &factor) in coefficients.iter().enumerate() {
            let (before, own) = self.triangle_row(row).split_at(row);
            out[row] += vectors.dot(before, &coefficients[..row]) + own[0] * factor;
            if factor != 0.0 {
                vectors.add_scaled(&mut out[..row], factor, before);
            }
        }
        out
    }

    /// Solves `(S K S + D) d = rhs` over the samples in `rows` (ascending), with the signs `S` and the
    /// diagonal `D` of each; `rhs` becomes `d`. Returns whether the matrix is positive definite beyond
    /// rounding.
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
        let params = Spec::<LltParams, f64>::new(Auto::<f64>::auto());
        let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f64>(n, Par::Seq, params));
        let stack = MemStack::new(&mut memory);
        let factored =
            cholesky_in_place(matrix.as_mut(), Default::default(), Par::Seq, stack, params).is_ok();
        if factored {
            solve_in_place(matrix.as_ref(), MatMut::from_column_major_slice_mut(rhs, n, 1), Par::Seq, stack);
        }
        self.factor = factor;
        factored && rhs.iter().all(|d| d.is_finite())
    }
}
