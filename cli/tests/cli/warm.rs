//! `train --warm`: starting from an earlier run.

use crate::support::Project;

// effect: train --warm
#[test]
fn classes_of_the_run_keep_their_numbers_and_new_ones_come_after_them() {
    let project = Project::new(8);
    project.run(&["train"]).ok();
    for number in 0..8 {
        project.add("longsleeve", number);
    }
    let warm = project
        .run(&["train", "--warm", "runs/linear-1", "--run", "warm", "--set", "calibration=none", "--json"])
        .ok();
    assert!(warm.stderr.contains("new classes, after the 3 of runs/linear-1: longsleeve"), "{}", warm.stderr);
    let header = project.read("warm/predictions.csv").lines().next().unwrap_or_default().to_owned();
    assert_eq!(header, "path,label,predicted,probability,dress,hat,shoes,longsleeve");

    // It begins where the run ended, and ends where a run from nothing does.
    let cold = project.run(&["train", "--run", "cold", "--set", "calibration=none", "--json"]).ok();
    let first = |run: &str| -> f64 {
        let history = project.read(&format!("{run}/history.csv"));
        history
            .lines()
            .nth(1)
            .and_then(|row| row.split(',').nth(1))
            .expect("an objective")
            .parse()
            .expect("a number")
    };
    assert!(first("warm") < 0.9 * first("cold"), "{} and {}", first("warm"), first("cold"));
    let loss = |done: &crate::support::Done| done.json()["log_loss"].as_f64().expect("a log loss");
    assert!((loss(&warm) - loss(&cold)).abs() < 0.01 * loss(&cold), "{} and {}", loss(&warm), loss(&cold));
}

#[test]
fn a_head_that_cannot_start_from_another_says_so_and_is_fitted_anyway() {
    let project = Project::new(8);
    project.run(&["train", "--head", "ridge"]).ok();
    let warm = project.run(&["train", "--head", "ridge", "--warm", "runs/ridge-1"]).ok();
    assert!(warm.stderr.contains("`ridge` is fitted from nothing"), "{}", warm.stderr);
    assert_eq!(project.read("runs/ridge-2/predictions.csv"), project.read("runs/ridge-1/predictions.csv"));
}

#[test]
fn a_run_that_is_no_start_is_refused_with_the_reason() {
    let project = Project::new(8);
    project.run(&["train"]).ok();
    let warm = |more: &[&str]| project.run(&[&["train", "--warm", "runs/linear-1"], more].concat());
    warm(&["--head", "svm"]).fails(2, &["runs/linear-1", "holds a `linear`, from which no `svm` can start"]);
    warm(&["--set", "backbone.layer=layer3"]).fails(2, &["it was fitted on other features"]);
    project.run(&["train", "--warm", "nowhere"]).fails(2, &["nowhere is no run"]);
}

#[test]
fn a_warm_start_on_another_draw_tells_how_it_does_on_photos_that_the_first_run_has_not_seen() {
    let project = Project::new(8);
    project.run(&["train"]).ok();
    let warm = ["train", "--warm", "runs/linear-1", "--set", "split.seed=1", "--run", "warm", "--json"];
    let done = project.run(&warm).ok();
    let tested = |run: &str| -> Vec<String> {
        let split = project.read(&format!("{run}/split.csv"));
        split.lines().filter(|line| line.ends_with(",test")).map(str::to_owned).collect()
    };
    let first = tested("runs/linear-1");
    let unseen = tested("warm").iter().filter(|line| first.contains(line)).count();
    let seen = tested("warm").len() - unseen;
    assert!(seen > 0, "another draw");
    let told = done.json()["trained_on"].clone();
    assert_eq!(told["samples"], seen);
    assert_eq!(told["unseen"]["samples"].as_u64().unwrap_or(0), unseen as u64);
    let written: serde_json::Value = serde_json::from_str(&project.read("warm/metrics.json")).unwrap();
    assert_eq!(written["trained_on"], told);
    let warning =
        format!("the run that this one starts from was trained on {seen} of these {}", seen + unseen);
    assert!(done.stderr.contains(&warning), "{}", done.stderr);
    let title = if unseen > 0 {
        format!("{seen} of these were trained on; the other {unseen} alone:")
    } else {
        "trained on all".into()
    };
    assert!(done.stdout.contains(&title), "{}", done.stdout);
}
