//! `train --warm`: warm starts from an earlier run.

use crate::support::Project;

// effect: train --warm
#[test]
fn labels_of_the_run_stay_and_new_classes_follow() {
    let project = Project::new(8);
    project.run(&["train"]).ok();
    for number in 0..8 {
        project.add_image("longsleeve", number);
    }
    let warm = project
        .run(&["train", "--warm", "runs/linear-1", "--run", "warm", "--set", "calibration=none", "--json"])
        .ok();
    assert!(
        warm.stderr.contains("new classes, added to the 3 classes of runs/linear-1: longsleeve"),
        "{}",
        warm.stderr
    );
    let header = project.read("warm/predictions.csv").lines().next().unwrap_or_default().to_owned();
    assert_eq!(header, "path,label,predicted,probability,dress,hat,shoes,longsleeve");

    // It starts near the optimum of the run and converges to the optimum of a cold start.
    let cold = project.run(&["train", "--run", "cold", "--set", "calibration=none", "--json"]).ok();
    let first_objective = |run: &str| -> f64 {
        let history = project.read(&format!("{run}/history.csv"));
        history
            .lines()
            .nth(1)
            .and_then(|row| row.split(',').nth(1))
            .expect("an objective")
            .parse()
            .expect("a number")
    };
    assert!(
        first_objective("warm") < 0.9 * first_objective("cold"),
        "{} and {}",
        first_objective("warm"),
        first_objective("cold")
    );
    let log_loss =
        |done: &crate::support::CommandOutput| done.json()["log_loss"].as_f64().expect("a log-loss");
    assert!(
        (log_loss(&warm) - log_loss(&cold)).abs() < 0.01 * log_loss(&cold),
        "{} and {}",
        log_loss(&warm),
        log_loss(&cold)
    );
}

#[test]
fn a_head_without_warm_start_says_so_and_is_fitted_anyway() {
    let project = Project::new(8);
    project.run(&["train", "--head", "ridge"]).ok();
    let warm = project.run(&["train", "--head", "ridge", "--warm", "runs/ridge-1"]).ok();
    assert!(warm.stderr.contains("`ridge` does not support a warm start"), "{}", warm.stderr);
    assert_eq!(project.read("runs/ridge-2/predictions.csv"), project.read("runs/ridge-1/predictions.csv"));
}

#[test]
fn an_incompatible_run_is_refused_with_the_reason() {
    let project = Project::new(8);
    project.run(&["train"]).ok();
    let warm = |more: &[&str]| project.run(&[&["train", "--warm", "runs/linear-1"], more].concat());
    warm(&["--head", "svm"])
        .fails(2, &["runs/linear-1", "the run has the head `linear`, but the head `svm` was chosen"]);
    warm(&["--set", "backbone.layer=layer3"]).fails(2, &["the run was trained on different features"]);
    project.run(&["train", "--warm", "nowhere"]).fails(2, &["nowhere is not a run"]);
}

#[test]
fn a_warm_start_on_another_split_reports_metrics_on_unseen_images() {
    let project = Project::new(8);
    project.run(&["train"]).ok();
    let warm = ["train", "--warm", "runs/linear-1", "--set", "split.seed=1", "--run", "warm", "--json"];
    let done = project.run(&warm).ok();
    let test_lines = |run: &str| -> Vec<String> {
        let split = project.read(&format!("{run}/split.csv"));
        split.lines().filter(|line| line.ends_with(",test")).map(str::to_owned).collect()
    };
    let first = test_lines("runs/linear-1");
    let unseen = test_lines("warm").iter().filter(|line| first.contains(line)).count();
    let seen = test_lines("warm").len() - unseen;
    assert!(seen > 0, "another split");
    let trained_on = done.json()["trained_on"].clone();
    assert_eq!(trained_on["samples"], seen);
    assert_eq!(trained_on["unseen"]["samples"].as_u64().unwrap_or(0), unseen as u64);
    let written: serde_json::Value = serde_json::from_str(&project.read("warm/metrics.json")).unwrap();
    assert_eq!(written["trained_on"], trained_on);
    // Both starts are tested on the photos that the earlier run was not trained on.
    if unseen > 0 {
        let starts = done.json()["starts"].clone();
        assert_eq!(starts["samples"], unseen);
        assert_eq!(starts["warm"]["log_loss"], trained_on["unseen"]["log_loss"]);
        let cold = ["train", "--set", "split.seed=1", "--run", "cold"];
        project.run(&cold).ok();
        let rows = crate::support::parse_csv(&project.read("cold/predictions.csv"));
        let is_unseen = |path: &str| first.iter().any(|line| line.starts_with(&format!("{path},")));
        let losses: Vec<f64> = rows
            .iter()
            .filter(|row| is_unseen(&row["path"]))
            .map(|row| -row[&row["label"]].parse::<f64>().unwrap().ln())
            .collect();
        let expected = losses.iter().sum::<f64>() / losses.len() as f64;
        let found = starts["cold"]["log_loss"].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-4 * expected.max(1.0), "{found}, not {expected}");
        assert!(done.stdout.contains("  from scratch:         accuracy "), "{}", done.stdout);
    }
    let warning = format!(
        "the run that the training started from was trained on {seen} of the {} test photos",
        seen + unseen
    );
    assert!(done.stderr.contains(&warning), "{}", done.stderr);
    let title = if unseen > 0 {
        format!(
            "test photos that were in the training data: {seen}; metrics on the other {unseen} test photo"
        )
    } else {
        "test photos that were in the training data".into()
    };
    assert!(done.stdout.contains(&title), "{}", done.stdout);
}
