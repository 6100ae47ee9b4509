//! Effects of flags and arguments, on features in a file.

use std::fs;

use crate::support::{Project, REPRODUCIBLE_FILES, parse_csv, run_command};

/// The settings of a run.
fn read_config(project: &Project, run: &str) -> toml::Table {
    project.read(&format!("{run}/headstock.toml")).parse().expect("a config is TOML")
}

/// Fails unless two runs have the same model, split and predictions.
#[track_caller]
fn assert_same_run(project: &Project, first: &str, second: &str) {
    for file in REPRODUCIBLE_FILES {
        let read = |run: &str| fs::read(project.path(&format!("{run}/{file}"))).expect("a run has the file");
        assert!(read(first) == read(second), "{first} and {second}: {file}");
    }
}

// effect: --config, train --run
#[test]
fn config_selects_a_file_and_its_paths_are_relative_to_it() {
    let project = Project::with_features("feature_file/separable");
    fs::create_dir(project.path("elsewhere")).unwrap();
    fs::rename(project.path("x.npz"), project.path("elsewhere/y.npz")).unwrap();
    project.run(&["train"]).fails(3, &["x.npz"]);
    project.write("elsewhere/my.toml", "version = 1\n[data]\nfeatures = \"y.npz\"\n[split]\nseed = 7\n");
    // Runs are written to the current folder.
    let json = project.run(&["train", "--config", "elsewhere/my.toml", "--json"]).ok().json();
    assert_eq!(json["run"], "runs/linear-1");
    assert_eq!(read_config(&project, "runs/linear-1")["split"]["seed"].as_integer(), Some(7));
    let again = ["train", "--config", "elsewhere/my.toml", "--run", "elsewhere/run", "--json"];
    assert_eq!(project.run(&again).ok().json()["run"], "elsewhere/run");
    assert_same_run(&project, "runs/linear-1", "elsewhere/run");
    assert!(!project.path("runs/linear-2").exists());
}

// effect: train --run
#[test]
fn a_run_without_a_name_is_the_next_of_its_head() {
    let project = Project::with_features("feature_file/separable");
    for (head, run) in [
        ("linear", "runs/linear-1"),
        ("linear", "runs/linear-2"),
        ("knn", "runs/knn-1"),
        ("linear", "runs/linear-3"),
    ] {
        assert_eq!(project.run(&["train", "--head", head, "--json"]).ok().json()["run"], run);
        assert!(project.path(run).join("model.safetensors").is_file(), "{run}");
    }
}

// effect: train --head, --set
#[test]
fn the_head_is_short_for_its_key_and_drops_the_keys_of_the_configs_head() {
    let project = Project::with_features("compare/overlapping");
    let text = project.read("headstock.toml");
    project.write("headstock.toml", &(text + "[head]\nkind = \"linear\"\nC = 0.03\n"));
    project.run(&["train", "--head", "svm", "--run", "flag"]).ok();
    project.run(&["train", "--set", "head.kind=svm", "--run", "key"]).ok();
    assert_same_run(&project, "flag", "key");
    let head = read_config(&project, "flag")["head"].clone();
    // The default of `svm`, not the config's value for another head.
    assert_eq!((head["kind"].as_str(), head["C"].as_float()), (Some("svm"), Some(0.01)));
    // --set has precedence over --head in any order.
    project.run(&["train", "--set", "head.C=5", "--head", "svm", "--run", "both"]).ok();
    assert_eq!(read_config(&project, "both")["head"]["C"].as_float(), Some(5.0));
    let same_head = project.run(&["train", "--head", "linear", "--run", "kept"]).ok();
    assert_eq!(read_config(&project, "kept")["head"]["C"].as_float(), Some(0.03), "{}", same_head.stderr);
    project.run(&["train", "--head", "svm", "--set", "head.kind=ridge", "--run", "last"]).ok();
    assert_eq!(read_config(&project, "last")["head"]["kind"].as_str(), Some("ridge"));
}

// effect: --set
#[test]
fn overrides_are_toml_or_text_and_the_last_of_a_key_counts() {
    let project = Project::with_features("compare/overlapping");
    let train = |run: &str, overrides: &[&str]| {
        let overrides: Vec<&str> = overrides.iter().flat_map(|text| ["--set", text]).collect();
        project.run(&[&["train", "--run", run], &overrides[..]].concat())
    };
    train("last", &["split.seed=3", "split.seed=4"]).ok();
    assert_eq!(read_config(&project, "last")["split"]["seed"].as_integer(), Some(4));
    train("spaces", &[" split.seed = 5 ", "calibration = none"]).ok();
    let spaces = read_config(&project, "spaces");
    assert_eq!(spaces["split"]["seed"].as_integer(), Some(5));
    assert_eq!(spaces["calibration"].as_str(), Some("none"));
    train("quoted", &["calibration='isotonic'", "data.class_order=\"appearance\""]).ok();
    let quoted = read_config(&project, "quoted");
    assert_eq!(quoted["calibration"].as_str(), Some("isotonic"));
    assert_eq!(quoted["data"]["class_order"].as_str(), Some("appearance"));
    train("table", &["head={kind=\"ridge\", alpha=2.5}"]).ok();
    let table = read_config(&project, "table");
    assert_eq!(
        (table["head"]["kind"].as_str(), table["head"]["alpha"].as_float()),
        (Some("ridge"), Some(2.5))
    );
    train("x", &["split"]).fails(2, &["the override `split` of the config is invalid: write KEY=VALUE"]);
    train("x", &["split..seed=1"]).fails(
        2,
        &["the override `split..seed=1` of the config is invalid: the name of a section or key is empty"],
    );
    train("x", &["version=2"]).fails(2, &["`version=2`", "cannot be overridden"]);
    train("x", &["calibration=none", "calibration.x=1"])
        .fails(2, &["`calibration` is a value, not a section"]);
    train("x", &["split.sed=1"]).fails(2, &["unknown key `split.sed`; did you mean `split.seed`?"]);
    assert!(!project.path("x").exists());
}

/// Paths of the test samples in a split file.
fn test_paths(project: &Project, file: &str) -> Vec<String> {
    let rows = parse_csv(&project.read(file));
    rows.into_iter().filter(|row| row["split"] == "test").map(|row| row["path"].clone()).collect()
}

// effect: --config, --set, evaluate RUN
#[test]
fn a_run_is_used_with_its_settings_or_those_of_the_config() {
    let project = Project::with_features("compare/overlapping");
    project.run(&["train", "--set", "split.seed=4", "--run", "r"]).ok();
    project.run(&["train", "--head", "knn", "--set", "split.seed=4", "--run", "other"]).ok();
    let figures =
        |run: &str, more: &[&str]| project.run(&[&["evaluate", run, "--json"], more].concat()).ok().json();
    let metrics = |run: &str| -> serde_json::Value {
        serde_json::from_str(&project.read(&format!("{run}/metrics.json"))).unwrap()
    };
    let same_metrics = |first: &serde_json::Value, second: &serde_json::Value| {
        ["top1", "top5", "macro_f1", "log_loss", "ece"].iter().all(|name| first[*name] == second[*name])
    };
    // The settings of the run, not those of headstock.toml, which has seed 0.
    assert!(
        same_metrics(&figures("r", &[]), &metrics("r"))
            && same_metrics(&figures("other", &[]), &metrics("other"))
    );
    assert!(!same_metrics(&metrics("r"), &metrics("other")));
    // The settings of --config: the test split of seed 0.
    project.run(&["split", "--out", "0.csv"]).ok();
    assert_ne!(test_paths(&project, "0.csv"), test_paths(&project, "r/split.csv"));
    let named = figures("r", &["--config", "headstock.toml"]);
    assert_eq!((&named["same_samples"], &named["samples"]), (&false.into(), &15.into()));
    let as_set = figures("r", &["--set", "split.seed=0"]);
    assert!(same_metrics(&named, &as_set) && !same_metrics(&named, &metrics("r")));
    // With the settings of a run, relative paths are relative to the current folder.
    fs::create_dir(project.path("sub")).unwrap();
    fs::copy(project.path("x.npz"), project.path("sub/y.npz")).unwrap();
    let here = ["evaluate", "../r", "--set", "data.features=y.npz", "--json"];
    let here = run_command(project.command(&here).current_dir(project.path("sub"))).ok().json();
    assert!(same_metrics(&here, &metrics("r")), "{here}");
    let config = ["evaluate", "../r", "--config", "../headstock.toml", "--set", "data.features=y.npz"];
    run_command(project.command(&config).current_dir(project.path("sub"))).fails(3, &["y.npz"]);
}

// effect: split --out
#[test]
fn split_writes_every_row_with_its_class_and_split() {
    let project = Project::with_features("feature_file/separable");
    let done = project.run(&["split", "--out", "tables/s.csv", "--json"]).ok();
    assert_eq!(done.stdout.lines().next(), Some("tables/s.csv: 36 photos for training, 4 for testing"));
    let figures = serde_json::json!({ "out": "tables/s.csv", "classes": 2, "train": 36, "test": 4 });
    assert_eq!(done.json(), figures);
    let rows = parse_csv(&project.read("tables/s.csv"));
    assert_eq!(rows.len(), 40);
    for (number, row) in rows.iter().enumerate() {
        // The label is the row's parity, see reference/feature_file/make.py.
        assert_eq!((&row["path"], &row["label"]), (&number.to_string(), &(number % 2).to_string()));
        assert!(row.len() == 3 && ["train", "test"].contains(&row["split"].as_str()), "{row:?}");
    }
    // scikit-learn: StratifiedShuffleSplit(n_splits=1, test_size=0.1, random_state=0) of these labels.
    assert_eq!(test_paths(&project, "tables/s.csv"), TESTED);
    project.run(&["train", "--run", "r"]).ok();
    assert_eq!(project.read("r/split.csv"), project.read("tables/s.csv"));
}

const TESTED: [&str; 4] = ["13", "15", "24", "30"];

// effect: train --warm
#[test]
fn a_warm_start_begins_at_the_optimum_of_the_run_and_ends_there() {
    let project = Project::with_features("compare/overlapping");
    project.run(&["train", "--run", "cold", "--set", "head.tol=1e-9"]).ok();
    let warm = ["train", "--warm", "cold", "--run", "warm", "--set", "head.tol=1e-9"];
    project.run(&warm).ok();
    let objectives = |run: &str| -> Vec<f64> {
        let rows = parse_csv(&project.read(&format!("{run}/history.csv")));
        rows.iter().map(|row| row["objective"].parse().unwrap()).collect()
    };
    let (cold, warm) = (objectives("cold"), objectives("warm"));
    let best = cold.last().unwrap();
    assert!(cold[0] > 1.5 * best, "a cold start begins far from the optimum: {cold:?}");
    assert!((warm[0] - best).abs() < 1e-6 * best && warm.len() < cold.len() / 2, "{warm:?} after {best}");
}

// effect: heads NAME
#[test]
fn heads_with_a_name_describes_only_that_head() {
    let project = Project::with_features("feature_file/separable");
    let listed = project.run(&["heads"]).ok().stdout;
    assert_eq!(listed.lines().count(), 8 + 2, "{listed}");
    let shown = project.run(&["heads", "knn"]).ok().stdout;
    let head: toml::Table = shown.parse().expect("it is TOML");
    let expected = "[head]\nkind = \"knn\"\nk = 5\nweights = \"uniform\"\nmetric = \"euclidean\"\n";
    assert_eq!(head, expected.parse().unwrap());
    assert!(shown.starts_with("# knn: ") && !shown.contains("svm"), "{shown}");
}

// effect: --json
#[test]
fn json_adds_one_line_to_stdout_and_changes_no_other() {
    let project = Project::with_features("compare/overlapping");
    project.run(&["train", "--run", "r"]).ok();
    for command in [
        &["heads"][..],
        &["heads", "ridge"],
        &["split", "--out", "s.csv"],
        &["evaluate", "r"],
        &["evaluate", "r", "--set", "split.seed=1"],
    ] {
        let plain = project.run(command).ok();
        let json = project.run(&[command, &["--json"]].concat()).ok();
        assert!(json.json().is_object());
        let (before, last) = json.stdout.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(before, plain.stdout.trim_end(), "{command:?}");
        assert!(last.starts_with('{') && json.stdout.ends_with("}\n"), "{last}");
        assert!(plain.stdout.lines().all(|line| !line.starts_with('{')), "{}", plain.stdout);
        assert_eq!(json.stderr, plain.stderr, "{command:?}");
    }
    // Notes, warnings and errors go to stderr.
    let other = project.run(&["evaluate", "r", "--set", "split.seed=1", "--json"]).ok();
    let lines: Vec<&str> = other.stderr.lines().collect();
    assert!(lines[0].starts_with("warning: the run was trained on 15 of the 15"), "{lines:?}");
    assert!(
        lines[1].starts_with("note: these are not the photos that the run was first tested on"),
        "{lines:?}"
    );
    assert_eq!((lines.len(), other.stdout.lines().count()), (2, 5), "{}", other.stdout);
    let failed = project.run(&["train", "--json", "--head", "forest"]).fails(2, &["error: "]);
    assert_eq!(failed.stdout, "");
}
