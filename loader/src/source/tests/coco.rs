use super::*;
use crate::dataset::PassedOverReason;

/// A folder with the photos `1.jpg` to `5.jpg` and this JSON file.
struct CocoFixture(tempfile::TempDir);

impl CocoFixture {
    fn new(json: &serde_json::Value) -> Self {
        let root = tempfile::tempdir().unwrap();
        create_files(root.path(), &["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]);
        fs::write(root.path().join("x.json"), json.to_string()).unwrap();
        Self(root)
    }

    fn source(&self) -> CocoSource {
        CocoSource {
            file: self.0.path().join("x.json"),
            images: self.0.path().into(),
            fields: FieldNames { label: "name".into(), group: None, split: None },
            follow_links: false,
        }
    }

    fn error_message(&self) -> String {
        error_message(read_sorted(&self.source()), self.0.path())
    }
}

/// As iNaturalist's files: numbers as ids, more fields than are needed.
fn inaturalist() -> serde_json::Value {
    serde_json::json!({
        "info": {"year": 2019},
        "images": [
            {"id": 10, "file_name": "3.jpg", "width": 800, "location": "a", "use": "train"},
            {"id": 11, "file_name": "1.jpg", "width": 800, "location": "b", "use": "val"},
            {"id": 12, "file_name": "2.jpg", "width": 800, "location": "a", "use": "train"},
        ],
        "annotations": [
            {"id": 1, "image_id": 12, "category_id": 7},
            {"id": 2, "image_id": 10, "category_id": 3},
            {"id": 3, "image_id": 11, "category_id": 7},
        ],
        "categories": [
            {"id": 7, "name": "Bufo bufo", "supercategory": "Amphibia"},
            {"id": 3, "name": "Ardea alba", "supercategory": "Aves"},
        ],
    })
}

// effect: data.coco, data.test_coco
#[test]
fn the_category_of_the_annotation_is_the_class() {
    let fixture = CocoFixture::new(&inaturalist());
    let samples = fixture.source().list().unwrap().samples;
    let rows: Vec<_> = samples.iter().map(|sample| (sample.id.as_str(), sample.class.as_str())).collect();
    assert_eq!(rows, [("3.jpg", "Ardea alba"), ("1.jpg", "Bufo bufo"), ("2.jpg", "Bufo bufo")]);
    assert_eq!(fixture.source().unlabeled().unwrap(), ["4.jpg", "5.jpg"]);
    assert_eq!(read_coco_file_names(&fixture.source().file, 2).unwrap(), ["3.jpg", "1.jpg"]);

    let fields = FieldNames {
        label: "supercategory".into(),
        group: Some("location".into()),
        split: Some("use".into()),
    };
    let samples = CocoSource { fields, ..fixture.source() }.list().unwrap().samples;
    assert_eq!((samples[0].class.as_str(), samples[0].group.as_deref()), ("Aves", Some("a")));
    assert_eq!((samples[1].split, samples[2].split), (Some(Split::Validation), Some(Split::Train)));

    let config: CocoConfig = toml::from_str("coco = 'x.json'\nimages = '.'\ntest_coco = 'y.json'").unwrap();
    let mut test = SourceConfig::test_data(&config).unwrap();
    SourceConfig::resolve(&mut test, fixture.0.path()).unwrap();
    assert_eq!((test.coco, test.test_coco), (fixture.0.path().join("y.json"), None));
    let mut without: CocoConfig = toml::from_str("coco = 'x.json'").unwrap();
    let error = SourceConfig::resolve(&mut without, fixture.0.path()).unwrap_err().to_string();
    assert!(error.starts_with("`images` is missing: give the folder"), "{error}");
}

#[test]
fn images_that_cannot_be_used_are_errors_or_counted() {
    let mut json = inaturalist();
    json["images"].as_array_mut().unwrap().extend([
        serde_json::json!({"id": 13, "file_name": "4.jpg"}),
        serde_json::json!({"id": 14, "file_name": "5.jpg"}),
        serde_json::json!({"id": 15}),
        serde_json::json!({"id": 16, "file_name": "gone.jpg"}),
        serde_json::json!(["5.jpg"]),
        serde_json::json!({"id": "x", "file_name": "5.jpg"}),
    ]);
    json["annotations"].as_array_mut().unwrap().extend([
        serde_json::json!({"image_id": 14, "category_id": 3}),
        serde_json::json!({"image_id": 14, "category_id": 7}),
        serde_json::json!({"image_id": 15, "category_id": 3}),
        serde_json::json!({"image_id": 16, "category_id": 3}),
        serde_json::json!({"image_id": 10, "category_id": 3}),
        serde_json::json!({"image_id": "x", "category_id": 99}),
        serde_json::json!({"image_id": 999, "category_id": 3}),
    ]);
    let raw = CocoFixture::new(&json).source().list().unwrap();
    assert_eq!(raw.samples.len(), 3);
    assert_eq!(raw.passed_over.count(PassedOverReason::Unlabeled), 1);
    assert_eq!(raw.passed_over.count(PassedOverReason::MissingImage), 1);
    let errors: Vec<String> = raw.errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 5);
    for (error, part) in errors.iter().zip([
        "image 4 (counted from 0): `5.jpg` has 2 categories: a photo can have only one class",
        "image 5 (counted from 0): `file_name` is missing",
        "image 7 (counted from 0): `id` is missing",
        "image 8 (counted from 0): `5.jpg`: there is no category with the number 99",
        "lists photos that are not in the folder",
    ]) {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn boxes_and_other_files_are_refused() {
    let mut json = inaturalist();
    json["annotations"][0]["bbox"] = serde_json::json!([1, 2, 3, 4]);
    // A box for each photo is a class for each photo.
    CocoFixture::new(&json).source().list().unwrap();
    json["annotations"][1]["image_id"] = 12.into();
    let error = CocoFixture::new(&json).error_message();
    assert!(
        error.starts_with("ROOT/x.json: this is data for object detection: its 3 annotations are boxes"),
        "{error}"
    );

    for (json, part) in [
        (
            serde_json::json!([1]),
            "this is not a JSON file with the lists `images`, `annotations` and `categories`",
        ),
        (serde_json::json!({"images": 3}), "this is not a JSON file with the lists"),
        (serde_json::json!({"annotations": []}), "missing field `images`"),
        (
            serde_json::json!({"images": [], "annotations": [{"image_id": 1}], "categories": []}),
            "annotation 0 (counted from 0) has no field `category_id`",
        ),
    ] {
        let fixture = CocoFixture::new(&json);
        let error = fixture.error_message();
        assert!(error.starts_with("ROOT/x.json") && error.contains(part), "{error}");
        assert_eq!(read_coco_file_names(&fixture.source().file, 3), None);
    }
    let fixture = CocoFixture::new(&inaturalist());
    let fields = FieldNames { label: "title".into(), group: None, split: None };
    let error = CocoSource { fields, ..fixture.source() }.list().unwrap_err().to_string();
    assert!(
        error.ends_with("no category has the field `title`: set `label` to the field with the name of the class, one of id, name, supercategory"),
        "{error}"
    );
}
