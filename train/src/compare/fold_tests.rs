//! The samples that each candidate is fitted on and scored on in each fold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use headstock_split::{stratified_group_k_fold, stratified_k_fold};

use super::*;
use crate::config::Settings;
use crate::run::RunDir;
use crate::tests::recording_head::{
    FitRecord, features_settings, numbered_rows, registry_with_recording, take_fit_records, write_features,
};

/// The classes of rows: a large class, a small one, and one with two training samples, mixed.
fn classes() -> Vec<&'static str> {
    (0..60)
        .map(|row| {
            if row % 20 == 7 {
                "rare"
            } else if row % 4 == 1 {
                "some"
            } else {
                "many"
            }
        })
        .collect()
}

/// Groups of three consecutive rows, most with more than one class.
fn group_of(row: usize) -> usize {
    90 - row / 3
}

fn prepare(folder: &Path, tag: &str, grouped: bool) -> (Settings, PreparedData) {
    let group: Option<&dyn Fn(usize) -> usize> = if grouped { Some(&group_of) } else { None };
    write_features(folder, "x", &numbered_rows(&classes(), group));
    let method = if grouped { "method = \"group\"\n" } else { "" };
    let options = format!("[split]\ntest_size = 0.2\n{method}[head]\nkind = \"recording\"\ntag = \"{tag}\"");
    let settings = features_settings(folder, "x", &options);
    let prepared = PreparedData::prepare(&settings, &()).unwrap();
    (settings, prepared)
}

fn run_comparison(settings: &Settings, prepared: &PreparedData, options: &CompareOptions) -> Comparison {
    let candidates =
        candidates(settings, &registry_with_recording(), Some(&["recording".to_owned()])).unwrap();
    assert_eq!(candidates.len(), 2, "both points of the grid");
    compare(prepared, &candidates, options, &()).unwrap()
}

/// The fits of each of the two candidates, in the order of the folds.
fn fits_by_candidate(tag: &str) -> Vec<Vec<FitRecord>> {
    let mut fits = vec![Vec::new(); 2];
    for fit in take_fit_records(tag) {
        fits[fit.grid_point as usize].push(fit);
    }
    fits
}

fn train_rows(prepared: &PreparedData) -> Vec<u32> {
    prepared.train.iter().map(|&row| row as u32).collect()
}

// effect: compare --folds, compare --seed
#[test]
fn each_candidate_is_fitted_without_the_fold_that_it_is_scored_on() {
    for (folds, seed) in [(5, 0), (3, 7), (2, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let tag = format!("compare {folds} {seed}");
        let (settings, prepared) = prepare(folder.path(), &tag, false);
        let options = CompareOptions { folds, seed, ..CompareOptions::default() };
        let comparison = run_comparison(&settings, &prepared, &options);
        assert_eq!(
            (comparison.folds, comparison.seed, comparison.samples),
            (folds, seed, prepared.train.len())
        );

        let train = train_rows(&prepared);
        let labels = prepared.samples.labels(&prepared.train);
        let expected = stratified_k_fold(&labels, folds, seed).unwrap();
        for fits in fits_by_candidate(&tag) {
            assert_eq!(fits.len(), folds);
            for (fit, split) in fits.iter().zip(&expected) {
                let train_ids = |samples: &[usize]| samples.iter().map(|&i| train[i]).collect::<Vec<_>>();
                assert_eq!(fit.rows, train_ids(&split.train));
                assert_eq!(fit.queried, [train_ids(&split.test)]);
                let train_labels: Vec<u32> = split.train.iter().map(|&i| labels[i]).collect();
                assert_eq!(fit.labels, train_labels);
                // Each sample is a group.
                let groups: Vec<u32> = (0..fit.rows.len() as u32).collect();
                assert_eq!(fit.groups.as_ref(), Some(&groups));
                assert!(!fit.warm_started);
            }
        }
        // The head predicts the largest class for samples that it was not fitted on.
        let largest = labels.iter().filter(|&&label| label == 0).count() as f64 / labels.len() as f64;
        for candidate in &comparison.candidates {
            assert!((candidate.scores().unwrap().metrics[&Accuracy].value - largest).abs() < 1e-12);
        }
    }
}

// effect: compare --heads x data.group
#[test]
fn no_group_is_both_fitted_and_scored_on_and_fits_receive_the_groups() {
    let folder = tempfile::tempdir().unwrap();
    let tag = "compare groups";
    let (settings, prepared) = prepare(folder.path(), tag, true);
    let options = CompareOptions { folds: 4, seed: 3, ..CompareOptions::default() };
    let comparison = run_comparison(&settings, &prepared, &options);
    let train = train_rows(&prepared);
    let groups = prepared.samples.groups(&prepared.train).unwrap();
    let distinct = groups.iter().collect::<BTreeSet<_>>().len();
    assert_eq!(comparison.groups, Some(distinct));

    let labels = prepared.samples.labels(&prepared.train);
    let expected = stratified_group_k_fold(&labels, &groups, 4, 3).unwrap();
    for fits in fits_by_candidate(tag) {
        assert_eq!(fits.len(), 4);
        for (fit, split) in fits.iter().zip(&expected) {
            let fitted: Vec<u32> = split.train.iter().map(|&i| train[i]).collect();
            assert_eq!(fit.rows, fitted);
            let tested: BTreeSet<usize> =
                fit.queried.concat().iter().map(|&row| group_of(row as usize)).collect();
            assert!(fit.rows.iter().all(|&row| !tested.contains(&group_of(row as usize))));
            assert_groups_received(fit);
        }
        let mut queried: Vec<u32> = fits.iter().flat_map(|fit| fit.queried.concat()).collect();
        queried.sort_unstable();
        assert_eq!(queried, train, "each is scored once");
    }
}

/// Asserts that rows have the same group number if and only if they are in the same group.
fn assert_groups_received(fit: &FitRecord) {
    let received = fit.groups.as_ref().unwrap();
    let pairs: BTreeSet<(usize, u32)> =
        fit.rows.iter().map(|&row| group_of(row as usize)).zip(received.iter().copied()).collect();
    let groups: BTreeSet<usize> = fit.rows.iter().map(|&row| group_of(row as usize)).collect();
    let numbers: BTreeSet<u32> = received.iter().copied().collect();
    assert_eq!((pairs.len(), numbers.len()), (groups.len(), groups.len()));
    assert!(groups.len() > 10, "{groups:?}");
}

// effect: compare --take-best
#[test]
fn the_best_is_trained_on_the_whole_training_set_only() {
    let folder = tempfile::tempdir().unwrap();
    let tag = "compare and take";
    let (settings, mut prepared) = prepare(folder.path(), tag, false);
    let comparison = run_comparison(&settings, &prepared, &CompareOptions::default());
    take_fit_records(tag);
    let best = comparison.best().unwrap();
    let settings = settings.with_head(&best.head, &best.parameters, &registry_with_recording()).unwrap();
    let run_dir = RunDir::Named(folder.path().join("run"));
    prepared.train(&settings, None, run_dir.reserve(&settings.source).unwrap(), &()).unwrap();

    let train = train_rows(&prepared);
    let test: Vec<u32> = prepared.test.iter().map(|&row| row as u32).collect();
    let fits = take_fit_records(tag);
    // The first fit is the model; the others calibrate it.
    assert_eq!(fits[0].rows, train);
    assert_eq!(fits[0].queried, std::slice::from_ref(&test));
    assert!(fits.len() > 2, "{}", fits.len());
    let mut held_out = Vec::new();
    for fit in &fits[1..] {
        let queried = fit.all_queried();
        assert!(fit.rows.iter().all(|row| !queried.contains(row) && !test.contains(row)));
        assert_eq!(fit.rows.len() + queried.len(), train.len());
        held_out.extend(queried);
    }
    held_out.sort_unstable();
    assert_eq!(held_out, train, "each is held out once");
}

/// `C = "auto"` splits the training samples of a fold again, by groups if the data has groups.
// effect: compare --heads x data.group
#[test]
fn groups_change_what_auto_chooses_and_their_names_do_not() {
    let chosen_values = |group: Option<&dyn Fn(usize) -> usize>| {
        let folder = tempfile::tempdir().unwrap();
        let mut rows = numbered_rows(&classes(), group);
        // Three copies of each row: a head that is fitted on one predicts the others.
        for (number, row) in rows.iter_mut().enumerate() {
            let image = (number / 3) as f32;
            row.values = (0..12).map(|f| (image * (f as f32 + 1.3)).sin()).collect();
            row.class = ["a", "b"][(number / 3 * 5 % 7) % 2].to_owned();
        }
        write_features(folder.path(), "x", &rows);
        let settings = features_settings(
            folder.path(),
            "x",
            "[split]\ntest_size = 0.1\n[head]\nkind = \"ridge\"\nalpha = \"auto\"",
        );
        let prepared = PreparedData::prepare(&settings, &()).unwrap();
        let candidates =
            candidates(&settings, &registry_with_recording(), Some(&["ridge".to_owned()])).unwrap();
        let is_auto = |c: &Candidate| {
            c.to_result(CandidateStatus::LeftOut).parameters["alpha"].as_str() == Some("auto")
        };
        assert!(candidates.iter().any(is_auto));
        let comparison =
            compare(&prepared, &candidates, &CompareOptions { folds: 3, ..CompareOptions::default() }, &())
                .unwrap();
        let chosen: BTreeMap<String, Vec<f64>> = (comparison.candidates.iter())
            .flat_map(|candidate| &candidate.scores().unwrap().chosen)
            .map(|chosen| (chosen.parameter.clone(), chosen.values.clone()))
            .collect();
        assert!(chosen.values().all(|values| values.len() == 3));
        chosen
    };
    let grouped = chosen_values(Some(&|row| row / 3));
    assert_eq!(chosen_values(Some(&|row| 3 + row / 3)), grouped, "other group names in the same order");
    let ungrouped = chosen_values(Some(&|row| row));
    let lowest_alpha =
        |chosen: &BTreeMap<String, Vec<f64>>| chosen["alpha"].iter().copied().fold(f64::MAX, f64::min);
    assert!(lowest_alpha(&grouped) > lowest_alpha(&ungrouped), "{grouped:?} {ungrouped:?}");
}
