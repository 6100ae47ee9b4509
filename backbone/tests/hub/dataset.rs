//! Data sets: which files, and that they are all there or none is given.

use std::fs;
use std::path::Path;

use headstock_backbone::hub::{DatasetFiles, HubDataset, fetch_dataset_with};
use headstock_backbone::{BackboneError, ErrorKind, HubError};

use super::fixture::{
    COMMIT, DATASET, HubFixture, LATER, ProgressEvent, ProgressRecorder, files_below, large_file, small_file,
};
use super::server::{Fault, HubFile};

const TEST: &str = "data/test-00000-of-00001.parquet";
const TRAIN: [&str; 2] = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];

/// The test part and two shards of the training part, and what else lies there.
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
    HubFixture::with(DATASET, &shards())
}

/// How many files were transferred since the last look.
fn count_transfers(bench: &HubFixture) -> usize {
    bench.hub.requests().iter().filter(|request| request.path.starts_with("/files/")).count()
}

fn assert_whole(bench: &HubFixture, fetched: &DatasetFiles, commit: &str) {
    assert_eq!(fetched.root, bench.pointer(commit, ""));
    assert_eq!(fetched.origin, format!("hf://{DATASET}@{commit}"));
    assert_eq!(fetched.files, [TEST, TRAIN[0], TRAIN[1]].map(|file| bench.pointer(commit, file)));
    for (file, seed) in fetched.files.iter().zip(0..) {
        assert_eq!(fs::read(file).unwrap(), large_file(seed).bytes);
    }
    bench.assert_clean();
}

#[test]
fn a_cold_cache_gets_the_parquet_files_one_after_another_and_nothing_else() {
    let bench = dataset_fixture();
    let progress = ProgressRecorder::default();
    let fetched = bench.fetch_dataset_with_progress("", &progress).unwrap();
    assert_whole(&bench, &fetched, COMMIT);
    assert!(fetched.root.parent().unwrap().ends_with("datasets--owner--photos/snapshots"));
    let told = |file: &str| {
        [
            ProgressEvent::Start(file.into(), Some(400_000)),
            ProgressEvent::Bytes(400_000),
            ProgressEvent::Finish,
        ]
    };
    assert_eq!(progress.into_events(), [TEST, TRAIN[0], TRAIN[1]].map(told).concat());
    assert_eq!(files_below(&fetched.root).len(), 3);
}

#[test]
fn a_warm_cache_asks_for_the_commit_and_one_that_is_named_for_nothing() {
    let bench = dataset_fixture();
    let cold = bench.fetch_dataset("").unwrap();
    bench.hub.requests();
    let progress = ProgressRecorder::default();
    assert_eq!(bench.fetch_dataset_with_progress("", &progress).unwrap(), cold);
    let requests = bench.hub.requests();
    assert!(requests.len() == 1 && requests[0].path.starts_with("/api/datasets/"), "{requests:?}");
    assert_eq!(bench.fetch_dataset(&format!("@{COMMIT}")).unwrap(), cold);
    // A part of what is there is there as well.
    let part = bench.fetch_dataset(&format!("@{COMMIT}/data/train-*")).unwrap();
    assert_eq!(part.files, cold.files[1..]);
    assert_eq!(part.origin, format!("{}/data/train-*", cold.origin));
    assert_eq!((bench.hub.requests().len(), progress.into_events()), (0, Vec::new()));
}

#[test]
fn a_branch_that_moved_fetches_the_shards_that_changed() {
    let bench = dataset_fixture();
    bench.hub.add_commit(
        "main",
        COMMIT,
        &[(TEST, large_file(0)), (TRAIN[0], large_file(1)), (TRAIN[1], large_file(7))],
    );
    bench.fetch_dataset("").unwrap();
    bench.hub.add_commit("main", LATER, &shards());
    count_transfers(&bench);
    assert_whole(&bench, &bench.fetch_dataset("").unwrap(), LATER);
    assert_eq!(count_transfers(&bench), 1);
    assert_eq!(fs::read_to_string(bench.repo_cache_dir().join("refs/main")).unwrap(), LATER);
}

#[test]
fn the_hubs_own_conversion_is_a_branch() {
    let mut bench = dataset_fixture();
    let (branch, file) = ("refs/convert/parquet", "default/train/0000.parquet");
    bench.hub.add_commit(branch, LATER, &[(file, large_file(3))]);
    for offline in [false, true] {
        bench.settings.offline = offline;
        for name in [branch.to_owned(), branch.replace('/', "%2F")] {
            assert_eq!(bench.fetch_dataset(&format!("@{name}")).unwrap().files, [bench.pointer(LATER, file)]);
        }
    }
}

#[test]
fn a_shard_that_arrives_damaged_is_fetched_once_more_and_the_others_stay() {
    let bench = dataset_fixture();
    let path: &'static str = format!("/files/{}", large_file(1).etag()).leak();
    bench.hub.fault("GET", path, 2, Fault::Flipped);
    let error = bench.fetch_dataset("").unwrap_err();
    let name = format!("hf://{DATASET}/{}", TRAIN[0]);
    assert!(matches!(&error, HubError::HashMismatch { name: at, .. } if *at == name), "{error:?}");
    assert!(!bench.blob(&large_file(1)).exists() && !bench.repo_cache_dir().join("refs/main").exists());
    bench.assert_clean();
    count_transfers(&bench);
    bench.hub.fault("GET", path, 1, Fault::Flipped);
    let (fetched, lines) = bench.fetch_dataset_with_log("");
    assert_whole(&bench, &fetched.unwrap(), COMMIT);
    assert!(lines.contains("fetching 2 of the 3 files") && lines.contains("once more"), "{lines}");
    assert_eq!(count_transfers(&bench), 3);
}

#[test]
fn a_shard_that_was_damaged_in_the_cache_is_fetched_anew_and_offline_is_not_there() {
    let mut bench = dataset_fixture();
    for name in ["".to_owned(), format!("@{COMMIT}")] {
        bench.fetch_dataset(&name).unwrap();
        fs::write(bench.blob(&large_file(2)), "damaged").unwrap();
        count_transfers(&bench);
        assert_whole(&bench, &bench.fetch_dataset(&name).unwrap(), COMMIT);
        assert_eq!(count_transfers(&bench), 1);
    }
    fs::write(bench.blob(&large_file(2)), "damaged").unwrap();
    bench.settings.offline = true;
    let error = bench.fetch_dataset("").unwrap_err();
    assert!(matches!(error, HubError::OfflineDataset { .. }), "{error:?}");
}

#[test]
fn half_of_a_data_set_is_never_taken_for_the_whole_and_is_not_fetched_again() {
    let mut bench = dataset_fixture();
    let path: &'static str = format!("/files/{}", large_file(1).etag()).leak();
    bench.hub.fault("GET", path, usize::MAX, Fault::Status(503, None));
    let error = bench.fetch_dataset("").unwrap_err();
    assert!(matches!(error, HubError::Unavailable { status: 503, .. }), "{error:?}");
    assert!(bench.pointer(COMMIT, TEST).exists());
    bench.assert_clean();
    bench.settings.offline = true;
    for name in ["".to_owned(), format!("@{COMMIT}")] {
        let error = bench.fetch_dataset(&name).unwrap_err();
        assert!(matches!(error, HubError::OfflineDataset { .. }), "{error:?}");
        assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    }
    bench.settings.offline = false;
    bench.hub.clear_faults();
    count_transfers(&bench);
    assert_whole(&bench, &bench.fetch_dataset("").unwrap(), COMMIT);
    assert_eq!(count_transfers(&bench), 2);
}

#[test]
fn offline_or_without_the_hub_what_was_fetched_whole_serves() {
    let mut bench = dataset_fixture();
    let cold = bench.fetch_dataset("").unwrap();
    let train = bench.fetch_dataset("/data/train-*").unwrap();
    bench.hub.requests();
    bench.settings.offline = true;
    for name in ["", "@main", &format!("@{COMMIT}")] {
        let (kept, lines) = bench.fetch_dataset_with_log(name);
        assert_eq!((kept.unwrap(), lines.as_str()), (cold.clone(), ""));
    }
    assert_eq!(bench.fetch_dataset("/data/train-*").unwrap(), train);
    let error = bench.fetch_dataset("/test").unwrap_err();
    assert!(matches!(error, HubError::NoMatchingParquet { .. }), "{error:?}");
    assert!(bench.hub.requests().is_empty());

    bench.settings.offline = false;
    let bench = bench.without_hub();
    let (kept, lines) = bench.fetch_dataset_with_log("");
    assert_eq!(kept.unwrap(), cold);
    assert!(lines.contains(&cold.origin) && lines.contains("cannot reach"), "{lines}");
    // It may be there by now, for all that is known.
    let error = bench.fetch_dataset("/test").unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
}

#[test]
fn a_part_is_not_the_whole_and_files_without_the_list_of_all_are_neither() {
    let mut bench = dataset_fixture();
    bench.fetch_dataset("/data/train-*").unwrap();
    bench.settings.offline = true;
    assert_eq!(bench.fetch_dataset("/data/train-*").unwrap().files.len(), 2);
    assert!(matches!(bench.fetch_dataset("").unwrap_err(), HubError::OfflineDataset { .. }));
    let list = bench.repo_cache_dir().join(".headstock").join(format!("{COMMIT}.json"));
    for damage in [Some("[\"data/tr"), None] {
        match damage {
            Some(text) => fs::write(&list, text).unwrap(),
            None => fs::remove_file(&list).unwrap(),
        }
        let error = bench.fetch_dataset("/data/train-*").unwrap_err();
        assert!(matches!(error, HubError::OfflineDataset { .. }), "{error:?}");
    }
    bench.settings.offline = false;
    bench.fetch_dataset("/data/train-*").unwrap();
    assert!(list.exists());
}

#[test]
fn what_cannot_be_chosen_is_told_before_anything_is_fetched() {
    let bench = dataset_fixture();
    let fails = |files: &[&str], rest: &str| {
        let files: Vec<_> = files.iter().map(|&file| (file, small_file(file))).collect();
        bench.hub.add_commit("main", COMMIT, &files);
        let error = bench.fetch_dataset(rest).unwrap_err();
        let text = error.to_string();
        (BackboneError::from(error).kind(), text)
    };
    for (files, rest, expected) in [
        (&["de/a.parquet", "en/a.parquet"][..], "", "hf://datasets/owner/photos/de (there are de, en)"),
        (
            &["data/a.parquet"],
            "/train",
            "no .parquet file at train in hf://datasets/owner/photos: there are data/a",
        ),
        (&["README.md", "a.csv"], "", "there are README.md, a.csv; the hub's own conversion may be at hf://"),
    ] {
        let (kind, text) = fails(files, rest);
        assert!(kind == ErrorKind::Config && text.contains(expected), "{text}");
    }
    let (kind, text) = fails(&["data/../../../../x.parquet"], "");
    assert!(kind == ErrorKind::Hub && text.contains("no path inside a repository"), "{text}");
    assert!(bench.hub.requests().iter().all(|request| request.path.starts_with("/api/")));
    assert!(!bench.settings.cache.exists(), "{:?}", files_below(&bench.settings.cache));
}

#[test]
fn refusals_name_a_data_set_and_its_page() {
    let bench = dataset_fixture();
    let none: HubDataset = "datasets/owner/misspelt".parse().unwrap();
    let error = fetch_dataset_with(&none, &bench.settings, &()).unwrap_err().to_string();
    assert!(error.contains("no data set owner/misspelt"), "{error}");
    let error = bench.fetch_dataset("@v9").unwrap_err().to_string();
    assert!(error.contains(&format!("{}/{DATASET}/tree/main", bench.hub.endpoint())), "{error}");
    bench.hub.fault("HEAD", "parquet", 1, Fault::Status(403, Some("GatedRepo")));
    let error = bench.fetch_dataset("").unwrap_err().to_string();
    assert!(error.contains(&format!("{}/{DATASET},", bench.hub.endpoint())), "{error}");
    bench.hub.fault("HEAD", "parquet", 1, Fault::Status(404, Some("EntryNotFound")));
    let error = bench.fetch_dataset("").unwrap_err();
    assert!(matches!(&error, HubError::FileNotFound { file, .. } if file == TEST), "{error:?}");
    // Its page is saved as the file, and which refusal it is takes another request.
    bench.hub.fault("GET", "/files/", 4, Fault::Status(403, None));
    let error = bench.fetch_dataset("").unwrap_err();
    assert!(matches!(error, HubError::Refused { status: 403, .. }), "{error:?}");
    assert!(bench.hub.requests().iter().all(|request| {
        ["/api/datasets/", "/datasets/", "/files/"].iter().any(|known| request.path.starts_with(known))
    }));
}

#[test]
fn of_a_revision_that_comes_without_its_files_or_with_too_many_all_are_listed() {
    let bench = dataset_fixture();
    bench.hub.fault("GET", "/revision/", 1, Fault::Unlisted);
    assert_whole(&bench, &bench.fetch_dataset("").unwrap(), COMMIT);
    let trees = || bench.hub.requests().iter().filter(|request| request.path.contains("/tree/")).count();
    assert_eq!(trees(), 3);

    let many: Vec<_> = (0..50_000).map(|at| format!("photos/{at:05}.jpg")).collect();
    let many: Vec<_> = many.iter().map(|file| (file.as_str(), small_file(""))).chain(shards()).collect();
    bench.hub.add_commit("main", LATER, &many);
    for expected in [3, 0] {
        assert_whole(&bench, &bench.fetch_dataset("").unwrap(), LATER);
        assert_eq!(trees(), expected);
    }
}

#[test]
fn what_is_there_needs_a_cache_neither_to_lock_nor_to_write() {
    let bench = dataset_fixture();
    let cold = bench.fetch_dataset(&format!("@{COMMIT}")).unwrap();
    for folder in [bench.settings.cache.join(".locks"), bench.repo_cache_dir().join(".headstock")] {
        fs::remove_dir_all(folder).unwrap();
    }
    // Where the list and the branch would be noted.
    for place in [".headstock", "refs"] {
        fs::write(bench.repo_cache_dir().join(place), "").unwrap();
    }
    assert_eq!(bench.fetch_dataset("").unwrap(), cold);
    assert!(Path::new(&cold.files[0]).exists() && !bench.settings.cache.join(".locks").exists());
}
