//! Parquet files in the layout of image data sets on the Hugging Face hub.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::shard_contents::ShardContents;
use super::webdataset::parse_split;
use super::{DataSource, FieldNames, RawDataset, RawSample, Split};
use crate::dataset::{DatasetError, NameList, did_you_mean};
use crate::image_ref::ImageRef;
use crate::shard::parquet::{ParquetShard, ParquetTable, ParquetValue};

/// Suffix of the struct field that holds the image bytes.
const BYTES_FIELD: &str = ".bytes";

/// Parquet files with one image per row. The column `image` holds bytes or a struct with the field `bytes`;
/// the label column holds text or whole numbers. Class names of numbers are read from the metadata of the
/// `datasets` library (`ClassLabel`).
///
/// The split of a sample is read from the column that `fields` names, otherwise from the shard's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParquetSource {
    /// The shards, in order.
    pub shards: Vec<PathBuf>,
    /// The column of the image.
    pub image: String,
    /// The other columns.
    pub fields: FieldNames,
}

impl DataSource for ParquetSource {
    fn list(&self) -> Result<RawDataset, DatasetError> {
        Ok(self.read_shards()?.into_raw_dataset(&self.shards, &format!("`{}`", self.fields.label)))
    }

    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        Ok(self.read_shards()?.unlabeled)
    }
}

impl ParquetSource {
    fn read_shards(&self) -> Result<ShardContents, DatasetError> {
        ShardContents::read_all(&self.shards, |path, name| self.read_shard(path, name))
    }

    /// Reads the samples of the shard `path`; `name` is the prefix of their ids.
    fn read_shard(&self, path: &Path, name: &str) -> Result<ShardContents, DatasetError> {
        let shard_error = |problem| DatasetError::Shard { path: path.into(), problem };
        let table = ParquetTable::open(path)?;
        let nested = format!("{}{BYTES_FIELD}", self.image);
        let column = match (table.has_column(&nested), table.has_column(&self.image)) {
            (true, _) => nested,
            (false, true) => self.image.clone(),
            (false, false) => return Err(missing_column(&table, path, "image", &self.image)),
        };
        let n_rows = table.n_rows()?;
        // Empty or repeated rows take no space, so a few bytes could claim billions of rows.
        if n_rows as u64 > table.file_size() {
            return Err(shard_error(format!("it claims {n_rows} photos in {} bytes", table.file_size())));
        }
        let column_values = |key, column: &str| {
            if table.has_column(column) {
                table.read_values(column)
            } else {
                Err(missing_column(&table, path, key, column))
            }
        };
        let labels = column_values("label", &self.fields.label)?;
        let groups = self.fields.group.as_deref().map(|column| column_values("group", column)).transpose()?;
        let splits = self.fields.split.as_deref().map(|column| column_values("split", column)).transpose()?;
        let class_names = read_class_names(&table, &self.fields.label).map_err(shard_error)?;
        let shard = Arc::new(ParquetShard::new(path, table, &column));
        let shard_split = Split::from_shard_path(name);
        let mut contents = ShardContents::default();
        for (row, label) in labels.into_iter().enumerate() {
            let row_error = |problem| shard_error(format!("row {row}: {problem}"));
            let id = format!("{name}/{row}");
            let Some(class) = class_name(label, class_names.as_deref()).map_err(row_error)? else {
                contents.unlabeled.push(id);
                continue;
            };
            let group = match (&groups, &self.fields.group) {
                (Some(groups), Some(column)) => {
                    Some(value_text(&groups[row]).ok_or_else(|| row_error(format!("`{column}` is empty")))?)
                }
                _ => None,
            };
            let split = match (&splits, &self.fields.split) {
                (Some(splits), Some(column)) => {
                    let name =
                        value_text(&splits[row]).ok_or_else(|| row_error(format!("`{column}` is empty")))?;
                    Some(parse_split(column, &name).map_err(row_error)?)
                }
                _ => shard_split,
            };
            let image = ImageRef::from_record(shard.clone(), row);
            contents.samples.push(RawSample { id, image, class, group, split });
        }
        Ok(contents)
    }
}

/// The columns that can hold images (a struct with the field `bytes` by the name of the struct), and all
/// other columns of single values.
///
/// # Errors
/// [`DatasetError`] for a file that is not Parquet.
pub fn read_parquet_columns(path: &Path) -> Result<(Vec<String>, Vec<String>), DatasetError> {
    let table = ParquetTable::open(path)?;
    let (images, others): (Vec<&str>, Vec<&str>) =
        table.columns().partition(|column| table.is_binary(column));
    let images = images.iter().map(|column| column.strip_suffix(BYTES_FIELD).unwrap_or(column).to_owned());
    Ok((images.collect(), others.into_iter().map(str::to_owned).collect()))
}

fn missing_column(table: &ParquetTable, path: &Path, key: &'static str, column: &str) -> DatasetError {
    let columns = NameList(table.columns().map(str::to_owned).collect());
    let hint = did_you_mean(column, &columns);
    let problem = format!("there is no column `{column}` (`data.{key}`); its columns: {columns}{hint}");
    DatasetError::Shard { path: path.into(), problem }
}

/// The value as text; `None` if it is null or empty.
fn value_text(value: &Option<ParquetValue>) -> Option<String> {
    match value {
        None => None,
        Some(ParquetValue::Number(number)) => Some(number.to_string()),
        Some(ParquetValue::Text(text)) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
    }
}

/// The class name of a label. A number is its own name if there are no class names; with class names, -1
/// means no class, as in data sets of the hub.
fn class_name(label: Option<ParquetValue>, class_names: Option<&[String]>) -> Result<Option<String>, String> {
    match (label, class_names) {
        (Some(ParquetValue::Number(-1)), Some(_)) => Ok(None),
        (Some(ParquetValue::Number(number)), Some(names)) => {
            let name = usize::try_from(number).ok().and_then(|index| names.get(index));
            name.cloned().map(Some).ok_or_else(|| {
                format!("the class number is {number}, but there are {} class names", names.len())
            })
        }
        (label, _) => Ok(value_text(&label)),
    }
}

/// The class names in the metadata of the `datasets` library.
fn read_class_names(table: &ParquetTable, column: &str) -> Result<Option<Vec<String>>, String> {
    #[derive(Deserialize)]
    struct HuggingFaceMetadata {
        info: DatasetInfo,
    }
    #[derive(Deserialize)]
    struct DatasetInfo {
        features: serde_json::Map<String, serde_json::Value>,
    }
    #[derive(Deserialize)]
    struct ClassLabel {
        names: Vec<String>,
    }
    let Some(metadata) = table.metadata_value("huggingface") else { return Ok(None) };
    let metadata_error = |error: serde_json::Error| format!("the metadata `huggingface`: {error}");
    let HuggingFaceMetadata { info: DatasetInfo { features } } =
        serde_json::from_str(metadata).map_err(metadata_error)?;
    match features.get(column) {
        Some(feature) if feature["_type"] == "ClassLabel" => {
            let ClassLabel { names } = ClassLabel::deserialize(feature).map_err(metadata_error)?;
            Ok(Some(names))
        }
        _ => Ok(None),
    }
}
