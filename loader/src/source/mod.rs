//! Data sources. A source lists images and their class names, in an order that depends only on the data,
//! without opening the images.

mod csv;
mod folder;
mod parquet;
mod paths;
mod seen_paths;
mod shard_contents;
mod webdataset;

use std::fmt;

pub use self::csv::{CsvSource, TableHead, read_table_head};
pub use self::parquet::{ParquetSource, read_parquet_columns};
pub use folder::{FolderSource, find_image_files};
pub use paths::{common_folder, is_image_file};
pub use webdataset::WebDatasetSource;

use crate::dataset::{DatasetError, RawDataset};

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

#[cfg(test)]
mod tests;
