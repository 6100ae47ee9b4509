//! What the `datasets` library says about the columns of a Parquet file.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::shard::parquet::ParquetTable;

/// The features of the columns, from the metadata that the `datasets` library stores in the file; none if it is
/// of another program.
pub(in crate::source) struct HubFeatures(Map<String, Value>);

impl HubFeatures {
    /// Reads the metadata of the file.
    ///
    /// # Errors
    /// A message for metadata that is damaged.
    pub(in crate::source) fn read(table: &ParquetTable) -> Result<Self, String> {
        let Some(metadata) = table.metadata_value("huggingface") else { return Ok(Self(Map::new())) };
        let metadata: Value = serde_json::from_str(metadata).map_err(|error| metadata_error(&error))?;
        match &metadata["info"]["features"] {
            Value::Object(features) => Ok(Self(features.clone())),
            _ => Err("the metadata `huggingface` of the file is invalid: it has no features".into()),
        }
    }

    /// The columns whose feature is `kind`, such as `ClassLabel`.
    pub(super) fn columns_of(&self, kind: &str) -> Vec<&str> {
        self.0.iter().filter(|(_, feature)| feature["_type"] == kind).map(|(name, _)| name.as_str()).collect()
    }

    /// The column to use for `column`: the only one whose feature is `kind`, if `column` is the `default` and
    /// does not exist.
    pub(super) fn column(&self, table: &ParquetTable, column: &str, default: &str, kind: &str) -> String {
        match self.columns_of(kind).as_slice() {
            [only] if column == default && table.describe_column(column).is_none() => (*only).to_owned(),
            _ => column.to_owned(),
        }
    }

    /// The class names of the label column `column`, by class number; `None` if the metadata says nothing about
    /// the column or it is not a `ClassLabel`.
    pub(in crate::source) fn class_names(&self, column: &str) -> Result<Option<Vec<String>>, String> {
        match self.0.get(column) {
            Some(feature) if feature["_type"] == "ClassLabel" => {
                Vec::deserialize(&feature["names"]).map(Some).map_err(|error| metadata_error(&error))
            }
            _ => Ok(None),
        }
    }
}

fn metadata_error(error: &serde_json::Error) -> String {
    format!("the metadata `huggingface` of the file is invalid: {error}")
}
