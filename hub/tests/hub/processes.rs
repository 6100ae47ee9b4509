//! Several processes with one cache, killed processes, and environment variables.

use std::env;
use std::fs;
use std::process::{Child, Command, Stdio};

use headstock_hub::{fetch_dataset, fetch_weights};

use super::fixture::{COMMIT, DATASET, HubFixture, ProgressRecorder, REPO, files_below, large_file};
use super::proxy::TestProxy;
use super::server::Fault;

/// The variable with the repository that the test below fetches in a child process.
const REPO_VARIABLE: &str = "HEADSTOCK_TEST_FETCH";

#[test]
#[ignore = "run by the other tests in child processes"]
#[expect(clippy::disallowed_methods, reason = "set by the parent test")]
fn fetch_in_child_process() {
    let progress = ProgressRecorder::default();
    match env::var(REPO_VARIABLE).as_deref() {
        Ok(DATASET) => drop(fetch_dataset(&DATASET.parse().unwrap(), &|_| true, &progress).unwrap()),
        Ok(repo) => {
            let fetched = fetch_weights(&repo.parse().unwrap(), &progress).unwrap();
            assert_eq!(fs::read(fetched.weights).unwrap(), large_file(0).bytes);
        }
        Err(_) => {}
    }
}

/// Starts a process that fetches the weights with settings from its environment.
fn spawn_fetch(fixture: &HubFixture, variables: &[(&str, &str)]) -> Child {
    spawn_fetch_of(REPO, fixture, variables)
}

/// Starts a process that fetches a repository with settings from its environment.
fn spawn_fetch_of(repo: &str, fixture: &HubFixture, variables: &[(&str, &str)]) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "processes::fetch_in_child_process", "--ignored"])
        .env(REPO_VARIABLE, repo)
        .env("HF_ENDPOINT", fixture.hub.endpoint())
        .env("HF_HOME", fixture.root())
        .env("HF_HUB_CACHE", &fixture.settings.cache)
        .env_remove("HF_TOKEN")
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .env_remove("HF_TOKEN_PATH")
        .env_remove("HF_HUB_OFFLINE")
        .envs(variables.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn only_one_of_two_processes_downloads() {
    let fixture = HubFixture::new();
    // The first transfer does not end before the second process has started.
    fixture.hub.inject_fault("GET", "/files/", 1, Fault::Hold("/api/", 2));
    let mut processes = [spawn_fetch(&fixture, &[]), spawn_fetch(&fixture, &[])];
    for process in &mut processes {
        assert!(process.wait().unwrap().success());
    }
    let requests = fixture.hub.take_requests();
    let transfers =
        requests.iter().filter(|request| request.method == "GET" && request.path.starts_with("/files/"));
    assert_eq!(transfers.count(), 1, "{requests:?}");
    fixture.assert_clean();
}

#[test]
fn the_incomplete_download_of_a_killed_process_is_not_used() {
    let fixture = HubFixture::new();
    fixture.hub.inject_fault("GET", "/files/", 1, Fault::Hold("/never/", 1));
    let mut process = spawn_fetch(&fixture, &[]);
    fixture.hub.wait_for("GET", "/files/", 1);
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(!fixture.link(COMMIT, "model.safetensors").exists());
    assert_eq!(fs::read(fixture.fetch("").unwrap().weights).unwrap(), large_file(0).bytes);
    fixture.assert_clean();
    assert!(
        files_below(&fixture.repo_cache_dir().join("blobs")).iter().all(|blob| blob.extension().is_none())
    );
}

#[test]
fn the_download_of_a_data_set_is_resumed_after_a_process_was_killed() {
    let shards = ["data/0.parquet", "data/1.parquet", "data/2.parquet"];
    let contents = [0, 1, 2].map(large_file);
    let fixture = HubFixture::with_files(DATASET, &[0, 1, 2].map(|i| (shards[i], contents[i].clone())));
    let second: &'static str = format!("/files/{}", contents[1].etag()).leak();
    fixture.hub.inject_fault("GET", second, 1, Fault::Hold("/never/", 1));
    let mut process = spawn_fetch_of(DATASET, &fixture, &[]);
    fixture.hub.wait_for("GET", "/files/", 2);
    process.kill().unwrap();
    process.wait().unwrap();
    let offline = || spawn_fetch_of(DATASET, &fixture, &[("HF_HUB_OFFLINE", "1")]).wait().unwrap().success();
    assert!(fixture.link(COMMIT, shards[0]).exists() && !offline());

    fixture.hub.take_requests();
    let fetched = fixture.fetch_dataset("").unwrap();
    for (file, content) in fetched.files.iter().zip(&contents) {
        assert_eq!(fs::read(&file.path).unwrap(), content.bytes);
    }
    let requests = fixture.hub.take_requests();
    assert_eq!(requests.iter().filter(|request| request.path.starts_with("/files/")).count(), 2);
    assert!(offline());
    fixture.assert_clean();
}

#[test]
fn the_offline_variable_prevents_requests() {
    let fixture = HubFixture::new();
    let fetches = || spawn_fetch(&fixture, &[("HF_HUB_OFFLINE", "1")]).wait().unwrap().success();
    assert!(!fetches());
    assert!(fixture.hub.take_requests().is_empty());
    fixture.fetch("").unwrap();
    fixture.hub.take_requests();
    assert!(fetches());
    assert!(fixture.hub.take_requests().is_empty());
}

#[test]
fn the_token_of_the_environment_is_sent() {
    let fixture = HubFixture::new();
    assert!(spawn_fetch(&fixture, &[("HF_TOKEN", "hf_secret")]).wait().unwrap().success());
    let requests = fixture.hub.take_requests();
    let asked = requests.iter().find(|request| request.path.starts_with("/api/")).unwrap();
    assert_eq!(asked.token.as_deref(), Some("Bearer hf_secret"));
}

#[test]
fn the_token_of_the_environment_is_not_sent_if_implicit_tokens_are_disabled() {
    let fixture = HubFixture::new();
    let variables = [("HF_TOKEN", "hf_secret"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
    assert!(spawn_fetch(&fixture, &variables).wait().unwrap().success());
    let requests = fixture.hub.take_requests();
    assert!(!requests.is_empty() && requests.iter().all(|request| request.token.is_none()), "{requests:?}");
}

#[test]
fn the_hub_is_reached_through_the_proxy_of_the_environment() {
    let fixture = HubFixture::new();
    let proxy = TestProxy::new(fixture.hub.address());
    let endpoint = ("HF_ENDPOINT", "http://hub.invalid");
    // Without a proxy there is no such server.
    assert!(!spawn_fetch(&fixture, &[endpoint]).wait().unwrap().success());
    assert!(fixture.hub.take_requests().is_empty());
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        drop(fs::remove_dir_all(&fixture.settings.cache));
        let variables = [endpoint, (variable, proxy.address())];
        assert!(spawn_fetch(&fixture, &variables).wait().unwrap().success(), "{variable}");
        let requests = fixture.hub.take_requests();
        assert!(requests.iter().any(|request| request.host == "hub.invalid"), "{variable}: {requests:?}");
    }
    let targets = proxy.take_targets();
    assert!(targets.iter().any(|target| target.contains("hub.invalid")), "{targets:?}");
    fixture.assert_clean();
}
