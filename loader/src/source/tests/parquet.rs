use std::collections::BTreeMap;

use super::*;
use crate::decode::decode;
use crate::golden;
use crate::source::{DownloadedDataset, DownloadedFile, ParquetConfig, SourceConfig, SourceContext};
use headstock_testing::capture_log;

fn parquet_source(shards: &[&str]) -> ParquetSource {
    ParquetSource {
        shards: shards.iter().map(|name| golden::reference_path("source").join(name)).collect(),
        splits: BTreeMap::new(),
        image: "image".into(),
        fields: FieldNames { label: "label".into(), group: None, split: None },
        follow_links: false,
    }
}

fn flat_source(shard: &str) -> ParquetSource {
    let fields = FieldNames { label: "class".into(), group: None, split: Some("use".into()) };
    ParquetSource { image: "picture".into(), fields, ..parquet_source(&[shard]) }
}

/// The gray value of each image, read in the given order.
fn gray_values<'a>(images: impl Iterator<Item = &'a ImageRef>) -> Vec<u8> {
    images.map(|image| decode(&image.read().unwrap(), 100).unwrap().get_pixel(2, 1).0[0]).collect()
}

// effect: data.parquet, data.group
#[test]
fn data_sets_of_the_hub_are_read_with_class_names() {
    let shards =
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"];
    let source = parquet_source(&shards);
    let source =
        ParquetSource { fields: FieldNames { group: Some("dog".into()), ..source.fields }, ..source };
    let log = capture_log(|| source.list().unwrap().passed_over.log(Path::new("data")));
    assert!(log.contains("skipped 1 photo in data: no class is given in the column `label`"), "{log}");
    let dataset = read_sorted(&source).unwrap();
    assert_eq!(dataset.classes.names(), ["akita", "boxer", "pug"]);
    let expected: Vec<u8> = (0..36).filter(|&gray| gray != 25).collect();
    assert_eq!(gray_values(dataset.samples.iter().map(|sample| &sample.image)), expected);
    assert_eq!(
        gray_values(dataset.samples.iter().rev().map(|sample| &sample.image)),
        expected.into_iter().rev().collect::<Vec<_>>()
    );
    let names = ["pug", "akita", "boxer"];
    for (sample, gray) in dataset.samples.iter().zip((0..36).filter(|&gray| gray != 25)) {
        let label = if (26..30).contains(&gray) { (gray + 1) % 3 } else { gray % 3 };
        assert_eq!(dataset.classes.name(sample.label), names[label], "{gray}");
        assert_eq!(sample.group, Some(gray as u32 % 4));
        assert_eq!(sample.split, Some(if gray < 30 { Split::Train } else { Split::Test }));
    }
    assert_eq!(dataset.samples[27].id, "train-00001-of-00002.parquet/2");
    assert_eq!(source.unlabeled().unwrap(), ["train-00000-of-00002.parquet/25"]);
}

#[test]
fn the_split_that_a_downloaded_data_set_states_has_precedence_over_the_name() {
    let root = golden::reference_path("source");
    let file = |name: &str, split| DownloadedFile { path: root.join(name), split };
    let files = vec![
        file("test-00000-of-00001.parquet", Some(Split::Validation)),
        file("train-00000-of-00002.parquet", Some(Split::Test)),
        file("train-00001-of-00002.parquet", None),
    ];
    let name = "hf://datasets/owner/name".to_owned();
    let downloads = BTreeMap::from([(name.clone(), DownloadedDataset { files, root: root.clone() })]);
    let config: ParquetConfig = toml::from_str(&format!("parquet = \"{name}\"")).unwrap();
    let open = |split_column| {
        let context = SourceContext { split_column, downloads: downloads.clone(), follow_links: false };
        let opened = SourceConfig::open(&config, &context).unwrap();
        assert_eq!(opened.root, root);
        opened.source.list()
    };
    for sample in open(None).unwrap().samples {
        let expected = match sample.id.split('/').next().unwrap() {
            "test-00000-of-00001.parquet" => Split::Validation,
            "train-00000-of-00002.parquet" => Split::Test,
            _ => Split::Train,
        };
        assert_eq!(sample.split, Some(expected), "{}", sample.id);
    }
    // A column that is asked for is read.
    let error = open(Some("part".into())).unwrap_err().to_string();
    assert!(error.contains("`part`"), "{error}");
}

// effect: data.image, data.label, split.column
#[test]
fn flat_columns_of_any_encoding_are_read_in_any_order_on_any_number_of_threads() {
    use rayon::prelude::*;

    for shard in ["plain.parquet", "dictionary.parquet"] {
        let dataset = read_sorted(&flat_source(shard)).unwrap();
        let images: Vec<&ImageRef> = dataset.samples.iter().map(|sample| &sample.image).collect();
        let expected: Vec<u8> = (40..52).filter(|&gray| gray != 44).collect();
        let strided: Vec<usize> = (0..images.len()).map(|i| i * 7 % images.len()).collect();
        let picked = gray_values(strided.iter().map(|&i| images[i]));
        assert_eq!(picked, strided.iter().map(|&i| expected[i]).collect::<Vec<_>>(), "{shard}");
        let threads = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        let read: Vec<u8> = threads
            .install(|| images.par_iter().map(|image| gray_values(std::iter::once(*image))[0]).collect());
        assert_eq!(read, expected, "{shard}");
        let split = |gray: &u8| Some(if gray.is_multiple_of(3) { Split::Test } else { Split::Train });
        assert!(dataset.samples.iter().map(|sample| sample.split).eq(expected.iter().map(split)), "{shard}");
    }
}

#[test]
fn columns_that_are_missing_or_have_another_type_are_errors() {
    let refusal =
        |source: &ParquetSource| error_message(read_sorted(source), &golden::reference_path("source"));
    let other = ParquetSource { image: "pictures".into(), ..flat_source("plain.parquet") };
    assert_eq!(
        refusal(&other),
        "ROOT/plain.parquet: there is no column `pictures`: set `image` to one of the columns class, picture, use; did you mean `picture`?"
    );
    let file = "train-00000-of-00002.parquet";
    let other = ParquetSource { image: "label".into(), ..parquet_source(&[file]) };
    assert_eq!(
        refusal(&other),
        format!(
            "ROOT/{file}: the column `label` holds numbers, neither image files (the bytes of each file) nor their \
             paths; set `image` to a column that does: image"
        )
    );
    let other = ParquetSource {
        fields: FieldNames { label: "label".into(), group: None, split: None },
        ..flat_source("plain.parquet")
    };
    assert!(refusal(&other).contains("there is no column `label`: set `label`"));
    let other = ParquetSource {
        fields: FieldNames { label: "class".into(), group: None, split: Some("class".into()) },
        ..flat_source("plain.parquet")
    };
    assert_eq!(
        refusal(&other),
        "ROOT/plain.parquet: row 0 (counted from 0), row 3 (counted from 0), row 6 (counted from 0) and 1 more: \
         `class` is `akita`: write train, validation or test"
    );
    let root = tempfile::tempdir().unwrap();
    create_files(root.path(), &["x.parquet"]);
    let empty = ParquetSource { shards: vec![root.path().join("x.parquet")], ..flat_source("plain.parquet") };
    assert!(error_message(read_sorted(&empty), root.path()).starts_with("ROOT/x.parquet: "));
}

#[test]
fn codecs_of_other_programs_are_read() {
    for shard in ["brotli.parquet", "lz4.parquet"] {
        let dataset = read_sorted(&flat_source(shard)).unwrap();
        let images = dataset.samples.iter().map(|sample| &sample.image);
        assert_eq!(gray_values(images), [100, 101, 102, 103, 104, 105], "{shard}");
    }
}

#[test]
fn the_only_columns_of_their_types_take_the_place_of_the_defaults() {
    let source = parquet_source(&["labels.parquet"]);
    let mut samples = Vec::new();
    let log = capture_log(|| samples = source.list().unwrap().samples);
    assert_eq!(gray_values(samples.iter().map(|sample| &sample.image)), [100, 101, 102, 103, 104, 105]);
    let classes: Vec<&str> = samples.iter().map(|sample| sample.class.as_str()).collect();
    assert_eq!(classes, ["akita", "boxer", "pug", "akita", "boxer", "pug"]);
    for part in [
        "there is no column `image`: the column `photo` takes its place as `image`, because it is the only one of \
         the type Image",
        "there is no column `label`: the column `labels` takes its place",
    ] {
        assert!(log.contains(part), "{log}");
    }
    // Names that are given are meant.
    let fields = FieldNames { label: "breed".into(), group: None, split: None };
    let error = ParquetSource { fields, ..source }.list().unwrap_err().to_string();
    assert!(
        error.contains("there is no column `breed`: set `label` to one of the columns labels, note, photo"),
        "{error}"
    );

    let columns = read_parquet_columns(&golden::reference_path("source/labels.parquet")).unwrap();
    assert_eq!((columns.images, columns.class_labels), (vec!["photo".to_owned()], vec!["labels".to_owned()]));
    assert!(columns.others.contains(&"note".to_owned()), "{:?}", columns.others);
}

#[test]
fn images_may_be_files_beside_the_table() {
    for shard in ["paths/paths.parquet", "paths/mixed.parquet", "paths/text.parquet"] {
        let samples = parquet_source(&[shard]).list().unwrap().samples;
        assert_eq!(
            gray_values(samples.iter().map(|sample| &sample.image)),
            [100, 101, 102, 103, 104, 105],
            "{shard}"
        );
        assert_eq!(samples[1].class, "boxer");
        let is_in_table = |sample: &RawSample| sample.image.file_path().is_none();
        let expected = if shard.contains("mixed") {
            vec![false, false, false, false, true, false]
        } else {
            vec![false; 6]
        };
        assert_eq!(samples.iter().map(is_in_table).collect::<Vec<_>>(), expected, "{shard}");
    }
    // The same table where some of the photos are missing, and one is outside the folder.
    let root = tempfile::tempdir().unwrap();
    let folder = golden::reference_path("source/paths");
    fs::create_dir_all(root.path().join("t/photos")).unwrap();
    fs::copy(folder.join("text.parquet"), root.path().join("t/x.parquet")).unwrap();
    create_files(root.path(), &["outside.png", "t/photos/101.png", "t/photos/102.PNG", "t/photos/103.PNG"]);
    #[cfg(unix)]
    std::os::unix::fs::symlink(root.path().join("outside.png"), root.path().join("t/photos/100.png"))
        .unwrap();
    let source = ParquetSource { shards: vec![root.path().join("t/x.parquet")], ..parquet_source(&[]) };
    let raw = source.list().unwrap();
    assert_eq!(raw.samples.len(), 1);
    let errors: Vec<String> = raw.errors.iter().map(ToString::to_string).collect();
    assert!(errors[0].contains("row 0 (counted from 0): the path `photos/100.png`"), "{errors:?}");
    assert!(errors[1].contains("lists photos that are not in the folder"), "{errors:?}");
    let followed = ParquetSource { follow_links: true, ..source }.list().unwrap();
    assert_eq!((followed.samples.len(), followed.errors.len()), (2, 1));
}

#[test]
fn a_column_without_images_is_refused_with_what_it_holds() {
    let refusal = |image: &str, shard: &str| {
        let source = ParquetSource { image: image.into(), ..flat_source(shard) };
        error_message(read_sorted(&source), &golden::reference_path("source"))
    };
    assert_eq!(
        refusal("class", "plain.parquet"),
        "ROOT/plain.parquet: the column `class` holds text such as `akita`, neither image files (the bytes of each \
         file) nor their paths; set `image` to a column that does: picture"
    );
    assert!(
        refusal("boxes", "plain.parquet").contains("the column `boxes` holds a list in each row, neither")
    );
}

#[test]
fn several_data_sets_beside_each_other_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let open = |folder: &str| {
        let config = ParquetConfig {
            parquet: root.path().join(folder).display().to_string(),
            image: "image".into(),
            label: "label".into(),
            group: None,
            test_parquet: None,
        };
        SourceConfig::open(&config, &SourceContext::default()).map(|_| ()).map_err(|error| error.to_string())
    };
    create_files(root.path(), &["a/train/0.parquet", "a/test/0.parquet", "b/train-0.parquet"]);
    let refused = open("").unwrap_err();
    assert!(refused.contains("several data sets, each with files for training: a, b"), "{refused}");
    open("a").unwrap();
    create_files(root.path(), &["t/a/train/0.tar", "t/b/train/0.tar"]);
    let config: WebDatasetConfig =
        toml::from_str(&format!("webdataset = {:?}", root.path().join("t"))).unwrap();
    let refused = SourceConfig::open(&config, &SourceContext::default()).unwrap_err().to_string();
    assert!(refused.contains("several data sets, each with files for training: a, b"), "{refused}");
    // Folders of splits, and of shards without a split, are one data set.
    create_files(
        root.path(),
        &["c/train/x/0.parquet", "c/test/x/0.parquet", "c/0/0.parquet", "c/1/0.parquet"],
    );
    open("c").unwrap();
}

#[test]
fn a_pointer_of_git_lfs_is_named() {
    let root = tempfile::tempdir().unwrap();
    let pointer = |name: &str| {
        let path = root.path().join(name);
        fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n").unwrap();
        path
    };
    let fields = FieldNames { label: "label".into(), group: None, split: None };
    let sources: [Box<dyn DataSource>; 4] = [
        Box::new(ParquetSource { shards: vec![pointer("x.parquet")], ..flat_source("plain.parquet") }),
        Box::new(WebDatasetSource { shards: vec![pointer("x.tar")], image: None, fields: fields.clone() }),
        Box::new(FolderSource::new(pointer("x.zip"))),
        Box::new(CsvSource {
            csv: pointer("x.csv"),
            images: root.path().into(),
            id: "id".into(),
            extension: String::new(),
            fields,
            follow_links: false,
        }),
    ];
    for source in sources {
        let error = source.list().unwrap_err().to_string();
        assert!(error.contains("run `git lfs pull`"), "{error}");
    }
}

#[test]
fn the_error_for_a_hub_name_without_hf_says_how_to_write_it() {
    let folder = tempfile::tempdir().unwrap();
    let configured = |shards: &str| {
        let mut config: ParquetConfig = toml::from_str(&format!("parquet = \"{shards}\"")).unwrap();
        SourceConfig::resolve(&mut config, folder.path()).map(|()| config)
    };
    for shards in
        ["https://huggingface.co/datasets/acme/dogs", "hf:acme/dogs", "hf.co/datasets/acme/dogs/tree/main"]
    {
        let error = configured(shards).unwrap_err().to_string();
        let expected = format!("`parquet` is \"{shards}\": did you mean \"hf://datasets/acme/dogs\"?");
        assert_eq!(error, expected);
    }
    let open = |shards: &str| {
        let config = configured(shards).unwrap();
        SourceConfig::open(&config, &SourceContext::default()).unwrap_err().to_string()
    };
    let path = folder.path().join("acme/dogs");
    let expected = format!(
        "{}: there is no such file or folder: did you mean \"hf://datasets/acme/dogs\" on the Hugging Face hub? If \
         not, check the path",
        path.display()
    );
    assert_eq!(open("acme/dogs"), expected);
    for shards in ["acme", "acme/dogs/*.parquet", "acme/dogs.parquet"] {
        assert!(!open(shards).contains("hub"), "{shards}");
    }
    fs::create_dir_all(&path).unwrap();
    assert!(open("acme/dogs").contains("no file matches"));
}
