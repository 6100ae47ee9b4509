//! Which samples are trained on, which are held out, and how the held-out ones calibrate.

use std::collections::BTreeSet;

use headstock_loader::dataset::PassedOver;
use headstock_loader::{ClassMap, ClassOrder};
use headstock_split::KeyedRng;

use super::*;
use crate::config::CacheDtype;
use crate::metrics::LogLoss;
use crate::samples::{SampleRow, Subset};

/// Samples with these labels and groups.
fn samples(labels: &[u32], groups: Option<&[u32]>) -> SampleSet {
    let row = |(number, &label): (usize, &u32)| {
        let group = groups.map(|groups| groups[number]);
        SampleRow { id: number.to_string(), label, group, subset: Subset::Train }
    };
    let classes = ClassMap::new(["a", "b", "c", "d"], ClassOrder::Sorted);
    let rows = labels.iter().enumerate().map(row).collect();
    SampleSet { classes, rows, passed_over: PassedOver::default() }
}

fn options(validation: f64, seed: u64) -> TuneOptions {
    TuneOptions { validation, seed, ..TuneOptions::default() }
}

fn class_counts(rows: &[usize], labels: &[u32]) -> [usize; 4] {
    [0, 1, 2, 3].map(|class| rows.iter().filter(|&&row| labels[row] == class).count())
}

// effect: tune.validation, tune.seed
#[test]
fn a_share_of_each_class_is_held_out_but_never_its_last_sample() {
    let labels = [vec![0; 20], vec![1; 9], vec![2; 2], vec![3]].concat();
    // The training set is every other row of a data set.
    let (all_labels, train): (Vec<u32>, Vec<usize>) = (
        labels.iter().flat_map(|&label| [label, 0]).collect(),
        (0..labels.len()).map(|row| 2 * row).collect(),
    );
    let samples = samples(&all_labels, None);
    let held_out = |validation, seed| {
        let SplitIndices { train: fit, test: held_out } =
            hold_out_split(&samples, &train, &options(validation, seed)).unwrap();
        let mut union = [fit, held_out.clone()].concat();
        union.sort_unstable();
        assert_eq!(union, train);
        held_out
    };
    assert_eq!(class_counts(&held_out(0.25, 0), &all_labels), [5, 2, 1, 0]);
    assert_eq!(class_counts(&held_out(0.1, 0), &all_labels), [2, 1, 0, 0]);
    assert_eq!(class_counts(&held_out(0.99, 0), &all_labels), [19, 8, 1, 0]);
    assert_eq!(held_out(0.0, 0), Vec::<usize>::new());
    assert_eq!(held_out(0.25, 3), held_out(0.25, 3));
    assert_ne!(held_out(0.25, 3), held_out(0.25, 4));
}

// effect: data.group x tune.validation, split.group_duplicates x tune.validation, tune.seed
#[test]
fn no_group_is_on_both_sides_and_no_class_is_held_out_entirely() {
    let mut random = KeyedRng::new(&[1]);
    let (mut n_different, mut n_empty) = (0, 0);
    for round in 0..200 {
        let n_samples = 12 + random.below(30);
        let groups: Vec<u32> = (0..n_samples).map(|_| random.below(9) as u32).collect();
        // Class 2 is only in group 0, and most samples of every other group have the same class.
        let labels: Vec<u32> = groups
            .iter()
            .map(|&group| {
                if group == 0 {
                    2
                } else if random.below(4) == 0 {
                    group % 2
                } else {
                    u32::from(group > 4)
                }
            })
            .collect();
        let samples = samples(&labels, Some(&groups));
        let train: Vec<usize> = (0..n_samples).collect();
        let validation = [0.2, 0.25, 0.34, 0.5][round % 4];
        let Ok(SplitIndices { train: fit, test: held_out }) =
            hold_out_split(&samples, &train, &options(validation, round as u64))
        else {
            continue;
        };
        let mut union = [fit.clone(), held_out.clone()].concat();
        union.sort_unstable();
        assert_eq!(union, train);
        let values_of =
            |rows: &[usize], values: &[u32]| rows.iter().map(|&row| values[row]).collect::<BTreeSet<_>>();
        assert!(
            values_of(&fit, &groups).is_disjoint(&values_of(&held_out, &groups)),
            "{groups:?}: {held_out:?}"
        );
        assert_eq!(
            values_of(&fit, &labels),
            values_of(&train, &labels),
            "{labels:?}, {groups:?}: {held_out:?}"
        );
        if held_out.is_empty() {
            n_empty += 1;
            continue;
        }
        let SplitIndices { test: other_held_out, .. } =
            hold_out_split(&samples, &train, &options(validation, 1000 + round as u64)).unwrap();
        n_different += usize::from(other_held_out != held_out);
    }
    // If every fold contains all of a class, nothing can be held out.
    assert!(
        n_different > 60 && n_empty < 20,
        "seeds with a different split: {n_different}; empty splits: {n_empty}"
    );
}

// effect: data.group x tune.validation
#[test]
fn with_groups_of_equal_size_a_share_of_each_class_is_held_out() {
    // Two samples per group, ten groups per class.
    let labels: Vec<u32> = (0..40).map(|row| row / 20).collect();
    let groups: Vec<u32> = (0..40).map(|row| row / 2).collect();
    let (samples, train) = (samples(&labels, Some(&groups)), (0..40).collect::<Vec<_>>());
    for (validation, expected) in
        [(0.2, [4, 4, 0, 0]), (0.1, [2, 2, 0, 0]), (0.5, [10, 10, 0, 0]), (0.9, [10, 10, 0, 0])]
    {
        for seed in [0, 7, u64::MAX] {
            let SplitIndices { test: held_out, .. } =
                hold_out_split(&samples, &train, &options(validation, seed)).unwrap();
            assert_eq!(class_counts(&held_out, &labels), expected, "{validation}, seed {seed}");
        }
    }
}

#[test]
fn with_a_validation_of_0_all_groups_are_trained_on() {
    let (labels, groups) = ([0, 1, 0, 1], [0, 0, 1, 1]);
    let found = hold_out_split(&samples(&labels, Some(&groups)), &[0, 1, 2, 3], &options(0.0, 0)).unwrap();
    assert_eq!((found.train, found.test), (vec![0, 1, 2, 3], vec![]));
}

#[test]
fn with_a_single_group_per_class_nothing_is_held_out() {
    let labels = [0, 0, 0, 1, 1, 1];
    let samples = samples(&labels, Some(&labels));
    let found = hold_out_split(&samples, &[0, 1, 2, 3, 4, 5], &options(0.5, 0)).unwrap();
    assert_eq!((found.train, found.test), (vec![0, 1, 2, 3, 4, 5], vec![]));
}

// effect: tune.class_weight
#[test]
fn class_weights_depend_on_the_training_samples_alone() {
    let labels = [0, 0, 0, 1, 1, 2, 2, 2, 2];
    let split = SplitIndices { train: vec![0, 1, 2, 3, 5, 6], test: vec![4, 7, 8] };
    let weights_with = |class_weight| {
        class_weights(&TuneOptions { class_weight, ..TuneOptions::default() }, &split, &labels, 3)
    };
    // scikit-learn's: 6 samples / (3 classes * class count of 3, 1, 2).
    assert_eq!(weights_with(headstock_heads::ClassWeight::Balanced), [6.0 / 9.0, 2.0, 1.0]);
    assert_eq!(weights_with(headstock_heads::ClassWeight::None), [1.0; 3]);
}

// effect: features.views x tune.augment, tune.augment
#[test]
fn training_samples_are_cached_in_every_view_and_held_out_ones_in_the_evaluation_view() {
    let split = SplitIndices { train: vec![0, 3], test: vec![4] };
    let views_with =
        |augment| views_to_cache(6, &split, &TuneOptions { augment, ..TuneOptions::default() }, 2);
    assert_eq!(views_with(AugmentMode::Cached), [Some(2), None, None, Some(2), Some(0), None]);
    assert_eq!(views_with(AugmentMode::PerEpoch), [None, None, None, None, Some(0), None]);
}

// effect: tune.from, tune.cache_dtype, tune.cache_gb
#[test]
fn the_split_point_is_before_the_first_trained_stage() {
    let stages = [
        FeatureLayer::Stem,
        FeatureLayer::Layer1,
        FeatureLayer::Layer2,
        FeatureLayer::Layer3,
        FeatureLayer::Layer4,
    ];
    let options = TuneOptions { cache_dtype: CacheDtype::Bf16, cache_gb: 0.25, ..TuneOptions::default() };
    let split_points = stages.map(|stage| split_point(stage, &options));
    assert!(split_points[0].is_none());
    for (found, before) in split_points[1..].iter().zip(stages) {
        let SplitPoint { layer, dtype, cache_limit } = found.unwrap();
        assert_eq!((layer, dtype, cache_limit), (before, CacheDtype::Bf16, Some(250_000_000)));
    }
    assert_eq!(split_point(FeatureLayer::Layer4, &TuneOptions::default()).unwrap().dtype, CacheDtype::F16);
}

/// Confident logits of two classes in groups of four similar rows, with labels that agree for three groups in
/// four.
fn groups_of_four(groups: usize) -> (Logits, Vec<u32>, Vec<u32>) {
    let mut random = KeyedRng::new(&[5]);
    let (mut values, mut labels, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    for group in 0..groups {
        let margin = 1.0 + 4.0 * random.uniform() as f32;
        let label = u32::from(group % 2 == 0);
        let predicted = if group % 4 < 3 { label } else { 1 - label };
        for copy in 0..4 {
            let margin = margin + 1e-3 * copy as f32;
            values.extend(if predicted == 0 { [margin, 0.0] } else { [0.0, margin] });
            labels.push(label);
            numbers.push(7 * group as u32);
        }
    }
    (Logits::new(values, 2).unwrap(), labels, numbers)
}

// effect: calibration x data.group, calibration x split.group_duplicates, calibration x tune.validation
#[test]
fn a_calibration_is_not_evaluated_on_groups_that_it_was_fitted_on() {
    let (logits, labels, groups) = groups_of_four(40);
    let isotonic = CalibrationMethod::Isotonic;
    let after = |groups: Option<&[u32]>| {
        let held_out =
            calibrate_on_held_out(isotonic, Some(&logits), &labels, groups).unwrap().held_out.unwrap();
        assert_eq!((held_out.n_samples, held_out.n_folds), (160, 1));
        (held_out.dropped, held_out.after[&LogLoss])
    };
    // Without groups, copies on the other side of a fold reveal the labels; other groups reveal nothing.
    let (dropped, log_loss) = after(None);
    assert!(dropped.is_none() && log_loss < 0.48, "{log_loss}");
    let (grouped_dropped, grouped_log_loss) = after(Some(&groups));
    assert!(
        grouped_dropped == Some(isotonic) || grouped_log_loss > 0.5,
        "{grouped_dropped:?}, {grouped_log_loss}"
    );
    // The expected result: each group is evaluated once, with a calibration of the others.
    let folds = stratified_folds(&vec![0; 160], Some(&groups), 5);
    let expected = evaluate_calibration(isotonic, &logits, &labels, &folds).unwrap().0.held_out.unwrap();
    assert_eq!((expected.dropped, expected.after[&LogLoss]), (grouped_dropped, grouped_log_loss));
    for fold in folds {
        let groups_of = |rows: &[usize]| rows.iter().map(|&row| groups[row]).collect::<BTreeSet<_>>();
        assert!(fold.test.len() == 32 && groups_of(&fold.train).is_disjoint(&groups_of(&fold.test)));
    }
}

// effect: calibration, calibration x data.group
#[test]
fn few_groups_are_one_fold_each_and_a_single_group_does_not_calibrate() {
    let (logits, labels, groups) = groups_of_four(3);
    let temperature = CalibrationMethod::Temperature;
    let result = calibrate_on_held_out(temperature, Some(&logits), &labels, Some(&groups)).unwrap();
    let folds: Vec<SplitIndices> = (0..3)
        .map(|fold| {
            let (test, train) = (0..12).partition(|row| row / 4 == fold);
            SplitIndices { train, test }
        })
        .collect();
    let expected = evaluate_calibration(temperature, &logits, &labels, &folds).unwrap().0.held_out.unwrap();
    let found = result.held_out.unwrap();
    assert_eq!((found.before, found.dropped), (expected.before, expected.dropped));
    assert!((found.after[&LogLoss] - expected.after[&LogLoss]).abs() < 1e-12);
    let one = calibrate_on_held_out(temperature, Some(&logits), &labels, Some(&[3; 12])).unwrap();
    assert!(one.held_out.is_none() && one.calibration == headstock_heads::Calibration::None);
    let none = calibrate_on_held_out(CalibrationMethod::None, Some(&logits), &labels, None).unwrap();
    assert!(none.held_out.is_none());
    assert!(calibrate_on_held_out(temperature, None, &labels, None).unwrap().held_out.is_none());
}
