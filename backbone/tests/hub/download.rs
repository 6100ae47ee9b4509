//! What is fetched, and what is asked for.

use std::fs;

use headstock_backbone::{HubError, WeightFiles};

use super::fixture::{
    COMMIT, FOLDER, HubFixture, LATER, ProgressEvent, ProgressRecorder, REPO, files_below, large_file,
    small_file,
};
use super::server::{Fault, HubFile};

#[test]
fn a_cold_cache_gets_the_weights_and_what_lies_beside_them_small_ones_first() {
    let bench = HubFixture::new();
    let progress = ProgressRecorder::default();
    let fetched = bench.fetch_with_progress("", &progress).unwrap();
    assert_eq!(
        fetched,
        WeightFiles {
            weights: bench.pointer(COMMIT, "model.safetensors"),
            config: Some(bench.pointer(COMMIT, "config.json")),
            preprocessor: None,
            origin: format!("hf://{REPO}@{COMMIT}"),
        }
    );
    assert_eq!(fs::read(&fetched.weights).unwrap(), large_file(0).bytes);
    let told = |file: &str, bytes| {
        [ProgressEvent::Start(file.into(), Some(bytes)), ProgressEvent::Bytes(bytes), ProgressEvent::Finish]
    };
    assert_eq!(progress.into_events(), [told("config.json", 2), told("model.safetensors", 400_000)].concat());
    bench.assert_clean();
}

#[test]
fn the_cache_is_laid_out_as_python_does() {
    let bench = HubFixture::new();
    bench.hub.add_commit(
        "main",
        COMMIT,
        &[
            ("sub/config.json", small_file("{}")),
            ("sub/preprocessor_config.json", small_file("{ }")),
            ("sub/model.safetensors", large_file(0)),
        ],
    );
    bench.fetch("/sub/model.safetensors").unwrap();
    let there = files_below(&bench.settings.cache);
    let there = there.iter().map(|path| path.strip_prefix(&bench.settings.cache).unwrap().to_str().unwrap());
    let there: Vec<_> = there.filter(|path| !path.starts_with(".locks")).collect();
    let mut expected: Vec<String> = vec![format!("{FOLDER}/refs/main")];
    for (file, content) in [
        ("config.json", small_file("{}")),
        ("preprocessor_config.json", small_file("{ }")),
        ("model.safetensors", large_file(0)),
    ] {
        let pointer = bench.pointer(COMMIT, &format!("sub/{file}"));
        let target = fs::read_link(&pointer).unwrap();
        assert_eq!(target.to_str().unwrap(), format!("../../../blobs/{}", content.etag()));
        expected.push(format!("{FOLDER}/blobs/{}", content.etag()));
        expected.push(format!("{FOLDER}/snapshots/{COMMIT}/sub/{file}"));
    }
    expected.sort_unstable();
    assert_eq!(there, expected);
    assert_eq!(fs::read_to_string(bench.repo_cache_dir().join("refs/main")).unwrap(), COMMIT);
}

#[test]
fn a_warm_cache_asks_for_the_commit_and_for_nothing_else() {
    let bench = HubFixture::new();
    let cold = bench.fetch("").unwrap();
    bench.hub.requests();
    let progress = ProgressRecorder::default();
    assert_eq!(bench.fetch_with_progress("", &progress).unwrap(), cold);
    let requests = bench.hub.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(requests[0].path.starts_with("/api/"));
    assert_eq!(progress.into_events(), []);
}

#[test]
fn a_commit_that_is_in_the_cache_makes_no_request_at_all() {
    let bench = HubFixture::new();
    let cold = bench.fetch(&format!("@{COMMIT}")).unwrap();
    assert!(!bench.hub.requests().is_empty());
    assert_eq!(bench.fetch(&format!("@{COMMIT}")).unwrap(), cold);
    // What is not there is known not to be there as well: this commit has no preprocessor_config.json.
    assert!(bench.hub.requests().is_empty());
    assert!(!bench.repo_cache_dir().join("refs").exists());
}

#[test]
fn a_branch_that_moved_fetches_only_what_changed() {
    let bench = HubFixture::new();
    bench.fetch("").unwrap();
    bench.hub.add_commit(
        "main",
        LATER,
        &[("config.json", small_file("{}")), ("model.safetensors", large_file(1))],
    );
    bench.hub.requests();
    let fetched = bench.fetch("").unwrap();
    assert_eq!(fetched.origin, format!("hf://{REPO}@{LATER}"));
    assert_eq!(fs::read(fetched.weights).unwrap(), large_file(1).bytes);
    let got: Vec<_> = bench.hub.requests().into_iter().filter(|request| request.method == "GET").collect();
    assert!(got.iter().all(|request| !request.path.ends_with("config.json")), "{got:?}");
    assert_eq!(fs::read_to_string(bench.repo_cache_dir().join("refs/main")).unwrap(), LATER);
    bench.assert_clean();
}

#[test]
fn a_revision_with_slashes_is_a_branch_or_a_pull_request() {
    let bench = HubFixture::new();
    for (branch, name) in [("refs/pr/1", "@refs/pr/1"), ("feature/x", "@feature%2Fx")] {
        bench.hub.add_commit(branch, LATER, &[("model.safetensors", large_file(1))]);
        assert_eq!(bench.fetch(name).unwrap().origin, format!("hf://{REPO}@{LATER}"));
        assert_eq!(fs::read_to_string(bench.repo_cache_dir().join("refs").join(branch)).unwrap(), LATER);
    }
}

#[test]
fn a_named_file_is_fetched_at_its_revision_and_named_in_the_origin() {
    let bench = HubFixture::new();
    bench.hub.add_commit(
        "v1",
        LATER,
        &[("f16.safetensors", large_file(1)), ("model.safetensors", large_file(0))],
    );
    let fetched = bench.fetch("@v1/f16.safetensors").unwrap();
    assert_eq!(fetched.origin, format!("hf://{REPO}@{LATER}/f16.safetensors"));
    assert_eq!(fs::read(fetched.weights).unwrap(), large_file(1).bytes);
    assert!(!bench.pointer(LATER, "model.safetensors").exists());
}

#[test]
fn a_relative_redirect_is_followed() {
    let bench = HubFixture::new();
    let source = format!("{}/RESNET.TEST", REPO.split('/').next().unwrap()).to_uppercase().parse().unwrap();
    let fetched =
        headstock_backbone::hub::fetch_weights_with(&source, &bench.settings, &ProgressRecorder::default())
            .unwrap();
    assert_eq!(fs::read(fetched.weights).unwrap(), large_file(0).bytes);
    let redirected = bench.hub.requests().iter().filter(|request| request.path.contains("RESNET")).count();
    assert!(redirected > 0);
}

#[test]
fn the_token_goes_to_the_hub_and_to_no_other_host() {
    let mut bench = HubFixture::new();
    bench.settings.token = Some("hf_secret".into());
    bench.fetch("").unwrap();
    let requests = bench.hub.requests();
    assert!(requests.iter().any(|request| request.host.starts_with("localhost")));
    for request in &requests {
        let expected = request.host.starts_with("127.0.0.1").then(|| "Bearer hf_secret".to_owned());
        assert_eq!(request.token, expected, "{request:?}");
    }
}

#[test]
fn without_a_token_none_is_sent() {
    let bench = HubFixture::new();
    bench.fetch("").unwrap();
    assert!(bench.hub.requests().iter().all(|request| request.token.is_none()));
}

#[test]
fn a_server_that_is_down_leaves_what_was_fetched_last() {
    let bench = HubFixture::new();
    let cold = bench.fetch("").unwrap();
    let HubFixture { hub, .. } = &bench;
    hub.fault("GET", "/api/", usize::MAX, Fault::Status(503, None));
    let (busy, lines) = bench.fetch_with_log("");
    assert_eq!(busy.unwrap(), cold);
    assert!(lines.contains("from the cache") && lines.contains("status 503"), "{lines}");

    let bench = bench.without_hub();
    let (down, lines) = bench.fetch_with_log("");
    assert_eq!(down.unwrap(), cold);
    assert!(lines.contains(&cold.origin) && lines.contains("cannot reach"), "{lines}");
}

#[test]
fn a_commit_that_cannot_be_fetched_leaves_the_one_before() {
    let bench = HubFixture::new();
    let cold = bench.fetch("").unwrap();
    bench.hub.add_commit(
        "main",
        LATER,
        &[("config.json", small_file("{}")), ("model.safetensors", large_file(1))],
    );
    bench.hub.fault("GET", "/files/", usize::MAX, Fault::Status(503, None));
    let (fetched, lines) = bench.fetch_with_log("");
    assert_eq!(fetched.unwrap(), cold);
    assert!(lines.contains("localhost") && lines.contains("status 503"), "{lines}");
    bench.assert_clean();
}

#[test]
fn a_server_that_is_down_and_an_empty_cache_is_an_error() {
    let bench = HubFixture::new().without_hub();
    let error = bench.fetch_error("");
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&bench.settings.endpoint), "{error}");
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    for (method, path) in [("GET", "/api/"), ("HEAD", "config.json"), ("GET", "/files/")] {
        let mut bench = HubFixture::new();
        bench.settings.idle_timeout = std::time::Duration::from_millis(500);
        bench.hub.fault(method, path, usize::MAX, Fault::Silent);
        let error = bench.fetch_error("");
        assert!(matches!(error, HubError::TimedOut { .. }), "{method} {path}: {error:?}");
    }
}

#[test]
fn offline_makes_no_request_and_takes_what_the_cache_has() {
    let mut bench = HubFixture::new();
    bench.settings.offline = true;
    for name in ["".to_owned(), format!("@{COMMIT}")] {
        let (fetched, lines) = bench.fetch_with_log(&name);
        let error = fetched.unwrap_err();
        assert!(matches!(error, HubError::Offline { .. }) && lines.is_empty(), "{error:?} {lines}");
        assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    }
    bench.settings.offline = false;
    let cold = bench.fetch("").unwrap();
    bench.hub.requests();
    bench.settings.offline = true;
    for name in ["".to_owned(), "@main".to_owned(), format!("@{COMMIT}")] {
        let (kept, lines) = bench.fetch_with_log(&name);
        assert_eq!((kept.unwrap(), lines.as_str()), (cold.clone(), ""));
    }
    assert!(bench.hub.requests().is_empty());
}

#[test]
fn offline_says_when_it_cannot_know_whether_a_record_is_missing() {
    let mut bench = HubFixture::new();
    let cold = bench.fetch("").unwrap();
    fs::remove_dir_all(bench.repo_cache_dir().join(".no_exist")).unwrap();
    bench.settings.offline = true;
    let (kept, lines) = bench.fetch_with_log("");
    assert_eq!(kept.unwrap(), cold);
    assert!(lines.contains("preprocessor_config.json") && !lines.contains(" config.json"), "{lines}");
}

/// The cache marks what a commit has not got. A record beside the weights may be among it, the weights may not.
#[test]
fn weights_that_are_remembered_as_missing_are_not_in_the_cache() {
    let mut bench = HubFixture::new();
    let cold = bench.fetch("").unwrap();
    fs::remove_file(bench.pointer(COMMIT, "model.safetensors")).unwrap();
    fs::write(bench.repo_cache_dir().join(".no_exist").join(COMMIT).join("model.safetensors"), "").unwrap();
    bench.settings.offline = true;
    for name in ["".to_owned(), format!("@{COMMIT}")] {
        let error = bench.fetch_error(&name);
        assert!(matches!(error, HubError::Offline { .. }), "{error:?}");
    }
    bench.settings.offline = false;
    assert_eq!(bench.fetch(&format!("@{COMMIT}")).unwrap(), cold);
}

#[test]
fn an_etag_that_is_no_hash_is_said_to_be_unchecked() {
    let bench = HubFixture::new();
    let content = HubFile { etag: Some("5d41402abc4b2a76b9719d911017c592"), ..large_file(0) };
    bench.hub.add_commit("main", COMMIT, &[("model.safetensors", content)]);
    let (fetched, lines) = bench.fetch_with_log("");
    assert_eq!(fs::read(fetched.unwrap().weights).unwrap(), large_file(0).bytes);
    assert!(lines.contains("model.safetensors") && lines.contains("unchecked"), "{lines}");
}

#[test]
fn a_caller_inside_a_runtime_is_served_as_well() {
    let bench = HubFixture::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { bench.fetch("") }).unwrap();
}
