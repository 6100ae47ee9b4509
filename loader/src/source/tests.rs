mod csv;
mod folder;
mod parquet;
mod unreadable;
mod webdataset;

use std::fs;
use std::path::Path;

use super::*;
use crate::dataset::{ClassMap, ClassOrder, Dataset};

fn read(source: &dyn Source) -> Result<Dataset, DatasetError> {
    Dataset::read(source, ClassOrder::Sorted)
}

fn read_with(root: &Path, classes: &ClassMap) -> Result<Dataset, DatasetError> {
    Dataset::read_with(&FolderSource { root: root.into() }, classes)
}

fn read_folder(root: &Path) -> Result<Dataset, DatasetError> {
    read(&FolderSource { root: root.into() })
}

/// Writes an empty file, and the folders it lies in.
fn touch(root: &Path, files: &[&str]) {
    for file in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, []).unwrap();
    }
}

fn ids(dataset: &Dataset) -> Vec<&str> {
    dataset.samples.iter().map(|sample| sample.id.as_str()).collect()
}

/// The message of a refusal, the temporary folder called ROOT in it.
fn refusal(outcome: Result<Dataset, DatasetError>, root: &Path) -> String {
    outcome.unwrap_err().to_string().replace(root.to_str().unwrap(), "ROOT")
}
