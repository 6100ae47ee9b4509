//! Configs for what is there.

use std::fs;

use crate::support::{CLASSES, Project};

/// `init` writes a config that trains as it is, but for the weights, which a test cannot download.
fn trains(project: &Project, config: &str) {
    project.run(&["train", "--config", config, "--set", "backbone.weights=backbone"]).ok();
}

#[test]
fn a_folder_per_class_becomes_a_config_that_trains() {
    let project = Project::new(10);
    fs::remove_file(project.path("headstock.toml")).unwrap();
    let done = project.run(&["init", "photos"]).ok();
    assert!(done.stdout.contains("3 classes, 27 photos to train on, 3 to test on"), "{}", done.stdout);
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

/// Empty files are enough: `init` looks at names.
fn touch(project: &Project, photos: &[&str]) {
    for photo in photos {
        project.write(photo, "");
    }
}

/// The config that `init` writes for `photos`, and what it noted on stderr.
fn written(project: &Project, path: &str) -> (String, String) {
    let config = project.path("new.toml");
    fs::remove_file(&config).unwrap_or_default();
    let done = project.run(&["init", path, "--config", "new.toml"]).ok();
    (project.read("new.toml"), done.stderr)
}

#[test]
fn a_class_may_be_called_train() {
    let project = Project::new(0);
    touch(&project, &["veh/bus/1.jpg", "veh/bus/2.jpg", "veh/train/1.jpg", "veh/train/2.jpg"]);
    let (config, notes) = written(&project, "veh");
    assert!(config.contains("folder = \"veh\" ") && config.contains("# test_folder"), "{config}");
    assert_eq!(notes, "");
    // But two folders that are called as the parts of a split are no two classes.
    touch(&project, &["flat/train/1.jpg", "flat/train/2.jpg", "flat/test/1.jpg", "flat/test/2.jpg"]);
    let refused = project.run(&["init", "flat", "--config", "flat.toml"]);
    refused.fails(3, &["flat/train has no class folders"]);
}

#[test]
fn photos_to_test_on_are_those_with_classes_and_what_is_passed_over_is_told() {
    let project = Project::new(0);
    touch(
        &project,
        &["cats/train/a/1.jpg", "cats/train/a/2.jpg", "cats/train/b/1.jpg", "cats/train/b/2.jpg"],
    );
    // Kaggle's photos to be predicted.
    touch(&project, &["cats/test/1.jpg", "cats/test/2.jpg"]);
    let (config, notes) = written(&project, "cats");
    assert!(config.contains("folder = \"cats/train\"") && config.contains("# test_folder"), "{config}");
    assert_eq!(notes, "note: passed over cats/test: there is no folder per class in it\n");
    touch(&project, &["cats/val/a/1.jpg", "cats/valid/a/1.jpg", "cats/more/1.jpg"]);
    let (config, notes) = written(&project, "cats");
    assert!(config.contains("test_folder = \"cats/val\""), "{config}");
    assert_eq!(
        notes,
        "note: passed over cats/more: cats/train is trained on\n\
         note: passed over cats/test: there is no folder per class in it\n\
         note: passed over cats/valid: cats/val is tested on\n"
    );
    fs::create_dir_all(project.path("cats/test/unknown")).unwrap();
    fs::rename(project.path("cats/test/1.jpg"), project.path("cats/test/unknown/1.jpg")).unwrap();
    let (config, notes) = written(&project, "cats");
    assert!(config.contains("test_folder = \"cats/val\""), "{config}");
    assert!(notes.contains("none of its folders is a class of cats/train"), "{notes}");
}

#[test]
fn the_test_part_has_room_for_every_class() {
    for (photos, size, comment) in
        [(10, "0.1 ", "a share"), (4, "0.25 ", "a tenth would be fewer"), (2, "3 ", "a quarter")]
    {
        let project = Project::new(photos);
        let (config, _) = written(&project, "photos");
        let line = config.lines().find(|line| line.starts_with("test_size = ")).unwrap();
        assert!(line.starts_with(&format!("test_size = {size}")) && line.contains(comment), "{line}");
        trains(&project, "new.toml");
    }
    let project = Project::new(1);
    let (_, notes) = written(&project, "photos");
    assert!(
        notes.contains("warning: it cannot be trained on yet") && notes.contains("one photo only"),
        "{notes}"
    );
}

#[test]
fn programs_are_told_what_was_found() {
    let project = Project::new(4);
    let figures = project.run(&["init", "photos", "--config", "my new.toml", "--json"]).ok();
    let expected = serde_json::json!({"config": "my new.toml", "classes": 3, "train": 9, "test": 3});
    assert_eq!(figures.json(), expected);
    assert!(figures.stdout.contains("headstock train --config 'my new.toml'\n"), "{}", figures.stdout);
}

#[test]
fn a_table_that_cannot_be_read_is_bad_data() {
    let project = Project::new(2);
    let init = ["init", "labels.csv", "--config", "new.toml"];
    for table in [&b"id,breed\nhat/00,k\xe4se\n"[..], b"id,r\xe4sse\nhat/00,hat\n"] {
        fs::write(project.path("labels.csv"), table).unwrap();
        project.run(&init).fails(3, &["labels.csv", "is not UTF-8: save the table as UTF-8"]);
    }
    project.write("labels.csv", "id,breed\n");
    project.run(&init).fails(3, &["labels.csv has no rows"]);
    project.write("labels.csv", "\u{feff}id,breed\nhat/00,hat\ndress/00,dress\n");
    let named = [&init[..], &["--images", "photos", "--label", "race"]].concat();
    project.run(&named).fails(2, &["there is no column `race` (--label); its columns: id, breed"]);
    project.run(&[&init[..], &["--images", "photos"]].concat()).ok();
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
    project.run(&["init", "absent"]).fails(2, &["there is no folder, no table and no shard absent"]);
    assert!(!project.path("x.toml").exists());
}
