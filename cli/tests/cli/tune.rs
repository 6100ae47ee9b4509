//! Fine-tuning: its results, commands that use them, and errors.

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{CLASSES, CommandOutput, Project};

/// Files of a fine-tuned run whose bytes depend on the settings and the data only.
const REPRODUCIBLE_FILES: [&str; 6] =
    ["headstock.toml", "model.safetensors", "history.csv", "split.csv", "predictions.csv", "report.html"];

/// A short fine-tuning of the last stage.
const TUNE: [&str; 12] = [
    "--set",
    "tune.from=layer4",
    "--set",
    "tune.epochs=3",
    "--set",
    "tune.batch_size=8",
    "--set",
    "tune.validation=0.25",
    "--set",
    "tune.lr=0.03",
    "--set",
    "tune.label_smoothing=0",
];

fn train_tuned(project: &Project, run: &str, more: &[&str]) -> CommandOutput {
    project.run(&[&["train", "--run", run, "--json"], &TUNE[..], more].concat())
}

fn rows(project: &Project, table: &str) -> Vec<Vec<String>> {
    let text = project.read(table);
    text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

fn assert_same_run(project: &Project, run: &str, other: &str) {
    for file in REPRODUCIBLE_FILES {
        let read = |run: &str| fs::read(project.path(&format!("{run}/{file}"))).expect("a file of the run");
        assert!(read(run) == read(other), "{run}: {file} differs from {other}'s");
    }
    let entries = |run: &str| fs::read_dir(project.path(run)).expect("a run").count();
    assert_eq!(entries(run), entries(other), "{run} has other files than {other}");
}

// effect: tune.from, tune.validation, calibration x tune.validation, extract --run, predict --coverage
#[test]
fn a_fine_tuned_run_has_its_backbone_and_every_command_uses_it() {
    let project = Project::new(16);
    // Of 36 photos, four of each class are held out: enough for calibration.
    let more = ["--set", "tune.head_init=random", "--set", "tune.validation=0.3"];
    let trained = train_tuned(&project, "tuned", &more).ok().json();
    let history = rows(&project, "tuned/history.csv");
    assert_eq!(history[0], ["epoch", "lr", "loss", "validation_loss", "validation_accuracy"]);
    assert_eq!(history.len(), 4);
    let cell = |row: usize, column: usize| history[row][column].parse::<f64>().unwrap();
    assert!(cell(3, 2) < 0.5 * cell(1, 2), "the loss goes from {} to {}", cell(1, 2), cell(3, 2));
    // The learning rate of the last of three steps per epoch, of nine steps along a cosine.
    for (row, step) in [(1, 2), (2, 5), (3, 8)] {
        let expected = 0.015 * (1.0 + (std::f64::consts::PI * f64::from(step) / 9.0).cos());
        assert!((cell(row, 1) - expected).abs() < 1e-12, "{}, expected {expected}", cell(row, 1));
    }
    assert!(!project.path("tuned/checkpoints").exists(), "a finished run has no checkpoints");
    assert_eq!(trained["counts"]["train"], 24, "12 of 36 are held out");
    let calibration = &trained["calibration"];
    assert_eq!((&calibration["samples"], &calibration["folds"]), (&12.into(), &1.into()));
    // The best epoch is calibrated; its loss differs from the validation loss by half precision at the split
    // point only.
    let best = (1..4).map(|row| cell(row, 3)).fold(f64::INFINITY, f64::min);
    let before = calibration["out_of_fold"]["before"]["log_loss"].as_f64().unwrap();
    assert!((before - best).abs() < 5e-3 * best, "{before}, where the best epoch has {best}");

    let again = project.run(&["evaluate", "tuned", "--json"]).ok().json();
    for figure in ["top1", "log_loss", "ece"] {
        assert_eq!(again[figure], trained[figure], "{figure}");
    }
    // `predict` agrees with predictions.csv on test photos.
    let listed = rows(&project, "tuned/predictions.csv");
    assert_eq!(listed.len(), 1 + 12);
    let predicted = |path: &str, more: &[&str]| {
        let image = format!("photos/{path}");
        let stdout =
            project.run(&[&["predict", "tuned", &image, "--format", "csv"], more].concat()).ok().stdout;
        stdout.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect::<Vec<Vec<String>>>()
    };
    let [path, _, class, probability, ..] = listed[1].as_slice() else { panic!("{:?}", listed[1]) };
    let printed = predicted(path, &[]);
    assert!(printed[1][0].ends_with(path.as_str()), "{printed:?}");
    assert_eq!(printed[1][1], *class, "{printed:?}");
    let probabilities: [f64; 2] = [&printed[1][2], probability].map(|text| text.parse().unwrap());
    assert!((probabilities[0] - probabilities[1]).abs() < 1e-5, "{probabilities:?}");
    let sets = predicted(path, &["--coverage", "0.8"]);
    assert!(sets[0].len() > printed[0].len() && sets[1].len() == sets[0].len(), "{sets:?}");

    project.run(&["extract", "--out", "frozen.npy"]).ok();
    project.run(&["extract", "--out", "tuned.npy", "--run", "tuned"]).ok();
    project.run(&["extract", "--out", "layer3.npy", "--layer", "layer3"]).ok();
    project.run(&["extract", "--out", "tuned3.npy", "--run", "tuned", "--layer", "layer3"]).ok();
    let read = |name: &str| fs::read(project.path(name)).unwrap();
    assert!(read("frozen.npy") != read("tuned.npy"), "the fine-tuned backbone computes other features");
    assert!(read("layer3.npy") == read("tuned3.npy"), "stages before the fine-tuned one did not change");

    // A head on a fine-tuned backbone cannot warm-start one on a frozen backbone.
    project
        .run(&["train", "--warm", "tuned"])
        .fails(2, &["--warm", "cannot start from tuned", "different features"]);

    // The config of the run reproduces it, on any number of threads.
    let config = "tuned/headstock.toml";
    project.run(&["train", "--config", config, "--run", "again", "--threads", "1"]).ok();
    assert_same_run(&project, "again", "tuned");
}

/// Checks that the options reach the trainer. The tests of the trainer in `train` check their effects on a
/// step.
// effect: tune.cache_gb
#[test]
fn every_stage_can_be_tuned_and_the_options_take_effect() {
    let project = Project::new(4);
    let augmented = "augment.horizontal_flip=0.5";
    // Each with the learning rates of its two epochs of two steps.
    for (run, rates, more) in [
        (
            "stem",
            [0.03, 0.003],
            vec!["tune.from=stem", "tune.schedule=step", "tune.step_epochs=1", "tune.batch_norm=train"],
        ),
        (
            "layer2",
            [0.03, 0.03],
            vec!["tune.from=layer2", "tune.schedule=constant", "tune.unfreeze_epochs=1"],
        ),
        (
            "fresh",
            [0.03 * 0.505, 0.03],
            vec!["tune.augment=per-epoch", augmented, "tune.schedule=constant", "tune.warmup_epochs=1"],
        ),
        (
            "views",
            [0.03, 0.015],
            vec![
                "features.views=2",
                augmented,
                "tune.cache_gb=0",
                "tune.grad_accum_steps=2",
                "head.kind=mlp",
            ],
        ),
    ] {
        let mut options: Vec<String> = more.iter().map(|text| (*text).to_owned()).collect();
        options.extend(["tune.epochs=2".to_owned(), "tune.batch_size=4".to_owned()]);
        let set: Vec<&str> = options.iter().flat_map(|text| ["--set", text.as_str()]).collect();
        let done = train_tuned(&project, run, &set).ok();
        let history = rows(&project, &format!("{run}/history.csv"));
        let found: Vec<f64> = history[1..].iter().map(|row| row[1].parse().unwrap()).collect();
        assert!(
            found.len() == 2 && found.iter().zip(rates).all(|(found, rate)| (found - rate).abs() < 1e-9),
            "{run}: {found:?}, expected {rates:?}"
        );
        let recomputed = done.stderr.contains("raise `cache_gb`");
        assert_eq!(recomputed, run == "views", "{run}: {}", done.stderr);
        let written = project.read(&format!("{run}/headstock.toml"));
        for (key, value) in options.iter().filter_map(|text| text.strip_prefix("tune.")?.split_once('=')) {
            let begins = format!("{key} = ");
            let mut lines = written.lines().filter(|line| line.starts_with(&begins));
            assert!(lines.any(|line| line.contains(value)), "{run}: {key} is not {value}: {written}");
        }
    }
}

#[test]
fn invalid_tuning_is_refused_with_the_alternatives() {
    let project = Project::new(4);
    train_tuned(&project, "x", &["--head", "svm"]).fails(2, &["tune.from", "`svm`", "cosine, linear, mlp"]);
    train_tuned(&project, "x", &["--set", "backbone.layer=layer3"]).fails(2, &["tune.from", "avgpool"]);
    train_tuned(&project, "x", &["--set", "tune.lr=0"]).fails(2, &["tune.lr", "above 0"]);
    train_tuned(&project, "x", &["--set", "tune.augment=per-epoch"]).fails(2, &["tune.augment", "[augment]"]);
    train_tuned(&project, "x", &["--set", "tune.from=layer5"]).fails(2, &["layer5", "layer4"]);
    train_tuned(&project, "x", &["--set", "tune.lr=1e6"]).fails(1, &["tune.lr", "epoch"]);
    project.run(&["train", "--find-lr"]).fails(2, &["tune.from=layer4"]);
    project.run(&["train", "--resume", "nothing"]).fails(2, &["nothing"]);
    project.run(&["train", "--run", "frozen"]).ok();
    project.run(&["train", "--warm", "frozen", "--set", "tune.from=layer4"]).fails(2, &["--warm"]);
    project.run(&["train", "--resume", "frozen", "--set", "tune.lr=1"]).fails(2, &["--resume"]);
}

fn spawn(project: &Project, arguments: &[&str]) -> Child {
    let mut command = project.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command starts")
}

/// Kills `child` when `is_time` returns true; returns whether it had ended by itself.
fn kill_when(mut child: Child, is_time: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if child.try_wait().expect("its state").is_some() {
            return true;
        }
        if is_time() {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(300), "it does not end");
        thread::sleep(Duration::from_millis(1));
    }
    // The process may have ended in the meantime.
    let _ = child.kill();
    child.wait().expect("its end").success()
}

#[test]
fn a_repeatedly_killed_fine_tuning_ends_with_the_same_bytes() {
    const KILLS: u64 = 20;
    let project = Project::new(6);
    let epochs = ["--set", "tune.epochs=32", "--set", "tune.ema_decay=0.9", "--set", "tune.lr=0.001"];
    train_tuned(&project, "undisturbed", &epochs).ok();
    fs::remove_dir_all(project.path(".headstock")).unwrap();

    let start = || spawn(&project, &[&["train", "--run", "killed"], &TUNE[..], &epochs].concat());
    let resume = || spawn(&project, &["train", "--resume", "killed"]);
    let last = project.path("killed/checkpoints/last.safetensors");
    let changed = || fs::metadata(&last).and_then(|file| file.modified()).ok();
    let mut child = start();
    for kill in 0..KILLS {
        let (begun, before) = (Instant::now(), changed());
        // After some time; when a checkpoint was written; or a moment later.
        let moment = Duration::from_millis(kill * 131 % 120);
        let is_time = || match kill % 3 {
            0 => begun.elapsed() > 5 * moment,
            1 => changed() != before,
            _ => {
                let saved = changed() != before;
                if saved {
                    thread::sleep(moment);
                }
                saved
            }
        };
        assert!(!kill_when(child, is_time), "it ended before kill {kill}: it needs more epochs");
        child = if project.path("killed").exists() { resume() } else { start() };
    }
    assert!(child.wait().unwrap().success(), "the last one succeeds");
    assert_same_run(&project, "killed", "undisturbed");
    let again = project.run(&["train", "--resume", "killed"]).ok();
    assert!(again.stderr.contains("already finished"), "{}", again.stderr);
}

#[test]
fn an_unfinished_run_is_refused_with_the_command_that_resumes_it() {
    let project = Project::new(6);
    let child =
        spawn(&project, &[&["train", "--run", "begun"], &TUNE[..], &["--set", "tune.epochs=50"]].concat());
    let last = project.path("begun/checkpoints/last.safetensors");
    assert!(!kill_when(child, || last.exists()), "it was killed before its end");
    let how = "headstock train --resume begun";
    project.run(&["predict", "begun", "photos/hat/00.jpg"]).fails(2, &[how]);
    project.run(&["evaluate", "begun"]).fails(2, &[how]);
    train_tuned(&project, "begun", &[]).fails(2, &[how]);
    for class in CLASSES {
        fs::remove_file(project.path(&format!("photos/{class}/05.jpg"))).unwrap();
    }
    project.run(&["train", "--resume", "begun"]).fails(2, &["have changed since the run began"]);
    fs::write(&last, "cut").unwrap();
    project.run(&["train", "--resume", "begun"]).fails(1, &["last.safetensors"]);
}
