//! Groups of samples that must stay in the same split, such as photos of one patient or frames of one film.

use std::collections::{BTreeMap, BTreeSet};

/// The index of each sample's group among the distinct groups in sorted order, `[N]`: splits take groups as
/// numbers. `groups[i]` is the group of sample `i`.
///
/// ```
/// use headstock_loader::dataset::number_groups;
///
/// assert_eq!(number_groups(&["P7", "P10", "P7"]), [1, 0, 1]);
/// assert_eq!(number_groups(&[7, 10, 7]), [0, 1, 0]);
/// ```
///
/// # Panics
/// If there are 2^32 groups or more.
#[must_use]
pub fn number_groups<T: Ord>(groups: &[T]) -> Vec<u32> {
    let distinct: Vec<&T> = groups.iter().collect::<BTreeSet<_>>().into_iter().collect();
    let index_of = |group: &T| distinct.partition_point(|known| *known < group);
    groups
        .iter()
        .map(|group| u32::try_from(index_of(group)).expect("a data set has fewer than 2^32 groups"))
        .collect()
}

/// Merges groups that are connected by `links`, pairs of sample indices such as near-duplicates, so that a
/// split by group keeps linked samples together. `groups[i]` is the current group of sample `i`, if any. In
/// the result `[N]` each sample has a group; groups are numbered in order of first appearance.
///
/// ```
/// use headstock_loader::dataset::join_groups;
///
/// assert_eq!(join_groups(&[None; 5], &[(1, 4), (4, 2)]), [0, 1, 1, 2, 1]);
/// assert_eq!(join_groups(&[Some(8), Some(3), Some(3), Some(8), None], &[(2, 4)]), [0, 1, 1, 0, 1]);
/// ```
///
/// # Panics
/// If a link has an index out of range, or there are 2^32 groups or more.
#[must_use]
pub fn join_groups(groups: &[Option<u32>], links: &[(usize, usize)]) -> Vec<u32> {
    // Union-find: each sample points to an earlier one of its group, the first one to itself.
    let mut parents: Vec<usize> = (0..groups.len()).collect();
    let mut first_of_group = BTreeMap::new();
    for (sample, group) in groups.iter().enumerate() {
        if let Some(group) = group {
            let first = *first_of_group.entry(group).or_insert(sample);
            merge_groups(&mut parents, first, sample);
        }
    }
    for &(a, b) in links {
        merge_groups(&mut parents, a, b);
    }
    let mut numbers = Vec::with_capacity(groups.len());
    let mut next = 0u32;
    for sample in 0..groups.len() {
        let root = find_root(&mut parents, sample);
        // A group gets its number at its first sample, the root.
        if root < sample {
            numbers.push(numbers[root]);
        } else {
            numbers.push(next);
            next = next.checked_add(1).expect("a data set has fewer than 2^32 groups");
        }
    }
    numbers
}

/// Merges the groups of samples `a` and `b` in the union-find forest `parents`; the root is the earlier
/// sample.
fn merge_groups(parents: &mut [usize], a: usize, b: usize) {
    let (a, b) = (find_root(parents, a), find_root(parents, b));
    parents[a.max(b)] = a.min(b);
}

/// The root of a sample's group in the union-find forest `parents`, which is the first sample of the group.
/// Shortens the path to it (path halving), so that later calls are fast.
fn find_root(parents: &mut [usize], mut sample: usize) -> usize {
    while parents[sample] != sample {
        parents[sample] = parents[parents[sample]];
        sample = parents[sample];
    }
    sample
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn samples_connected_by_groups_or_links_share_a_number(
            (groups, links) in (1usize..40).prop_flat_map(|n| {
                (prop::collection::vec(prop::option::of(0u32..12), n), prop::collection::vec((0..n, 0..n), 0..n))
            }),
        ) {
            let n = groups.len();
            let mut reaches = vec![false; n * n];
            for a in 0..n {
                for b in 0..n {
                    reaches[a * n + b] = a == b
                        || groups[a].is_some() && groups[a] == groups[b]
                        || links.contains(&(a, b))
                        || links.contains(&(b, a));
                }
            }
            for via in 0..n {
                for a in 0..n {
                    for b in 0..n {
                        reaches[a * n + b] |= reaches[a * n + via] && reaches[via * n + b];
                    }
                }
            }
            let joined = join_groups(&groups, &links);
            for a in 0..n {
                for b in 0..n {
                    prop_assert_eq!(joined[a] == joined[b], reaches[a * n + b]);
                }
                let known = joined[..a].iter().max().map_or(0, |&most| most + 1);
                prop_assert!(joined[a] <= known, "numbers are in the order of first appearance");
            }
        }
    }
}
