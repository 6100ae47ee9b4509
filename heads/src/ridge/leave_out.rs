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

/// Rows that a thread takes at a time, but for a photo with more.
const BLOCK: usize = 128;
/// Features of those that are turned from rows into columns at a time.
const COLUMNS: usize = 64;
/// How many `alpha` all rows are passed over for at a time, each pass turning them anew: more than there are by default, and few
/// enough that what is kept of them is little beside the matrix.
const GROUP: usize = 16;

/// Chooses the `alpha` with the least mean of the squared errors, over all rows and targets, of predicting each photo
/// from the others; the first of equals. With fewer than two photos it takes the middle one, and where no error is finite the
/// largest; a warning says so.
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
    let errors = errors(problem, reduced, alphas, &photos, context);
    let best = (0..alphas.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b])).unwrap_or_default();
    let mut value = alphas[best];
    if !errors[best].is_finite() {
        value = alphas.iter().copied().fold(value, f64::max);
        tracing::warn!(
            "`alpha = \"auto\"` takes {value}, the largest: beside these features all of `alphas` are rounding"
        );
    }
    let rows = alphas.iter().zip(&errors).map(|(&alpha, &error)| vec![alpha, error]).collect();
    Choice { value, history: History { columns: vec!["alpha", "leave_one_out_error"], rows } }
}

/// The mean of the squared errors for each `alpha`.
fn errors(
    problem: &Problem<'_>,
    reduced: &Reduced,
    alphas: &[f64],
    photos: &[Vec<usize>],
    context: &FitContext<'_>,
) -> Vec<f64> {
    let blocks = blocks(photos);
    let groups = alphas.chunks(GROUP);
    let (done, steps) = (AtomicU64::new(0), (groups.len() * blocks.len()) as u64);
    let width = problem.targets().next_multiple_of(LANES);
    let right = row_major(reduced.turned(&problem.right).as_ref(), width);
    let mut sums = Vec::with_capacity(alphas.len());
    for alphas in groups {
        let of_alpha = |&alpha| Shifted::new(reduced, alpha, &right, problem.targets());
        let left_out = LeftOut { problem, reduced, shifted: alphas.par_iter().map(of_alpha).collect() };
        let of_blocks: Vec<Vec<f64>> = blocks
            .par_iter()
            .map(|photos| {
                let sums = left_out.squared_errors(photos);
                (context.on_step)(done.fetch_add(1, Ordering::Relaxed) + 1, steps);
                sums
            })
            .collect();
        sums.extend((0..alphas.len()).map(|k| of_blocks.iter().map(|sums| sums[k]).sum::<f64>()));
    }
    let values = (problem.rows().count() * problem.targets()) as f64;
    sums.iter().map(|sum| sum / values).collect()
}

/// Photos with at most [`BLOCK`] rows together, or one that has more.
fn blocks(photos: &[Vec<usize>]) -> Vec<&[Vec<usize>]> {
    let (mut blocks, mut rest) = (Vec::new(), photos);
    while !rest.is_empty() {
        let mut rows = 0;
        let fits = |photo: &&Vec<usize>| {
            rows += photo.len();
            rows <= BLOCK
        };
        let (block, after) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        blocks.push(block);
        rest = after;
    }
    blocks
}

/// Values that choosing among so many `alphas` keeps beside a matrix of this `side`: of each `alpha`, and of each thread's rows.
pub(super) fn memory(side: u64, classes: u64, alphas: u64) -> u64 {
    let of_alphas = alphas.min(GROUP as u64) * (BAND as u64 + 1 + classes);
    let of_rows = 2 * (BLOCK * rayon::current_num_threads()) as u64;
    side * (of_alphas + of_rows)
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
    fn squared_errors(&self, photos: &[Vec<usize>]) -> Vec<f64> {
        let rows: Vec<usize> = photos.iter().flatten().copied().collect();
        let (size, targets) = (self.problem.right.nrows(), self.problem.targets());
        let lanes = rows.len().next_multiple_of(LANES);
        let directions = self.directions(&rows, lanes);
        let (mut solved, mut squares) = (vec![0.0; directions.len()], vec![0.0; lanes]);
        let mut residuals = vec![0.0; rows.len() * targets];
        let of_alpha = |shifted: &Option<Shifted>| {
            let Some(Shifted { alpha, factor, right }) = shifted else { return f64::INFINITY };
            factor.forward(&directions, &mut solved, &mut squares);
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
                let mut rest = vec![squares[first]];
                if photo.len() > 1 {
                    rest.resize(photo.len() * photo.len(), 0.0);
                    let out = MatMut::from_column_major_slice_mut(&mut rest, photo.len(), photo.len());
                    let solved = solved.subcols(first, photo.len());
                    matmul(out, Accum::Replace, solved.transpose(), solved, 1.0, Par::Seq);
                }
                self.complete(&mut rest, photo, identity, share);
                let residuals = &residuals[first * targets..(first + photo.len()) * targets];
                sum += squared_errors(rest, residuals, photo.len());
                first += photo.len();
            }
            sum
        };
        self.shifted.iter().map(of_alpha).collect()
    }

    /// From the products of what is solved for a photo's rows to `(I - H)_bb`, `[views, views]`: `identity` and a `share` of
    /// them, less the intercept's part.
    fn complete(&self, products: &mut [f64], photo: &[usize], identity: f64, share: f64) {
        let root = |view: usize| self.problem.root(photo[view]);
        for (k, value) in products.iter_mut().enumerate() {
            let (i, j) = (k / photo.len(), k % photo.len());
            let own = if i == j { identity } else { 0.0 };
            *value = own + share * *value - root(i) * root(j) / self.problem.sum;
        }
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

#[cfg(test)]
mod tests {
    use super::super::RidgeConfig;
    use super::*;
    use crate::data::{Features, TrainingSet};
    use crate::head::{Head, HeadConfig};
    use crate::random::Keyed;

    const ALPHAS: [f64; 3] = [0.3, 3.0, 30.0];
    const CLASSES: usize = 3;

    /// Rows that tell their class in part, with a feature that tells nothing and one that is another's double.
    fn rows(count: usize, width: usize) -> (Vec<f32>, Vec<u32>) {
        let mut random = Keyed::new(&[count as u64, width as u64]);
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for row in 0..count {
            let class = row * row % 7 % CLASSES;
            let mut features: Vec<f32> = (0..width).map(|_| random.uniform() as f32).collect();
            features[class] += 1.0;
            (features[3], features[4]) = (0.5, 2.0 * features[0]);
            values.extend(features);
            labels.push(class as u32);
        }
        (values, labels)
    }

    fn set<'a>((values, labels): &'a (Vec<f32>, Vec<u32>), width: usize) -> TrainingSet<'a> {
        TrainingSet::new(Features::new(values, width).unwrap(), labels, CLASSES).unwrap()
    }

    /// The mean squared error of the rows of each photo, predicted by a fit to the others.
    fn by_fitting_again(all: &(Vec<f32>, Vec<u32>), width: usize, photos: &[u32], alpha: f64) -> f64 {
        let mut sum = 0.0;
        for &photo in photos.iter().collect::<std::collections::BTreeSet<_>>() {
            let part = |own: bool| -> (Vec<f32>, Vec<u32>) {
                let rows = (0..photos.len()).filter(|&row| (photos[row] == photo) == own);
                let values = |row| all.0[row * width..(row + 1) * width].iter().copied();
                (rows.clone().flat_map(values).collect(), rows.map(|row| all.1[row]).collect())
            };
            let (own, others) = (part(true), part(false));
            let config = RidgeConfig { alpha: alpha.into(), ..RidgeConfig::default() };
            let head = config.fit(&set(&others, width), &FitContext::quiet()).unwrap().head;
            let logits = head.logits(Features::new(&own.0, width).unwrap()).unwrap();
            for (logits, &label) in logits.rows().zip(&own.1) {
                for (class, &logit) in logits.iter().enumerate() {
                    let target = if class == label as usize { 1.0 } else { -1.0 };
                    sum += (f64::from(logit) - target).powi(2);
                }
            }
        }
        sum / (photos.len() * CLASSES) as f64
    }

    /// In both spaces, with more rows and features than a band has diagonals; with photos of one view and of a few, and one with
    /// more than a block takes.
    #[test]
    fn errors_are_those_of_fitting_again_without_the_photo() {
        for (count, width) in [(90, 50), (50, 90), (2 * BLOCK + 30, 20)] {
            let all = rows(count, width);
            let each: Vec<u32> = (0..count as u32).collect();
            let of_row = |row: &u32| match row % 6 {
                0 | 2 | 4 => 7,
                3 => 1000 + row,
                _ => 100 + row / 12,
            };
            let views: Vec<u32> = each.iter().map(of_row).collect();
            for photos in [&each, &views] {
                let data = set(&all, width).with_groups(photos).unwrap();
                let config = RidgeConfig { alphas: ALPHAS.into(), ..RidgeConfig::default() };
                let fitted = config.fit(&data, &FitContext::quiet()).unwrap();
                for row in &fitted.history.rows {
                    let expected = by_fitting_again(&all, width, photos, row[0]);
                    assert!((row[1] / expected - 1.0).abs() < 1e-5, "{count} rows: {row:?}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn every_photo_is_in_one_block_and_blocks_are_as_long_as_they_may_be() {
        let rows = |range: std::ops::Range<usize>| range.collect::<Vec<usize>>();
        let photos =
            [rows(0..1), rows(1..BLOCK), rows(BLOCK..BLOCK + 1), rows(BLOCK + 1..3 * BLOCK), rows(0..2)];
        let sizes: Vec<usize> = blocks(&photos).iter().map(|block| block.len()).collect();
        assert_eq!((sizes, blocks(&photos).concat()), (vec![2, 1, 1, 1], photos.to_vec()));
    }

    #[test]
    fn errors_of_many_alphas_are_those_of_each_alone() {
        let all = rows(60, 40);
        let data = set(&all, 40);
        let errors = |alphas: Vec<f64>| -> Vec<f64> {
            let config = RidgeConfig { alphas, ..RidgeConfig::default() };
            let fitted = config.fit(&data, &FitContext::quiet()).unwrap();
            fitted.history.rows.iter().map(|row| row[1]).collect()
        };
        let alphas: Vec<f64> = (0..2 * GROUP + 1).map(|k| 1.3f64.powi(k as i32)).collect();
        let alone: Vec<f64> = alphas.iter().flat_map(|&alpha| errors(vec![alpha])).collect();
        assert_eq!(errors(alphas), alone);
    }

    /// Rows along one direction, so large that the others are rounding beside it.
    #[test]
    fn an_alpha_that_leaves_the_matrix_singular_is_not_chosen_where_another_does_not() {
        for (count, width) in [(60, 40), (40, 60)] {
            let values: Vec<f32> = (0..count * width).map(|k| 1e10 * (k / width) as f32).collect();
            let labels: Vec<u32> = (0..count).map(|row| u32::from(row >= count / 2)).collect();
            let data = TrainingSet::new(Features::new(&values, width).unwrap(), &labels, 2).unwrap();
            let fit = |alphas: &[f64]| {
                let config = RidgeConfig { alphas: alphas.into(), ..RidgeConfig::default() };
                let fitted = config.fit(&data, &FitContext::quiet()).unwrap();
                let errors: Vec<f64> = fitted.history.rows.iter().map(|row| row[1]).collect();
                let logits = fitted.head.logits(data.features()).unwrap();
                (fitted.chosen[0].1, errors, logits.argmax() == labels)
            };
            let (chosen, errors, separates) = fit(&[1e-3, 1e16, 1e27]);
            assert_eq!((chosen, errors[0], separates), (1e16, f64::INFINITY, true));
            assert!(errors[1] < errors[2], "{errors:?}");
            assert_eq!(fit(&[1e-3, 1.0, 1e-1]), (1.0, vec![f64::INFINITY; 3], true));
        }
    }
}
