//! Data as people have it: nothing is left out without a line, and what cannot be used does not stop the rest.

use std::fs;

use serde_json::json;

use crate::support::{CLASSES, CommandOutput, Project, demo_image};

/// A project with a table `labels.csv` of `n_images` photos a class in `photos/`.
fn table_project(n_images: usize) -> (Project, String) {
    let project = Project::new(n_images);
    let mut table = "id,label\n".to_owned();
    for class in CLASSES {
        for number in 0..n_images {
            table += &format!("{class}/{number:02}.jpg,{class}\n");
        }
    }
    project.write("headstock.toml", &Project::config("csv = \"labels.csv\"\nimages = \"photos\""));
    (project, table)
}

fn passed_over(output: &CommandOutput) -> serde_json::Value {
    let figures = output.json();
    figures.get("passed_over").unwrap_or(&figures["counts"]["passed_over"]).clone()
}

// effect: data.on_error
#[test]
fn rows_that_cannot_be_used_stop_the_work_or_are_left_out_with_their_number() {
    let (project, table) = table_project(6);
    let bad = "gone.jpg,hat\nlost.jpg,hat\nhat/00.jpg,dress\ndress/01.jpg,\n,\n";
    project.write("labels.csv", &(table + bad));
    project.run(&["train"]).fails(3, &["labels.csv", "hint: `data.on_error = \"skip\"`"]);
    let done = project.run(&["train", "--set", "data.on_error=skip", "--json"]).ok();
    let expected =
        json!({ "missing-photo": 2, "bad-entry": 2, "unlabelled-photo": 1, "empty-row": 1, "repeated": 0 });
    for (reason, count) in expected.as_object().unwrap() {
        let found = passed_over(&done)[reason].as_u64().unwrap_or(0);
        assert_eq!(found, count.as_u64().unwrap(), "{reason}: {}", done.stdout);
    }
    let counts = &done.json()["counts"];
    assert_eq!(counts["train"].as_u64().unwrap() + counts["test"].as_u64().unwrap(), 17);
    for line in ["gone.jpg", "is on line 8 as `hat`", "skipped 1 empty row in"] {
        assert!(done.stderr.contains(line), "{line}: {}", done.stderr);
    }
    let compare =
        ["compare", "--heads", "nearest-mean", "--folds", "2", "--set", "data.on_error=skip", "--json"];
    assert_eq!(passed_over(&project.run(&compare).ok()), passed_over(&done));
    // `init` says what it saw and writes the config, and `doctor` runs on it.
    let init =
        project.run(&["init", "labels.csv", "--images", "photos", "--config", "new.toml", "--json"]).ok();
    assert_eq!(init.json()["unusable"], 5);
    assert!(init.stdout.contains("headstock doctor --config new.toml"), "{}", init.stdout);
    let clean = ["doctor", "--config", "new.toml", "--quick", "--write-clean", "clean.csv", "--json"];
    let doctor = project.run(&clean).ok();
    let summary = doctor.json()["clean"].clone();
    assert!(summary["left_out"].as_u64().unwrap() >= 5, "{summary}");
    assert!(!project.read("clean.csv").contains("hat/00.jpg"));
}

// effect: data.min_samples
#[test]
fn classes_with_too_few_images_are_left_out_with_a_line() {
    let project = Project::new(6);
    fs::create_dir(project.path("photos/lonely")).unwrap();
    fs::copy(demo_image("hat", 9), project.path("photos/lonely/1.jpg")).unwrap();
    fs::create_dir(project.path("photos/empty")).unwrap();
    project.run(&["train"]).fails(3, &["has class folders without photos: empty"]);
    project.run(&["train", "--set", "data.min_samples=1"]).fails(3, &["lonely"]);
    let done = project.run(&["train", "--set", "data.min_samples=2", "--json"]).ok();
    assert_eq!(done.json()["counts"]["classes"], 3);
    assert_eq!(passed_over(&done), json!({ "small-class": 1 }));
    assert!(done.stderr.contains("with fewer than 2 training photos: lonely"), "{}", done.stderr);
    // `init` writes the key where it is needed.
    let init = project.run(&["init", "photos", "--config", "new.toml"]).ok();
    assert!(project.read("new.toml").contains("min_samples = 2 "), "{}", init.stderr);
    project.run(&["train", "--config", "new.toml", "--set", "backbone.weights=backbone"]).ok();
}

// effect: data.follow_links
#[cfg(unix)]
#[test]
fn links_to_images_elsewhere_need_a_key_which_the_error_names() {
    let project = Project::new(6);
    fs::rename(project.path("photos/hat"), project.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", project.path("photos/hat")).unwrap();
    project.run(&["train"]).fails(3, &["points outside the folder", "hint: `data.follow_links = true`"]);
    let done = project.run(&["train", "--set", "data.follow_links=true", "--run", "runs/x", "--json"]).ok();
    assert_eq!(done.json()["counts"]["classes"], 3);
    // `init` follows the links and writes the key.
    let init = project.run(&["init", "photos", "--config", "new.toml"]).ok();
    assert!(init.stderr.contains("the data has links to photos elsewhere"), "{}", init.stderr);
    assert!(project.read("new.toml").contains("\nfollow_links = true "));
    project.run(&["train", "--config", "new.toml", "--set", "backbone.weights=backbone"]).ok();
    // The run keeps the key.
    let predicted = project.run(&["predict", "runs/x", "photos", "--json"]).ok();
    assert_eq!(predicted.json()["predicted"], 18);
    project
        .run(&["predict", "runs/x", "photos", "--set", "data.follow_links=false"])
        .fails(3, &["points outside the folder", "data.follow_links"]);
}

#[test]
fn predict_counts_the_files_of_a_folder_that_it_passes_over() {
    let project = Project::new(6);
    project.run(&["train"]).ok();
    for name in ["a.heic", "b.avif", "c", "notes.txt", ".DS_Store", "@eaDir/00.jpg"] {
        project.write(&format!("new/{name}"), "x");
    }
    fs::copy(demo_image("hat", 9), project.path("new/hat.jpg")).unwrap();
    let done = project.run(&["predict", "runs/linear-1", "new", "--json"]).ok();
    let expected = json!({ "system-file": 2, "file-type": 2, "unsupported-format": 2 });
    assert_eq!(passed_over(&done), expected);
    for line in
        ["skipped 2 photos in new in formats that cannot be read", "HEIC (1)", ".txt (1)", "no extension (1)"]
    {
        assert!(done.stderr.contains(line), "{line}: {}", done.stderr);
    }
}

#[test]
fn folders_called_like_splits_are_splits_or_an_error_with_the_lines_that_settle_it() {
    let project = Project::new(6);
    fs::create_dir_all(project.path("pets/test_set")).unwrap();
    fs::rename(project.path("photos"), project.path("pets/training_set")).unwrap();
    for class in CLASSES {
        let folder = project.path(&format!("pets/test_set/{class}"));
        fs::create_dir(&folder).unwrap();
        fs::rename(project.path(&format!("pets/training_set/{class}/00.jpg")), folder.join("00.jpg"))
            .unwrap();
    }
    let init = project.run(&["init", "pets", "--config", "pets.toml", "--json"]).ok();
    assert_eq!(
        (&init.json()["classes"], &init.json()["train"], &init.json()["test"]),
        (&3.into(), &15.into(), &3.into())
    );
    let done =
        project.run(&["train", "--config", "pets.toml", "--set", "backbone.weights=backbone", "--json"]).ok();
    assert_eq!(done.json()["counts"]["test"], 3);
    // One more folder makes it unclear.
    fs::create_dir(project.path("pets/more")).unwrap();
    fs::copy(demo_image("hat", 9), project.path("pets/more/1.jpg")).unwrap();
    let train = ["train", "--config", "pets.toml", "--set", "backbone.weights=backbone"];
    project.run(&train).fails(
        3,
        &[
            "pets has the folders more, test_set, training_set",
            "pets/training_set\"",
            "`test_folder = ",
            "split_folders = false",
        ],
    );
    let classes = project
        .run(
            &[&train[..], &["--set", "data.split_folders=false", "--set", "data.min_samples=2", "--json"]]
                .concat(),
        )
        .ok();
    assert_eq!(classes.json()["counts"]["classes"], 2);
}

#[test]
fn a_class_that_is_only_tested_is_refused_before_the_work_and_reported_by_doctor() {
    let project = Project::new(6);
    fs::create_dir_all(project.path("pets/test")).unwrap();
    fs::rename(project.path("photos"), project.path("pets/train")).unwrap();
    fs::rename(project.path("pets/train/hat"), project.path("pets/train/Hat")).unwrap();
    for class in CLASSES {
        fs::create_dir(project.path(&format!("pets/test/{class}"))).unwrap();
        fs::copy(demo_image(class, 9), project.path(&format!("pets/test/{class}/9.jpg"))).unwrap();
    }
    project.write("headstock.toml", &Project::config("folder = \"pets\""));
    project
        .run(&["train"])
        .fails(3, &["no training photos: hat", "`hat` differs from the training class `Hat` by case"]);
    assert_eq!(project.n_cached(".headstock"), 0);
    let doctor = project.run(&["doctor", "--quick", "--json"]).ok();
    assert!(doctor.stdout.contains("unknown-class"), "{}", doctor.stdout);
    let done = project.run(&["train", "--set", "data.on_error=skip", "--json"]).ok();
    assert_eq!(passed_over(&done), json!({ "unknown-class": 1 }));
    // `init` says so and writes the config.
    let init = project.run(&["init", "pets", "--config", "new.toml", "--json"]).ok();
    assert_eq!((&init.json()["test"], &init.json()["unusable"]), (&json!(2), &json!(1)));
    assert!(init.stderr.contains("`hat` differs from the training class `Hat`"), "{}", init.stderr);
    project.run(&["train", "--config", "new.toml", "--set", "backbone.weights=backbone"]).fails(3, &["Hat"]);
}

#[test]
fn the_column_of_the_split_is_recognized_and_all_rows_for_testing_are_refused() {
    let (project, table) = table_project(6);
    let with_split = |split: fn(usize) -> &'static str| -> String {
        let mut lines = table.lines();
        let header = format!("{},split\n", lines.next().unwrap());
        lines.enumerate().fold(header, |text, (row, line)| text + &format!("{line},{}\n", split(row)))
    };
    project.write("labels.csv", &with_split(|row| if row % 6 == 5 { "test" } else { "train" }));
    let init = ["init", "labels.csv", "--images", "photos", "--config", "new.toml"];
    let done = project.run(&init).ok();
    assert!(done.stdout.contains("3 classes, 15 photos for training, 3 for testing"), "{}", done.stdout);
    assert!(project.read("new.toml").contains("method = \"predefined\"\ncolumn = \"split\""));
    project.run(&["train", "--config", "new.toml", "--set", "backbone.weights=backbone"]).ok();
    // All for testing.
    project.write("labels.csv", &with_split(|_| "test"));
    let train = ["train", "--config", "new.toml", "--set", "backbone.weights=backbone"];
    project.run(&train).fails(3, &["marks all photos for testing or validation and none for training"]);
    // A column with other values is no split.
    fs::remove_file(project.path("new.toml")).unwrap();
    project.write("labels.csv", &with_split(|_| "3"));
    let done = project.run(&init).ok();
    assert!(done.stderr.contains("the column `split` is not used as the split"), "{}", done.stderr);
    assert!(project.read("new.toml").contains("test_size = "));
}

#[test]
fn a_config_in_the_folder_of_the_images_leads_to_a_run_outside() {
    let project = Project::new(10);
    let folder = project.path("photos");
    let run = |arguments: &[&str]| {
        crate::support::run_command(project.command(arguments).current_dir(&folder)).ok()
    };
    let init = run(&["init", "."]);
    let command = init.stdout.lines().last().unwrap().trim().to_owned();
    let arguments: Vec<&str> = command.split(' ').skip(1).collect();
    assert_eq!(&arguments[..2], ["train", "--run"], "{command}");
    let weights = format!("backbone.weights={}", project.path("backbone").display());
    run(&[&arguments[..], &["--set", &weights]].concat());
    assert!(project.path("photos-run/metrics.json").is_file());
}

#[test]
fn annotations_of_other_programs_are_recognized_by_init() {
    let project = Project::new(4);
    let mut rows = String::new();
    for class in CLASSES {
        for number in 0..4 {
            let (name, split) =
                (format!("{class}/{number:02}.jpg"), if number == 0 { "test" } else { "train" });
            let row = json!({ "file_name": name, "caption": "x", "split": split, "breed": class });
            rows += &format!("{row}\n");
        }
    }
    project.write("photos/metadata.jsonl", &rows);
    for path in ["photos", "photos/metadata.jsonl"] {
        fs::remove_file(project.path("headstock.toml")).unwrap();
        let init = project.run(&["init", path, "--json"]).ok();
        assert_eq!((&init.json()["classes"], &init.json()["test"]), (&json!(3), &json!(3)));
        assert!(project.read("headstock.toml").contains("method = \"predefined\"\ncolumn = \"split\""));
        assert!(init.stderr.contains("the classes are taken from the column `breed`"), "{}", init.stderr);
        assert!(project.read("headstock.toml").contains("metadata = \"photos\""));
        project.run(&["train", "--set", "backbone.weights=backbone"]).ok();
    }
    let twice = ["init", "photos", "--config", "new.toml", "--id", "x"];
    project.run(&twice).fails(2, &["--images and --id are for other tables"]);
    let other = ["init", "photos", "--config", "new.toml", "--label", "kind"];
    project.run(&other).fails(3, &["there is no column `kind`"]);
    fs::write(project.path("photos/metadata.jsonl"), rows.replace("breed", "bred")).unwrap();
    let unclear = ["init", "photos", "--config", "new.toml"];
    project
        .run(&unclear)
        .fails(2, &["name the column with --label; the columns are file_name, caption, split, bred"]);
}

#[test]
fn data_for_object_detection_are_refused_by_name() {
    let project = Project::new(3);
    let refused = |path: &str, parts: &[&str]| {
        let output = project.run(&["init", path, "--config", "new.toml"]);
        let parts = [&["object detection", "crop the boxes"], parts].concat();
        output.fails(2, &parts);
    };
    // Ultralytics with splits, as Roboflow exports it, and as COCO.
    for part in ["train", "valid"] {
        fs::create_dir_all(project.path(&format!("yolo/{part}/images"))).unwrap();
        fs::copy(demo_image("hat", 1), project.path(&format!("yolo/{part}/images/1.jpg"))).unwrap();
        project.write(&format!("yolo/{part}/labels/1.txt"), "0 0.5 0.5 0.1 0.1\n");
        fs::create_dir_all(project.path(&format!("coco/{part}"))).unwrap();
        fs::copy(demo_image("hat", 1), project.path(&format!("coco/{part}/1.jpg"))).unwrap();
        project.write(&format!("coco/{part}/_annotations.coco.json"), "{}");
    }
    refused("yolo", &["Ultralytics (YOLO)"]);
    refused("coco", &["the layout of COCO"]);
    let rows = "filename,width,height,class,xmin,ymin,xmax,ymax\nhat/00.jpg,9,9,hat,1,1,2,2\nhat/00.jpg,9,9,dress,1,1,2,2\n";
    project.write("boxes.csv", rows);
    refused("boxes.csv", &["columns of boxes"]);
    // Columns of boxes, one for each photo, are just more columns.
    project.write("boxes.csv", &rows.replacen("hat/00.jpg,9,9,dress", "dress/00.jpg,9,9,dress", 1));
    project.run(&["init", "boxes.csv", "--images", "photos", "--config", "new.toml"]).ok();
    let json = json!({
        "images": [{ "id": 1, "file_name": "hat/00.jpg" }],
        "annotations": [
            { "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2] },
            { "image_id": 1, "category_id": 2, "bbox": [1, 1, 2, 2] },
        ],
        "categories": [{ "id": 1, "name": "hat" }, { "id": 2, "name": "dress" }],
    });
    project.write("photos/instances.json", &json.to_string());
    let output = project.run(&["init", "photos/instances.json", "--config", "coco.toml"]);
    output.fails(3, &["photos/instances.json: this is data for object detection", "Crop the boxes"]);
    // A photo must not be in both files.
    let labeled = |name: &str| {
        json!({
            "images": [{ "id": 1, "file_name": "hat/00.jpg" }, { "id": 2, "file_name": name }],
            "annotations": [{ "image_id": 1, "category_id": 1 }, { "image_id": 2, "category_id": 2 }],
            "categories": [{ "id": 1, "name": "hat" }, { "id": 2, "name": "dress" }],
        })
    };
    project.write("photos/train.json", &labeled("dress/00.jpg").to_string());
    project.write("photos/val.json", &labeled("dress/01.jpg").to_string());
    fs::remove_file(project.path("photos/instances.json")).unwrap();
    project.run(&["init", "photos", "--config", "both.toml"]).ok();
    let train = ["train", "--config", "both.toml", "--set", "backbone.weights=backbone"];
    project.run(&train).fails(3, &["photos/hat/00.jpg is in both the training data and the test data"]);
    project.write("x.json", "{}");
    project.run(&["init", "x.json", "--config", "coco.toml"]).fails(2, &["not a JSON file in COCO's format"]);
}

#[test]
fn many_images_that_fail_alike_are_one_sentence() {
    let project = Project::new(3);
    for number in 10..15 {
        project.write(
            &format!("photos/hat/{number}.jpg"),
            "version https://git-lfs.github.com/spec/v1\nsize 5\n",
        );
    }
    let failed = project
        .run(&["train"])
        .fails(3, &["5 photos cannot be read, all for the same reason: the file is a Git LFS"]);
    assert!(failed.stderr.contains("hat/12.jpg and 2 more\nfix or remove these photos"), "{}", failed.stderr);
    assert_eq!(failed.stderr.matches("git lfs pull").count(), 1);
    // Another reason is named with each.
    project.write("photos/hat/15.jpg", "");
    let failed =
        project.run(&["train"]).fails(3, &["6 photos cannot be read\n", "15.jpg: the file is empty"]);
    assert_eq!(failed.stderr.matches("git lfs pull").count(), 5);
}

#[test]
fn an_archive_whose_files_are_not_sorted_names_the_command_that_sorts_them() {
    let project = Project::new(3);
    let mut archive = tar::Builder::new(fs::File::create(project.path("x.tar")).unwrap());
    let mut add = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    for class in CLASSES {
        add(format!("{class}.jpg"), &fs::read(demo_image(class, 0)).unwrap());
    }
    CLASSES.iter().for_each(|class| add(format!("{class}.cls"), class.as_bytes()));
    archive.finish().unwrap();
    project.write("headstock.toml", &Project::config("webdataset = \"x.tar\""));
    let parts = [
        "`dress.jpg`, `hat.jpg`, `shoes.jpg`: its label is elsewhere",
        "hint: `tar --sort=name -cf NEW.tar FOLDER`",
    ];
    project.run(&["train"]).fails(3, &parts);
}

#[test]
fn init_explains_names_of_tables_and_finds_absolute_paths() {
    let (project, table) = table_project(4);
    let root = project.path("photos");
    let mut absolute = "id,label\n".to_owned();
    for line in table.lines().skip(1) {
        absolute += &format!("{}/{line}\n", root.display());
    }
    project.write("labels.csv", &absolute);
    let init = project.run(&["init", "labels.csv", "--config", "new.toml", "--json"]).ok();
    assert_eq!(init.json()["classes"], 3);
    assert!(project.read("new.toml").contains("images = \"photos\""), "{}", project.read("new.toml"));
    project.run(&["train", "--config", "new.toml", "--set", "backbone.weights=backbone"]).ok();
    // Elsewhere, it is the folder that all paths have in common.
    let elsewhere = tempfile::tempdir().unwrap();
    let outside = elsewhere.path().join("shop");
    fs::rename(&root, &outside).unwrap();
    project.write("labels.csv", &absolute.replace(root.to_str().unwrap(), outside.to_str().unwrap()));
    project.run(&["init", "labels.csv", "--config", "other.toml"]).ok();
    assert!(
        project.read("other.toml").contains(&format!("images = {outside:?}")),
        "{}",
        project.read("other.toml")
    );
    fs::rename(&outside, &root).unwrap();
    project.write("labels.csv", &table.replace("/0", "\\0"));
    let parts = [
        "(12): dress\\00.jpg, dress\\01.jpg, dress\\02.jpg and 9 more; all of them exist",
        "the names have backslashes",
    ];
    project.run(&["init", "labels.csv", "--config", "no.toml"]).fails(3, &parts);
}

// effect: split.column
#[test]
fn a_column_with_the_split_is_found_by_its_values() {
    let (project, table) = table_project(4);
    for (name, test, train) in
        [("is_valid", "True", "False"), ("purpose", "val", "train"), ("is_train", "0", "1")]
    {
        let mut lines = vec![format!("id,label,age,{name}")];
        for (number, line) in table.lines().skip(1).enumerate() {
            lines.push(format!("{line},{number},{}", if number % 4 == 0 { test } else { train }));
        }
        project.write("labels.csv", &(lines.join("\n") + "\n"));
        let config = format!("{name}.toml");
        let init = project.run(&["init", "labels.csv", "--config", &config, "--json"]).ok();
        assert_eq!((&init.json()["train"], &init.json()["test"]), (&json!(9), &json!(3)), "{name}");
        assert!(project.read(&config).contains(&format!("column = \"{name}\"")));
        let train = ["train", "--config", &config, "--set", "backbone.weights=backbone", "--json"];
        assert_eq!(project.run(&train).ok().json()["counts"]["test"], 3, "{name}");
    }
}

#[test]
fn the_class_in_the_names_of_files_is_found_in_usual_places() {
    type NameOf = fn(&str, usize) -> String;
    let names: [NameOf; 4] = [
        |class, number| format!("{class}.{number}.jpg"),
        |class, number| format!("great_{class}_{number}.jpg"),
        |class, number| format!("{class} ({number}).jpg"),
        |class, number| format!("{number}_{class}.jpg"),
    ];
    let flat_project = |name_of: NameOf| {
        let project = Project::empty();
        fs::create_dir(project.path("flat")).unwrap();
        for class in CLASSES {
            for number in 0..3 {
                let path = project.path(&format!("flat/{}", name_of(class, number)));
                fs::copy(demo_image(class, number), path).unwrap();
            }
        }
        project
    };
    for name_of in names {
        let project = flat_project(name_of);
        let init = project.run(&["init", "flat", "--json"]).ok();
        assert_eq!(init.json()["classes"], 3, "{}", project.read("headstock.toml"));
    }
    // Numbers alone are no classes.
    let names: [NameOf; 3] = [
        |class, number| format!("IMG_{}.jpg", 10 * class.len() + number),
        |class, number| format!("{}{number}.jpg", class.len()),
        |class, number| format!("2020-05-{}{number}.jpg", class.len()),
    ];
    for name_of in names {
        let project = flat_project(name_of);
        project.run(&["init", "flat"]).fails(3, &["no class folders"]);
    }
}
