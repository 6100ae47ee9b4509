use std::collections::BTreeSet;

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::{golden, group, label};
use crate::*;
use headstock_testing::capture_log;

/// Stratified folds, by group if there are groups.
fn split_folds(
    labels: &[u32],
    groups: Option<&[u32]>,
    n_splits: usize,
    seed: u32,
) -> Result<Vec<SplitIndices>, SplitError> {
    match groups {
        Some(groups) => stratified_group_k_fold(labels, groups, n_splits, seed),
        None => stratified_k_fold(labels, n_splits, seed),
    }
}

/// The test fold of each sample, `[N]`.
fn folds_of(splits: &[SplitIndices], samples: usize) -> Vec<u8> {
    let mut folds = vec![u8::MAX; samples];
    for (fold, split) in splits.iter().enumerate() {
        assert!(split.train.is_sorted() && split.test.is_sorted());
        for &sample in &split.test {
            folds[sample] = fold as u8;
        }
    }
    folds
}

// effect: split.folds, split.seed
#[test]
fn folds_match_scikit_learn_index_for_index() {
    let golden = golden("folds.json");
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 35);
    for case in cases {
        let number = |key: &str| case[key].as_u64().unwrap();
        let (shape, samples) = (case["shape"].as_str().unwrap(), number("samples"));
        let mut labels: Vec<u32> = (0..samples).map(|i| label(shape, number("classes"), i)).collect();
        if case["backwards"].as_bool().unwrap() {
            labels.reverse();
        }
        let groups: Option<Vec<u32>> = case["group_shape"].as_str().map(|shape| {
            (0..samples).zip(&labels).map(|(i, &l)| group(shape, number("groups"), i, l.into())).collect()
        });
        let splits =
            split_folds(&labels, groups.as_deref(), number("n_splits") as usize, number("seed") as u32)
                .unwrap();
        let folds = folds_of(&splits, labels.len());
        if let Some(sha256) = case["sha256"].as_str() {
            assert_eq!(
                folds[..16],
                serde_json::from_value::<Vec<u8>>(case["first"].clone()).unwrap(),
                "{case}"
            );
            let ours: String = Sha256::digest(&folds).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(ours, sha256, "{case}");
        } else {
            assert_eq!(folds, serde_json::from_value::<Vec<u8>>(case["folds"].clone()).unwrap(), "{case}");
        }
    }
}

#[test]
fn folds_that_scikit_learn_refuses_are_errors() {
    let golden = golden("folds.json");
    for case in golden["refused"].as_array().unwrap() {
        let labels: Vec<u32> = serde_json::from_value(case["labels"].clone()).unwrap();
        let groups: Option<Vec<u32>> = serde_json::from_value(case["groups"].clone()).unwrap();
        let n_splits = case["n_splits"].as_u64().unwrap() as usize;
        let error = split_folds(&labels, groups.as_deref(), n_splits, 0).unwrap_err();
        let as_expected = match case["kind"].as_str().unwrap() {
            "too few folds" => matches!(error, SplitError::TooFewFolds { .. }),
            "more folds than samples" => {
                matches!(error, SplitError::TooManyFolds { unit: SplitUnit::Samples, .. })
            }
            "more folds than any class" => {
                matches!(error, SplitError::TooManyFolds { unit: SplitUnit::LargestClass, count: 2, .. })
            }
            "more folds than groups" => {
                matches!(error, SplitError::TooManyFolds { unit: SplitUnit::Groups, count: 2, .. })
            }
            "another number of groups" => matches!(error, SplitError::Groups { .. }),
            _ => false,
        };
        assert!(as_expected, "{case}: {error:?}");
    }
    assert_eq!(stratified_k_fold(&[], 2, 0), Err(SplitError::Empty));
    assert_eq!(stratified_group_k_fold(&[], &[], 2, 0), Err(SplitError::Empty));
}

#[test]
fn fold_errors_say_what_to_do() {
    let message = |labels: &[u32], n_splits| stratified_k_fold(labels, n_splits, 0).unwrap_err().to_string();
    assert_eq!(message(&[0, 0, 1], 1), "cross-validation needs at least 2 folds, not 1");
    assert_eq!(
        message(&[0, 0, 1, 1, 1], 4),
        "4 folds are too many for the 3 photos of the largest class: use fewer folds, or add photos"
    );
    assert_eq!(
        stratified_group_k_fold(&[0, 1, 1], &[5, 5, 5], 2, 0).unwrap_err().to_string(),
        "2 folds are too many for 1 group: use fewer folds, or add photos"
    );
}

#[test]
fn a_class_smaller_than_the_number_of_folds_is_a_warning_if_another_is_large_enough() {
    for groups in [None, Some([0, 1, 2, 3, 4, 5].as_slice())] {
        let log =
            capture_log(|| assert_eq!(split_folds(&[0, 0, 0, 0, 1, 1], groups, 3, 0).unwrap().len(), 3));
        assert!(log.contains("the smallest class has 2 photos, fewer than the 3 folds"), "{log}");
        let log =
            capture_log(|| assert_eq!(split_folds(&[0, 0, 0, 1, 1, 1], groups, 3, 0).unwrap().len(), 3));
        assert_eq!(log, "");
    }
}

/// Whether some class has enough samples, and there are enough groups, for `n_splits` folds.
fn has_enough_for_folds(labels: &[u32], groups: Option<&[u32]>, n_splits: usize) -> bool {
    let of_class = |class| labels.iter().filter(|&&label| label == class).count();
    let distinct = groups.map_or(usize::MAX, |groups| groups.iter().collect::<BTreeSet<_>>().len());
    (0..5).any(|class| of_class(class) >= n_splits) && distinct >= n_splits
}

/// Labels and groups; groups have about four samples.
fn samples() -> impl Strategy<Value = Vec<(u32, u32)>> {
    (8usize..150).prop_flat_map(|n| prop::collection::vec((0u32..5, 0..n as u32 / 4), n))
}

proptest! {
    #[test]
    fn every_sample_is_tested_once_and_trained_on_in_all_other_folds(
        samples in samples(),
        grouped: bool,
        n_splits in 2usize..6,
        seed: u32,
    ) {
        let (labels, groups): (Vec<u32>, Vec<u32>) = samples.into_iter().unzip();
        let groups = grouped.then_some(groups.as_slice());
        let splits = split_folds(&labels, groups, n_splits, seed);
        prop_assert_eq!(splits.is_ok(), has_enough_for_folds(&labels, groups, n_splits));
        prop_assume!(splits.is_ok());
        let splits = splits.unwrap();
        prop_assert_eq!(splits.len(), n_splits);
        let mut tested: Vec<usize> = splits.iter().flat_map(|split| split.test.clone()).collect();
        tested.sort_unstable();
        prop_assert!(tested.into_iter().eq(0..labels.len()));
        for SplitIndices { train, test } in &splits {
            let all: BTreeSet<usize> = train.iter().chain(test).copied().collect();
            prop_assert_eq!(all.len(), labels.len());
            prop_assert_eq!(train.len() + test.len(), labels.len());
        }
    }

    #[test]
    fn every_class_and_all_samples_are_spread_evenly(samples in samples(), n_splits in 2usize..6, seed: u32) {
        let labels: Vec<u32> = samples.into_iter().map(|(label, _)| label).collect();
        prop_assume!(has_enough_for_folds(&labels, None, n_splits));
        let splits = stratified_k_fold(&labels, n_splits, seed).unwrap();
        let spread = |of: &dyn Fn(usize) -> bool| {
            let counts = || splits.iter().map(|split| split.test.iter().filter(|&&i| of(i)).count());
            counts().max().unwrap() - counts().min().unwrap()
        };
        prop_assert!(spread(&|_| true) <= 1);
        for class in 0..5 {
            prop_assert!(spread(&|i| labels[i] == class) <= 1, "class {}", class);
        }
    }

    // effect: data.group
    #[test]
    fn no_group_is_in_both_sets(samples in samples(), n_splits in 2usize..6, seed: u32) {
        let (labels, groups): (Vec<u32>, Vec<u32>) = samples.into_iter().unzip();
        prop_assume!(has_enough_for_folds(&labels, Some(&groups), n_splits));
        for SplitIndices { train, test } in stratified_group_k_fold(&labels, &groups, n_splits, seed).unwrap() {
            let groups_in = |part: &[usize]| -> BTreeSet<u32> { part.iter().map(|&i| groups[i]).collect() };
            prop_assert!(groups_in(&train).is_disjoint(&groups_in(&test)));
        }
    }

    #[test]
    fn only_the_order_of_group_numbers_matters(samples in samples(), seed: u32, gap in 1u32..1000) {
        let (labels, groups): (Vec<u32>, Vec<u32>) = samples.into_iter().unzip();
        let renamed: Vec<u32> = groups.iter().map(|group| group * gap + 3).collect();
        prop_assume!(has_enough_for_folds(&labels, Some(&groups), 3));
        let folds = |groups: &[u32]| stratified_group_k_fold(&labels, groups, 3, seed).unwrap();
        prop_assert_eq!(folds(&groups), folds(&renamed));
    }
}
