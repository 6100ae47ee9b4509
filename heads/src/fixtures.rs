//! Groups of samples for tests, and the check that a split keeps them together.

use std::collections::BTreeSet;

/// Labels and groups of several kinds: views of photos, pairs of copies, patients with several classes and
/// unequal numbers of photos, and classes with one or two groups.
pub(crate) fn example_groupings() -> [(&'static str, Vec<u32>, Vec<u32>); 4] {
    let views = (0..60).map(|row| (u32::from(row / 3 % 7 == 0), row / 3)).unzip();
    let copies = (0..40).map(|row| (row / 2 % 3, if row % 5 == 0 { row + 1 } else { row })).unzip();
    let patients = (0..70)
        .map(|row| (row * row % 5 % 3, [4, 4, 4, 4, 1, 1, 7][row as usize % 7] + row / 14 * 10))
        .unzip();
    let tiny = (0..30).map(|row| ([0, 0, 0, 1, 1, 2][row as usize / 5], 100 - row / 5)).unzip();
    let named = |name, (labels, groups): (Vec<u32>, Vec<u32>)| (name, labels, groups);
    [named("views", views), named("copies", copies), named("patients", patients), named("tiny", tiny)]
}

/// Asserts that two parts share no row and no group, and that every held-out class is also fitted on.
pub(crate) fn assert_disjoint_groups(labels: &[u32], groups: &[u32], fit: &[usize], held_out: &[usize]) {
    let select =
        |values: &[u32], rows: &[usize]| rows.iter().map(|&row| values[row]).collect::<BTreeSet<_>>();
    assert!(fit.iter().all(|row| !held_out.contains(row)), "{fit:?} {held_out:?}");
    assert!(select(groups, fit).is_disjoint(&select(groups, held_out)), "{fit:?} {held_out:?}");
    assert!(select(labels, held_out).is_subset(&select(labels, fit)), "{fit:?} {held_out:?}");
}
