//! A killed command leaves nothing wrong behind, and the next one goes on where it stopped.

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::{Project, SAME_BYTES};

/// Vectors that are stored at once.
const BATCH: u64 = 8;

/// What a killed program may leave behind begins with this.
const PART: &str = ".headstock-part-";

fn start(project: &Project, arguments: &[&str]) -> Child {
    project
        .command(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts")
}

/// Kills `child` when `now` says so, unless it ends before.
fn kill_when(mut child: Child, now: impl Fn() -> bool) {
    let mut looks = 0;
    while !now() && child.try_wait().expect("its state").is_none() {
        thread::sleep(Duration::from_millis(1));
        looks += 1;
        assert!(looks < 100_000, "it neither goes on nor ends");
    }
    // One that has ended already is no fault.
    let _ = child.kill();
    child.wait().expect("its end");
}

#[test]
fn a_killed_command_loses_a_batch_at_most_and_the_features_are_right() {
    let project = Project::new(20);
    project.run(&["extract", "--out", "undisturbed.npz", "--set", "features.cache=other"]).ok();
    let parts = ["", "photos/hat/", ".headstock/"].map(|folder| format!("{folder}{PART}left.jpg"));
    for part in &parts {
        project.write(part, "cut off");
    }
    let extract = ["extract", "--out", "x.npz", "--threads", "1", "--json"];

    kill_when(start(&project, &extract), || true);
    let mut kept = project.stored(".headstock");
    assert_eq!(kept, 0, "it was killed before it could do anything");
    for kill in 1..=3 {
        kill_when(start(&project, &extract), || project.stored(".headstock") > kept);
        let stored = project.stored(".headstock");
        assert!(stored > kept, "kill {kill}: of {kept} vectors {stored} are left");
        assert!(stored.is_multiple_of(BATCH) || stored == 60, "kill {kill}: {stored} are no whole batches");
        assert!(kill > 1 || stored < 60, "all vectors were stored at once");
        kept = stored;
    }
    assert!(!project.path("x.npz").exists(), "features were written before they were all there");

    let last = project.run(&extract).ok().json();
    assert_eq!((&last["rows"], &last["computed"]), (&60.into(), &(60 - kept).into()));
    assert_eq!(project.stored(".headstock"), 60);
    let read = |name: &str| fs::read(project.path(name)).unwrap();
    assert!(read("x.npz") == read("undisturbed.npz"), "features differ after the kills");
    for part in &parts {
        assert_eq!(project.read(part), "cut off");
    }
}

#[test]
fn a_killed_command_leaves_a_whole_run_or_none() {
    let project = Project::new(4);
    project.run(&["train", "--run", "undisturbed"]).ok();
    let begun = || {
        let entries = fs::read_dir(project.path("")).unwrap();
        entries
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(PART))
            .count()
    };
    for run in ["one", "two", "three", "four"] {
        let before = begun();
        kill_when(start(&project, &["train", "--run", run]), || begun() > before);
        if !project.path(run).exists() {
            project.run(&["train", "--run", run]).ok();
        }
        for file in SAME_BYTES {
            let read = |run: &str| fs::read(project.path(&format!("{run}/{file}"))).unwrap();
            assert!(read(run) == read("undisturbed"), "{run}: {file}");
        }
    }
}
