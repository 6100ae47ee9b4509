//! What each candidate is fitted on in each fold, and what it is judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use headstock_loader::{stratified_group_k_fold, stratified_k_fold};

use super::*;
use crate::config::Settings;
use crate::recording::{Noted, notes, numbered, registry, settings, write};
use crate::run::RunPlace;

/// Rows of a large class, a small one and one with two training photos, mixed.
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

/// Groups of three neighbours, with more than one class in most.
fn of_three(row: usize) -> usize {
    90 - row / 3
}

fn prepared(folder: &Path, tag: &str, grouped: bool) -> (Settings, Prepared) {
    let group: Option<&dyn Fn(usize) -> usize> = if grouped { Some(&of_three) } else { None };
    write(folder, "x", &numbered(&classes(), group));
    let method = if grouped { "method = \"group\"\n" } else { "" };
    let more = format!("[split]\ntest_size = 0.2\n{method}[head]\nkind = \"recording\"\ntag = \"{tag}\"");
    let settings = settings(folder, "x", &more);
    let prepared = Prepared::new(&settings, &()).unwrap();
    (settings, prepared)
}

fn compared(settings: &Settings, prepared: &Prepared, plan: &Plan) -> Comparison {
    let candidates = candidates(settings, &registry(), Some(&["recording".to_owned()])).unwrap();
    assert_eq!(candidates.len(), 2, "both points of its grid");
    compare(prepared, &candidates, plan, &()).unwrap()
}

/// The fits of each candidate, in the order of the folds.
fn by_point(tag: &str) -> Vec<Vec<Noted>> {
    let mut points = vec![Vec::new(); 2];
    for noted in notes(tag) {
        points[noted.point as usize].push(noted);
    }
    points
}

fn rows(prepared: &Prepared) -> Vec<u32> {
    prepared.train.iter().map(|&row| row as u32).collect()
}

// effect: compare --folds, compare --seed
#[test]
fn every_candidate_is_fitted_on_all_folds_but_the_one_that_it_is_judged_by() {
    for (folds, seed) in [(5, 0), (3, 7), (2, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let tag = format!("compare {folds} {seed}");
        let (settings, prepared) = prepared(folder.path(), &tag, false);
        let plan = Plan { folds, seed, ..Plan::default() };
        let comparison = compared(&settings, &prepared, &plan);
        assert_eq!(
            (comparison.folds, comparison.seed, comparison.samples),
            (folds, seed, prepared.train.len())
        );

        let train = rows(&prepared);
        let labels = prepared.samples.labels(&prepared.train);
        let expected = stratified_k_fold(&labels, folds, seed).unwrap();
        for fits in by_point(&tag) {
            assert_eq!(fits.len(), folds);
            for (noted, split) in fits.iter().zip(&expected) {
                let of = |part: &[usize]| part.iter().map(|&i| train[i]).collect::<Vec<_>>();
                assert_eq!(noted.rows, of(&split.train));
                assert_eq!(noted.asked, [of(&split.test)]);
                let own: Vec<u32> = split.train.iter().map(|&i| labels[i]).collect();
                assert_eq!(noted.labels, own);
                // Each photo is a group of its own.
                let groups: Vec<u32> = (0..noted.rows.len() as u32).collect();
                assert_eq!(noted.groups.as_ref(), Some(&groups));
                assert!(!noted.warm);
            }
        }
        // It knows nothing of what it was not fitted on: all are taken for the largest class.
        let largest = labels.iter().filter(|&&label| label == 0).count() as f64 / labels.len() as f64;
        for entry in &comparison.candidates {
            assert!((entry.judged().unwrap().accuracy.value - largest).abs() < 1e-12);
        }
    }
}

// effect: compare --heads x data.group
#[test]
fn no_group_is_both_fitted_on_and_judged_by_and_a_fit_is_told_of_the_groups() {
    let folder = tempfile::tempdir().unwrap();
    let tag = "compare groups";
    let (settings, prepared) = prepared(folder.path(), tag, true);
    let plan = Plan { folds: 4, seed: 3, ..Plan::default() };
    let comparison = compared(&settings, &prepared, &plan);
    let train = rows(&prepared);
    let groups = prepared.samples.groups(&prepared.train).unwrap();
    let distinct = groups.iter().collect::<BTreeSet<_>>().len();
    assert_eq!(comparison.groups, Some(distinct));

    let labels = prepared.samples.labels(&prepared.train);
    let expected = stratified_group_k_fold(&labels, &groups, 4, 3).unwrap();
    for fits in by_point(tag) {
        assert_eq!(fits.len(), 4);
        for (noted, split) in fits.iter().zip(&expected) {
            let fitted: Vec<u32> = split.train.iter().map(|&i| train[i]).collect();
            assert_eq!(noted.rows, fitted);
            let tested: BTreeSet<usize> =
                noted.asked.concat().iter().map(|&row| of_three(row as usize)).collect();
            assert!(noted.rows.iter().all(|&row| !tested.contains(&of_three(row as usize))));
            tells_the_groups(noted);
        }
        let mut asked: Vec<u32> = fits.iter().flat_map(|noted| noted.asked.concat()).collect();
        asked.sort_unstable();
        assert_eq!(asked, train, "each is judged by once");
    }
}

/// Rows have the same number where they are of the same group, and only there.
fn tells_the_groups(noted: &Noted) {
    let told = noted.groups.as_ref().unwrap();
    let pairs: BTreeSet<(usize, u32)> =
        noted.rows.iter().map(|&row| of_three(row as usize)).zip(told.iter().copied()).collect();
    let groups: BTreeSet<usize> = noted.rows.iter().map(|&row| of_three(row as usize)).collect();
    let numbers: BTreeSet<u32> = told.iter().copied().collect();
    assert_eq!((pairs.len(), numbers.len()), (groups.len(), groups.len()));
    assert!(groups.len() > 10, "{groups:?}");
}

// effect: compare --take-best
#[test]
fn the_best_is_trained_on_the_whole_training_part_and_on_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let tag = "compare and take";
    let (settings, mut prepared) = prepared(folder.path(), tag, false);
    let comparison = compared(&settings, &prepared, &Plan::default());
    notes(tag);
    let best = comparison.best().unwrap();
    let settings = settings.with_head(&best.head, &best.parameters, &registry()).unwrap();
    let place = RunPlace::Named(folder.path().join("run"));
    prepared.train(&settings, None, place.reserve(&settings.source).unwrap(), &()).unwrap();

    let train = rows(&prepared);
    let test: Vec<u32> = prepared.test.iter().map(|&row| row as u32).collect();
    let noted = notes(tag);
    // What is judged at the end is the first fit; the others calibrate it.
    assert_eq!(noted[0].rows, train);
    assert_eq!(noted[0].asked, std::slice::from_ref(&test));
    assert!(noted.len() > 2, "{}", noted.len());
    let mut held_out = Vec::new();
    for noted in &noted[1..] {
        let asked = noted.all_asked();
        assert!(noted.rows.iter().all(|row| !asked.contains(row) && !test.contains(row)));
        assert_eq!(noted.rows.len() + asked.len(), train.len());
        held_out.extend(asked);
    }
    held_out.sort_unstable();
    assert_eq!(held_out, train, "each is held out once");
}

/// `C = "auto"` divides what a candidate is fitted on once more: by groups, where the data has them.
// effect: compare --heads x data.group
#[test]
fn groups_that_are_told_change_what_auto_chooses_and_renamed_ones_do_not() {
    let chosen = |group: Option<&dyn Fn(usize) -> usize>| {
        let folder = tempfile::tempdir().unwrap();
        let mut rows = numbered(&classes(), group);
        // Three copies of a photo: what is fitted on one is sure of the others.
        for (number, row) in rows.iter_mut().enumerate() {
            let photo = (number / 3) as f32;
            row.values = (0..12).map(|f| (photo * (f as f32 + 1.3)).sin()).collect();
            row.class = ["a", "b"][(number / 3 * 5 % 7) % 2].to_owned();
        }
        write(folder.path(), "x", &rows);
        let settings = settings(
            folder.path(),
            "x",
            "[split]\ntest_size = 0.1\n[head]\nkind = \"ridge\"\nalpha = \"auto\"",
        );
        let prepared = Prepared::new(&settings, &()).unwrap();
        let candidates = candidates(&settings, &registry(), Some(&["ridge".to_owned()])).unwrap();
        let auto = |c: &Candidate| c.entry(State::LeftOut).parameters["alpha"].as_str() == Some("auto");
        assert!(candidates.iter().any(auto));
        let comparison = compare(&prepared, &candidates, &Plan { folds: 3, ..Plan::default() }, &()).unwrap();
        let chosen: BTreeMap<String, Vec<f64>> = (comparison.candidates.iter())
            .flat_map(|entry| &entry.judged().unwrap().chosen)
            .map(|chosen| (chosen.parameter.clone(), chosen.values.clone()))
            .collect();
        assert!(chosen.values().all(|values| values.len() == 3));
        chosen
    };
    let grouped = chosen(Some(&|row| row / 3));
    assert_eq!(chosen(Some(&|row| 3 + row / 3)), grouped, "other names, in the same order");
    let alone = chosen(Some(&|row| row));
    let least =
        |chosen: &BTreeMap<String, Vec<f64>>| chosen["alpha"].iter().copied().fold(f64::MAX, f64::min);
    assert!(least(&grouped) > least(&alone), "{grouped:?} {alone:?}");
}
