//! The samples that are read from each kind of data.

use std::path::PathBuf;

use headstock_loader::Sample;
use headstock_loader::source::FolderConfig;

use super::*;
use crate::samples::read_images::merge_datasets;

const PARQUET: &str = "[data]\nparquet = \"data\"\n[backbone]\nweights = \"backbone\"\n";
const TAR: &str = "[data]\nwebdataset = \"shards\"\n[backbone]\nweights = \"backbone\"\n";
const FOLDER: &str = "[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\n";
const CSV: &str = "[data]\ncsv = \"x.csv\"\nimages = \"photos\"\n[backbone]\nweights = \"backbone\"\n";

/// Placeholder files for images, which are never opened.
fn with_files(names: &[&str]) -> TestFolder {
    let folder = TestFolder::new();
    for name in names {
        folder.write(name, "x");
    }
    folder
}

fn read_unsplit(folder: &TestFolder, config: &str, overrides: &[&str]) -> (SampleSet, SampleInputs) {
    SampleSet::read_unsplit(&folder.settings(config, overrides), &()).unwrap()
}

fn ids(samples: &SampleSet) -> Vec<&str> {
    samples.rows.iter().map(|row| row.id.as_str()).collect()
}

// effect: data.folder, data.test_folder
#[test]
fn a_folder_has_a_folder_for_each_class_and_a_test_folder_is_only_tested_on() {
    let folder = with_files(&[
        "photos/b/1.png",
        "photos/a/2.png",
        "photos/a/1.png",
        "more/test/a/1.png",
        "more/test/b/9.png",
    ]);
    let (samples, inputs) = read_unsplit(&folder, FOLDER, &[]);
    assert_eq!(ids(&samples), ["a/1.png", "a/2.png", "b/1.png"]);
    assert_eq!(samples.class_names(), ["a", "a", "b"]);
    assert_eq!(inputs.images().unwrap()[2].file_path().unwrap(), folder.path("photos/b/1.png"));
    let (samples, inputs) = folder.samples(FOLDER, &["data.test_folder=more/test"]);
    assert_eq!(samples.ids(Subset::Train), ["photos/a/1.png", "photos/a/2.png", "photos/b/1.png"]);
    assert_eq!(samples.ids(Subset::Test), ["more/test/a/1.png", "more/test/b/9.png"]);
    assert_eq!(samples.class_names(), ["a", "a", "b", "a", "b"]);
    assert_eq!(inputs.images().unwrap()[4].file_path().unwrap(), folder.path("more/test/b/9.png"));
    let settings = folder.settings(FOLDER, &["data.test_folder=more/test"]);
    assert_eq!(image_files_root(&settings.source).unwrap(), folder.path("").canonicalize().unwrap());
    assert_eq!(
        image_files_root(&folder.settings(FOLDER, &[] as &[&str]).source).unwrap(),
        folder.path("photos")
    );
    let refusal = with_files(&["photos/a/1.png", "photos/b/1.png", "test/c/1.png"])
        .read_error(FOLDER, &["data.test_folder=test"]);
    assert!(refusal.contains("no training photos: c") && refusal.contains("a, b"), "{refusal}");
}

// effect: data.csv, data.images, data.id, data.label, data.group, data.extension
#[test]
fn the_columns_of_a_table_are_those_that_are_named() {
    let folder = with_files(&[
        "photos/1.jpg",
        "photos/2.jpg",
        "others/1.png",
        "others/2.png",
        "photos/1.png",
        "photos/2.png",
    ]);
    folder.write("x.csv", "id,label,file,breed,dog\n1.png,b,1,pug,P7\n2.png,a,2,akita,P10\n");
    folder.write("y.csv", "id,label\n2.png,y\n1.jpg,x\n");
    let read = |overrides: &[&str]| read_unsplit(&folder, CSV, overrides).0;
    let default_columns = read(&[]);
    assert_eq!(
        (ids(&default_columns), default_columns.class_names()),
        (vec!["1.png", "2.png"], vec!["b", "a"])
    );
    assert_eq!(default_columns.groups(&[0, 1]), None);
    let other = read(&["data.csv=y.csv"]);
    assert_eq!((ids(&other), other.class_names()), (vec!["2.png", "1.jpg"], vec!["y", "x"]));
    let named = read(&["data.id=file", "data.extension=jpg", "data.label=breed", "data.group=dog"]);
    assert_eq!((ids(&named), named.class_names()), (vec!["1.jpg", "2.jpg"], vec!["pug", "akita"]));
    // By name: P10, P7.
    assert_eq!(named.groups(&[0, 1]).unwrap(), [1, 0]);
    let (_, inputs) = read_unsplit(&folder, CSV, &["data.images=others"]);
    assert_eq!(inputs.images().unwrap()[0].file_path().unwrap(), folder.path("others/1.png"));
}

// effect: data.parquet, data.image, data.label, data.group, data.test_parquet
#[test]
fn rows_of_parquet_are_read_by_the_columns_that_are_named() {
    let folder = TestFolder::new();
    for shard in ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"] {
        folder.copy_reference(&format!("source/{shard}.parquet"), &format!("data/{shard}.parquet"));
    }
    folder.copy_reference("source/plain.parquet", "plain/plain.parquet");
    folder.copy_reference("source/dictionary.parquet", "more/dictionary.parquet");
    // The name of a shard names its split.
    let (samples, inputs) = folder.samples(PARQUET, &["data.group=dog"]);
    assert_eq!((samples.rows_of(Subset::Train).len(), samples.rows_of(Subset::Test).len()), (29, 6));
    assert!(samples.ids(Subset::Test).iter().all(|id| id.starts_with("test-00000-of-00001.parquet/")));
    assert_eq!(samples.classes.names(), ["akita", "boxer", "pug"]);
    let gray_of = |image: &ImageRef| {
        headstock_loader::decode(&image.read().unwrap(), 100).unwrap().get_pixel(0, 0).0[0]
    };
    let grays: Vec<u8> = inputs.images().unwrap().iter().map(gray_of).collect();
    for (row, gray) in samples.rows.iter().zip(&grays) {
        assert_eq!(row.group, Some(u32::from(gray % 4)));
    }
    // Samples are in the order of the shards' names.
    assert!(grays.into_iter().eq((30..36).chain((0..30).filter(|&gray| gray != 25))));
    // Other columns, and a separate location for testing.
    let named = ["data.parquet=plain/plain.parquet", "data.image=picture", "data.label=class"];
    let (samples, _) = read_unsplit(&folder, PARQUET, &named);
    assert_eq!((samples.rows.len(), samples.classes.names().len()), (11, 3));
    assert_eq!(&ids(&samples)[..2], ["plain.parquet/0", "plain.parquet/1"]);
    let with_test = [&named[..], &["data.test_parquet=more/*.parquet"]].concat();
    let (samples, _) = folder.samples(PARQUET, &with_test);
    assert_eq!((samples.rows_of(Subset::Train).len(), samples.rows_of(Subset::Test).len()), (11, 11));
    assert_eq!(samples.ids(Subset::Train)[0], "plain/plain.parquet/0");
    assert_eq!(samples.ids(Subset::Test)[0], "more/dictionary.parquet/0");
    assert_eq!(image_files_root(&folder.settings(PARQUET, &with_test).source), None);
    // The split column is a Parquet column, too: it puts each third row, the pugs, into the test set.
    let predefined = [&named[..], &["split.method=predefined", "split.column=use"]].concat();
    let listing = DatasetListing::read(&folder.settings(PARQUET, &predefined), &()).unwrap();
    for (row, image) in listing.samples.rows.iter().zip(&listing.images) {
        assert_eq!(row.subset == Subset::Test, gray_of(image).is_multiple_of(3), "{}", row.id);
    }
    let refusal = folder.read_error(PARQUET, &predefined);
    assert!(refusal.contains("no training photos: pug"), "{refusal}");
}

// effect: data.webdataset, data.label, data.group, data.test_webdataset
#[test]
fn records_of_archives_are_read_by_the_fields_that_are_named() {
    let folder = TestFolder::new();
    folder.copy_reference("source/numbers-000.tar", "shards/numbers-000.tar");
    folder.copy_reference("source/numbers-001.tar", "more/numbers-001.tar");
    folder.copy_reference("source/records.tar.gz", "records/records.tar.gz");
    let (samples, _) = read_unsplit(&folder, TAR, &[]);
    assert_eq!((samples.rows.len(), samples.classes.names()), (8, ["0", "1"].map(String::from).as_slice()));
    assert_eq!(ids(&samples)[7], "numbers-000.tar/sub/0007.png");
    let (samples, _) = folder.samples(TAR, &["data.test_webdataset=more/numbers-{001..001}.tar"]);
    assert_eq!((samples.rows_of(Subset::Train).len(), samples.rows_of(Subset::Test).len()), (8, 8));
    assert_eq!(samples.ids(Subset::Test)[0], "more/numbers-001.tar/sub/0000.png");
    let records = ["data.webdataset=records", "data.group=dog"];
    let (samples, _) = read_unsplit(&folder, TAR, &records);
    assert_eq!(samples.class_names(), ["pug", "akita", "boxer", "pug", "akita", "boxer"]);
    assert_eq!(samples.groups(&[0, 1, 2, 3, 4, 5]).unwrap(), [0, 0, 1, 1, 2, 2]);
    let (samples, _) = read_unsplit(&folder, TAR, &["data.webdataset=records", "data.label=dog"]);
    assert_eq!(samples.class_names(), ["0", "0", "1", "1", "2", "2"]);
    // `val` of one and `train` of the others.
    let predefined = ["data.webdataset=records", "split.method=predefined", "split.column=use"];
    let (samples, _) = folder.samples(TAR, &predefined);
    assert_eq!(samples.ids(Subset::Test), ["records.tar.gz/0000.jpg"]);
}

#[test]
fn the_validation_shards_are_neither_trained_nor_tested_on() {
    let folder = TestFolder::new();
    for (from, to) in [
        ("train-00000-of-00002", "train-0"),
        ("train-00001-of-00002", "validation-0"),
        ("test-00000-of-00001", "test-0"),
    ] {
        folder.copy_reference(&format!("source/{from}.parquet"), &format!("data/{to}.parquet"));
    }
    let (samples, inputs) = folder.samples(PARQUET, &[] as &[&str]);
    assert_eq!((samples.rows_of(Subset::Train).len(), samples.rows_of(Subset::Test).len()), (25, 6));
    assert!(samples.ids(Subset::Train).iter().all(|id| id.starts_with("train-0.parquet/")));
    assert!(samples.ids(Subset::Test).iter().all(|id| id.starts_with("test-0.parquet/")));
    assert_eq!(inputs.images().unwrap().len(), 31);
    // With a separate location for testing, all splits except the training split are skipped.
    folder.copy_reference("source/test-00000-of-00001.parquet", "mine/a.parquet");
    let (samples, _) = folder.samples(PARQUET, &["data.test_parquet=mine"]);
    assert_eq!((samples.rows_of(Subset::Train).len(), samples.rows_of(Subset::Test).len()), (25, 6));
    assert!(samples.ids(Subset::Test).iter().all(|id| id.starts_with("mine/a.parquet/")));
    // Without a split, all samples are read.
    assert_eq!(read_unsplit(&folder, PARQUET, &[]).0.rows.len(), 35);
    // Doctor lists the samples that training reads.
    let settings = folder.settings(PARQUET, &[] as &[&str]);
    let collected = DatasetListing::read(&settings, &()).unwrap();
    let tested = collected.samples.rows.iter().filter(|sample| sample.subset == Subset::Test).count();
    assert_eq!((collected.samples.rows.len(), tested, collected.has_given_splits), (31, 6, true));
}

#[test]
fn the_same_image_is_not_in_both_locations_by_whatever_path() {
    let folder = TestFolder::new();
    folder.copy_reference("source/numbers-000.tar", "shards/numbers-000.tar");
    folder.copy_reference("source/numbers-001.tar", "shards/numbers-001.tar");
    folder.copy_reference("source/train-00000-of-00002.parquet", "data/a.parquet");
    folder.copy_reference("source/train-00001-of-00002.parquet", "data/b.parquet");
    let message = "is in both the training data and the test data";
    for (config, set) in [
        (TAR, "data.test_webdataset=shards"),
        (TAR, "data.test_webdataset=shards/numbers-001.tar"),
        (TAR, "data.test_webdataset=data/../shards/numbers-*.tar"),
        (PARQUET, "data.test_parquet=data"),
        (PARQUET, "data.test_parquet=data/b.parquet"),
        (PARQUET, "data.test_parquet=shards/../data/b.parquet"),
    ] {
        let refusal = folder.read_error(config, &[set]);
        assert!(refusal.contains(message), "{set}: {refusal}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder.path("shards/numbers-001.tar"), folder.path("linked.tar")).unwrap();
        let refusal = folder.read_error(TAR, &["data.test_webdataset=linked.tar"]);
        assert!(refusal.contains("linked.tar: sub/0000.png") && refusal.contains(message), "{refusal}");
    }
    let disjoint = ["data.webdataset=shards/numbers-000.tar", "data.test_webdataset=shards/numbers-001.tar"];
    let (samples, _) = folder.samples(TAR, &disjoint);
    assert_eq!((samples.rows_of(Subset::Train).len(), samples.rows_of(Subset::Test).len()), (8, 8));

    let names = ["photos/a/1.png", "photos/b/1.png", "test/a/1.png", "test/b/1.png"];
    let folder = with_files(&names);
    let (samples, _) = folder.samples(FOLDER, &["data.test_folder=test"]);
    assert_eq!(samples.rows.len(), 4);
    for within in ["photos", "photos/a", "."] {
        let refusal = folder.read_error(FOLDER, &[format!("data.test_folder={within}")]);
        assert!(refusal.contains("is inside the other"), "{within}: {refusal}");
    }
}

#[test]
fn a_group_that_is_in_both_locations_is_one_group() {
    let folder = TestFolder::new();
    // Dogs 0 to 3 in turn; the second location starts with dog 2.
    folder.copy_reference("source/train-00000-of-00002.parquet", "data/a.parquet");
    folder.copy_reference("source/train-00001-of-00002.parquet", "more/b.parquet");
    let (samples, inputs) = folder.samples(PARQUET, &["data.test_parquet=more", "data.group=dog"]);
    for (row, image) in samples.rows.iter().zip(inputs.images().unwrap()) {
        let gray = headstock_loader::decode(&image.read().unwrap(), 100).unwrap().get_pixel(0, 0).0[0];
        assert_eq!(row.group, Some(u32::from(gray % 4)), "{}", row.id);
    }
    assert_eq!(samples.count_split_groups(), (4, 4));
}

#[test]
fn groups_of_two_data_sets_are_merged_by_name() {
    let sample = |id: &str, group: Option<u32>| Sample {
        id: id.into(),
        image: PathBuf::from(id).into(),
        label: 0,
        group,
        split: None,
    };
    let dataset = |samples, groups: &[&str]| Dataset {
        classes: ClassMap::new(["a"], ClassOrder::Sorted),
        samples,
        group_names: groups.iter().map(|&name| name.to_owned()).collect(),
    };
    let first = dataset(vec![sample("1", Some(1)), sample("2", Some(0))], &["P3", "P5"]);
    let second = dataset(vec![sample("3", Some(0)), sample("4", Some(1))], &["P4", "P5"]);
    let Dataset { samples, group_names: groups, .. } = merge_datasets(first, second);
    assert_eq!(groups, ["P3", "P4", "P5"]);
    assert!(samples.iter().map(|sample| sample.group).eq([2, 0, 1, 2].map(Some)));
    assert!(samples.iter().map(|sample| sample.id.as_str()).eq(["1", "2", "3", "4"]));
    let ungrouped =
        merge_datasets(dataset(vec![sample("1", None)], &[]), dataset(vec![sample("2", None)], &[]));
    assert!(ungrouped.samples.iter().all(|sample| sample.group.is_none()));
}

#[test]
fn groups_on_both_sides_are_counted() {
    let row = |group, subset| SampleRow { id: String::new(), label: 0, group, subset };
    let rows = vec![
        row(Some(0), Subset::Train),
        row(Some(0), Subset::Test),
        row(Some(1), Subset::Train),
        row(Some(2), Subset::Test),
        row(Some(2), Subset::Train),
        row(None, Subset::Test),
    ];
    let classes = ClassMap::new(["a"], ClassOrder::Sorted);
    let samples = SampleSet { classes, rows, passed_over: PassedOver::default() };
    assert_eq!(samples.count_split_groups(), (2, 3));
    assert_eq!(samples.groups(&[0, 3]), Some(vec![0, 2]));
    assert_eq!(samples.groups(&[0, 5]), None);
}

// effect: data.class_order
#[test]
fn classes_are_numbered_by_name_or_by_appearance() {
    let folder = with_files(&["photos/1", "photos/2", "photos/3"].map(|name| name));
    folder.write("x.csv", "id,label\n1,pug\n2,akita\n3,boxer\n");
    for (set, names, labels) in [
        (&[][..], ["akita", "boxer", "pug"], [2, 0, 1]),
        (&["data.class_order=sorted"], ["akita", "boxer", "pug"], [2, 0, 1]),
        (&["data.class_order=appearance"], ["pug", "akita", "boxer"], [0, 1, 2]),
    ] {
        let (samples, _) = read_unsplit(&folder, CSV, set);
        assert_eq!(samples.classes.names(), names);
        assert_eq!(samples.labels(&[0, 1, 2]), labels);
    }
}

#[test]
fn the_test_set_of_a_run_is_read_from_its_split() {
    let folder = with_files(&[
        "photos/a/1.png",
        "photos/a/2.png",
        "photos/b/1.png",
        "photos/b/2.png",
        "other/b/1.png",
    ]);
    let split_row = |path: &str, label: &str, split: &str| SplitRow {
        path: path.into(),
        label: label.into(),
        split: split.into(),
    };
    let classes = ["b", "a"].map(String::from);
    let rows = [
        split_row("b/2.png", "b", "test"),
        split_row("a/1.png", "a", "train"),
        split_row("a/2.png", "a", "test"),
    ];
    let settings = folder.settings(FOLDER, &[] as &[&str]);
    let (samples, inputs) = SampleSet::read_run_test_set(&settings, &classes, &rows, &()).unwrap();
    assert_eq!(
        (samples.ids(Subset::Test), samples.labels(&[0, 1])),
        (vec!["b/2.png", "a/2.png"], vec![0, 1])
    );
    assert_eq!(inputs.images().unwrap()[1].file_path().unwrap(), folder.path("photos/a/2.png"));
    let rows = [
        split_row("b/9.png", "b", "test"),
        split_row("b/8.png", "b", "test"),
        split_row("a/1.png", "a", "test"),
    ];
    let error = SampleSet::read_run_test_set(&settings, &classes, &rows, &()).unwrap_err().to_string();
    assert!(error.contains("b/9.png and 1 more; put the photos back"), "{error}");
    let unknown =
        SampleSet::read_run_test_set(&settings, &classes, &[split_row("c/1.png", "c", "test")], &())
            .unwrap_err();
    assert!(unknown.to_string().contains("a class `c` that the model does not know"), "{unknown}");
    // A location for testing only.
    let source = FolderConfig::new(folder.path("other"));
    let (samples, _) = SampleSet::read_test_only(&source, &settings, &classes, &()).unwrap();
    assert_eq!((samples.ids(Subset::Test), samples.labels(&[0])), (vec!["b/1.png"], vec![0]));

    folder.copy_reference("feature_file/plain.npz", "x.npz");
    let settings = folder.settings("[data]\nfeatures = \"x.npz\"\n", &[] as &[&str]);
    let classes = ["-1", "7", "300"].map(String::from);
    let rows = [split_row("4", "-1", "test"), split_row("0", "7", "train"), split_row("5", "300", "test")];
    let (samples, inputs) = SampleSet::read_run_test_set(&settings, &classes, &rows, &()).unwrap();
    assert_eq!(samples.labels(&[0, 1]), [0, 2]);
    let SampleInputs::Features(table) = inputs else { panic!("these are features") };
    assert_eq!(table.values, [1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.25]);
    for missing in ["6", "x"] {
        let error =
            SampleSet::read_run_test_set(&settings, &classes, &[split_row(missing, "7", "test")], &())
                .unwrap_err();
        assert!(
            error.to_string().contains("does not have the rows that split.csv of the run lists"),
            "{error}"
        );
    }
}
