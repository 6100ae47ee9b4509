use proptest::prelude::*;

use super::golden;
use crate::*;

// effect: split.test_size, split.seed
#[test]
fn hash_splits_match_hashlib() {
    let golden = golden("hash.json");
    let keys: Vec<String> = serde_json::from_value(golden["keys"].clone()).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let test_size: TestSize = serde_json::from_value(case["test_size"].clone()).unwrap();
        let split = hash_split(&keys, test_size, case["seed"].as_u64().unwrap() as u32).unwrap();
        assert_eq!(split.test, serde_json::from_value::<Vec<usize>>(case["test"].clone()).unwrap(), "{case}");
    }
}

#[test]
fn impossible_hash_splits_are_errors() {
    let message =
        |keys: &[&str], test_size| hash_split(keys, test_size, 0).map(|_| ()).unwrap_err().to_string();
    assert_eq!(
        message(&["a", "b"], TestSize::Count(1)),
        "a split by hash needs a fraction between 0 and 1 as `test_size`, such as 0.2, not 1"
    );
    assert_eq!(
        message(&["a", "b"], TestSize::Fraction(f64::NAN)),
        "a split by hash needs a fraction between 0 and 1 as `test_size`, such as 0.2, not \
         NaN"
    );
    assert_eq!(
        message(&["a", "a"], TestSize::Fraction(1e-9)),
        "with `test_size = 1e-9`, the hash method puts all 2 photos into the training set: choose a \
         different `seed` or `test_size`"
    );
    assert_eq!(
        message(&["a"], TestSize::Fraction(1.0 - 1e-9)),
        "with `test_size = 0.999999999`, the hash method puts the only photo into the test set: choose \
         a different `seed` or `test_size`"
    );
    let message = message(&[], TestSize::Fraction(0.5));
    assert_eq!(message, "there are no photos to split into training and test set: add photos");
}

proptest! {
    #[test]
    fn a_sample_stays_in_its_set_when_others_are_added_or_the_test_set_grows(
        keys in prop::collection::btree_set("[a-z]{1,6}", 20..60),
        remains in prop::collection::vec(prop::bool::weighted(0.7), 60),
        seed: u32,
    ) {
        let fewer: Vec<&String> = keys.iter().zip(&remains).filter(|(_, remaining)| **remaining).map(|(key, _)| key).collect();
        let keys: Vec<&String> = keys.iter().collect();
        let tested = |keys: &[&String], fraction| match hash_split(keys, TestSize::Fraction(fraction), seed) {
            Ok(split) => split.test.iter().map(|&index| keys[index].clone()).collect(),
            Err(SplitError::EmptySide { all_test: true, .. }) => keys.iter().map(|&key| key.clone()).collect(),
            Err(SplitError::EmptySide { all_test: false, .. }) => Vec::<String>::new(),
            Err(error) => panic!("{error}"),
        };
        let (all, more) = (tested(&keys, 0.4), tested(&keys, 0.6));
        // Else the law would hold for a function that puts all samples into one set.
        prop_assume!(!all.is_empty() && more.len() < keys.len());
        let expected: Vec<String> = all.iter().filter(|key| fewer.contains(key)).cloned().collect();
        prop_assert_eq!(tested(&fewer, 0.4), expected);
        prop_assert!(all.iter().all(|key| more.contains(key)));
    }
}
