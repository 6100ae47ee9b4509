//! Zip archives as folders.

use std::io::{Cursor, Write};

use ::zip::write::SimpleFileOptions;
use ::zip::{CompressionMethod, ZipWriter};

use super::*;
use crate::dataset::PassedOverReason;

/// The bytes of a zip archive with `files`, of which every second one is compressed.
pub(super) fn zip_bytes(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (number, (name, bytes)) in files.iter().enumerate() {
        let method = [CompressionMethod::Stored, CompressionMethod::Deflated][number % 2];
        archive.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn list_zip(bytes: &[u8], inner: &str) -> Result<RawDataset, DatasetError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("photos.zip"), bytes).unwrap();
    let raw = FolderSource::new(folder.path().join("photos.zip").join(inner)).list()?;
    // Photos are read while the archive is there.
    for sample in &raw.samples {
        assert_eq!(sample.image.read().unwrap(), sample.id.rsplit('/').next().unwrap().as_bytes());
    }
    Ok(raw)
}

fn sample_ids(raw: &RawDataset) -> Vec<&str> {
    raw.samples.iter().map(|sample| sample.id.as_str()).collect()
}

#[test]
fn an_archive_is_read_like_the_folder_that_it_was_made_of() {
    let files: &[(&str, &[u8])] = &[
        ("b/2.jpg", b"2.jpg"),
        ("a/1.jpg", b"1.jpg"),
        ("a/deep/0.png", b"0.png"),
        ("a\\3.jpg", b"3.jpg"),
        ("__MACOSX/a/._1.jpg", b""),
        ("a/notes.txt", b""),
        ("c.jpg", b"c.jpg"),
        ("../out.jpg", b""),
    ];
    let raw = list_zip(&zip_bytes(files), "").unwrap();
    assert_eq!(sample_ids(&raw), ["a/1.jpg", "a/3.jpg", "a/deep/0.png", "b/2.jpg"]);
    let counts = [
        (PassedOverReason::SystemFile, 1),
        (PassedOverReason::FileType, 1),
        (PassedOverReason::Unlabeled, 1),
    ];
    assert_eq!(raw.passed_over.counts(), counts.into_iter().collect());
    assert!(raw.errors[0].to_string().contains("leads out of the archive"), "{:?}", raw.errors);
    // A folder that holds all others is not part of the data; a folder inside the archive can be named.
    let wrapped: &[(&str, &[u8])] =
        &[("pets/train/a/1.jpg", b"1.jpg"), ("pets/train/b/2.jpg", b"2.jpg"), ("pets/readme.md", b"")];
    assert_eq!(sample_ids(&list_zip(&zip_bytes(wrapped), "").unwrap()), ["a/1.jpg", "b/2.jpg"]);
    assert_eq!(sample_ids(&list_zip(&zip_bytes(wrapped), "pets/train").unwrap()), ["a/1.jpg", "b/2.jpg"]);
    assert!(matches!(list_zip(&zip_bytes(wrapped), "none"), Err(DatasetError::NoFolder(_))));
}

#[test]
fn archives_inside_an_archive_are_folders() {
    let train = zip_bytes(&[("train/a/1.jpg", b"1.jpg"), ("train/b/2.jpg", b"2.jpg")]);
    let test = zip_bytes(&[("a/3.jpg", b"3.jpg")]);
    // One of them is stored, the other one compressed.
    let outer = zip_bytes(&[("train.zip", &train), ("test.zip", &test)]);
    let raw = list_zip(&outer, "").unwrap();
    assert_eq!(sample_ids(&raw), ["test/a/3.jpg", "train/a/1.jpg", "train/b/2.jpg"]);
    assert_eq!(raw.samples[0].split, Some(Split::Test));
    assert_eq!(sample_ids(&list_zip(&outer, "train.zip").unwrap()), ["a/1.jpg", "b/2.jpg"]);
}

#[test]
fn damaged_and_hostile_archives_are_errors() {
    let good = zip_bytes(&[("a/1.jpg", b"1.jpg"), ("b/2.jpg", b"2.jpg")]);
    for length in [0, 10, good.len() / 2, good.len() - 1] {
        let error = list_zip(&good[..length], "").unwrap_err().to_string();
        assert!(error.contains("photos.zip: the archive cannot be read"), "{error}");
    }
    let mut changed = good.clone();
    changed[40] ^= 1;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photos.zip");
    fs::write(&path, changed).unwrap();
    let raw = FolderSource::new(path).list().unwrap();
    let errors = raw.samples.iter().filter(|sample| sample.image.read().is_err()).count();
    assert_eq!(errors, 1, "the checksum of one photo is wrong");
}

#[test]
fn a_table_may_name_images_in_an_archive() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("train.zip"),
        zip_bytes(&[("train/1.jpg", b"1.jpg"), ("train/2.jpg", b"2.jpg")]),
    )
    .unwrap();
    fs::write(folder.path().join("x.csv"), "id,label\n1.jpg,a\n2.jpg,b\n3.jpg,b\n").unwrap();
    let source = CsvSource {
        csv: folder.path().join("x.csv"),
        images: folder.path().join("train.zip/train"),
        id: "id".into(),
        extension: String::new(),
        fields: FieldNames { label: "label".into(), group: None, split: None },
        follow_links: false,
    };
    let raw = source.list().unwrap();
    assert_eq!(sample_ids(&raw), ["1.jpg", "2.jpg"]);
    assert_eq!(raw.samples[1].image.read().unwrap(), b"2.jpg");
    assert!(matches!(&raw.errors[0], DatasetError::MissingImages { missing, .. } if missing.0 == ["3.jpg"]));
}
