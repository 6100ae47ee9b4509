//! What each flag and argument does, on features in a file: no photo is read and no network runs.

use std::fs;

use crate::support::{Project, SAME_BYTES, done, table};

/// The settings of a run.
fn settings(project: &Project, run: &str) -> toml::Table {
    project.read(&format!("{run}/headstock.toml")).parse().expect("a config is TOML")
}

/// Fails unless two runs have the same model, split and predictions.
#[track_caller]
fn same(project: &Project, one: &str, other: &str) {
    for file in SAME_BYTES {
        let read = |run: &str| fs::read(project.path(&format!("{run}/{file}"))).expect("a run has the file");
        assert!(read(one) == read(other), "{one} and {other}: {file}");
    }
}

// effect: --config, train --run
#[test]
fn a_config_that_is_named_is_read_in_place_of_headstock_toml_and_its_paths_begin_where_it_lies() {
    let project = Project::given("feature_file/separable");
    fs::create_dir(project.path("elsewhere")).unwrap();
    fs::rename(project.path("x.npz"), project.path("elsewhere/y.npz")).unwrap();
    project.run(&["train"]).fails(3, &["x.npz"]);
    project.write("elsewhere/my.toml", "version = 1\n[data]\nfeatures = \"y.npz\"\n[split]\nseed = 7\n");
    // Runs lie where the command is called.
    let told = project.run(&["train", "--config", "elsewhere/my.toml", "--json"]).ok().json();
    assert_eq!(told["run"], "runs/linear-1");
    assert_eq!(settings(&project, "runs/linear-1")["split"]["seed"].as_integer(), Some(7));
    let again = ["train", "--config", "elsewhere/my.toml", "--run", "elsewhere/run", "--json"];
    assert_eq!(project.run(&again).ok().json()["run"], "elsewhere/run");
    same(&project, "runs/linear-1", "elsewhere/run");
    assert!(!project.path("runs/linear-2").exists());
}

// effect: train --run
#[test]
fn a_run_without_a_name_is_the_next_of_its_head() {
    let project = Project::given("feature_file/separable");
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
    let project = Project::given("compare/overlapping");
    let text = project.read("headstock.toml");
    project.write("headstock.toml", &(text + "[head]\nkind = \"linear\"\nC = 0.03\n"));
    project.run(&["train", "--head", "svm", "--run", "flag"]).ok();
    project.run(&["train", "--set", "head.kind=svm", "--run", "key"]).ok();
    same(&project, "flag", "key");
    let head = settings(&project, "flag")["head"].clone();
    // The default of LinearSVC here, not the config's 0.03 of another head.
    assert_eq!((head["kind"].as_str(), head["C"].as_float()), (Some("svm"), Some(0.01)));
    // What the user sets comes after it, wherever it stands.
    project.run(&["train", "--set", "head.C=5", "--head", "svm", "--run", "both"]).ok();
    assert_eq!(settings(&project, "both")["head"]["C"].as_float(), Some(5.0));
    let same_head = project.run(&["train", "--head", "linear", "--run", "kept"]).ok();
    assert_eq!(settings(&project, "kept")["head"]["C"].as_float(), Some(0.03), "{}", same_head.stderr);
    project.run(&["train", "--head", "svm", "--set", "head.kind=ridge", "--run", "last"]).ok();
    assert_eq!(settings(&project, "last")["head"]["kind"].as_str(), Some("ridge"));
}

// effect: --set
#[test]
fn overrides_are_toml_or_else_text_and_the_last_one_of_a_key_counts() {
    let project = Project::given("compare/overlapping");
    let train = |run: &str, overrides: &[&str]| {
        let overrides: Vec<&str> = overrides.iter().flat_map(|text| ["--set", text]).collect();
        project.run(&[&["train", "--run", run], &overrides[..]].concat())
    };
    train("last", &["split.seed=3", "split.seed=4"]).ok();
    assert_eq!(settings(&project, "last")["split"]["seed"].as_integer(), Some(4));
    train("spaces", &[" split.seed = 5 ", "calibration = none"]).ok();
    let spaces = settings(&project, "spaces");
    assert_eq!(spaces["split"]["seed"].as_integer(), Some(5));
    assert_eq!(spaces["calibration"].as_str(), Some("none"));
    train("quoted", &["calibration='isotonic'", "data.class_order=\"appearance\""]).ok();
    let quoted = settings(&project, "quoted");
    assert_eq!(quoted["calibration"].as_str(), Some("isotonic"));
    assert_eq!(quoted["data"]["class_order"].as_str(), Some("appearance"));
    train("table", &["head={kind=\"ridge\", alpha=2.5}"]).ok();
    let table = settings(&project, "table");
    assert_eq!(
        (table["head"]["kind"].as_str(), table["head"]["alpha"].as_float()),
        (Some("ridge"), Some(2.5))
    );
    train("x", &["split"]).fails(2, &["--set split: write KEY=VALUE"]);
    train("x", &["split..seed=1"]).fails(2, &["--set split..seed=1: the key has an empty part"]);
    train("x", &["version=2"]).fails(2, &["--set version=2", "cannot be overridden"]);
    train("x", &["calibration=none", "calibration.x=1"])
        .fails(2, &["`calibration` is a value, not a section"]);
    train("x", &["split.sed=1"]).fails(2, &["there is no key `split.sed`; did you mean `split.seed`?"]);
    assert!(!project.path("x").exists());
}

/// The class of each row of a run's split, by its path, for the rows of `part`.
fn tested(project: &Project, file: &str) -> Vec<String> {
    let rows = table(&project.read(file));
    rows.into_iter().filter(|row| row["split"] == "test").map(|row| row["path"].clone()).collect()
}

// effect: --config, --set, evaluate RUN
#[test]
fn a_run_is_used_with_its_own_settings_or_with_those_that_are_named() {
    let project = Project::given("compare/overlapping");
    project.run(&["train", "--set", "split.seed=4", "--run", "r"]).ok();
    project.run(&["train", "--head", "knn", "--set", "split.seed=4", "--run", "other"]).ok();
    let figures =
        |run: &str, more: &[&str]| project.run(&[&["evaluate", run, "--json"], more].concat()).ok().json();
    let metrics = |run: &str| -> serde_json::Value {
        serde_json::from_str(&project.read(&format!("{run}/metrics.json"))).unwrap()
    };
    let alike = |one: &serde_json::Value, other: &serde_json::Value| {
        ["top1", "top5", "macro_f1", "log_loss", "ece"].iter().all(|name| one[*name] == other[*name])
    };
    // Its own, whatever headstock.toml says now: that names seed 0.
    assert!(alike(&figures("r", &[]), &metrics("r")) && alike(&figures("other", &[]), &metrics("other")));
    assert!(!alike(&metrics("r"), &metrics("other")));
    // Those of --config: the test part of seed 0.
    project.run(&["split", "--out", "0.csv"]).ok();
    assert_ne!(tested(&project, "0.csv"), tested(&project, "r/split.csv"));
    let named = figures("r", &["--config", "headstock.toml"]);
    assert_eq!((&named["same_samples"], &named["samples"]), (&false.into(), &15.into()));
    let as_set = figures("r", &["--set", "split.seed=0"]);
    assert!(alike(&named, &as_set) && !alike(&named, &metrics("r")));
    // For a run's own config a relative path begins where the command is called.
    fs::create_dir(project.path("sub")).unwrap();
    fs::copy(project.path("x.npz"), project.path("sub/y.npz")).unwrap();
    let here = ["evaluate", "../r", "--set", "data.features=y.npz", "--json"];
    let here = done(project.command(&here).current_dir(project.path("sub"))).ok().json();
    assert!(alike(&here, &metrics("r")), "{here}");
    let config = ["evaluate", "../r", "--config", "../headstock.toml", "--set", "data.features=y.npz"];
    done(project.command(&config).current_dir(project.path("sub"))).fails(3, &["y.npz"]);
}

// effect: split --out
#[test]
fn the_table_of_a_split_has_every_row_with_its_class_and_its_part() {
    let project = Project::given("feature_file/separable");
    let done = project.run(&["split", "--out", "tables/s.csv", "--json"]).ok();
    assert_eq!(done.stdout.lines().next(), Some("tables/s.csv: 36 to train on, 4 to test on"));
    let figures = serde_json::json!({ "out": "tables/s.csv", "classes": 2, "train": 36, "test": 4 });
    assert_eq!(done.json(), figures);
    let rows = table(&project.read("tables/s.csv"));
    assert_eq!(rows.len(), 40);
    for (number, row) in rows.iter().enumerate() {
        // The labels are the parity of the row, as reference/feature_file/make.py says.
        assert_eq!((&row["path"], &row["label"]), (&number.to_string(), &(number % 2).to_string()));
        assert!(row.len() == 3 && ["train", "test"].contains(&row["split"].as_str()), "{row:?}");
    }
    // scikit-learn: StratifiedShuffleSplit(n_splits=1, test_size=0.1, random_state=0) of these labels.
    assert_eq!(tested(&project, "tables/s.csv"), TESTED);
    project.run(&["train", "--run", "r"]).ok();
    assert_eq!(project.read("r/split.csv"), project.read("tables/s.csv"));
}

const TESTED: [&str; 4] = ["13", "15", "24", "30"];

// effect: train --warm
#[test]
fn a_warm_start_begins_at_the_optimum_of_the_run_and_ends_there() {
    let project = Project::given("compare/overlapping");
    project.run(&["train", "--run", "cold", "--set", "head.tol=1e-9"]).ok();
    let warm = ["train", "--warm", "cold", "--run", "warm", "--set", "head.tol=1e-9"];
    project.run(&warm).ok();
    let objectives = |run: &str| -> Vec<f64> {
        let rows = table(&project.read(&format!("{run}/history.csv")));
        rows.iter().map(|row| row["objective"].parse().unwrap()).collect()
    };
    let (cold, warm) = (objectives("cold"), objectives("warm"));
    let best = cold.last().unwrap();
    assert!(cold[0] > 1.5 * best, "from nothing it has far to go: {cold:?}");
    assert!((warm[0] - best).abs() < 1e-6 * best && warm.len() < cold.len() / 2, "{warm:?} after {best}");
}

// effect: heads NAME
#[test]
fn the_head_that_is_named_is_described_alone() {
    let project = Project::given("feature_file/separable");
    let listed = project.run(&["heads"]).ok().stdout;
    assert_eq!(listed.lines().count(), 8 + 2, "{listed}");
    let shown = project.run(&["heads", "knn"]).ok().stdout;
    let head: toml::Table = shown.parse().expect("it can be pasted");
    let expected = "[head]\nkind = \"knn\"\nk = 5\nweights = \"uniform\"\nmetric = \"euclidean\"\n";
    assert_eq!(head, expected.parse().unwrap());
    assert!(shown.starts_with("# knn: ") && !shown.contains("svm"), "{shown}");
}

// effect: --json
#[test]
fn json_adds_one_line_to_stdout_and_changes_no_other() {
    let project = Project::given("compare/overlapping");
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
    // Notes, warnings and errors go to stderr, so that stdout holds figures alone.
    let other = project.run(&["evaluate", "r", "--set", "split.seed=1", "--json"]).ok();
    let told: Vec<&str> = other.stderr.lines().collect();
    assert!(told[0].starts_with("warning: the run was trained on 15 of these 15"), "{told:?}");
    assert!(told[1].starts_with("note: these are not the samples that the run was tested on"), "{told:?}");
    assert_eq!((told.len(), other.stdout.lines().count()), (2, 5), "{}", other.stdout);
    let failed = project.run(&["train", "--json", "--head", "forest"]).fails(2, &["error: "]);
    assert_eq!(failed.stdout, "");
}
