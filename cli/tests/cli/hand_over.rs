//! Runs on other machines: packed, and without the weights where the run names them.

#![expect(clippy::unwrap_used, reason = "test helpers may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use headstock_hub::hash_sha256;

use crate::support::{Project, demo_image, run_command};

/// A project with a run and `new.jpg`, a photo that the run was not trained on; and what the run predicts of it.
fn project_with_run() -> (Project, String) {
    let project = Project::new(6);
    project.run(&["train"]).ok();
    fs::copy(demo_image("hat", 20), project.path("new.jpg")).unwrap();
    let predicted = project.run(&["predict", "runs/linear-1", "new.jpg", "--format", "csv"]).ok().stdout;
    (project, predicted)
}

/// All files in `folder` and its subfolders.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

// effect: pack RUN, pack --out
#[test]
fn a_packed_run_predicts_elsewhere_without_the_originals() {
    let (project, before) = project_with_run();
    let done = project.run(&["pack", "runs/linear-1", "--out", "handed over/pets", "--json"]).ok();
    assert_eq!(done.json()["out"], "handed over/pets");
    project.run(&["pack", "runs/linear-1", "--out", "runs"]).fails(2, &["runs already exists", "`--out`"]);

    let elsewhere = Project::empty();
    fs::rename(project.path("handed over/pets"), elsewhere.path("our pets")).unwrap();
    fs::rename(project.path("new.jpg"), elsewhere.path("new.jpg")).unwrap();
    let here = project.path("").display().to_string();
    let here = here.trim_end_matches('/').to_owned();
    let own_files: Vec<PathBuf> = files_in(&project.path("runs/linear-1"));
    let packed = files_in(&elsewhere.path("our pets"));
    assert_eq!(packed.len(), own_files.len() + 2, "the weights and their config: {packed:?}");
    for file in &packed {
        let bytes = fs::read(file).unwrap();
        let names_origin = bytes.windows(here.len()).any(|window| window == here.as_bytes());
        assert!(!names_origin, "{} names {here}", file.display());
    }
    drop(project);
    let predict = ["predict", "our pets", "new.jpg", "--format", "csv"];
    assert_eq!(elsewhere.run(&predict).ok().stdout, before);
    // From another folder, too.
    let mut from_inside = elsewhere.command(&["predict", ".", "../new.jpg", "--format", "csv"]);
    let inside = run_command(from_inside.current_dir(elsewhere.path("our pets"))).ok();
    assert_eq!(inside.stdout.replace("../", ""), before);
    // A packed run is a run: it can be packed again.
    elsewhere.run(&["pack", "our pets", "--out", "again"]).ok();
    fs::remove_dir_all(elsewhere.path("our pets")).unwrap();
    assert_eq!(elsewhere.run(&["predict", "again", "new.jpg", "--format", "csv"]).ok().stdout, before);
}

#[test]
fn a_run_is_evaluated_on_the_same_images_in_another_folder() {
    let (project, _) = project_with_run();
    let first: serde_json::Value = serde_json::from_str(&project.read("runs/linear-1/metrics.json")).unwrap();
    project.run(&["pack", "runs/linear-1", "--out", "packed"]).ok();
    fs::rename(project.path("photos"), project.path("elsewhere")).unwrap();
    let evaluate =
        |run: &str| project.run(&["evaluate", run, "--set", "data.folder=elsewhere", "--json"]).ok();
    for run in ["runs/linear-1", "packed"] {
        let again = evaluate(run);
        let figures = again.json();
        assert_eq!(figures["same_samples"], true, "{}", again.stderr);
        assert_eq!((&figures["top1"], &figures["log_loss"]), (&first["top1"], &first["log_loss"]));
        assert_eq!(figures["trained_on"]["samples"], 0);
        assert!(!again.stderr.contains("not the photos"), "{}", again.stderr);
    }
    // Another photo under the name of a test photo is another photo.
    let split = project.read("runs/linear-1/split.csv");
    let tested =
        split.lines().find_map(|line| line.strip_suffix(",test")).unwrap().split(',').next().unwrap();
    fs::copy(demo_image("hat", 25), project.path("elsewhere").join(tested)).unwrap();
    let changed = evaluate("runs/linear-1");
    assert_eq!(changed.json()["same_samples"], false);
    assert!(changed.stderr.contains("not the photos that the run was first tested on"), "{}", changed.stderr);
}

#[test]
fn weights_are_found_by_their_hash() {
    let (project, before) = project_with_run();
    let weights = project.path("backbone/model.safetensors");
    let sha256 = hash_sha256(&weights).unwrap();
    fs::rename(&weights, project.path("away")).unwrap();
    fs::remove_dir_all(project.path("backbone")).unwrap();
    // A file of the same name with other contents is not taken.
    project.write("runs/model.safetensors", "other weights");
    let predict = |more: &[&str]| {
        let arguments = [&["predict", "runs/linear-1", "new.jpg", "--format", "csv"], more].concat();
        let mut command = project.command(&arguments);
        run_command(command.env("HF_HUB_CACHE", project.path("cache")).env("HF_HUB_OFFLINE", "1"))
    };
    let missing = predict(&[]).fails(
        2,
        &[
            "no model weights found at",
            &format!("the sha256 of the run's weights ({sha256}) is in runs/linear-1, "),
            "cache",
            "`--weights PATH`",
        ],
    );
    assert!(missing.stdout.is_empty());
    for place in [
        "runs/linear-1/backbone/model.safetensors",
        "runs/w.safetensors",
        &format!("cache/models--a--b/blobs/{sha256}"),
    ] {
        let place = project.path(place);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::rename(project.path("away"), &place).unwrap();
        let found = predict(&[]).ok();
        assert_eq!(found.stdout, before, "{}", place.display());
        assert!(found.stderr.contains("the weights of the run are not at"), "{}", found.stderr);
        let mut evaluate = project.command(&["evaluate", "runs/linear-1"]);
        run_command(evaluate.env("HF_HUB_CACHE", project.path("cache"))).ok();
        fs::rename(&place, project.path("away")).unwrap();
    }
    // Beside the config.
    fs::create_dir(project.path("configs")).unwrap();
    fs::copy(project.path("runs/linear-1/headstock.toml"), project.path("configs/a.toml")).unwrap();
    fs::rename(project.path("away"), project.path("configs/w.safetensors")).unwrap();
    predict(&[]).fails(2, &["no model weights found at"]);
    assert_eq!(predict(&["--config", "configs/a.toml"]).ok().stdout, before);
}

// effect: predict --weights, evaluate --weights, extract --weights, pack --weights
#[test]
fn a_flag_names_the_weights() {
    let (project, before) = project_with_run();
    fs::rename(project.path("backbone"), project.path("moved")).unwrap();
    let run = "runs/linear-1";
    for arguments in [
        &["predict", run, "new.jpg", "--format", "csv"][..],
        &["evaluate", run],
        &["extract", "--run", run, "--out", "x.npz"],
        &["pack", run, "--out", "packed"],
    ] {
        project.run(arguments).fails(2, &["no model weights found at", "`--weights PATH`"]);
        // What the flag names is not replaced by what a search finds.
        fs::create_dir_all(project.path("runs/linear-1/b")).unwrap();
        fs::rename(project.path("moved/model.safetensors"), project.path("runs/linear-1/b/w.safetensors"))
            .unwrap();
        let wrong = project.run(&[arguments, &["--weights", "absent"]].concat());
        let wrong = wrong.fails(2, &["absent"]);
        assert!(!wrong.stderr.contains("sha256"), "{}", wrong.stderr);
        fs::rename(project.path("runs/linear-1/b/w.safetensors"), project.path("moved/model.safetensors"))
            .unwrap();
        let done = project.run(&[arguments, &["--weights", "moved"]].concat()).ok();
        assert!(arguments[0] != "predict" || done.stdout == before, "{}", done.stdout);
    }
}
