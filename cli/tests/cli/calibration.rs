//! Calibrated probabilities and conformal sets, from the command line.

use std::fs;

use headstock_heads::{ConformalMethod, Registry};
use headstock_train::Run;

use crate::support::{CLASSES, Project, table};

/// The classes of a set.
fn names(set: &[u32]) -> Vec<&'static str> {
    set.iter().map(|&class| CLASSES[class as usize]).collect()
}

/// By hand: the classes, the most probable first, whose probability is at least that of the true class at the rank of
/// `(n + 1) coverage`, rounded up, among those that were held out, the most probable first.
fn lac(scores: &[f32], coverage: f64, probabilities: [f32; 3]) -> Vec<&'static str> {
    let rank = ((scores.len() + 1) as f64 * coverage).ceil() as usize;
    let least = -scores[rank - 1];
    let mut order = [0, 1, 2];
    order.sort_by(|&a, &b| f32::total_cmp(&probabilities[b], &probabilities[a]));
    order.into_iter().filter(|&class| probabilities[class] >= least).map(|class| CLASSES[class]).collect()
}

// effect: predict --coverage, predict --sets, predict --format, predict --coverage x predict --sets
#[test]
fn predict_prints_the_set_of_each_photo_in_every_format() {
    let project = Project::new(8);
    project.run(&["train"]).ok();
    fs::write(project.path("bad.jpg"), "no photo").unwrap();
    let predict = |more: &[&str]| {
        let photos = ["predict", "runs/linear-1", "photos/hat", "photos/dress/01.jpg", "bad.jpg"];
        project.run(&[&photos[..], more].concat()).fails(3, &["bad.jpg cannot be read"]).stdout
    };
    let run = Run::open(&project.path("runs/linear-1"), &Registry::builtin()).unwrap();
    let scores = run.model.conformal.as_ref().unwrap().scores(ConformalMethod::Lac);
    assert!(scores.len() == 18 && scores.is_sorted());
    let mut differing = [0, 0];
    for coverage in [0.6, 0.9] {
        let of_aps = run.model.sets(coverage, ConformalMethod::Aps).unwrap();
        let coverage_text = coverage.to_string();
        for method in [ConformalMethod::Lac, ConformalMethod::Aps] {
            let mut flags = vec!["--coverage", coverage_text.as_str()];
            // Lac is what is meant where nothing is said.
            if method == ConformalMethod::Aps || coverage > 0.7 {
                flags.extend(["--sets", method.as_str()]);
            }
            let lines = predict(&[&flags[..], &["--format", "jsonl"]].concat());
            let lines: Vec<serde_json::Value> =
                lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert!(lines.len() == 10 && lines[9].get("set").is_none(), "{}", lines[9]);
            let mut sets = Vec::new();
            for line in &lines[..9] {
                let probabilities =
                    CLASSES.map(|class| line["probabilities"][class].as_f64().unwrap() as f32);
                let (lac, aps) =
                    (lac(scores, coverage, probabilities), names(&of_aps.predict(&probabilities)));
                let expected = if method == ConformalMethod::Lac { &lac } else { &aps };
                assert_eq!(line["set"], serde_json::json!(expected), "{method:?}, {coverage}: {line}");
                differing[0] += usize::from(lac != aps);
                differing[1] += usize::from(expected.len() != 1);
                sets.push((line["path"].as_str().unwrap().to_owned(), expected.clone()));
            }
            if (method, coverage) != (ConformalMethod::Aps, 0.6) {
                continue;
            }
            // The other formats show the same sets.
            let csv = predict(&[&flags[..], &["--format", "csv"]].concat());
            let csv: Vec<&str> = csv.lines().collect();
            assert_eq!(csv[0], "path,predicted,probability,dress,hat,shoes,set");
            let shown = predict(&flags);
            let shown: Vec<&str> = shown.lines().collect();
            assert!(csv.len() == 11 && csv[10] == "bad.jpg,,,,,," && shown.len() == 9);
            for (number, (path, set)) in sets.iter().enumerate() {
                assert_eq!(csv[number + 1].rsplit(',').next(), Some(set.join("|").as_str()));
                let begin = format!("{path}  {{{}}}  ", set.join(", "));
                assert!(shown[number].starts_with(&begin), "{begin} is not in {}", shown[number]);
            }
        }
    }
    assert!(differing[0] > 0 && differing[1] > 0, "one method could be taken for the other: {differing:?}");
    // A coverage that so few photos cannot promise: every class.
    let all = predict(&["--coverage", "0.99"]);
    for class in CLASSES {
        assert!(all.lines().all(|line| line.contains(class)), "{all}");
    }
    // Without it nothing is said of sets.
    assert!(!predict(&["--format", "csv"]).contains("set"));
}

#[test]
fn sets_that_cannot_be_made_are_refused_with_the_reason() {
    let project = Project::new(8);
    project.run(&["train", "--set", "calibration=none", "--run", "plain"]).ok();
    let photo = "photos/hat/00.jpg";
    project
        .run(&["predict", "plain", photo, "--coverage", "0.9"])
        .fails(2, &["no scores to make sets of", "calibration"]);
    project.run(&["train", "--run", "run"]).ok();
    for coverage in ["0", "1", "90", "nan"] {
        project
            .run(&["predict", "run", photo, "--coverage", coverage])
            .fails(2, &["must be between 0 and 1"]);
    }
    project.run(&["predict", "run", photo, "--sets", "aps"]).fails(2, &["--coverage"]);
    project.run(&["predict", "run", photo, "--coverage", "0.9", "--sets", "all"]).fails(2, &["lac, aps"]);
    project
        .run(&["train", "--set", "calibration=beta"])
        .fails(2, &["beta", "temperature", "none", "isotonic", "platt", "calibration"]);
}

/// What all is made of is in `json.rs`, on features; here, that photos have the same.
#[test]
fn figures_before_and_after_are_in_the_metrics_and_evaluate_finds_them_again() {
    let project = Project::new(8);
    for head in ["svm", "linear"] {
        let trained = project.run(&["train", "--head", head, "--run", head, "--json"]).ok().json();
        let plain = ["train", "--head", head, "--run", &format!("{head}-plain"), "--set", "calibration=none"];
        let plain = project.run(&[&plain[..], &["--json"]].concat()).ok().json();
        assert!(plain.get("calibration").is_none() && plain.get("conformal").is_none(), "{plain}");
        let metrics: serde_json::Value =
            serde_json::from_str(&project.read(&format!("{head}/metrics.json"))).unwrap();
        assert_eq!(trained["calibration"], metrics["calibration"]);
        let calibration = &metrics["calibration"];
        assert_eq!((&calibration["folds"], &calibration["samples"]), (&5.into(), &18.into()), "{head}");
        let of = |part: &serde_json::Value, name: &str| part[name].as_f64().unwrap();
        for name in ["log_loss", "ece"] {
            assert_eq!(calibration["after"][name], metrics[name], "{head}: {name}");
            assert_eq!(calibration["before"][name], plain[name], "{head}: {name}");
        }
        // What is kept lowers the loss of what was held out, and raises no error of calibration.
        let (before, after) = (&calibration["out_of_fold"]["before"], &calibration["out_of_fold"]["after"]);
        assert!(calibration.get("dropped").is_none(), "both heads are better with it: {calibration}");
        assert!(of(after, "log_loss") < of(before, "log_loss") && of(after, "ece") <= of(before, "ece"));
        assert!(of(&metrics["seconds"], "calibration") > 0.0);

        // Six photos: a score of three classes at the rank of (18 + 1) 0.9, rounded up, of the 18 that were held out.
        let run = Run::open(&project.path(head), &Registry::builtin()).unwrap();
        let rows = table(&project.read(&format!("{head}/predictions.csv")));
        assert_eq!(rows.len(), 6);
        for method in [ConformalMethod::Lac, ConformalMethod::Aps] {
            assert_eq!(run.model.conformal.as_ref().unwrap().scores(method).len(), 18);
            let sets = run.model.sets(0.9, method).unwrap();
            let of_rows: Vec<(bool, usize)> = rows
                .iter()
                .map(|row| {
                    let probabilities = CLASSES.map(|class| row[class].parse().unwrap());
                    let set = names(&sets.predict(&probabilities));
                    (set.contains(&row["label"].as_str()), set.len())
                })
                .collect();
            let share = |count: usize| count as f64 / 6.0;
            let figures = &metrics["conformal"][method.as_str()];
            assert_eq!(of(figures, "coverage"), share(of_rows.iter().filter(|(held, _)| *held).count()));
            assert_eq!(of(figures, "mean_size"), share(of_rows.iter().map(|(_, size)| size).sum()));
            assert_eq!(of(figures, "empty"), share(of_rows.iter().filter(|(_, size)| *size == 0).count()));
        }
        assert_eq!(metrics["conformal"]["coverage"], 0.9);
        let again = project.run(&["evaluate", head, "--json"]).ok();
        assert!(again.stdout.contains("sets that are to hold the class 0.9 of the time"), "{}", again.stdout);
        assert_eq!(again.json()["conformal"], metrics["conformal"], "{head}");
        let report = project.read(&format!("{head}/report.html"));
        assert!(report.contains("<h2>Calibration</h2>") && report.contains("<h2>Sets</h2>"), "{report}");
    }
}

#[test]
fn a_class_with_one_training_photo_is_trained_without_calibration_and_a_line_says_so() {
    let project = Project::new(2);
    let done = project.run(&["train", "--set", "split.test_size=3"]).ok();
    assert!(done.stderr.contains("not calibrated") && done.stderr.contains("`dress`"), "{}", done.stderr);
    let evaluated = project.run(&["evaluate", "runs/linear-1", "--json"]).ok();
    assert!(evaluated.json().get("conformal").is_none());
    assert!(!evaluated.stdout.contains("sets that"), "{}", evaluated.stdout);
}
