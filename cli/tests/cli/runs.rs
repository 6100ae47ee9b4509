//! Using runs later: in other folders, on other photos, with changed files.

use std::fs;
use std::path::Path;

use crate::support::{CLASSES, Project};

#[test]
fn the_same_project_elsewhere_gives_the_same_bytes() {
    let (here, there) = (Project::new(5), Project::new(5));
    for project in [&here, &there] {
        project.run(&["train"]).ok();
    }
    for file in ["model.safetensors", "split.csv", "predictions.csv", "history.csv", "report.html"] {
        let read = |project: &Project| fs::read(project.path("runs/linear-1").join(file)).unwrap();
        assert!(read(&here) == read(&there), "{file} depends on the folder of the project");
    }
}

#[test]
fn preprocessing_is_the_one_of_the_fit_even_if_the_weights_record_changed() {
    let project = Project::new(6);
    project.run(&["train"]).ok();
    let predict = || project.run(&["predict", "runs/linear-1", "photos/hat", "--format", "csv"]).ok();
    let before = predict();
    let record = project.read("backbone/config.json");
    project.write("backbone/config.json", &record.replace("0.875", "0.5"));
    assert_eq!(predict().stdout, before.stdout);
    fs::remove_file(project.path("backbone/config.json")).unwrap();
    let bare = predict();
    assert_eq!(bare.stdout, before.stdout);
    assert!(!bare.stderr.contains("ImageNet"), "{}", bare.stderr);
}

#[test]
fn a_run_is_evaluated_on_its_test_split_after_images_were_added() {
    let project = Project::new(6);
    let first = project.run(&["train", "--json"]).ok().json();
    for class in CLASSES {
        for number in 6..12 {
            project.add_image(class, number);
        }
    }
    let again = project.run(&["evaluate", "runs/linear-1", "--json"]).ok().json();
    assert_eq!(
        (&again["top1"], &again["log_loss"], &again["samples"]),
        (&first["top1"], &first["log_loss"], &5.into())
    );
    assert_eq!(again["same_samples"], true);

    // Test samples that the run was trained on are reported.
    let other = project.run(&["evaluate", "runs/linear-1", "--set", "split.seed=1", "--json"]).ok();
    let trained_on = other.json()["trained_on"].clone();
    let (seen, tested) = (trained_on["samples"].as_u64().unwrap(), other.json()["samples"].as_u64().unwrap());
    let unseen = trained_on["unseen"]["samples"].as_u64().unwrap();
    assert!(seen > 0 && unseen > 0 && seen + unseen == tested, "{trained_on}");
    let warning = format!("the run was trained on {seen} of the {tested} photos");
    assert!(other.stderr.contains(&warning), "{}", other.stderr);
    let title = format!(
        "test photos that were in the training data: {seen}; metrics on the other {unseen} test photo"
    );
    assert!(other.stdout.contains(&title), "{}", other.stdout);
    let own = project.run(&["evaluate", "runs/linear-1"]).ok();
    assert!(!own.stdout.contains("training data") && !own.stderr.contains("trained on"), "{}", own.stderr);

    let split = project.read("runs/linear-1/split.csv");
    let tested =
        split.lines().find_map(|line| line.strip_suffix(",test")).unwrap().split(',').next().unwrap();
    fs::remove_file(project.path("photos").join(tested)).unwrap();
    project.run(&["evaluate", "runs/linear-1"]).fails(3, &[tested, "test photos of the run are missing"]);
}

#[test]
fn a_run_is_evaluated_on_new_images_without_its_training_images() {
    let project = Project::new(5);
    project.run(&["train"]).ok();
    project.add_new_images("later", 20);
    fs::remove_dir_all(project.path("later/hat")).unwrap();
    fs::rename(project.path("photos"), project.path("archive")).unwrap();
    let done = project.run(&["evaluate", "runs/linear-1", "--set", "data.test_folder=later", "--json"]).ok();
    assert_eq!(done.json()["samples"], 2);
    assert_eq!(done.json()["same_samples"], false);
}

#[test]
fn evaluate_works_with_a_read_only_cache() {
    let project = Project::new(5);
    let first = project.run(&["train", "--json"]).ok().json();
    project.write("file", "no folder");
    let cache = ["evaluate", "runs/linear-1", "--json", "--set", "features.cache=file/cache"];
    let done = project.run(&cache).ok();
    assert_eq!(done.json()["top1"], first["top1"]);
    assert!(done.stderr.contains("is not writable"), "{}", done.stderr);
}

#[test]
fn a_run_inside_the_data_folder_is_refused() {
    let project = Project::new(4);
    let arguments = ["train", "--config", "../headstock.toml"];
    let refused =
        crate::support::run_command(project.command(&arguments).current_dir(project.path("photos")));
    refused.fails(2, &["inside the folder of the photos", "--run"]);
    assert!(!project.path("photos/runs").exists());
    project.run(&["train", "--run", "photos/hat/run"]).fails(2, &["inside the folder of the photos"]);
    project.run(&["train"]).ok();
}

#[test]
fn unwritable_outputs_are_reported_before_the_work() {
    let project = Project::new(4);
    project.write("file", "no folder");
    fs::create_dir(project.path("folder.npz")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("nowhere", project.path("dangling")).unwrap();
    let refused: &[(&[&str], i32, &[&str])] = &[
        (&["train", "--run", "file/run"], 1, &["file"]),
        (&["extract", "--out", "file/x.npz"], 1, &["file"]),
        (&["extract", "--out", "photos.npz/../backbone"], 2, &["unknown file extension"]),
        (&["extract", "--out", "folder.npz"], 2, &["folder.npz is a folder"]),
        #[cfg(unix)]
        (&["train", "--run", "dangling"], 2, &["dangling already exists"]),
    ];
    for (arguments, code, parts) in refused {
        project.run(arguments).fails(*code, parts);
    }
    assert!(!project.path(".headstock").exists(), "features were computed before the refusal");
    assert!(!project.path("folder.csv").exists());
}

#[test]
fn tables_of_the_user_are_not_overwritten() {
    let project = Project::new(4);
    project.write("labels.csv", "id,breed\n1,pug\n");
    project.run(&["extract", "--out", "labels.npz"]).fails(2, &["labels.csv exists and is not"]);
    project.run(&["split", "--out", "labels.csv"]).fails(2, &["labels.csv exists and is not"]);
    project.run(&["split", "--out", "headstock.toml"]).fails(2, &["headstock.toml exists and is not"]);
    assert_eq!(project.read("labels.csv"), "id,breed\n1,pug\n");
    // Files of headstock are overwritten.
    for _ in 0..2 {
        project.run(&["split", "--out", "split.csv"]).ok();
        project.run(&["extract", "--out", "x.npz"]).ok();
    }
}

#[test]
fn images_are_never_in_both_train_and_test() {
    let project = Project::new(4);
    for test in ["photos", "photos/hat"] {
        let folder = format!("data.test_folder={test}");
        project.run(&["train", "--set", &folder]).fails(3, &["is inside the other"]);
    }
    // The same for shards: one that is both, and one inside a folder of the other.
    let golden = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference/source").join(name);
    for name in ["numbers-000.tar", "numbers-001.tar", "train-00000-of-00002.parquet"] {
        fs::copy(golden(name), project.path(name)).unwrap();
    }
    let twice = "is in both the training data and the test data";
    for (main, test, both) in [
        ("webdataset = \"numbers-000.tar\"", "test_webdataset = \"numbers-000.tar\"", "numbers-000.tar: "),
        ("webdataset = \".\"", "test_webdataset = \"numbers-001.tar\"", "numbers-001.tar: "),
        (
            "parquet = \"train-00000-of-00002.parquet\"",
            "test_parquet = \"train-00000-of-00002.parquet\"",
            "train-00000-of-00002.parquet",
        ),
    ] {
        project.write("both.toml", &Project::config(&format!("{main}\n{test}")));
        let split = project.run(&["split", "--config", "both.toml", "--out", "s.csv"]);
        split.fails(3, &[both, twice]);
        assert!(!project.path("s.csv").exists());
    }
    let other = "webdataset = \"numbers-000.tar\"\ntest_webdataset = \"numbers-001.tar\"";
    project.write("apart.toml", &Project::config(other));
    project.run(&["split", "--config", "apart.toml", "--out", "s.csv"]).ok();
}

#[cfg(unix)]
#[test]
fn permissions_of_a_run_follow_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let project = Project::new(4);
    let command = env!("CARGO_BIN_EXE_headstock");
    for (umask, expected) in [("022", 0o755), ("077", 0o700)] {
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(format!("umask {umask}; exec '{command}' train --run run-{umask}"));
        crate::support::run_command(shell.current_dir(project.path(""))).ok();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let run = project.path(&format!("run-{umask}"));
        assert_eq!(mode(&run), expected, "umask {umask}");
        assert_eq!(mode(&run.join("model.safetensors")), expected & 0o666, "umask {umask}");
    }
}
