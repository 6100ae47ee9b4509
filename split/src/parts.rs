//! What splits share: their result, classes, sizes, checks, and folds as splits.

use crate::error::{SplitError, SplitUnit};
use crate::test_size::TestSize;
use crate::words::counted;

/// The samples of a split, by index: those to train on and those to test on, such as one fold of a
/// cross-validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitIndices {
    /// Indices of the training set.
    pub train: Vec<usize>,
    /// Indices of the test set.
    pub test: Vec<usize>,
}

/// Groups the samples by label: the distinct labels in ascending order, each with the ascending indices of
/// its samples. `labels[i]` is the label, or the group, of sample `i`.
pub(crate) fn samples_by_label(labels: &[u32]) -> Vec<(u32, Vec<usize>)> {
    let mut classes = std::collections::BTreeMap::<u32, Vec<usize>>::new();
    for (index, &label) in labels.iter().enumerate() {
        classes.entry(label).or_default().push(index);
    }
    classes.into_iter().collect()
}

/// The sizes `(n_train, n_test)` of the training and the test set when `count` samples or groups are split. A
/// fraction is rounded as in scikit-learn: up for the test set. `unit` is for the error message.
pub(crate) fn split_sizes(
    count: usize,
    test_size: TestSize,
    unit: SplitUnit,
) -> Result<(usize, usize), SplitError> {
    if count == 0 {
        return Err(SplitError::Empty);
    }
    let n_test = match test_size {
        TestSize::Fraction(fraction) if fraction > 0.0 && fraction < 1.0 => {
            (fraction * count as f64).ceil() as usize
        }
        TestSize::Count(n_test) if n_test > 0 && n_test < count => n_test,
        _ => return Err(SplitError::TestSize { test_size, unit, count }),
    };
    Ok((count - n_test, n_test))
}

/// Checks whether `n_samples` samples can be split into `n_splits` folds, with or without groups, as
/// scikit-learn does. `classes` are the classes as (label, sample indices). Warns if a class has fewer
/// samples than there are folds.
///
/// # Errors
/// [`SplitError`] for fewer than two folds, no samples, fewer samples than folds, or if every class has fewer
/// samples than folds.
pub(crate) fn check_folds(
    classes: &[(u32, Vec<usize>)],
    n_samples: usize,
    n_splits: usize,
) -> Result<(), SplitError> {
    if n_splits < 2 {
        return Err(SplitError::TooFewFolds { n_splits });
    }
    let counts = || classes.iter().map(|(_, samples)| samples.len());
    let (Some(smallest), Some(largest)) = (counts().min(), counts().max()) else {
        return Err(SplitError::Empty);
    };
    if n_splits > n_samples {
        return Err(SplitError::TooManyFolds { n_splits, unit: SplitUnit::Samples, count: n_samples });
    }
    if n_splits > largest {
        return Err(SplitError::TooManyFolds { n_splits, unit: SplitUnit::LargestClass, count: largest });
    }
    if n_splits > smallest {
        tracing::warn!(
            "the smallest class has {}, fewer than the {n_splits} folds: in some folds no photo of that \
             class is tested; use fewer folds, or add photos of that class",
            counted(smallest, "photo", "photos")
        );
    }
    Ok(())
}

/// The splits of a cross-validation: one per fold, which tests on that fold and trains on the others.
/// `folds[i]` is the fold, in `0..n_splits`, of sample `i`. Indices are ascending.
pub(crate) fn splits_from_folds(folds: &[usize], n_splits: usize) -> Vec<SplitIndices> {
    (0..n_splits)
        .map(|test_fold| {
            let (test, train) = (0..folds.len()).partition(|&sample| folds[sample] == test_fold);
            SplitIndices { train, test }
        })
        .collect()
}
