//! Runs without a test set, whose figures are those of a cross-validation.

#![expect(clippy::unwrap_used, reason = "test helpers may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;

use headstock_split::{stratified_group_k_fold, stratified_k_fold};

use crate::support::{Project, parse_csv};

/// A point in the plane with its class and group.
struct Point {
    xy: [f64; 2],
    class: u32,
    group: u32,
}

/// Three overlapping clouds of 20 points, four points of each group.
fn points() -> Vec<Point> {
    let mut state = 12_345_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 24)
    };
    (0..60)
        .map(|number| {
            let class = number % 3;
            let center = [[0.0, 0.0], [1.0, 0.2], [0.3, 1.0]][class as usize];
            let xy = center.map(|value: f64| ((value + 1.4 * random()) * 1024.0).round() / 1024.0);
            Point { xy, class, group: number / 12 * 3 + class }
        })
        .collect()
}

/// A project whose features are the points: `x.npy`, with their classes and groups beside it.
fn project(points: &[Point], has_groups: bool) -> Project {
    let project = Project::empty();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, 2), }}", points.len());
    let header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(header.bytes());
    bytes.extend(points.iter().flat_map(|point| point.xy.map(|value| (value as f32).to_le_bytes()).concat()));
    fs::write(project.path("x.npy"), bytes).unwrap();
    let mut table = String::from(if has_groups { "class,group\n" } else { "class\n" });
    for Point { class, group, .. } in points {
        let group = if has_groups { format!(",g{group:02}") } else { String::new() };
        writeln!(table, "c{class}{group}").unwrap();
    }
    project.write("x.csv", &table);
    project.write("headstock.toml", "version = 1\n[data]\nfeatures = \"x.npy\"\n");
    project
}

/// The nearest of the other points for each point outside its fold, by comparing all pairs.
fn nearest_outside_the_fold(points: &[Point], folds: &[Vec<usize>]) -> Vec<u32> {
    let mut predicted = vec![u32::MAX; points.len()];
    for fold in folds {
        for &tested in fold {
            let distance = |i: &usize| {
                let [dx, dy] = [0, 1].map(|axis| points[*i].xy[axis] - points[tested].xy[axis]);
                dx * dx + dy * dy
            };
            let others = (0..points.len()).filter(|i| !fold.contains(i));
            let nearest = others.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap();
            predicted[tested] = points[nearest].class;
        }
    }
    predicted
}

fn macro_f1(labels: &[u32], predicted: &[u32]) -> f64 {
    let f1 = |class: u32| {
        let pairs = || labels.iter().zip(predicted);
        let both = pairs().filter(|(a, b)| **a == class && **b == class).count() as f64;
        let either = pairs().map(|(a, b)| usize::from(*a == class) + usize::from(*b == class)).sum::<usize>();
        2.0 * both / either as f64
    };
    (0..3).map(f1).sum::<f64>() / 3.0
}

/// Folds of the points, as lists of the points that each tests.
fn folds_of_points(points: &[Point], n_folds: usize, seed: u32, has_groups: bool) -> Vec<Vec<usize>> {
    let labels: Vec<u32> = points.iter().map(|point| point.class).collect();
    let groups: Vec<u32> = points.iter().map(|point| point.group).collect();
    let folds = if has_groups {
        stratified_group_k_fold(&labels, &groups, n_folds, seed)
    } else {
        stratified_k_fold(&labels, n_folds, seed)
    };
    folds.unwrap().into_iter().map(|fold| fold.test).collect()
}

const NEAREST: [&str; 4] = ["--head", "knn", "--set", "head.k=1"];

// effect: train --folds
// effect: split.test_size
// effect: split.folds
#[test]
fn figures_without_a_test_set_are_those_of_predictions_out_of_fold() {
    let points = points();
    for (has_groups, n_folds, seed) in [(false, 4, 0), (false, 5, 7), (true, 3, 1)] {
        let project = project(&points, has_groups);
        let (folds, seed_set) = (n_folds.to_string(), format!("split.seed={seed}"));
        let arguments = ["train", "--run", "run", "--folds", &folds, "--set", &seed_set, "--json"];
        let output = project.run(&[&arguments[..], &NEAREST].concat()).ok();
        let json = output.json();
        let expected =
            nearest_outside_the_fold(&points, &folds_of_points(&points, n_folds, seed, has_groups));
        let labels: Vec<u32> = points.iter().map(|point| point.class).collect();
        let n_correct = labels.iter().zip(&expected).filter(|(a, b)| a == b).count();
        let close = |key: &str, expected: f64| {
            let found = json[key].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-9, "{key}: {found}, {expected}");
        };
        close("top1", n_correct as f64 / 60.0);
        close("macro_f1", macro_f1(&labels, &expected));
        // A prediction for every photo, in the order of the data.
        let predictions = parse_csv(&project.read("run/predictions.csv"));
        let predicted: Vec<&str> = predictions.iter().map(|row| row["predicted"].as_str()).collect();
        assert_eq!(predicted, expected.iter().map(|class| format!("c{class}")).collect::<Vec<_>>());
        // All are trained on, and none is a test photo.
        assert_eq!((json["counts"]["train"].as_u64(), json["counts"]["test"].as_u64()), (Some(60), Some(0)));
        let split = parse_csv(&project.read("run/split.csv"));
        assert!(split.len() == 60 && split.iter().all(|row| row["split"] == "train"));
        let summary = &json["cross_validation"];
        assert_eq!(
            (summary["folds"].as_u64(), summary["samples"].as_u64()),
            (Some(n_folds as u64), Some(60))
        );
        assert_eq!(summary["groups"].as_u64(), has_groups.then_some(15));
        for key in ["top1", "macro_f1"] {
            let bound = |name: &str| summary["intervals"][key][name].as_f64().unwrap();
            let value = json[key].as_f64().unwrap();
            assert!(bound("low") < value && value < bound("high"), "{summary}");
            // The standard error of a fraction of 60 photos is about 0.06; groups of four widen it.
            let width = bound("high") - bound("low");
            assert!((0.12..0.45).contains(&width), "{width}");
        }
        let coverage = json["conformal"]["aps"]["coverage"].as_f64().unwrap();
        assert!((0.7..=1.0).contains(&coverage), "{coverage}");
        let text = project.run(&[&["train", "--folds", &folds][..], &NEAREST].concat()).ok().stdout;
        let unit = if has_groups { " of 15 groups" } else { "" };
        let line = format!(
            "trained on 60 photos, no test set: the figures are those of {folds}-fold cross-validation{unit}"
        );
        assert!(text.contains(&line) && text.contains("95 % confidence intervals: accuracy 0."), "{text}");
    }
}

#[test]
fn the_head_of_a_run_without_a_test_set_knows_all_images() {
    let points = points();
    let project = project(&points, false);
    project.run(&[&["train", "--run", "run", "--folds", "4"][..], &NEAREST].concat()).ok();
    // Each point is its own nearest neighbor among all.
    let sets = ["split.test_size=0.5", "split.method=stratified-k-fold"];
    let json = project.run(&["evaluate", "run", "--set", sets[0], "--set", sets[1], "--json"]).ok().json();
    assert_eq!(json["top1"].as_f64(), Some(1.0));
    assert_eq!(json["trained_on"]["samples"].as_u64(), Some(15));
    let error = "the run has no test set: all photos were trained on";
    project.run(&["evaluate", "run"]).fails(3, &[error]);
    assert!(project.read("run/report.html").contains("Cross-validation"));
}

#[test]
fn classes_that_a_fold_takes_whole_and_fine_tuning_are_refused() {
    let mut points = points();
    points.truncate(31);
    for (number, point) in points.iter_mut().enumerate() {
        point.class = if number == 30 { 2 } else { number as u32 % 2 };
    }
    let few = project(&points, false);
    few.run(&["train", "--folds", "3"]).fails(
        3,
        &[
            "all photos of class `c2` are in one fold of the cross-validation",
            "leave the class out, or choose a test set",
        ],
    );
    few.run(&["train", "--folds", "40"]).fails(3, &["lower `--folds`"]);
    few.run(&["train", "--folds", "1"]).fails(2, &["--folds"]);
    let project = Project::new(4);
    project
        .run(&["train", "--folds", "2", "--set", "tune.from=layer4"])
        .fails(2, &["`tune.from` cannot be used with `split.test_size = 0`"]);
}

#[test]
fn images_of_a_given_test_set_are_trained_on_too() {
    let project = Project::new(6);
    project.add_new_images("more", 10);
    let arguments = ["train", "--run", "run", "--set", "data.test_folder=more", "--folds", "2"];
    let json = project.run(&[&arguments[..], &["--json"]].concat()).ok().json();
    assert_eq!((json["counts"]["train"].as_u64(), json["counts"]["test"].as_u64()), (Some(21), Some(0)));
    let paths: BTreeSet<String> = parse_csv(&project.read("run/predictions.csv"))
        .into_iter()
        .map(|mut row| row.remove("path").unwrap())
        .collect();
    assert_eq!(paths.len(), 21);
    let by_class = parse_csv(&project.read("run/predictions.csv")).into_iter().fold(
        BTreeMap::<String, usize>::new(),
        |mut counts, row| {
            *counts.entry(row["label"].clone()).or_default() += 1;
            counts
        },
    );
    assert!(by_class.values().all(|&count| count == 7), "{by_class:?}");
}
