//! The pages of docs/jobs about runs and later photos: their commands as they stand, and what comes out.

use std::collections::BTreeMap;

use crate::jobs::type_page;
use crate::support::{Project, parse_csv};

fn predictions(project: &Project, run: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let rows = parse_csv(&project.read(&format!("{run}/predictions.csv")));
    rows.into_iter().map(|row| (row["path"].clone(), row)).collect()
}

/// The accuracies come from the `predictions.csv` of the runs.
#[test]
fn new_images_arrive() {
    let project = type_page("new-photos-arrive");
    let (old, new) = (predictions(&project, "runs/linear-1"), predictions(&project, "runs/linear-2"));
    assert!(old.keys().all(|path| new.contains_key(path)), "photos that come later do not move others");
    let text = project.read("comparison.json");
    let found: serde_json::Value = serde_json::from_str(text.lines().last().expect("JSON")).expect("JSON");
    assert_eq!(found["samples"], new.len(), "none of the new photos' test set was trained on");
    assert_eq!(found["left_out"]["trained_on"], 40 - new.len());
    let is_right = |row: &&BTreeMap<String, String>| row["label"] == row["predicted"];
    let accuracy = new.values().filter(is_right).count() as f64 / new.len() as f64;
    let value = found["runs"][1]["accuracy"]["value"].as_f64().expect("an accuracy");
    assert!((value - accuracy).abs() < 1e-12, "{value}, not {accuracy}");
}

#[test]
fn go_on_from_a_run() {
    let project = type_page("go-on-from-a-run");
    let metrics: serde_json::Value =
        serde_json::from_str(&project.read("runs/warm/metrics.json")).expect("JSON");
    let split = |run: &str, part: &str| -> Vec<String> {
        let rows = parse_csv(&project.read(&format!("{run}/split.csv")));
        rows.into_iter().filter(|row| row["split"] == part).map(|row| row["path"].clone()).collect()
    };
    let trained = split("runs/mlp-1", "train");
    let tested = predictions(&project, "runs/warm");
    let unseen: Vec<_> = tested.values().filter(|row| !trained.contains(&row["path"])).collect();
    assert!(!unseen.is_empty() && unseen.len() < tested.len(), "{} of {}", unseen.len(), tested.len());
    assert_eq!(metrics["trained_on"]["samples"], tested.len() - unseen.len());
    assert_eq!(metrics["starts"]["samples"], unseen.len());
    let right = unseen.iter().filter(|row| row["label"] == row["predicted"]).count();
    let accuracy = right as f64 / unseen.len() as f64;
    let found = metrics["starts"]["warm"]["top1"].as_f64().expect("an accuracy");
    assert!((found - accuracy).abs() < 1e-12, "{found}, not {accuracy}");
    assert_ne!(metrics["starts"]["warm"]["log_loss"], metrics["starts"]["cold"]["log_loss"]);
}
