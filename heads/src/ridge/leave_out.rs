//! The squared error of every photo when it is left out, without fitting again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::problem::{Problem, Space};
use crate::dense::band::{BAND, BandCholesky, LANES};
use crate::dense::factor::Cholesky;
use crate::dense::gram::Lower;
use crate::dense::reduced::Reduced;
use crate::dense::rows::Rows;
use crate::head::{FitContext, History};
use crate::solver::choose::Choice;

/// Rows that a thread takes at a time, about.
const BLOCK: usize = 128;
/// Features of those that are turned from rows into columns at a time.
const COLUMNS: usize = 64;
/// Values that may be kept of all `alpha` where half the matrix is less.
const KEPT: usize = 1 << 19;

/// Chooses the `alpha` with the least mean of the squared errors, over all rows and targets, of predicting each photo
/// from the others; the first of equals. With fewer than two photos it takes the middle one, and a warning says so.
pub(super) fn choose(
    problem: &Problem<'_>,
    reduced: &Reduced,
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
    let mut right = problem.right.clone();
    reduced.turn(right.as_mut());
    let targets = problem.targets();
    let right = row_major(right.as_ref(), targets.next_multiple_of(LANES));
    let size = problem.right.nrows();
    let kept = (size * size / 2).max(KEPT) / (size * (BAND + 1 + targets));
    let groups = alphas.chunks(kept.max(1));
    let (done, steps) = (AtomicU64::new(0), (groups.len() * blocks.len()) as u64);
    let mut sums = Vec::with_capacity(alphas.len());
    for alphas in groups {
        let shifted: Vec<_> = alphas.par_iter().map(|&alpha| Shifted::new(reduced, alpha, &right, targets)).collect();
        let left_out = LeftOut { problem, reduced, shifted };
        let of_blocks: Vec<Vec<f64>> = blocks
            .par_iter()
            .map(|photos| {
                let errors = left_out.errors(photos);
                (context.on_step)(done.fetch_add(1, Ordering::Relaxed) + 1, steps);
                errors
            })
            .collect();
        sums.extend((0..alphas.len()).map(|k| of_blocks.iter().map(|errors| errors[k]).sum::<f64>()));
    }
    let values = (count * problem.targets()) as f64;
    let errors: Vec<f64> = sums.iter().map(|sum| sum / values).collect();
    let best = (0..alphas.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b])).unwrap_or_default();
    let rows = alphas.iter().zip(&errors).map(|(&alpha, &error)| vec![alpha, error]).collect();
    Choice { value: alphas[best], history: History { columns: vec!["alpha", "leave_one_out_error"], rows } }
}

/// What all blocks need of one `alpha`.
struct Shifted {
    alpha: f64,
    /// `L` of `L Lᵀ = B + alpha`.
    factor: BandCholesky,
    /// `L⁻¹ Qᵀ` times the right side, row-major, `[n, T]`.
    right: Vec<f64>,
}

impl Shifted {
    /// Of `Qᵀ` times the right side, row-major, whose first `targets` columns are kept.
    fn new(reduced: &Reduced, alpha: f64, turned: &[f64], targets: usize) -> Option<Self> {
        let factor = reduced.cholesky(alpha)?;
        let (mut solved, width) = (vec![0.0; turned.len()], turned.len() / factor.size());
        factor.forward(turned, &mut solved, &mut vec![0.0; width]);
        let right = solved.chunks_exact(width).flat_map(|row| row[..targets].iter().copied()).collect();
        Some(Self { alpha, factor, right })
    }
}

/// With the hat matrix `H = X (XᵀX + alpha)⁻¹ Xᵀ + s sᵀ / Σ s²`, `s` the roots of the samples' weights for the intercept,
/// the errors of the rows `b` of a photo that is left out are `(I - H_bb)⁻¹ (Y - H Y)_b`.
struct LeftOut<'a> {
    problem: &'a Problem<'a>,
    reduced: &'a Reduced,
    /// Of each `alpha`; nothing where the matrix plus it is singular.
    shifted: Vec<Option<Shifted>>,
}

impl LeftOut<'_> {
    /// The sum of the squared errors of these photos for each `alpha`; infinite where leaving one out leaves nothing that
    /// determines the intercept, and where the matrix plus `alpha` is singular.
    ///
    /// In the space of the features, `I - H` is taken as it stands. In that of the samples it is `alpha (XXᵀ + alpha)⁻¹`
    /// less the intercept's part, without the cancellation that the small residuals there would suffer.
    fn errors(&self, photos: &[Vec<usize>]) -> Vec<f64> {
        let rows: Vec<usize> = photos.iter().flatten().copied().collect();
        let (size, targets) = (self.problem.right.nrows(), self.problem.targets());
        let lanes = rows.len().next_multiple_of(LANES);
        let directions = self.directions(&rows, lanes);
        let (mut solved, mut squares) = (vec![0.0; directions.len()], vec![0.0; lanes]);
        let mut residuals = vec![0.0; rows.len() * targets];
        let of_alpha = |shifted: &Option<Shifted>| {
            let Some(Shifted { alpha, factor, right }) = shifted else { return f64::INFINITY };
            factor.forward(&directions, &mut solved, &mut squares);
            // I - H without the intercept's part is this much of I and this much of the products of what is solved.
            let (identity, share) = match self.problem.space {
                Space::Features => (1.0, -1.0),
                Space::Samples => (0.0, *alpha),
            };
            for (residuals, &row) in residuals.chunks_exact_mut(targets).zip(&rows) {
                for (t, residual) in residuals.iter_mut().enumerate() {
                    *residual = identity * self.problem.target(row, t);
                }
            }
            let solved = MatRef::from_row_major_slice(&solved, size, lanes);
            let right = MatRef::from_row_major_slice(right, size, targets);
            let out = MatMut::from_row_major_slice_mut(&mut residuals, rows.len(), targets);
            matmul(out, Accum::Add, solved.subcols(0, rows.len()).transpose(), right, share, Par::Seq);

            let (mut sum, mut first) = (0.0, 0);
            for photo in photos {
                let own = first..first + photo.len();
                let mut rest = vec![squares[first]];
                if photo.len() > 1 {
                    let solved = solved.subcols(first, photo.len());
                    rest.resize(photo.len() * photo.len(), 0.0);
                    let out = MatMut::from_column_major_slice_mut(&mut rest, photo.len(), photo.len());
                    matmul(out, Accum::Replace, solved.transpose(), solved, 1.0, Par::Seq);
                }
                for (k, rest) in rest.iter_mut().enumerate() {
                    let (i, j) = (k / photo.len(), k % photo.len());
                    let intercept =
                        self.problem.root(photo[i]) * self.problem.root(photo[j]) / self.problem.sum;
                    *rest = if i == j { identity } else { 0.0 } + share * *rest - intercept;
                }
                let residuals = &residuals[own.start * targets..own.end * targets];
                sum += squared_errors(rest, residuals, photo.len());
                first += photo.len();
            }
            sum
        };
        self.shifted.iter().map(of_alpha).collect()
    }

    /// `Qᵀ` times the rows, a column each: `[n, rows]` and columns of 0, row-major. Those of `X`, or of the identity.
    fn directions(&self, rows: &[usize], lanes: usize) -> Vec<f64> {
        let size = self.problem.right.nrows();
        let mut directions = vec![0.0; size * lanes];
        match self.problem.space {
            Space::Samples => {
                for (column, &row) in rows.iter().enumerate() {
                    directions[row * lanes + column] = 1.0;
                }
            }
            Space::Features => {
                let mut block = Vec::<f64>::new();
                for (first, out) in (0..size).step_by(COLUMNS).zip(directions.chunks_mut(COLUMNS * lanes)) {
                    let width = out.len() / lanes;
                    self.problem.rows().block(rows.iter().copied(), first..first + width, &mut block);
                    for (k, out) in out.chunks_exact_mut(lanes).enumerate() {
                        for (out, value) in out.iter_mut().zip(block[k..].iter().step_by(width)) {
                            *out = *value;
                        }
                    }
                }
            }
        }
        self.reduced.turn(MatMut::from_row_major_slice_mut(&mut directions, size, lanes));
        directions
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

/// The values row by row, with columns of 0 up to a `width`.
fn row_major(matrix: MatRef<'_, f64>, width: usize) -> Vec<f64> {
    let mut values = vec![0.0; matrix.nrows() * width];
    MatMut::from_row_major_slice_mut(&mut values, matrix.nrows(), width)
        .subcols_mut(0, matrix.ncols())
        .copy_from(matrix);
    values
}
