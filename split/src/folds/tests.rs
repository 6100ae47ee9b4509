use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const CLASSES: u32 = 4;

/// Strategy: labels and groups of rows, like photos of patients, some with several classes, of unequal sizes.
fn rows() -> impl Strategy<Value = (Vec<u32>, Vec<u32>)> {
    prop::collection::vec((0..CLASSES, 0u32..25, any::<bool>()), 1..80).prop_map(|rows| {
        // Most groups have one class, some have several.
        let label_and_group = |&(class, group, any): &(u32, u32, bool)| {
            (if any && group.is_multiple_of(3) { class } else { group % CLASSES }, group * group)
        };
        rows.iter().map(label_and_group).unzip()
    })
}

/// Groups of one class and equal size, as many per class as given; rows interleaved.
fn equal_groups(groups_per_class: &[usize], size: usize) -> (Vec<u32>, Vec<u32>) {
    let classes = groups_per_class.iter().enumerate();
    let groups: Vec<u32> = classes.flat_map(|(class, &n)| std::iter::repeat_n(class as u32, n)).collect();
    let rows = (0..size).flat_map(|_| groups.iter().zip(0u32..));
    rows.map(|(&label, group)| (label, 3 * group + 1)).unzip()
}

/// Number of rows of each class.
fn counts(labels: &[u32], rows: &[usize]) -> [f64; CLASSES as usize] {
    let mut counts = [0.0; CLASSES as usize];
    rows.iter().for_each(|&row| counts[labels[row] as usize] += 1.0);
    counts
}

/// The rows of each group.
fn rows_by_group(groups: &[u32]) -> Vec<Vec<usize>> {
    let mut rows_by_group: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    groups.iter().enumerate().for_each(|(row, &group)| rows_by_group.entry(group).or_default().push(row));
    rows_by_group.into_values().collect()
}

/// `Σ_c (held_c / total_c - share)²`
fn unevenness(labels: &[u32], held_out: &[usize], share: f64) -> f64 {
    let totals = counts(labels, &(0..labels.len()).collect::<Vec<_>>());
    let shares = counts(labels, held_out).into_iter().zip(totals).filter(|(_, total)| *total > 0.0);
    shares.map(|(count, total)| (count / total - share).powi(2)).sum()
}

/// The fold with these rows added, or removed if it has them.
fn toggled(held_out: &[usize], rows: &[usize]) -> Vec<usize> {
    if held_out.contains(&rows[0]) {
        held_out.iter().copied().filter(|row| !rows.contains(row)).collect()
    } else {
        [held_out, rows].concat()
    }
}

/// Asserts a valid split: no group on both sides, both sides sorted, every class fitted on.
fn assert_valid_fold(labels: &[u32], groups: &[u32], SplitIndices { train, test }: &SplitIndices) {
    assert!(train.is_sorted() && test.is_sorted());
    let mut rows = [&train[..], test].concat();
    rows.sort_unstable();
    assert!(rows.into_iter().eq(0..labels.len()));
    let select =
        |values: &[u32], rows: &[usize]| rows.iter().map(|&row| values[row]).collect::<BTreeSet<_>>();
    assert!(select(groups, train).is_disjoint(&select(groups, test)), "{train:?} {test:?}");
    assert!(select(labels, test).is_subset(&select(labels, train)), "{train:?} {test:?}");
}

/// Whether each class of `rows` keeps a row outside `held_out` when `rows` join it.
fn can_join(labels: &[u32], held_out: &[usize], rows: &[usize]) -> bool {
    let joined = counts(labels, &toggled(held_out, rows));
    let totals = counts(labels, &(0..labels.len()).collect::<Vec<_>>());
    rows.iter().all(|&row| joined[labels[row] as usize] < totals[labels[row] as usize])
}

proptest! {
    #[test]
    fn groups_stay_whole_and_are_held_out_once_where_their_classes_allow(
        (labels, groups) in rows(), count in 1usize..7,
    ) {
        let folds = stratified_folds(&labels, Some(&groups), count);
        prop_assert_eq!(folds.len(), count);
        folds.iter().for_each(|fold| assert_valid_fold(&labels, &groups, fold));
        for rows in rows_by_group(&groups) {
            let times = folds.iter().filter(|fold| fold.test.contains(&rows[0])).count();
            let classes: BTreeSet<u32> = rows.iter().map(|&row| labels[row]).collect();
            let others = |class| (0..labels.len()).any(|row| labels[row] == class && groups[row] != groups[rows[0]]);
            if !classes.iter().all(|&class| others(class)) {
                prop_assert_eq!(times, 0);
            } else if classes.len() < count {
                prop_assert_eq!(times, 1);
            } else {
                // Unassigned only if each fold would lose a class.
                prop_assert!(times == 1 || folds.iter().all(|fold| !can_join(&labels, &fold.test, &rows)));
            }
        }
    }

    #[test]
    fn stratified_folds_are_locally_optimal(
        (labels, groups) in rows(), count in 2usize..7,
    ) {
        let folds = stratified_folds(&labels, Some(&groups), count);
        let uneven = |rows: &[usize]| unevenness(&labels, rows, 1.0 / count as f64);
        for from in &folds {
            for rows in rows_by_group(&groups).iter().filter(|rows| from.test.contains(&rows[0])) {
                for to in folds.iter().filter(|to| *to != from && can_join(&labels, &to.test, rows)) {
                    let before = uneven(&from.test) + uneven(&to.test);
                    let after = uneven(&toggled(&from.test, rows)) + uneven(&toggled(&to.test, rows));
                    prop_assert!(after > before - 1e-9, "{rows:?} from {from:?} to {to:?}");
                }
            }
        }
    }

    /// With one class per group, a fuller fold exceeds another by no more than its smallest group.
    #[test]
    fn folds_of_groups_of_one_class_differ_by_less_than_a_group(
        sizes in prop::collection::vec((0..CLASSES, 1usize..9), 2..40), count in 2usize..6,
    ) {
        let (mut labels, mut groups) = (Vec::new(), Vec::new());
        for (group, &(class, size)) in sizes.iter().enumerate() {
            labels.extend(vec![class; size]);
            groups.extend(vec![group as u32; size]);
        }
        let folds = stratified_folds(&labels, Some(&groups), count);
        for class in 0..CLASSES as usize {
            if sizes.iter().filter(|(label, _)| *label as usize == class).count() == 1 {
                continue;
            }
            let held_out_count = |fold: &SplitIndices| counts(&labels, &fold.test)[class];
            for full in folds.iter().filter(|fold| held_out_count(fold) > 0.0) {
                let own = full.test.iter().filter(|&&row| labels[row] as usize == class);
                let smallest = own.map(|&row| sizes[groups[row] as usize].1).min().unwrap() as f64;
                for other in &folds {
                    prop_assert!(held_out_count(full) - held_out_count(other) <= smallest);
                }
            }
        }
    }

    /// Views of photos: groups of one class and equal size are assigned round-robin, class by class, each
    /// class continuing where the previous one ended.
    #[test]
    fn equal_groups_are_assigned_round_robin(
        groups_per_class in prop::collection::vec(0usize..15, 1..4), size in 1usize..5, count in 2usize..7,
    ) {
        let (labels, groups) = equal_groups(&groups_per_class, size);
        let (mut fold_of, mut next) = (BTreeMap::new(), 0);
        for class in (0u32..).zip(&groups_per_class).filter(|(_, n)| **n > 1).map(|(class, _)| class) {
            let class_groups = labels.iter().zip(&groups).filter(|(label, _)| **label == class).map(|(_, &group)| group);
            let mut class_groups: Vec<u32> = class_groups.collect::<BTreeSet<_>>().into_iter().collect();
            class_groups.sort_by_key(|&group| KeyedRng::new(&[SEED, u64::from(group)]).next_u64());
            for group in class_groups {
                fold_of.insert(group, next % count);
                next += 1;
            }
        }
        for (number, fold) in stratified_folds(&labels, Some(&groups), count).iter().enumerate() {
            let expected = (0..groups.len()).filter(|&row| fold_of.get(&groups[row]) == Some(&number));
            prop_assert!(fold.test.iter().copied().eq(expected));
        }
    }

    /// Row and group counts match the contents of the folds after any moves.
    #[test]
    fn sizes_are_counted_when_groups_move(
        (labels, groups) in rows(), moves in prop::collection::vec((0usize..30, prop::option::of(0usize..3)), 0..60),
    ) {
        let groups = build_groups(&labels, Some(&groups), SEED);
        let mut assignment = FoldAssignment::new(&groups, 3, 1.0 / 3.0);
        for (group, to) in moves {
            assignment.move_group(group % groups.len(), to);
        }
        for fold in 0..3 {
            let fold_groups: Vec<&Group> =
                groups.iter().zip(&assignment.fold_of).filter(|(_, assigned)| **assigned == Some(fold)).map(|(group, _)| group).collect();
            prop_assert_eq!(assignment.sizes[fold], fold_groups.iter().map(|group| group.rows.len()).sum::<usize>());
            for class in 0..assignment.totals.len() {
                let class_rows = |group: &&Group| group.class_counts.iter().find(|(own, _)| *own == class).map(|(_, rows)| *rows);
                let rows: Vec<usize> = fold_groups.iter().filter_map(class_rows).collect();
                let count = assignment.fold_counts[fold][class];
                prop_assert_eq!((count.rows, count.groups), (rows.iter().sum(), rows.len()));
            }
        }
    }

    #[test]
    fn rows_in_another_order_fall_into_the_same_parts(
        (labels, groups) in rows(), count in 2usize..6, fraction in 0.0f64..1.0, seed: u64,
    ) {
        let mut order: Vec<usize> = (0..labels.len()).collect();
        KeyedRng::new(&[seed]).shuffle(&mut order);
        let reorder = |values: &[u32]| order.iter().map(|&row| values[row]).collect::<Vec<_>>();
        let original_rows = |fold: SplitIndices| {
            let to_original = |rows: Vec<usize>| rows.into_iter().map(|row| order[row]).collect::<BTreeSet<_>>();
            [to_original(fold.train), to_original(fold.test)]
        };
        let row_sets = |fold: SplitIndices| [fold.train, fold.test].map(BTreeSet::from_iter);
        let before = stratified_folds(&labels, Some(&groups), count).into_iter().map(row_sets);
        let after = stratified_folds(&reorder(&labels), Some(&reorder(&groups)), count).into_iter().map(original_rows);
        prop_assert!(before.eq(after));
        let before = hold_out(&labels, Some(&groups), fraction, seed);
        prop_assert_eq!(row_sets(before), original_rows(hold_out(&reorder(&labels), Some(&reorder(&groups)), fraction, seed)));
    }

    #[test]
    fn without_groups_each_row_is_its_own_group((labels, _) in rows(), count in 2usize..6, fraction in 0.0f64..1.0, seed: u64) {
        let each: Vec<u32> = (0..labels.len() as u32).collect();
        prop_assert_eq!(stratified_folds(&labels, None, count), stratified_folds(&labels, Some(&each), count));
        prop_assert_eq!(hold_out(&labels, None, fraction, seed), hold_out(&labels, Some(&each), fraction, seed));
    }

    #[test]
    fn hold_out_is_locally_optimal(
        (labels, groups) in rows(), fraction in 0.0f64..1.0, seed: u64,
    ) {
        let parts = hold_out(&labels, Some(&groups), fraction, seed);
        assert_valid_fold(&labels, &groups, &parts);
        let uneven = |rows: &[usize]| unevenness(&labels, rows, fraction);
        for rows in rows_by_group(&groups) {
            let held = parts.test.contains(&rows[0]);
            if held || can_join(&labels, &parts.test, &rows) {
                let (before, after) = (uneven(&parts.test), uneven(&toggled(&parts.test, &rows)));
                prop_assert!(after > before - 1e-9, "{rows:?} {parts:?}");
            }
        }
    }

    #[test]
    fn equal_groups_are_held_out_by_rounded_fraction_in_seed_order(
        groups_per_class in prop::collection::vec(0usize..15, 1..4), size in 1usize..5, tenths in 0u32..10, seed: u64,
    ) {
        let (labels, groups) = equal_groups(&groups_per_class, size);
        let fraction = f64::from(tenths) / 10.0;
        let held_out = hold_out(&labels, Some(&groups), fraction, seed).test;
        for (class, &n) in (0u32..).zip(&groups_per_class) {
            let class_groups = labels.iter().zip(&groups).filter(|(label, _)| **label == class).map(|(_, &group)| group);
            let mut class_groups: Vec<u32> = class_groups.collect::<BTreeSet<_>>().into_iter().collect();
            class_groups.sort_by_key(|&group| KeyedRng::new(&[seed, u64::from(group)]).next_u64());
            class_groups.truncate(((n as f64 * fraction).round() as usize).min(n.saturating_sub(1)));
            let found = held_out.iter().filter(|&&row| labels[row] == class).map(|&row| groups[row]);
            prop_assert_eq!(found.collect::<BTreeSet<_>>(), class_groups.into_iter().collect());
        }
    }
}

/// A patient with photos of two classes must not be on both sides.
#[test]
fn a_group_of_two_classes_is_held_out_whole() {
    let labels = [0, 0, 0, 0, 1, 1, 1, 1];
    let groups = [0, 0, 1, 2, 0, 0, 3, 4];
    for count in 2..5 {
        let folds = stratified_folds(&labels, Some(&groups), count);
        folds.iter().for_each(|fold| assert_valid_fold(&labels, &groups, fold));
        let with = folds.iter().filter(|fold| fold.test.contains(&0));
        assert_eq!(with.map(|fold| fold.test.contains(&5)).collect::<Vec<_>>(), [true], "{folds:?}");
    }
}

/// 12 rows in groups of 6, 2, 2 and 2 make two folds of 6; round-robin would give 8 and 4.
#[test]
fn unequal_groups_make_folds_of_one_size() {
    let groups = [9, 1, 1, 9, 9, 2, 2, 9, 9, 3, 3, 9];
    for SplitIndices { train, test } in stratified_folds(&[0; 12], Some(&groups), 2) {
        assert_eq!((train.len(), test.len()), (6, 6));
    }
}

#[test]
fn a_group_with_the_only_samples_of_a_class_is_always_fitted_on() {
    // Group 5 has the only photos of class 1.
    let (labels, groups) = ([0, 0, 1, 0, 0, 0], [5, 5, 5, 6, 7, 8]);
    for SplitIndices { train, .. } in stratified_folds(&labels, Some(&groups), 3) {
        assert_eq!(train[..3], [0, 1, 2]);
    }
    assert_eq!(hold_out(&labels, Some(&groups), 0.9, 3).train[..3], [0, 1, 2]);
}

#[test]
fn another_seed_holds_out_other_groups() {
    let labels = [0; 100];
    let groups: Vec<u32> = (0..100).map(|row| row / 2).collect();
    let held_out = |seed| hold_out(&labels, Some(&groups), 0.3, seed).test;
    assert_eq!((held_out(0).len(), held_out(1).len()), (30, 30));
    assert_ne!(held_out(0), held_out(1));
}

#[test]
#[should_panic = "groups must have a number for each row"]
fn groups_must_match_the_labels_in_length() {
    let _ = stratified_folds(&[0, 1], Some(&[0]), 2);
}

#[test]
#[should_panic = "at least one fold is required"]
fn no_folds_are_an_error() {
    let _ = stratified_folds(&[0, 1], None, 0);
}
