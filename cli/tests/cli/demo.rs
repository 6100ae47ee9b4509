//! The first run, as `cargo xtask train` starts it.

use crate::support::{Project, demo};

#[test]
fn the_bundled_photos_and_weights_train_a_classifier_that_says_what_to_type_next() {
    let project = Project::new(0);
    let config = demo().join("headstock.toml");
    let config = config.to_str().unwrap();
    let cache = format!("features.cache={}", project.path("cache").display());
    let done = project.run(&["train", "--config", config, "--set", &cache, "--json"]).ok();
    let figures = done.json();
    assert!(figures["top1"].as_f64().unwrap() >= 0.74, "{figures}");
    assert_eq!((&figures["counts"]["train"], &figures["counts"]["test"]), (&300.into(), &100.into()));

    // Each command that it names runs, in the order in which it names them.
    let next: Vec<&str> = done.stdout.lines().filter(|line| line.contains(" predict ")).collect();
    assert_eq!(next.len(), 1, "{}", done.stdout);
    let words: Vec<&str> = next[0].split_whitespace().skip(1).collect();
    let predicted = project.run(&words).ok().stdout;
    assert!(predicted.contains("dress 0.9"), "{predicted}");
    let again = project.run(&["train", "--config", config, "--head", "svm", "--set", &cache, "--json"]).ok();
    assert_eq!(again.json()["counts"]["computed"], 0);
    assert!(again.json()["top1"].as_f64().unwrap() >= 0.74, "{}", again.stdout);
}
