//! Folds that keep groups together, each with about its share of every class.

use super::{Fillers, Split, SplitError, check_folds, samples_of_classes, splits_of};
use crate::random::RandomState;

/// `n_splits` folds of the samples, no group in two of them; each split tests on one and trains on the others. Groups are
/// dealt out one by one, those of the most uneven classes first, each to the fold where it leaves the classes spread most
/// evenly. Indices ascend. `groups[i]` is the number of sample `i`'s group.
///
/// They are those of scikit-learn 1.9.1's `StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)`, for every
/// input, its sums of rounded numbers included. As there, a class with fewer samples than folds is no error while another has
/// enough; a warning says so.
///
/// ```
/// use headstock_loader::split::stratified_group_k_fold;
///
/// let (labels, patients) = ([0, 0, 1, 1, 0, 1], [7, 7, 7, 2, 2, 9]);
/// for split in stratified_group_k_fold(&labels, &patients, 2, 0)? {
///     assert!(split.test.iter().all(|&i| split.train.iter().all(|&j| patients[i] != patients[j])));
/// }
/// # Ok::<(), headstock_loader::split::SplitError>(())
/// ```
///
/// # Errors
/// [`SplitError`], where scikit-learn raises `ValueError`.
pub fn stratified_group_k_fold(
    labels: &[u32],
    groups: &[u32],
    n_splits: usize,
    seed: u32,
) -> Result<Vec<Split>, SplitError> {
    if groups.len() != labels.len() {
        return Err(SplitError::Groups { groups: groups.len(), labels: labels.len() });
    }
    let classes = samples_of_classes(labels);
    check_folds(&classes, labels.len(), n_splits)?;
    let members = samples_of_classes(groups);
    if n_splits > members.len() {
        return Err(SplitError::TooManyFolds { n_splits, of: Fillers::Groups, count: members.len() });
    }
    let of_class: Vec<f64> = classes.iter().map(|(_, samples)| samples.len() as f64).collect();
    let mut class = vec![0; labels.len()];
    for (number, (_, samples)) in classes.iter().enumerate() {
        for &sample in samples {
            class[sample] = number;
        }
    }

    let mut order: Vec<usize> = (0..members.len()).collect();
    RandomState::new(seed).shuffle(&mut order);
    let mut shuffled: Vec<Group<'_>> =
        order.iter().map(|&group| Group::new(&members[group].1, &class, classes.len())).collect();
    // Stable: groups that are as uneven stay in the order of the shuffle.
    shuffled.sort_by(|a, b| b.unevenness.total_cmp(&a.unevenness));

    let mut table = Table { folds: vec![vec![0.0; classes.len()]; n_splits], of_class };
    let mut folds = vec![0; labels.len()];
    for group in &shuffled {
        let best = table.best_fold(&group.counts);
        table.add(best, &group.counts, 1.0);
        for &sample in group.samples {
            folds[sample] = best;
        }
    }
    Ok(splits_of(&folds, n_splits))
}

struct Group<'a> {
    samples: &'a [usize],
    /// How many of each class, `[C]`.
    counts: Vec<f64>,
    /// Their standard deviation.
    unevenness: f64,
}

impl<'a> Group<'a> {
    fn new(samples: &'a [usize], class: &[usize], classes: usize) -> Self {
        let mut counts = vec![0.0; classes];
        for &sample in samples {
            counts[class[sample]] += 1.0;
        }
        let unevenness = deviation(&counts);
        Self { samples, counts, unevenness }
    }
}

/// How many samples of each class the folds have so far.
struct Table {
    /// `[K][C]`
    folds: Vec<Vec<f64>>,
    /// All samples of each class, `[C]`.
    of_class: Vec<f64>,
}

impl Table {
    fn add(&mut self, fold: usize, counts: &[f64], sign: f64) {
        for (sum, count) in self.folds[fold].iter_mut().zip(counts) {
            *sum += sign * count;
        }
    }

    /// The fold where a group leaves the classes spread most evenly; among those that are nearly as good the one with the
    /// fewest samples, but for one that is better by any amount.
    fn best_fold(&mut self, counts: &[f64]) -> usize {
        let (mut best, mut least, mut fewest) = (0, f64::INFINITY, f64::INFINITY);
        for fold in 0..self.folds.len() {
            self.add(fold, counts, 1.0);
            let unevenness = self.unevenness();
            self.add(fold, counts, -1.0);
            let samples: f64 = self.folds[fold].iter().sum();
            if unevenness < least || (is_close(unevenness, least) && samples < fewest) {
                (best, least, fewest) = (fold, unevenness, samples);
            }
        }
        best
    }

    /// The standard deviation over the folds of each class's share, averaged over the classes.
    fn unevenness(&self) -> f64 {
        let shares = |class: usize| -> Vec<f64> {
            self.folds.iter().map(|fold| fold[class] / self.of_class[class]).collect()
        };
        let classes = 0..self.of_class.len();
        // numpy sums over the folds one after the other; but one column is a row to it.
        let sum = if classes.len() == 1 { pairwise } else { in_turn };
        let deviations: Vec<f64> = classes.map(|class| deviation_by(&shares(class), sum)).collect();
        pairwise(&deviations) / deviations.len() as f64
    }
}

/// `numpy.std` of contiguous values.
fn deviation(values: &[f64]) -> f64 {
    deviation_by(values, pairwise)
}

fn deviation_by(values: &[f64], sum: fn(&[f64]) -> f64) -> f64 {
    let count = values.len() as f64;
    let mean = sum(values) / count;
    let squares: Vec<f64> = values.iter().map(|value| (value - mean) * (value - mean)).collect();
    (sum(&squares) / count).sqrt()
}

fn in_turn(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |sum, value| sum + value)
}

/// numpy's sum of contiguous values (`pairwise_sum` in `loops_utils.h.src`): which groups tie depends on its last bit.
fn pairwise(values: &[f64]) -> f64 {
    const LANES: usize = 8;
    const BLOCK: usize = 128;
    match values.len() {
        0..LANES => in_turn(values),
        LANES..=BLOCK => {
            let (first, rest) = values.split_at(LANES);
            let mut r: [f64; LANES] = std::array::from_fn(|lane| first[lane]);
            let chunks = rest.chunks_exact(LANES);
            let left = chunks.remainder();
            for chunk in chunks {
                for (sum, value) in r.iter_mut().zip(chunk) {
                    *sum += value;
                }
            }
            let sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
            left.iter().fold(sum, |sum, value| sum + value)
        }
        long => {
            let half = long / 2 / LANES * LANES;
            pairwise(&values[..half]) + pairwise(&values[half..])
        }
    }
}

/// `numpy.isclose(a, b)`
fn is_close(a: f64, b: f64) -> bool {
    a == b || (b.is_finite() && (a - b).abs() <= 1e-8 + 1e-5 * b.abs())
}
