//! Locks in the cache, and caches that may not be written.

use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::Duration;

use headstock_hub::HubError;

use super::fixture::{COMMIT, FOLDER, HubFixture, LATER, LogBuffer, large_file, small_file};

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

/// Puts a file in the place of each of these folders of the cache, so that nothing can be stored there.
fn block(folders: &[&Path]) {
    for folder in folders {
        drop(fs::remove_dir_all(folder));
        fs::write(folder, "").unwrap();
    }
}

#[test]
fn a_complete_cache_that_may_not_be_written_is_used_although_the_hub_is_reachable() {
    // As other programs fill it: without marks of what a commit lacks.
    let fixture = HubFixture::new();
    let cold = fixture.fetch("").unwrap();
    let folder = fixture.repo_cache_dir();
    block(&[&fixture.settings.cache.join(".locks"), &folder.join("refs"), &folder.join(".no_exist")]);
    fixture.hub.take_requests();
    for name in ["", "@main", &format!("@{COMMIT}")] {
        let (warm, log) = fixture.fetch_with_log(name);
        assert_eq!((warm.unwrap(), log.as_str()), (cold.clone(), ""), "{name}");
    }
    assert!(fixture.hub.take_requests().iter().all(|request| request.path.starts_with("/api/")));
}

#[test]
fn a_file_that_the_hub_does_not_list_is_marked_as_absent_without_a_request() {
    let fixture = HubFixture::new();
    fixture.fetch("").unwrap();
    let marker = fixture.repo_cache_dir().join(".no_exist").join(COMMIT).join("preprocessor_config.json");
    assert!(marker.exists());
    assert!(fixture.hub.take_requests().iter().all(|request| !request.path.contains("preprocessor")));
    // It is fetched if the hub lists it.
    let files = [("preprocessor_config.json", small_file("{}")), ("model.safetensors", large_file(0))];
    fixture.hub.add_commit("main", LATER, &files);
    assert!(fixture.fetch("").unwrap().preprocessor.is_some());
}

#[test]
fn a_missing_file_that_cannot_be_stored_is_named_with_the_place() {
    let file = "hf://owner/resnet.test/model.safetensors";
    for blocked in ["locks", "blobs"] {
        let fixture = HubFixture::new();
        fixture.fetch("").unwrap();
        fs::remove_file(fixture.link(COMMIT, "model.safetensors")).unwrap();
        fs::remove_file(fixture.blob(&large_file(0))).unwrap();
        let place = match blocked {
            "locks" => {
                block(&[&fixture.settings.cache.join(".locks")]);
                fixture.settings.cache.join(".locks")
            }
            _ => {
                let partial = fixture.blob(&large_file(0)).with_extension("incomplete");
                fs::create_dir(&partial).unwrap();
                partial
            }
        };
        let result = fixture.fetch("");
        let Err(error) = result else { panic!("{blocked}: {result:?}") };
        assert!(matches!(&error, HubError::NotStored { name, .. } if name == file), "{blocked}: {error:?}");
        assert!(error.to_string().contains(place.to_str().unwrap()), "{blocked}: {error}");
    }
}

#[test]
fn without_a_place_for_the_commit_of_the_branch_files_are_downloaded_with_a_warning() {
    let fixture = HubFixture::new();
    fs::create_dir_all(fixture.repo_cache_dir()).unwrap();
    block(&[&fixture.repo_cache_dir().join("refs")]);
    let (fetched, log) = fixture.fetch_with_log("");
    assert_eq!(fs::read(fetched.unwrap().weights).unwrap(), large_file(0).bytes);
    assert!(log.contains("does not know hf://owner/resnet.test without the hub"), "{log}");
    assert!(log.contains("refs"), "{log}");
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
