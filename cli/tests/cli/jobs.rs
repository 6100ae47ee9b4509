//! The pages of docs/jobs: their commands, typed as they stand, and the files that come out.

#![expect(clippy::unwrap_used, reason = "test helpers may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{CLASSES, Project, parse_csv, run_command};

fn pages_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/jobs")
}

/// The text of the page `docs/jobs/NAME.md`.
fn page(name: &str) -> String {
    fs::read_to_string(pages_dir().join(name).with_extension("md")).unwrap()
}

/// A project with what the page's first line, `<!-- fixture: NAME -->`, says that the reader has.
fn fixture(text: &str) -> Project {
    let name = text.strip_prefix("<!-- fixture: ").and_then(|rest| rest.split_once(" -->")).unwrap().0;
    match name {
        // Twelve photos of each class in `photos/CLASS`, four others in `new`, weights in `backbone`.
        "folder" => {
            let project = Project::new(12);
            fs::remove_file(project.path("headstock.toml")).unwrap();
            fs::create_dir(project.path("new")).unwrap();
            for (number, class) in [(20, "hat"), (21, "hat"), (22, "dress"), (23, "shoes")] {
                project.add_image(class, number);
                let from = project.path(&format!("photos/{class}/{number}.jpg"));
                fs::rename(from, project.path(&format!("new/{number}.jpg"))).unwrap();
            }
            project
        }
        _ => panic!("there is no fixture `{name}`"),
    }
}

/// The blocks of the page that a reader types, marked as `sh`.
fn shell_blocks(text: &str) -> Vec<&str> {
    let blocks: Vec<&str> =
        text.split("```sh\n").skip(1).map(|rest| rest.split_once("```").expect("a block ends").0).collect();
    assert!(!blocks.is_empty(), "the page has commands");
    blocks
}

/// Types all commands of the page in the folder of its fixture, which is returned with what came out.
pub(crate) fn type_page(name: &str) -> Project {
    let text = page(name);
    let project = fixture(&text);
    for block in shell_blocks(&text) {
        type_block(&project, block);
    }
    project
}

/// Runs the commands in the folder of the project, by the shell, which stops at the first that fails.
fn type_block(project: &Project, block: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_headstock")).parent().unwrap();
    let script = format!("PATH='{}':$PATH\n{block}", program.display());
    let mut command = Command::new("sh");
    command.args(["-e", "-c", &script]).current_dir(project.path("")).stdin(Stdio::null());
    command.env("HF_HUB_OFFLINE", "1");
    let output = run_command(&mut command);
    assert_eq!(output.code, 0, "{block}\n{}{}", output.stdout, output.stderr);
}

#[test]
fn every_page_is_listed_and_has_a_test() {
    let index = page("README");
    let tests = [include_str!("jobs.rs"), include_str!("job_runs.rs")].concat();
    for entry in fs::read_dir(pages_dir()).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        if name != "README" {
            assert!(index.contains(&format!("({name}.md)")), "docs/jobs/README.md does not list {name}.md");
            assert!(tests.contains(&format!("(\"{name}\")")), "no test types the commands of {name}.md");
        }
    }
}

/// Checks that the text has a column of probabilities for each class, which sum to one in each of `n_rows` rows.
fn check_probabilities(text: &str, n_rows: usize) {
    let rows = parse_csv(text);
    assert_eq!(rows.len(), n_rows, "{text}");
    for row in rows {
        let sum: f64 = CLASSES.iter().map(|class| row[*class].parse::<f64>().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{row:?}");
    }
}

#[test]
fn a_run_on_everything_has_figures_of_a_cross_validation() {
    let project = type_page("train-on-everything");
    check_probabilities(&project.read("runs/production/predictions.csv"), 36);
    check_probabilities(&project.read("predictions.csv"), 4);
    let metrics: serde_json::Value =
        serde_json::from_str(&project.read("runs/production/metrics.json")).unwrap();
    let predictions = parse_csv(&project.read("runs/production/predictions.csv"));
    let n_correct = predictions.iter().filter(|row| row["label"] == row["predicted"]).count();
    assert!((metrics["top1"].as_f64().unwrap() - n_correct as f64 / 36.0).abs() < 1e-9, "{metrics}");
    assert_eq!(metrics["cross_validation"]["folds"], 4);
}

#[test]
fn a_submission_has_the_ids_and_columns_of_the_sample() {
    let project = type_page("kaggle-submission");
    let submission = project.read("submission.csv");
    assert!(submission.starts_with("id,shoes,dress,hat\n"), "{submission}");
    check_probabilities(&submission, 4);
    let ids: Vec<String> =
        parse_csv(&submission).into_iter().map(|mut row| row.remove("id").unwrap()).collect();
    assert_eq!(ids, ["22", "20", "23", "21"]);
}

#[test]
fn a_folder_with_broken_images_has_a_row_for_each() {
    let project = type_page("predict-a-folder");
    let predictions = parse_csv(&project.read("predictions.csv"));
    assert_eq!(predictions.len(), 4 + 1 + 12);
    let broken = predictions.iter().find(|row| row["path"].ends_with("broken.jpg")).unwrap();
    assert_eq!(broken["predicted"], "");
    let lines = project.read("predictions.jsonl");
    let errors: Vec<&str> = lines.lines().filter(|line| line.contains("\"error\"")).collect();
    assert!(lines.lines().count() == 17 && errors.len() == 1 && errors[0].contains("broken.jpg"), "{lines}");
}

#[test]
fn a_run_that_was_handed_over_predicts_the_same() {
    let project = type_page("hand-over-a-run");
    check_probabilities(&project.read("predictions.csv"), 4);
    assert_eq!(project.read("predictions.csv"), project.read("before.csv"));
}

#[test]
fn a_messy_folder_becomes_a_table_and_a_run() {
    let project = type_page("clean-then-train");
    let table = parse_csv(&project.read("clean.csv"));
    let classes: std::collections::BTreeSet<&str> = table.iter().map(|row| row["label"].as_str()).collect();
    assert_eq!(classes.into_iter().collect::<Vec<_>>(), CLASSES);
    // 36 photos, of which `dress/11.jpg` is in a folder of another case, and a person keeps the hat.
    assert_eq!(table.len(), 36);
    let split = parse_csv(&project.read("runs/clean/split.csv"));
    assert_eq!(split.len(), 36);
    let tested = split.iter().filter(|row| row["split"] == "test").count();
    assert_eq!(tested, 6);
}
