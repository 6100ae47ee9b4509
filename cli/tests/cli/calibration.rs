//! Calibrated probabilities and conformal sets, from the command line.

use std::fs;

use crate::support::{CLASSES, Project};

#[test]
fn predict_prints_the_set_of_each_photo_in_every_format() {
    let project = Project::new(8);
    project.run(&["train"]).ok();
    fs::write(project.path("bad.jpg"), "no photo").unwrap();
    let predict = |more: &[&str]| {
        let photos = ["predict", "runs/linear-1", "photos/hat/00.jpg", "bad.jpg", "photos/dress/01.jpg"];
        project.run(&[&photos[..], more].concat()).fails(3, &["bad.jpg cannot be read"]).stdout
    };
    for sets in ["lac", "aps"] {
        let all = predict(&["--format", "jsonl", "--coverage", "0.9", "--sets", sets]);
        let lines: Vec<serde_json::Value> =
            all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let set_of = |line: &serde_json::Value| -> Vec<String> {
            line["set"].as_array().unwrap().iter().map(|class| class.as_str().unwrap().to_owned()).collect()
        };
        assert!(lines[1].get("set").is_none(), "{all}");
        let rows = [(&lines[0], "photos/hat/00.jpg", 0), (&lines[2], "photos/dress/01.jpg", 2)];

        let csv = predict(&["--format", "csv", "--coverage", "0.9", "--sets", sets]);
        let csv: Vec<&str> = csv.lines().collect();
        assert_eq!(csv[0], "path,predicted,probability,dress,hat,shoes,set");
        assert_eq!(csv[2], "bad.jpg,,,,,,");
        let table = predict(&["--coverage", "0.9", "--sets", sets]);
        for (line, path, number) in rows {
            let set = set_of(line);
            assert!(set.iter().all(|class| CLASSES.contains(&class.as_str())), "{set:?}");
            // The most probable first.
            assert!(set.first().is_none_or(|first| line["predicted"] == first.as_str()), "{line}");
            assert_eq!(csv[number + 1].rsplit(',').next(), Some(set.join("|").as_str()));
            let begin = format!("{path}  {{{}}}  ", set.join(", "));
            assert!(table.lines().any(|line| line.starts_with(&begin)), "{begin} is not in {table}");
        }
    }
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
            .fails(2, &["must lie between 0 and 1"]);
    }
    project.run(&["predict", "run", photo, "--sets", "aps"]).fails(2, &["--coverage"]);
    project.run(&["predict", "run", photo, "--coverage", "0.9", "--sets", "all"]).fails(2, &["lac, aps"]);
    project
        .run(&["train", "--set", "calibration=beta"])
        .fails(2, &["beta", "temperature", "none", "isotonic", "platt", "calibration"]);
}

// effect: predict --coverage, predict --coverage x predict --sets, predict --sets
#[test]
fn figures_before_and_after_are_in_the_metrics_and_evaluate_finds_them_again() {
    let project = Project::new(8);
    for head in ["svm", "linear"] {
        let trained = project.run(&["train", "--head", head, "--run", head, "--json"]).ok().json();
        let metrics: serde_json::Value =
            serde_json::from_str(&project.read(&format!("{head}/metrics.json"))).unwrap();
        assert_eq!(trained["calibration"], metrics["calibration"]);
        let calibration = &metrics["calibration"];
        assert_eq!((&calibration["folds"], &calibration["samples"]), (&5.into(), &18.into()), "{head}");
        for name in ["log_loss", "ece"] {
            assert_eq!(calibration["after"][name], metrics[name], "{head}: {name}");
            for part in [&calibration["before"], &calibration["out_of_fold"]["after"]] {
                assert!(part[name].is_number(), "{calibration}");
            }
        }
        assert!(metrics["seconds"]["calibration"].is_number());
        assert_eq!(metrics["conformal"]["coverage"], 0.9);
        // What `predict` says of the test photos, counted.
        let split = project.read(&format!("{head}/split.csv"));
        let tested: Vec<(String, &str)> = (split.lines().filter_map(|line| line.strip_suffix(",test")))
            .map(|line| line.split_once(',').unwrap())
            .map(|(path, label)| (format!("photos/{path}"), label))
            .collect();
        let mut sets_of = Vec::new();
        for method in ["lac", "aps"] {
            let mut command =
                vec!["predict", head, "--format", "jsonl", "--coverage", "0.9", "--sets", method];
            command.extend(tested.iter().map(|(path, _)| path.as_str()));
            let lines = project.run(&command).ok().stdout;
            let sets: Vec<Vec<String>> = lines
                .lines()
                .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["set"].clone())
                .map(|set| serde_json::from_value(set).unwrap())
                .collect();
            assert_eq!(sets.len(), tested.len());
            let share = |count: usize| count as f64 / tested.len() as f64;
            let held =
                sets.iter().zip(&tested).filter(|(set, (_, label))| set.iter().any(|class| class == label));
            let told = |figure: &str| metrics["conformal"][method][figure].as_f64().unwrap();
            assert_eq!(told("coverage"), share(held.count()), "{head} {method}");
            assert_eq!(told("mean_size"), share(sets.iter().map(Vec::len).sum()), "{head} {method}");
            assert_eq!(
                told("empty"),
                share(sets.iter().filter(|set| set.is_empty()).count()),
                "{head} {method}"
            );
            sets_of.push(sets);
        }
        assert_ne!(sets_of[0], sets_of[1], "{head}: both methods give the same sets");
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
}
