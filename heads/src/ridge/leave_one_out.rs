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
/// Feature columns that [`LeaveOneOut::rotated_rows`] transposes at a time.
const COLUMNS_PER_BLOCK: usize = 64;
/// Number of `alpha` per pass over all rows. Each pass projects the rows again; 16 covers the default list,
/// and the memory per pass is small compared to the matrix.
const ALPHAS_PER_PASS: usize = 16;

/// Chooses the `alpha` of ridge regression for `alpha = "auto"`: the one with the lowest leave-one-out error,
/// the mean squared error over all samples and targets when each group is predicted by a fit on the others.
/// Returns it with the errors of all `alphas` as history. Ties go to the first. With fewer than two groups it
/// is the middle value, and if no error is finite the largest; a warning is logged in both cases.
///
/// `reduction` is the Gram matrix of `problem` in band form, in which each `alpha` is cheap to solve.
/// `groups` `[N]` has the group of each sample; without it each is a group.
pub(super) fn choose_alpha(
    problem: &RidgeProblem<'_>,
    reduction: &BandReduction,
    alphas: &[f64],
    groups: Option<&[u32]>,
    context: &FitContext<'_>,
) -> Choice {
    let n_rows = problem.centered_rows().n_rows();
    let group_rows = match groups {
        None => (0..n_rows).map(|row| vec![row]).collect(),
        Some(groups) => {
            let mut rows: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            groups.iter().enumerate().for_each(|(row, &group)| rows.entry(group).or_default().push(row));
            rows.into_values().collect::<Vec<_>>()
        }
    };
    if group_rows.len() < 2 {
        let value = alphas[alphas.len() / 2];
        tracing::warn!(
            "`alpha = \"auto\"` needs at least two photos to compare values: `alpha = {value}` is used; add \
             photos, or set `alpha` to a number"
        );
        return Choice { value, history: History::default() };
    }
    let errors = mean_squared_errors(problem, reduction, alphas, &group_rows, context);
    let best = (0..alphas.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b])).unwrap_or_default();
    let mut value = alphas[best];
    if !errors[best].is_finite() {
        value = alphas.iter().copied().fold(value, f64::max);
        tracing::warn!(
            "all values in `alphas` are too small for these features: the largest, {value:?}, is used as \
             `alpha`; add larger values to `alphas`"
        );
    }
    let rows = alphas.iter().zip(&errors).map(|(&alpha, &error)| vec![alpha, error]).collect();
    Choice { value, history: History { columns: vec!["alpha", "leave_one_out_error"], rows } }
}

/// Computes the leave-one-out mean squared error of ridge regression for each `alpha`, `[alphas]`, over all
/// rows (samples) and targets (the columns of `Y`: ±1 for a class against the rest). `group_rows` has the row
/// indices of each group, which is left out as a whole; `reduction` is the Gram matrix of `problem` in band
/// form. Reports progress to `context` after each block of groups.
fn mean_squared_errors(
    problem: &RidgeProblem<'_>,
    reduction: &BandReduction,
    alphas: &[f64],
    group_rows: &[Vec<usize>],
    context: &FitContext<'_>,
) -> Vec<f64> {
    let blocks = split_into_blocks(group_rows);
    let alpha_chunks = alphas.chunks(ALPHAS_PER_PASS);
    let (done, total) = (AtomicU64::new(0), (alpha_chunks.len() * blocks.len()) as u64);
    let width = problem.n_targets().next_multiple_of(LANES);
    let rotated_rhs = padded_row_major(reduction.q_transpose_times(&problem.rhs).as_ref(), width);
    let mut sums = Vec::with_capacity(alphas.len());
    for alphas in alpha_chunks {
        let factorize =
            |&alpha| ShiftedFactor::factorize(reduction, alpha, &rotated_rhs, problem.n_targets());
        let leave_one_out =
            LeaveOneOut { problem, reduction, factors: alphas.par_iter().map(factorize).collect() };
        let block_sums: Vec<Vec<f64>> = blocks
            .par_iter()
            .map(|block| {
                let sums = leave_one_out.sum_squared_errors(block);
                (context.on_step)(done.fetch_add(1, Ordering::Relaxed) + 1, total);
                sums
            })
            .collect();
        sums.extend((0..alphas.len()).map(|k| block_sums.iter().map(|sums| sums[k]).sum::<f64>()));
    }
    let n_values = (problem.centered_rows().n_rows() * problem.n_targets()) as f64;
    sums.iter().map(|sum| sum / n_values).collect()
}

/// Splits the groups, given by their row indices, into blocks of consecutive groups: at most
/// [`ROWS_PER_BLOCK`] rows, or one larger group. Each block is a parallel task of the leave-one-out
/// computation.
fn split_into_blocks(groups: &[Vec<usize>]) -> Vec<&[Vec<usize>]> {
    let (mut blocks, mut remaining) = (Vec::new(), groups);
    while !remaining.is_empty() {
        let mut rows = 0;
        let fits = |group: &&Vec<usize>| {
            rows += group.len();
            rows <= ROWS_PER_BLOCK
        };
        let (block, later) = remaining.split_at(remaining.iter().take_while(fits).count().max(1));
        blocks.push(block);
        remaining = later;
    }
    blocks
}

/// Size of the workspace of [`choose_alpha`], in `f64` values, for a Gram matrix `[side, side]` and
/// `n_alphas` values of `alpha`, to estimate the memory of a fit.
pub(super) fn scratch_values(side: u64, classes: u64, n_alphas: u64) -> u64 {
    // A `ShiftedFactor` for each `alpha` of a pass: the diagonals of the band, and `rhs`.
    let alpha_values = n_alphas.min(ALPHAS_PER_PASS as u64) * (BANDWIDTH as u64 + 1 + classes);
    // For each thread, the rotated rows of a block and the solved ones.
    let row_values = 2 * (ROWS_PER_BLOCK * rayon::current_num_threads()) as u64;
    side * (alpha_values + row_values)
}

/// The Cholesky factorization of `B + alpha` for one `alpha`, where `B` is the band matrix of the Gram matrix
/// `Q B Qᵀ`, and `alpha` is added to its diagonal. It is computed once and serves all blocks of groups.
struct ShiftedFactor {
    alpha: f64,
    /// `L` of `L Lᵀ = B + alpha`.
    factor: BandCholesky,
    /// `L⁻¹ Qᵀ` times the right-hand side of the problem, row-major, `[n, T]`.
    rhs: Vec<f64>,
}

impl ShiftedFactor {
    /// Factorizes `B + alpha` as `L Lᵀ`, where the Gram matrix is `Q B Qᵀ` with the band matrix `B`, and
    /// multiplies the right-hand side of ridge regression by `L⁻¹ Qᵀ`. `rotated_rhs` is `Qᵀ` times that side,
    /// row-major: `T = n_targets` columns, then columns of zeros up to a multiple of [`LANES`], which are not
    /// kept. `None` if `B + alpha` is singular up to rounding.
    fn factorize(band: &BandReduction, alpha: f64, rotated_rhs: &[f64], n_targets: usize) -> Option<Self> {
        let factor = band.cholesky(alpha)?;
        let (mut solved, width) = (vec![0.0; rotated_rhs.len()], rotated_rhs.len() / factor.size());
        // The squared norms of the columns, the last argument, are not needed.
        factor.forward_substitute(rotated_rhs, &mut solved, &mut vec![0.0; width]);
        let rhs = solved.chunks_exact(width).flat_map(|row| row[..n_targets].iter().copied()).collect();
        Some(Self { alpha, factor, rhs })
    }
}

/// The leave-one-out computation for the values of `alpha` of a pass, without a refit for each group.
///
/// The hat matrix `H = X (XᵀX + alpha)⁻¹ Xᵀ + s sᵀ / Σ s²` turns `Y` into the predictions `H Y` of a fit on
/// all rows; its second term is the intercept's part, where `s` are the roots of the sample weights. For the
/// rows `b` of a left-out group, let `r_b` be the rows `b` of the residuals `(I - H) Y`, and `(I - H)_bb` the
/// rows and columns `b` of `I - H`. Then a fit on the other rows has the residuals `(I - H)_bb⁻¹ r_b`.
struct LeaveOneOut<'a> {
    problem: &'a RidgeProblem<'a>,
    /// `Q` and `B` of the Gram matrix `Q B Qᵀ`.
    reduction: &'a BandReduction,
    /// The factorization for each `alpha`; `None` if the shifted matrix is singular.
    factors: Vec<Option<ShiftedFactor>>,
}

impl LeaveOneOut<'_> {
    /// The sum of the squared leave-one-out errors of these groups (lists of row indices) for each `alpha`,
    /// `[alphas]`; each group is predicted by a ridge regression on all other rows. Infinite if the system of
    /// the `alpha` is singular, or if the remaining rows do not determine the intercept.
    ///
    /// The *solved column* of a row is `L⁻¹ Qᵀ` times the row of `X` (primal) or of the identity (dual),
    /// where `Q L Lᵀ Qᵀ` is the Gram matrix plus `alpha`. The product of two solved columns is the entry of
    /// `X (XᵀX + alpha)⁻¹ Xᵀ` (primal) or `(XXᵀ + alpha)⁻¹` (dual) for the two rows. From it follows `I - H`
    /// of [`LeaveOneOut`]: in the dual as `alpha (XXᵀ + alpha)⁻¹` minus the intercept's part, without
    /// cancellation.
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
            // I - H is `identity` times I, plus `scale` times products of solved columns, minus the
            // intercept's part.
            let (identity, scale) = match self.problem.formulation {
                Formulation::Primal => (1.0, -1.0),
                Formulation::Dual => (0.0, *alpha),
            };
            // The residuals `(I - H) Y`. The intercept's part of them is 0, because `Y` is centered.
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
                // The products of the group's solved columns; for one row, its squared norm.
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

    /// Computes `(I - H)_bb`, from which [`group_squared_error`] gets the leave-one-out errors of a group:
    /// the rows and columns of the group in `I - H`, where the hat matrix `H` turns the targets into
    /// predictions. Overwrites `products` `[rows, rows]`, those of the group's solved columns: the result is
    /// `identity` times `I`, plus `scale` times the products, minus the intercept's part. `group` has the row
    /// indices.
    fn to_residual_block(&self, products: &mut [f64], group: &[usize], identity: f64, scale: f64) {
        let sqrt_weight = |member: usize| self.problem.sqrt_weight(group[member]);
        for (k, value) in products.iter_mut().enumerate() {
            let (i, j) = (k / group.len(), k % group.len());
            let diagonal = if i == j { identity } else { 0.0 };
            *value = diagonal + scale * *value - sqrt_weight(i) * sqrt_weight(j) / self.problem.weight_sum;
        }
    }

    /// Multiplies these rows of the centered features `X` (primal form) or of the identity (dual form) by
    /// `Qᵀ`, where the Gram matrix is `Q B Qᵀ` with a band matrix `B`: the part of the leave-one-out errors
    /// that is the same for every `alpha`. Each row becomes a column of the result `[n, padded]`, row-major;
    /// the columns after them are 0.
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
                // Reads a few features of all rows at a time and transposes them.
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
                    for (k, feature) in panel.chunks_exact_mut(padded).enumerate() {
                        for (out, value) in feature.iter_mut().zip(block[k..].iter().step_by(width)) {
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

/// The sum of the squared leave-one-out errors of a group over its rows and targets, which are
/// `block⁻¹ residuals`. `residuals` `[rows, T]` are those of the group in a fit on all rows. `block`
/// `[rows, rows]` is the group's part of `I - H`, where the hat matrix `H` turns the targets into predictions
/// (see [`LeaveOneOut`]). Infinite if the block is singular up to rounding.
fn group_squared_error(block: Vec<f64>, residuals: &[f64], n_rows: usize) -> f64 {
    // A group of one row.
    if let [entry] = block[..] {
        let squares: f64 = residuals.iter().map(|residual| residual * residual).sum();
        return if entry > 0.0 { squares / (entry * entry) } else { f64::INFINITY };
    }
    let Some(factor) = Cholesky::factorize(LowerTriangular::from_column_major(block, n_rows)) else {
        return f64::INFINITY;
    };
    let residuals = MatRef::from_row_major_slice(residuals, n_rows, residuals.len() / n_rows);
    factor.solve(residuals.to_owned()).squared_norm_l2()
}

/// Copies a matrix row by row, padded with columns of zeros to `width` columns, as
/// [`BandCholesky::forward_substitute`] needs.
fn padded_row_major(matrix: MatRef<'_, f64>, width: usize) -> Vec<f64> {
    let mut values = vec![0.0; matrix.nrows() * width];
    MatMut::from_row_major_slice_mut(&mut values, matrix.nrows(), width)
        .subcols_mut(0, matrix.ncols())
        .copy_from(matrix);
    values
}

#[cfg(test)]
mod tests {
    use headstock_split::KeyedRng;

    use super::super::RidgeConfig;
    use super::*;
    use crate::data::{FeatureMatrix, TrainingSet};
    use crate::head::{Head, HeadConfig};

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
        let sizes: Vec<usize> = split_into_blocks(&groups).iter().map(|block| block.len()).collect();
        assert_eq!((sizes, split_into_blocks(&groups).concat()), (vec![2, 1, 1, 1], groups.to_vec()));
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
