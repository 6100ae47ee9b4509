//! Downloads of data sets: the selected files, and that a data set is complete or an error.

use std::fs;
use std::path::Path;

use headstock_hub::{DatasetFiles, HubDataset, HubError, fetch_dataset_with};

use super::fixture::{
    COMMIT, DATASET, HubFixture, LATER, ProgressEvent, ProgressRecorder, files_below, large_file, small_file,
};
use super::server::{Fault, HubFile};

const TEST: &str = "data/test-00000-of-00001.parquet";
const TRAIN: [&str; 2] = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];

/// The test split, two shards of the training split, and other files.
fn shards() -> [(&'static str, HubFile); 5] {
    [
        (".gitattributes", small_file("*.parquet filter=lfs\n")),
        ("README.md", small_file("# Photos\n")),
        (TRAIN[1], large_file(2)),
        (TRAIN[0], large_file(1)),
        (TEST, large_file(0)),
    ]
}

fn dataset_fixture() -> HubFixture {
    HubFixture::with_files(DATASET, &shards())
}

/// The number of downloads since the last call.
fn count_transfers(fixture: &HubFixture) -> usize {
    fixture.hub.take_requests().iter().filter(|request| request.path.starts_with("/files/")).count()
}

/// The paths of the files.
fn paths(fetched: &DatasetFiles) -> Vec<&Path> {
    fetched.files.iter().map(|file| file.path.as_path()).collect()
}

fn assert_complete(fixture: &HubFixture, fetched: &DatasetFiles, commit: &str) {
    assert_eq!(fetched.root, fixture.link(commit, ""));
    assert_eq!(fetched.origin, format!("hf://{DATASET}@{commit}"));
    assert_eq!(paths(fetched), [TEST, TRAIN[0], TRAIN[1]].map(|file| fixture.link(commit, file)));
    assert!(fetched.files.iter().all(|file| file.split.is_none()));
    for (file, seed) in paths(fetched).into_iter().zip(0..) {
        assert_eq!(fs::read(file).unwrap(), large_file(seed).bytes);
    }
    fixture.assert_clean();
}

#[test]
fn only_the_parquet_files_are_downloaded_in_order() {
    let fixture = dataset_fixture();
    let progress = ProgressRecorder::default();
    let fetched = fixture.fetch_dataset_with_progress("", &progress).unwrap();
    assert_complete(&fixture, &fetched, COMMIT);
    assert!(fetched.root.parent().unwrap().ends_with("datasets--owner--photos/snapshots"));
    let events = |(file, size): (&str, u64)| {
        [ProgressEvent::Start(file.into(), Some(size)), ProgressEvent::Bytes(size), ProgressEvent::Finish]
    };
    let shards = [TEST, TRAIN[0], TRAIN[1]].map(|file| (file, 400_000));
    let expected = [("README.md", 9)].into_iter().chain(shards).flat_map(events);
    assert_eq!(progress.into_events(), expected.collect::<Vec<_>>());
    assert_eq!(files_below(&fetched.root).len(), 4);
}

#[test]
fn with_a_warm_cache_only_the_commit_is_requested_unless_it_is_given() {
    let fixture = dataset_fixture();
    let cold = fixture.fetch_dataset("").unwrap();
    fixture.hub.take_requests();
    let progress = ProgressRecorder::default();
    assert_eq!(fixture.fetch_dataset_with_progress("", &progress).unwrap(), cold);
    let requests = fixture.hub.take_requests();
    assert!(requests.len() == 1 && requests[0].path.starts_with("/api/datasets/"), "{requests:?}");
    assert_eq!(fixture.fetch_dataset(&format!("@{COMMIT}")).unwrap(), cold);
    // A selection of cached files is cached, too.
    let train = fixture.fetch_dataset(&format!("@{COMMIT}/data/train-*")).unwrap();
    assert_eq!(train.files, cold.files[1..]);
    assert_eq!(train.origin, format!("{}/data/train-*", cold.origin));
    assert_eq!((fixture.hub.take_requests().len(), progress.into_events()), (0, Vec::new()));
}

#[test]
fn after_an_update_of_the_branch_only_changed_shards_are_downloaded() {
    let fixture = dataset_fixture();
    fixture.hub.add_commit(
        "main",
        COMMIT,
        &[(TEST, large_file(0)), (TRAIN[0], large_file(1)), (TRAIN[1], large_file(7))],
    );
    fixture.fetch_dataset("").unwrap();
    fixture.hub.add_commit("main", LATER, &shards());
    count_transfers(&fixture);
    assert_complete(&fixture, &fixture.fetch_dataset("").unwrap(), LATER);
    assert_eq!(count_transfers(&fixture), 1);
    assert_eq!(fs::read_to_string(fixture.repo_cache_dir().join("refs/main")).unwrap(), LATER);
}

#[test]
fn the_converted_branch_can_be_fetched() {
    let mut fixture = dataset_fixture();
    let (branch, file) = ("refs/convert/parquet", "default/train/0000.parquet");
    fixture.hub.add_commit(branch, LATER, &[(file, large_file(3))]);
    for offline in [false, true] {
        fixture.settings.offline = offline;
        for name in [branch.to_owned(), branch.replace('/', "%2F")] {
            let fetched = fixture.fetch_dataset(&format!("@{name}")).unwrap();
            assert_eq!(paths(&fetched), [fixture.link(LATER, file)]);
        }
    }
}

#[test]
fn only_a_damaged_shard_is_downloaded_once_more() {
    let fixture = dataset_fixture();
    let path: &'static str = format!("/files/{}", large_file(1).etag()).leak();
    fixture.hub.inject_fault("GET", path, 2, Fault::Flipped);
    let error = fixture.fetch_dataset("").unwrap_err();
    let name = format!("hf://{DATASET}/{}", TRAIN[0]);
    assert!(matches!(&error, HubError::HashMismatch { name: found, .. } if *found == name), "{error:?}");
    assert!(!fixture.blob(&large_file(1)).exists() && !fixture.repo_cache_dir().join("refs/main").exists());
    fixture.assert_clean();
    count_transfers(&fixture);
    fixture.hub.inject_fault("GET", path, 1, Fault::Flipped);
    let (fetched, log) = fixture.fetch_dataset_with_log("");
    assert_complete(&fixture, &fetched.unwrap(), COMMIT);
    assert!(log.contains("downloading 2 of the 3 files") && log.contains("once more"), "{log}");
    assert_eq!(count_transfers(&fixture), 3);
}

#[test]
fn a_damaged_shard_in_the_cache_is_downloaded_again_and_an_error_offline() {
    let mut fixture = dataset_fixture();
    for name in ["".to_owned(), format!("@{COMMIT}")] {
        fixture.fetch_dataset(&name).unwrap();
        fs::write(fixture.blob(&large_file(2)), "damaged").unwrap();
        count_transfers(&fixture);
        assert_complete(&fixture, &fixture.fetch_dataset(&name).unwrap(), COMMIT);
        assert_eq!(count_transfers(&fixture), 1);
    }
    fs::write(fixture.blob(&large_file(2)), "damaged").unwrap();
    fixture.settings.offline = true;
    let error = fixture.fetch_dataset("").unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error:?}");
}

#[test]
fn an_incomplete_data_set_is_an_error_offline_and_its_files_are_not_downloaded_again() {
    let mut fixture = dataset_fixture();
    let path: &'static str = format!("/files/{}", large_file(1).etag()).leak();
    fixture.hub.inject_fault("GET", path, usize::MAX, Fault::Status(503, None));
    let error = fixture.fetch_dataset("").unwrap_err();
    assert!(matches!(error, HubError::Unavailable { status: 503, .. }), "{error:?}");
    assert!(fixture.link(COMMIT, TEST).exists());
    fixture.assert_clean();
    fixture.settings.offline = true;
    for name in ["".to_owned(), format!("@{COMMIT}")] {
        let error = fixture.fetch_dataset(&name).unwrap_err();
        assert!(matches!(error, HubError::Offline { .. }), "{error:?}");
        assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    }
    fixture.settings.offline = false;
    fixture.hub.clear_faults();
    count_transfers(&fixture);
    assert_complete(&fixture, &fixture.fetch_dataset("").unwrap(), COMMIT);
    assert_eq!(count_transfers(&fixture), 2);
}

#[test]
fn a_complete_data_set_is_used_offline_and_if_the_hub_is_down() {
    let mut fixture = dataset_fixture();
    let cold = fixture.fetch_dataset("").unwrap();
    let train = fixture.fetch_dataset("/data/train-*").unwrap();
    fixture.hub.take_requests();
    fixture.settings.offline = true;
    for name in ["", "@main", &format!("@{COMMIT}")] {
        let (cached, log) = fixture.fetch_dataset_with_log(name);
        assert_eq!((cached.unwrap(), log.as_str()), (cold.clone(), ""));
    }
    assert_eq!(fixture.fetch_dataset("/data/train-*").unwrap(), train);
    let error = fixture.fetch_dataset("/test").unwrap_err();
    assert!(matches!(error, HubError::NoSelection { .. }), "{error:?}");
    assert!(fixture.hub.take_requests().is_empty());

    fixture.settings.offline = false;
    let fixture = fixture.without_hub();
    let (cached, log) = fixture.fetch_dataset_with_log("");
    assert_eq!(cached.unwrap(), cold);
    assert!(log.contains(&cold.origin) && log.contains("cannot reach"), "{log}");
    // The current commit may have such files, so the error is the outage.
    let error = fixture.fetch_dataset("/test").unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
}

#[test]
fn offline_a_data_set_needs_all_files_and_the_file_list() {
    let mut fixture = dataset_fixture();
    fixture.fetch_dataset("/data/train-*").unwrap();
    fixture.settings.offline = true;
    assert_eq!(fixture.fetch_dataset("/data/train-*").unwrap().files.len(), 2);
    assert!(matches!(fixture.fetch_dataset("").unwrap_err(), HubError::Offline { .. }));
    let list = fixture.repo_cache_dir().join(".headstock").join(format!("{COMMIT}.json"));
    for contents in [Some("[\"data/tr"), None] {
        match contents {
            Some(contents) => fs::write(&list, contents).unwrap(),
            None => fs::remove_file(&list).unwrap(),
        }
        let error = fixture.fetch_dataset("/data/train-*").unwrap_err();
        assert!(matches!(error, HubError::Offline { .. }), "{error:?}");
    }
    fixture.settings.offline = false;
    fixture.fetch_dataset("/data/train-*").unwrap();
    assert!(list.exists());
}

#[test]
fn selection_errors_are_reported_before_any_download() {
    let fixture = dataset_fixture();
    let fetch_error = |files: &[&str], rest: &str| {
        let files: Vec<_> = files.iter().map(|&file| (file, small_file(file))).collect();
        fixture.hub.add_commit("main", COMMIT, &files);
        let error = fixture.fetch_dataset(rest).unwrap_err();
        let text = error.to_string();
        (error.is_name_error(), text)
    };
    for (files, rest, expected) in [
        (&["de/a.parquet", "en/a.parquet"][..], "", "hf://datasets/owner/photos/de (available: de, en)"),
        (
            &["data/a.parquet"],
            "/train",
            "hf://datasets/owner/photos has no .parquet file at train: give the path of a folder or file of \
             the data set; its .parquet files are data/a",
        ),
        (
            &["README.md", "a.csv"],
            "",
            "only README.md, a.csv: only .parquet files can be read from the hub; use the copy that the hub \
             makes of many data sets, hf://",
        ),
    ] {
        let (is_name_error, text) = fetch_error(files, rest);
        assert!(is_name_error && text.contains(expected), "{text}");
    }
    let (is_name_error, text) = fetch_error(&["data/../../../../x.parquet"], "");
    assert!(!is_name_error && text.contains("its name leads out of the download folder"), "{text}");
    let is_first = |path: &str| path.starts_with("/api/") || path.ends_with("/README.md");
    assert!(fixture.hub.take_requests().iter().all(|request| is_first(&request.path)));
    assert!(files_below(&fixture.link(COMMIT, "")).iter().all(|file| file.ends_with("README.md")));
}

/// A data set whose files have names that say nothing about the split.
fn card_fixture() -> HubFixture {
    let card = "---\nconfigs:\n- config_name: pets\n  data_files:\n  - {split: test, path: 'x/*'}\n  \
                - {split: train, path: y/0.parquet}\n  - {split: video, path: z/*}\n---\n# Photos\n";
    let files = ["x/0.parquet", "x/1.parquet", "y/0.parquet", "y/unlisted.parquet", "z/0.parquet"];
    let shards = files.iter().zip(0..).map(|(&file, seed)| (file, large_file(seed)));
    let files: Vec<_> = shards.chain([("README.md", small_file(card))]).collect();
    HubFixture::with_files(DATASET, &files)
}

#[test]
fn the_readme_of_a_data_set_puts_files_into_splits_also_offline() {
    let mut fixture = card_fixture();
    for offline in [false, true] {
        fixture.settings.offline = offline;
        for rest in ["", "/pets", &format!("@{COMMIT}"), &format!("@{COMMIT}/pets")] {
            let (fetched, log) = fixture.fetch_dataset_with_log(rest);
            let fetched = fetched.unwrap();
            let found: Vec<_> = fetched
                .files
                .iter()
                .map(|file| (file.path.clone(), file.split.as_deref().unwrap()))
                .collect();
            let expected = [("x/0.parquet", "test"), ("x/1.parquet", "test"), ("y/0.parquet", "train")];
            assert_eq!(found, expected.map(|(file, split)| (fixture.link(COMMIT, file), split)), "{rest}");
            assert!(
                log.contains("the split video is not for training, validation or testing by name"),
                "{log}"
            );
        }
    }
    assert!(!fixture.link(COMMIT, "z/0.parquet").exists());
    // Without the README it is not known which files are in which split.
    fs::remove_file(fixture.link(COMMIT, "README.md")).unwrap();
    let error = fixture.fetch_dataset("").unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error:?}");
}

#[test]
fn the_readme_of_each_commit_counts() {
    let fixture = card_fixture();
    fixture.fetch_dataset("").unwrap();
    let card = small_file("---\nconfigs: [{config_name: a, data_files: z/*}]\n---\n");
    fixture.hub.add_commit("main", LATER, &[("README.md", card), ("z/0.parquet", large_file(4))]);
    let later = fixture.fetch_dataset("").unwrap();
    assert_eq!(paths(&later), [fixture.link(LATER, "z/0.parquet")]);
    assert_eq!(fixture.fetch_dataset(&format!("@{COMMIT}")).unwrap().files.len(), 3);
    let error = fixture.fetch_dataset("/pets").unwrap_err().to_string();
    assert!(error.contains("no .parquet file at pets") && error.ends_with("its configs a"), "{error}");
}

#[test]
fn a_readme_that_cannot_be_stored_is_named() {
    let fixture = card_fixture();
    fs::create_dir_all(&fixture.settings.cache).unwrap();
    fs::write(fixture.settings.cache.join(".locks"), "").unwrap();
    let error = fixture.fetch_dataset("").unwrap_err();
    let expected = format!("does not have hf://{DATASET}/README.md and cannot store it at ");
    assert!(error.to_string().contains(&expected), "{error}");
}

#[test]
fn errors_name_the_data_set_and_its_page() {
    let fixture = dataset_fixture();
    let unknown: HubDataset = "datasets/owner/misspelt".parse().unwrap();
    let error =
        fetch_dataset_with(&unknown, &|_: &str| true, &fixture.settings, &()).unwrap_err().to_string();
    assert!(error.contains("has no data set owner/misspelt that you can access"), "{error}");
    let error = fixture.fetch_dataset("@v9").unwrap_err().to_string();
    assert!(error.contains(&format!("{}/{DATASET}/tree/main", fixture.hub.endpoint())), "{error}");
    fixture.hub.inject_fault("HEAD", "parquet", 1, Fault::Status(403, Some("GatedRepo")));
    let error = fixture.fetch_dataset("").unwrap_err().to_string();
    assert!(error.contains(&format!("{}/{DATASET},", fixture.hub.endpoint())), "{error}");
    fixture.hub.inject_fault("HEAD", "parquet", 1, Fault::Status(404, Some("EntryNotFound")));
    let error = fixture.fetch_dataset("").unwrap_err();
    assert!(matches!(&error, HubError::FileNotFound { file, .. } if file == TEST), "{error:?}");
    fixture.hub.inject_fault("GET", "/files/", 4, Fault::Status(403, None));
    let error = fixture.fetch_dataset("").unwrap_err();
    assert!(matches!(error, HubError::Refused { status: 403, .. }), "{error:?}");
    assert!(fixture.hub.take_requests().iter().all(|request| {
        ["/api/datasets/", "/datasets/", "/files/"].iter().any(|known| request.path.starts_with(known))
    }));
}

#[test]
fn the_file_tree_is_listed_if_the_revision_has_no_or_too_many_files() {
    let fixture = dataset_fixture();
    fixture.hub.inject_fault("GET", "/revision/", 1, Fault::Unlisted);
    assert_complete(&fixture, &fixture.fetch_dataset("").unwrap(), COMMIT);
    let trees =
        || fixture.hub.take_requests().iter().filter(|request| request.path.contains("/tree/")).count();
    assert_eq!(trees(), 3);

    let many: Vec<_> = (0..50_000).map(|i| format!("photos/{i:05}.jpg")).collect();
    let many: Vec<_> = many.iter().map(|file| (file.as_str(), small_file(""))).chain(shards()).collect();
    fixture.hub.add_commit("main", LATER, &many);
    for expected in [3, 0] {
        assert_complete(&fixture, &fixture.fetch_dataset("").unwrap(), LATER);
        assert_eq!(trees(), expected);
    }
}

#[test]
fn a_cached_data_set_can_be_used_without_locking_or_writing() {
    let fixture = dataset_fixture();
    let cold = fixture.fetch_dataset(&format!("@{COMMIT}")).unwrap();
    for folder in [fixture.settings.cache.join(".locks"), fixture.repo_cache_dir().join(".headstock")] {
        fs::remove_dir_all(folder).unwrap();
    }
    // The file list and the commit of the branch cannot be stored.
    for folder in [".headstock", "refs"] {
        fs::write(fixture.repo_cache_dir().join(folder), "").unwrap();
    }
    assert_eq!(fixture.fetch_dataset("").unwrap(), cold);
    assert!(cold.files[0].path.exists() && !fixture.settings.cache.join(".locks").exists());
}
