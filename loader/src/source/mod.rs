//! Data sources. A source lists images and their class names, in an order that depends only on the data,
//! without opening the images.

mod coco;
mod config;
mod conformance;
mod csv;
mod folder;
mod json_field;
mod metadata;
#[cfg(feature = "parquet")]
mod parquet;
mod paths;
mod registry;
mod rows;
mod seen_paths;
mod shard_contents;
mod tree;
mod webdataset;

use std::fmt;
use std::path::Path;

pub use self::coco::{CocoConfig, CocoSource, read_coco_file_names};
pub use self::config::{
    ConfiguredSource, DownloadedDataset, DownloadedFile, OpenDataSource, SourceConfig, SourceConfigError,
    SourceContext, absolute_path, expand_home, resolve_path,
};
pub use self::conformance::{ExampleSample, check_source};
pub use self::csv::{CsvConfig, CsvSource, TableContents, read_table};
pub use self::folder::{FolderConfig, FolderSource};
pub use self::metadata::{MetadataConfig, MetadataSource, find_metadata_files, read_metadata_columns};
#[cfg(feature = "parquet")]
pub use self::parquet::{ParquetColumns, ParquetConfig, ParquetSource, read_parquet_columns};
pub use self::paths::{common_folder, is_image_file, parent_folder, relative_path};
pub use self::registry::{SourceKind, SourceRegistry, SourceRegistryError};
pub use self::tree::{FoundImages, find_image_files, is_image_folder};
pub use self::webdataset::{WebDatasetConfig, WebDatasetSource};

use crate::dataset::{DatasetError, RawDataset};

/// A source of labeled images, such as a folder, a CSV or shards. A [`SourceConfig`] opens it.
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

    /// The file of the table that lists the samples, if there is one.
    fn table_path(&self) -> Option<&Path> {
        None
    }

    /// The table that lists the samples, with only those rows for whose id `class_of` has a class, which becomes
    /// that of the row, so that `doctor` can write it without the photos that have a problem; `None` if there is
    /// no table.
    ///
    /// # Errors
    /// [`DatasetError`] for a table that cannot be read or parsed.
    fn filter_table(
        &self,
        class_of: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Vec<u8>>, DatasetError> {
        let _ = class_of;
        Ok(None)
    }
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

/// The default of `data.label`.
fn default_label() -> String {
    "label".into()
}

#[cfg(test)]
mod tests;
