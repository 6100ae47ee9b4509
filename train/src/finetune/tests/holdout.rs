//! Which photos are learned from, which are held out, and what is calibrated by those.

use std::collections::BTreeSet;

use headstock_heads::KeyedRng;
use headstock_loader::{ClassMap, ClassOrder};

use super::*;
use crate::samples::{SampleRow, Subset};

/// Samples with such labels and groups.
fn samples(labels: &[u32], groups: Option<&[u32]>) -> SampleSet {
    let row = |(number, &label): (usize, &u32)| {
        let group = groups.map(|groups| groups[number]);
        SampleRow { id: number.to_string(), label, group, subset: Subset::Train }
    };
    let classes = ClassMap::new(["a", "b", "c", "d"], ClassOrder::Sorted);
    SampleSet { classes, rows: labels.iter().enumerate().map(row).collect() }
}

fn options(validation: f64, seed: u64) -> TuneOptions {
    TuneOptions { validation, seed, ..TuneOptions::default() }
}

fn class_counts(rows: &[usize], labels: &[u32]) -> [usize; 4] {
    [0, 1, 2, 3].map(|class| rows.iter().filter(|&&row| labels[row] == class).count())
}

// effect: tune.validation, tune.seed
#[test]
fn of_each_class_its_share_is_held_out_and_never_the_last_photo() {
    let labels = [vec![0; 20], vec![1; 9], vec![2; 2], vec![3]].concat();
    // The training part is every other row of a data set.
    let (all, train): (Vec<u32>, Vec<usize>) = (
        labels.iter().flat_map(|&label| [label, 0]).collect(),
        (0..labels.len()).map(|row| 2 * row).collect(),
    );
    let samples = samples(&all, None);
    let held_out = |validation, seed| {
        let HoldoutSplit { fit, held_out } =
            hold_out_split(&samples, &train, &options(validation, seed)).unwrap();
        let mut both = [fit, held_out.clone()].concat();
        both.sort_unstable();
        assert_eq!(both, train);
        held_out
    };
    assert_eq!(class_counts(&held_out(0.25, 0), &all), [5, 2, 1, 0]);
    assert_eq!(class_counts(&held_out(0.1, 0), &all), [2, 1, 0, 0]);
    assert_eq!(class_counts(&held_out(0.99, 0), &all), [19, 8, 1, 0]);
    assert_eq!(held_out(0.0, 0), Vec::<usize>::new());
    assert_eq!(held_out(0.25, 3), held_out(0.25, 3));
    assert_ne!(held_out(0.25, 3), held_out(0.25, 4));
}

// effect: data.group x tune.validation, split.group_duplicates x tune.validation, tune.seed
#[test]
fn no_group_is_on_both_sides_and_no_class_is_held_out_whole() {
    let mut random = KeyedRng::new(&[1]);
    let (mut others, mut empty) = (0, 0);
    for round in 0..200 {
        let photos = 12 + random.below(30);
        let groups: Vec<u32> = (0..photos).map(|_| random.below(9) as u32).collect();
        // Class 2 is of group 0 alone, and every group has one of the classes in most of its photos.
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
        let train: Vec<usize> = (0..photos).collect();
        let validation = [0.2, 0.25, 0.34, 0.5][round % 4];
        let Ok(HoldoutSplit { fit, held_out }) =
            hold_out_split(&samples, &train, &options(validation, round as u64))
        else {
            continue;
        };
        let mut both = [fit.clone(), held_out.clone()].concat();
        both.sort_unstable();
        assert_eq!(both, train);
        let of =
            |rows: &[usize], values: &[u32]| rows.iter().map(|&row| values[row]).collect::<BTreeSet<_>>();
        assert!(of(&fit, &groups).is_disjoint(&of(&held_out, &groups)), "{groups:?}: {held_out:?}");
        assert_eq!(of(&fit, &labels), of(&train, &labels), "{labels:?}, {groups:?}: {held_out:?}");
        if held_out.is_empty() {
            empty += 1;
            continue;
        }
        let HoldoutSplit { held_out: other, .. } =
            hold_out_split(&samples, &train, &options(validation, 1000 + round as u64)).unwrap();
        others += usize::from(other != held_out);
    }
    // Where each fold has a class whole, nothing can be held out.
    assert!(
        others > 60 && empty < 20,
        "another seed holds out others: {others}; nothing is held out: {empty}"
    );
}

// effect: data.group x tune.validation
#[test]
fn of_groups_of_one_size_a_share_of_each_class_is_held_out() {
    // Two photos a group, ten groups a class.
    let labels: Vec<u32> = (0..40).map(|row| row / 20).collect();
    let groups: Vec<u32> = (0..40).map(|row| row / 2).collect();
    let (samples, train) = (samples(&labels, Some(&groups)), (0..40).collect::<Vec<_>>());
    for (validation, expected) in
        [(0.2, [4, 4, 0, 0]), (0.1, [2, 2, 0, 0]), (0.5, [10, 10, 0, 0]), (0.9, [10, 10, 0, 0])]
    {
        for seed in [0, 7, u64::MAX] {
            let HoldoutSplit { held_out, .. } =
                hold_out_split(&samples, &train, &options(validation, seed)).unwrap();
            assert_eq!(class_counts(&held_out, &labels), expected, "{validation}, seed {seed}");
        }
    }
}

#[test]
fn with_a_validation_of_0_all_groups_are_learned_from() {
    let (labels, groups) = ([0, 1, 0, 1], [0, 0, 1, 1]);
    let found = hold_out_split(&samples(&labels, Some(&groups)), &[0, 1, 2, 3], &options(0.0, 0)).unwrap();
    assert_eq!((found.fit, found.held_out), (vec![0, 1, 2, 3], vec![]));
}

#[test]
fn where_each_class_is_one_group_nothing_is_held_out() {
    let labels = [0, 0, 0, 1, 1, 1];
    let samples = samples(&labels, Some(&labels));
    let found = hold_out_split(&samples, &[0, 1, 2, 3, 4, 5], &options(0.5, 0)).unwrap();
    assert_eq!((found.fit, found.held_out), (vec![0, 1, 2, 3, 4, 5], vec![]));
}

// effect: tune.class_weight
#[test]
fn classes_are_weighed_by_the_photos_that_are_learned_from_alone() {
    let labels = [0, 0, 0, 1, 1, 2, 2, 2, 2];
    let parts = HoldoutSplit { fit: vec![0, 1, 2, 3, 5, 6], held_out: vec![4, 7, 8] };
    let of = |class_weight| {
        class_weights(&TuneOptions { class_weight, ..TuneOptions::default() }, &parts, &labels, 3)
    };
    // scikit-learn's: 6 photos over 3 classes times 3, 1 and 2 photos.
    assert_eq!(of(headstock_heads::ClassWeight::Balanced), [6.0 / 9.0, 2.0, 1.0]);
    assert_eq!(of(headstock_heads::ClassWeight::None), [1.0; 3]);
}

// effect: features.views x tune.views, tune.views
#[test]
fn what_is_learned_from_is_kept_in_every_view_and_what_is_held_out_in_the_plain_one() {
    let parts = HoldoutSplit { fit: vec![0, 3], held_out: vec![4] };
    let of = |views| views_to_cache(6, &parts, &TuneOptions { views, ..TuneOptions::default() }, 2);
    assert_eq!(of(AugmentMode::Kept), [Some(2), None, None, Some(2), Some(0), None]);
    assert_eq!(of(AugmentMode::Fresh), [None, None, None, None, Some(0), None]);
}

// effect: tune.from, tune.keep, tune.space
#[test]
fn the_frozen_part_ends_before_the_first_stage_that_is_tuned() {
    let stages = [
        FeatureLayer::Stem,
        FeatureLayer::Layer1,
        FeatureLayer::Layer2,
        FeatureLayer::Layer3,
        FeatureLayer::Layer4,
    ];
    let options = TuneOptions { keep: CacheDtype::Bf16, space: 0.25, ..TuneOptions::default() };
    let cuts = stages.map(|stage| split_point(stage, &options));
    assert!(cuts[0].is_none());
    for (cut, before) in cuts[1..].iter().zip(stages) {
        let SplitPoint { layer, dtype: kept, cache_limit: limit } = cut.unwrap();
        assert_eq!((layer, kept, limit), (before, HalfPrecision::Bf16, Some(250_000_000)));
    }
    assert_eq!(split_point(FeatureLayer::Layer4, &TuneOptions::default()).unwrap().dtype, HalfPrecision::F16);
}

/// Confident logits of two classes, and a label for each four of them: right for three in four.
fn groups_of_four(groups: usize) -> (Logits, Vec<u32>, Vec<u32>) {
    let mut random = KeyedRng::new(&[5]);
    let (mut values, mut labels, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    for group in 0..groups {
        let margin = 1.0 + 4.0 * random.uniform() as f32;
        let label = u32::from(group % 2 == 0);
        let said = if group % 4 < 3 { label } else { 1 - label };
        for copy in 0..4 {
            let margin = margin + 1e-3 * copy as f32;
            values.extend(if said == 0 { [margin, 0.0] } else { [0.0, margin] });
            labels.push(label);
            numbers.push(7 * group as u32);
        }
    }
    (Logits::new(values, 2).unwrap(), labels, numbers)
}

// effect: calibration x data.group, calibration x split.group_duplicates, calibration x tune.validation
#[test]
fn a_calibration_is_not_judged_by_photos_of_groups_that_it_was_fitted_on() {
    let (logits, labels, groups) = groups_of_four(40);
    let isotonic = CalibrationMethod::Isotonic;
    let after = |groups: Option<&[u32]>| {
        let held_out =
            calibrate_on_held_out(isotonic, Some(&logits), &labels, groups).unwrap().held_out.unwrap();
        assert_eq!((held_out.n_samples, held_out.n_folds), (160, 1));
        (held_out.dropped, held_out.after.log_loss)
    };
    // Copies on the other side tell the steps where each group's label is; the groups of others tell nothing.
    let (dropped, log_loss) = after(None);
    assert!(dropped.is_none() && log_loss < 0.48, "{log_loss}");
    let (apart, crossed) = after(Some(&groups));
    assert!(apart == Some(isotonic) || crossed > 0.5, "{apart:?}, {crossed}");
    // All that is known of the figures: each group once, by what the others give.
    let folds = stratified_folds(&vec![0; 160], Some(&groups), 5);
    let by_hand = evaluate_calibration(isotonic, &logits, &labels, &folds).unwrap().held_out.unwrap();
    assert_eq!((by_hand.dropped, by_hand.after.log_loss), (apart, crossed));
    for fold in folds {
        let of = |rows: &[usize]| rows.iter().map(|&row| groups[row]).collect::<BTreeSet<_>>();
        assert!(fold.held_out.len() == 32 && of(&fold.fit).is_disjoint(&of(&fold.held_out)));
    }
}

// effect: calibration, calibration x data.group
#[test]
fn of_few_groups_each_is_a_fold_and_of_one_nothing_is_calibrated() {
    let (logits, labels, groups) = groups_of_four(3);
    let temperature = CalibrationMethod::Temperature;
    let calibrated = calibrate_on_held_out(temperature, Some(&logits), &labels, Some(&groups)).unwrap();
    let folds: Vec<Fold> = (0..3)
        .map(|fold| {
            let (held_out, fit) = (0..12).partition(|row| row / 4 == fold);
            Fold { fit, held_out }
        })
        .collect();
    let expected = evaluate_calibration(temperature, &logits, &labels, &folds).unwrap().held_out.unwrap();
    let found = calibrated.held_out.unwrap();
    assert_eq!((found.before, found.dropped), (expected.before, expected.dropped));
    assert!((found.after.log_loss - expected.after.log_loss).abs() < 1e-12);
    let one = calibrate_on_held_out(temperature, Some(&logits), &labels, Some(&[3; 12])).unwrap();
    assert!(one.held_out.is_none() && one.calibration == headstock_heads::Calibration::None);
    let none = calibrate_on_held_out(CalibrationMethod::None, Some(&logits), &labels, None).unwrap();
    assert!(none.held_out.is_none());
    assert!(calibrate_on_held_out(temperature, None, &labels, None).unwrap().held_out.is_none());
}
