//! Where samples come from: each source lists its photos with the names of their classes, in an order that depends on the data
//! alone, and opens no photo.

mod csv;
mod folder;
mod parquet;
mod seen_paths;
mod shard_contents;
mod split;
mod webdataset;

use std::fmt;
use std::path::{Path, PathBuf};

pub use self::csv::{CsvSource, TableHead, read_table_head};
pub use self::parquet::{ParquetSource, read_parquet_columns};
pub use folder::{FolderSource, find_image_files, is_image_file};
pub use split::Split;
pub use webdataset::WebDatasetSource;

use crate::dataset::DatasetError;
use crate::image_ref::ImageRef;

/// A place that samples come from.
pub trait DataSource: fmt::Debug {
    /// Lists the samples.
    ///
    /// # Errors
    /// [`DatasetError`] for what leaves nothing to list, or no way to tell what belongs together.
    fn list(&self) -> Result<RawDataset, DatasetError>;

    /// Photos that lie with the others but have no class, by their paths.
    ///
    /// # Errors
    /// As [`append_samples`](Self::append_samples).
    fn unlabeled(&self) -> Result<Vec<String>, DatasetError>;
}

/// What a source lists.
#[derive(Debug)]
pub struct RawDataset {
    /// What it was read from, for messages.
    pub origin: PathBuf,
    /// The samples: a folder's by class and path, others as they are listed.
    pub samples: Vec<RawSample>,
    /// What is wrong with single entries, which are left out; a data set that is trained on must have none.
    pub errors: Vec<DatasetError>,
}

/// A sample, by names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSample {
    /// The photo's path relative to the data root, with `/` between its parts.
    pub id: String,
    /// Where the photo lies.
    pub image: ImageRef,
    /// Its class.
    pub class: String,
    /// The group that it belongs to, where the source has groups.
    pub group: Option<String>,
    /// The part that the source puts it in, where it has parts.
    pub split: Option<Split>,
}

/// The columns of a table of samples, or the fields of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldNames {
    /// The class.
    pub label: String,
    /// The group that a photo belongs to, where groups are to be kept together.
    pub group: Option<String>,
    /// The part that a photo belongs to, where the table says it.
    pub split: Option<String>,
}

/// The folder that holds all of some files.
#[must_use]
pub fn common_folder(files: &[PathBuf]) -> PathBuf {
    let mut folder = files.first().and_then(|file| file.parent()).unwrap_or(Path::new("")).to_path_buf();
    while !files.iter().all(|file| file.starts_with(&folder)) {
        folder.pop();
    }
    folder
}

#[cfg(test)]
mod tests;
