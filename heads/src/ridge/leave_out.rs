//! The squared error of every photo when it is left out, without fitting again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::problem::{Problem, Space};
use crate::dense::factor::{Cholesky, Eigen};
use crate::dense::gram::Lower;
use crate::dense::rows::Rows;
use crate::head::{FitContext, History};
use crate::solver::choose::Choice;
use crate::vector::Vectors;

/// Rows that a thread takes at a time, about.
const BLOCK: usize = 256;

/// Chooses the `alpha` with the least mean of the squared errors, over all rows and targets, of predicting each photo
/// from the others; the first of equals. With fewer than two photos it takes the middle one, and a warning says so.
pub(super) fn choose(
    problem: &Problem<'_>,
    eigen: &Eigen,
    alphas: &[f64],
    photos: Option<&[u32]>,
    context: &FitContext<'_>,
) -> Choice {
    let count = problem.rows().count();
    let photos = match photos {
        None => (0..count).map(|row| vec![row]).collect(),
        Some(photos) => {
            let mut rows: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            photos.iter().enumerate().for_each(|(row, &photo)| rows.entry(photo).or_default().push(row));
            rows.into_values().collect::<Vec<_>>()
        }
    };
    if photos.len() < 2 {
        let value = alphas[alphas.len() / 2];
        tracing::warn!("`alpha = \"auto\"` takes {value}: there are no two photos to choose by");
        return Choice { value, history: History::default() };
    }
    let longest = photos.iter().map(Vec::len).max().unwrap_or(1);
    let blocks: Vec<&[Vec<usize>]> = photos.chunks((BLOCK / longest).max(1)).collect();
    let left_out = LeftOut { problem, eigen, rotated: problem.rotated(eigen) };
    let done = AtomicU64::new(0);
    let of_blocks: Vec<Vec<f64>> = blocks
        .par_iter()
        .map(|photos| {
            let errors = left_out.errors(photos, alphas);
            (context.on_step)(done.fetch_add(1, Ordering::Relaxed) + 1, blocks.len() as u64);
            errors
        })
        .collect();
    let values = (count * problem.targets()) as f64;
    let error = |k: usize| of_blocks.iter().map(|errors| errors[k]).sum::<f64>() / values;
    let errors: Vec<f64> = (0..alphas.len()).map(error).collect();
    let best = (0..alphas.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b])).unwrap_or_default();
    let rows = alphas.iter().zip(&errors).map(|(&alpha, &error)| vec![alpha, error]).collect();
    Choice { value: alphas[best], history: History { columns: vec!["alpha", "leave_one_out_error"], rows } }
}

/// With the hat matrix `H = X (XᵀX + alpha)⁻¹ Xᵀ + s sᵀ / Σ s²`, `s` the roots of the samples' weights for the intercept,
/// the errors of the rows `b` of a photo that is left out are `(I - H_bb)⁻¹ (Y - H Y)_b`.
struct LeftOut<'a> {
    problem: &'a Problem<'a>,
    eigen: &'a Eigen,
    /// `Vᵀ` times the right side, `[n, T]`.
    rotated: Mat<f64>,
}

impl LeftOut<'_> {
    /// The sum of the squared errors of these photos for each `alpha`; infinite where leaving one out leaves nothing that
    /// determines the intercept.
    ///
    /// In the space of the features, `I - H` is taken as it stands. In that of the samples it is `alpha (XXᵀ + alpha)⁻¹`
    /// less the intercept's part, without the cancellation that the small residuals there would suffer.
    fn errors(&self, photos: &[Vec<usize>], alphas: &[f64]) -> Vec<f64> {
        let rows: Vec<usize> = photos.iter().flatten().copied().collect();
        let (size, targets) = (self.eigen.values.len(), self.problem.targets());
        let directions = self.directions(&rows);
        let identity = if self.problem.space == Space::Features { 1.0 } else { 0.0 };
        let mut scaled = vec![0.0; directions.len()];
        let mut residuals = vec![0.0; rows.len() * targets];
        let of_alpha = |&alpha: &f64| {
            let factors: Vec<f64> = match self.problem.space {
                Space::Features => self.eigen.values.iter().map(|value| 1.0 / (value + alpha)).collect(),
                Space::Samples => self.eigen.values.iter().map(|value| -alpha / (value + alpha)).collect(),
            };
            for (scaled, direction) in scaled.chunks_exact_mut(size).zip(directions.chunks_exact(size)) {
                for ((scaled, value), factor) in scaled.iter_mut().zip(direction).zip(&factors) {
                    *scaled = value * factor;
                }
            }
            for (residuals, &row) in residuals.chunks_exact_mut(targets).zip(&rows) {
                for (t, residual) in residuals.iter_mut().enumerate() {
                    *residual = identity * self.problem.target(row, t);
                }
            }
            let out = MatMut::from_row_major_slice_mut(&mut residuals, rows.len(), targets);
            let scaled_rows = MatRef::from_row_major_slice(&scaled, rows.len(), size);
            matmul(out, Accum::Add, scaled_rows, self.rotated.as_ref(), -1.0, Par::Seq);

            let (mut sum, mut first) = (0.0, 0);
            for photo in photos {
                let of = |values: usize| first * values..(first + photo.len()) * values;
                let (scaled, direction) = (&scaled[of(size)], &directions[of(size)]);
                let rest = self.rest(photo, identity, scaled, direction);
                sum += squared_errors(rest, &residuals[of(targets)], photo.len());
                first += photo.len();
            }
            sum
        };
        alphas.iter().map(of_alpha).collect()
    }

    /// The rows in the basis of the eigenvectors, `[rows, n]`: of `X V`, or of `V` itself.
    fn directions(&self, rows: &[usize]) -> Vec<f64> {
        let vectors = &self.eigen.vectors;
        match self.problem.space {
            Space::Samples => {
                rows.iter().flat_map(|&row| (0..vectors.ncols()).map(move |k| vectors[(row, k)])).collect()
            }
            Space::Features => {
                let (mut block, width) = (Vec::<f64>::new(), vectors.nrows());
                self.problem.rows().block(rows.iter().copied(), 0..width, &mut block);
                let mut out = vec![0.0; block.len()];
                let product = MatMut::from_row_major_slice_mut(&mut out, rows.len(), width);
                let block = MatRef::from_row_major_slice(&block, rows.len(), width);
                matmul(product, Accum::Replace, block, vectors.as_ref(), 1.0, Par::Seq);
                out
            }
        }
    }

    /// `(I - H)_bb`, `[views, views]`.
    fn rest(&self, photo: &[usize], identity: f64, scaled: &[f64], direction: &[f64]) -> Vec<f64> {
        let size = self.eigen.values.len();
        let mut rest = Vec::with_capacity(photo.len() * photo.len());
        for (i, scaled) in scaled.chunks_exact(size).enumerate() {
            for (j, direction) in direction.chunks_exact(size).enumerate() {
                let intercept = self.problem.root(photo[i]) * self.problem.root(photo[j]) / self.problem.sum;
                let own = if i == j { identity } else { 0.0 };
                rest.push(own - intercept - Vectors::new().dot(scaled, direction));
            }
        }
        rest
    }
}

/// `|(I - H)_bb⁻¹ r|²` for residuals `r` `[views, T]`.
fn squared_errors(rest: Vec<f64>, residuals: &[f64], views: usize) -> f64 {
    if let [rest] = rest[..] {
        let squares: f64 = residuals.iter().map(|residual| residual * residual).sum();
        return if rest > 0.0 { squares / (rest * rest) } else { f64::INFINITY };
    }
    let Some(factor) = Cholesky::new(Lower::from_columns(rest, views)) else { return f64::INFINITY };
    let residuals = MatRef::from_row_major_slice(residuals, views, residuals.len() / views);
    factor.solve(residuals.to_owned()).squared_norm_l2()
}
