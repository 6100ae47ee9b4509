use super::webdataset::gray_value;
use super::*;
use crate::dataset::PassedOverReason;
use crate::golden;

fn source(root: &Path) -> MetadataSource {
    let fields = FieldNames { label: "breed".into(), group: Some("dog".into()), split: None };
    MetadataSource { root: root.into(), fields, follow_links: false }
}

/// A folder with these files.
fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn error_of(root: &tempfile::TempDir) -> String {
    let fields = FieldNames { label: "label".into(), group: None, split: None };
    let source = MetadataSource { root: root.path().into(), fields, follow_links: false };
    error_message(read_sorted(&source), root.path())
}

// effect: data.metadata
#[test]
fn metadata_is_read_as_by_the_datasets_library() {
    let expected = golden::json("metadata/expected.json");
    for kind in ["csv", "jsonl", "parquet"] {
        let samples = source(&golden::reference_path("metadata").join(kind)).list().unwrap().samples;
        let mut found: Vec<serde_json::Value> = samples
            .iter()
            .map(|sample| {
                let split = if sample.split == Some(Split::Train) { "train" } else { "test" };
                assert!(sample.id.starts_with(split), "{}", sample.id);
                serde_json::json!([split, gray_value(&sample.image), sample.class, sample.group])
            })
            .collect();
        found.sort_by_key(|row| row[0] == "test");
        assert_eq!(expected[kind].as_array().unwrap(), &found, "{kind}");
    }
}

#[test]
fn a_column_may_hold_the_split_and_one_file_is_for_all() {
    let root = folder_with(&[
        ("metadata.csv", "file_name,label,use\nx/1.jpg,cat,test\n2.jpg,dog,train\n3.jpg,cat,train\n"),
        ("x/1.jpg", ""),
        ("2.jpg", ""),
        ("3.jpg", ""),
        ("unlisted.jpg", ""),
    ]);
    let fields = FieldNames { label: "label".into(), group: None, split: Some("use".into()) };
    let source = MetadataSource { root: root.path().into(), fields, follow_links: false };
    let samples = source.list().unwrap().samples;
    let rows: Vec<_> = samples.iter().map(|sample| (sample.id.as_str(), sample.split.unwrap())).collect();
    assert_eq!(rows, [("x/1.jpg", Split::Test), ("2.jpg", Split::Train), ("3.jpg", Split::Train)]);
    assert_eq!(source.unlabeled().unwrap(), ["unlisted.jpg"]);
    assert_eq!(
        read_metadata_columns(&root.path().join("metadata.csv")).unwrap(),
        ["file_name", "label", "use"]
    );
}

#[test]
fn lines_that_cannot_be_used_are_errors_of_their_own() {
    let root = folder_with(&[
        (
            "metadata.jsonl",
            "\u{feff}{\"file_name\": \"1.jpg\", \"label\": 7}\n\nx\n[1]\n{\"file_name\": \"2.jpg\"}\n{\"file_name\": \"2.jpg\", \
             \"label\": [1]}\n{\"file_name\": \"../2.jpg\", \"label\": \"dog\"}\n{\"file_name\": \"2.jpg\", \"label\": \"dog\"}\n",
        ),
        ("1.jpg", ""),
        ("2.jpg", ""),
    ]);
    let fields = FieldNames { label: "label".into(), group: None, split: None };
    let raw = MetadataSource { root: root.path().into(), fields, follow_links: false }.list().unwrap();
    let samples: Vec<_> =
        raw.samples.iter().map(|sample| (sample.id.as_str(), sample.class.as_str())).collect();
    assert_eq!(samples, [("1.jpg", "7"), ("2.jpg", "dog")]);
    assert_eq!(raw.passed_over.count(PassedOverReason::EmptyRow), 1);
    let errors: Vec<String> = raw.errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 5);
    for (error, part) in errors.iter().zip([
        "line 3: this is not valid JSON: expected value at line 1 column 1",
        "line 4: this is not a JSON object",
        "line 5: `label` is empty: add a value, or remove the row",
        "line 6: `label` is [1]: write text or a whole number",
        "line 7: the id `../2.jpg`",
    ]) {
        assert!(error.contains(part), "{error}");
    }
    let columns = read_metadata_columns(
        &folder_with(&[("metadata.jsonl", "\n{\"b\": 1, \"a\": 2}\n")]).path().join("metadata.jsonl"),
    );
    assert_eq!(columns.unwrap(), ["b", "a"]);
}

#[test]
fn a_folder_needs_one_metadata_file_with_the_columns() {
    let rows = "{\"file_name\": \"1.jpg\", \"breed\": \"pug\"}\n";
    assert_eq!(
        error_of(&folder_with(&[("metadata.jsonl", rows), ("1.jpg", "")])),
        "ROOT/metadata.jsonl: there is no column `label`: set `label` to one of the columns file_name, breed"
    );
    let two = error_of(&folder_with(&[("metadata.jsonl", rows), ("metadata.csv", "file_name,label\n")]));
    assert_eq!(two, "ROOT: the folder has metadata.csv, metadata.jsonl: remove all but one");
    let none = error_of(&folder_with(&[("a/1.jpg", "")]));
    assert!(none.contains("metadata.csv, metadata.jsonl or metadata.parquet"), "{none}");
    // A folder that is no split has no split, and the ids have its name.
    let root = folder_with(&[
        ("a/metadata.csv", "file_name,label\n1.jpg,cat\n2.jpg,dog\n"),
        ("a/1.jpg", ""),
        ("a/2.jpg", ""),
    ]);
    let fields = FieldNames { label: "label".into(), group: None, split: None };
    let source = MetadataSource { root: root.path().into(), fields, follow_links: false };
    let samples = source.list().unwrap().samples;
    assert_eq!((samples[1].id.as_str(), samples[1].split), ("a/2.jpg", None));
}
