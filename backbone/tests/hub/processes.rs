//! Several processes and one cache, processes that are killed, and what a process's environment says.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use headstock_backbone::Source;

use super::bench::{Bench, COMMIT, REPO, Recorder, files, large};
use super::server::Fault;

/// Tells the test below that it runs in a process of its own.
const IS_CHILD: &str = "HEADSTOCK_TEST_FETCH";

#[test]
#[ignore = "the other tests here run it in processes of their own"]
#[expect(clippy::disallowed_methods, reason = "the test passes it to its own child")]
fn fetches_in_a_process_of_its_own() {
    if env::var_os(IS_CHILD).is_some() {
        let source = Source::parse(&format!("hf://{REPO}"), Path::new("")).unwrap();
        let fetched = source.fetch(&Recorder::default()).unwrap();
        assert_eq!(fs::read(fetched.weights).unwrap(), large(0).bytes);
    }
}

/// A process that fetches what its environment says.
fn process(bench: &Bench, variables: &[(&str, &str)]) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "processes::fetches_in_a_process_of_its_own", "--ignored"])
        .env(IS_CHILD, "1")
        .env("HF_ENDPOINT", bench.hub.endpoint())
        .env("HF_HOME", bench.root())
        .env("HF_HUB_CACHE", &bench.settings.cache)
        .env_remove("HF_TOKEN")
        .env_remove("HF_TOKEN_PATH")
        .env_remove("HF_HUB_OFFLINE")
        .envs(variables.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn of_two_processes_one_fetches_and_both_have_it() {
    let bench = Bench::new();
    // The first transfer does not end before the second process has come.
    bench.hub.fault("GET", "/files/", 1, Fault::Hold("/api/", 2));
    let mut processes = [process(&bench, &[]), process(&bench, &[])];
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
    let mut process = process(&bench, &[]);
    bench.hub.wait_for("GET", "/files/", 1);
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(!bench.pointer(COMMIT, "model.safetensors").exists());
    assert_eq!(fs::read(bench.fetch("").unwrap().weights).unwrap(), large(0).bytes);
    bench.assert_clean();
    assert!(files(&bench.folder().join("blobs")).iter().all(|blob| blob.extension().is_none()));
}

#[test]
fn the_variable_for_offline_keeps_a_process_from_the_network() {
    let bench = Bench::new();
    let fetches = || process(&bench, &[("HF_HUB_OFFLINE", "1")]).wait().unwrap().success();
    assert!(!fetches());
    assert!(bench.hub.requests().is_empty());
    bench.fetch("").unwrap();
    bench.hub.requests();
    assert!(fetches());
    assert!(bench.hub.requests().is_empty());
}

#[test]
fn the_token_of_the_environment_is_sent() {
    let bench = Bench::new();
    assert!(process(&bench, &[("HF_TOKEN", "hf_secret")]).wait().unwrap().success());
    let requests = bench.hub.requests();
    let asked = requests.iter().find(|request| request.path.starts_with("/api/")).unwrap();
    assert_eq!(asked.token.as_deref(), Some("Bearer hf_secret"));
}
