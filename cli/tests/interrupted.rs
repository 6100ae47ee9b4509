//! A killed command leaves nothing wrong behind, and the next one goes on where it stopped.

mod support;

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use support::Project;

#[test]
fn a_command_killed_at_any_moment_loses_a_batch_at_most_and_the_features_are_right() {
    let project = Project::new(25);
    project.run(&["extract", "--out", "undisturbed.npz", "--set", "features.cache=other"]).ok();
    let mut kills = 0;
    let mut delay = Duration::from_millis(40);
    // 75 photos, a few batches: each try gets a little further.
    let last = loop {
        let mut child = project
            .command(&["extract", "--out", "x.npz", "--threads", "1", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(delay);
        if child.try_wait().unwrap().is_some() {
            break child.wait_with_output().unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        delay += Duration::from_millis(60);
        assert!(kills < 200, "it never ends");
    };
    assert!(kills > 3, "it was too fast to be disturbed: {kills}");
    let figures: serde_json::Value =
        serde_json::from_slice(last.stdout.split(|&b| b == b'\n').nth(1).unwrap()).unwrap();
    assert!(
        figures["computed"].as_u64().unwrap() < 75,
        "nothing was kept of what was computed before: {figures}"
    );
    let read = |name: &str| fs::read(project.path(name)).unwrap();
    assert!(read("x.npz") == read("undisturbed.npz"), "features differ after {kills} kills");
    let left: Vec<_> =
        fs::read_dir(project.path(".")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name != "runs"), "{left:?}");
}
