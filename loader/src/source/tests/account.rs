//! Samples, errors and what is passed over account for every file and row.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::zip::zip_bytes;
use super::*;
use crate::dataset::PassedOverReason;

/// Number of entries that `raw` accounts for.
fn n_accounted(raw: &RawDataset) -> usize {
    let entries = raw.errors.iter().filter_map(DatasetError::entries);
    let n_errors: usize = entries.filter(|(reason, _)| reason.is_some()).map(|(_, names)| names.len()).sum();
    raw.samples.len() + n_errors + raw.passed_over.total()
}

/// Checks that skipping the errors moves them to what is passed over.
fn check_skipped(mut raw: RawDataset) {
    let (before, n_samples) = (n_accounted(&raw), raw.samples.len());
    raw.skip_errors();
    assert_eq!(raw.samples.len(), n_samples);
    assert_eq!(n_samples + raw.passed_over.total(), before);
    assert!(raw.errors.is_empty(), "{:?}", raw.errors);
}

/// Paths of up to three folders and a file: some belong to the system, some are no photos.
fn file_paths() -> impl Strategy<Value = BTreeSet<String>> {
    let folder = prop::sample::select(vec!["a", "b", "@eaDir", ".hidden", "__MACOSX", "sub", "c d"]);
    let file = prop::sample::select(vec![
        "1.jpg",
        "2.JPEG",
        "3.png",
        "4.heic",
        "5.avif",
        "x.txt",
        "README",
        ".DS_Store",
        "Thumbs.db",
        "6.jpg~",
        "7.cr2",
    ]);
    let path = (prop::collection::vec(folder, 0..4), file)
        .prop_map(|(folders, file)| folders.into_iter().chain([file]).collect::<Vec<_>>().join("/"));
    prop::collection::btree_set(path, 1..12)
}

/// Cells of a table: photos that exist and that do not, classes, and nothing.
fn table_rows() -> impl Strategy<Value = Vec<(String, String)>> {
    let id = prop::sample::select(vec!["1", "2", "3", "4", "5", "gone", "lost", "", "../1", "/1", " "]);
    let class = prop::sample::select(vec!["cat", "dog", "", " "]);
    prop::collection::vec((id, class), 1..12)
        .prop_map(|rows| rows.into_iter().map(|(id, class)| (id.to_owned(), class.to_owned())).collect())
}

/// Members of a tar archive: photos, labels of them, labels of nothing, and other files.
fn tar_members() -> impl Strategy<Value = Vec<String>> {
    let member = prop::sample::select(vec![
        "1.jpg",
        "1.cls",
        "2.png",
        "2.txt",
        "3.cls",
        "3.json",
        "4.jpg",
        "4.seg.png",
        "5.heic",
        "6.bin",
        "../7.jpg",
    ]);
    prop::collection::vec(member.prop_map(str::to_owned), 0..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn each_file_of_a_folder_and_of_an_archive_is_accounted_for(paths in file_paths()) {
        let root = tempfile::tempdir().unwrap();
        let files: Vec<&str> = paths.iter().map(String::as_str).collect();
        create_files(&root.path().join("data"), &files);
        let members: Vec<(&str, &[u8])> = files.iter().map(|&file| (file, &b"x"[..])).collect();
        fs::write(root.path().join("data.zip"), zip_bytes(&members)).unwrap();
        let read = |name: &str| FolderSource { split_folders: Some(false), ..FolderSource::new(root.path().join(name)) }.list();
        let (folder, archive) = (read("data"), read("data.zip"));
        for raw in [&folder, &archive].into_iter().flatten() {
            prop_assert_eq!(n_accounted(raw), files.len());
        }
        // A folder without folders is no data set.
        let is_in_folder = |path: &String| path.split_once('/').is_some_and(|(first, _)| !is_of_system(first));
        prop_assert_eq!(folder.is_ok(), paths.iter().any(is_in_folder));
        folder.into_iter().chain(archive).for_each(check_skipped);
        let found = find_image_files(&root.path().join("data"), false).unwrap();
        prop_assert_eq!(found.images.len() + found.passed_over.total(), files.len());
    }

    #[test]
    fn each_row_of_a_table_is_accounted_for(rows in table_rows()) {
        let root = tempfile::tempdir().unwrap();
        create_files(root.path(), &["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]);
        let mut table = "id,label\n".to_owned();
        for (id, class) in &rows {
            table += &format!("{id},{class}\n");
        }
        fs::write(root.path().join("x.csv"), table).unwrap();
        let source = CsvSource {
            csv: root.path().join("x.csv"),
            images: root.path().into(),
            id: "id".into(),
            extension: "jpg".into(),
            fields: FieldNames { label: "label".into(), group: None, split: None },
            follow_links: false,
        };
        match source.list() {
            Ok(raw) => {
                prop_assert_eq!(n_accounted(&raw), rows.len());
                let is_empty = |(id, class): &&(String, String)| id.trim().is_empty() && class.trim().is_empty();
                prop_assert_eq!(raw.passed_over.count(PassedOverReason::EmptyRow), rows.iter().filter(is_empty).count());
                // Of a photo with two classes, no row is used.
                for sample in &raw.samples {
                    let is_same = |(id, class): &&(String, String)| format!("{id}.jpg") == sample.id && !class.trim().is_empty();
                    prop_assert!(rows.iter().filter(is_same).all(|(_, class)| class.trim() == sample.class));
                }
                check_skipped(raw);
            }
            Err(error) => prop_assert!(matches!(error, DatasetError::Empty { .. }), "{}", error),
        }
    }

    #[test]
    fn each_line_of_metadata_is_accounted_for(rows in table_rows(), blank in 0..3usize) {
        let root = tempfile::tempdir().unwrap();
        create_files(root.path(), &["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]);
        let mut lines: Vec<String> = rows
            .iter()
            .map(|(id, class)| match id.as_str() {
                "lost" => "{\"file_name\": ".to_owned(),
                _ => serde_json::json!({ "file_name": format!("{id}.jpg"), "label": class }).to_string(),
            })
            .collect();
        lines.resize(rows.len() + blank, String::new());
        fs::write(root.path().join("metadata.jsonl"), lines.join("\n") + "\n").unwrap();
        let fields = FieldNames { label: "label".into(), group: None, split: None };
        match (MetadataSource { root: root.path().into(), fields, follow_links: false }).list() {
            Ok(raw) => {
                prop_assert_eq!(n_accounted(&raw), rows.len() + blank);
                prop_assert_eq!(raw.passed_over.count(PassedOverReason::EmptyRow), blank);
                check_skipped(raw);
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    #[test]
    fn each_image_of_a_coco_file_is_accounted_for(
        rows in table_rows(),
        annotations in prop::collection::vec((0..14usize, 0..3usize), 0..14),
    ) {
        let root = tempfile::tempdir().unwrap();
        create_files(root.path(), &["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]);
        let image = |(index, (id, _)): (usize, &(String, String))| match id.as_str() {
            "lost" => serde_json::json!({ "id": index }),
            _ => serde_json::json!({ "id": index, "file_name": format!("{id}.jpg") }),
        };
        let images: Vec<_> = rows.iter().enumerate().map(image).collect();
        let annotated: BTreeSet<usize> = annotations.iter().map(|(image, _)| *image).collect();
        let annotations: Vec<_> = annotations
            .iter()
            .map(|(image, category)| serde_json::json!({ "image_id": image, "category_id": category }))
            .collect();
        let categories = serde_json::json!([{ "id": 0, "name": "cat" }, { "id": 1, "name": "dog" }]);
        let json = serde_json::json!({ "images": images, "annotations": annotations, "categories": categories });
        fs::write(root.path().join("x.json"), json.to_string()).unwrap();
        let source = CocoSource {
            file: root.path().join("x.json"),
            images: root.path().into(),
            fields: FieldNames { label: "name".into(), group: None, split: None },
            follow_links: false,
        };
        let raw = source.list().unwrap();
        let n_orphans = annotated.iter().filter(|&&image| image >= rows.len()).count();
        prop_assert_eq!(raw.passed_over.count(PassedOverReason::MissingImage), n_orphans);
        prop_assert_eq!(n_accounted(&raw), rows.len() + n_orphans);
        check_skipped(raw);
    }

    #[test]
    fn each_member_of_a_tar_archive_is_accounted_for(members in tar_members()) {
        let root = tempfile::tempdir().unwrap();
        let mut archive = tar::Builder::new(fs::File::create(root.path().join("a.tar")).unwrap());
        for member in &members {
            let mut header = tar::Header::new_gnu();
            let bytes: &[u8] = if member.ends_with("json") { b"{\"label\": \"cat\"}" } else { b"cat" };
            header.set_size(bytes.len() as u64);
            // The builder refuses paths that lead out of the archive.
            header.as_gnu_mut().unwrap().name[..member.len()].copy_from_slice(member.as_bytes());
            header.set_cksum();
            archive.append(&header, bytes).unwrap();
        }
        archive.finish().unwrap();
        let fields = FieldNames { label: "label".into(), group: None, split: None };
        let source = WebDatasetSource { shards: vec![root.path().join("a.tar")], image: None, fields };
        let raw = source.list().unwrap();
        // Labels of samples, and of photos that are errors, belong to their photos.
        let is_label = |member: &&String| [".cls", ".txt", ".json"].iter().any(|ending| member.ends_with(ending));
        let n_labels = members.iter().filter(is_label).count();
        let n_orphans = raw.passed_over.count(PassedOverReason::MissingImage);
        prop_assert!(n_orphans <= n_labels);
        prop_assert_eq!(n_accounted(&raw) + n_labels - n_orphans, members.len());
        check_skipped(raw);
    }
}

/// Whether the folder belongs to the system.
fn is_of_system(name: &str) -> bool {
    name.starts_with('.') || ["@eaDir", "__MACOSX"].contains(&name)
}
