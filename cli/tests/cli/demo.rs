//! Training on the demo, as `cargo xtask train` does.

use std::fs;

use crate::keys::assert_generated;
use crate::support::{Project, demo_dir};

/// Checks that the README shows this output of `cargo xtask train`. Times differ between machines, and a last
/// digit may: accuracies by one of the 100 photos.
fn assert_readme_has(stdout: &str, project: &str) {
    const START: &str = "<!-- train -->\n";
    let demo = demo_dir();
    let program = env!("CARGO_BIN_EXE_headstock");
    let (text, _json) = stdout.trim_end().rsplit_once('\n').expect("the last line is JSON");
    let text = text
        .replace(program, "target/release/headstock")
        .replace(demo.to_str().expect("a path in UTF-8"), "demo")
        .replace(project, "");
    let readme = fs::read_to_string(demo.join("../README.md")).expect("a README");
    let (before, rest) = readme.split_once(START).expect("the start of the output");
    let (shown, after) = rest.split_once("<!-- /train -->").expect("the end of the output");
    let shape = |text: &str| {
        text.split(|letter: char| letter.is_ascii_digit()).filter(|part| !part.is_empty()).collect::<String>()
    };
    let block = format!("\n```text\n{}\n```\n\n", text.trim_end());
    let differences = figures(&block).into_iter().zip(figures(shown)).map(|(new, old)| (new - old).abs());
    let is_same = shape(&block) == shape(shown) && differences.fold(0.0, f64::max) < 0.0101;
    let block = if is_same { shown.to_owned() } else { block };
    assert_generated("../README.md", &format!("{before}{START}{block}<!-- /train -->{after}"));
}

/// The figures of the output that are not times: those with three decimals, and mean sizes.
fn figures(output: &str) -> Vec<f64> {
    let lines = output.lines().filter(|line| line.starts_with("accuracy") || line.starts_with("conformal"));
    let words = lines.flat_map(|line| line.split([' ', ',', ';']));
    words.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn the_demo_trains_a_classifier_and_prints_the_next_commands() {
    let project = Project::new(0);
    let config = demo_dir().join("headstock.toml");
    let config = config.to_str().unwrap();
    let cache = format!("features.cache={}", project.path("cache").display());
    let done = project.run(&["train", "--config", config, "--set", &cache, "--json"]).ok();
    let figures = done.json();
    assert!(figures["top1"].as_f64().unwrap() >= 0.74, "{figures}");
    assert_eq!((&figures["counts"]["train"], &figures["counts"]["test"]), (&300.into(), &100.into()));

    assert_readme_has(&done.stdout, project.path("").to_str().unwrap());

    // The commands that it suggests can be run.
    let next: Vec<&str> = done.stdout.lines().filter(|line| line.contains(" predict ")).collect();
    assert_eq!(next.len(), 1, "{}", done.stdout);
    let words: Vec<&str> = next[0].split_whitespace().skip(1).collect();
    let predicted = project.run(&words).ok().stdout;
    assert!(predicted.contains("dress 0.9"), "{predicted}");
    let again = project.run(&["train", "--config", config, "--head", "svm", "--set", &cache, "--json"]).ok();
    assert_eq!(again.json()["counts"]["computed"], 0);
    assert!(again.json()["top1"].as_f64().unwrap() >= 0.74, "{}", again.stdout);
}
