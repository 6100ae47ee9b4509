//! Changes of the data that must or must not change a model.

use std::fs;

use headstock_heads::{FeatureMatrix, Registry};

use super::*;
use crate::config::Registries;
use crate::metrics::{Accuracy, LogLoss};
use crate::samples::Subset;

/// The bytes of a run's model.
fn model_bytes(folder: &TestFolder, name: &str) -> Vec<u8> {
    fs::read(folder.path(name).join("model.safetensors")).unwrap()
}

/// Rows of three classes with four features.
fn three_class_blobs(seed: u64, rows: usize) -> (Vec<Vec<f32>>, Vec<u32>) {
    let mut noise = noise(seed);
    let labels: Vec<u32> = (0..rows).map(|row| (row % 3) as u32).collect();
    let features = labels
        .iter()
        .map(|&label| (0..4).map(|column| noise() + 0.4 * f32::from(u8::from(column == label))).collect())
        .collect();
    (features, labels)
}

const HASH_SPLIT: [&str; 2] = ["split.method=hash", "split.test_size=0.3"];

#[test]
fn test_rows_and_test_labels_do_not_change_the_model() {
    let (rows, labels) = three_class_blobs(1, 60);
    let folder = TestFolder::new();
    folder.write_features(&rows, &labels, None);
    let tested = folder.samples(FEATURES_CONFIG, &HASH_SPLIT).0.rows_of(Subset::Test);
    assert!((10..30).contains(&tested.len()));
    let (mut other_rows, mut other_labels) = (rows.clone(), labels.clone());
    for &row in &tested {
        other_rows[row].iter_mut().for_each(|value| *value = 3.0 - *value);
        other_labels[row] = (labels[row] + 1) % 3;
    }
    let heads = Registry::builtin();
    let mut kinds: Vec<String> = heads.iter().map(|head| format!("head.kind={}", head.name())).collect();
    kinds.extend(["head.C=auto", "head.solver=adam"].map(String::from));
    assert_eq!(kinds.len(), 10);
    for (number, kind) in kinds.iter().enumerate() {
        let quick: &[&str] = match kind.as_str() {
            "head.kind=mlp" | "head.kind=cosine" | "head.solver=adam" => &["head.epochs=5"],
            _ => &[],
        };
        let set = [&[kind.as_str()], quick, &HASH_SPLIT].concat();
        let train = |name: &str, rows: &[Vec<f32>], labels: &[u32]| {
            folder.write_features(rows, labels, None);
            let name = format!("{number}-{name}");
            let metrics = train_to(&folder, &folder.settings(FEATURES_CONFIG, &set), &name).metrics;
            (model_bytes(&folder, &name), metrics)
        };
        let (first, metrics) = train("first", &rows, &labels);
        let (model_of_rows, metrics_of_rows) = train("rows", &other_rows, &labels);
        let (model_of_labels, metrics_of_labels) = train("labels", &rows, &other_labels);
        assert!(first == model_of_rows && first == model_of_labels, "{kind}");
        assert_ne!(metrics.test[&LogLoss], metrics_of_rows.test[&LogLoss], "{kind}");
        assert_ne!(metrics.test[&LogLoss], metrics_of_labels.test[&LogLoss], "{kind}");
        // The metrics of the training set are the same.
        let held_out = |metrics: &RunMetrics| metrics.calibration.as_ref().map(|c| c.out_of_fold.clone());
        assert!(held_out(&metrics).is_some());
        assert_eq!(held_out(&metrics), held_out(&metrics_of_rows), "{kind}");
        // Another training row gives another model.
        let trained = (0..60).find(|row| !tested.contains(row)).unwrap();
        let mut third_rows = rows.clone();
        third_rows[trained][0] += 1.0;
        assert!(train("third", &third_rows, &labels).0 != first, "{kind}");
    }
}

/// The logits of a run for these features.
fn logits(folder: &TestFolder, name: &str, rows: &[Vec<f32>]) -> Vec<f32> {
    let run = Run::open(&folder.path(name), &Registries::builtin()).unwrap();
    run.model
        .head
        .logits(FeatureMatrix::new(&rows.concat(), rows[0].len()).unwrap())
        .unwrap()
        .as_slice()
        .to_vec()
}

#[test]
fn renaming_classes_changes_only_names_and_order() {
    let (rows, labels) = three_class_blobs(2, 45);
    let folder = TestFolder::new();
    for kind in ["nearest-mean", "ridge", "lda"] {
        // Folds are assigned class by class, so another class order gives other folds.
        let head = format!("head.kind={kind}");
        let set = [&[head.as_str(), "calibration=none"][..], &HASH_SPLIT].concat();
        let train = |name: &str, rename: [u32; 3]| {
            let renamed: Vec<u32> = labels.iter().map(|&label| rename[label as usize]).collect();
            folder.write_features(&rows, &renamed, None);
            let name = format!("{kind}-{name}");
            let metrics = train_to(&folder, &folder.settings(FEATURES_CONFIG, &set), &name).metrics;
            (metrics.test, logits(&folder, &name, &rows))
        };
        let (original, logits) = train("plain", [0, 1, 2]);
        // Names in the same order.
        let (same, renamed) = train("renamed", [10, 11, 12]);
        assert_eq!(same, original, "{kind}");
        assert_eq!(renamed, logits, "{kind}");
        // The last class comes first now.
        let (rotated, rotated_logits) = train("turned", [8, 9, 7]);
        assert_eq!(rotated[&Accuracy], original[&Accuracy], "{kind}");
        assert!((rotated[&LogLoss] - original[&LogLoss]).abs() < 1e-6, "{kind}");
        for (before, after) in logits.chunks(3).zip(rotated_logits.chunks(3)) {
            for (before, after) in before.iter().zip([after[1], after[2], after[0]]) {
                assert!((before - after).abs() < 1e-4, "{kind}: {before} {after}");
            }
        }
    }
}

#[test]
fn copied_training_rows_count_twice_and_copies_of_all_rows_change_nothing() {
    // Integers, so that sums are exact.
    let rows: Vec<Vec<f32>> = [[0, 4], [2, 8], [9, 1], [7, 3], [0, 0], [9, 9]]
        .map(|row: [u8; 2]| row.map(f32::from).to_vec())
        .to_vec();
    let labels = [0, 0, 1, 1, 0, 1];
    let folder = TestFolder::new();
    let test = |name: &str, copies: [usize; 6]| {
        let repeated = |row: usize| std::iter::repeat_n(row, copies[row]);
        let picked: Vec<usize> = (0..6).flat_map(repeated).collect();
        let features: Vec<Vec<f32>> = picked.iter().map(|&row| rows[row].clone()).collect();
        let labels: Vec<u32> = picked.iter().map(|&row| labels[row]).collect();
        folder.write_features(&features, &labels, None);
        // With ridge a copy counts as one more row; `alpha` is negligible.
        let set = ["head.kind=ridge", "head.alpha=0.000001", "split.test_size=2", "calibration=none"];
        let settings = folder.settings(FEATURES_CONFIG, &set);
        let samples = SampleSet::read(&settings, &()).unwrap().0;
        let fitted = samples.rows_of(Subset::Train).into_iter().map(|row| picked[row]).collect::<Vec<_>>();
        train_to(&folder, &settings, name);
        (fitted, logits(&folder, name, &rows))
    };
    let (fitted, once) = test("once", [1; 6]);
    assert_eq!(fitted.len(), 4);
    assert_eq!(once.len(), 12);
    // Least squares to targets ±1 by the normal equations.
    let solve = |rows_used: &[usize], row: &[f32]| {
        let mut sums = [[0.0f64; 4]; 3];
        for &used in rows_used {
            let x = [1.0, f64::from(rows[used][0]), f64::from(rows[used][1])];
            let y = if labels[used] == 1 { 1.0 } else { -1.0 };
            for i in 0..3 {
                (0..3).for_each(|j| sums[i][j] += x[i] * x[j]);
                sums[i][3] += x[i] * y;
            }
        }
        for i in 0..3 {
            let pivot = sums[i];
            for j in (0..3).filter(|&j| j != i) {
                let factor = sums[j][i] / pivot[i];
                (0..4).for_each(|k| sums[j][k] -= factor * pivot[k]);
            }
        }
        let weight: Vec<f64> = (0..3).map(|i| sums[i][3] / sums[i][i]).collect();
        weight[0] + weight[1] * f64::from(row[0]) + weight[2] * f64::from(row[1])
    };
    for copies in [[1; 6], [3; 6], [1, 2, 1, 4, 1, 1]] {
        let (fitted, found) = test(&format!("{copies:?}"), copies);
        for (row, logits) in rows.iter().zip(found.chunks(2)) {
            let expected = solve(&fitted, row);
            let margin = f64::from(logits[1] - logits[0]) / 2.0;
            assert!((margin - expected).abs() < 1e-3, "{copies:?}: {margin} {expected}");
        }
    }
}

// effect: data.folder
#[test]
fn file_creation_order_and_location_change_nothing() {
    let run_files = |order: &[u8]| {
        let folder = TestFolder::new();
        for &i in order {
            folder.write_gray(&format!("photos/{}/{i}.png", ["a", "b"][usize::from(i % 2)]), 12 * i);
        }
        folder.write_backbone("backbone");
        let config = "[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\nlayer = \"stem\"\n\
                      [split]\ntest_size = 0.25\n[head]\nkind = \"nearest-mean\"\n";
        let outcome = train_to(&folder, &folder.settings(config, &[] as &[&str]), "run");
        assert_eq!(outcome.metrics.counts.computed, 16);
        let read = |name: &str| fs::read(folder.path("run").join(name)).unwrap();
        ["model.safetensors", "split.csv", "predictions.csv"].map(read)
    };
    let ascending: Vec<u8> = (0..16).collect();
    let descending: Vec<u8> = (0..16).rev().collect();
    assert!(run_files(&ascending) == run_files(&descending));
}
