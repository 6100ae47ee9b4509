//! Files of a run, and which features training computes.

use std::fs;

use crate::support::{CLASSES, Project, REPRODUCIBLE_FILES, demo_image};
use headstock_train::metrics::Metrics;

fn n_computed(project: &Project, arguments: &[&str]) -> u64 {
    let done = project.run(&[&["train", "--json"], arguments].concat()).ok();
    done.json()["counts"]["computed"].as_u64().expect("a count")
}

#[test]
fn a_run_has_its_files_and_they_agree_with_each_other() {
    let project = Project::new(8);
    let done = project.run(&["train", "--json"]).ok();
    assert_eq!(done.json()["run"], "runs/linear-1");
    let mut files: Vec<String> = fs::read_dir(project.path("runs/linear-1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let expected = [
        "headstock.toml",
        "history.csv",
        "metrics.json",
        "model.safetensors",
        "predictions.csv",
        "report.html",
        "split.csv",
        "tested_on.csv",
        "trained_on.csv",
    ];
    assert_eq!(files, expected);

    let split = project.read("runs/linear-1/split.csv");
    assert_eq!(split.lines().next(), Some("path,label,split"));
    assert_eq!(split.lines().count(), 25);
    assert_eq!(split.matches(",test").count(), 6);
    let predictions = project.read("runs/linear-1/predictions.csv");
    assert_eq!(predictions.lines().next(), Some("path,label,predicted,probability,dress,hat,shoes"));
    let right = predictions.lines().skip(1).filter(|line| {
        let fields: Vec<&str> = line.split(',').collect();
        fields[1] == fields[2]
    });
    let metrics: serde_json::Value =
        serde_json::from_str(&project.read("runs/linear-1/metrics.json")).unwrap();
    assert_eq!(metrics["top1"].as_f64().unwrap(), right.count() as f64 / 6.0);
    for line in predictions.lines().skip(1) {
        let probabilities: Vec<f64> = line.split(',').skip(4).map(|field| field.parse().unwrap()).collect();
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{line}");
    }
    let report = project.read("runs/linear-1/report.html");
    let top1 = format!("<td>accuracy</td><td>{:.4}</td>", metrics["top1"].as_f64().unwrap());
    assert!(report.contains(&top1), "{report}");
    assert!(CLASSES.iter().all(|class| report.contains(&format!("<tr><td>{class}</td><td>"))), "{report}");
    let folder = project.path("").canonicalize().unwrap();
    let resolved = project.read("runs/linear-1/headstock.toml");
    insta::assert_snapshot!(
        "resolved",
        resolved.replace(folder.to_str().unwrap().trim_end_matches('/'), "FOLDER")
    );
    let history = project.read("runs/linear-1/history.csv");
    assert!(history.starts_with("iteration,") && history.lines().count() > 2, "{history}");
}

#[test]
fn evaluate_and_predict_agree_with_the_run() {
    let project = Project::new(8);
    for head in ["linear", "svm", "mlp"] {
        project.run(&["train", "--head", head, "--run", head]).ok();
        let run: Metrics = serde_json::from_str(&project.read(&format!("{head}/metrics.json"))).unwrap();
        let done = project.run(&["evaluate", head, "--json"]).ok();
        let again: Metrics = serde_json::from_value(done.json()).unwrap();
        assert_eq!(again, run, "{head}");
        assert_eq!(done.json()["same_samples"], true);

        let table = project.read(&format!("{head}/predictions.csv"));
        let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split(',').collect()).collect();
        assert_eq!(rows.len(), 6);
        let images: Vec<String> = rows.iter().map(|fields| format!("photos/{}", fields[0])).collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let predict = [&["predict", head][..], &images, &["--format", "csv"]].concat();
        let shown = project.run(&predict).ok().stdout;
        assert_eq!(shown.lines().count(), 7);
        for (line, fields) in shown.lines().skip(1).zip(&rows) {
            let again: Vec<&str> = line.split(',').collect();
            assert_eq!(again[1..], fields[2..], "{head}: {}", fields[0]);
        }
    }
}

// effect: --threads
#[test]
fn the_same_settings_give_the_same_bytes_on_any_number_of_threads() {
    let project = Project::new(6);
    for head in ["linear", "svm", "mlp"] {
        for threads in ["1", "2"] {
            // A separate cache, so that features are computed again.
            let cache = format!("features.cache=cache-{threads}");
            let run = format!("{head}-{threads}");
            let arguments = ["train", "--head", head, "--threads", threads, "--set", &cache, "--run", &run];
            project.run(&arguments).ok();
        }
        for file in REPRODUCIBLE_FILES {
            let read = |threads| fs::read(project.path(&format!("{head}-{threads}/{file}"))).unwrap();
            assert!(read(1) == read(2), "{head}: {file} depends on the number of threads");
        }
    }
}

#[test]
fn a_runs_own_config_gives_the_same_run_from_anywhere() {
    let project = Project::new(6);
    project.run(&["train", "--head", "svm", "--set", "head.C=0.5", "--run", "first"]).ok();
    fs::create_dir(project.path("elsewhere")).unwrap();
    let config = project.path("first/headstock.toml");
    let arguments = ["train", "--config", config.to_str().unwrap(), "--run", "second"];
    crate::support::run_command(project.command(&arguments).current_dir(project.path("elsewhere"))).ok();
    for file in REPRODUCIBLE_FILES {
        let read = |run: &str| fs::read(project.path(&format!("{run}/{file}"))).unwrap();
        assert!(read("first") == read("elsewhere/second"), "{file}");
    }
    assert_eq!(project.read("first/headstock.toml"), project.read("elsewhere/second/headstock.toml"));
}

#[test]
fn only_missing_features_are_computed() {
    let project = Project::new(8);
    assert_eq!(n_computed(&project, &[]), 24, "everything in the first run");
    assert_eq!(n_computed(&project, &["--head", "svm"]), 0, "another head");
    assert_eq!(
        n_computed(&project, &["--set", "split.seed=5", "--set", "split.test_size=9"]),
        0,
        "another split"
    );
    assert_eq!(n_computed(&project, &["--set", "data.class_order=appearance"]), 0, "another class order");
    for number in 8..12 {
        project.add_image("hat", number);
    }
    assert_eq!(n_computed(&project, &[]), 4, "four more photos");
    fs::rename(project.path("photos/hat/11.jpg"), project.path("photos/dress/moved.jpg")).unwrap();
    assert_eq!(n_computed(&project, &[]), 0, "another label and another name");
    fs::copy(project.path("photos/hat/10.jpg"), project.path("photos/shoes/copy.jpg")).unwrap();
    assert_eq!(n_computed(&project, &[]), 0, "a copy");
    assert_eq!(
        n_computed(&project, &["--set", "backbone.layer=layer3"]),
        29 - 1,
        "another layer; duplicates count once"
    );
    let preprocessing = project.read("backbone/config.json").replace("bilinear", "bicubic");
    project.write("backbone/config.json", &preprocessing);
    assert_eq!(n_computed(&project, &[]), 28, "another preprocessing");
}

#[test]
fn views_are_computed_for_training_images_only_and_depend_on_the_seed() {
    let project = Project::new(4);
    let text = project.read("headstock.toml");
    let augment = "[features]\nviews = 2\n[augment]\nrandom_resized_crop = { scale = [0.3, 1.0] \
                   }\nhorizontal_flip = 0.5\nrotation = 30\n";
    project.write("headstock.toml", &(text + augment));
    // 9 training photos with 3 views, 3 test photos.
    assert_eq!(n_computed(&project, &["--run", "one"]), 9 * 3 + 3);
    assert_eq!(n_computed(&project, &["--run", "again"]), 0);
    assert_eq!(n_computed(&project, &["--set", "augment.seed=1"]), 9 * 2, "another seed");
    assert_eq!(n_computed(&project, &["--set", "features.views=3"]), 9, "another view");
    assert_eq!(n_computed(&project, &["--set", "augment.rotation=15"]), 9 * 2, "other settings");
    assert_eq!(project.read("one/predictions.csv"), project.read("again/predictions.csv"));
    let without_views = ["train", "--set", "features.views=0", "--run", "plain"];
    project.run(&without_views).ok();
    assert_ne!(project.read("one/predictions.csv"), project.read("plain/predictions.csv"));
}

#[test]
fn unreadable_images_stop_before_computing_or_are_skipped_with_a_warning() {
    let project = Project::new(5);
    fs::write(project.path("photos/hat/00.jpg"), "no photo").unwrap();
    let whole = fs::read(demo_image("dress", 20)).unwrap();
    fs::write(project.path("photos/dress/cut.jpg"), &whole[..whole.len() / 2]).unwrap();
    let stopped = project
        .run(&["train"])
        .fails(3, &["2 photos cannot be read", "00.jpg", "cut.jpg", "data.on_error = \"skip\""]);
    assert!(!stopped.stdout.contains("accuracy"));

    let done = project.run(&["train", "--set", "data.on_error=skip", "--json"]).ok();
    assert_eq!(done.json()["counts"]["skipped"], 2);
    for part in ["2 photos cannot be read and are skipped", "00.jpg", "cut.jpg"] {
        assert!(done.stderr.contains(part), "{}", done.stderr);
    }
    let split = project.read("runs/linear-1/split.csv");
    assert!(!split.contains("cut.jpg") && split.lines().count() == 15, "{split}");
    // Skipped photos are skipped by `evaluate`, too.
    let again = project.run(&["evaluate", "runs/linear-1", "--json"]).ok();
    assert_eq!(again.json()["same_samples"], true);
}

#[test]
fn features_made_elsewhere_need_no_backbone() {
    let project = Project::new(4);
    project.run(&["extract", "--out", "x.npz"]).ok();
    let config = "version = 1\n[data]\nfeatures = \"x.npz\"\n[split]\ntest_size = 3\n";
    project.write("features.toml", config);
    let done = project.run(&["train", "--config", "features.toml", "--run", "given", "--json"]).ok();
    assert_eq!(done.json()["counts"]["train"], 9);
    let metrics: Metrics = serde_json::from_str(&project.read("given/metrics.json")).unwrap();
    let again: Metrics =
        serde_json::from_value(project.run(&["evaluate", "given", "--json"]).ok().json()).unwrap();
    assert_eq!(again, metrics);
    project.run(&["predict", "given", "photos/hat/00.jpg"]).fails(2, &["trained on precomputed features"]);
    // The same features in the same order (sorted by path) give the same fit as photos do.
    project.run(&["train", "--set", "split.test_size=3", "--run", "photos-run"]).ok();
    let probabilities = |run: &str| -> Vec<String> {
        let table = project.read(&format!("{run}/predictions.csv"));
        table.lines().skip(1).map(|line| line.split(',').skip(4).collect::<Vec<_>>().join(",")).collect()
    };
    assert_eq!(probabilities("given"), probabilities("photos-run"));
}

// effect: data.test_folder
#[test]
fn a_test_folder_is_only_tested_on_and_paths_start_at_the_common_parent() {
    let project = Project::new(4);
    project.add_new_images("later", 9);
    let done = project.run(&["train", "--set", "data.test_folder=later", "--json"]).ok();
    assert_eq!((&done.json()["counts"]["train"], &done.json()["counts"]["test"]), (&12.into(), &3.into()));
    let split = project.read("runs/linear-1/split.csv");
    assert!(
        split.contains("photos/dress/00.jpg,dress,train") && split.contains("later/hat/new.jpg,hat,test"),
        "{split}"
    );
}

#[test]
fn evaluating_a_run_on_other_images_is_reported() {
    let project = Project::new(6);
    project.run(&["train"]).ok();
    project.add_new_images("later", 12);
    let done = project.run(&["evaluate", "runs/linear-1", "--set", "data.test_folder=later", "--json"]).ok();
    assert_eq!((&done.json()["samples"], &done.json()["same_samples"]), (&3.into(), &false.into()));
    assert!(done.stderr.contains("not the photos that the run was first tested on"), "{}", done.stderr);
}

// effect: predict PHOTO, predict --format
#[test]
fn predict_supports_every_format_and_folders() {
    let project = Project::new(4);
    project.run(&["train"]).ok();
    let table = project.run(&["predict", "runs/linear-1", "photos/hat"]).ok().stdout;
    assert_eq!(table.lines().count(), 4);
    assert!(table.lines().all(|line| line.starts_with("photos/hat/0")), "{table}");
    fs::write(project.path("bad.jpg"), "no photo").unwrap();
    let images = ["photos/hat/00.jpg", "bad.jpg", "absent.jpg", "photos/dress/01.jpg"];
    let predict = |format| {
        let arguments = [&["predict", "runs/linear-1", "--format", format][..], &images].concat();
        project
            .run(&arguments)
            .fails(3, &["bad.jpg cannot be read", "absent.jpg cannot be read", "2 of 4 photos"])
    };
    let lines: Vec<serde_json::Value> =
        predict("jsonl").stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["path"].as_str().unwrap()).collect::<Vec<_>>(), images);
    assert!(lines[1]["error"].is_string() && lines[3]["probabilities"]["dress"].is_number());
    let csv = predict("csv").stdout;
    assert_eq!(csv.lines().next(), Some("path,predicted,probability,dress,hat,shoes"));
    assert_eq!(csv.lines().nth(2), Some("bad.jpg,,,,,"));
    assert_eq!(predict("table").stdout.lines().count(), 2);
}

#[test]
fn a_closed_stdout_is_no_error() {
    let project = Project::new(4);
    project.run(&["train"]).ok();
    let mut child = project
        .command(&["predict", "runs/linear-1", "photos", "--format", "jsonl"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
