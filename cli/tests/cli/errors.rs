//! Exit status and message of errors.

use std::fs;
use std::path::Path;

use crate::support::Project;

/// A snapshot of error messages.
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
    project
        .run(&["train", "--set", "folder"])
        .fails(2, &["the override `folder` of the config is invalid: write KEY=VALUE"]);
    project.run(&["train", "--head", "forest"]).fails(
        2,
        &["there is no head `forest`: choose one of cosine, knn, lda, linear, mlp, nearest-mean, ridge, svm"],
    );
    project.run(&["train", "--set", "head.C=0"]).fails(2, &["`head.C`"]);
    project
        .run(&["train", "--set", "backbone.weights=absent"])
        .fails(2, &["no model weights found at", "absent"]);
    project.run(&["train", "--set", "backbone.device=cuda"]).fails(2, &["--features cuda"]);
    project.run(&["train", "--set", "backbone.weights=hf://x"]).fails(2, &["hf://owner/name"]);
    project.run(&["extract", "--out", "x.txt"]).fails(2, &["ends in .npy, .npz, .safetensors or .parquet"]);
    project.run(&["extract", "--out", "x.npz", "--layer", "fc"]).fails(2, &["there is no layer `fc`"]);
    project.run(&["predict", "photos", "photos/hat/00.jpg"]).fails(2, &["photos is not a run"]);
    project.run(&["bench", "--weights", "backbone", "--seconds", "0"]).fails(2, &["--seconds"]);
    project.run(&["train", "--threads", "0"]).fails(2, &["--threads"]);
}

#[test]
fn bad_data_ends_with_3() {
    let project = Project::new(3);
    project.run(&["train", "--set", "data.folder=absent"]).fails(3, &["there is no folder", "absent"]);
    project
        .run(&["train", "--set", "split.test_size=2"])
        .fails(3, &["the test set would have 2 photos for 3 classes"]);
    project.run(&["train", "--set", "split.test_size=20"]).fails(3, &["a test set of 20"]);
    project
        .run(&["train", "--set", "data.max_pixels=1000"])
        .fails(3, &["9 photos cannot be read", "data.max_pixels"]);
    fs::create_dir(project.path("photos/lone")).unwrap();
    fs::copy(project.path("photos/hat/00.jpg"), project.path("photos/lone/00.jpg")).unwrap();
    project.run(&["train"]).fails(3, &["class lone has only one photo"]);
    fs::remove_dir_all(project.path("photos/lone")).unwrap();
    fs::create_dir(project.path("photos/empty")).unwrap();
    project.run(&["train"]).fails(3, &["class folders without photos: empty"]);
    fs::remove_dir(project.path("photos/empty")).unwrap();
    fs::create_dir_all(project.path("one/hat")).unwrap();
    fs::copy(project.path("photos/hat/00.jpg"), project.path("one/hat/00.jpg")).unwrap();
    project.run(&["train", "--set", "data.folder=one"]).fails(3, &["only one class, `hat`"]);
    project.write("labels.csv", "id,breed\nhat/00,hat\n../photos/dress/00,dress\n");
    let csv = "csv = \"labels.csv\"\nimages = \"photos\"\nextension = \"jpg\"";
    project.write("csv.toml", &Project::config(csv));
    project.run(&["train", "--config", "csv.toml"]).fails(3, &["no column `label`: set", "breed"]);
    let labelled = ["train", "--config", "csv.toml", "--set", "data.label=breed"];
    project.run(&labelled).fails(3, &["line 3", "points outside"]);
    project.write("labels.csv", "id,breed\nhat/00,hat\nhat/00,hat\n");
    project.run(&labelled).fails(3, &["line 2", "line 3", "hat/00"]);
}

#[test]
fn a_run_is_never_overwritten_and_the_refusal_comes_before_the_work() {
    let project = Project::new(3);
    project.write("taken/notes.txt", "mine");
    let done = project.run(&["train", "--run", "taken", "--set", "data.folder=absent"]);
    done.fails(2, &["taken already exists"]);
    assert_eq!(project.read("taken/notes.txt"), "mine");
}

#[test]
fn a_run_refuses_other_weights_than_its_own() {
    let project = Project::new(4);
    project.run(&["train"]).ok();
    project.add_weights("other");
    let weights = project.path("other/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    // The file may be a hard link to the demo's.
    fs::remove_file(&weights).unwrap();
    fs::write(&weights, bytes).unwrap();
    let other = ["--set", "backbone.weights=other"];
    let predict = [&["predict", "runs/linear-1", "photos/hat/00.jpg"][..], &other].concat();
    project.run(&predict).fails(2, &["are not those that the head was fitted on", "sha256"]);
    let layer = ["evaluate", "runs/linear-1", "--set", "backbone.layer=layer1"];
    project.run(&layer).fails(2, &["`backbone.layer`"]);
    // The same weights in another folder are accepted.
    project.add_weights("moved");
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
    // An unknown value, as a later version may write, is an error.
    let known = br#"calibration\":\"none"#;
    let at = bytes.windows(known.len()).position(|window| window == known).unwrap();
    let mut later = bytes.clone();
    later[at + known.len() - 4..at + known.len()].copy_from_slice(b"beta");
    fs::write(&model, later).unwrap();
    project.run(&["evaluate", "runs/linear-1"]).fails(1, &["model.safetensors", "beta"]);
}

#[test]
fn an_unreachable_hub_ends_with_4() {
    let project = Project::new(3);
    let arguments = ["train", "--set", "backbone.weights=hf://owner/name"];
    let mut command = project.command(&arguments);
    // No server listens on port 1.
    command.env("HF_ENDPOINT", "http://127.0.0.1:1").env("HF_HOME", project.path("hub"));
    crate::support::run_command(&mut command).fails(4, &["owner/name"]);
    let mut offline = project.command(&arguments);
    offline.env("HF_HUB_OFFLINE", "1").env("HF_HOME", project.path("hub"));
    crate::support::run_command(&mut offline).fails(4, &["HF_HUB_OFFLINE"]);
}

/// Every error variant that can be reached without a network: arguments, exit status, parts of the message.
#[test]
fn each_kind_of_error_ends_with_its_status_and_says_what_to_do() {
    let project = Project::with_features("feature_file/separable");
    let reference = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference").join(name);
    for name in ["nan.npz", "short.npz", "flat.npz", "unnamed.npz", "plain.npy"] {
        fs::copy(reference(&format!("feature_file/{name}")), project.path(name)).unwrap();
    }
    project.run(&["train", "--run", "r"]).ok();
    fs::copy(reference("feature_file/plain.npz"), project.path("wide.npz")).unwrap();
    project.write("no.toml", "version = ");
    project.write("old.toml", "[data]\nfeatures = \"x.npz\"\n");
    project.write("new.toml", "version = 2\n");
    project.write("bare.toml", "version = 1\n[data]\nfolder = \"photos\"\n");
    project.write("none.toml", "version = 1\n[backbone]\nweights = \"x\"\n");
    project.write("photos/a/1.jpg", "no photo");
    project.write("file", "");
    fs::create_dir(project.path("empty")).unwrap();
    let set = |key: &'static str| ["train", "--run", "x", "--set", key];
    let config = |file: &'static str| ["train", "--run", "x", "--config", file];
    let table: [(&[&str], i32, &[&str]); 38] = [
        // ConfigError
        (
            &config("absent.toml"),
            2,
            &[
                "there is no config file absent.toml\n  hint: `headstock init` writes a config file",
                "--config",
            ],
        ),
        (
            &config("photos"),
            2,
            &["error: failed to read photos as a config file: check that it is a file and that you are \
               allowed to read it\n  because: "],
        ),
        (&config("no.toml"), 2, &["no.toml is not a valid config file (TOML): ", "line 1"]),
        (&config("old.toml"), 2, &["old.toml: `version` is missing: begin the file with `version = 1`"]),
        (&config("new.toml"), 2, &["new.toml: `version` is 2, but this headstock reads version 1"]),
        (&config("bare.toml"), 2, &["bare.toml: `backbone", "is missing"]),
        (&config("none.toml"), 2, &["none.toml: `data", "folder"]),
        (&set("spilt.seed=1"), 2, &["unknown key `spilt`; did you mean `split`?"]),
        (&set("split.seed=-1"), 2, &["-1", "split.seed"]),
        (&set("split.method=random"), 2, &["random", "stratified-shuffle", "split.method"]),
        (&set("features.views=1"), 2, &["`features.views` needs photos"]),
        (&set("split.seed"), 2, &["the override `split.seed` of the config is invalid: write KEY=VALUE"]),
        // HeadError in the config
        (&set("head.C=-1"), 2, &["`head.C` is -1: must be a number greater than 0"]),
        (&set("head.D=1"), 2, &["unknown key `head.D`; did you mean `head.C`? (known keys: solver, C, "]),
        (&set("head.kind=forest"), 2, &["there is no head `forest`: choose one of cosine, "]),
        // Usage
        (
            &["train", "--run", "r"],
            2,
            &["r already exists: a run is never overwritten", "`--run` names a different folder"],
        ),
        (
            &["train", "--warm", "photos", "--run", "x"],
            2,
            &["photos is not a run: it has no model.safetensors"],
        ),
        (
            &["train", "--warm", "r", "--head", "svm", "--run", "x"],
            2,
            &[
                "cannot start from r: the run has the head `linear`, but the head `svm` was chosen",
                "`--head linear`",
            ],
        ),
        (&["train", "--resume", "photos"], 2, &["photos has no training to resume"]),
        (
            &["train", "--find-lr"],
            2,
            &["no stage of the backbone is chosen to be fine-tuned", "tune.from=layer4"],
        ),
        (
            &["extract", "--out", "o.npz"],
            2,
            &["photos are needed here, but the data has only precomputed features", "`data.folder`"],
        ),
        (
            &["doctor"],
            2,
            &["photos are needed here, but the data has only precomputed features", "`data.folder`"],
        ),
        (&["predict", "r", "photos/a/1.jpg"], 2, &["the run was trained on precomputed features"]),
        (&["predict", "r", "photos/a/1.jpg", "--coverage", "1.5"], 2, &["1.5", "must be between 0 and 1"]),
        (
            &["bench"],
            2,
            &[
                "bench does not know which model weights to use: give --weights PATH, or a config file with a \
               section [backbone]",
            ],
        ),
        (&["bench", "--seconds", "0"], 2, &["--seconds 0.0 cannot be used"]),
        (
            &["compare", "--out", "x.txt"],
            2,
            &["x.txt: unknown file extension: choose a file name that ends in .csv or .json"],
        ),
        (&["compare", "--heads", "knn,knn"], 2, &["the heads to compare: `knn` is named twice"]),
        // Data
        (&set("data.features=absent.npz"), 3, &["absent.npz: No such file"]),
        (&set("data.features=nan.npz"), 3, &["nan.npz: feature 1 of row 2 is NaN: features must be finite"]),
        (
            &set("data.features=short.npz"),
            3,
            &["short.npz: `labels` has shape [5], but `features` has 6 rows"],
        ),
        (
            &set("split.test_size=1"),
            3,
            &["the test set would have 1 photo for 2 classes: every class needs at least one"],
        ),
        (
            &["evaluate", "r", "--set", "data.features=wide.npz", "--set", "split.test_size=3"],
            3,
            &["the data has the classes -1, 7, 300, but the run was trained on 0, 1"],
        ),
        (&["compare", "--folds", "30"], 3, &["30 folds are too many", "`--folds`"]),
        (&["predict", "r", "empty"], 3, &["there are no photos in empty"]),
        // Failed
        (
            &["train", "--run", "x", "--head", "mlp", "--set", "head.lr=1e30"],
            1,
            &["the loss is NaN in epoch 1, so the fit has failed: lower `lr`, or set `standardize = true`"],
        ),
        (&["split", "--out", "file/s.csv"], 1, &["error: failed to ", "file/s.csv\n  because: "]),
        (&["train", "--run", "file/x"], 1, &["error: failed to ", "\n  because: "]),
    ];
    for (arguments, code, parts) in table {
        let done = project.run(arguments).fails(code, parts);
        assert!(done.stderr.contains("error: ") && done.stdout.is_empty(), "{arguments:?}: {}", done.stdout);
        assert_eq!(done.stderr.matches("error: ").count(), 1, "{}", done.stderr);
    }
    assert!(!project.path("x").exists());
}
