//! A killed command leaves no invalid files, and the next command continues its work.

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::{Project, REPRODUCIBLE_FILES};

/// Vectors that are stored in one transaction.
const BATCH: u64 = 8;

/// Prefix of temporary files, which a killed program may leave.
const TEMPORARY_PREFIX: &str = ".headstock-part-";

fn start(project: &Project, arguments: &[&str]) -> Child {
    project
        .command(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts")
}

/// Kills `child` when `is_time` returns true, unless it ends before.
fn kill_when(mut child: Child, is_time: impl Fn() -> bool) {
    let mut n_polls = 0;
    while !is_time() && child.try_wait().expect("its state").is_none() {
        thread::sleep(Duration::from_millis(1));
        n_polls += 1;
        assert!(n_polls < 100_000, "it does not end");
    }
    // The process may have ended already.
    let _ = child.kill();
    child.wait().expect("its end");
}

#[test]
fn a_killed_command_loses_a_batch_at_most_and_the_features_are_right() {
    let project = Project::new(20);
    project.run(&["extract", "--out", "undisturbed.npz", "--set", "features.cache=other"]).ok();
    let leftovers =
        ["", "photos/hat/", ".headstock/"].map(|folder| format!("{folder}{TEMPORARY_PREFIX}left.jpg"));
    for leftover in &leftovers {
        project.write(leftover, "cut off");
    }
    let extract = ["extract", "--out", "x.npz", "--threads", "1", "--json"];

    kill_when(start(&project, &extract), || true);
    let mut n_cached = project.n_cached(".headstock");
    assert_eq!(n_cached, 0, "it was killed before it stored anything");
    for kill in 1..=3 {
        kill_when(start(&project, &extract), || project.n_cached(".headstock") > n_cached);
        let stored = project.n_cached(".headstock");
        assert!(stored > n_cached, "kill {kill}: of {n_cached} vectors {stored} are left");
        assert!(stored.is_multiple_of(BATCH) || stored == 60, "kill {kill}: {stored} are no whole batches");
        assert!(kill > 1 || stored < 60, "all vectors were stored at once");
        n_cached = stored;
    }
    assert!(!project.path("x.npz").exists(), "features were written before all were computed");

    let last = project.run(&extract).ok().json();
    assert_eq!((&last["rows"], &last["computed"]), (&60.into(), &(60 - n_cached).into()));
    assert_eq!(project.n_cached(".headstock"), 60);
    let read = |name: &str| fs::read(project.path(name)).unwrap();
    assert!(read("x.npz") == read("undisturbed.npz"), "features differ after the kills");
    for leftover in &leftovers {
        assert_eq!(project.read(leftover), "cut off");
    }
}

#[test]
fn a_killed_command_leaves_a_complete_run_or_none() {
    let project = Project::new(4);
    project.run(&["train", "--run", "undisturbed"]).ok();
    let n_leftovers = || {
        let entries = fs::read_dir(project.path("")).unwrap();
        entries
            .filter(|entry| {
                entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(TEMPORARY_PREFIX)
            })
            .count()
    };
    for run in ["one", "two", "three", "four"] {
        let before = n_leftovers();
        kill_when(start(&project, &["train", "--run", run]), || n_leftovers() > before);
        if !project.path(run).exists() {
            project.run(&["train", "--run", run]).ok();
        }
        for file in REPRODUCIBLE_FILES {
            let read = |run: &str| fs::read(project.path(&format!("{run}/{file}"))).unwrap();
            assert!(read(run) == read("undisturbed"), "{run}: {file}");
        }
    }
    project.run(&["train", "--run", "five"]).ok();
    assert_eq!(n_leftovers(), 0, "the next command removes what a killed one has left");
}
