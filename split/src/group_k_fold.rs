//! Stratified group k-fold.

use crate::error::{SplitError, SplitUnit};
use crate::parts::{SplitIndices, check_folds, samples_by_label, splits_from_folds};
use crate::random_state::RandomState;

/// Splits the samples into `n_splits` folds that keep groups together and roughly preserve the class
/// proportions; each split tests on one fold and trains on the others. `groups[i]` is the group of sample
/// `i`. Groups are assigned greedily, those with the most uneven class counts first, each to the fold where
/// the classes are spread most evenly. Indices are ascending.
///
/// For every input the indices equal those of scikit-learn 1.9.1's
/// `StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)`, including rounding errors of its sums.
/// A class with fewer samples than folds is an error only if no class has enough samples; otherwise it is
/// logged as a warning.
///
/// ```
/// use headstock_split::stratified_group_k_fold;
///
/// let (labels, patients) = ([0, 0, 1, 1, 0, 1], [7, 7, 7, 2, 2, 9]);
/// for split in stratified_group_k_fold(&labels, &patients, 2, 0)? {
///     assert!(split.test.iter().all(|&i| split.train.iter().all(|&j| patients[i] != patients[j])));
/// }
/// # Ok::<(), headstock_split::SplitError>(())
/// ```
///
/// # Errors
/// [`SplitError`] if scikit-learn raises `ValueError`.
pub fn stratified_group_k_fold(
    labels: &[u32],
    groups: &[u32],
    n_splits: usize,
    seed: u32,
) -> Result<Vec<SplitIndices>, SplitError> {
    if groups.len() != labels.len() {
        return Err(SplitError::Groups { groups: groups.len(), labels: labels.len() });
    }
    let classes = samples_by_label(labels);
    check_folds(&classes, labels.len(), n_splits)?;
    let groups_with_samples = samples_by_label(groups);
    if n_splits > groups_with_samples.len() {
        return Err(SplitError::TooManyFolds {
            n_splits,
            unit: SplitUnit::Groups,
            count: groups_with_samples.len(),
        });
    }
    let class_totals: Vec<f64> = classes.iter().map(|(_, samples)| samples.len() as f64).collect();
    let order = RandomState::new(seed).permutation(groups_with_samples.len());
    let count_classes = |group: usize| {
        let samples = &groups_with_samples[group].1;
        let mut counts = vec![0.0; classes.len()];
        for &sample in samples {
            // Labels may have gaps; classes are numbered without gaps.
            counts[classes.partition_point(|&(label, _)| label < labels[sample])] += 1.0;
        }
        GroupCounts { samples, std_dev: std_dev(&counts, pairwise_sum), counts }
    };
    let mut sorted_groups: Vec<GroupCounts<'_>> = order.into_iter().map(count_classes).collect();
    // A stable sort: ties keep the shuffled order.
    sorted_groups.sort_by(|a, b| b.std_dev.total_cmp(&a.std_dev));

    let mut fold_counts = FoldCounts { folds: vec![vec![0.0; classes.len()]; n_splits], class_totals };
    let mut folds = vec![0; labels.len()];
    for group in &sorted_groups {
        let best = fold_counts.best_fold(&group.counts);
        fold_counts.add(best, &group.counts, /* sign */ 1.0);
        for &sample in group.samples {
            folds[sample] = best;
        }
    }
    Ok(splits_from_folds(&folds, n_splits))
}

/// A group's samples and class counts.
struct GroupCounts<'a> {
    samples: &'a [usize],
    /// Number of samples of each class, `[C]`.
    counts: Vec<f64>,
    /// Standard deviation of `counts`: groups with uneven classes are assigned first.
    std_dev: f64,
}

/// How many samples of each class are assigned to each fold so far.
struct FoldCounts {
    /// Number of samples by fold and class, `[K, C]`.
    folds: Vec<Vec<f64>>,
    /// Total number of samples of each class, `[C]`.
    class_totals: Vec<f64>,
}

impl FoldCounts {
    /// Adds a group with the class counts `counts`, `[C]`, to a fold (`sign` 1), or takes it out again
    /// (`sign` -1).
    fn add(&mut self, fold: usize, counts: &[f64], sign: f64) {
        for (sum, count) in self.folds[fold].iter_mut().zip(counts) {
            *sum += sign * count;
        }
    }

    /// The index of the best fold for a group with the class counts `counts`, `[C]`. The folds are tried in
    /// order: the group is added and taken out again. A fold replaces the best so far if it gives a smaller
    /// `mean_std_dev` with the group, or a nearly equal one and has fewer samples.
    fn best_fold(&mut self, counts: &[f64]) -> usize {
        let (mut best, mut best_std_dev, mut best_n_samples) = (0, f64::INFINITY, f64::INFINITY);
        for fold in 0..self.folds.len() {
            self.add(fold, counts, /* sign */ 1.0);
            let std_dev = self.mean_std_dev();
            self.add(fold, counts, /* sign */ -1.0);
            let n_samples: f64 = self.folds[fold].iter().sum();
            if std_dev < best_std_dev || (is_close(std_dev, best_std_dev) && n_samples < best_n_samples) {
                (best, best_std_dev, best_n_samples) = (fold, std_dev, n_samples);
            }
        }
        best
    }

    /// How unevenly the classes are spread over the folds, 0 if evenly: for each class the standard
    /// deviation, over the folds, of the fraction of its samples that are in a fold; averaged over the
    /// classes. A group goes to the fold that makes this smallest, so that it must equal scikit-learn's
    /// value in every bit.
    fn mean_std_dev(&self) -> f64 {
        let fractions = |class: usize| -> Vec<f64> {
            self.folds.iter().map(|fold| fold[class] / self.class_totals[class]).collect()
        };
        let classes = 0..self.class_totals.len();
        // numpy sums a matrix along its folds sequentially. With one class the matrix is contiguous along the
        // folds, and numpy sums contiguous values pairwise. The results differ in the last bits.
        let sum_fn = if classes.len() == 1 { pairwise_sum } else { sequential_sum };
        let deviations: Vec<f64> = classes.map(|class| std_dev(&fractions(class), sum_fn)).collect();
        pairwise_sum(&deviations) / deviations.len() as f64
    }
}

/// The population standard deviation of `values`, bit for bit as `numpy.std`. `sum` adds up numbers: in numpy,
/// the order of the additions depends on the memory layout ([`pairwise_sum`] for contiguous values), and the
/// folds must be those of scikit-learn even where the last bit decides.
fn std_dev(values: &[f64], sum: fn(&[f64]) -> f64) -> f64 {
    let count = values.len() as f64;
    let mean = sum(values) / count;
    let squares: Vec<f64> = values.iter().map(|value| (value - mean) * (value - mean)).collect();
    (sum(&squares) / count).sqrt()
}

/// The sum from the first to the last value, as numpy sums values that are not contiguous.
fn sequential_sum(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |sum, value| sum + value)
}

/// The sum in numpy's order for contiguous values (`pairwise_sum` in `loops_utils.h.src`): up to 128 values
/// are added in 8 interleaved partial sums, more are halved recursively. The order must be the same, because
/// ties between groups depend on the last bit.
fn pairwise_sum(values: &[f64]) -> f64 {
    /// Number of partial sums.
    const LANES: usize = 8;
    /// Maximum number of values that are not halved.
    const BLOCK: usize = 128;
    match values.len() {
        0..LANES => sequential_sum(values),
        LANES..=BLOCK => {
            let (first, others) = values.split_at(LANES);
            let mut sums: [f64; LANES] = std::array::from_fn(|lane| first[lane]);
            let chunks = others.chunks_exact(LANES);
            let remainder = chunks.remainder();
            for chunk in chunks {
                for (sum, value) in sums.iter_mut().zip(chunk) {
                    *sum += value;
                }
            }
            let sum =
                ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
            remainder.iter().fold(sum, |sum, value| sum + value)
        }
        long => {
            // A multiple of 8.
            let half = long / 2 / LANES * LANES;
            pairwise_sum(&values[..half]) + pairwise_sum(&values[half..])
        }
    }
}

/// Whether `a` and `b` are nearly equal: `numpy.isclose(a, b)` with its default tolerances.
fn is_close(a: f64, b: f64) -> bool {
    a == b || (b.is_finite() && (a - b).abs() <= 1e-8 + 1e-5 * b.abs())
}
