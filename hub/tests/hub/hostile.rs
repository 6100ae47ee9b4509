//! Answers of a hub that is hostile or broken: what leads out of the cache, does not end, or fills the disk.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use headstock_hub::HubError;

use super::fixture::{COMMIT, DATASET, HubFixture, REPO, files_below, large_file, small_file};
use super::server::{Fault, HubFile};

/// A name that leads from a folder in the cache to its parent folder, twice or more.
const TRAVERSALS: [&str; 3] =
    ["../../../../elsewhere/x", "/tmp/headstock-elsewhere/x", "..\\..\\elsewhere\\x"];

/// The most bytes of an endless body that may be sent: 16 MiB, and what is in buffers of the system.
const MAX_SENT: usize = 40 << 20;

/// Checks that nothing was written outside the cache.
fn assert_contained(fixture: &HubFixture) {
    for file in files_below(fixture.root()) {
        assert!(file.starts_with(&fixture.settings.cache), "{}", file.display());
    }
    assert!(!std::path::Path::new("/tmp/headstock-elsewhere").exists());
}

/// The number of requests with this method since the last call.
fn count_requests(fixture: &HubFixture, method: &str, path: &str) -> usize {
    let requests = fixture.hub.take_requests();
    requests.iter().filter(|request| request.method == method && request.path.contains(path)).count()
}

#[test]
fn an_etag_that_leads_out_of_the_cache_names_no_file() {
    for etag in TRAVERSALS {
        for header in ["ETag", "X-Linked-Etag"] {
            let fixture = HubFixture::new();
            let quoted: &'static str = format!("\"{etag}\"").leak();
            let file = if header == "ETag" { "config.json" } else { "model.safetensors" };
            fixture.hub.inject_fault("HEAD", file, usize::MAX, Fault::Header(header, quoted));
            let (fetched, log) = fixture.fetch_with_log("");
            assert_eq!(fs::read(fetched.unwrap().weights).unwrap(), large_file(0).bytes);
            assert!(log.contains(&format!("of {file}")) && log.contains("unchecked"), "{log}");
            fixture.assert_clean();
            assert_contained(&fixture);
        }
    }
}

#[test]
fn a_commit_header_other_than_the_requested_commit_is_an_error() {
    let other = "3333333333333333333333333333333333333333";
    for commit in TRAVERSALS.into_iter().chain([other, ""]) {
        for status in [200, 404] {
            let fixture = HubFixture::new();
            fixture.hub.inject_fault(
                "HEAD",
                "config.json",
                usize::MAX,
                Fault::Header("X-Repo-Commit", commit),
            );
            if status == 404 {
                // Without the file, the cache would mark the commit.
                fixture.hub.add_commit("main", COMMIT, &[("model.safetensors", large_file(0))]);
            }
            let fetched = fixture.fetch("");
            if status == 200 {
                assert!(matches!(fetched, Err(HubError::UnexpectedAnswer { .. })), "{commit}: {fetched:?}");
            } else {
                fetched.unwrap();
            }
            fixture.assert_clean();
            assert_contained(&fixture);
            for folder in ["snapshots", ".no_exist"] {
                let folders = fs::read_dir(fixture.repo_cache_dir().join(folder)).into_iter().flatten();
                assert!(folders.flatten().all(|entry| entry.file_name() == COMMIT), "{folder}");
            }
        }
    }
}

#[test]
fn a_404_that_is_not_the_hubs_does_not_mark_a_file_as_absent() {
    let fixture = HubFixture::new();
    fixture.hub.inject_fault("GET", "/revision/", 1, Fault::Unlisted);
    // Without the commit, and without the hub's code for a missing file.
    fixture.hub.inject_fault("HEAD", "preprocessor_config.json", 1, Fault::RetryAfter(404, "0"));
    let error = fixture.fetch_error("");
    assert!(matches!(error, HubError::Refused { status: 404, .. }), "{error:?}");
    assert!(!fixture.repo_cache_dir().join(".no_exist").exists());
}

#[test]
fn a_commit_of_the_api_that_is_no_hash_is_an_error() {
    for sha in TRAVERSALS.into_iter().chain(["main", "111111111111111111111111111111111111111g", ""]) {
        let fixture = HubFixture::new();
        let body: &'static str = format!("{{\"sha\":{sha:?},\"siblings\":[]}}").leak();
        fixture.hub.inject_fault("GET", "/api/", 1, Fault::Body(body));
        let error = fixture.fetch_error("");
        assert!(matches!(error, HubError::UnexpectedAnswer { .. }), "{sha}: {error:?}");
        assert!(files_below(fixture.root()).is_empty());
    }
}

#[test]
fn listed_names_that_lead_out_of_the_cache_are_never_paths() {
    for name in TRAVERSALS {
        // The path of weights comes from the user's name; listed ones are only compared with it.
        let listed = format!("{name}/model.safetensors");
        let fixture = HubFixture::new();
        fixture.hub.add_commit("main", COMMIT, &[(&listed, large_file(0))]);
        assert!(matches!(fixture.fetch_error(""), HubError::FileNotFound { .. }));
        assert_contained(&fixture);

        let fixture = HubFixture::with_files(DATASET, &[(&format!("{name}.parquet"), large_file(0))]);
        for unlisted in [false, true] {
            if unlisted {
                fixture.hub.inject_fault("GET", "/revision/", 1, Fault::Unlisted);
            }
            let error = fixture.fetch_dataset("").unwrap_err();
            assert!(matches!(error, HubError::UnsafePath { .. }), "{name}: {error:?}");
        }
        assert!(files_below(fixture.root()).is_empty());
    }
}

#[test]
fn a_config_file_of_10_12_bytes_is_not_requested() {
    let fixture = HubFixture::new();
    fixture.hub.inject_fault("HEAD", "config.json", 1, Fault::Endless(Some(1_000_000_000_000)));
    let error = fixture.fetch_error("");
    let HubError::TooLong { name, limit, .. } = &error else { panic!("{error:?}") };
    assert!(name.ends_with("/config.json") && *limit == 16 << 20, "{error:?}");
    assert_eq!(count_requests(&fixture, "GET", "config.json"), 0);
}

#[test]
fn a_config_file_without_an_end_is_cut() {
    for stated in [None, Some(2)] {
        let fixture = HubFixture::new();
        if stated.is_none() {
            fixture.hub.inject_fault("HEAD", "config.json", 1, Fault::Endless(None));
        }
        for claimed in [None, Some(1_000_000_000_000)] {
            fixture.hub.inject_fault("GET", "config.json", 1, Fault::Endless(claimed));
        }
        let error = fixture.fetch_error("");
        let limit = stated.unwrap_or(16 << 20);
        assert!(matches!(error, HubError::TooLong { limit: found, .. } if found == limit), "{error:?}");
        assert!(fixture.hub.endless_bytes() < MAX_SENT, "{}", fixture.hub.endless_bytes());
        assert!(files_below(&fixture.repo_cache_dir()).is_empty());
        assert_eq!(count_requests(&fixture, "GET", "config.json"), 2);
    }
}

#[test]
fn an_answer_of_the_api_without_an_end_is_cut() {
    for claimed in [None, Some(1_000_000_000_000)] {
        let fixture = HubFixture::new();
        fixture.hub.inject_fault("GET", "/api/", 1, Fault::Endless(claimed));
        let error = fixture.fetch_error("");
        assert!(matches!(error, HubError::TooLong { limit: 16_777_216, .. }), "{error:?}");
        // A body that states its length is not read.
        let max_sent = if claimed.is_some() { 16 << 20 } else { MAX_SENT };
        assert!(fixture.hub.endless_bytes() < max_sent, "{}", fixture.hub.endless_bytes());
    }
}

#[test]
fn a_list_of_files_without_an_end_is_an_error() {
    let fixture = HubFixture::with_files(DATASET, &[("a.parquet", large_file(0))]);
    fixture.hub.inject_fault("GET", "/revision/", 1, Fault::Unlisted);
    let next: &'static str =
        format!("<{}/api/{DATASET}/tree/main>; rel=\"next\"", fixture.hub.endpoint()).leak();
    fixture.hub.inject_fault("GET", "/tree/", usize::MAX, Fault::Header("Link", next));
    let error = fixture.fetch_dataset("").unwrap_err();
    assert!(matches!(error, HubError::UnexpectedAnswer { .. }), "{error:?}");
}

#[test]
fn the_token_is_not_sent_to_another_server_for_the_next_page() {
    let mut fixture = HubFixture::with_files(DATASET, &[("a.parquet", large_file(0))]);
    fixture.settings.token = Some("hf_secret".into());
    fixture.hub.inject_fault("GET", "/revision/", 1, Fault::Unlisted);
    let elsewhere = fixture.hub.endpoint().replace("127.0.0.1", "localhost");
    let next: &'static str = format!("<{elsewhere}/api/{DATASET}/tree/main>; rel=\"next\"").leak();
    fixture.hub.inject_fault("GET", "/tree/", 1, Fault::Header("Link", next));
    fixture.fetch_dataset("").unwrap();
    let requests = fixture.hub.take_requests();
    let pages: Vec<_> = requests.iter().filter(|request| request.path.contains("/tree/")).collect();
    assert!(pages.len() == 2 && pages[0].token.is_some() && pages[1].token.is_none(), "{pages:?}");
}

#[test]
fn weights_longer_than_stated_are_cut_and_refused() {
    for fault in [Fault::Twice, Fault::Endless(None), Fault::Endless(Some(400_001))] {
        let fixture = HubFixture::new();
        fixture.hub.inject_fault("GET", "/files/", 2, fault);
        let error = fixture.fetch_error("");
        assert!(matches!(error, HubError::TooLong { limit: 400_000, .. }), "{fault:?}: {error:?}");
        assert!(fixture.hub.endless_bytes() < MAX_SENT, "{}", fixture.hub.endless_bytes());
        assert!(!fixture.blob(&large_file(0)).exists());
        fixture.fetch("").unwrap();
        fixture.assert_clean();
    }
}

#[test]
fn weights_without_a_stated_size_are_refused() {
    let fixture = HubFixture::new();
    let weights = HubFile { large: false, ..large_file(0) };
    fixture.hub.add_commit("main", COMMIT, &[("model.safetensors", weights)]);
    fixture.hub.inject_fault("HEAD", "model.safetensors", 1, Fault::Endless(None));
    let error = fixture.fetch_error("");
    assert!(matches!(error, HubError::UnexpectedAnswer { .. }), "{error:?}");
    assert_eq!(count_requests(&fixture, "GET", "model.safetensors"), 0);
}

#[test]
fn weights_larger_than_the_free_space_are_not_requested() {
    let fixture = HubFixture::new();
    // More than any disk.
    let size = "9000000000000000000";
    fixture.hub.inject_fault("HEAD", "model.safetensors", 1, Fault::Header("X-Linked-Size", size));
    let error = fixture.fetch_error("");
    let HubError::NoSpace { name, bytes, available, .. } = &error else { panic!("{error:?}") };
    assert!(name.ends_with("/model.safetensors") && bytes.to_string() == size && *available > 0, "{error:?}");
    assert_eq!(count_requests(&fixture, "GET", "/files/"), 0);
}

/// A date `seconds` from now, as in HTTP.
fn http_date(seconds: u64) -> &'static str {
    httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds)).leak()
}

#[test]
fn a_busy_hub_is_given_the_time_that_it_asks_for() {
    for (method, path, file) in
        [("GET", "/api/", false), ("HEAD", "config.json", false), ("GET", "/files/", true)]
    {
        // A date has whole seconds, so the wait is at least one second less.
        for (status, wait, at_least) in [(429, "1", 1.0), (503, http_date(3), 1.0)] {
            let fixture = HubFixture::new();
            fixture.hub.inject_fault(method, path, 1, Fault::RetryAfter(status, wait));
            let started = Instant::now();
            let (fetched, log) = fixture.fetch_with_log("");
            fetched.unwrap();
            assert!(started.elapsed().as_secs_f64() >= at_least, "{wait}: {:?}", started.elapsed());
            let host = if file { "http://localhost" } else { "http://127.0.0.1" };
            assert!(log.contains(host) && log.contains("asks to wait"), "{log}");
            assert!(log.contains(&format!("(HTTP status {status})")), "{log}");
        }
    }
}

#[test]
fn a_hub_that_asks_for_a_longer_wait_is_an_error_that_says_when_to_try_again() {
    for (wait, at_most) in [("3600", 3600), (http_date(3600), 3600), ("21", 21)] {
        let fixture = HubFixture::new();
        fixture.hub.inject_fault("GET", "/api/", usize::MAX, Fault::RetryAfter(429, wait));
        let error = fixture.fetch_error("");
        let HubError::Unavailable { retry_after: Some(seconds), .. } = error else { panic!("{error:?}") };
        assert!((at_most - 10..=at_most).contains(&seconds), "{wait}: {seconds}");
        assert!(error.to_string().contains(&format!("try again in {seconds} s")), "{error}");
        assert_eq!(count_requests(&fixture, "GET", "/api/"), 1);
    }
}

#[test]
fn a_wait_that_is_no_number_and_no_date_is_ignored() {
    for wait in ["soon", "-1", "1e9", ""] {
        let fixture = HubFixture::new();
        fixture.hub.inject_fault("GET", "/api/", 1, Fault::RetryAfter(429, wait));
        fixture.fetch("").unwrap();
    }
}

#[test]
fn a_config_file_may_have_any_size_below_the_limit() {
    let fixture = HubFixture::new();
    let text = " ".repeat(1 << 20);
    fixture.hub.add_commit(
        "main",
        COMMIT,
        &[("config.json", small_file(&text)), ("model.safetensors", large_file(0))],
    );
    assert_eq!(fs::read_to_string(fixture.fetch("").unwrap().config.unwrap()).unwrap(), text);
}

/// The path of the weights on the hub, which redirects to another server.
fn weights_path() -> &'static str {
    format!("/{REPO}/resolve/{COMMIT}/model.safetensors").leak()
}

#[test]
fn ten_redirects_are_followed_and_no_more() {
    let fixture = HubFixture::new();
    // The last one leads to the file server.
    fixture.hub.inject_fault("GET", weights_path(), 9, Fault::Header("Location", weights_path()));
    fixture.fetch("").unwrap();
    assert_eq!(count_requests(&fixture, "GET", weights_path()), 10);

    let fixture = HubFixture::new();
    fixture.hub.inject_fault("GET", weights_path(), 10, Fault::Header("Location", weights_path()));
    let error = fixture.fetch_error("");
    assert!(matches!(&error, HubError::UnexpectedAnswer { .. }), "{error:?}");
    assert_eq!(count_requests(&fixture, "GET", weights_path()), 11);
    assert_eq!(count_requests(&fixture, "GET", "/files/"), 0);
}

#[test]
fn a_redirect_to_another_scheme_is_not_followed() {
    for location in ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "javascript:x", "//"] {
        let fixture = HubFixture::new();
        fixture.hub.inject_fault("GET", weights_path(), usize::MAX, Fault::Header("Location", location));
        let error = fixture.fetch_error("");
        assert!(matches!(error, HubError::Refused { status: 302, .. }), "{location}: {error:?}");
        assert_eq!(count_requests(&fixture, "GET", "/files/"), 0);
        assert!(!fixture.link(COMMIT, "model.safetensors").exists());
    }
}
