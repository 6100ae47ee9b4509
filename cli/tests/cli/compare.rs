//! `headstock compare`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::support::{CLASSES, CommandOutput, Project, REPRODUCIBLE_FILES, demo_dir, field_paths};
use headstock_train::metrics::Metrics;

/// The candidate with the default hyperparameters of its head.
fn default_candidate(figures: &serde_json::Value, head: &str) -> serde_json::Value {
    let all = figures["candidates"].as_array().expect("candidates");
    let is_default = |entry: &&serde_json::Value| {
        entry["head"] == head && entry["changed"].as_object().is_some_and(serde_json::Map::is_empty)
    };
    all.iter().find(is_default).unwrap_or_else(|| panic!("{figures}")).clone()
}

/// The rows of the table below its header, split at white space.
fn table_rows(done: &CommandOutput) -> Vec<Vec<String>> {
    let lines = done.stdout.lines().skip_while(|line| !line.contains("vs. best")).skip(1);
    let rows = lines.take_while(|line| !line.is_empty());
    rows.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn compare_uses_the_training_split_and_trains_the_best_on_it() {
    let project = Project::new(0);
    let config = demo_dir().join("headstock.toml");
    let config = config.to_str().unwrap();
    let cache = format!("features.cache={}", project.path("cache").display());
    let arguments = ["compare", "--config", config, "--set", &cache, "--heads", "linear,svm", "--json"];
    let done = project.run(&[&arguments[..], &["--take-best", "--run", "best"]].concat()).ok();
    let figures = done.json();
    assert_eq!(
        (&figures["samples"], &figures["classes"], &figures["folds"]),
        (&300.into(), &10.into(), &5.into())
    );
    for head in ["linear", "svm"] {
        let accuracy = default_candidate(&figures, head)["accuracy"]["value"].as_f64().unwrap();
        assert!(accuracy > 0.7, "{head}: {accuracy}");
    }
    let table = table_rows(&done);
    assert_eq!(table.len(), 2, "one row per head: {}", done.stdout);
    assert!(table[0].contains(&"best".to_owned()), "{}", done.stdout);

    let best = &figures["candidates"][0];
    assert_eq!(figures["trained"]["head"], best["head"]);
    assert_eq!(figures["trained"]["counts"]["train"], 300);
    assert!(done.stdout.contains("run: best\n") && done.stdout.contains(" predict "), "{}", done.stdout);
    // `train` writes the same run.
    let again = project.path("best/headstock.toml");
    project.run(&["train", "--config", again.to_str().unwrap(), "--run", "again"]).ok();
    for file in REPRODUCIBLE_FILES {
        let read = |run: &str| fs::read(project.path(&format!("{run}/{file}"))).unwrap();
        assert!(read("best") == read("again"), "{file}");
    }
    let metrics: Metrics = serde_json::from_str(&project.read("best/metrics.json")).unwrap();
    assert_eq!(serde_json::from_value::<Metrics>(figures["trained"].clone()).unwrap(), metrics);
}

#[test]
fn the_suggested_command_trains_the_best() {
    let project = Project::with_features("compare/overlapping");
    let done = project.run(&["compare", "--heads", "svm", "--set", "split.seed=3", "--json"]).ok();
    let next = done.stdout.lines().find(|line| line.contains(" train ")).unwrap();
    let words: Vec<String> =
        next.split_whitespace().skip(1).map(|word| word.trim_matches('\'').to_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    project.run(&[&words[..], &["--run", "next"]].concat()).ok();
    let config: toml::Table = project.read("next/headstock.toml").parse().unwrap();
    let best = &done.json()["candidates"][0];
    let mut head = config["head"].as_table().unwrap().clone();
    assert_eq!(head.remove("kind").unwrap().as_str(), Some("svm"));
    assert_eq!(serde_json::to_value(head).unwrap(), best["parameters"]);
    assert_eq!(config["split"]["seed"].as_integer(), Some(3));
}

#[test]
fn the_suggested_command_has_the_overrides_and_the_changes_of_the_best() {
    let project = Project::with_features("compare/overlapping");
    let text = project.read("headstock.toml");
    project.write("my config.toml", &(text + "[head]\nkind = \"linear\"\nC = 10.0\n"));
    let compare =
        ["compare", "--config", "my config.toml", "--heads", "linear", "--set", "head.max_iter=500"];
    let done = project.run(&compare).ok();
    // The best candidate has the default value, which differs from the config.
    let expected = " train --config 'my config.toml' --set 'head.C=1.0' --set 'head.max_iter=500'";
    assert_suggests(&done.stdout, expected);
    // Another head than the config's gets the overrides that it has.
    let other = ["compare", "--heads", "svm", "--set", "head.max_iter=500", "--set", "split.seed=1"];
    let done = project.run(&other).ok();
    let expected = " train --head svm --set 'split.seed=1' --set 'head.max_iter=500'";
    assert_suggests(&done.stdout, expected);
    // Without a test set, the command trains on all photos already.
    let all = project.run(&[&other[..], &["--set", "split.test_size=0"]].concat()).ok();
    assert_eq!(all.stdout.matches("split.test_size=0").count(), 1, "{}", all.stdout);
}

/// Checks that the last two lines suggest `command`, and the same on all photos.
fn assert_suggests(stdout: &str, command: &str) {
    let lines: Vec<&str> = stdout.lines().rev().take(2).collect();
    assert!(lines[1].ends_with(command), "{stdout}");
    let on_all = format!("{command} --set split.test_size=0   # the same on all photos, without a test set");
    assert!(lines[0].ends_with(&on_all), "{stdout}");
}

#[test]
fn a_key_of_heads_reaches_each_compared_head_that_has_it() {
    let project = Project::with_features("compare/overlapping");
    let compare = |more: &[&str]| project.run(&[&["compare", "--folds", "2", "--json"], more].concat());
    let weighted = ["--heads", "knn,linear,svm", "--set", "head.class_weight=balanced"];
    let done = compare(&weighted).ok();
    let values: BTreeMap<String, BTreeSet<String>> = done.json()["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .fold(BTreeMap::new(), |mut values, candidate| {
            let head = candidate["head"].as_str().unwrap().to_owned();
            let value = candidate["parameters"]["class_weight"].to_string();
            values.entry(head).or_insert_with(BTreeSet::new).insert(value);
            values
        });
    let balanced = BTreeSet::from(["\"balanced\"".to_owned()]);
    assert_eq!((&values["linear"], &values["svm"]), (&balanced, &balanced));
    assert_eq!(values["knn"], BTreeSet::from(["null".to_owned()]));
    let note = "--set head.class_weight is set for linear, svm; these heads do not have the key: knn";
    assert!(done.stderr.contains(note), "{}", done.stderr);
    // A key that the head of the config does not have, and that all compared heads have.
    let done = compare(&["--heads", "knn", "--set", "head.metric=cosine"]).ok();
    assert!(!done.stderr.contains("do not have"), "{}", done.stderr);
    assert!(done.json()["candidates"][0]["parameters"]["metric"] == "cosine", "{}", done.stdout);

    compare(&["--heads", "knn,svm", "--set", "head.class_wieght=balanced"])
        .fails(2, &["none of the compared heads (knn, svm) has the key `class_wieght`"]);
    compare(&["--heads", "linear,ridge", "--set", "head.C=-1"])
        .fails(2, &["the head `linear` cannot be compared: `C` is -1"]);
    compare(&["--heads", "linear", "--set", "head.class_weight=7"]).fails(2, &["head `linear`"]);
}

#[test]
fn warnings_of_fits_are_shown_once_per_candidate_with_their_number() {
    let project = Project::with_features("compare/overlapping");
    let compare = ["compare", "--heads", "linear", "--set", "head.max_iter=1", "--json"];
    let done = project.run(&compare).ok();
    let best = done.json()["candidates"][0].clone();
    let warnings = best["warnings"].as_array().unwrap();
    assert!(warnings.len() > 1 && warnings.len() <= 5, "at most one per fold: {warnings:?}");
    let [first, more] =
        [warnings[0].as_str().unwrap(), &format!("(and {} similar warnings)", warnings.len() - 1)];
    assert_eq!(done.stderr, format!("warning: linear (C = 0.1, max_iter = 1): {first} {more}\n"));
    assert_eq!(best["changed"], serde_json::json!({ "C": 0.1, "max_iter": 1 }));
    let all = project.run(&[&compare[..], &["--all"]].concat()).ok();
    assert_eq!(all.stderr.lines().count(), 3, "one line per candidate in the table: {}", all.stderr);
}

// effect: compare --out, compare --all
#[test]
fn every_candidate_is_in_the_file_and_with_all_in_the_table() {
    let project = Project::with_features("compare/overlapping");
    let arguments = ["compare", "--heads", "linear,mlp,svm", "--all", "--metric", "log-loss", "--json"];
    let done = project.run(&[&arguments[..], &["--out", "tables/all.csv"]].concat()).ok();
    let figures = done.json();
    let candidates = figures["candidates"].as_array().expect("candidates");
    assert_eq!(table_rows(&done).len(), candidates.len(), "{}", done.stdout);

    let mut reader = csv::Reader::from_path(project.path("tables/all.csv")).unwrap();
    let header: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    assert_eq!(
        header[..6],
        ["head", "parameters", "state", "accuracy", "accuracy_to_best_low", "accuracy_to_best_high"]
    );
    let column = |name: &str| header.iter().position(|column| column == name).unwrap();
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), candidates.len());
    let mut before = f64::NEG_INFINITY;
    for (record, candidate) in records.iter().zip(candidates) {
        let number = |name: &str| -> f64 { record[column(name)].parse().unwrap() };
        assert_eq!((&record[0], &record[2]), (candidate["head"].as_str().unwrap(), "compared"));
        assert_eq!(number("log_loss"), candidate["log_loss"]["value"].as_f64().unwrap());
        assert_eq!(number("ece_to_best_high"), candidate["ece"]["to_best"]["high"].as_f64().unwrap());
        assert_eq!(number("bytes"), candidate["bytes"].as_f64().unwrap());
        assert!(number("log_loss") >= before, "the best is first");
        before = number("log_loss");
    }

    // The same in JSON; only files of ours are overwritten.
    project.run(&[&arguments[..], &["--out", "all.json"]].concat()).ok();
    let done = project.run(&[&arguments[..], &["--out", "all.json"]].concat()).ok();
    let written: serde_json::Value = serde_json::from_str(&project.read("all.json")).unwrap();
    assert_eq!(written, done.json());
    project.write("mine.json", "{}");
    project.write("mine.csv", "id,breed\n");
    for file in ["mine.json", "mine.csv"] {
        project.run(&["compare", "--out", file]).fails(2, &[file, "exists and is not"]);
    }
    project.run(&["compare", "--out", "all.txt"]).fails(2, &["ends in .csv or .json"]);
}

#[test]
fn candidates_tied_with_the_best_are_marked() {
    for name in ["compare/overlapping", "feature_file/separable"] {
        let project = Project::with_features(name);
        let done = project.run(&["compare", "--heads", "linear,svm", "--folds", "3", "--all", "--json"]).ok();
        let figures = done.json();
        let (candidates, rows) = (figures["candidates"].as_array().unwrap(), table_rows(&done));
        assert_eq!(rows.len(), candidates.len(), "{}", done.stdout);
        let mut marked = 0;
        for (row, candidate) in rows.iter().zip(candidates).skip(1) {
            let to_best = |end: &str| candidate["accuracy"]["to_best"][end].as_f64().unwrap();
            let tied = to_best("low") <= 0.0 && to_best("high") >= 0.0;
            assert_eq!((&candidate["tied"], row[0] == "~"), (&tied.into(), tied), "{}", done.stdout);
            marked += usize::from(tied);
        }
        assert_eq!(
            done.stdout.contains("~ not significantly worse than the best"),
            marked > 0,
            "{}",
            done.stdout
        );
    }
}

#[test]
fn groups_stay_in_one_fold_and_divided_ones_are_reported() {
    let project = Project::with_features("compare/grouped");
    let done = project.run(&["compare", "--heads", "linear", "--json"]).ok();
    assert_eq!(done.json()["groups"], 30);
    assert!(done.stdout.contains("135 photos in 30 groups"), "{}", done.stdout);
    let divided = "groups (photos that belong together, such as photos of one dog) have photos in both";
    assert_eq!(done.stderr.matches(divided).count(), 1, "{}", done.stderr);
    let trained = project.run(&["train"]).ok();
    assert_eq!(trained.stderr.matches(divided).count(), 1, "{}", trained.stderr);
}

#[test]
fn images_of_a_table_have_groups_and_augmented_views() {
    let project = Project::new(6);
    let rows = CLASSES.iter().flat_map(|class| {
        (0..6).map(move |number| format!("{class}/{number:02},{class},day {}\n", number % 3))
    });
    project.write("labels.csv", &("id,label,day\n".to_owned() + &rows.collect::<String>()));
    let data = "csv = \"labels.csv\"\nimages = \"photos\"\nextension = \"jpg\"\ngroup = \"day\"";
    let augment = "[features]\nviews = 1\n[augment]\nhorizontal_flip = 1.0\n";
    project.write("headstock.toml", &(Project::config(data) + augment));
    let compare = ["compare", "--heads", "linear", "--folds", "2", "--json"];
    let done = project.run(&compare).ok();
    assert_eq!((&done.json()["groups"], &done.json()["views"]), (&3.into(), &1.into()));
    let with = default_candidate(&done.json(), "linear");
    let plain = project.run(&[&compare[..], &["--set", "features.views=0"]].concat()).ok();
    assert_ne!(default_candidate(&plain.json(), "linear")["log_loss"], with["log_loss"]);
    project
        .run(&["compare", "--folds", "4"])
        .fails(3, &["4 folds are too many for 3 groups", "lower `--folds`"]);
}

#[test]
fn compare_uses_the_frozen_backbone_even_if_the_config_fine_tunes() {
    let project = Project::new(6);
    let compare = ["compare", "--heads", "linear", "--folds", "2", "--json"];
    let plain = project.run(&compare).ok();
    let note =
        "this command does not fine-tune the backbone: the section [tune] of the config file is not used";
    assert!(!plain.stderr.contains(note), "{}", plain.stderr);
    let tuning = ["--set", "tune.from=layer4", "--take-best", "--run", "best"];
    let done = project.run(&[&compare[..], &tuning].concat()).ok();
    assert!(done.stderr.contains(note), "{}", done.stderr);
    assert_eq!(
        default_candidate(&done.json(), "linear")["log_loss"],
        default_candidate(&plain.json(), "linear")["log_loss"]
    );
    assert!(!project.read("best/headstock.toml").contains("from = \"layer4\""));
}

#[test]
fn a_budget_of_0_is_refused() {
    let project = Project::with_features("compare/overlapping");
    let done = project.run(&["compare", "--budget", "0"]).fails(2, &["--budget"]);
    assert_eq!(done.stdout, "");
    let long = project.run(&["compare", "--heads", "linear,svm", "--budget", "1e6"]).ok();
    assert!(!long.stdout.contains("not tried"), "{}", long.stdout);
    for budget in ["-1", "soon", "NaN"] {
        project.run(&["compare", &format!("--budget={budget}")]).fails(2, &["--budget"]);
    }
}

#[test]
fn invalid_comparisons_are_refused_at_the_start() {
    let project = Project::with_features("compare/overlapping");
    project
        .run(&["compare", "--heads", "linear,forest"])
        .fails(2, &["there is no head `forest`: choose one of"]);
    project.run(&["compare", "--heads", "svm,svm"]).fails(2, &["`svm` is named twice"]);
    project.run(&["compare", "--folds", "1"]).fails(2, &["--folds"]);
    project.run(&["compare", "--folds", "100"]).fails(3, &["100 folds", "largest class", "lower `--folds`"]);
    project.run(&["compare", "--run", "x"]).fails(2, &["--take-best"]);
    project.write("taken/file", "");
    project.run(&["compare", "--take-best", "--run", "taken"]).fails(2, &["taken already exists"]);
}

// effect: compare --folds, compare --seed
#[test]
fn folds_and_seed_are_those_of_scikit_learns_stratified_k_fold() {
    let golden: BTreeMap<String, BTreeMap<String, f64>> =
        serde_json::from_str(include_str!("../../../reference/compare/folds.json")).unwrap();
    let project = Project::with_features("compare/overlapping");
    let cases: [(&str, u32, u32, &[&str]); 4] = [
        ("5 folds, seed 0", 5, 0, &[]),
        ("5 folds, seed 0", 5, 0, &["--folds", "5", "--seed", "0"]),
        ("5 folds, seed 3", 5, 3, &["--seed", "3"]),
        ("4 folds, seed 0", 4, 0, &["--folds", "4"]),
    ];
    for (name, folds, seed, more) in cases {
        let compare = ["compare", "--heads", "linear", "--set", "head.tol=1e-9", "--json"];
        let done = project.run(&[&compare, more].concat()).ok();
        let figures = done.json();
        assert_eq!((&figures["folds"], &figures["seed"]), (&folds.into(), &seed.into()));
        assert!(
            done.stdout.starts_with(&format!(
                "{folds}-fold cross-validation on 135 photos, 3 classes: 3 candidates "
            ))
        );
        let candidates = figures["candidates"].as_array().unwrap();
        let entry = candidates.iter().find(|entry| entry["parameters"]["C"] == 1.0).unwrap();
        assert_eq!(entry["temperatures"].as_array().unwrap().len(), folds as usize);
        for (figure, expected) in &golden[name] {
            let found = entry[figure]["value"].as_f64().unwrap();
            assert!((found - expected).abs() < 2e-5, "{name}, {figure}: {found}, not {expected}");
        }
    }
}

/// Value of `--metric`, JSON field, whether higher is better, and column of the table.
const CRITERIA: [(&str, &str, bool, &str); 3] = [
    ("accuracy", "accuracy", true, "accuracy"),
    ("macro-f1", "macro_f1", true, "macro F1"),
    ("log-loss", "log_loss", false, "log-loss"),
];

// effect: compare --metric, compare --all
#[test]
fn candidates_are_ranked_by_the_metric() {
    let project = Project::with_features("compare/overlapping");
    let mut orders = Vec::new();
    for (metric, field, highest, title) in CRITERIA {
        let compare = ["compare", "--heads", "knn,linear,nearest-mean,ridge", "--all", "--json"];
        // Accuracy is the default.
        let flag = if metric == "accuracy" { vec![] } else { vec!["--metric", metric] };
        let done = project.run(&[&compare[..], &flag].concat()).ok();
        let figures = done.json();
        assert_eq!(figures["by"], metric);
        assert!(done.stdout.contains(&format!("10 candidates ranked by {title} in ")), "{}", done.stdout);
        let candidates = figures["candidates"].as_array().unwrap();
        let values: Vec<f64> =
            candidates.iter().map(|entry| entry[field]["value"].as_f64().unwrap()).collect();
        let sorted = values.is_sorted_by(|a, b| if highest { a >= b } else { a <= b });
        assert!(sorted && values[0] != values[9], "{metric}: {values:?}");
        for entry in candidates {
            let to_best = &entry[field]["to_best"];
            let holds_0 = to_best["low"].as_f64() <= Some(0.0) && to_best["high"].as_f64() >= Some(0.0);
            assert_eq!(entry["tied"], holds_0, "{metric}: {entry}");
        }
        // The interval follows the column of the metric.
        let header = done.stdout.lines().find(|line| line.contains("vs. best")).unwrap();
        let words: Vec<&str> = header.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
        let mut expected = vec!["head", "accuracy", "macro F1", "log-loss", "calibration error"];
        expected.insert(expected.iter().position(|word| *word == title).unwrap() + 1, "vs. best");
        expected.extend(["fit", "predict", "size", "hyperparameters"]);
        assert_eq!(words, expected);
        let line = done.stdout.lines().find(|line| line.contains(" .. ")).unwrap();
        let to_best = &candidates[1][field]["to_best"];
        let end = |name: &str| format!("{:+.3}", to_best[name].as_f64().unwrap());
        assert!(line.contains(&format!("{:.3}  {} .. {}  ", values[1], end("low"), end("high"))), "{line}");
        orders.push(
            candidates
                .iter()
                .map(|entry| [&entry["head"], &entry["changed"]])
                .map(|pair| to_json(&pair))
                .collect::<Vec<_>>(),
        );
    }
    // The three metrics rank these candidates differently, so a wrong metric would fail.
    assert!(orders[0] != orders[1] && orders[0] != orders[2] && orders[1] != orders[2]);
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("the value is JSON")
}

// effect: compare --heads, compare --all
#[test]
fn heads_selects_the_heads_and_all_shows_every_candidate() {
    let project = Project::with_features("feature_file/separable");
    let compare = |more: &[&str]| project.run(&[&["compare", "--folds", "2", "--json"], more].concat()).ok();
    let heads = |done: &CommandOutput| -> BTreeSet<String> {
        let figures = done.json();
        let all = figures["candidates"].as_array().unwrap();
        all.iter().map(|entry| entry["head"].as_str().unwrap().to_owned()).collect()
    };
    let all = ["cosine", "knn", "lda", "linear", "mlp", "nearest-mean", "ridge", "svm"];
    let done = compare(&[]);
    assert_eq!(heads(&done).iter().collect::<Vec<_>>(), all);
    assert_eq!(table_rows(&done).len(), 8, "one row per head: {}", done.stdout);
    let two = compare(&["--heads", "ridge,knn"]);
    assert_eq!(heads(&two).iter().collect::<Vec<_>>(), ["knn", "ridge"]);
    assert_eq!(table_rows(&two).len(), 2, "{}", two.stdout);
    let every = compare(&["--heads", "ridge,knn", "--all"]);
    assert_eq!(table_rows(&every).len(), 5, "four candidates of knn and one of ridge: {}", every.stdout);
}

// effect: compare --take-best, compare --run, compare --run x compare --take-best
#[test]
fn take_best_trains_into_the_named_or_the_next_run() {
    let project = Project::with_features("compare/overlapping");
    let compare = ["compare", "--heads", "linear,svm", "--json"];
    let plain = project.run(&compare).ok();
    assert!(plain.json().get("trained").is_none() && !project.path("runs").exists());
    assert!(plain.stdout.contains("\nnext:\n  "), "{}", plain.stdout);
    let best = &plain.json()["candidates"][0];
    assert_eq!((&best["head"], &best["changed"]), (&"svm".into(), &serde_json::json!({ "C": 0.1 })));

    let by_hand = ["train", "--head", "svm", "--set", "head.C=0.1", "--run", "by-hand", "--json"];
    let by_hand = project.run(&by_hand).ok().json();
    for (run, more) in [("named", vec!["--run", "named"]), ("runs/svm-1", vec![]), ("runs/svm-2", vec![])] {
        let done = project.run(&[&compare[..], &["--take-best"], &more].concat()).ok();
        assert!(
            !done.stdout.contains(" --head svm --set"),
            "no command is suggested after training: {}",
            done.stdout
        );
        let trained = done.json()["trained"].clone();
        assert_eq!((&trained["run"], &trained["head"]), (&run.into(), &"svm".into()));
        assert_eq!(field_paths(&trained), field_paths(&by_hand));
        for file in REPRODUCIBLE_FILES {
            let read = |run: &str| fs::read(project.path(&format!("{run}/{file}"))).unwrap();
            assert!(read(run) == read("by-hand"), "{run}: {file}");
        }
    }
}

// effect: compare --budget
#[test]
fn the_budget_is_in_seconds() {
    let project = Project::with_features("feature_file/separable");
    let compare = |budget| project.run(&["compare", "--folds", "2", "--heads", "knn", "--budget", budget]);
    for spent in ["0", "0.000000001"] {
        compare(spent).fails(2, &["the time budget ended before the first head was fitted", "--budget"]);
    }
    let done = compare("100000").ok();
    assert!(done.stdout.contains(": 4 candidates ranked by accuracy"), "{}", done.stdout);
    assert!(!done.stdout.contains("not tried"), "{}", done.stdout);
}

// effect: --json, compare --out
#[test]
fn the_json_of_a_comparison_has_these_fields() {
    let project = Project::with_features("compare/grouped");
    let compare = ["compare", "--heads", "knn,ridge", "--folds", "3", "--seed", "2", "--out", "c.json"];
    let done = project.run(&[&compare[..], &["--json"]].concat()).ok();
    let figures = done.json();
    let mut expected: Vec<String> = [
        "by",
        "classes",
        "comparison",
        "coverage",
        "features",
        "folds",
        "groups",
        "resamples",
        "samples",
        "seconds",
        "seed",
        "views",
        "candidates[].bytes",
        "candidates[].changed",
        "candidates[].changed.k",
        "candidates[].changed.weights",
        "candidates[].chosen",
        "candidates[].chosen[].parameter",
        "candidates[].chosen[].values",
        "candidates[].fit_seconds",
        "candidates[].head",
        "candidates[].parameters.alpha",
        "candidates[].parameters.alphas",
        "candidates[].parameters.class_weight",
        "candidates[].parameters.k",
        "candidates[].parameters.metric",
        "candidates[].parameters.weights",
        "candidates[].predict_seconds",
        "candidates[].state",
        "candidates[].temperatures",
        "candidates[].tied",
        "candidates[].warnings",
    ]
    .map(str::to_owned)
    .to_vec();
    for figure in ["accuracy", "ece", "log_loss", "macro_f1"] {
        for field in ["value", "to_best.high", "to_best.low"] {
            expected.push(format!("candidates[].{figure}.{field}"));
        }
    }
    expected.sort();
    // `changed` is an empty table for default candidates.
    let mut found = field_paths(&figures);
    found.push("candidates[].changed".into());
    found.sort();
    found.dedup();
    assert_eq!(found, expected);
    let mut whole = figures.clone();
    let top = whole.as_object_mut().unwrap();
    let candidates = top.remove("candidates").unwrap();
    assert!(top.remove("seconds").unwrap().as_f64().unwrap() > 0.0);
    let counts = serde_json::json!({
        "comparison": 1, "by": "accuracy", "folds": 3, "seed": 2, "samples": 135, "groups": 30,
        "classes": 3, "features": 4, "views": 0, "resamples": 2000, "coverage": 0.95,
        "passed_over": {},
    });
    assert_eq!(whole, counts);
    let ridge = candidates.as_array().unwrap().iter().find(|entry| entry["head"] == "ridge").unwrap();
    assert_eq!((&ridge["state"], &ridge["warnings"]), (&"compared".into(), &serde_json::json!([])));
    // Three classes with 4 weights and a bias each, in `f32`.
    assert_eq!((&ridge["bytes"], &ridge["changed"]), (&60.into(), &serde_json::json!({})));
    assert_eq!(ridge["chosen"][0]["parameter"], "alpha");
    assert_eq!(ridge["chosen"][0]["values"].as_array().unwrap().len(), 3, "one per fold");
    assert_eq!(ridge["parameters"]["alpha"], "auto");
    let written: serde_json::Value = serde_json::from_str(&project.read("c.json")).unwrap();
    assert_eq!(written, figures);
}

#[test]
fn failed_heads_are_listed_with_the_reason_and_the_status_is_3_if_all_fail() {
    let project = Project::with_features("feature_file/separable");
    let compare = |heads: &str| {
        let diverging = ["--set", "head.kind=mlp", "--set", "head.lr=1e30", "--json"];
        project.run(&[&["compare", "--heads", heads][..], &diverging].concat())
    };
    let two = compare("lda,mlp").ok();
    let failed = two.json()["candidates"].as_array().unwrap().last().unwrap().clone();
    let names: BTreeSet<&str> = failed.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["changed", "error", "head", "parameters", "state"]));
    assert_eq!((&failed["head"], &failed["state"]), (&"mlp".into(), &"failed".into()));
    let why = failed["error"].as_str().unwrap();
    assert!(why.starts_with("the loss is NaN in epoch 1"), "{why}");
    assert!(two.stdout.contains(&format!(" failed: {why}\n")), "{}", two.stdout);
    let none = compare("mlp").fails(3, &["error: no head could be fitted in every fold"]);
    assert!(
        none.json()["candidates"][0]["error"] == why && !none.stdout.contains("next:"),
        "{}",
        none.stdout
    );
}
