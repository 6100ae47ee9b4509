use super::*;
use crate::dataset::Sample;
use crate::decode::decode;
use crate::golden;
use headstock_testing::capture_log;

fn webdataset_source(shards: &[&str]) -> WebDatasetSource {
    WebDatasetSource {
        shards: shards.iter().map(|name| golden::reference_path("source").join(name)).collect(),
        fields: FieldNames { label: "label".into(), group: None, split: None },
    }
}

/// Id, class name and approximate gray value of each sample.
fn sample_rows(dataset: &Dataset) -> Vec<(&str, &str, u8)> {
    let gray_value = |image: &ImageRef| decode(&image.read().unwrap(), 100).unwrap().get_pixel(2, 1).0[0];
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
        "ROOT/x.tar: sample `b`: `label` in the .json file is [1]: write text or a whole number"
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
