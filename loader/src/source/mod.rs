//! Data sources. A source lists images and their class names, in an order that depends only on the data,
//! without opening the images.

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

/// A source of labeled images: a folder, a CSV or shards.
pub trait DataSource: fmt::Debug {
    /// Lists all labeled images with their ids, class names, groups and splits; the images are not opened.
    ///
    /// # Errors
    /// [`DatasetError`] if the source as a whole cannot be listed; errors of single samples are in
    /// [`RawDataset::errors`].
    fn list(&self) -> Result<RawDataset, DatasetError>;

    /// Ids of images that are stored with the others but have no class, so that `doctor` can report them.
    ///
    /// # Errors
    /// [`DatasetError`] if the source cannot be read.
    fn unlabeled(&self) -> Result<Vec<String>, DatasetError>;
}

/// The samples of a source before classes are numbered.
#[derive(Debug)]
pub struct RawDataset {
    /// The folder or file that was read, for messages.
    pub origin: PathBuf,
    /// The samples: sorted by class and path for a folder, otherwise in the order of the source.
    pub samples: Vec<RawSample>,
    /// Errors of single samples, which are left out. Training data must have no errors.
    pub errors: Vec<DatasetError>,
}

/// A sample with its class, group and split by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSample {
    /// Path relative to the data root, with `/` as separator.
    pub id: String,
    /// The image.
    pub image: ImageRef,
    /// Class name.
    pub class: String,
    /// Group name, if the source has groups.
    pub group: Option<String>,
    /// The split that the source assigns, if it has splits.
    pub split: Option<Split>,
}

/// Names of the columns of a table, or of the fields of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldNames {
    /// Column of the class.
    pub label: String,
    /// Column of the group, if groups are used.
    pub group: Option<String>,
    /// Column of the split, if the table has one.
    pub split: Option<String>,
}

/// The deepest folder that contains all `files`, at any depth; an empty path if there is none. Ids of samples
/// in shards begin with the shard's path relative to this folder.
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
