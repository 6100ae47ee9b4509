//! Locks in the cache.

use std::fs::{self, File};
use std::thread;
use std::time::Duration;

use headstock_hub::HubError;

use super::fixture::{COMMIT, FOLDER, HubFixture, LogBuffer, large_file};
use super::server::LIMIT;

#[test]
fn waiting_for_a_lock_without_progress_times_out() {
    let mut fixture = HubFixture::new();
    fixture.settings.idle_timeout = Duration::from_millis(300);
    let locks = fixture.settings.cache.join(".locks").join(FOLDER);
    fs::create_dir_all(&locks).unwrap();
    let held = File::create(locks.join("headstock.lock")).unwrap();
    held.lock().unwrap();
    let (fetched, log) = fixture.fetch_with_log("");
    let error = fetched.unwrap_err();
    assert!(matches!(&error, HubError::Locked { path, .. } if path.starts_with(&locks)), "{error:?}");
    assert_eq!(
        log.matches("waiting for another process that downloads the same weights").count(),
        1,
        "{log}"
    );
    fixture.assert_clean();
    held.unlock().unwrap();
    fixture.settings.idle_timeout = LIMIT;
    fixture.fetch("").unwrap();
}

#[test]
fn cached_files_can_be_used_without_locking_or_writing() {
    let fixture = HubFixture::new();
    let cold = fixture.fetch(&format!("@{COMMIT}")).unwrap();
    fs::remove_dir_all(fixture.settings.cache.join(".locks")).unwrap();
    // The commit of the branch cannot be stored.
    fs::write(fixture.repo_cache_dir().join("refs"), "").unwrap();
    assert_eq!(fixture.fetch("").unwrap(), cold);
    assert!(!fixture.settings.cache.join(".locks").exists());
}

#[test]
fn a_blob_that_another_program_is_writing_is_not_downloaded_again() {
    let fixture = HubFixture::new();
    let locks = fixture.settings.cache.join(".locks").join(FOLDER);
    fs::create_dir_all(&locks).unwrap();
    let held = File::create(locks.join(format!("{}.lock", large_file(0).etag()))).unwrap();
    held.lock().unwrap();
    let log = LogBuffer::default();
    thread::scope(|scope| {
        let fetching = scope.spawn(|| fixture.fetch_logging("", &log));
        while !log.text().contains("waiting for another process") && !fetching.is_finished() {
            thread::sleep(Duration::from_millis(50));
        }
        fs::write(fixture.blob(&large_file(0)), large_file(0).bytes).unwrap();
        held.unlock().unwrap();
        fetching.join().unwrap().unwrap();
    });
    assert!(fixture.hub.take_requests().iter().all(|request| !request.path.starts_with("/files/")));
    fixture.assert_clean();
}
