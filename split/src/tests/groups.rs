use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{assert_splits_match, golden, group};
use crate::*;

// effect: data.group, split.test_size, split.seed
#[test]
fn group_splits_match_scikit_learn_index_for_index() {
    let golden = golden("group_shuffle.json");
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 16);
    for case in cases {
        let number = |key: &str| case[key].as_u64().unwrap();
        let shape = case["shape"].as_str().unwrap();
        let groups: Vec<u32> = (0..number("samples")).map(|i| group(shape, number("groups"), i, 0)).collect();
        let test_size: TestSize = serde_json::from_value(case["test_size"].clone()).unwrap();
        let (n_splits, seed) = (number("n_splits") as usize, number("seed") as u32);
        assert_splits_match(&group_shuffle_split(&groups, n_splits, test_size, seed).unwrap(), case);
    }
}

#[test]
fn group_splits_that_scikit_learn_refuses_are_errors() {
    let golden = golden("group_shuffle.json");
    for case in golden["refused"].as_array().unwrap() {
        let groups: Vec<u32> = serde_json::from_value(case["groups"].clone()).unwrap();
        let test_size: TestSize = serde_json::from_value(case["test_size"].clone()).unwrap();
        let error = group_shuffle_split(&groups, 1, test_size, 0).unwrap_err();
        let as_expected = match case["kind"].as_str().unwrap() {
            "empty training part" => matches!(error, SplitError::NoTrainGroups { .. }),
            "size out of range" => matches!(error, SplitError::TestSize { unit: SplitUnit::Groups, .. }),
            "no samples" => error == SplitError::Empty,
            _ => false,
        };
        assert!(as_expected, "{case}: {error:?}");
    }
    let message = |test_size| group_shuffle_split(&[4, 9, 9], 1, test_size, 0).unwrap_err().to_string();
    assert_eq!(
        message(TestSize::Count(2)),
        "a test set of 2 cannot be taken from 2 groups: set `test_size` to a whole number below 2, or \
         to a fraction between 0 and 1"
    );
    assert_eq!(
        message(TestSize::Fraction(0.6)),
        "with `test_size = 0.6`, none of 2 groups (photos that stay together) is left for training: make \
         `test_size` smaller, or add photos of other groups"
    );
}

proptest! {
    #[test]
    fn a_group_is_entirely_in_one_set(
        groups in prop::collection::vec(0u32..20, 2..100),
        fraction in 0.05f64..0.9,
        seed: u32,
    ) {
        let distinct = groups.iter().collect::<BTreeSet<_>>().len();
        let tested = (fraction * distinct as f64).ceil() as usize;
        let splits = group_shuffle_split(&groups, 2, TestSize::Fraction(fraction), seed);
        prop_assert_eq!(splits.is_ok(), tested < distinct);
        prop_assume!(tested < distinct);
        let splits = splits.unwrap();
        prop_assert_eq!(splits.len(), 2);
        for SplitIndices { train, test } in splits {
            let groups_in = |part: &[usize]| -> BTreeSet<u32> { part.iter().map(|&i| groups[i]).collect() };
            prop_assert!(groups_in(&train).is_disjoint(&groups_in(&test)));
            prop_assert_eq!(train.len() + test.len(), groups.len());
            prop_assert_eq!(groups_in(&test).len(), tested);
        }
    }
}
