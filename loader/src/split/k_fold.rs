//! Folds, each with its share of every class.

use super::{SplitError, SplitIndices, check_folds, samples_by_label, splits_from_folds};
use crate::random::RandomState;

/// `n_splits` folds of the samples; each split tests on one and trains on the others. Every class is spread over the folds
/// as evenly as can be. Indices ascend.
///
/// They are those of scikit-learn 1.9.1's `StratifiedKFold(n_splits, shuffle=True, random_state=seed)`, for every input. As
/// there, a class with fewer samples than folds is no error while another has enough; a warning says so.
///
/// ```
/// use headstock_loader::split::stratified_k_fold;
///
/// let splits = stratified_k_fold(&[0, 0, 0, 1, 1, 1], 3, 0)?;
/// assert_eq!((splits.len(), splits[0].train.len(), splits[0].test.len()), (3, 4, 2));
/// # Ok::<(), headstock_loader::split::SplitError>(())
/// ```
///
/// # Errors
/// [`SplitError`], where scikit-learn raises `ValueError`.
pub fn stratified_k_fold(
    labels: &[u32],
    n_splits: usize,
    seed: u32,
) -> Result<Vec<SplitIndices>, SplitError> {
    let mut classes = samples_by_label(labels);
    check_folds(&classes, labels.len(), n_splits)?;
    // Renaming classes changes nothing: they are taken in the order in which they appear.
    classes.sort_unstable_by_key(|(_, samples)| samples[0]);

    let mut random = RandomState::new(seed);
    let mut folds = vec![0; labels.len()];
    // Class by class the samples are dealt out in turn: the one at position p of that row goes to fold p mod n.
    let mut start = 0;
    for (_, samples) in classes {
        let end = start + samples.len();
        let n_in_fold = |fold: usize| {
            let below = |position: usize| (position + n_splits - 1 - fold) / n_splits;
            below(end) - below(start)
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
