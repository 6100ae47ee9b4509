//! Configs for what is there.

mod support;

use std::fs;

use support::{CLASSES, Project};

/// `init` writes a config that trains as it is, but for the weights, which a test cannot download.
fn trains(project: &Project, config: &str) {
    project.run(&["train", "--config", config, "--set", "backbone.weights=backbone"]).ok();
}

#[test]
fn a_folder_per_class_becomes_a_config_that_trains() {
    let project = Project::new(10);
    fs::remove_file(project.path("headstock.toml")).unwrap();
    let done = project.run(&["init", "photos"]).ok();
    assert!(done.stdout.contains("3 classes, 30 photos"), "{}", done.stdout);
    insta::assert_snapshot!("init_folder", project.read("headstock.toml"));
    trains(&project, "headstock.toml");
    project.run(&["init", "photos"]).fails(2, &["headstock.toml is there already"]);
}

#[test]
fn folders_to_train_and_to_test_on_are_recognised() {
    let project = Project::new(4);
    fs::create_dir(project.path("pets")).unwrap();
    fs::rename(project.path("photos"), project.path("pets/train")).unwrap();
    for class in CLASSES {
        let folder = project.path(&format!("pets/val/{class}"));
        fs::create_dir_all(&folder).unwrap();
        fs::rename(project.path(&format!("pets/train/{class}/03.jpg")), folder.join("03.jpg")).unwrap();
    }
    let done = project.run(&["init", "pets", "--config", "pets.toml"]).ok();
    assert!(done.stdout.contains("9 photos to train on, 3 to test on"), "{}", done.stdout);
    let config = project.read("pets.toml");
    assert!(
        config.contains("folder = \"pets/train\"") && config.contains("test_folder = \"pets/val\""),
        "{config}"
    );
    trains(&project, "pets.toml");
}

#[test]
fn a_table_becomes_a_config_that_trains() {
    let project = Project::new(10);
    let rows: Vec<String> =
        CLASSES.iter().flat_map(|class| (0..10).map(move |n| format!("{class}/{n:02},{class}\n"))).collect();
    project.write("kaggle/labels.csv", &format!("id,breed\n{}", rows.concat()));
    fs::rename(project.path("photos"), project.path("kaggle/train")).unwrap();
    project.run(&["init", "kaggle/labels.csv", "--config", "dogs.toml"]).ok();
    let config = project.read("dogs.toml");
    for line in [
        "csv = \"kaggle/labels.csv\"",
        "images = \"kaggle/train\"",
        "label = \"breed\"",
        "extension = \"jpg\"",
    ] {
        assert!(config.contains(line), "{line}: {config}");
    }
    trains(&project, "dogs.toml");
}

#[test]
fn a_folder_with_a_table_beside_its_photos_is_no_folder_per_class() {
    let project = Project::new(2);
    fs::rename(project.path("photos/hat"), project.path("photos/train")).unwrap();
    project.write("photos/labels.csv", "id,breed\n00,hat\n01,pug\n");
    let refused = project.run(&["init", "photos", "--config", "x.toml"]);
    refused.fails(2, &["has a labels.csv", "headstock init photos/labels.csv"]);
}

#[test]
fn what_cannot_be_guessed_is_asked_for() {
    let project = Project::new(2);
    project.write("odd.csv", "a,b\nhat/00.jpg,hat\n");
    project.run(&["init", "odd.csv", "--config", "x.toml"]).fails(2, &["--id", "a, b"]);
    let named = ["init", "odd.csv", "--config", "x.toml", "--id", "a", "--label", "b"];
    project.write("odd.csv", "a,b\nnowhere.jpg,hat\n");
    project.run(&named).fails(2, &["nowhere.jpg", "--images"]);
    project.run(&["init", "absent"]).fails(2, &["there is no folder and no CSV absent"]);
    assert!(!project.path("x.toml").exists());
}
