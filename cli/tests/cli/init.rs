//! `headstock init`.

use std::fs;
use std::path::Path;

use crate::support::{CLASSES, Project};

/// Fails unless a config of `init` can be trained, with the bundled weights because tests download nothing.
fn assert_trains(project: &Project, config: &str) {
    project.run(&["train", "--config", config, "--set", "backbone.weights=backbone"]).ok();
}

// effect: init PATH
#[test]
fn a_folder_per_class_becomes_a_config_that_trains() {
    let project = Project::new(10);
    fs::remove_file(project.path("headstock.toml")).unwrap();
    let done = project.run(&["init", "photos"]).ok();
    assert!(done.stdout.contains("3 classes, 27 photos for training, 3 for testing"), "{}", done.stdout);
    insta::assert_snapshot!("init_folder", project.read("headstock.toml"));
    assert_trains(&project, "headstock.toml");
    project.run(&["init", "photos"]).fails(2, &["headstock.toml already exists"]);
}

#[test]
fn train_and_test_folders_are_recognized() {
    let project = Project::new(4);
    fs::create_dir(project.path("pets")).unwrap();
    fs::rename(project.path("photos"), project.path("pets/train")).unwrap();
    for class in CLASSES {
        let folder = project.path(&format!("pets/val/{class}"));
        fs::create_dir_all(&folder).unwrap();
        fs::rename(project.path(&format!("pets/train/{class}/03.jpg")), folder.join("03.jpg")).unwrap();
    }
    let done = project.run(&["init", "pets", "--config", "pets.toml"]).ok();
    assert!(done.stdout.contains("9 photos for training, 3 for testing"), "{}", done.stdout);
    let config = project.read("pets.toml");
    assert!(
        config.contains("folder = \"pets/train\"") && config.contains("test_folder = \"pets/val\""),
        "{config}"
    );
    assert_trains(&project, "pets.toml");
}

/// Creates empty files, which are enough because `init` does not read images.
fn create_empty_files(project: &Project, paths: &[&str]) {
    for path in paths {
        project.write(path, "");
    }
}

/// The config that `init` writes for `path`, and its stderr.
fn init_config(project: &Project, path: &str) -> (String, String) {
    let config = project.path("new.toml");
    fs::remove_file(&config).unwrap_or_default();
    let done = project.run(&["init", path, "--config", "new.toml"]).ok();
    (project.read("new.toml"), done.stderr)
}

#[test]
fn a_class_may_be_called_train() {
    let project = Project::new(0);
    create_empty_files(&project, &["veh/bus/1.jpg", "veh/bus/2.jpg", "veh/train/1.jpg", "veh/train/2.jpg"]);
    let (config, notes) = init_config(&project, "veh");
    assert!(config.contains("folder = \"veh\" ") && config.contains("# test_folder"), "{config}");
    assert_eq!(notes, "");
    // But two folders `train` and `test` alone are a split, not two classes.
    create_empty_files(
        &project,
        &["flat/train/1.jpg", "flat/train/2.jpg", "flat/test/1.jpg", "flat/test/2.jpg"],
    );
    let refused = project.run(&["init", "flat", "--config", "flat.toml"]);
    refused.fails(
        3,
        &["flat has the folders test, train, which may be classes or splits", "split_folders = false"],
    );
}

#[test]
fn test_folders_need_class_folders_and_ignored_folders_are_reported() {
    let project = Project::new(0);
    create_empty_files(
        &project,
        &["cats/train/a/1.jpg", "cats/train/a/2.jpg", "cats/train/b/1.jpg", "cats/train/b/2.jpg"],
    );
    // Kaggle's unlabeled test photos.
    create_empty_files(&project, &["cats/test/1.jpg", "cats/test/2.jpg"]);
    // Hidden folders are ignored.
    create_empty_files(&project, &["cats/.thumbnails/1.jpg"]);
    let (config, notes) = init_config(&project, "cats");
    assert!(config.contains("folder = \"cats/train\"") && config.contains("# test_folder"), "{config}");
    assert_eq!(
        notes,
        "note: ignored the folder cats/test: to test with its photos, put them into one folder per class, as \
         for training\n"
    );
    create_empty_files(&project, &["cats/val/a/1.jpg", "cats/valid/a/1.jpg", "cats/more/1.jpg"]);
    let (config, notes) = init_config(&project, "cats");
    assert!(config.contains("test_folder = \"cats/val\""), "{config}");
    assert_eq!(
        notes,
        "note: ignored the folder cats/more: the photos for training are taken from cats/train\nnote: \
         ignored the folder cats/test: to test with its photos, put them into one folder per class, as for \
         training\nnote: ignored the folder cats/valid: the photos for testing are taken from cats/val\n"
    );
    fs::create_dir_all(project.path("cats/test/unknown")).unwrap();
    fs::rename(project.path("cats/test/1.jpg"), project.path("cats/test/unknown/1.jpg")).unwrap();
    let (config, notes) = init_config(&project, "cats");
    assert!(config.contains("test_folder = \"cats/val\""), "{config}");
    assert!(notes.contains("none of its folders has the name of a class in cats/train"), "{notes}");
}

#[test]
fn the_test_split_is_large_enough_for_every_class() {
    for (n_images, size, comment) in
        [(10, "0.1 ", "fraction, or"), (4, "0.25 ", "a tenth would be fewer"), (2, "3 ", "a quarter")]
    {
        let project = Project::new(n_images);
        let (config, _) = init_config(&project, "photos");
        let line = config.lines().find(|line| line.starts_with("test_size = ")).unwrap();
        assert!(line.starts_with(&format!("test_size = {size}")) && line.contains(comment), "{line}");
        assert_trains(&project, "new.toml");
    }
    let project = Project::new(1);
    let (_, notes) = init_config(&project, "photos");
    assert!(
        notes.contains("warning: this data set cannot be trained on yet") && notes.contains("only one photo"),
        "{notes}"
    );
}

#[test]
fn json_reports_what_was_found() {
    let project = Project::new(4);
    let figures = project.run(&["init", "photos", "--config", "my new.toml", "--json"]).ok();
    let expected = serde_json::json!({
        "config": "my new.toml", "classes": 3, "train": 9, "test": 3, "unusable": 0
    });
    assert_eq!(figures.json(), expected);
    assert!(figures.stdout.contains("headstock train --config 'my new.toml'\n"), "{}", figures.stdout);
}

#[test]
fn a_table_that_cannot_be_read_is_bad_data() {
    let project = Project::new(2);
    let init = ["init", "labels.csv", "--config", "new.toml"];
    for table in [&b"id,breed\nhat/00,k\xe4se\n"[..], b"id,r\xe4sse\nhat/00,hat\n"] {
        fs::write(project.path("labels.csv"), table).unwrap();
        project.run(&init).fails(3, &["labels.csv", "not UTF-8", "save the file as UTF-8"]);
    }
    project.write("labels.csv", "id,breed\n");
    project.run(&init).fails(3, &["labels.csv has no rows"]);
    project.write("labels.csv", "\u{feff}id,breed\nhat/00,hat\ndress/00,dress\n");
    let named = [&init[..], &["--images", "photos", "--label", "race"]].concat();
    project.run(&named).fails(
        2,
        &["the table has no column `race` (named by --label): choose one of the columns id, breed"],
    );
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
    assert_trains(&project, "dogs.toml");
}

#[test]
fn a_folder_with_a_table_is_no_folder_per_class() {
    let project = Project::new(2);
    fs::rename(project.path("photos/hat"), project.path("photos/train")).unwrap();
    project.write("photos/labels.csv", "id,breed\n00,hat\n01,pug\n");
    let done = project.run(&["init", "photos", "--config", "x.toml"]).ok();
    assert!(done.stdout.contains("x.toml: 2 classes, 2 photos for training"), "{}", done.stdout);
    assert!(
        done.stderr.contains("the classes are taken from the table photos/labels.csv"),
        "{}",
        done.stderr
    );
    assert!(project.read("x.toml").contains("csv = \"photos/labels.csv\""));
}

#[test]
fn ambiguous_columns_must_be_named() {
    let project = Project::new(2);
    project.write("odd.csv", "a,b\nhat/00.jpg,hat\n");
    project.run(&["init", "odd.csv", "--config", "x.toml"]).fails(2, &["--id", "a, b"]);
    let named = ["init", "odd.csv", "--config", "x.toml", "--id", "a", "--label", "b"];
    project.write("odd.csv", "a,b\nnowhere.jpg,hat\n");
    project.run(&named).fails(2, &["nowhere.jpg", "--images"]);
    project
        .run(&["init", "absent"])
        .fails(2, &["there is no file or folder absent: check the path (`headstock init --help` lists"]);
    assert!(!project.path("x.toml").exists());
}

// effect: init --id, init --images, init --label
#[test]
fn columns_and_the_image_folder_are_given_or_guessed() {
    let project = Project::empty();
    for number in 1..5 {
        let images =
            [format!("images/{number}.jpg"), format!("train/{number}.jpg"), format!("other/1{number}.png")];
        create_empty_files(&project, &images.each_ref().map(String::as_str));
    }
    project.write("t.csv", "id,class,label,file\n1,a,x,11\n2,a,y,12\n3,b,x,13\n4,b,y,14\n");
    let init = |config: &str, more: &[&str]| -> toml::Table {
        let done = project.run(&[&["init", "t.csv", "--config", config], more].concat()).ok();
        assert!(done.stdout.starts_with(&format!("{config}: 2 classes, ")), "{}", done.stdout);
        project.read(config).parse().unwrap()
    };
    let data = |config: &toml::Table| {
        let keys = ["csv", "images", "id", "label", "extension"];
        keys.map(|key| config["data"][key].as_str().unwrap().to_owned())
    };
    // `label` is tried before `class`, and `train` before `images`.
    assert_eq!(data(&init("usual.toml", &[])), ["t.csv", "train", "id", "label", "jpg"]);
    assert_eq!(data(&init("label.toml", &["--label", "class"])), ["t.csv", "train", "id", "class", "jpg"]);
    assert_eq!(
        data(&init("images.toml", &["--images", "images"])),
        ["t.csv", "images", "id", "label", "jpg"]
    );
    let id = init("id.toml", &["--id", "file", "--images", "other"]);
    assert_eq!(data(&id), ["t.csv", "other", "file", "label", "png"]);
    // A given column or folder that does not exist is an error.
    let assert_refused = |more: &[&str], parts: &[&str]| {
        project.run(&[&["init", "t.csv", "--config", "no.toml"], more].concat()).fails(2, parts);
    };
    assert_refused(
        &["--id", "name"],
        &["the table has no column `name` (named by --id): choose one of the columns id, class, label, \
           file"],
    );
    assert_refused(&["--label", "name"], &["the table has no column `name` (named by --label)"]);
    assert_refused(
        &["--images", "other"],
        &["the photo of the first row, `1`, was not found in the folders other: ", "--images"],
    );
    let folder = |flag: &str| project.run(&["init", ".", "--config", "no.toml", flag, "x"]);
    folder("--id").fails(2, &["--images and --id are only for a table (CSV or TSV), but . is a folder"]);
    folder("--images").fails(2, &["--images and --id are only for a table (CSV or TSV), but . is a folder"]);
    folder("--label").fails(2, &["--label names a column of a table, but . is a folder"]);
    assert!(!project.path("no.toml").exists());
}

/// Columns and folders with usual names are tried in the order of these lists.
#[test]
fn usual_columns_and_folders_are_tried_in_order() {
    let project = Project::empty();
    let ids = ["id", "image", "image_id", "filename", "file_name", "file", "path", "photo", "name"];
    let labels = ["label", "class", "breed", "species", "category", "target", "variety", "y"];
    let folders = ["train", "images", "photos", "img", "data", "."];
    for number in 0..ids.len() {
        let (id, label) = (&ids[number..], &labels[number.min(7)..]);
        let folder = folders[number.min(5)];
        let case = format!("{number}");
        for folder in &folders[number.min(5)..] {
            create_empty_files(
                &project,
                &[&format!("{case}/{folder}/1.jpg"), &format!("{case}/{folder}/2.jpg")],
            );
        }
        // The most usual name last, and in capitals.
        let columns: Vec<String> = id.iter().chain(label).rev().map(|name| name.to_uppercase()).collect();
        let row = |image: &str| {
            let fields = columns.iter().map(|name| {
                if id.contains(&name.to_lowercase().as_str()) {
                    image
                } else {
                    if image == "1" { "a" } else { "b" }
                }
            });
            fields.collect::<Vec<_>>().join(",")
        };
        project
            .write(&format!("{case}/t.csv"), &format!("{}\n{}\n{}\n", columns.join(","), row("1"), row("2")));
        project.run(&["init", &format!("{case}/t.csv"), "--config", &format!("{case}.toml")]).ok();
        let config: toml::Table = project.read(&format!("{case}.toml")).parse().unwrap();
        let data = |key: &str| config["data"][key].as_str().unwrap().to_owned();
        assert_eq!((data("id"), data("label")), (id[0].to_uppercase(), label[0].to_uppercase()), "{case}");
        let images = if folder == "." { case.clone() } else { format!("{case}/{folder}") };
        assert_eq!(data("images").trim_end_matches("/."), images);
    }
}

// effect: init --label
#[test]
fn columns_of_a_parquet_are_found_by_their_usual_names() {
    let project = Project::empty();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference/source/plain.parquet");
    fs::copy(golden, project.path("p.parquet")).unwrap();
    let data = |config: &str, more: &[&str]| {
        project.run(&[&["init", "p.parquet", "--config", config], more].concat()).ok();
        let config: toml::Table = project.read(config).parse().unwrap();
        ["parquet", "image", "label"].map(|key| config["data"][key].as_str().unwrap().to_owned())
    };
    assert_eq!(data("usual.toml", &[]), ["p.parquet", "picture", "class"]);
    // The column `use` is not called like a split.
    assert!(!project.read("usual.toml").contains("predefined"));
    assert_eq!(data("named.toml", &["--label", "use"]), ["p.parquet", "picture", "use"]);
    let id = ["init", "p.parquet", "--config", "no.toml", "--id", "x"];
    project.run(&id).fails(
        2,
        &["--images and --id are only for a table (CSV or TSV), but p.parquet is a set of Parquet files or \
           tar archives"],
    );
}
