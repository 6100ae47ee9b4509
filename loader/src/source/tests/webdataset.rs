use super::*;
use crate::dataset::{PassedOverReason, Sample};
use crate::decode::decode;
use crate::golden;
use headstock_testing::capture_log;

fn webdataset_source(shards: &[&str]) -> WebDatasetSource {
    WebDatasetSource {
        shards: shards.iter().map(|name| golden::reference_path("source").join(name)).collect(),
        image: None,
        fields: FieldNames { label: "label".into(), group: None, split: None },
    }
}

/// The approximate gray value of an image of one color.
pub(super) fn gray_value(image: &ImageRef) -> u8 {
    decode(&image.read().unwrap(), 100).unwrap().get_pixel(2, 1).0[0]
}

/// Id, class name and approximate gray value of each sample.
fn sample_rows(dataset: &Dataset) -> Vec<(&str, &str, u8)> {
    let row = |sample| {
        let Sample { id, image, label, .. }: &Sample = sample;
        (id.as_str(), dataset.classes.name(*label), gray_value(image))
    };
    dataset.samples.iter().map(row).collect()
}

#[test]
fn files_with_the_same_name_are_a_sample_and_cls_json_or_txt_give_its_class() {
    let dataset = read_sorted(&webdataset_source(&["numbers-000.tar"])).unwrap();
    assert_eq!(
        sample_rows(&dataset)[..2],
        [("numbers-000.tar/sub/0000.png", "0", 60), ("numbers-000.tar/sub/0001.png", "1", 61)]
    );
    assert_eq!(dataset.samples.len(), 8);

    let records = webdataset_source(&["records.tar.gz"]);
    let fields = FieldNames { label: "label".into(), group: Some("dog".into()), split: Some("use".into()) };
    let dataset = read_sorted(&WebDatasetSource { fields, ..records }).unwrap();
    assert_eq!(sample_rows(&dataset)[5], ("records.tar.gz/0005.jpg", "boxer", 95));
    assert_eq!(dataset.samples[4].group, Some(2));
    assert_eq!(
        (dataset.samples[0].split, dataset.samples[1].split),
        (Some(Split::Validation), Some(Split::Train))
    );
}

#[test]
fn a_compressed_archive_is_read_in_any_order() {
    let dataset = read_sorted(&webdataset_source(&["records.tar.gz"])).unwrap();
    for i in [5, 0, 3, 3, 1, 4, 2] {
        assert_eq!(sample_rows(&dataset)[i].2, 90 + i as u8);
    }
}

#[test]
fn links_other_files_and_images_without_a_class_are_skipped_with_a_log_line() {
    let raw = webdataset_source(&["odd.tar"]).list().unwrap();
    let log = capture_log(|| raw.passed_over.log(Path::new("odd.tar")));
    let dataset = read_sorted(&webdataset_source(&["odd.tar"])).unwrap();
    assert!(
        log.contains(
            "no class is given in a file with the name of the photo and the extension .cls, .json (field \
             `label`) or .txt"
        ),
        "{log}"
    );
    assert_eq!(raw.passed_over.total(), 4, "{log}");
    let long = format!("odd.tar/cats/{}.jpeg", "long".repeat(50));
    assert_eq!(sample_rows(&dataset), [(long.as_str(), "cat", 80), ("odd.tar/b.PNG", "dog", 81)]);
    assert_eq!(webdataset_source(&["odd.tar"]).unlabeled().unwrap(), ["odd.tar/c.png"]);
}

/// A tar archive with the given members.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (name, data) in members {
        let mut header = tar::Header::new_gnu();
        // `set_path` rejects the names of hostile archives.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(data.len() as u64);
        header.set_cksum();
        out.append(&header, *data).unwrap();
    }
    out.into_inner().unwrap()
}

/// In any order of the files.
#[test]
fn cls_takes_precedence_over_json_and_json_over_txt() {
    let class = |annotations: &[(&str, &[u8])]| {
        let root = tempfile::tempdir().unwrap();
        let image = ("a.png", b"x".as_slice());
        // Another sample, of another class.
        let (annotations, other) =
            ([&[image], annotations].concat(), [("b.png", b"x".as_slice()), ("b.cls", b"other")]);
        fs::write(root.path().join("x.tar"), archive(&[&annotations[..], &other].concat())).unwrap();
        let dataset = read_sorted(&WebDatasetSource {
            shards: vec![root.path().join("x.tar")],
            ..webdataset_source(&[])
        })
        .unwrap();
        dataset.classes.name(dataset.samples[0].label).to_owned()
    };
    let [cls, json, txt]: [(&str, &[u8]); 3] =
        [("a.cls", b"1"), ("a.JSON", b"{\"label\": \"two\"}"), ("a.txt", b"three\n")];
    for annotations in [[cls, json, txt], [txt, json, cls], [json, txt, cls], [json, cls, txt]] {
        assert_eq!(class(&annotations), "1");
    }
    assert_eq!([class(&[json, txt]), class(&[txt, json])], ["two", "two"]);
    // Empty files and fields are ignored.
    for empty in [("a.cls", b" ".as_slice()), ("a.json", b"{\"label\": null}"), ("a.json", b"{}")] {
        assert_eq!(class(&[empty, txt]), "three");
    }
    // The key ends at the first dot.
    assert_eq!(class(&[("a.b.cls", b"4"), ("a.cls", b"1")]), "1");
}

fn error_message_for(bytes: &[u8]) -> String {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("x.tar"), bytes).unwrap();
    let source = WebDatasetSource { shards: vec![root.path().join("x.tar")], ..webdataset_source(&[]) };
    error_message(read_sorted(&source), root.path())
}

#[test]
fn members_that_point_outside_the_archive_are_errors() {
    for name in ["../a.png", "/etc/a.png", "a/../../b.png"] {
        let bytes = archive(&[("a.png", b"x"), ("a.cls", b"1"), (name, b"x")]);
        assert_eq!(
            error_message_for(&bytes),
            format!(
                "ROOT/x.tar: the path `{name}` in the archive: it points outside the archive: create the archive \
                 again without this file"
            )
        );
    }
}

#[test]
fn inconsistent_samples_are_reported() {
    let good = [("a.png", b"x".as_slice()), ("a.cls", b"1"), ("b.png", b"x"), ("b.cls", b"2")];
    let twice = archive(&[&good[..], &[("a.jpg", b"x")]].concat());
    assert!(
        error_message_for(&twice)
            .contains("the name `a` (up to the first dot) appears twice, as sample 1 and as sample 3"),
        "{}",
        error_message_for(&twice)
    );
    let two = archive(&[&good[..], &[("b.jpg", b"x")]].concat());
    assert_eq!(
        error_message_for(&two),
        "ROOT/x.tar: `b.png`, `b.jpg`: several photos have the same name up to the first dot: give each photo \
         its own name"
    );
    let json = archive(&[&good[..], &[("b.json", b"{\"label\": [1]}")]].concat());
    assert_eq!(
        error_message_for(&json),
        "ROOT/x.tar: sample `b`: `label` is [1]: write text or a whole number"
    );
    let whole = archive(&good);
    for cut in [100, 600, 1600] {
        assert!(error_message_for(&whole[..cut]).starts_with("ROOT/x.tar"), "{cut}");
    }
    assert_eq!(
        error_message_for(b"no tar"),
        "ROOT/x.tar: the archive cannot be read: failed to read entire block; check that the file is a \
         complete .tar archive"
    );
}

/// The samples of an archive with these files.
fn raw_of(files: &[(&str, &[u8])], image: Option<&str>) -> Result<RawDataset, DatasetError> {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("x.tar"), archive(files)).unwrap();
    let (shards, image) = (vec![root.path().join("x.tar")], image.map(str::to_owned));
    WebDatasetSource { shards, image, ..webdataset_source(&[]) }.list()
}

fn errors_of(raw: &RawDataset) -> Vec<String> {
    raw.errors.iter().map(|error| error.to_string().split_once("x.tar: ").unwrap().1.to_owned()).collect()
}

// effect: data.image
#[test]
fn a_key_names_the_image_among_the_files_of_a_sample() {
    let files: [(&str, &[u8]); 6] = [
        ("1.input.png", b"x"),
        ("1.mask.png", b"x"),
        ("1.cls", b"cat"),
        ("2.input.jpg", b"x"),
        ("2.mask.png", b"x"),
        ("2.cls", b"dog"),
    ];
    let raw = raw_of(&files, Some("input.png;input.JPG")).unwrap();
    assert_eq!(errors_of(&raw), [""; 0]);
    let ids: Vec<&str> = raw.samples.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(ids, ["x.tar/1.input.png", "x.tar/2.input.jpg"]);
    assert_eq!(raw.passed_over.total(), 2);
    let raw = raw_of(&files, None).unwrap();
    assert_eq!(raw.errors.len(), 4);
    assert_eq!(
        errors_of(&raw)[0],
        "`1.input.png`: the name of a photo has one dot, before its extension: set `image` to \"input.png\" if that \
         is what follows the first dot in the names of all photos"
    );
    assert_eq!(raw.passed_over.total(), 0);
}

#[test]
fn dots_in_names_and_labels_elsewhere_are_explained() {
    let raw = raw_of(&[("a.v1.jpg", b"x"), ("a.v1.cls", b"cat"), ("b.jpg", b"x"), ("b.cls", b"dog")], None)
        .unwrap();
    assert_eq!(
        errors_of(&raw),
        [
            "`a.v1.jpg`: the name of a sample ends at the first dot, so this is a file of the sample `a`, which has no \
          label: name the files without other dots"
        ]
    );
    let raw =
        raw_of(&[("1.jpg", b"x"), ("2.jpg", b"x"), ("1.cls", b"cat"), ("3.cls", b"dog")], None).unwrap();
    assert_eq!(
        errors_of(&raw),
        [
            "`1.jpg`: its label is elsewhere in the archive, but the files of a photo must follow each other: create the \
          archive again with its files sorted by name"
        ]
    );
    assert_eq!(raw.passed_over.count(PassedOverReason::Unlabeled), 1);
    assert_eq!(raw.passed_over.count(PassedOverReason::MissingImage), 1);
}

#[test]
fn an_archive_of_class_folders_is_refused_by_name() {
    let error = raw_of(&[("p/cat/1.jpg", b"x"), ("p/dog/2.jpg", b"x")], None).unwrap_err().to_string();
    let expected = "no photo has a label, but the photos are in folders (cat, dog), which are probably their classes: \
                    unpack the archive, and use the unpacked folder";
    assert!(error.ends_with(expected), "{error}");
    // Photos of one folder have no classes, and with labels folders mean nothing.
    assert_eq!(raw_of(&[("p/1.jpg", b"x"), ("p/2.jpg", b"x")], None).unwrap().passed_over.total(), 2);
    raw_of(&[("p/cat/1.jpg", b"x"), ("p/dog/2.jpg", b"x"), ("p/dog/2.cls", b"x")], None).unwrap();
    // Shards are no folders.
    let root = tempfile::tempdir().unwrap();
    let shards = ["1.tar", "2.tar"].map(|name| root.path().join(name)).to_vec();
    shards.iter().for_each(|shard| fs::write(shard, archive(&[("1.jpg", b"x")])).unwrap());
    assert_eq!(WebDatasetSource { shards, ..webdataset_source(&[]) }.list().unwrap().passed_over.total(), 2);
}
