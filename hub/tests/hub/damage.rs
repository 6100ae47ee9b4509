//! Damaged downloads and damaged files in the cache.

use std::fs;

use headstock_hub::HubError;

use super::fixture::{COMMIT, HubFixture, LATER, ProgressEvent, ProgressRecorder, large_file, small_file};
use super::server::Fault;

/// What the server may send instead of the weights, and whether only the hash shows it.
const DAMAGES: [(Fault, bool); 4] =
    [(Fault::Cut, false), (Fault::Short, true), (Fault::Flipped, true), (Fault::Page, true)];

#[test]
fn a_damaged_download_is_removed_and_repeated_once() {
    for (fault, _) in DAMAGES {
        let fixture = HubFixture::new();
        fixture.hub.inject_fault("GET", "/files/", 1, fault);
        let (fetched, log) = fixture.fetch_with_log("");
        assert_eq!(fs::read(fetched.unwrap().weights).unwrap(), large_file(0).bytes, "{fault:?}");
        assert!(log.contains("model.safetensors") && log.contains("once more"), "{fault:?}: {log}");
        fixture.assert_clean();
    }
}

#[test]
fn two_damaged_downloads_are_an_error_and_leave_nothing_behind() {
    for (fault, by_hash) in DAMAGES {
        let fixture = HubFixture::new();
        fixture.hub.inject_fault("GET", "/files/", 2, fault);
        let error = fixture.fetch_error("");
        match &error {
            HubError::HashMismatch { name, expected, found } if by_hash => {
                assert!(name.ends_with("/model.safetensors"), "{name}");
                assert_eq!(*expected, large_file(0).etag());
                assert!(found != expected && found.len() == 64, "{found}");
            }
            HubError::Interrupted { name, .. } if !by_hash => assert!(name.ends_with("/model.safetensors")),
            _ => panic!("{fault:?}: {error:?}"),
        }
        assert!(
            !fixture.blob(&large_file(0)).exists() && !fixture.link(COMMIT, "model.safetensors").is_symlink()
        );
        assert!(!fixture.repo_cache_dir().join("refs/main").exists());
        // The next call downloads the file again.
        assert_eq!(fs::read(fixture.fetch("").unwrap().weights).unwrap(), large_file(0).bytes);
        fixture.assert_clean();
    }
}

#[test]
fn small_files_are_verified_before_the_weights_are_requested() {
    let fixture = HubFixture::new();
    fixture.hub.add_commit(
        "main",
        COMMIT,
        &[("config.json", small_file("{\"a\": 1}")), ("model.safetensors", large_file(0))],
    );
    fixture.hub.inject_fault("GET", "/config.json", 2, Fault::Flipped);
    let error = fixture.fetch_error("");
    assert!(
        matches!(&error, HubError::HashMismatch { name, .. } if name.ends_with("/config.json")),
        "{error:?}"
    );
    assert!(fixture.hub.take_requests().iter().all(|request| !request.path.contains("safetensors")));
}

#[test]
fn progress_restarts_with_the_second_download() {
    let fixture = HubFixture::new();
    fixture.hub.add_commit("main", COMMIT, &[("model.safetensors", large_file(0))]);
    fixture.hub.inject_fault("GET", "/files/", 1, Fault::Flipped);
    let progress = ProgressRecorder::default();
    fixture.fetch_with_progress("", &progress).unwrap();
    let start = ProgressEvent::Start("model.safetensors".into(), Some(400_000));
    let bytes = ProgressEvent::Bytes(400_000);
    assert_eq!(progress.into_events(), [start.clone(), bytes.clone(), start, bytes, ProgressEvent::Finish]);
}

#[test]
fn a_damaged_file_in_the_cache_is_downloaded_again() {
    for name in ["".to_owned(), format!("@{COMMIT}")] {
        for wrong in [&large_file(1).bytes, &large_file(0).bytes[..100], &[]] {
            let fixture = HubFixture::new();
            fixture.fetch(&name).unwrap();
            fs::write(fixture.blob(&large_file(0)), wrong).unwrap();
            let (fetched, log) = fixture.fetch_with_log(&name);
            assert_eq!(fs::read(fetched.unwrap().weights).unwrap(), large_file(0).bytes);
            assert!(log.contains("damaged"), "{log}");
            fixture.assert_clean();
        }
    }
}

#[test]
fn a_damaged_file_in_the_cache_is_not_used_offline() {
    let mut fixture = HubFixture::new();
    fixture.fetch("").unwrap();
    fs::write(fixture.blob(&large_file(0)), "damaged").unwrap();
    fixture.settings.offline = true;
    let error = fixture.fetch_error("");
    assert!(matches!(error, HubError::Offline { .. }), "{error:?}");
}

#[test]
fn a_damaged_blob_is_removed_with_the_links_of_all_commits() {
    let fixture = HubFixture::new();
    fixture.fetch("").unwrap();
    fixture.hub.add_commit(
        "main",
        LATER,
        &[("config.json", small_file("{ }")), ("model.safetensors", large_file(0))],
    );
    fixture.fetch("").unwrap();
    fs::write(fixture.blob(&large_file(0)), "damaged").unwrap();
    fixture.hub.inject_fault("GET", "/files/", 2, Fault::Flipped);
    fixture.fetch_error("");
    assert!(!fixture.link(COMMIT, "model.safetensors").is_symlink());
    assert!(!fixture.link(LATER, "model.safetensors").is_symlink());
}

#[test]
fn a_file_with_a_dangling_link_is_downloaded_again() {
    let fixture = HubFixture::new();
    fixture.fetch("").unwrap();
    fs::remove_file(fixture.blob(&large_file(0))).unwrap();
    assert_eq!(fs::read(fixture.fetch("").unwrap().weights).unwrap(), large_file(0).bytes);
    fixture.assert_clean();
}

#[test]
fn a_damaged_blob_of_a_killed_program_is_not_used() {
    let fixture = HubFixture::new();
    // Another program gave the blob its final name and did not verify it.
    fs::create_dir_all(fixture.repo_cache_dir().join("blobs")).unwrap();
    fs::write(fixture.blob(&large_file(0)), "<h1>403</h1>").unwrap();
    assert_eq!(fs::read(fixture.fetch("").unwrap().weights).unwrap(), large_file(0).bytes);
    fixture.assert_clean();
}

#[test]
fn incomplete_blobs_of_other_programs_are_not_removed() {
    let fixture = HubFixture::new();
    let blobs = fixture.repo_cache_dir().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let other = blobs.join(format!("{}.incomplete", "a".repeat(64)));
    fs::write(&other, "half").unwrap();
    fixture.hub.inject_fault("GET", "/files/", 2, Fault::Cut);
    fixture.fetch("").unwrap_err();
    assert!(other.exists());
    let left = super::fixture::files_below(&blobs);
    assert_eq!(left.len(), 2, "{left:?}");
}
