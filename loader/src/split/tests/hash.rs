use proptest::prelude::*;

use crate::golden;
use crate::split::*;

// effect: split.test_size, split.seed
#[test]
fn the_tested_keys_are_those_that_hashlib_finds_below_the_size() {
    let golden = golden::json("split/hash.json");
    let keys: Vec<String> = serde_json::from_value(golden["keys"].clone()).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let test_size: TestSize = serde_json::from_value(case["test_size"].clone()).unwrap();
        let split = hash_split(&keys, test_size, case["seed"].as_u64().unwrap() as u32).unwrap();
        assert_eq!(split.test, serde_json::from_value::<Vec<usize>>(case["test"].clone()).unwrap(), "{case}");
    }
}

#[test]
fn what_hashes_cannot_split_is_refused() {
    let message =
        |keys: &[&str], test_size| hash_split(keys, test_size, 0).map(|_| ()).unwrap_err().to_string();
    assert_eq!(
        message(&["a", "b"], TestSize::Count(1)),
        "a test part of 1 cannot be chosen by hashes: give a fraction between 0 and 1"
    );
    assert_eq!(
        message(&["a", "b"], TestSize::Fraction(f64::NAN)),
        "a test part of NaN cannot be chosen by hashes: give a fraction between 0 and 1"
    );
    assert_eq!(
        message(&["a", "a"], TestSize::Fraction(1e-9)),
        "by their hashes all 2 samples lie on the training side at a test part of 1e-9: give another seed or size"
    );
    assert_eq!(
        message(&["a"], TestSize::Fraction(1.0 - 1e-9)),
        "by their hashes the one sample lies on the test side at a test part of 0.999999999: give another seed or size"
    );
    assert_eq!(message(&[], TestSize::Fraction(0.5)), "there are no samples to split");
}

proptest! {
    #[test]
    fn a_sample_stays_on_its_side_when_others_come_and_go_or_the_test_part_grows(
        keys in prop::collection::btree_set("[a-z]{1,6}", 20..60),
        is_kept in prop::collection::vec(prop::bool::weighted(0.7), 60),
        seed: u32,
    ) {
        let fewer: Vec<&String> = keys.iter().zip(&is_kept).filter(|(_, kept)| **kept).map(|(key, _)| key).collect();
        let keys: Vec<&String> = keys.iter().collect();
        let tested = |keys: &[&String], fraction| match hash_split(keys, TestSize::Fraction(fraction), seed) {
            Ok(split) => split.test.iter().map(|&index| keys[index].clone()).collect(),
            Err(SplitError::EmptySide { tested: true, .. }) => keys.iter().map(|&key| key.clone()).collect(),
            Err(SplitError::EmptySide { tested: false, .. }) => Vec::<String>::new(),
            Err(error) => panic!("{error}"),
        };
        prop_assume!(!fewer.is_empty());
        let (all, more) = (tested(&keys, 0.4), tested(&keys, 0.6));
        let expected: Vec<String> = all.iter().filter(|key| fewer.contains(key)).cloned().collect();
        prop_assert_eq!(tested(&fewer, 0.4), expected);
        prop_assert!(all.iter().all(|key| more.contains(key)));
    }
}
