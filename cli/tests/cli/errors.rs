//! What goes wrong ends with its status and a message that says what to do.

use std::fs;

use crate::support::Project;

/// The texts, so that a change to one is seen.
#[test]
fn errors_say_what_failed_on_what_and_what_to_do() {
    let project = Project::new(3);
    fs::write(project.path("photos/hat/00.jpg"), "no photo").unwrap();
    project.write("features.toml", "version = 1\n[data]\nfeatures = \"x.npz\"\n");
    let folder = project.path("").display().to_string();
    let canonical = project.path("").canonicalize().unwrap().display().to_string();
    let mut texts = String::new();
    for arguments in [
        "train --config absent.toml",
        "train --set data.foldr=x",
        "train --head forest",
        "train --set head.C=-1",
        "train --set split.seed=first",
        "train --set data.folder=absent",
        "train --set split.test_size=2",
        "train",
        "train --set backbone.weights=photos",
        "train --set backbone.device=cuda",
        "train --config features.toml",
        "evaluate photos",
        "extract --out features.txt",
    ] {
        let done = project.run(&arguments.split(' ').collect::<Vec<_>>());
        let text = done.stderr.replace(&canonical, "FOLDER").replace(folder.trim_end_matches('/'), "FOLDER");
        texts += &format!("$ headstock {arguments}\n{text}=> {}\n\n", done.code);
    }
    insta::assert_snapshot!("errors", texts);
}

#[test]
fn bad_usage_ends_with_2() {
    let project = Project::new(3);
    project.run(&["tarin"]).fails(2, &["train"]);
    project.run(&["train", "--config", "absent.toml"]).fails(2, &["absent.toml", "headstock init"]);
    project
        .run(&["train", "--set", "data.foldr=x"])
        .fails(2, &["headstock.toml", "`data.foldr`", "`data.folder`"]);
    project.run(&["train", "--set", "folder"]).fails(2, &["--set folder: write KEY=VALUE"]);
    project.run(&["train", "--head", "forest"]).fails(
        2,
        &["there is no head `forest`; known: cosine, knn, lda, linear, mlp, nearest-mean, ridge, svm"],
    );
    project.run(&["train", "--set", "head.C=0"]).fails(2, &["`head.C`"]);
    project
        .run(&["train", "--set", "backbone.weights=absent"])
        .fails(2, &["there are no weights at", "absent"]);
    project.run(&["train", "--set", "backbone.device=cuda"]).fails(2, &["--features cuda"]);
    project.run(&["train", "--set", "backbone.weights=hf://x"]).fails(2, &["hf://owner/name"]);
    project.run(&["extract", "--out", "x.txt"]).fails(2, &[".npy, .npz, .safetensors, .parquet"]);
    project.run(&["extract", "--out", "x.npz", "--layer", "fc"]).fails(2, &["there is no layer `fc`"]);
    project.run(&["predict", "photos", "photos/hat/00.jpg"]).fails(2, &["photos is no run"]);
    project.run(&["bench", "--weights", "backbone", "--seconds", "0"]).fails(2, &["--seconds"]);
    project.run(&["train", "--threads", "0"]).fails(2, &["--threads"]);
}

#[test]
fn bad_data_ends_with_3() {
    let project = Project::new(3);
    project.run(&["train", "--set", "data.folder=absent"]).fails(3, &["there is no folder", "absent"]);
    project
        .run(&["train", "--set", "split.test_size=2"])
        .fails(3, &["the test part would have 2 samples for 3 classes"]);
    project.run(&["train", "--set", "split.test_size=20"]).fails(3, &["a test part of 20"]);
    project
        .run(&["train", "--set", "data.max_pixels=1000"])
        .fails(3, &["9 photos cannot be read", "data.max_pixels"]);
    fs::create_dir(project.path("photos/lone")).unwrap();
    fs::copy(project.path("photos/hat/00.jpg"), project.path("photos/lone/00.jpg")).unwrap();
    project.run(&["train"]).fails(3, &["class lone has one photo only"]);
    fs::remove_dir_all(project.path("photos/lone")).unwrap();
    fs::create_dir(project.path("photos/empty")).unwrap();
    project.run(&["train"]).fails(3, &["empty", "no photos"]);
    fs::remove_dir(project.path("photos/empty")).unwrap();
    fs::create_dir_all(project.path("one/hat")).unwrap();
    fs::copy(project.path("photos/hat/00.jpg"), project.path("one/hat/00.jpg")).unwrap();
    project.run(&["train", "--set", "data.folder=one"]).fails(3, &["one class only, `hat`"]);
    project.write("labels.csv", "id,breed\nhat/00,hat\n../photos/dress/00,dress\n");
    let csv = "csv = \"labels.csv\"\nimages = \"photos\"\nextension = \"jpg\"";
    project.write("csv.toml", &Project::config(csv));
    project.run(&["train", "--config", "csv.toml"]).fails(3, &["has no column `label`", "breed"]);
    let labelled = ["train", "--config", "csv.toml", "--set", "data.label=breed"];
    project.run(&labelled).fails(3, &["line 3", "leads out of"]);
    project.write("labels.csv", "id,breed\nhat/00,hat\nhat/00,hat\n");
    project.run(&labelled).fails(3, &["line 2", "line 3", "hat/00"]);
}

#[test]
fn a_run_is_never_overwritten_and_the_refusal_comes_before_the_work() {
    let project = Project::new(3);
    project.write("taken/notes.txt", "mine");
    let done = project.run(&["train", "--run", "taken", "--set", "data.folder=absent"]);
    done.fails(2, &["taken is there already"]);
    assert_eq!(project.read("taken/notes.txt"), "mine");
}

#[test]
fn a_run_refuses_other_weights_than_its_own() {
    let project = Project::new(4);
    project.run(&["train"]).ok();
    project.weights("other");
    let weights = project.path("other/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    // It may be a link to the demo's.
    fs::remove_file(&weights).unwrap();
    fs::write(&weights, bytes).unwrap();
    let other = ["--set", "backbone.weights=other"];
    let predict = [&["predict", "runs/linear-1", "photos/hat/00.jpg"][..], &other].concat();
    project.run(&predict).fails(2, &["are not the weights that the head was fitted on", "sha256"]);
    let layer = ["evaluate", "runs/linear-1", "--set", "backbone.layer=layer1"];
    project.run(&layer).fails(2, &["`backbone.layer`"]);
    // The same weights elsewhere are as good.
    project.weights("moved");
    let moved = ["predict", "runs/linear-1", "photos/hat/00.jpg", "--set", "backbone.weights=moved"];
    project.run(&moved).ok();
}

#[test]
fn damaged_runs_are_named() {
    let project = Project::new(4);
    project.run(&["train", "--set", "calibration=none"]).ok();
    let model = project.path("runs/linear-1/model.safetensors");
    let bytes = fs::read(&model).unwrap();
    for keep in [0, 4, 200, bytes.len() - 1] {
        fs::write(&model, &bytes[..keep]).unwrap();
        project.run(&["evaluate", "runs/linear-1"]).fails(1, &["model.safetensors"]);
    }
    // What a later headstock may write is not taken for what this one knows.
    let known = br#"calibration\":\"none"#;
    let at = bytes.windows(known.len()).position(|window| window == known).unwrap();
    let mut later = bytes.clone();
    later[at + known.len() - 4..at + known.len()].copy_from_slice(b"beta");
    fs::write(&model, later).unwrap();
    project.run(&["evaluate", "runs/linear-1"]).fails(1, &["model.safetensors", "beta"]);
}

#[test]
fn a_hub_that_cannot_be_reached_ends_with_4() {
    let project = Project::new(3);
    let arguments = ["train", "--set", "backbone.weights=hf://owner/name"];
    let mut command = project.command(&arguments);
    // Nobody listens on port 1.
    command.env("HF_ENDPOINT", "http://127.0.0.1:1").env("HF_HOME", project.path("hub"));
    crate::support::done(&mut command).fails(4, &["owner/name"]);
    let mut offline = project.command(&arguments);
    offline.env("HF_HUB_OFFLINE", "1").env("HF_HOME", project.path("hub"));
    crate::support::done(&mut offline).fails(4, &["HF_HUB_OFFLINE"]);
}
