//! `compare RUN RUN`: runs on photos that none of them was trained on.

use std::collections::BTreeMap;
use std::fs;

use crate::support::{CommandOutput, Project, parse_csv};

/// The paths of a run's samples by their part of the split.
fn paths_in(project: &Project, run: &str, part: &str) -> Vec<String> {
    let rows = parse_csv(&project.read(&format!("{run}/split.csv")));
    rows.into_iter().filter(|row| row["split"] == part).map(|row| row["path"].clone()).collect()
}

/// A run's predictions by path.
fn predictions(project: &Project, run: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let rows = parse_csv(&project.read(&format!("{run}/predictions.csv")));
    rows.into_iter().map(|row| (row["path"].clone(), row)).collect()
}

fn train(project: &Project, run: &str, more: &[&str]) {
    project.run(&[&["train", "--run", run][..], more].concat()).ok();
}

/// Accuracy and log-loss come from the `predictions.csv` of each run.
// effect: compare RUN
#[test]
fn runs_are_compared_on_the_images_that_neither_was_trained_on() {
    let project = Project::new(12);
    train(&project, "old", &["--head", "ridge", "--set", "split.test_size=0.5"]);
    train(&project, "new", &["--set", "split.test_size=0.5", "--set", "split.seed=1"]);
    let (old, new) = (predictions(&project, "old"), predictions(&project, "new"));
    let shared: Vec<&String> = old.keys().filter(|path| new.contains_key(*path)).collect();
    assert!(shared.len() > 3 && shared.len() < old.len(), "{}", shared.len());

    let done = project.run(&["compare", "old", "new", "--json"]).ok();
    let found = done.json();
    assert_eq!(found["samples"], shared.len());
    assert_eq!(found["left_out"]["trained_on"], 36 - shared.len());
    let mut expected = Vec::new();
    for (run, rows, head) in [(0, &old, "ridge"), (1, &new, "linear")] {
        let rows: Vec<_> = shared.iter().map(|path| &rows[*path]).collect();
        let n = rows.len() as f64;
        let accuracy = rows.iter().filter(|row| row["label"] == row["predicted"]).count() as f64 / n;
        let loss = |row: &&BTreeMap<String, String>| -row[&row["label"]].parse::<f64>().unwrap().ln();
        let log_loss = rows.iter().map(loss).sum::<f64>() / n;
        let found = &found["runs"][run];
        assert_eq!((found["head"].as_str(), &found["trained_on"]), (Some(head), &18.into()));
        let value = |metric: &str| found[metric]["value"].as_f64().unwrap();
        assert!((value("accuracy") - accuracy).abs() < 1e-9, "{found}");
        assert!((value("log_loss") - log_loss).abs() < 1e-4, "{found}, not {log_loss}");
        expected.push((accuracy, log_loss));
    }
    let second = &found["runs"][1]["log_loss"];
    let difference = second["difference"].as_f64().unwrap();
    assert!((difference - (expected[1].1 - expected[0].1)).abs() < 1e-4, "{second}");
    let bound = |name: &str| second["interval"][name].as_f64().unwrap();
    assert!(bound("low") < difference && difference < bound("high"), "{second}");
    let heading = format!("{} photos that none of the runs was trained on", shared.len());
    let left_out = format!("left out: {} photos that a run was trained on", 36 - shared.len());
    assert!(done.stdout.contains(&heading) && done.stdout.contains(&left_out), "{}", done.stdout);

    // The other way round the difference has the other sign.
    let swapped = project.run(&["compare", "new", "old", "--json"]).ok().json();
    let swapped = swapped["runs"][1]["log_loss"]["difference"].as_f64().unwrap();
    assert!((swapped + difference).abs() < 1e-12, "{swapped} {difference}");
    // Another seed draws other resamples.
    let reseeded = project.run(&["compare", "old", "new", "--seed", "1", "--json"]).ok().json();
    assert_ne!(reseeded["runs"][1]["log_loss"]["interval"], second["interval"]);
}

#[test]
fn images_are_recognized_by_content_and_those_of_a_config_are_used() {
    let project = Project::new(8);
    train(&project, "old", &[]);
    train(&project, "new", &["--set", "split.seed=1"]);
    // Copies of training photos under other names, and photos that no run has seen.
    let trained = paths_in(&project, "old", "train");
    let (hat, dress) = (find(&trained, "hat/"), find(&trained, "dress/"));
    for (path, class) in [(hat, "hat"), (dress, "dress")] {
        fs::create_dir_all(project.path(&format!("later/{class}"))).unwrap();
        fs::copy(project.path(&format!("photos/{path}")), project.path(&format!("later/{class}/copy.jpg")))
            .unwrap();
    }
    project.add_new_images("later", 20);
    project.write("later.toml", &Project::config("folder = \"later\""));
    let found = project.run(&["compare", "old", "new", "--config", "later.toml", "--json"]).ok().json();
    assert_eq!((&found["samples"], &found["left_out"]["trained_on"]), (&3.into(), &2.into()));

    // A class that a run does not have.
    fs::rename(project.path("later/shoes"), project.path("later/boots")).unwrap();
    let found = project.run(&["compare", "old", "new", "--config", "later.toml", "--json"]).ok().json();
    assert_eq!((&found["samples"], &found["left_out"]["unknown_class"]), (&2.into(), &1.into()));
}

/// The first of `paths` that begins with `prefix`.
fn find<'a>(paths: &'a [String], prefix: &str) -> &'a String {
    paths.iter().find(|path| path.starts_with(prefix)).expect("each class has a training photo")
}

#[test]
fn runs_that_cannot_be_compared_are_refused() {
    let project = Project::with_features("compare/overlapping");
    let compare = |runs: &[&str]| -> CommandOutput { project.run(&[&["compare"], runs].concat()) };
    train(&project, "a", &["--head", "ridge", "--set", "split.test_size=3"]);
    compare(&["a"]).fails(2, &["2 values required"]);
    compare(&["a", "b"]).fails(2, &["b is not a run"]);
    compare(&["a", "a", "--heads", "svm"]).fails(2, &["cannot be used with"]);
    // Two runs that together were trained on all rows.
    let tested = paths_in(&project, "a", "test");
    let other = (1..20).find(|seed| {
        let run = format!("seed-{seed}");
        let seed = format!("split.seed={seed}");
        train(&project, &run, &["--head", "ridge", "--set", "split.test_size=3", "--set", &seed]);
        paths_in(&project, &run, "test").iter().all(|path| !tested.contains(path))
    });
    let other = format!("seed-{}", other.expect("two disjoint test sets"));
    compare(&["a", &other]).fails(3, &["no photo is left", "give data with new photos"]);
}
