//! Heads against each other, through the program.

use std::fs;
use std::path::Path;

use crate::support::{CLASSES, Done, Project, SAME_BYTES, demo};
use headstock_train::metrics::Metrics;

/// A project with features made elsewhere in place of photos: those of `reference/NAME.npz`.
fn given(name: &str) -> Project {
    let project = Project::new(0);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../reference/{name}.npz"));
    fs::copy(path, project.path("x.npz")).expect("a copy");
    project.write("headstock.toml", "version = 1\n[data]\nfeatures = \"x.npz\"\n");
    project
}

/// The figures of a candidate that changes nothing of its head's defaults.
fn defaults_of(figures: &serde_json::Value, head: &str) -> serde_json::Value {
    let all = figures["candidates"].as_array().expect("candidates");
    let plain = |entry: &&serde_json::Value| {
        entry["head"] == head && entry["changed"].as_object().is_some_and(serde_json::Map::is_empty)
    };
    all.iter().find(plain).unwrap_or_else(|| panic!("{figures}")).clone()
}

/// The lines of the table below its header, by head.
fn rows(done: &Done) -> Vec<Vec<String>> {
    let lines = done.stdout.lines().skip_while(|line| !line.contains("to the best")).skip(1);
    let rows = lines.take_while(|line| !line.is_empty());
    rows.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn the_demo_is_compared_on_its_training_part_and_the_best_is_trained_on_all_of_it() {
    let project = Project::new(0);
    let config = demo().join("headstock.toml");
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
        let accuracy = defaults_of(&figures, head)["accuracy"]["value"].as_f64().unwrap();
        assert!(accuracy > 0.7, "{head}: {accuracy}");
    }
    let table = rows(&done);
    assert_eq!(table.len(), 2, "a row a head: {}", done.stdout);
    assert!(table[0].contains(&"best".to_owned()), "{}", done.stdout);

    let best = &figures["candidates"][0];
    assert_eq!(figures["trained"]["head"], best["head"]);
    assert_eq!(figures["trained"]["counts"]["train"], 300);
    assert!(done.stdout.contains("run: best\n") && done.stdout.contains(" predict "), "{}", done.stdout);
    // It is the run that `train` writes.
    let again = project.path("best/headstock.toml");
    project.run(&["train", "--config", again.to_str().unwrap(), "--run", "again"]).ok();
    for file in SAME_BYTES {
        let read = |run: &str| fs::read(project.path(&format!("{run}/{file}"))).unwrap();
        assert!(read("best") == read("again"), "{file}");
    }
    let metrics: Metrics = serde_json::from_str(&project.read("best/metrics.json")).unwrap();
    assert_eq!(serde_json::from_value::<Metrics>(figures["trained"].clone()).unwrap(), metrics);
}

#[test]
fn the_command_that_comes_next_trains_the_best() {
    let project = given("compare/overlapping");
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
fn every_candidate_is_in_the_file_and_with_all_in_the_table() {
    let project = given("compare/overlapping");
    let arguments = ["compare", "--heads", "linear,mlp,svm", "--all", "--by", "log-loss", "--json"];
    let done = project.run(&[&arguments[..], &["--out", "tables/all.csv"]].concat()).ok();
    let figures = done.json();
    let candidates = figures["candidates"].as_array().expect("candidates");
    assert_eq!(rows(&done).len(), candidates.len(), "{}", done.stdout);

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

    // The same again in JSON, over what is ours, and over nothing else.
    project.run(&[&arguments[..], &["--out", "all.json"]].concat()).ok();
    let done = project.run(&[&arguments[..], &["--out", "all.json"]].concat()).ok();
    let written: serde_json::Value = serde_json::from_str(&project.read("all.json")).unwrap();
    assert_eq!(written, done.json());
    project.write("mine.json", "{}");
    project.write("mine.csv", "id,breed\n");
    for file in ["mine.json", "mine.csv"] {
        project.run(&["compare", "--out", file]).fails(2, &[file, "is there already"]);
    }
    project.run(&["compare", "--out", "all.txt"]).fails(2, &["known: .csv, .json"]);
}

#[test]
fn what_may_be_as_good_as_the_best_is_marked_and_what_is_worse_is_not() {
    for name in ["compare/overlapping", "feature_file/separable"] {
        let project = given(name);
        let done = project.run(&["compare", "--heads", "linear,svm", "--folds", "3", "--all", "--json"]).ok();
        let figures = done.json();
        let (candidates, rows) = (figures["candidates"].as_array().unwrap(), rows(&done));
        assert_eq!(rows.len(), candidates.len(), "{}", done.stdout);
        let mut marked = 0;
        for (row, candidate) in rows.iter().zip(candidates).skip(1) {
            let to_best = |end: &str| candidate["accuracy"]["to_best"][end].as_f64().unwrap();
            let tied = to_best("low") <= 0.0 && to_best("high") >= 0.0;
            assert_eq!((&candidate["tied"], row[0] == "~"), (&tied.into(), tied), "{}", done.stdout);
            marked += usize::from(tied);
        }
        assert_eq!(done.stdout.contains("~ may be as good as the best"), marked > 0, "{}", done.stdout);
    }
}

#[test]
fn groups_are_kept_together_and_those_that_the_split_divides_are_told() {
    let project = given("compare/grouped");
    let done = project.run(&["compare", "--heads", "linear", "--json"]).ok();
    assert_eq!(done.json()["groups"], 30);
    assert!(done.stdout.contains("135 samples in 30 groups"), "{}", done.stdout);
    let divided = "groups are both trained on and tested on";
    assert_eq!(done.stderr.matches(divided).count(), 1, "{}", done.stderr);
    let trained = project.run(&["train"]).ok();
    assert_eq!(trained.stderr.matches(divided).count(), 1, "{}", trained.stderr);
}

#[test]
fn photos_of_a_table_have_groups_too_and_augmented_views_are_fitted_on() {
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
    let with = defaults_of(&done.json(), "linear");
    let plain = project.run(&[&compare[..], &["--set", "features.views=0"]].concat()).ok();
    assert_ne!(defaults_of(&plain.json(), "linear")["log_loss"], with["log_loss"]);
    project.run(&["compare", "--folds", "4"]).fails(3, &["--folds 4", "4 folds are more than 3 groups"]);
}

#[test]
fn a_budget_that_is_spent_at_once_leaves_nothing_to_compare() {
    let project = given("compare/overlapping");
    let done = project.run(&["compare", "--budget", "0"]).fails(2, &["--budget"]);
    assert_eq!(done.stdout, "");
    let long = project.run(&["compare", "--heads", "linear,svm", "--budget", "1e6"]).ok();
    assert!(!long.stdout.contains("left out"), "{}", long.stdout);
    for budget in ["-1", "soon", "NaN"] {
        project.run(&["compare", &format!("--budget={budget}")]).fails(2, &["--budget"]);
    }
}

#[test]
fn what_cannot_be_compared_is_refused_before_the_work() {
    let project = given("compare/overlapping");
    project.run(&["compare", "--heads", "linear,forest"]).fails(2, &["there is no head `forest`; known:"]);
    project.run(&["compare", "--heads", "svm,svm"]).fails(2, &["`svm` is named twice"]);
    project.run(&["compare", "--folds", "1"]).fails(2, &["--folds"]);
    project.run(&["compare", "--folds", "100"]).fails(3, &["--folds 100", "largest class"]);
    project.run(&["compare", "--run", "x"]).fails(2, &["--take-best"]);
    project.write("taken/file", "");
    project.run(&["compare", "--take-best", "--run", "taken"]).fails(2, &["taken is there already"]);
}
