//! Locks of the cache.

use std::fs::{self, File};
use std::thread;
use std::time::Duration;

use headstock_backbone::HubError;

use super::fixture::{COMMIT, FOLDER, HubFixture, LogBuffer, large_file};
use super::server::LIMIT;

#[test]
fn a_lock_that_is_held_and_under_which_nothing_happens_is_given_up() {
    let mut bench = HubFixture::new();
    bench.settings.idle_timeout = Duration::from_millis(300);
    let locks = bench.settings.cache.join(".locks").join(FOLDER);
    fs::create_dir_all(&locks).unwrap();
    let held = File::create(locks.join("headstock.lock")).unwrap();
    held.lock().unwrap();
    let (fetched, lines) = bench.fetch_with_log("");
    let error = fetched.unwrap_err();
    assert!(matches!(&error, HubError::Locked { path, .. } if path.starts_with(&locks)), "{error:?}");
    assert_eq!(
        lines.matches("waiting for another process that fetches the same weights").count(),
        1,
        "{lines}"
    );
    bench.assert_clean();
    held.unlock().unwrap();
    bench.settings.idle_timeout = LIMIT;
    bench.fetch("").unwrap();
}

#[test]
fn what_is_there_needs_a_cache_neither_to_lock_nor_to_write() {
    let bench = HubFixture::new();
    let cold = bench.fetch(&format!("@{COMMIT}")).unwrap();
    fs::remove_dir_all(bench.settings.cache.join(".locks")).unwrap();
    // Where the branch would be noted.
    fs::write(bench.repo_cache_dir().join("refs"), "").unwrap();
    assert_eq!(bench.fetch("").unwrap(), cold);
    assert!(!bench.settings.cache.join(".locks").exists());
}

#[test]
#[ignore = "takes the 10 s that hf-hub waits for another program"]
fn another_program_may_write_the_blob_for_longer_than_hf_hub_waits() {
    let bench = HubFixture::new();
    let locks = bench.settings.cache.join(".locks").join(FOLDER);
    fs::create_dir_all(&locks).unwrap();
    let held = File::create(locks.join(format!("{}.lock", large_file(0).etag()))).unwrap();
    held.lock().unwrap();
    let lines = LogBuffer::default();
    thread::scope(|scope| {
        let fetching = scope.spawn(|| bench.fetch_logging("", &lines));
        while !lines.text().contains("waiting for another process") && !fetching.is_finished() {
            thread::sleep(Duration::from_millis(50));
        }
        fs::write(bench.blob(&large_file(0)), large_file(0).bytes).unwrap();
        held.unlock().unwrap();
        fetching.join().unwrap().unwrap();
    });
    assert!(bench.hub.requests().iter().all(|request| !request.path.starts_with("/files/")));
    bench.assert_clean();
}
