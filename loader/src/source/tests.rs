mod account;
mod coco;
mod conformance;
mod csv;
mod folder;
mod metadata;
mod parquet;
mod splits;
mod unreadable;
mod webdataset;
mod zip;

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::dataset::{ClassMap, ClassOrder, Dataset, RawSample, Split};
use crate::image_ref::ImageRef;

fn read_sorted(source: &dyn DataSource) -> Result<Dataset, DatasetError> {
    Dataset::from_raw(source.list()?, ClassOrder::Sorted)
}

fn read_folder_with_classes(root: &Path, classes: &ClassMap) -> Result<Dataset, DatasetError> {
    Dataset::from_raw_with_classes(FolderSource::new(root.into()).list()?, classes)
}

fn read_folder(root: &Path) -> Result<Dataset, DatasetError> {
    read_sorted(&FolderSource::new(root.into()))
}

#[test]
fn images_are_recognized_by_their_extensions() {
    let extensions = [
        "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm",
        "JPG", "Png",
    ];
    for ending in extensions {
        assert!(is_image_file(Path::new(&format!("a.{ending}"))), "{ending}");
    }
    for name in ["a", "jpg", ".jpg", "a.jp", "a.jpg2", "a.jpg.txt", "a.jxl", "a.svg", "a.pam"] {
        assert!(!is_image_file(Path::new(name)), "{name}");
    }
    for name in ["a.heic", "a.HIF", "a.heif", "a.avif"] {
        assert_eq!(is_image_file(Path::new(name)), cfg!(feature = "heif"), "{name}");
    }
}

#[test]
fn the_common_folder_is_the_deepest_one() {
    let shared = |files: &[&str]| common_folder(&files.iter().map(PathBuf::from).collect::<Vec<_>>());
    assert_eq!(shared(&["/a/b/1.tar", "/a/b/2.tar"]), Path::new("/a/b"));
    assert_eq!(shared(&["/a/b/c/1.tar", "/a/b2/2.tar"]), Path::new("/a"));
    assert_eq!(shared(&["/a/b/1.tar", "/a/b/c/2.tar"]), Path::new("/a/b"));
    assert_eq!(shared(&["x/1.tar", "y/2.tar"]), Path::new(""));
    assert_eq!(shared(&[]), Path::new(""));
}

/// Creates empty files and their folders.
fn create_files(root: &Path, files: &[&str]) {
    for file in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, []).unwrap();
    }
}

fn ids(dataset: &Dataset) -> Vec<&str> {
    dataset.samples.iter().map(|sample| sample.id.as_str()).collect()
}

/// The error message of `result`, with `root` replaced by ROOT.
fn error_message(result: Result<Dataset, DatasetError>, root: &Path) -> String {
    result.unwrap_err().to_string().replace(root.to_str().unwrap(), "ROOT")
}
