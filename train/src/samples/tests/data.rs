//! Which samples there are.

use super::*;

const PARQUET: &str = "[data]\nparquet = \"data\"\n[backbone]\nweights = \"backbone\"\n";
const TAR: &str = "[data]\nwebdataset = \"shards\"\n[backbone]\nweights = \"backbone\"\n";
const FOLDER: &str = "[data]\nfolder = \"photos\"\n[backbone]\nweights = \"backbone\"\n";
const CSV: &str = "[data]\ncsv = \"x.csv\"\nimages = \"photos\"\n[backbone]\nweights = \"backbone\"\n";

/// Photos of no size, which nothing opens.
fn photos(names: &[&str]) -> Folder {
    let folder = Folder::new();
    for name in names {
        folder.write(name, "x");
    }
    folder
}

fn unsplit(folder: &Folder, config: &str, set: &[&str]) -> (Samples, Inputs) {
    Samples::unsplit(&folder.settings(config, set), &()).unwrap()
}

fn ids(samples: &Samples) -> Vec<&str> {
    samples.rows.iter().map(|row| row.id.as_str()).collect()
}

// effect: data.folder, data.test_folder
#[test]
fn a_folder_has_a_folder_for_each_class_and_another_place_is_only_tested_on() {
    let folder = photos(&[
        "photos/b/1.png",
        "photos/a/2.png",
        "photos/a/1.png",
        "more/test/a/1.png",
        "more/test/b/9.png",
    ]);
    let (samples, inputs) = unsplit(&folder, FOLDER, &[]);
    assert_eq!(ids(&samples), ["a/1.png", "a/2.png", "b/1.png"]);
    assert_eq!(samples.class_names(), ["a", "a", "b"]);
    assert_eq!(inputs.photos().unwrap()[2].file_path().unwrap(), folder.path("photos/b/1.png"));
    let (samples, inputs) = folder.samples(FOLDER, &["data.test_folder=more/test"]);
    assert_eq!(samples.ids(Part::Train), ["photos/a/1.png", "photos/a/2.png", "photos/b/1.png"]);
    assert_eq!(samples.ids(Part::Test), ["more/test/a/1.png", "more/test/b/9.png"]);
    assert_eq!(samples.class_names(), ["a", "a", "b", "a", "b"]);
    assert_eq!(inputs.photos().unwrap()[4].file_path().unwrap(), folder.path("more/test/b/9.png"));
    let settings = folder.settings(FOLDER, &["data.test_folder=more/test"]);
    assert_eq!(root_of_files(&settings.source).unwrap(), folder.path("").canonicalize().unwrap());
    assert_eq!(
        root_of_files(&folder.settings(FOLDER, &[] as &[&str]).source).unwrap(),
        folder.path("photos")
    );
    let refusal = photos(&["photos/a/1.png", "photos/b/1.png", "test/c/1.png"])
        .refusal(FOLDER, &["data.test_folder=test"]);
    assert!(refusal.contains("the class folders c of") && refusal.contains("a, b"), "{refusal}");
}

// effect: data.csv, data.images, data.id, data.label, data.group, data.extension
#[test]
fn the_columns_of_a_table_are_those_that_are_named() {
    let folder = photos(&[
        "photos/1.jpg",
        "photos/2.jpg",
        "others/1.png",
        "others/2.png",
        "photos/1.png",
        "photos/2.png",
    ]);
    folder.write("x.csv", "id,label,file,breed,dog\n1.png,b,1,pug,P7\n2.png,a,2,akita,P10\n");
    folder.write("y.csv", "id,label\n2.png,y\n1.jpg,x\n");
    let read = |set: &[&str]| unsplit(&folder, CSV, set).0;
    let plain = read(&[]);
    assert_eq!((ids(&plain), plain.class_names()), (vec!["1.png", "2.png"], vec!["b", "a"]));
    assert_eq!(plain.groups(&[0, 1]), None);
    let other = read(&["data.csv=y.csv"]);
    assert_eq!((ids(&other), other.class_names()), (vec!["2.png", "1.jpg"], vec!["y", "x"]));
    let named = read(&["data.id=file", "data.extension=jpg", "data.label=breed", "data.group=dog"]);
    assert_eq!((ids(&named), named.class_names()), (vec!["1.jpg", "2.jpg"], vec!["pug", "akita"]));
    // By name: P10, P7.
    assert_eq!(named.groups(&[0, 1]).unwrap(), [1, 0]);
    let (_, inputs) = unsplit(&folder, CSV, &["data.images=others"]);
    assert_eq!(inputs.photos().unwrap()[0].file_path().unwrap(), folder.path("others/1.png"));
}

// effect: data.parquet, data.image, data.label, data.group, data.test_parquet
#[test]
fn rows_of_parquet_are_read_by_the_columns_that_are_named() {
    let folder = Folder::new();
    for shard in ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"] {
        folder.golden(&format!("source/{shard}.parquet"), &format!("data/{shard}.parquet"));
    }
    folder.golden("source/plain.parquet", "plain/plain.parquet");
    folder.golden("source/dictionary.parquet", "more/dictionary.parquet");
    // The name of a shard says which part it is of.
    let (samples, inputs) = folder.samples(PARQUET, &["data.group=dog"]);
    assert_eq!((samples.of(Part::Train).len(), samples.of(Part::Test).len()), (29, 6));
    assert!(samples.ids(Part::Test).iter().all(|id| id.starts_with("test-00000-of-00001.parquet/")));
    assert_eq!(samples.classes.names(), ["akita", "boxer", "pug"]);
    let grey = |photo: &ImageRef| {
        headstock_loader::decode(&photo.read().unwrap(), 100).unwrap().get_pixel(0, 0).0[0]
    };
    let greys: Vec<u8> = inputs.photos().unwrap().iter().map(grey).collect();
    for (row, grey) in samples.rows.iter().zip(&greys) {
        assert_eq!(row.group, Some(u32::from(grey % 4)));
    }
    // By the names of the shards.
    assert!(greys.into_iter().eq((30..36).chain((0..30).filter(|&grey| grey != 25))));
    // Other columns, and another place to test on.
    let named = ["data.parquet=plain/plain.parquet", "data.image=picture", "data.label=class"];
    let (samples, _) = unsplit(&folder, PARQUET, &named);
    assert_eq!((samples.rows.len(), samples.classes.names().len()), (11, 3));
    assert_eq!(&ids(&samples)[..2], ["plain.parquet/0", "plain.parquet/1"]);
    let both = [&named[..], &["data.test_parquet=more/*.parquet"]].concat();
    let (samples, _) = folder.samples(PARQUET, &both);
    assert_eq!((samples.of(Part::Train).len(), samples.of(Part::Test).len()), (11, 11));
    assert_eq!(samples.ids(Part::Train)[0], "plain/plain.parquet/0");
    assert_eq!(samples.ids(Part::Test)[0], "more/dictionary.parquet/0");
    assert_eq!(root_of_files(&folder.settings(PARQUET, &both).source), None);
    // The column of parts is one of Parquet's, too.
    let predefined = [&named[..], &["split.method=predefined", "split.column=use"]].concat();
    let (samples, inputs) = folder.samples(PARQUET, &predefined);
    for (row, photo) in samples.rows.iter().zip(inputs.photos().unwrap()) {
        assert_eq!(row.part == Part::Test, grey(photo).is_multiple_of(3), "{}", row.id);
    }
}

// effect: data.webdataset, data.label, data.group, data.test_webdataset
#[test]
fn records_of_archives_are_read_by_the_fields_that_are_named() {
    let folder = Folder::new();
    folder.golden("source/numbers-000.tar", "shards/numbers-000.tar");
    folder.golden("source/numbers-001.tar", "more/numbers-001.tar");
    folder.golden("source/records.tar.gz", "records/records.tar.gz");
    let (samples, _) = unsplit(&folder, TAR, &[]);
    assert_eq!((samples.rows.len(), samples.classes.names()), (8, ["0", "1"].map(String::from).as_slice()));
    assert_eq!(ids(&samples)[7], "numbers-000.tar/sub/0007.png");
    let (samples, _) = folder.samples(TAR, &["data.test_webdataset=more/numbers-{001..001}.tar"]);
    assert_eq!((samples.of(Part::Train).len(), samples.of(Part::Test).len()), (8, 8));
    assert_eq!(samples.ids(Part::Test)[0], "more/numbers-001.tar/sub/0000.png");
    let records = ["data.webdataset=records", "data.group=dog"];
    let (samples, _) = unsplit(&folder, TAR, &records);
    assert_eq!(samples.class_names(), ["pug", "akita", "boxer", "pug", "akita", "boxer"]);
    assert_eq!(samples.groups(&[0, 1, 2, 3, 4, 5]).unwrap(), [0, 0, 1, 1, 2, 2]);
    let (samples, _) = unsplit(&folder, TAR, &["data.webdataset=records", "data.label=dog"]);
    assert_eq!(samples.class_names(), ["0", "0", "1", "1", "2", "2"]);
    // `val` of one and `train` of the others.
    let predefined = ["data.webdataset=records", "split.method=predefined", "split.column=use"];
    let (samples, _) = folder.samples(TAR, &predefined);
    assert_eq!(samples.ids(Part::Test), ["records.tar.gz/0000.jpg"]);
}

#[test]
fn the_validation_shards_are_neither_trained_nor_tested_on() {
    let folder = Folder::new();
    for (from, to) in [
        ("train-00000-of-00002", "train-0"),
        ("train-00001-of-00002", "validation-0"),
        ("test-00000-of-00001", "test-0"),
    ] {
        folder.golden(&format!("source/{from}.parquet"), &format!("data/{to}.parquet"));
    }
    let (samples, inputs) = folder.samples(PARQUET, &[] as &[&str]);
    assert_eq!((samples.of(Part::Train).len(), samples.of(Part::Test).len()), (25, 6));
    assert!(samples.ids(Part::Train).iter().all(|id| id.starts_with("train-0.parquet/")));
    assert!(samples.ids(Part::Test).iter().all(|id| id.starts_with("test-0.parquet/")));
    assert_eq!(inputs.photos().unwrap().len(), 31);
    // Where others are tested on, the parts that are not trained on are left out altogether.
    folder.golden("source/test-00000-of-00001.parquet", "mine/a.parquet");
    let (samples, _) = folder.samples(PARQUET, &["data.test_parquet=mine"]);
    assert_eq!((samples.of(Part::Train).len(), samples.of(Part::Test).len()), (25, 6));
    assert!(samples.ids(Part::Test).iter().all(|id| id.starts_with("mine/a.parquet/")));
    // All of them are one part where nothing is split.
    assert_eq!(unsplit(&folder, PARQUET, &[]).0.rows.len(), 35);
    // Doctor sees what training sees.
    let settings = folder.settings(PARQUET, &[] as &[&str]);
    let Source::Photos { main, .. } = &settings.source else { panic!("these are photos") };
    let collected = Collected::read(&settings, main, None, &()).unwrap();
    let tested = collected.samples.iter().filter(|sample| sample.part == Part::Test).count();
    assert_eq!((collected.samples.len(), tested, collected.given), (31, 6, true));
}

#[test]
fn the_same_photo_is_not_in_both_places_whatever_they_are_called() {
    let folder = Folder::new();
    folder.golden("source/numbers-000.tar", "shards/numbers-000.tar");
    folder.golden("source/numbers-001.tar", "shards/numbers-001.tar");
    folder.golden("source/train-00000-of-00002.parquet", "data/a.parquet");
    folder.golden("source/train-00001-of-00002.parquet", "data/b.parquet");
    let both = "would be both trained on and tested on";
    for (config, set) in [
        (TAR, "data.test_webdataset=shards"),
        (TAR, "data.test_webdataset=shards/numbers-001.tar"),
        (TAR, "data.test_webdataset=data/../shards/numbers-*.tar"),
        (PARQUET, "data.test_parquet=data"),
        (PARQUET, "data.test_parquet=data/b.parquet"),
        (PARQUET, "data.test_parquet=shards/../data/b.parquet"),
    ] {
        let refusal = folder.refusal(config, &[set]);
        assert!(refusal.contains(both), "{set}: {refusal}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder.path("shards/numbers-001.tar"), folder.path("linked.tar")).unwrap();
        let refusal = folder.refusal(TAR, &["data.test_webdataset=linked.tar"]);
        assert!(refusal.contains("linked.tar: sub/0000.png") && refusal.contains(both), "{refusal}");
    }
    let one = ["data.webdataset=shards/numbers-000.tar", "data.test_webdataset=shards/numbers-001.tar"];
    let (samples, _) = folder.samples(TAR, &one);
    assert_eq!((samples.of(Part::Train).len(), samples.of(Part::Test).len()), (8, 8));

    let names = ["photos/a/1.png", "photos/b/1.png", "test/a/1.png", "test/b/1.png"];
    let folder = photos(&names);
    let (samples, _) = folder.samples(FOLDER, &["data.test_folder=test"]);
    assert_eq!(samples.rows.len(), 4);
    for within in ["photos", "photos/a", "."] {
        let refusal = folder.refusal(FOLDER, &[format!("data.test_folder={within}")]);
        assert!(refusal.contains("lie within each other"), "{within}: {refusal}");
    }
}

#[test]
fn a_group_that_is_in_both_places_is_one_group() {
    let folder = Folder::new();
    // Dogs 0 to 3 in turn, of which the second place has but 2, 3, 0 and 1 in this order.
    folder.golden("source/train-00000-of-00002.parquet", "data/a.parquet");
    folder.golden("source/train-00001-of-00002.parquet", "more/b.parquet");
    let (samples, inputs) = folder.samples(PARQUET, &["data.test_parquet=more", "data.group=dog"]);
    for (row, photo) in samples.rows.iter().zip(inputs.photos().unwrap()) {
        let grey = headstock_loader::decode(&photo.read().unwrap(), 100).unwrap().get_pixel(0, 0).0[0];
        assert_eq!(row.group, Some(u32::from(grey % 4)), "{}", row.id);
    }
    assert_eq!(samples.divided_groups(), (4, 4));
}

#[test]
fn groups_are_told_apart_by_their_names_wherever_they_are() {
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
    let Dataset { samples, group_names: groups, .. } = together(first, second);
    assert_eq!(groups, ["P3", "P4", "P5"]);
    assert!(samples.iter().map(|sample| sample.group).eq([2, 0, 1, 2].map(Some)));
    assert!(samples.iter().map(|sample| sample.id.as_str()).eq(["1", "2", "3", "4"]));
    let without = together(dataset(vec![sample("1", None)], &[]), dataset(vec![sample("2", None)], &[]));
    assert!(without.samples.iter().all(|sample| sample.group.is_none()));
}

#[test]
fn groups_on_both_sides_are_counted() {
    let row = |group, part| Row { id: String::new(), label: 0, group, part };
    let rows = vec![
        row(Some(0), Part::Train),
        row(Some(0), Part::Test),
        row(Some(1), Part::Train),
        row(Some(2), Part::Test),
        row(Some(2), Part::Train),
        row(None, Part::Test),
    ];
    let samples = Samples { classes: ClassMap::new(["a"], ClassOrder::Sorted), rows };
    assert_eq!(samples.divided_groups(), (2, 3));
    assert_eq!(samples.groups(&[0, 3]), Some(vec![0, 2]));
    assert_eq!(samples.groups(&[0, 5]), None);
}

// effect: data.class_order
#[test]
fn classes_are_numbered_by_name_or_by_appearance() {
    let folder = photos(&["photos/1", "photos/2", "photos/3"].map(|name| name));
    folder.write("x.csv", "id,label\n1,pug\n2,akita\n3,boxer\n");
    for (set, names, labels) in [
        (&[][..], ["akita", "boxer", "pug"], [2, 0, 1]),
        (&["data.class_order=sorted"], ["akita", "boxer", "pug"], [2, 0, 1]),
        (&["data.class_order=appearance"], ["pug", "akita", "boxer"], [0, 1, 2]),
    ] {
        let (samples, _) = unsplit(&folder, CSV, set);
        assert_eq!(samples.classes.names(), names);
        assert_eq!(samples.labels(&[0, 1, 2]), labels);
    }
}

#[test]
fn the_test_part_of_a_run_is_read_from_its_split_again() {
    let folder =
        photos(&["photos/a/1.png", "photos/a/2.png", "photos/b/1.png", "photos/b/2.png", "other/b/1.png"]);
    let row = |path: &str, label: &str, split: &str| SplitRow {
        path: path.into(),
        label: label.into(),
        split: split.into(),
    };
    let classes = ["b", "a"].map(String::from);
    let rows = [row("b/2.png", "b", "test"), row("a/1.png", "a", "train"), row("a/2.png", "a", "test")];
    let settings = folder.settings(FOLDER, &[] as &[&str]);
    let (samples, inputs) = Samples::of_run(&settings, &classes, &rows, &()).unwrap();
    assert_eq!((samples.ids(Part::Test), samples.labels(&[0, 1])), (vec!["b/2.png", "a/2.png"], vec![0, 1]));
    assert_eq!(inputs.photos().unwrap()[1].file_path().unwrap(), folder.path("photos/a/2.png"));
    let rows = [row("b/9.png", "b", "test"), row("b/8.png", "b", "test"), row("a/1.png", "a", "test")];
    let gone = Samples::of_run(&settings, &classes, &rows, &()).unwrap_err().to_string();
    assert!(gone.contains("b/9.png and 1 more of the run's test photos"), "{gone}");
    let unknown = Samples::of_run(&settings, &classes, &[row("c/1.png", "c", "test")], &()).unwrap_err();
    assert!(unknown.to_string().contains("a class `c` that the model does not know"), "{unknown}");
    // Only tested on, whatever else there is.
    let place = Place::Folder(folder.path("other"));
    let (samples, _) = Samples::only_tested(&place, &classes, &()).unwrap();
    assert_eq!((samples.ids(Part::Test), samples.labels(&[0])), (vec!["b/1.png"], vec![0]));

    folder.golden("feature_file/plain.npz", "x.npz");
    let settings = folder.settings("[data]\nfeatures = \"x.npz\"\n", &[] as &[&str]);
    let classes = ["-1", "7", "300"].map(String::from);
    let rows = [row("4", "-1", "test"), row("0", "7", "train"), row("5", "300", "test")];
    let (samples, inputs) = Samples::of_run(&settings, &classes, &rows, &()).unwrap();
    assert_eq!(samples.labels(&[0, 1]), [0, 2]);
    let Inputs::Features(table) = inputs else { panic!("these are features") };
    assert_eq!(table.values, [1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.25]);
    for beyond in ["6", "x"] {
        let gone = Samples::of_run(&settings, &classes, &[row(beyond, "7", "test")], &()).unwrap_err();
        assert!(gone.to_string().contains("has not the rows that split.csv lists"), "{gone}");
    }
}
