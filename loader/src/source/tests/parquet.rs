use super::*;
use crate::decode::decode;
use crate::golden;
use crate::logged::logged;

fn source(shards: &[&str]) -> ParquetSource {
    ParquetSource {
        shards: shards.iter().map(|name| golden::path("source").join(name)).collect(),
        image: "image".into(),
        fields: Fields { label: "label".into(), group: None, part: None },
    }
}

fn flat(shard: &str) -> ParquetSource {
    let fields = Fields { label: "class".into(), group: None, part: Some("use".into()) };
    ParquetSource { image: "picture".into(), fields, ..source(&[shard]) }
}

/// The grey of each photo, read in this order.
fn greys<'a>(photos: impl Iterator<Item = &'a Photo>) -> Vec<u8> {
    photos.map(|photo| decode(&photo.read().unwrap(), 100).unwrap().get_pixel(2, 1).0[0]).collect()
}

// effect: data.parquet, data.group
#[test]
fn data_sets_of_the_hub_are_read_with_the_names_of_their_classes() {
    let shards =
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"];
    let source = source(&shards);
    let source = ParquetSource { fields: Fields { group: Some("dog".into()), ..source.fields }, ..source };
    let mut dataset = None;
    let told = logged(|| dataset = Some(read(&source).unwrap()));
    assert!(told.contains("1 photos without a class (`label`)"), "{told}");
    let dataset = dataset.unwrap();
    assert_eq!(dataset.classes.names(), ["akita", "boxer", "pug"]);
    let listed: Vec<u8> = (0..36).filter(|&grey| grey != 25).collect();
    assert_eq!(greys(dataset.samples.iter().map(|sample| &sample.photo)), listed);
    assert_eq!(
        greys(dataset.samples.iter().rev().map(|sample| &sample.photo)),
        listed.into_iter().rev().collect::<Vec<_>>()
    );
    let names = ["pug", "akita", "boxer"];
    for (sample, grey) in dataset.samples.iter().zip((0..36).filter(|&grey| grey != 25)) {
        let label = if (26..30).contains(&grey) { (grey + 1) % 3 } else { grey % 3 };
        assert_eq!(dataset.classes.name(sample.label), names[label], "{grey}");
        assert_eq!(sample.group, Some(grey as u32 % 4));
        assert_eq!(sample.part, Some(if grey < 30 { Part::Train } else { Part::Test }));
    }
    assert_eq!(dataset.samples[27].id, "train-00001-of-00002.parquet/2");
    assert_eq!(source.unlabelled().unwrap(), ["train-00000-of-00002.parquet/25"]);
}

// effect: data.image, data.label, split.column
#[test]
fn flat_columns_of_any_encoding_are_read_in_any_order_on_any_number_of_threads() {
    use rayon::prelude::*;

    for shard in ["plain.parquet", "dictionary.parquet"] {
        let dataset = read(&flat(shard)).unwrap();
        let photos: Vec<&Photo> = dataset.samples.iter().map(|sample| &sample.photo).collect();
        let listed: Vec<u8> = (40..52).filter(|&grey| grey != 44).collect();
        let strided: Vec<usize> = (0..photos.len()).map(|i| i * 7 % photos.len()).collect();
        let picked = greys(strided.iter().map(|&i| photos[i]));
        assert_eq!(picked, strided.iter().map(|&i| listed[i]).collect::<Vec<_>>(), "{shard}");
        let threads = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        let read: Vec<u8> =
            threads.install(|| photos.par_iter().map(|photo| greys(std::iter::once(*photo))[0]).collect());
        assert_eq!(read, listed, "{shard}");
        let part = |grey: &u8| Some(if grey.is_multiple_of(3) { Part::Test } else { Part::Train });
        assert!(dataset.samples.iter().map(|sample| sample.part).eq(listed.iter().map(part)), "{shard}");
    }
}

#[test]
fn columns_that_are_not_there_or_hold_something_else_are_named() {
    let refusal = |source: &ParquetSource| refusal(read(source), &golden::path("source"));
    let other = ParquetSource { image: "pictures".into(), ..flat("plain.parquet") };
    assert_eq!(
        refusal(&other),
        "ROOT/plain.parquet: there is no column `pictures` (`data.image`); its columns: class, picture, use; did you mean \
         `picture`?"
    );
    let other = ParquetSource {
        fields: Fields { label: "label".into(), group: None, part: None },
        ..flat("plain.parquet")
    };
    assert!(refusal(&other).contains("there is no column `label` (`data.label`)"));
    let other = ParquetSource {
        fields: Fields { label: "class".into(), group: None, part: Some("class".into()) },
        ..flat("plain.parquet")
    };
    assert_eq!(
        refusal(&other),
        "ROOT/plain.parquet: row 0: `class` is `akita`: a part is called train, validation or test"
    );
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), &["x.parquet"]);
    let empty = ParquetSource { shards: vec![root.path().join("x.parquet")], ..flat("plain.parquet") };
    assert!(super::refusal(read(&empty), root.path()).starts_with("ROOT/x.parquet: "));
}
