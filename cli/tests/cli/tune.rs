//! Tuning the backbone with the head: what comes of it, what uses it, and what is refused.

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{CLASSES, Done, Project};

/// The files of a tuned run that are the same bytes whenever the settings are.
const SAME: [&str; 6] =
    ["headstock.toml", "model.safetensors", "history.csv", "split.csv", "predictions.csv", "report.html"];

/// A short tuning of the last stage.
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

fn tune(project: &Project, run: &str, more: &[&str]) -> Done {
    project.run(&[&["train", "--run", run, "--json"], &TUNE[..], more].concat())
}

fn rows(project: &Project, table: &str) -> Vec<Vec<String>> {
    let text = project.read(table);
    text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

fn same(project: &Project, run: &str, other: &str) {
    for file in SAME {
        let read = |run: &str| fs::read(project.path(&format!("{run}/{file}"))).expect("a file of the run");
        assert!(read(run) == read(other), "{run}: {file} differs from {other}'s");
    }
    let entries = |run: &str| fs::read_dir(project.path(run)).expect("a run").count();
    assert_eq!(entries(run), entries(other), "{run} has other files than {other}");
}

#[test]
fn a_tuned_run_holds_its_backbone_and_every_command_uses_it() {
    let project = Project::new(16);
    let trained = tune(&project, "tuned", &["--set", "tune.start=random"]).ok().json();
    let history = rows(&project, "tuned/history.csv");
    assert_eq!(history[0], ["epoch", "lr", "loss", "validation_loss", "validation_accuracy"]);
    assert_eq!(history.len(), 4);
    let loss = |row: usize| history[row][2].parse::<f64>().unwrap();
    assert!(loss(3) < 0.5 * loss(1), "the loss goes from {} to {}", loss(1), loss(3));
    assert!(!project.path("tuned/checkpoints").exists(), "a finished run has no checkpoints");
    assert_eq!(trained["counts"]["train"], 27, "of 36 a quarter is held out");

    let again = project.run(&["evaluate", "tuned", "--json"]).ok().json();
    for figure in ["top1", "log_loss", "ece"] {
        assert_eq!(again[figure], trained[figure], "{figure}");
    }
    let photo = "photos/hat/00.jpg";
    let predicted = project.run(&["predict", "tuned", photo, "--format", "csv"]).ok();
    let listed = rows(&project, "tuned/predictions.csv");
    if let Some(row) = listed.iter().find(|row| photo.ends_with(&row[0])) {
        assert!(predicted.stdout.contains(&row[3]), "{} is not in {}", row[3], predicted.stdout);
    }

    project.run(&["extract", "--out", "frozen.npy"]).ok();
    project.run(&["extract", "--out", "tuned.npy", "--run", "tuned"]).ok();
    project.run(&["extract", "--out", "layer3.npy", "--layer", "layer3"]).ok();
    project.run(&["extract", "--out", "tuned3.npy", "--run", "tuned", "--layer", "layer3"]).ok();
    let read = |name: &str| fs::read(project.path(name)).unwrap();
    assert!(read("frozen.npy") != read("tuned.npy"), "the tuned backbone gives other features");
    assert!(read("layer3.npy") == read("tuned3.npy"), "what comes before the tuned stage is as it was");

    // A head on a tuned backbone is no start for one on a frozen one.
    project.run(&["train", "--warm", "tuned"]).fails(2, &["--warm tuned", "other features"]);

    // The run's own config makes it again, on any number of threads.
    let config = "tuned/headstock.toml";
    project.run(&["train", "--config", config, "--run", "again", "--threads", "1"]).ok();
    same(&project, "again", "tuned");
}

#[test]
fn every_part_of_the_backbone_can_be_tuned_in_every_way() {
    let project = Project::new(4);
    let augmented = "augment.horizontal_flip=0.5";
    for (run, more) in [
        (
            "layer3",
            vec!["tune.from=layer3", "tune.optimizer=adamw", "tune.ema=0.9", "tune.schedule=one-cycle"],
        ),
        ("stem", vec!["tune.from=stem", "tune.batch_norm=train", "tune.start=random", "tune.mixup=0.4"]),
        ("layer2", vec!["tune.from=layer2", "tune.unfreeze=1", "tune.layer_decay=0.5", "tune.clip_norm=1"]),
        ("fresh", vec!["tune.views=fresh", augmented, "tune.cutmix=1", "tune.accumulate=2"]),
        ("views", vec!["features.views=2", augmented, "tune.space=0", "tune.nesterov=true", "head.kind=mlp"]),
        (
            "all",
            vec!["tune.validation=0", "tune.class_weight=balanced", "tune.warmup=1", "tune.schedule=step"],
        ),
    ] {
        let more: Vec<&str> = more.into_iter().flat_map(|text| ["--set", text]).collect();
        let done = tune(&project, run, &[&["--set", "tune.epochs=2"], more.as_slice()].concat()).ok();
        assert!(rows(&project, &format!("{run}/history.csv")).len() > 1, "{run}: {}", done.stderr);
        let recomputed = done.stderr.contains("tune.space");
        assert_eq!(recomputed, run == "views", "{run}: {}", done.stderr);
    }
}

#[test]
fn what_cannot_be_tuned_is_refused_with_what_can() {
    let project = Project::new(4);
    tune(&project, "x", &["--head", "svm"]).fails(2, &["tune.from", "`svm`", "cosine, linear, mlp"]);
    tune(&project, "x", &["--set", "backbone.layer=layer3"]).fails(2, &["tune.from", "avgpool"]);
    tune(&project, "x", &["--set", "tune.lr=0"]).fails(2, &["tune.lr", "above 0"]);
    tune(&project, "x", &["--set", "tune.views=fresh"]).fails(2, &["tune.views", "[augment]"]);
    tune(&project, "x", &["--set", "tune.from=layer5"]).fails(2, &["layer5", "layer4"]);
    tune(&project, "x", &["--set", "tune.lr=1e6"]).fails(1, &["tune.lr", "epoch"]);
    project.run(&["train", "--find-lr"]).fails(2, &["tune.from=layer4"]);
    project.run(&["train", "--resume", "nothing"]).fails(2, &["nothing"]);
    project.run(&["train", "--run", "frozen"]).ok();
    project.run(&["train", "--warm", "frozen", "--set", "tune.from=layer4"]).fails(2, &["--warm"]);
    project.run(&["train", "--resume", "frozen", "--set", "tune.lr=1"]).fails(2, &["--resume"]);
}

#[test]
fn the_rates_worth_trying_are_shown() {
    let project = Project::new(4);
    let found = project
        .run(&[&["train", "--find-lr", "--json"], &TUNE[..], &["--set", "tune.start=random"]].concat())
        .ok();
    let json = found.json();
    let steepest = json["steepest"].as_f64().unwrap();
    assert!((1e-5..1.0).contains(&steepest), "{steepest}");
    assert!(found.stdout.contains("learning rate of the head"), "{}", found.stdout);
    assert!(!project.path("runs").exists(), "nothing is trained");
}

fn start(project: &Project, arguments: &[&str]) -> Child {
    let mut command = project.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command starts")
}

/// Kills `child` when `now` says so; whether it ended before.
fn kill_when(mut child: Child, now: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if child.try_wait().expect("its state").is_some() {
            return true;
        }
        if now() {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(300), "it neither goes on nor ends");
        thread::sleep(Duration::from_millis(1));
    }
    // One that has ended in the meantime is no fault.
    let _ = child.kill();
    child.wait().expect("its end").success()
}

#[test]
fn a_tuning_that_is_killed_again_and_again_ends_with_the_bytes_of_one_that_was_not() {
    const KILLS: u64 = 20;
    let project = Project::new(6);
    let epochs = ["--set", "tune.epochs=32", "--set", "tune.ema=0.9", "--set", "tune.lr=0.001"];
    tune(&project, "undisturbed", &epochs).ok();
    fs::remove_dir_all(project.path(".headstock")).unwrap();

    let begin = || start(&project, &[&["train", "--run", "killed"], &TUNE[..], &epochs].concat());
    let go_on = || start(&project, &["train", "--resume", "killed"]);
    let last = project.path("killed/checkpoints/last.safetensors");
    let changed = || fs::metadata(&last).and_then(|file| file.modified()).ok();
    let mut child = begin();
    for kill in 0..KILLS {
        let (begun, before) = (Instant::now(), changed());
        // After some time, in whatever it is doing; or when a checkpoint has come, just then or a moment later.
        let moment = Duration::from_millis(kill * 131 % 120);
        let now = || match kill % 3 {
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
        assert!(!kill_when(child, now), "it ended before kill {kill}: it needs more epochs");
        child = if project.path("killed").exists() { go_on() } else { begin() };
    }
    assert!(child.wait().unwrap().success(), "the last one ends well");
    same(&project, "killed", "undisturbed");
    let again = project.run(&["train", "--resume", "killed"]).ok();
    assert!(again.stderr.contains("finished already"), "{}", again.stderr);
}

#[test]
fn a_run_that_is_not_finished_is_none_and_says_how_to_go_on() {
    let project = Project::new(6);
    let child =
        start(&project, &[&["train", "--run", "begun"], &TUNE[..], &["--set", "tune.epochs=50"]].concat());
    let last = project.path("begun/checkpoints/last.safetensors");
    assert!(!kill_when(child, || last.exists()), "it was killed before its end");
    let how = "headstock train --resume begun";
    project.run(&["predict", "begun", "photos/hat/00.jpg"]).fails(2, &[how]);
    project.run(&["evaluate", "begun"]).fails(2, &[how]);
    tune(&project, "begun", &[]).fails(2, &[how]);
    for class in CLASSES {
        fs::remove_file(project.path(&format!("photos/{class}/05.jpg"))).unwrap();
    }
    project.run(&["train", "--resume", "begun"]).fails(2, &["not those that it began with"]);
    fs::write(&last, "cut").unwrap();
    project.run(&["train", "--resume", "begun"]).fails(1, &["last.safetensors"]);
}
