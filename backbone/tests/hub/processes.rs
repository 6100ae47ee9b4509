//! Several processes and one cache, processes that are killed, and what a process's environment says.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use headstock_backbone::WeightsSource;
use headstock_backbone::hub::fetch_dataset;

use super::fixture::{COMMIT, DATASET, HubFixture, ProgressRecorder, REPO, files_below, large_file};
use super::server::Fault;

/// Tells the test below that it runs in a process of its own, and what to fetch.
const IS_CHILD: &str = "HEADSTOCK_TEST_FETCH";

#[test]
#[ignore = "the other tests here run it in processes of their own"]
#[expect(clippy::disallowed_methods, reason = "the test passes it to its own child")]
fn fetches_in_a_process_of_its_own() {
    let progress = ProgressRecorder::default();
    match env::var(IS_CHILD).as_deref() {
        Ok(DATASET) => drop(fetch_dataset(&DATASET.parse().unwrap(), &progress).unwrap()),
        Ok(repo) => {
            let source = WeightsSource::parse(&format!("hf://{repo}"), Path::new("")).unwrap();
            let fetched = source.fetch(&progress).unwrap();
            assert_eq!(fs::read(fetched.weights).unwrap(), large_file(0).bytes);
        }
        Err(_) => {}
    }
}

/// A process that fetches the weights with what its environment says.
fn process(bench: &HubFixture, variables: &[(&str, &str)]) -> Child {
    process_for(REPO, bench, variables)
}

/// A process that fetches what its environment says.
fn process_for(repo: &str, bench: &HubFixture, variables: &[(&str, &str)]) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "processes::fetches_in_a_process_of_its_own", "--ignored"])
        .env(IS_CHILD, repo)
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
    let bench = HubFixture::new();
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
    let bench = HubFixture::new();
    bench.hub.fault("GET", "/files/", 1, Fault::Hold("/never/", 1));
    let mut process = process(&bench, &[]);
    bench.hub.wait_for("GET", "/files/", 1);
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(!bench.pointer(COMMIT, "model.safetensors").exists());
    assert_eq!(fs::read(bench.fetch("").unwrap().weights).unwrap(), large_file(0).bytes);
    bench.assert_clean();
    assert!(files_below(&bench.repo_cache_dir().join("blobs")).iter().all(|blob| blob.extension().is_none()));
}

#[test]
fn a_data_set_that_was_killed_in_the_middle_is_no_data_set_until_another_call_goes_on() {
    let shards = ["data/0.parquet", "data/1.parquet", "data/2.parquet"];
    let contents = [0, 1, 2].map(large_file);
    let bench = HubFixture::with(DATASET, &[0, 1, 2].map(|at| (shards[at], contents[at].clone())));
    let second: &'static str = format!("/files/{}", contents[1].etag()).leak();
    bench.hub.fault("GET", second, 1, Fault::Hold("/never/", 1));
    let mut process = process_for(DATASET, &bench, &[]);
    bench.hub.wait_for("GET", "/files/", 2);
    process.kill().unwrap();
    process.wait().unwrap();
    let offline = || process_for(DATASET, &bench, &[("HF_HUB_OFFLINE", "1")]).wait().unwrap().success();
    assert!(bench.pointer(COMMIT, shards[0]).exists() && !offline());

    bench.hub.requests();
    let fetched = bench.fetch_dataset("").unwrap();
    for (file, content) in fetched.files.iter().zip(&contents) {
        assert_eq!(fs::read(file).unwrap(), content.bytes);
    }
    let requests = bench.hub.requests();
    assert_eq!(requests.iter().filter(|request| request.path.starts_with("/files/")).count(), 2);
    assert!(offline());
    bench.assert_clean();
}

#[test]
fn the_variable_for_offline_keeps_a_process_from_the_network() {
    let bench = HubFixture::new();
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
    let bench = HubFixture::new();
    assert!(process(&bench, &[("HF_TOKEN", "hf_secret")]).wait().unwrap().success());
    let requests = bench.hub.requests();
    let asked = requests.iter().find(|request| request.path.starts_with("/api/")).unwrap();
    assert_eq!(asked.token.as_deref(), Some("Bearer hf_secret"));
}

#[test]
fn the_token_of_the_environment_is_not_sent_where_it_is_not_to_be() {
    let bench = HubFixture::new();
    let variables = [("HF_TOKEN", "hf_secret"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
    assert!(process(&bench, &variables).wait().unwrap().success());
    let requests = bench.hub.requests();
    assert!(!requests.is_empty() && requests.iter().all(|request| request.token.is_none()), "{requests:?}");
}
