//! Calibrated probabilities and conformal sets, from the command line.

use std::fs;

use headstock_heads::ConformalMethod;
use headstock_train::Run;
use headstock_train::config::Registries;

use crate::support::{CLASSES, Project, parse_csv};

/// The classes of a set.
fn class_names(set: &[u32]) -> Vec<&'static str> {
    set.iter().map(|&class| CLASSES[class as usize]).collect()
}

/// LAC sets computed independently (Angelopoulos and Bates 2021): the classes whose probability is at least
/// the `ceil((n + 1) coverage)`-th largest probability of a true class among `n` held-out samples, most
/// probable first.
fn lac_set(scores: &[f32], coverage: f64, probabilities: [f32; 3]) -> Vec<&'static str> {
    let rank = ((scores.len() + 1) as f64 * coverage).ceil() as usize;
    let least = -scores[rank - 1];
    let mut order = [0, 1, 2];
    order.sort_by(|&a, &b| f32::total_cmp(&probabilities[b], &probabilities[a]));
    order.into_iter().filter(|&class| probabilities[class] >= least).map(|class| CLASSES[class]).collect()
}

// effect: predict --coverage, predict --sets, predict --format, predict --coverage x predict --sets
#[test]
fn predict_prints_the_set_of_each_image_in_every_format() {
    let project = Project::new(8);
    project.run(&["train"]).ok();
    fs::write(project.path("bad.jpg"), "no photo").unwrap();
    let predict = |more: &[&str]| {
        let arguments = ["predict", "runs/linear-1", "photos/hat", "photos/dress/01.jpg", "bad.jpg"];
        project.run(&[&arguments[..], more].concat()).fails(3, &["bad.jpg cannot be read"]).stdout
    };
    let run = Run::open(&project.path("runs/linear-1"), &Registries::builtin()).unwrap();
    let scores = run.model.conformal.as_ref().unwrap().scores(ConformalMethod::Lac);
    assert!(scores.len() == 18 && scores.is_sorted());
    let mut n_differing = [0, 0];
    for coverage in [0.6, 0.9] {
        let of_aps = run.model.sets(coverage, ConformalMethod::Aps).unwrap();
        let coverage_text = coverage.to_string();
        for method in [ConformalMethod::Lac, ConformalMethod::Aps] {
            let mut flags = vec!["--coverage", coverage_text.as_str()];
            // LAC is the default.
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
                    (lac_set(scores, coverage, probabilities), class_names(&of_aps.predict(&probabilities)));
                let expected = if method == ConformalMethod::Lac { &lac } else { &aps };
                assert_eq!(line["set"], serde_json::json!(expected), "{method:?}, {coverage}: {line}");
                n_differing[0] += usize::from(lac != aps);
                n_differing[1] += usize::from(expected.len() != 1);
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
    assert!(
        n_differing[0] > 0 && n_differing[1] > 0,
        "one method could be taken for the other: {n_differing:?}"
    );
    // A coverage that needs more held-out photos than there are: every class.
    let all = predict(&["--coverage", "0.99"]);
    for class in CLASSES {
        assert!(all.lines().all(|line| line.contains(class)), "{all}");
    }
    // Without --coverage there are no sets.
    assert!(!predict(&["--format", "csv"]).contains("set"));
}

#[test]
fn invalid_set_requests_are_refused_with_the_reason() {
    let project = Project::new(8);
    project.run(&["train", "--set", "calibration=none", "--run", "plain"]).ok();
    let image = "photos/hat/00.jpg";
    project.run(&["predict", "plain", image, "--coverage", "0.9"]).fails(
        2,
        &["has not saved the scores", "hint: `--coverage` needs", "`calibration = \"temperature\"`"],
    );
    project.run(&["train", "--run", "run"]).ok();
    for coverage in ["0", "1", "90", "nan"] {
        project
            .run(&["predict", "run", image, "--coverage", coverage])
            .fails(2, &["must be between 0 and 1"]);
    }
    project.run(&["predict", "run", image, "--sets", "aps"]).fails(2, &["--coverage"]);
    project.run(&["predict", "run", image, "--coverage", "0.9", "--sets", "all"]).fails(2, &["lac, aps"]);
    project
        .run(&["train", "--set", "calibration=beta"])
        .fails(2, &["beta", "temperature", "none", "isotonic", "platt", "calibration"]);
}

/// `json.rs` checks the values on features; this test checks the same fields on photos.
#[test]
fn calibration_metrics_are_saved_and_reproduced_by_evaluate() {
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
        let number = |part: &serde_json::Value, name: &str| part[name].as_f64().unwrap();
        for name in ["log_loss", "ece"] {
            assert_eq!(calibration["after"][name], metrics[name], "{head}: {name}");
            assert_eq!(calibration["before"][name], plain[name], "{head}: {name}");
        }
        // A calibration that is used lowers the held-out log-loss and does not raise the calibration error.
        let (before, after) = (&calibration["out_of_fold"]["before"], &calibration["out_of_fold"]["after"]);
        assert!(calibration.get("dropped").is_none(), "both heads are better with it: {calibration}");
        assert!(
            number(after, "log_loss") < number(before, "log_loss")
                && number(after, "ece") <= number(before, "ece")
        );
        assert!(number(&metrics["seconds"], "calibration") > 0.0);

        // Six test photos; the threshold is the score of rank ceil((18 + 1) 0.9) among 18 held-out samples.
        let run = Run::open(&project.path(head), &Registries::builtin()).unwrap();
        let rows = parse_csv(&project.read(&format!("{head}/predictions.csv")));
        assert_eq!(rows.len(), 6);
        for method in [ConformalMethod::Lac, ConformalMethod::Aps] {
            assert_eq!(run.model.conformal.as_ref().unwrap().scores(method).len(), 18);
            let sets = run.model.sets(0.9, method).unwrap();
            let outcomes: Vec<(bool, usize)> = rows
                .iter()
                .map(|row| {
                    let probabilities = CLASSES.map(|class| row[class].parse().unwrap());
                    let set = class_names(&sets.predict(&probabilities));
                    (set.contains(&row["label"].as_str()), set.len())
                })
                .collect();
            let share = |count: usize| count as f64 / 6.0;
            let figures = &metrics["conformal"][method.as_str()];
            assert_eq!(number(figures, "coverage"), share(outcomes.iter().filter(|(held, _)| *held).count()));
            assert_eq!(number(figures, "mean_size"), share(outcomes.iter().map(|(_, size)| size).sum()));
            assert_eq!(
                number(figures, "empty"),
                share(outcomes.iter().filter(|(_, size)| *size == 0).count())
            );
        }
        assert_eq!(metrics["conformal"]["coverage"], 0.9);
        let again = project.run(&["evaluate", head, "--json"]).ok();
        assert!(again.stdout.contains("conformal sets (target coverage 0.90)"), "{}", again.stdout);
        assert_eq!(again.json()["conformal"], metrics["conformal"], "{head}");
        let report = project.read(&format!("{head}/report.html"));
        assert!(
            report.contains("<h2>Calibration</h2>") && report.contains("<h2>Conformal sets</h2>"),
            "{report}"
        );
    }
}

#[test]
fn a_class_with_one_training_image_is_trained_uncalibrated_with_a_warning() {
    let project = Project::new(2);
    let done = project.run(&["train", "--set", "split.test_size=3"]).ok();
    assert!(done.stderr.contains("not calibrated") && done.stderr.contains("`dress`"), "{}", done.stderr);
    let evaluated = project.run(&["evaluate", "runs/linear-1", "--json"]).ok();
    assert!(evaluated.json().get("conformal").is_none());
    assert!(!evaluated.stdout.contains("conformal sets"), "{}", evaluated.stdout);
}
