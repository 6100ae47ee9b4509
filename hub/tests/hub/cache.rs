//! Locks in the cache.

use std::fs::{self, File};
use std::thread;
use std::time::Duration;

use super::fixture::{COMMIT, FOLDER, HubFixture, LogBuffer, large_file};

/// The holder may wait itself, because a busy hub asks for it.
#[test]
fn a_lock_is_waited_for_longer_than_for_an_answer() {
    let mut fixture = HubFixture::new();
    fixture.settings.idle_timeout = Duration::from_millis(300);
    let locks = fixture.settings.cache.join(".locks").join(FOLDER);
    fs::create_dir_all(&locks).unwrap();
    let held = File::create(locks.join("headstock.lock")).unwrap();
    held.lock().unwrap();
    let log = LogBuffer::default();
    let waiting = "waiting for another process that downloads the same files";
    thread::scope(|scope| {
        let fetching = scope.spawn(|| fixture.fetch_logging("", &log));
        while !log.text().contains(waiting) && !fetching.is_finished() {
            thread::sleep(Duration::from_millis(50));
        }
        thread::sleep(2 * fixture.settings.idle_timeout);
        assert!(!fetching.is_finished());
        fixture.assert_clean();
        held.unlock().unwrap();
        fetching.join().unwrap().unwrap();
    });
    let log = log.text();
    assert_eq!(log.matches(waiting).count(), 1, "{log}");
    assert!(log.contains("headstock.lock"), "{log}");
    fixture.assert_clean();
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
