//! Downloads that come damaged.

use std::fs;

use headstock_backbone::HubError;

use super::fixture::{COMMIT, HubFixture, LATER, ProgressEvent, ProgressRecorder, large_file, small_file};
use super::server::Fault;

/// What may come in place of the weights, and whether that shows only by their hash.
const DAMAGES: [(Fault, bool); 4] =
    [(Fault::Cut, false), (Fault::Short, true), (Fault::Flipped, true), (Fault::Page, true)];

#[test]
fn a_damaged_download_is_removed_and_made_once_more() {
    for (fault, _) in DAMAGES {
        let bench = HubFixture::new();
        bench.hub.fault("GET", "/files/", 1, fault);
        let (fetched, lines) = bench.fetch_with_log("");
        assert_eq!(fs::read(fetched.unwrap().weights).unwrap(), large_file(0).bytes, "{fault:?}");
        assert!(lines.contains("model.safetensors") && lines.contains("once more"), "{fault:?}: {lines}");
        bench.assert_clean();
    }
}

#[test]
fn damaged_twice_it_is_an_error_and_nothing_is_left_of_it() {
    for (fault, by_hash) in DAMAGES {
        let bench = HubFixture::new();
        bench.hub.fault("GET", "/files/", 2, fault);
        let error = bench.fetch_error("");
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
            !bench.blob(&large_file(0)).exists() && !bench.pointer(COMMIT, "model.safetensors").is_symlink()
        );
        assert!(!bench.repo_cache_dir().join("refs/main").exists());
        // And the next call starts afresh.
        assert_eq!(fs::read(bench.fetch("").unwrap().weights).unwrap(), large_file(0).bytes);
        bench.assert_clean();
    }
}

#[test]
fn a_small_file_is_checked_as_well_and_before_the_weights_are_asked_for() {
    let bench = HubFixture::new();
    bench.hub.add_commit(
        "main",
        COMMIT,
        &[("config.json", small_file("{\"a\": 1}")), ("model.safetensors", large_file(0))],
    );
    bench.hub.fault("GET", "/config.json", 2, Fault::Flipped);
    let error = bench.fetch_error("");
    assert!(
        matches!(&error, HubError::HashMismatch { name, .. } if name.ends_with("/config.json")),
        "{error:?}"
    );
    assert!(bench.hub.requests().iter().all(|request| !request.path.contains("safetensors")));
}

#[test]
fn progress_begins_anew_with_the_second_download() {
    let bench = HubFixture::new();
    bench.hub.add_commit("main", COMMIT, &[("model.safetensors", large_file(0))]);
    bench.hub.fault("GET", "/files/", 1, Fault::Flipped);
    let progress = ProgressRecorder::default();
    bench.fetch_with_progress("", &progress).unwrap();
    let start = ProgressEvent::Start("model.safetensors".into(), Some(400_000));
    let bytes = ProgressEvent::Bytes(400_000);
    assert_eq!(progress.into_events(), [start.clone(), bytes.clone(), start, bytes, ProgressEvent::Finish]);
}

#[test]
fn a_copy_that_was_damaged_in_the_cache_is_fetched_anew() {
    for name in ["".to_owned(), format!("@{COMMIT}")] {
        for wrong in [&large_file(1).bytes, &large_file(0).bytes[..100], &[]] {
            let bench = HubFixture::new();
            bench.fetch(&name).unwrap();
            fs::write(bench.blob(&large_file(0)), wrong).unwrap();
            let (fetched, lines) = bench.fetch_with_log(&name);
            assert_eq!(fs::read(fetched.unwrap().weights).unwrap(), large_file(0).bytes);
            assert!(lines.contains("damaged"), "{lines}");
            bench.assert_clean();
        }
    }
}

#[test]
fn a_copy_that_was_damaged_in_the_cache_is_no_copy_offline() {
    let mut bench = HubFixture::new();
    bench.fetch("").unwrap();
    fs::write(bench.blob(&large_file(0)), "damaged").unwrap();
    bench.settings.offline = true;
    let error = bench.fetch_error("");
    assert!(matches!(error, HubError::Offline { .. }), "{error:?}");
}

#[test]
fn a_damaged_blob_goes_with_the_links_of_every_commit() {
    let bench = HubFixture::new();
    bench.fetch("").unwrap();
    bench.hub.add_commit(
        "main",
        LATER,
        &[("config.json", small_file("{ }")), ("model.safetensors", large_file(0))],
    );
    bench.fetch("").unwrap();
    fs::write(bench.blob(&large_file(0)), "damaged").unwrap();
    bench.hub.fault("GET", "/files/", 2, Fault::Flipped);
    bench.fetch_error("");
    assert!(!bench.pointer(COMMIT, "model.safetensors").is_symlink());
    assert!(!bench.pointer(LATER, "model.safetensors").is_symlink());
}

#[test]
fn a_link_that_leads_nowhere_is_no_copy() {
    let bench = HubFixture::new();
    bench.fetch("").unwrap();
    fs::remove_file(bench.blob(&large_file(0))).unwrap();
    assert_eq!(fs::read(bench.fetch("").unwrap().weights).unwrap(), large_file(0).bytes);
    bench.assert_clean();
}

#[test]
fn a_blob_that_a_killed_program_left_damaged_is_never_read() {
    let bench = HubFixture::new();
    // hf-hub has renamed it into place, and was killed before it was checked.
    fs::create_dir_all(bench.repo_cache_dir().join("blobs")).unwrap();
    fs::write(bench.blob(&large_file(0)), "<h1>403</h1>").unwrap();
    assert_eq!(fs::read(bench.fetch("").unwrap().weights).unwrap(), large_file(0).bytes);
    bench.assert_clean();
}

#[test]
fn what_others_have_not_finished_stays_theirs() {
    let bench = HubFixture::new();
    let blobs = bench.repo_cache_dir().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let other = blobs.join(format!("{}.incomplete", "a".repeat(64)));
    fs::write(&other, "half").unwrap();
    bench.hub.fault("GET", "/files/", 2, Fault::Cut);
    bench.fetch("").unwrap_err();
    assert!(other.exists());
    let left = super::fixture::files_below(&blobs);
    assert_eq!(left.len(), 2, "{left:?}");
}
