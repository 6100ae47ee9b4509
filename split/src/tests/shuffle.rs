use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{assert_splits_match, golden, label};
use crate::*;

// effect: split.test_size, split.seed
#[test]
fn splits_match_scikit_learn_index_for_index() {
    let golden = golden("stratified_shuffle.json");
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 60);
    for case in cases {
        let number = |key: &str| case[key].as_u64().unwrap();
        let shape = case["shape"].as_str().unwrap();
        let labels: Vec<u32> = (0..number("samples")).map(|i| label(shape, number("classes"), i)).collect();
        let test_size: TestSize = serde_json::from_value(case["test_size"].clone()).unwrap();
        let (n_splits, seed) = (number("n_splits") as usize, number("seed") as u32);
        let splits = stratified_shuffle_split(&labels, n_splits, test_size, seed).unwrap();
        assert_splits_match(&splits, case);
    }
}

#[test]
fn splits_that_scikit_learn_refuses_are_errors() {
    let golden = golden("stratified_shuffle.json");
    for case in golden["refused"].as_array().unwrap() {
        let labels: Vec<u32> = serde_json::from_value(case["labels"].clone()).unwrap();
        let kind = case["kind"].as_str().unwrap();
        let Ok(test_size) = serde_json::from_value::<TestSize>(case["test_size"].clone()) else {
            assert_eq!(kind, "size out of range", "{case}");
            continue;
        };
        let error = stratified_shuffle_split(&labels, 1, test_size, 0).unwrap_err();
        let as_expected = match kind {
            "lone sample" => matches!(error, SplitError::LoneSample { .. }),
            "test part too small" => matches!(error, SplitError::TooSmall { is_test: true, .. }),
            "training part too small" => matches!(error, SplitError::TooSmall { is_test: false, .. }),
            "empty training part" => matches!(error, SplitError::TooSmall { is_test: false, samples: 0, .. }),
            "size out of range" => matches!(error, SplitError::TestSize { .. }),
            "no samples" => error == SplitError::Empty,
            _ => false,
        };
        assert!(as_expected, "{case}: {error:?}");
    }
}

#[test]
fn split_errors_say_what_to_do() {
    let message = |labels: &[u32], test_size| {
        stratified_shuffle_split(labels, 1, test_size, 0).unwrap_err().to_string()
    };
    let labels = [0, 0, 0, 1, 1, 1];
    assert_eq!(
        message(&labels, TestSize::Count(6)),
        "a test set of 6 cannot be taken from 6 photos: set `test_size` to a whole number below 6, or \
         to a fraction between 0 and 1"
    );
    assert!(message(&labels, TestSize::Fraction(f64::NAN)).starts_with("a test set of NaN cannot be taken"));
    assert_eq!(
        message(&labels, TestSize::Count(1)),
        "the test set would have 1 photo for 2 classes: every class needs at least one photo; make \
         `test_size` larger"
    );
    assert_eq!(
        message(&labels, TestSize::Fraction(0.9)),
        "the training set would have no photo for 2 classes: every class needs at least one photo; make \
         `test_size` smaller, or add photos"
    );
    assert_eq!(
        message(&[0, 0, 1, 1, 2], TestSize::Fraction(0.4)),
        "class 2 has only one photo: the training set and the test set each need a photo of every class; add \
         photos, or remove the class"
    );
    let lone = stratified_shuffle_split(&[0, 1, 1, 2, 1], 1, TestSize::Count(2), 0).unwrap_err();
    let names = ["akita", "boxer", "pug"];
    assert_eq!(
        lone.with_names(|label| names[label as usize].to_owned()).to_string(),
        "classes akita, pug have only one photo: the training set and the test set each need a photo of \
         every class; add photos, or remove the classes"
    );
}

#[test]
fn a_size_is_read_as_a_fraction_or_a_count() {
    let read = |text: &str| serde_json::from_str::<TestSize>(text);
    assert_eq!(read("0.1").unwrap(), TestSize::Fraction(0.1));
    assert_eq!(read("1.0").unwrap(), TestSize::Fraction(1.0));
    assert_eq!(read("1").unwrap(), TestSize::Count(1));
    let negative = stratified_shuffle_split(&[0, 0, 1, 1], 1, read("-1").unwrap(), 0);
    assert!(matches!(negative, Err(SplitError::TestSize { .. })), "{negative:?}");
    let error = read("\"1\"").unwrap_err().to_string();
    assert!(error.contains("a fraction between 0 and 1, or a whole number of photos"), "{error}");
    for size in [TestSize::Fraction(0.1), TestSize::Count(7)] {
        assert_eq!(read(&serde_json::to_string(&size).unwrap()).unwrap(), size);
    }
}

/// Whether every class can be in both training and test set.
fn has_enough_for_split(labels: &[u32], tested: usize) -> bool {
    let classes: BTreeSet<u32> = labels.iter().copied().collect();
    let of_class = |class: &u32| labels.iter().filter(|label| *label == class).count();
    classes.iter().all(|class| of_class(class) >= 2)
        && tested >= classes.len()
        && labels.len() - tested >= classes.len()
}

proptest! {
    #[test]
    fn a_split_is_a_partition(
        labels in prop::collection::vec(0u32..6, 2..200),
        fraction in 0.01f64..0.99,
        seed: u32,
        n_splits in 1usize..4,
    ) {
        let tested = (fraction * labels.len() as f64).ceil() as usize;
        let splits = stratified_shuffle_split(&labels, n_splits, TestSize::Fraction(fraction), seed);
        prop_assert_eq!(splits.is_ok(), has_enough_for_split(&labels, tested));
        prop_assume!(splits.is_ok());
        let splits = splits.unwrap();
        prop_assert_eq!(splits.len(), n_splits);
        for SplitIndices { train, test } in splits {
            prop_assert_eq!(test.len(), tested);
            let all: BTreeSet<usize> = train.iter().chain(&test).copied().collect();
            prop_assert_eq!(all.len(), train.len() + test.len());
            prop_assert!(all.into_iter().eq(0..labels.len()));
        }
    }

    #[test]
    fn every_class_is_divided_in_proportion(
        labels in prop::collection::vec(0u32..6, 20..200),
        fraction in 0.1f64..0.9,
        seed: u32,
    ) {
        prop_assume!(has_enough_for_split(&labels, (fraction * labels.len() as f64).ceil() as usize));
        let splits = stratified_shuffle_split(&labels, 1, TestSize::Fraction(fraction), seed).unwrap();
        for class in 0..6 {
            let all = labels.iter().filter(|&&label| label == class).count() as f64;
            let tested = splits[0].test.iter().filter(|&&index| labels[index] == class).count() as f64;
            let share = splits[0].test.len() as f64 / labels.len() as f64;
            prop_assert!((tested - all * share).abs() < 1.0 + 1e-9, "{} of {}", tested, all);
        }
    }

    #[test]
    fn only_the_order_of_labels_matters(labels in prop::collection::vec(0u32..5, 10..60), seed: u32, gap in 1u32..1000) {
        let renamed: Vec<u32> = labels.iter().map(|label| label * gap + 7).collect();
        prop_assume!(has_enough_for_split(&labels, labels.len() / 2));
        let split =
            |labels: &[u32]| stratified_shuffle_split(labels, 2, TestSize::Count(labels.len() / 2), seed).unwrap();
        prop_assert_eq!(split(&labels), split(&renamed));
    }
}
