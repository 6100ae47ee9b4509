//! Groups of samples that belong together: photos of one patient, frames of one film.

use std::collections::BTreeSet;

/// Numbers groups in the order of their names; samples of one group have one number.
///
/// ```
/// use headstock_loader::dataset::number_groups;
///
/// assert_eq!(number_groups(&["P7", "P10", "P7"]), [1, 0, 1]);
/// assert_eq!(number_groups(&[7, 10, 7]), [0, 1, 0]);
/// ```
///
/// # Panics
/// When there are 2^32 groups or more.
#[must_use]
pub fn number_groups<T: Ord>(groups: &[T]) -> Vec<u32> {
    let distinct: Vec<&T> = groups.iter().collect::<BTreeSet<_>>().into_iter().collect();
    let number = |group: &T| distinct.partition_point(|known| *known < group);
    groups
        .iter()
        .map(|group| u32::try_from(number(group)).expect("a data set has fewer than 2^32 groups"))
        .collect()
}
