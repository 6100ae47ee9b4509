//! Folders that are splits, classes, or may be either.

use super::*;
use crate::dataset::PassedOverReason;

/// Lists the images of a folder with `files`, which `configure` changes the source of.
fn list_with(files: &[&str], configure: impl FnOnce(&mut FolderSource)) -> Result<RawDataset, DatasetError> {
    let root = tempfile::tempdir().unwrap();
    create_files(root.path(), files);
    let mut source = FolderSource::new(root.path().into());
    configure(&mut source);
    source.list()
}

/// Each sample as `split class`, in the order of the listing.
fn samples(raw: &RawDataset) -> Vec<String> {
    let split = |split: Option<Split>| split.map_or("-", Split::as_str);
    raw.samples.iter().map(|sample| format!("{} {}", split(sample.split), sample.class)).collect()
}

fn list(files: &[&str]) -> RawDataset {
    list_with(files, |_| ()).unwrap()
}

/// What makes it unclear whether the folders are splits or classes.
fn unclear(files: &[&str]) -> String {
    match list_with(files, |_| ()).unwrap_err() {
        error @ DatasetError::UnclearFolders { .. } => error.to_string(),
        other => panic!("{other}"),
    }
}

#[test]
fn splits_are_recognized_by_a_word_of_their_names_and_their_common_classes() {
    for (train, test) in [
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("Training", "Testing"),
        ("train2017", "val2017"),
        ("train/train", "test/test"),
        ("archive_train/pets", "archive_eval/pets"),
    ] {
        let files: Vec<String> = [(train, "cats"), (train, "dogs"), (test, "cats"), (test, "dogs")]
            .map(|(split, class)| format!("{split}/{class}/1.jpg"))
            .to_vec();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let raw = list(&files);
        let mut found = samples(&raw);
        found.sort_unstable();
        let held_out = if test.starts_with("val") { "validation" } else { "test" };
        let expected = [
            format!("{held_out} cats"),
            format!("{held_out} dogs"),
            "train cats".into(),
            "train dogs".into(),
        ];
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{train}");
    }
}

#[test]
fn images_to_predict_and_test_images_without_classes_are_left_out_with_their_number() {
    let raw = list(&[
        "seg_train/sea/1.jpg",
        "seg_train/ice/1.jpg",
        "seg_test/sea/2.jpg",
        "seg_pred/7.jpg",
        "seg_pred/8.jpg",
    ]);
    assert_eq!(samples(&raw), ["test sea", "train ice", "train sea"]);
    assert_eq!(raw.passed_over.count(PassedOverReason::UnusedSplit), 2);
    let nested = list(&["train/a/1.jpg", "train/b/1.jpg", "test/test/1.jpg"]);
    assert_eq!(samples(&nested), ["train a", "train b"]);
    assert_eq!(nested.passed_over.count(PassedOverReason::UnusedSplit), 1);
}

#[test]
fn classes_with_names_of_splits_are_classes() {
    for (files, classes) in [
        (&["test/1.jpg", "val/1.jpg"][..], &["test", "val"][..]),
        (&["train/1.jpg", "bus/1.jpg"], &["bus", "train"]),
        (&["bullet_train/1.jpg", "steam_train/1.jpg"], &["bullet_train", "steam_train"]),
        (&["seg/1.jpg", "model/1.jpg", "val/1.jpg"], &["model", "seg", "val"]),
        (
            &["apple/2019/1.jpg", "apple/2020/1.jpg", "pear/2019/1.jpg", "pear/2020/1.jpg"],
            &["apple", "apple", "pear", "pear"],
        ),
        (&["apple/red/1.jpg", "apple/green/1.jpg", "pear/green/1.jpg"], &["apple", "apple", "pear"]),
    ] {
        let raw = list(files);
        let found: Vec<&str> = raw.samples.iter().map(|sample| sample.class.as_str()).collect();
        assert_eq!(found, classes, "{files:?}");
        assert!(raw.samples.iter().all(|sample| sample.split.is_none()));
    }
}

#[test]
fn folders_that_may_be_splits_or_classes_are_an_error_that_says_what_was_seen() {
    for (files, observation) in [
        (&["train/1.jpg", "test/1.jpg"][..], "no folder for each class"),
        (&["train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg"], "different names"),
        (&["train/a/1.jpg", "test/a/1.jpg", "extra/9.jpg"], "only some of them"),
        (&["set1/a/1.jpg", "set1/b/1.jpg", "set2/a/1.jpg", "set2/b/1.jpg"], "the same folders"),
        (
            &["fold1/a/1.jpg", "fold1/b/1.jpg", "fold2/a/1.jpg", "fold2/b/1.jpg", "fold2/c/1.jpg"],
            "the same folders",
        ),
    ] {
        let message = unclear(files);
        assert!(message.contains(observation), "{files:?}: {message}");
    }
}

#[test]
fn the_error_names_the_folders_for_training_and_testing() {
    let files = ["train/x/a/1.jpg", "train/x/b/1.jpg", "val_set/a/1.jpg", "test_set/a/1.jpg", "extra/9.jpg"];
    let DatasetError::UnclearFolders { root, likely, .. } = list_with(&files, |_| ()).unwrap_err() else {
        panic!("the folders are not unclear");
    };
    assert_eq!(likely.train, Some(root.join("train/x")));
    assert_eq!(likely.test, Some(root.join("test_set")));
}

// effect: data.split_folders
#[test]
fn the_key_decides_whether_folders_are_splits() {
    let files = ["train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg"];
    let splits = list_with(&files, |source| source.split_folders = Some(true)).unwrap();
    assert_eq!(samples(&splits), ["test c", "train a", "train b"]);
    let classes = list_with(&files, |source| source.split_folders = Some(false)).unwrap();
    assert_eq!(samples(&classes), ["- test", "- train", "- train"]);
    let error = list_with(&["a/1.jpg", "b/1.jpg"], |source| source.split_folders = Some(true)).unwrap_err();
    assert!(error.to_string().contains("none of them is for training"), "{error}");
}

// effect: data.label_pattern
#[test]
fn a_pattern_finds_the_class_in_the_names() {
    let by_pattern = |files: &[&str]| {
        list_with(files, |source| source.label_pattern = Some(r"^(.+)[._]\d+".into())).unwrap()
    };
    let raw = by_pattern(&["cat.0.jpg", "sub/dog.1.jpg", "great_dane_12.jpg", "7.jpg"]);
    assert_eq!(samples(&raw), ["- cat", "- great_dane", "- dog"]);
    assert!(
        raw.errors[0].to_string().contains("7.jpg: the name does not match the pattern"),
        "{:?}",
        raw.errors
    );
    // A folder of photos to predict is left out, and `train` is no class.
    let kaggle = by_pattern(&["train/cat.0.jpg", "train/dog.0.jpg", "test1/1.jpg", "test1/2.jpg"]);
    assert_eq!(samples(&kaggle), ["train cat", "train dog"]);
    assert!(kaggle.errors.is_empty());
    assert_eq!(kaggle.passed_over.count(PassedOverReason::UnusedSplit), 2);
    for (pattern, problem) in [("(", "is not a regular expression"), ("a+", "has no group")] {
        let mut config =
            FolderConfig { label_pattern: Some(pattern.into()), ..FolderConfig::new("x".into()) };
        let error = SourceConfig::resolve(&mut config, Path::new("/")).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}
