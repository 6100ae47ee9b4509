use super::*;
use crate::dataset::Sample;
use crate::decode::decode;
use crate::golden;
use crate::logged::logged;

fn source(shards: &[&str]) -> WebDatasetSource {
    WebDatasetSource {
        shards: shards.iter().map(|name| golden::path("source").join(name)).collect(),
        fields: Fields { label: "label".into(), group: None, part: None },
    }
}

/// Each sample: its id, its class, and about what grey its photo has.
fn listed(dataset: &Dataset) -> Vec<(&str, &str, u8)> {
    let grey = |photo: &Photo| decode(&photo.read().unwrap(), 100).unwrap().get_pixel(2, 1).0[0];
    let row = |sample| {
        let Sample { id, photo, label, .. }: &Sample = sample;
        (id.as_str(), dataset.classes.name(*label), grey(photo))
    };
    dataset.samples.iter().map(row).collect()
}

#[test]
fn a_sample_is_what_has_one_name_and_cls_json_or_txt_tell_its_class() {
    let dataset = read(&source(&["numbers-000.tar"])).unwrap();
    assert_eq!(
        listed(&dataset)[..2],
        [("numbers-000.tar/sub/0000.png", "0", 60), ("numbers-000.tar/sub/0001.png", "1", 61)]
    );
    assert_eq!(dataset.samples.len(), 8);

    let records = source(&["records.tar.gz"]);
    let fields = Fields { label: "label".into(), group: Some("dog".into()), part: Some("use".into()) };
    let dataset = read(&WebDatasetSource { fields, ..records }).unwrap();
    assert_eq!(listed(&dataset)[5], ("records.tar.gz/0005.jpg", "boxer", 95));
    assert_eq!(dataset.samples[4].group, Some(2));
    assert_eq!(
        (dataset.samples[0].part, dataset.samples[1].part),
        (Some(Part::Validation), Some(Part::Train))
    );
}

#[test]
fn a_compressed_archive_is_read_in_any_order() {
    let dataset = read(&source(&["records.tar.gz"])).unwrap();
    for i in [5, 0, 3, 3, 1, 4, 2] {
        assert_eq!(listed(&dataset)[i].2, 90 + i as u8);
    }
}

#[test]
fn links_and_other_files_are_passed_over_and_photos_without_a_class_left_out_with_a_line() {
    let mut dataset = None;
    let told = logged(|| dataset = Some(read(&source(&["odd.tar"])).unwrap()));
    assert!(told.contains("1 photos without a class (`cls`, `json` with `label`, `txt`)"), "{told}");
    assert!(told.contains("3 links and files that are no photos"), "{told}");
    let long = format!("odd.tar/cats/{}.jpeg", "long".repeat(50));
    assert_eq!(listed(&dataset.unwrap()), [(long.as_str(), "cat", 80), ("odd.tar/b.PNG", "dog", 81)]);
    assert_eq!(source(&["odd.tar"]).unlabelled().unwrap(), ["odd.tar/c.png"]);
}

/// An archive of these members.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (name, data) in members {
        let mut header = tar::Header::new_gnu();
        // `set_path` refuses what hostile archives hold.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(data.len() as u64);
        header.set_cksum();
        out.append(&header, *data).unwrap();
    }
    out.into_inner().unwrap()
}

/// In whatever order they stand.
#[test]
fn of_several_files_that_tell_a_class_cls_comes_before_json_and_json_before_txt() {
    let class = |notes: &[(&str, &[u8])]| {
        let root = tempfile::tempdir().unwrap();
        let photo = ("a.png", b"x".as_slice());
        // Another sample, of another class.
        let (notes, other) = ([&[photo], notes].concat(), [("b.png", b"x".as_slice()), ("b.cls", b"other")]);
        fs::write(root.path().join("x.tar"), archive(&[&notes[..], &other].concat())).unwrap();
        let dataset =
            read(&WebDatasetSource { shards: vec![root.path().join("x.tar")], ..source(&[]) }).unwrap();
        dataset.classes.name(dataset.samples[0].label).to_owned()
    };
    let [cls, json, txt]: [(&str, &[u8]); 3] =
        [("a.cls", b"1"), ("a.JSON", b"{\"label\": \"two\"}"), ("a.txt", b"three\n")];
    for notes in [[cls, json, txt], [txt, json, cls], [json, txt, cls], [json, cls, txt]] {
        assert_eq!(class(&notes), "1");
    }
    assert_eq!([class(&[json, txt]), class(&[txt, json])], ["two", "two"]);
    // What is empty tells none.
    for empty in [("a.cls", b" ".as_slice()), ("a.json", b"{\"label\": null}"), ("a.json", b"{}")] {
        assert_eq!(class(&[empty, txt]), "three");
    }
    // A name of its own up to the first dot.
    assert_eq!(class(&[("a.b.cls", b"4"), ("a.cls", b"1")]), "1");
}

fn refused(bytes: &[u8]) -> String {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("x.tar"), bytes).unwrap();
    let source = WebDatasetSource { shards: vec![root.path().join("x.tar")], ..source(&[]) };
    refusal(read(&source), root.path())
}

#[test]
fn members_that_lead_out_of_the_archive_are_refused() {
    for name in ["../a.png", "/etc/a.png", "a/../../b.png"] {
        let bytes = archive(&[("a.png", b"x"), ("a.cls", b"1"), (name, b"x")]);
        assert_eq!(
            refused(&bytes),
            format!(
                "ROOT/x.tar: the member `{name}` leads out of ROOT/x.tar: photos must lie below that folder"
            )
        );
    }
}

#[test]
fn what_does_not_hold_together_is_named() {
    let good = [("a.png", b"x".as_slice()), ("a.cls", b"1"), ("b.png", b"x"), ("b.cls", b"2")];
    let twice = archive(&[&good[..], &[("a.jpg", b"x")]].concat());
    assert!(
        refused(&twice).contains("the sample `a` stands at two places (sample 1 and 3)"),
        "{}",
        refused(&twice)
    );
    let two = archive(&[&good[..], &[("b.jpg", b"x")]].concat());
    assert_eq!(refused(&two), "ROOT/x.tar: the sample `b` has several photos: b.png, b.jpg");
    let json = archive(&[&good[..], &[("b.json", b"{\"label\": [1]}")]].concat());
    assert_eq!(refused(&json), "ROOT/x.tar: `b`: json: `label` is [1]: text or a whole number is wanted");
    let whole = archive(&good);
    for cut in [100, 600, 1600] {
        assert!(refused(&whole[..cut]).starts_with("ROOT/x.tar"), "{cut}");
    }
    assert_eq!(refused(b"no tar"), "ROOT/x.tar: failed to read entire block");
}
