use super::*;
use crate::decode::decode;
use crate::golden;
use headstock_testing::capture_log;

fn parquet_source(shards: &[&str]) -> ParquetSource {
    ParquetSource {
        shards: shards.iter().map(|name| golden::reference_path("source").join(name)).collect(),
        image: "image".into(),
        fields: FieldNames { label: "label".into(), group: None, split: None },
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
            "ROOT/{file}: the column `label` does not hold image files (the bytes of each file): set `image` to \
             the column that does"
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
    let path = root.path().join("x.parquet");
    fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n").unwrap();
    let source = ParquetSource { shards: vec![path], ..flat_source("plain.parquet") };
    assert!(source.list().unwrap_err().to_string().contains("run `git lfs pull`"));
}
