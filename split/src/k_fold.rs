//! Stratified k-fold.

use crate::error::SplitError;
use crate::parts::{SplitIndices, check_folds, samples_by_label, splits_from_folds};
use crate::random_state::RandomState;

/// Splits the samples into `n_splits` folds with the class proportions of the whole; each split tests on one
/// fold and trains on the others. Indices are ascending.
///
/// For every input the indices equal those of scikit-learn 1.9.1's
/// `StratifiedKFold(n_splits, shuffle=True, random_state=seed)`. A class with fewer samples than folds is an
/// error only if no class has enough samples; otherwise it is logged as a warning.
///
/// ```
/// use headstock_split::stratified_k_fold;
///
/// let splits = stratified_k_fold(&[0, 0, 0, 1, 1, 1], 3, 0)?;
/// assert_eq!((splits.len(), splits[0].train.len(), splits[0].test.len()), (3, 4, 2));
/// # Ok::<(), headstock_split::SplitError>(())
/// ```
///
/// # Errors
/// [`SplitError`] if scikit-learn raises `ValueError`.
pub fn stratified_k_fold(
    labels: &[u32],
    n_splits: usize,
    seed: u32,
) -> Result<Vec<SplitIndices>, SplitError> {
    let mut classes = samples_by_label(labels);
    check_folds(&classes, labels.len(), n_splits)?;
    // Classes are processed in order of appearance, so renaming them changes nothing.
    classes.sort_unstable_by_key(|(_, samples)| samples[0]);

    let mut random = RandomState::new(seed);
    let mut folds = vec![0; labels.len()];
    // How many samples of a class are in each fold: with samples sorted by class, position p counts for fold
    // p mod n. `start..end` are the positions of a class. Which of its samples they are is random.
    let mut start = 0;
    for (_, samples) in classes {
        let end = start + samples.len();
        let n_in_fold = |fold: usize| {
            // Number of positions before `position` that are equal to `fold` modulo `n_splits`.
            let n_before = |position: usize| (position + n_splits - 1 - fold) / n_splits;
            n_before(end) - n_before(start)
        };
        let mut class_folds: Vec<usize> =
            (0..n_splits).flat_map(|fold| std::iter::repeat_n(fold, n_in_fold(fold))).collect();
        random.shuffle(&mut class_folds);
        for (sample, fold) in samples.into_iter().zip(class_folds) {
            folds[sample] = fold;
        }
        start = end;
    }
    Ok(splits_from_folds(&folds, n_splits))
}
