//! Leave-one-out squared errors of every group (photo), without refitting.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::problem::{Formulation, RidgeProblem};
use crate::dense::band_cholesky::{BANDWIDTH, BandCholesky, LANES};
use crate::dense::band_reduction::BandReduction;
use crate::dense::factor::Cholesky;
use crate::dense::gram::LowerTriangular;
use crate::dense::rows::RowSource;
use crate::head::{FitContext, History};
use crate::solver::cross_validation::Choice;

/// Rows per parallel task, unless a single group has more.
const ROWS_PER_BLOCK: usize = 128;
/// Feature columns transposed at a time.
const COLUMNS_PER_BLOCK: usize = 64;
/// Number of `alpha` per pass over all rows. Each pass projects the rows again; 16 covers the default list,
/// and the memory per pass is small compared to the matrix.
const ALPHAS_PER_PASS: usize = 16;

/// Chooses the `alpha` with the lowest mean squared error over all rows and targets when each group is
/// predicted from the others; ties go to the first. With fewer than two groups it is the middle value, and if
/// no error is finite the largest; a warning is logged in both cases.
pub(super) fn choose_alpha(
    problem: &RidgeProblem<'_>,
    reduction: &BandReduction,
    alphas: &[f64],
    groups: Option<&[u32]>,
    context: &FitContext<'_>,
) -> Choice {
    let count = problem.centered_rows().n_rows();
    let group_rows = match groups {
        None => (0..count).map(|row| vec![row]).collect(),
        Some(groups) => {
            let mut rows: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            groups.iter().enumerate().for_each(|(row, &group)| rows.entry(group).or_default().push(row));
            rows.into_values().collect::<Vec<_>>()
        }
    };
    if group_rows.len() < 2 {
        let value = alphas[alphas.len() / 2];
        tracing::warn!("`alpha = \"auto\"` falls back to {value}: leave-one-out needs two photos");
        return Choice { value, history: History::default() };
    }
    let errors = mean_squared_errors(problem, reduction, alphas, &group_rows, context);
    let best = (0..alphas.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b])).unwrap_or_default();
    let mut value = alphas[best];
    if !errors[best].is_finite() {
        value = alphas.iter().copied().fold(value, f64::max);
        tracing::warn!(
            "`alpha = \"auto\"` falls back to {value}: all `alphas` are too small for these features"
        );
    }
    let rows = alphas.iter().zip(&errors).map(|(&alpha, &error)| vec![alpha, error]).collect();
    Choice { value, history: History { columns: vec!["alpha", "leave_one_out_error"], rows } }
}

/// The mean squared error of each `alpha`.
fn mean_squared_errors(
    problem: &RidgeProblem<'_>,
    reduction: &BandReduction,
    alphas: &[f64],
    group_rows: &[Vec<usize>],
    context: &FitContext<'_>,
) -> Vec<f64> {
    let blocks = blocks(group_rows);
    let alpha_chunks = alphas.chunks(ALPHAS_PER_PASS);
    let (done, steps) = (AtomicU64::new(0), (alpha_chunks.len() * blocks.len()) as u64);
    let width = problem.n_targets().next_multiple_of(LANES);
    let rotated_rhs = padded_row_major(reduction.q_transpose_times(&problem.rhs).as_ref(), width);
    let mut sums = Vec::with_capacity(alphas.len());
    for alphas in alpha_chunks {
        let shift = |&alpha| ShiftedFactor::new(reduction, alpha, &rotated_rhs, problem.n_targets());
        let leave_one_out =
            LeaveOneOut { problem, reduction, factors: alphas.par_iter().map(shift).collect() };
        let block_sums: Vec<Vec<f64>> = blocks
            .par_iter()
            .map(|block| {
                let sums = leave_one_out.sum_squared_errors(block);
                (context.on_step)(done.fetch_add(1, Ordering::Relaxed) + 1, steps);
                sums
            })
            .collect();
        sums.extend((0..alphas.len()).map(|k| block_sums.iter().map(|sums| sums[k]).sum::<f64>()));
    }
    let n_values = (problem.centered_rows().n_rows() * problem.n_targets()) as f64;
    sums.iter().map(|sum| sum / n_values).collect()
}

/// Splits the groups into blocks of at most [`ROWS_PER_BLOCK`] rows, or of one larger group.
fn blocks(groups: &[Vec<usize>]) -> Vec<&[Vec<usize>]> {
    let (mut blocks, mut rest) = (Vec::new(), groups);
    while !rest.is_empty() {
        let mut rows = 0;
        let fits = |group: &&Vec<usize>| {
            rows += group.len();
            rows <= ROWS_PER_BLOCK
        };
        let (block, remaining) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        blocks.push(block);
        rest = remaining;
    }
    blocks
}

/// Number of `f64` values that choosing among `alphas` needs for a matrix of this `side`: per `alpha`, and
/// per thread.
pub(super) fn scratch_values(side: u64, classes: u64, alphas: u64) -> u64 {
    let alpha_values = alphas.min(ALPHAS_PER_PASS as u64) * (BANDWIDTH as u64 + 1 + classes);
    let row_values = 2 * (ROWS_PER_BLOCK * rayon::current_num_threads()) as u64;
    side * (alpha_values + row_values)
}

/// The factorization for one `alpha`, shared by all blocks.
struct ShiftedFactor {
    alpha: f64,
    /// `L` of `L Lᵀ = B + alpha`.
    factor: BandCholesky,
    /// `L⁻¹ Qᵀ` times the right-hand side, row-major, `[n, T]`.
    rhs: Vec<f64>,
}

impl ShiftedFactor {
    /// From `Qᵀ` times the right-hand side (row-major, padded); only the first `targets` columns are used.
    fn new(reduced: &BandReduction, alpha: f64, rotated_rhs: &[f64], targets: usize) -> Option<Self> {
        let factor = reduced.cholesky(alpha)?;
        let (mut solved, width) = (vec![0.0; rotated_rhs.len()], rotated_rhs.len() / factor.size());
        factor.forward_substitute(rotated_rhs, &mut solved, &mut vec![0.0; width]);
        let rhs = solved.chunks_exact(width).flat_map(|row| row[..targets].iter().copied()).collect();
        Some(Self { alpha, factor, rhs })
    }
}

/// With the hat matrix `H = X (XᵀX + alpha)⁻¹ Xᵀ + s sᵀ / Σ s²`, where `s` are the roots of the sample
/// weights (for the intercept), the residuals of the rows `b` of a left-out group are
/// `(I - H_bb)⁻¹ (Y - H Y)_b`.
struct LeaveOneOut<'a> {
    problem: &'a RidgeProblem<'a>,
    reduction: &'a BandReduction,
    /// The factorization for each `alpha`; `None` if the shifted matrix is singular.
    factors: Vec<Option<ShiftedFactor>>,
}

impl LeaveOneOut<'_> {
    /// The sum of the squared errors of these groups for each `alpha`. It is infinite if the shifted matrix
    /// is singular, or if the remaining rows do not determine the intercept.
    ///
    /// In the primal form, `I - H` is computed as is. In the dual form it is `alpha (XXᵀ + alpha)⁻¹` minus
    /// the intercept's part, which avoids the cancellation of small residuals.
    fn sum_squared_errors(&self, groups: &[Vec<usize>]) -> Vec<f64> {
        let rows: Vec<usize> = groups.iter().flatten().copied().collect();
        let (size, targets) = (self.problem.rhs.nrows(), self.problem.n_targets());
        let padded = rows.len().next_multiple_of(LANES);
        let rotated_rows = self.rotated_rows(&rows, padded);
        let (mut solved, mut squares) = (vec![0.0; rotated_rows.len()], vec![0.0; padded]);
        let mut residuals = vec![0.0; rows.len() * targets];
        let sum_for_alpha = |shifted: &Option<ShiftedFactor>| {
            let Some(ShiftedFactor { alpha, factor, rhs }) = shifted else { return f64::INFINITY };
            factor.forward_substitute(&rotated_rows, &mut solved, &mut squares);
            let (identity, scale) = match self.problem.formulation {
                Formulation::Primal => (1.0, -1.0),
                Formulation::Dual => (0.0, *alpha),
            };
            for (residuals, &row) in residuals.chunks_exact_mut(targets).zip(&rows) {
                for (t, residual) in residuals.iter_mut().enumerate() {
                    *residual = identity * self.problem.target_value(row, t);
                }
            }
            let solved = MatRef::from_row_major_slice(&solved, size, padded);
            let rhs = MatRef::from_row_major_slice(rhs, size, targets);
            let out = MatMut::from_row_major_slice_mut(&mut residuals, rows.len(), targets);
            matmul(out, Accum::Add, solved.subcols(0, rows.len()).transpose(), rhs, scale, Par::Seq);

            let (mut sum, mut first) = (0.0, 0);
            for group in groups {
                let mut block = vec![squares[first]];
                if group.len() > 1 {
                    block.resize(group.len() * group.len(), 0.0);
                    let out = MatMut::from_column_major_slice_mut(&mut block, group.len(), group.len());
                    let solved = solved.subcols(first, group.len());
                    matmul(out, Accum::Replace, solved.transpose(), solved, 1.0, Par::Seq);
                }
                self.to_residual_block(&mut block, group, identity, scale);
                let group_residuals = &residuals[first * targets..(first + group.len()) * targets];
                sum += group_squared_error(block, group_residuals, group.len());
                first += group.len();
            }
            sum
        };
        self.factors.iter().map(sum_for_alpha).collect()
    }

    /// Turns the products of a group's solved rows into `(I - H)_bb`, `[rows, rows]`: `identity` plus `scale`
    /// times them, minus the intercept's part.
    fn to_residual_block(&self, products: &mut [f64], group: &[usize], identity: f64, scale: f64) {
        let sqrt_weight = |view: usize| self.problem.sqrt_weight(group[view]);
        for (k, value) in products.iter_mut().enumerate() {
            let (i, j) = (k / group.len(), k % group.len());
            let diagonal = if i == j { identity } else { 0.0 };
            *value = diagonal + scale * *value - sqrt_weight(i) * sqrt_weight(j) / self.problem.weight_sum;
        }
    }

    /// `Qᵀ` times the rows of `X` (primal) or of the identity (dual), one per column: `[n, padded]`,
    /// row-major, padded with zero columns.
    fn rotated_rows(&self, rows: &[usize], padded: usize) -> Vec<f64> {
        let size = self.problem.rhs.nrows();
        let mut out = vec![0.0; size * padded];
        match self.problem.formulation {
            Formulation::Dual => {
                for (column, &row) in rows.iter().enumerate() {
                    out[row * padded + column] = 1.0;
                }
            }
            Formulation::Primal => {
                let mut block = Vec::<f64>::new();
                for (first, panel) in
                    (0..size).step_by(COLUMNS_PER_BLOCK).zip(out.chunks_mut(COLUMNS_PER_BLOCK * padded))
                {
                    let width = panel.len() / padded;
                    self.problem.centered_rows().read_block(
                        rows.iter().copied(),
                        first..first + width,
                        &mut block,
                    );
                    for (k, out) in panel.chunks_exact_mut(padded).enumerate() {
                        for (out, value) in out.iter_mut().zip(block[k..].iter().step_by(width)) {
                            *out = *value;
                        }
                    }
                }
            }
        }
        self.reduction.apply_q_transpose(MatMut::from_row_major_slice_mut(&mut out, size, padded));
        out
    }
}

/// `|(I - H)_bb⁻¹ r|²` for residuals `r` `[rows, T]`.
fn group_squared_error(block: Vec<f64>, residuals: &[f64], n_rows: usize) -> f64 {
    if let [factor] = block[..] {
        let squares: f64 = residuals.iter().map(|residual| residual * residual).sum();
        return if factor > 0.0 { squares / (factor * factor) } else { f64::INFINITY };
    }
    let Some(factor) = Cholesky::new(LowerTriangular::from_column_major(block, n_rows)) else {
        return f64::INFINITY;
    };
    let residuals = MatRef::from_row_major_slice(residuals, n_rows, residuals.len() / n_rows);
    factor.solve(residuals.to_owned()).squared_norm_l2()
}

/// The values row by row, padded with zero columns up to `width`.
fn padded_row_major(matrix: MatRef<'_, f64>, width: usize) -> Vec<f64> {
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
    use crate::data::{FeatureMatrix, TrainingSet};
    use crate::head::{Head, HeadConfig};
    use crate::random::KeyedRng;

    const ALPHAS: [f64; 3] = [0.3, 3.0, 30.0];
    const CLASSES: usize = 3;

    /// Rows that partly determine their class, with one constant feature and one that is twice another.
    fn example_rows(count: usize, width: usize) -> (Vec<f32>, Vec<u32>) {
        let mut rng = KeyedRng::new(&[count as u64, width as u64]);
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for row in 0..count {
            let class = row * row % 7 % CLASSES;
            let mut features: Vec<f32> = (0..width).map(|_| rng.uniform() as f32).collect();
            features[class] += 1.0;
            (features[3], features[4]) = (0.5, 2.0 * features[0]);
            values.extend(features);
            labels.push(class as u32);
        }
        (values, labels)
    }

    fn training_set<'a>((values, labels): &'a (Vec<f32>, Vec<u32>), width: usize) -> TrainingSet<'a> {
        TrainingSet::new(FeatureMatrix::new(values, width).unwrap(), labels, CLASSES).unwrap()
    }

    /// The mean squared error of each group, predicted by a fit on the others.
    fn refit_error(data: &(Vec<f32>, Vec<u32>), width: usize, groups: &[u32], alpha: f64) -> f64 {
        let mut sum = 0.0;
        for &group in groups.iter().collect::<std::collections::BTreeSet<_>>() {
            let subset = |held_out: bool| -> (Vec<f32>, Vec<u32>) {
                let rows = (0..groups.len()).filter(|&row| (groups[row] == group) == held_out);
                let values = |row| data.0[row * width..(row + 1) * width].iter().copied();
                (rows.clone().flat_map(values).collect(), rows.map(|row| data.1[row]).collect())
            };
            let (held_out, train) = (subset(true), subset(false));
            let config = RidgeConfig { alpha: alpha.into(), ..RidgeConfig::default() };
            let head = config.fit(&training_set(&train, width), &FitContext::silent()).unwrap().head;
            let logits = head.logits(FeatureMatrix::new(&held_out.0, width).unwrap()).unwrap();
            for (logits, &label) in logits.rows().zip(&held_out.1) {
                for (class, &logit) in logits.iter().enumerate() {
                    let target = if class == label as usize { 1.0 } else { -1.0 };
                    sum += (f64::from(logit) - target).powi(2);
                }
            }
        }
        sum / (groups.len() * CLASSES) as f64
    }

    /// In both forms, with more rows and features than the bandwidth; with single-row groups, and with groups
    /// of a few rows plus one larger than a block.
    #[test]
    fn errors_match_refits_without_each_group() {
        for (count, width) in [(90, 50), (50, 90), (2 * ROWS_PER_BLOCK + 30, 20)] {
            let example = example_rows(count, width);
            let singletons: Vec<u32> = (0..count as u32).collect();
            let group_of_row = |row: &u32| match row % 6 {
                0 | 2 | 4 => 7,
                3 => 1000 + row,
                _ => 100 + row / 12,
            };
            let views: Vec<u32> = singletons.iter().map(group_of_row).collect();
            for groups in [&singletons, &views] {
                let data = training_set(&example, width).with_groups(groups).unwrap();
                let config = RidgeConfig { alphas: ALPHAS.into(), ..RidgeConfig::default() };
                let fitted = config.fit(&data, &FitContext::silent()).unwrap();
                for row in &fitted.history.rows {
                    let expected = refit_error(&example, width, groups, row[0]);
                    assert!((row[1] / expected - 1.0).abs() < 1e-5, "{count} rows: {row:?}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn blocks_cover_each_group_once_and_are_maximal() {
        let row_list = |range: std::ops::Range<usize>| range.collect::<Vec<usize>>();
        let groups = [
            row_list(0..1),
            row_list(1..ROWS_PER_BLOCK),
            row_list(ROWS_PER_BLOCK..ROWS_PER_BLOCK + 1),
            row_list(ROWS_PER_BLOCK + 1..3 * ROWS_PER_BLOCK),
            row_list(0..2),
        ];
        let sizes: Vec<usize> = blocks(&groups).iter().map(|block| block.len()).collect();
        assert_eq!((sizes, blocks(&groups).concat()), (vec![2, 1, 1, 1], groups.to_vec()));
    }

    #[test]
    fn errors_of_many_alphas_match_those_of_single_alphas() {
        let samples = example_rows(60, 40);
        let data = training_set(&samples, 40);
        let errors = |alphas: Vec<f64>| -> Vec<f64> {
            let config = RidgeConfig { alphas, ..RidgeConfig::default() };
            let fitted = config.fit(&data, &FitContext::silent()).unwrap();
            fitted.history.rows.iter().map(|row| row[1]).collect()
        };
        let alphas: Vec<f64> = (0..2 * ALPHAS_PER_PASS + 1).map(|k| 1.3f64.powi(k as i32)).collect();
        let alone: Vec<f64> = alphas.iter().flat_map(|&alpha| errors(vec![alpha])).collect();
        assert_eq!(errors(alphas), alone);
    }

    /// Rows along one direction, so large that the other directions are rounding errors.
    #[test]
    fn an_alpha_that_leaves_the_matrix_singular_is_chosen_only_as_a_last_resort() {
        for (count, width) in [(60, 40), (40, 60)] {
            let values: Vec<f32> = (0..count * width).map(|k| 1e10 * (k / width) as f32).collect();
            let labels: Vec<u32> = (0..count).map(|row| u32::from(row >= count / 2)).collect();
            let data = TrainingSet::new(FeatureMatrix::new(&values, width).unwrap(), &labels, 2).unwrap();
            let fit = |alphas: &[f64]| {
                let config = RidgeConfig { alphas: alphas.into(), ..RidgeConfig::default() };
                let fitted = config.fit(&data, &FitContext::silent()).unwrap();
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
