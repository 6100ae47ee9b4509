//! Stratified shuffle split.

use crate::error::{SplitError, SplitUnit};
use crate::parts::{SplitIndices, samples_by_label, split_sizes};
use crate::random_state::RandomState;
use crate::test_size::TestSize;
use crate::words::NameList;

/// Draws `n_splits` independent random splits that preserve the class proportions. Indices are in random
/// order.
///
/// For every input the indices equal those of scikit-learn 1.9.1's
/// `StratifiedShuffleSplit(n_splits, test_size=test_size, random_state=seed)`.
///
/// ```
/// use headstock_split::{TestSize, stratified_shuffle_split};
///
/// let labels = [0, 0, 0, 0, 1, 1, 1, 1];
/// let splits = stratified_shuffle_split(&labels, 1, TestSize::Fraction(0.25), 0)?;
/// assert_eq!(splits[0].test.len(), 2);
/// # Ok::<(), headstock_split::SplitError>(())
/// ```
///
/// # Errors
/// [`SplitError`] if scikit-learn raises `ValueError`.
pub fn stratified_shuffle_split(
    labels: &[u32],
    n_splits: usize,
    test_size: TestSize,
    seed: u32,
) -> Result<Vec<SplitIndices>, SplitError> {
    let (n_train, n_test) = split_sizes(labels.len(), test_size, SplitUnit::Samples)?;
    let classes = samples_by_label(labels);
    let lone_labels: Vec<u32> =
        classes.iter().filter(|(_, samples)| samples.len() < 2).map(|&(label, _)| label).collect();
    if n_train > 0 && !lone_labels.is_empty() {
        let names = NameList(lone_labels.iter().map(u32::to_string).collect());
        return Err(SplitError::LoneSample { labels: lone_labels, names });
    }
    for (is_test, samples) in [(false, n_train), (true, n_test)] {
        if samples < classes.len() {
            return Err(SplitError::TooSmall { is_test, samples, classes: classes.len() });
        }
    }

    let counts: Vec<usize> = classes.iter().map(|(_, samples)| samples.len()).collect();
    let mut random = RandomState::new(seed);
    Ok((0..n_splits)
        .map(|_| {
            let train_counts = approximate_mode(&counts, n_train, &mut random);
            let remaining: Vec<usize> =
                counts.iter().zip(&train_counts).map(|(count, n_train)| count - n_train).collect();
            let test_counts = approximate_mode(&remaining, n_test, &mut random);
            let (mut train, mut test) = (Vec::with_capacity(n_train), Vec::with_capacity(n_test));
            for (((_, samples), n_train), n_test) in classes.iter().zip(train_counts).zip(test_counts) {
                let permutation = random.permutation(samples.len());
                train.extend(permutation[..n_train].iter().map(|&i| samples[i]));
                test.extend(permutation[n_train..n_train + n_test].iter().map(|&i| samples[i]));
            }
            random.shuffle(&mut train);
            random.shuffle(&mut test);
            SplitIndices { train, test }
        })
        .collect())
}

/// The number of samples to draw from each class, `[C]`, so that a random split preserves the class
/// proportions: distributes `draws` over the classes in proportion to their sizes `counts`. Shares are
/// rounded down; the draws that are then missing go to the classes with the largest remainders, with random
/// tie-breaking. Same arithmetic as scikit-learn's `_approximate_mode`.
fn approximate_mode(counts: &[usize], draws: usize, random: &mut RandomState) -> Vec<usize> {
    let total = counts.iter().sum::<usize>() as f64;
    let exact: Vec<f64> = counts.iter().map(|&count| count as f64 / total * draws as f64).collect();
    let mut allocated: Vec<usize> = exact.iter().map(|share| share.floor() as usize).collect();
    let mut missing = draws.saturating_sub(allocated.iter().sum());
    if missing == 0 {
        return allocated;
    }
    let remainders: Vec<f64> = exact.iter().map(|share| share - share.floor()).collect();
    let mut distinct_remainders = remainders.clone();
    distinct_remainders.sort_by(|a, b| b.total_cmp(a));
    distinct_remainders.dedup();
    for value in distinct_remainders {
        let tied: Vec<usize> = (0..counts.len()).filter(|&class| remainders[class] == value).collect();
        let n_drawn = tied.len().min(missing);
        for class in random.choice(&tied, n_drawn) {
            allocated[class] += 1;
        }
        missing -= n_drawn;
        if missing == 0 {
            break;
        }
    }
    allocated
}
