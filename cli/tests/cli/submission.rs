//! `predict --like`: submissions to Kaggle.

#![expect(clippy::unwrap_used, reason = "test helpers may panic")]

use std::collections::BTreeMap;
use std::fs;

use crate::support::{CLASSES, Project, demo_image, parse_csv};

/// A project with a run, and photos `test/1.jpg` to `test/4.jpg` that it was not trained on.
fn project_with_run() -> Project {
    let project = Project::new(5);
    project.run(&["train"]).ok();
    fs::create_dir(project.path("test")).unwrap();
    for number in 1..=4 {
        let image = demo_image(CLASSES[number % 3], 10 + number);
        fs::copy(image, project.path(&format!("test/{number}.jpg"))).unwrap();
    }
    project
}

/// The rows of `predict --format csv` by the number in the name of the photo.
fn predictions(project: &Project) -> BTreeMap<String, BTreeMap<String, String>> {
    let stdout = project.run(&["predict", "runs/linear-1", "test", "--format", "csv"]).ok().stdout;
    let number = |path: &str| path.trim_start_matches("test/").trim_end_matches(".jpg").to_owned();
    parse_csv(&stdout).into_iter().map(|row| (number(&row["path"]), row)).collect()
}

// effect: predict --like
#[test]
fn a_submission_has_the_ids_columns_and_order_of_the_sample() {
    let project = project_with_run();
    let predictions = predictions(&project);
    let like = |sample: &str| project.run(&["predict", "runs/linear-1", "test", "--like", sample]);

    // As a spreadsheet writes it. Photo 3 has no row.
    let sample =
        "\u{feff}\"id\";shoes;\"dress\";hat\r\n4;0.3;0.3;0.3\r\n\r\n\"test/1\";0;0;0\r\n2.jpg;0;0;0\r\n";
    project.write("sample.csv", sample);
    let done = like("sample.csv").ok();
    let mut expected = "id;shoes;dress;hat\n".to_owned();
    for (id, number) in [("4", "4"), ("test/1", "1"), ("2.jpg", "2")] {
        let row = &predictions[number];
        expected += &format!("{id};{};{};{}\n", row["shoes"], row["dress"], row["hat"]);
    }
    assert_eq!(done.stdout, expected);
    let left_out = "1 photo has no row in sample.csv and is not predicted: test/3.jpg";
    assert!(done.stderr.contains(left_out), "{}", done.stderr);

    project.write("labels.csv", "image,label\n2,hat\n1,hat\n4,hat\n3,hat\n");
    let done = like("labels.csv").ok();
    let rows = ["2", "1", "4", "3"].map(|id| format!("{id},{}\n", predictions[id]["predicted"]));
    assert_eq!(done.stdout, format!("image,label\n{}", rows.concat()));
    assert!(!done.stderr.contains("no row"), "{}", done.stderr);

    // The JSON comes after the table.
    let with_json = project.run(&["predict", "runs/linear-1", "test", "--like", "labels.csv", "--json"]).ok();
    assert!(with_json.stdout.starts_with(&done.stdout), "{}", with_json.stdout);
    assert_eq!(with_json.json()["predicted"], 4);
}

// effect: predict --positive
#[test]
fn one_column_of_probabilities_needs_a_class() {
    let project = project_with_run();
    fs::remove_dir_all(project.path("photos/shoes")).unwrap();
    project.run(&["train", "--run", "two"]).ok();
    project.write("sample.csv", "id,label\n1,0.5\n2,0.5\n3,0.5\n4,0.5\n");
    let like =
        |more: &[&str]| project.run(&[&["predict", "two", "test", "--like", "sample.csv"], more].concat());
    like(&[]).fails(
        3,
        &[
            "sample.csv: it is not certain what the column `label` is to hold",
            "are dress, hat",
            "--positive CLASS",
        ],
    );
    let probabilities = parse_csv(&project.run(&["predict", "two", "test", "--format", "csv"]).ok().stdout);
    for class in ["dress", "hat"] {
        let rows: Vec<String> =
            (1..).zip(&probabilities).map(|(id, row)| format!("{id},{}\n", row[class])).collect();
        assert_eq!(like(&["--positive", class]).ok().stdout, format!("id,label\n{}", rows.concat()));
    }
    like(&["--positive", "shoes"]).fails(3, &["the class shoes, given with --positive, is none of the run"]);
    project.run(&["predict", "two", "test", "--positive", "hat"]).fails(2, &["--like"]);
}

#[test]
fn an_image_that_cannot_be_read_keeps_the_row_of_the_sample() {
    let project = project_with_run();
    let predictions = predictions(&project);
    project.write("test/2.jpg", "no photo");
    project.write("sample.csv", "id,dress,hat,shoes\n1,0,0,0\n2,0.2,0.3,0.5\n4,0,0,0\n");
    let done = project.run(&["predict", "runs/linear-1", "test", "--like", "sample.csv"]);
    let done = done.fails(3, &["test/2.jpg cannot be read", "their rows have the values of the sample"]);
    let row = |id: &str| {
        let row = &predictions[id];
        format!("{id},{},{},{}\n", row["dress"], row["hat"], row["shoes"])
    };
    assert_eq!(done.stdout, format!("id,dress,hat,shoes\n{}2,0.2,0.3,0.5\n{}", row("1"), row("4")));
}

#[test]
fn a_sample_that_does_not_fit_is_refused_before_the_work() {
    let project = project_with_run();
    fs::create_dir(project.path("test/more")).unwrap();
    fs::copy(project.path("test/1.jpg"), project.path("test/more/1.jpg")).unwrap();
    for (sample, parts) in [
        (
            "id,label\n2,hat\n7,hat\n8,hat\n9,hat\n10,hat\n",
            &["4 ids are without a photo among the 5 given: 7, 8, 9 and 1 more"][..],
        ),
        ("id,label\n1,hat\n", &["the id 1 may mean several photos: test/1.jpg, test/more/1.jpg"]),
        ("id,label\n2,hat\n3,hat\n2.jpg,hat\n", &["several rows mean the same photo: 2.jpg"]),
        (
            "id,hat,coat,dress\n2,0,0,0\n",
            &["1 column is no class of the run: coat", "1 class of the run has no column: shoes"],
        ),
        ("id,label\n2\n3,hat\n", &["not all rows can be read: line 2: the line has 1 field"]),
        ("id\n2\n", &["there is only one column"]),
    ] {
        project.write("sample.csv", sample);
        let refused = project.run(&["predict", "runs/linear-1", "test", "--like", "sample.csv"]);
        let refused = refused.fails(3, parts);
        assert!(refused.stdout.is_empty(), "{}", refused.stdout);
    }
    let both = ["predict", "runs/linear-1", "test", "--like", "sample.csv", "--format", "csv"];
    project.run(&both).fails(2, &["--like", "--format"]);
}
