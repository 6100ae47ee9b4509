//! Several processes and one cache, and processes that are killed.

use std::env;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use headstock_backbone::hub::{HubSettings, fetch_with};

use super::bench::{Bench, COMMIT, REPO, Recorder, files, large};
use super::server::{Fault, LIMIT};

/// Tells the test below, run in a process of its own, what to fetch.
const ENDPOINT: &str = "HEADSTOCK_TEST_ENDPOINT";
const CACHE: &str = "HEADSTOCK_TEST_CACHE";

#[test]
#[ignore = "the other tests here run it in processes of their own"]
#[expect(clippy::disallowed_methods, reason = "the test passes it to its own child")]
fn fetches_in_a_process_of_its_own() {
    let (Ok(endpoint), Some(cache)) = (env::var(ENDPOINT), env::var_os(CACHE)) else { return };
    let settings = HubSettings {
        endpoint,
        cache: cache.into(),
        token: None,
        offline: false,
        patience: LIMIT,
        pause: Duration::from_millis(1),
    };
    let fetched = fetch_with(&REPO.parse().unwrap(), &settings, &Recorder::default()).unwrap();
    assert_eq!(fs::read(fetched.weights).unwrap(), large(0).bytes);
}

fn process(bench: &Bench) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "processes::fetches_in_a_process_of_its_own", "--ignored"])
        .env(ENDPOINT, bench.hub.endpoint())
        .env(CACHE, &bench.settings.cache)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn of_two_processes_one_fetches_and_both_have_it() {
    let bench = Bench::new();
    // The first transfer does not end before the second process has come.
    bench.hub.fault("GET", "/files/", 1, Fault::Hold("/api/", 2));
    let mut processes = [process(&bench), process(&bench)];
    for process in &mut processes {
        assert!(process.wait().unwrap().success());
    }
    let requests = bench.hub.requests();
    let transfers =
        requests.iter().filter(|request| request.method == "GET" && request.path.starts_with("/files/"));
    assert_eq!(transfers.count(), 1, "{requests:?}");
    bench.assert_clean();
}

#[test]
fn a_process_that_is_killed_in_the_middle_leaves_nothing_that_is_read_later() {
    let bench = Bench::new();
    bench.hub.fault("GET", "/files/", 1, Fault::Hold("/never/", 1));
    let mut process = process(&bench);
    bench.hub.wait_for("GET", "/files/", 1);
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(!bench.pointer(COMMIT, "model.safetensors").exists());
    assert_eq!(fs::read(bench.fetch("").unwrap().weights).unwrap(), large(0).bytes);
    bench.assert_clean();
    assert!(files(&bench.folder().join("blobs")).iter().all(|blob| blob.extension().is_none()));
}
