//! Downloaded files and requests to the hub.

use std::fs;

use headstock_hub::{HubError, WeightFiles};

use super::fixture::{
    COMMIT, FOLDER, HubFixture, LATER, ProgressEvent, ProgressRecorder, REPO, files_below, large_file,
    small_file,
};
use super::server::{Fault, HubFile};

#[test]
fn config_files_are_downloaded_before_the_weights() {
    let fixture = HubFixture::new();
    let progress = ProgressRecorder::default();
    let fetched = fixture.fetch_with_progress("", &progress).unwrap();
    assert_eq!(
        fetched,
        WeightFiles {
            weights: fixture.link(COMMIT, "model.safetensors"),
            config: Some(fixture.link(COMMIT, "config.json")),
            preprocessor: None,
            origin: format!("hf://{REPO}@{COMMIT}"),
        }
    );
    assert_eq!(fs::read(&fetched.weights).unwrap(), large_file(0).bytes);
    let events = |file: &str, bytes| {
        [ProgressEvent::Start(file.into(), Some(bytes)), ProgressEvent::Bytes(bytes), ProgressEvent::Finish]
    };
    let expected = [events("config.json", 2), events("model.safetensors", 400_000)].concat();
    assert_eq!(progress.into_events(), expected);
    fixture.assert_clean();
}

#[test]
fn the_cache_has_the_layout_of_huggingface_hub() {
    let fixture = HubFixture::new();
    fixture.hub.add_commit(
        "main",
        COMMIT,
        &[
            ("sub/config.json", small_file("{}")),
            ("sub/preprocessor_config.json", small_file("{ }")),
            ("sub/model.safetensors", large_file(0)),
        ],
    );
    fixture.fetch("/sub/model.safetensors").unwrap();
    let paths = files_below(&fixture.settings.cache);
    let paths =
        paths.iter().map(|path| path.strip_prefix(&fixture.settings.cache).unwrap().to_str().unwrap());
    let paths: Vec<_> = paths.filter(|path| !path.starts_with(".locks")).collect();
    let mut expected: Vec<String> = vec![format!("{FOLDER}/refs/main")];
    for (file, content) in [
        ("config.json", small_file("{}")),
        ("preprocessor_config.json", small_file("{ }")),
        ("model.safetensors", large_file(0)),
    ] {
        let link = fixture.link(COMMIT, &format!("sub/{file}"));
        let target = fs::read_link(&link).unwrap();
        assert_eq!(target.to_str().unwrap(), format!("../../../blobs/{}", content.etag()));
        expected.push(format!("{FOLDER}/blobs/{}", content.etag()));
        expected.push(format!("{FOLDER}/snapshots/{COMMIT}/sub/{file}"));
    }
    expected.sort_unstable();
    assert_eq!(paths, expected);
    assert_eq!(fs::read_to_string(fixture.repo_cache_dir().join("refs/main")).unwrap(), COMMIT);
}

#[test]
fn with_a_warm_cache_only_the_commit_is_requested() {
    let fixture = HubFixture::new();
    let cold = fixture.fetch("").unwrap();
    fixture.hub.take_requests();
    let progress = ProgressRecorder::default();
    assert_eq!(fixture.fetch_with_progress("", &progress).unwrap(), cold);
    let requests = fixture.hub.take_requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(requests[0].path.starts_with("/api/"));
    assert_eq!(progress.into_events(), []);
}

#[test]
fn a_cached_commit_needs_no_request() {
    let fixture = HubFixture::new();
    let cold = fixture.fetch(&format!("@{COMMIT}")).unwrap();
    assert!(!fixture.hub.take_requests().is_empty());
    assert_eq!(fixture.fetch(&format!("@{COMMIT}")).unwrap(), cold);
    // The cache also knows that this commit has no preprocessor_config.json.
    assert!(fixture.hub.take_requests().is_empty());
    assert!(!fixture.repo_cache_dir().join("refs").exists());
}

#[test]
fn after_an_update_of_the_branch_only_changed_files_are_downloaded() {
    let fixture = HubFixture::new();
    fixture.fetch("").unwrap();
    fixture.hub.add_commit(
        "main",
        LATER,
        &[("config.json", small_file("{}")), ("model.safetensors", large_file(1))],
    );
    fixture.hub.take_requests();
    let fetched = fixture.fetch("").unwrap();
    assert_eq!(fetched.origin, format!("hf://{REPO}@{LATER}"));
    assert_eq!(fs::read(fetched.weights).unwrap(), large_file(1).bytes);
    let downloads: Vec<_> =
        fixture.hub.take_requests().into_iter().filter(|request| request.method == "GET").collect();
    assert!(downloads.iter().all(|request| !request.path.ends_with("config.json")), "{downloads:?}");
    assert_eq!(fs::read_to_string(fixture.repo_cache_dir().join("refs/main")).unwrap(), LATER);
    fixture.assert_clean();
}

#[test]
fn branches_and_pull_requests_may_contain_slashes() {
    let fixture = HubFixture::new();
    for (branch, name) in [("refs/pr/1", "@refs/pr/1"), ("feature/x", "@feature%2Fx")] {
        fixture.hub.add_commit(branch, LATER, &[("model.safetensors", large_file(1))]);
        assert_eq!(fixture.fetch(name).unwrap().origin, format!("hf://{REPO}@{LATER}"));
        assert_eq!(fs::read_to_string(fixture.repo_cache_dir().join("refs").join(branch)).unwrap(), LATER);
    }
}

#[test]
fn a_requested_file_is_downloaded_at_its_revision_and_part_of_the_origin() {
    let fixture = HubFixture::new();
    fixture.hub.add_commit(
        "v1",
        LATER,
        &[("f16.safetensors", large_file(1)), ("model.safetensors", large_file(0))],
    );
    let fetched = fixture.fetch("@v1/f16.safetensors").unwrap();
    assert_eq!(fetched.origin, format!("hf://{REPO}@{LATER}/f16.safetensors"));
    assert_eq!(fs::read(fetched.weights).unwrap(), large_file(1).bytes);
    assert!(!fixture.link(LATER, "model.safetensors").exists());
}

#[test]
fn relative_redirects_are_followed() {
    let fixture = HubFixture::new();
    let source = format!("{}/RESNET.TEST", REPO.split('/').next().unwrap()).to_uppercase().parse().unwrap();
    let fetched =
        headstock_hub::fetch_weights_with(&source, &fixture.settings, &ProgressRecorder::default()).unwrap();
    assert_eq!(fs::read(fetched.weights).unwrap(), large_file(0).bytes);
    let redirected =
        fixture.hub.take_requests().iter().filter(|request| request.path.contains("RESNET")).count();
    assert!(redirected > 0);
}

#[test]
fn a_link_to_another_server_is_no_relative_redirect() {
    let fixture = HubFixture::new();
    let server = fixture.hub.endpoint().replace("http://127.0.0.1", "//localhost");
    let link: &'static str = format!("{server}/files/{}", large_file(0).etag()).leak();
    fixture.hub.inject_fault("HEAD", "model.safetensors", 1, Fault::Header("Location", link));
    fixture.fetch("").unwrap();
    assert!(
        fixture
            .hub
            .take_requests()
            .iter()
            .all(|request| { request.method != "HEAD" || request.host.starts_with("127.0.0.1") })
    );
}

#[test]
fn the_token_is_sent_only_to_the_hub() {
    let mut fixture = HubFixture::new();
    fixture.settings.token = Some("hf_secret".into());
    fixture.fetch("").unwrap();
    let requests = fixture.hub.take_requests();
    assert!(requests.iter().any(|request| request.host.starts_with("localhost")));
    for request in &requests {
        let expected = request.host.starts_with("127.0.0.1").then(|| "Bearer hf_secret".to_owned());
        assert_eq!(request.token, expected, "{request:?}");
    }
}

#[test]
fn without_a_token_no_authorization_is_sent() {
    let fixture = HubFixture::new();
    fixture.fetch("").unwrap();
    assert!(fixture.hub.take_requests().iter().all(|request| request.token.is_none()));
}

#[test]
fn the_cache_is_used_if_the_hub_is_down() {
    let fixture = HubFixture::new();
    let cold = fixture.fetch("").unwrap();
    let HubFixture { hub, .. } = &fixture;
    hub.inject_fault("GET", "/api/", usize::MAX, Fault::Status(503, None));
    let (fetched, log) = fixture.fetch_with_log("");
    assert_eq!(fetched.unwrap(), cold);
    assert!(log.contains("in the download cache") && log.contains("status 503"), "{log}");

    let fixture = fixture.without_hub();
    let (fetched, log) = fixture.fetch_with_log("");
    assert_eq!(fetched.unwrap(), cold);
    assert!(log.contains(&cold.origin) && log.contains("cannot reach"), "{log}");
}

#[test]
fn the_previous_commit_is_used_if_the_new_one_cannot_be_downloaded() {
    let fixture = HubFixture::new();
    let cold = fixture.fetch("").unwrap();
    fixture.hub.add_commit(
        "main",
        LATER,
        &[("config.json", small_file("{}")), ("model.safetensors", large_file(1))],
    );
    fixture.hub.inject_fault("GET", "/files/", usize::MAX, Fault::Status(503, None));
    let (fetched, log) = fixture.fetch_with_log("");
    assert_eq!(fetched.unwrap(), cold);
    assert!(log.contains("localhost") && log.contains("status 503"), "{log}");
    fixture.assert_clean();
}

#[test]
fn without_hub_and_cache_the_hub_is_unreachable() {
    let fixture = HubFixture::new().without_hub();
    let error = fixture.fetch_error("");
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&fixture.settings.endpoint), "{error}");
}

#[test]
fn an_unresponsive_server_times_out() {
    for (method, path) in [("GET", "/api/"), ("HEAD", "config.json"), ("GET", "/files/")] {
        let mut fixture = HubFixture::new();
        fixture.settings.idle_timeout = std::time::Duration::from_millis(500);
        fixture.hub.inject_fault(method, path, usize::MAX, Fault::Silent);
        let error = fixture.fetch_error("");
        assert!(matches!(error, HubError::TimedOut { .. }), "{method} {path}: {error:?}");
    }
}

#[test]
fn offline_only_the_cache_is_used() {
    let mut fixture = HubFixture::new();
    fixture.settings.offline = true;
    for name in ["".to_owned(), format!("@{COMMIT}")] {
        let (fetched, log) = fixture.fetch_with_log(&name);
        let error = fetched.unwrap_err();
        assert!(matches!(error, HubError::Offline { .. }) && log.is_empty(), "{error:?} {log}");
        assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    }
    fixture.settings.offline = false;
    let cold = fixture.fetch("").unwrap();
    fixture.hub.take_requests();
    fixture.settings.offline = true;
    for name in ["".to_owned(), "@main".to_owned(), format!("@{COMMIT}")] {
        let (cached, log) = fixture.fetch_with_log(&name);
        assert_eq!((cached.unwrap(), log.as_str()), (cold.clone(), ""));
    }
    assert!(fixture.hub.take_requests().is_empty());
}

#[test]
fn offline_a_config_file_of_unknown_existence_is_skipped_with_a_warning() {
    let mut fixture = HubFixture::new();
    let cold = fixture.fetch("").unwrap();
    fs::remove_dir_all(fixture.repo_cache_dir().join(".no_exist")).unwrap();
    fixture.settings.offline = true;
    let (cached, log) = fixture.fetch_with_log("");
    assert_eq!(cached.unwrap(), cold);
    assert!(log.contains("preprocessor_config.json") && !log.contains(" config.json"), "{log}");
}

/// The cache marks files that a commit lacks; unlike config files, the weights are required.
#[test]
fn weights_that_are_marked_as_absent_are_not_in_the_cache() {
    let mut fixture = HubFixture::new();
    let cold = fixture.fetch("").unwrap();
    fs::remove_file(fixture.link(COMMIT, "model.safetensors")).unwrap();
    fs::write(fixture.repo_cache_dir().join(".no_exist").join(COMMIT).join("model.safetensors"), "").unwrap();
    fixture.settings.offline = true;
    for name in ["".to_owned(), format!("@{COMMIT}")] {
        let error = fixture.fetch_error(&name);
        assert!(matches!(error, HubError::Offline { .. }), "{error:?}");
    }
    fixture.settings.offline = false;
    assert_eq!(fixture.fetch(&format!("@{COMMIT}")).unwrap(), cold);
}

#[test]
fn a_warning_is_logged_if_the_etag_is_not_a_hash() {
    let fixture = HubFixture::new();
    let content = HubFile { etag: Some("5d41402abc4b2a76b9719d911017c592"), ..large_file(0) };
    fixture.hub.add_commit("main", COMMIT, &[("model.safetensors", content)]);
    let (fetched, log) = fixture.fetch_with_log("");
    assert_eq!(fs::read(fetched.unwrap().weights).unwrap(), large_file(0).bytes);
    assert!(log.contains("model.safetensors") && log.contains("unchecked"), "{log}");
    // The cache names the file by its SHA-256, so later damage is found.
    fixture.assert_clean();
    fs::write(fixture.blob(&large_file(0)), "damaged").unwrap();
    assert_eq!(fs::read(fixture.fetch("").unwrap().weights).unwrap(), large_file(0).bytes);
}

#[test]
fn a_short_download_without_a_hash_is_repeated_once() {
    let fixture = HubFixture::new();
    let content = HubFile { etag: Some("5d41402abc4b2a76b9719d911017c592"), ..large_file(0) };
    fixture.hub.add_commit("main", COMMIT, &[("model.safetensors", content)]);
    fixture.hub.inject_fault("GET", "/files/", 3, Fault::Short);
    assert!(matches!(fixture.fetch_error(""), HubError::Interrupted { .. }));
    assert_eq!(fs::read(fixture.fetch("").unwrap().weights).unwrap(), large_file(0).bytes);
}
