//! Products of support vectors with each other, kept from one Newton step to the next.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltParams, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::cholesky::llt::solve::solve_in_place;
use faer::linalg::matmul::matmul;
use faer::{Accum, Auto, MatMut, MatRef, Par, Spec};

use super::Problem;
use crate::vector::Vectors;

/// Samples that a kernel holds, at most. Products and factor take `12 n²` bytes a thread, 19 MiB for these, and a
/// factorisation `n³ / 3` operations, a tenth of a second's work at the very most. Where more samples are free, `C` is small
/// against their number and conjugate gradients need few iterations.
pub(super) const LARGEST: usize = 1280;

/// Rows of a product that are computed at a time.
pub(super) const BLOCK: usize = 128;

/// What marks a sample that is not held.
const ABSENT: u32 = u32::MAX;

/// `x_i·x_j`, the constant feature included, of some samples.
pub(super) struct Kernel {
    /// The samples, in the order in which they came.
    samples: Vec<usize>,
    /// Row of each sample, or [`ABSENT`]; `[N]`.
    row_of: Vec<u32>,
    /// The lower triangle, row after row.
    products: Vec<f64>,
    /// What a system is factored in.
    factor: Vec<f64>,
}

impl Kernel {
    /// One that holds none of `count` samples.
    pub(super) fn new(count: usize) -> Self {
        Self { samples: Vec::new(), row_of: vec![ABSENT; count], products: Vec::new(), factor: Vec::new() }
    }

    /// The samples that are held.
    pub(super) fn samples(&self) -> &[usize] {
        &self.samples
    }

    /// Holds `wanted` too; forgets the others where all together are too many. Whether `wanted` are few enough.
    pub(super) fn hold(&mut self, wanted: &[usize], problem: &Problem<'_>) -> bool {
        if wanted.len() > LARGEST {
            return false;
        }
        let mut new: Vec<usize> = wanted.iter().copied().filter(|&i| self.row_of[i] == ABSENT).collect();
        if self.samples.len() + new.len() > LARGEST {
            self.samples.drain(..).for_each(|i| self.row_of[i] = ABSENT);
            self.products.clear();
            new = wanted.to_vec();
        }
        for rows in new.chunks(BLOCK) {
            self.append(rows, problem);
        }
        true
    }

    fn append(&mut self, new: &[usize], problem: &Problem<'_>) {
        let first = self.samples.len();
        for (row, &i) in (first as u32..).zip(new) {
            self.row_of[i] = row;
        }
        self.samples.extend(new);
        let start = |row: usize| row * (row + 1) / 2;
        self.products.resize(start(self.samples.len()), 0.0);

        let width = problem.features.width();
        let read = |samples: &[usize], out: &mut Vec<f64>| {
            out.clear();
            for &i in samples {
                out.extend(problem.features.row(i).iter().map(|&x| f64::from(x)));
            }
        };
        let (mut left, mut right, mut product) = (Vec::new(), Vec::new(), vec![0.0; BLOCK * BLOCK]);
        read(new, &mut left);
        for (columns, at) in self.samples.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
            read(columns, &mut right);
            let product = &mut product[..new.len() * columns.len()];
            matmul(
                MatMut::from_row_major_slice_mut(&mut *product, new.len(), columns.len()),
                Accum::Replace,
                MatRef::from_row_major_slice(&left, new.len(), width),
                MatRef::from_row_major_slice(&right, columns.len(), width).transpose(),
                1.0,
                Par::Seq,
            );
            for (row, product) in (first..).zip(product.chunks_exact(columns.len())) {
                let held = columns.len().min((row + 1).saturating_sub(at));
                let out = &mut self.products[start(row) + at.min(row)..][..held];
                for (out, product) in out.iter_mut().zip(product) {
                    *out = product + problem.constant * problem.constant;
                }
            }
        }
    }

    /// `row` of the lower triangle.
    fn triangle_row(&self, row: usize) -> &[f64] {
        &self.products[row * (row + 1) / 2..][..=row]
    }

    /// `Σ_j x_i·x_j factors_j` for all samples that are held.
    pub(super) fn times(&self, factors: &[f64], vectors: Vectors) -> Vec<f64> {
        let mut out = vec![0.0; factors.len()];
        for (row, &factor) in factors.iter().enumerate() {
            let (before, own) = self.triangle_row(row).split_at(row);
            out[row] += vectors.dot(before, &factors[..row]) + own[0] * factor;
            if factor != 0.0 {
                vectors.add_scaled(&mut out[..row], factor, before);
            }
        }
        out
    }

    /// Solves `(S K S + D) d = right` over the samples in `rows` (ascending), with the signs `S` and the diagonal `D` of
    /// each; `right` becomes `d`. Whether the matrix is positive definite beyond rounding.
    pub(super) fn solve(
        &mut self,
        rows: &[usize],
        signs: &[f64],
        diagonal: &[f64],
        right: &mut [f64],
    ) -> bool {
        let n = rows.len();
        let mut factor = std::mem::take(&mut self.factor);
        factor.resize(factor.len().max(n * n), 0.0);
        for (k, &row) in rows.iter().enumerate() {
            let products = self.triangle_row(row);
            for ((j, &other), sign) in rows[..=k].iter().enumerate().zip(signs) {
                factor[j * n + k] = signs[k] * sign * products[other];
            }
            factor[k * n + k] += diagonal[k];
        }
        let mut matrix = MatMut::from_column_major_slice_mut(&mut factor[..n * n], n, n);
        let params = Spec::<LltParams, f64>::new(Auto::<f64>::auto());
        let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f64>(n, Par::Seq, params));
        let stack = MemStack::new(&mut memory);
        let done = cholesky_in_place(matrix.as_mut(), Default::default(), Par::Seq, stack, params).is_ok();
        if done {
            solve_in_place(
                matrix.as_ref(),
                MatMut::from_column_major_slice_mut(right, n, 1),
                Par::Seq,
                stack,
            );
        }
        self.factor = factor;
        done && right.iter().all(|d| d.is_finite())
    }
}
