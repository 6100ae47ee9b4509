//! Random split by group.

use crate::error::{SplitError, SplitUnit};
use crate::parts::{SplitIndices, samples_by_label, split_sizes};
use crate::random_state::RandomState;
use crate::test_size::TestSize;

/// Draws `n_splits` independent random splits that keep groups together: all samples of a group, such as the
/// photos of one patient, are in the same set. `groups[i]` is the group of sample `i`. `test_size` is a
/// fraction of the **groups**, rounded up, or a number of groups, so the number of test samples depends on
/// the sizes of the drawn groups. Class proportions are not preserved. Indices are ascending.
///
/// For every input the indices equal those of scikit-learn 1.9.1's
/// `GroupShuffleSplit(n_splits, test_size=test_size, random_state=seed)`.
///
/// ```
/// use headstock_split::{TestSize, group_shuffle_split};
///
/// let patients = [7, 7, 7, 2, 2, 9];
/// let splits = group_shuffle_split(&patients, 1, TestSize::Count(1), 0)?;
/// assert_eq!(splits[0].train, [0, 1, 2, 3, 4]);
/// assert_eq!(splits[0].test, [5]);
/// # Ok::<(), headstock_split::SplitError>(())
/// ```
///
/// # Errors
/// [`SplitError`] if scikit-learn raises `ValueError`.
pub fn group_shuffle_split(
    groups: &[u32],
    n_splits: usize,
    test_size: TestSize,
    seed: u32,
) -> Result<Vec<SplitIndices>, SplitError> {
    let groups_with_samples = samples_by_label(groups);
    let (n_train, n_test) = split_sizes(groups_with_samples.len(), test_size, SplitUnit::Groups)?;
    if n_train == 0 {
        return Err(SplitError::NoTrainGroups { test_size, groups: groups_with_samples.len() });
    }
    let mut random = RandomState::new(seed);
    Ok((0..n_splits)
        .map(|_| {
            let permutation = random.permutation(groups_with_samples.len());
            let samples_in = |groups: &[usize]| {
                let mut samples: Vec<usize> =
                    groups.iter().flat_map(|&group| &groups_with_samples[group].1).copied().collect();
                samples.sort_unstable();
                samples
            };
            SplitIndices {
                train: samples_in(&permutation[n_test..]),
                test: samples_in(&permutation[..n_test]),
            }
        })
        .collect())
}
