//! Parquet files in the layout of image data sets on the Hugging Face hub.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstock_split::words::{NameList, counted};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{OpenDataSource, SourceConfig, SourceConfigError, SourceContext};
use super::paths::common_folder;
use super::shard_contents::{HUB, ShardContents, resolve_shards};
use super::{DataSource, FieldNames, default_label};
use crate::dataset::{DatasetError, PassedOverReason, RawDataset, RawSample, Split};
use crate::image_ref::ImageRef;
use crate::shard::find_shards;
use crate::shard::parquet::{ParquetShard, ParquetTable, ParquetValue};

/// The end of the path of a column that is the field `bytes` of a struct, where the `datasets` library stores
/// an image's bytes.
const BYTES_FIELD: &str = ".bytes";

/// The keys of `[data]` of Parquet shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParquetConfig {
    /// Parquet shards: a file, a folder, a pattern such as `"data/train-*.parquet"`, or a data set of the
    /// Hugging Face hub as `"hf://datasets/owner/name"`.
    pub parquet: String,
    /// The column with the photo.
    #[serde(default = "default_image")]
    pub image: String,
    /// The column with the class.
    #[serde(default = "default_label")]
    pub label: String,
    /// The column with the group of a photo, as for `csv`. Optional.
    pub group: Option<String>,
    /// Photos for testing only, in Parquet shards.
    pub test_parquet: Option<String>,
}

fn default_image() -> String {
    "image".into()
}

impl SourceConfig for ParquetConfig {
    const KIND: &'static str = "parquet";

    fn resolve(&mut self, base: &Path) -> Result<(), SourceConfigError> {
        resolve_shards("parquet", &mut self.parquet, base, true)?;
        let test = self.test_parquet.as_mut();
        test.map_or(Ok(()), |shards| resolve_shards("test_parquet", shards, base, true))
    }

    fn test_data(&self) -> Option<Self> {
        Some(Self { parquet: self.test_parquet.clone()?, test_parquet: None, ..self.clone() })
    }

    fn has_groups(&self) -> bool {
        self.group.is_some()
    }

    fn hub_datasets(&mut self) -> Vec<&mut String> {
        let shards = [Some(&mut self.parquet), self.test_parquet.as_mut()];
        shards.into_iter().flatten().filter(|shards| shards.starts_with(HUB)).collect()
    }

    fn open(&self, context: &SourceContext) -> Result<OpenDataSource, DatasetError> {
        let (shards, root) = match context.downloads.get(&self.parquet) {
            Some(downloaded) => (downloaded.files.clone(), downloaded.root.clone()),
            None => {
                let path = Path::new(&self.parquet);
                let shards = find_shards(path, &["parquet"])?;
                let root = common_folder(&shards);
                if path.is_dir() {
                    refuse_several_configurations(path, &shards)?;
                }
                (shards, root)
            }
        };
        let fields = context.fields(&self.label, self.group.as_ref());
        let source = ParquetSource { shards, image: self.image.clone(), fields };
        Ok(OpenDataSource { source: Box::new(source), root })
    }
}

/// Refuses the `shards` of the folder `path` if they are several data sets in folders beside each other, the
/// configurations of a data set on the hub: two or more folders have files for training.
fn refuse_several_configurations(path: &Path, shards: &[PathBuf]) -> Result<(), DatasetError> {
    let mut with_training = BTreeSet::new();
    for shard in shards {
        let relative = shard.strip_prefix(path).unwrap_or(shard);
        let mut names = relative.components().map(|name| name.as_os_str().to_string_lossy());
        let (Some(folder), Some(_)) = (names.next(), names.next()) else { continue };
        let inside = relative.strip_prefix(folder.as_ref()).unwrap_or(relative);
        let is_split_folder = Split::from_shard_path(&folder).is_some();
        if !is_split_folder && Split::from_shard_path(&inside.to_string_lossy()) == Some(Split::Train) {
            with_training.insert(folder.into_owned());
        }
    }
    if with_training.len() < 2 {
        return Ok(());
    }
    let names = NameList(with_training.into_iter().collect());
    Err(DatasetError::invalid(
        path,
        format!(
            "the folder has several data sets, each with files for training: {names}; give the path of one of them"
        ),
    ))
}

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
        Ok(self.read_shards()?.into_raw_dataset(&self.shards, &format!("the column `{}`", self.fields.label)))
    }

    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        Ok(self.read_shards()?.unlabeled)
    }
}

/// The values of a column, `[N]`, and the name of the column.
type NamedValues = (Vec<Option<ParquetValue>>, String);

impl ParquetSource {
    /// Reads the samples of all shards, in parallel.
    fn read_shards(&self) -> Result<ShardContents, DatasetError> {
        ShardContents::read_all(&self.shards, |path, name| self.read_shard(path, name))
    }

    /// Reads the samples of the shard `path`, one per row, but not the images; `name` is the prefix of their
    /// ids. Rows without a class are listed as unlabeled.
    fn read_shard(&self, path: &Path, name: &str) -> Result<ShardContents, DatasetError> {
        let shard_error = |problem| DatasetError::invalid(path, problem);
        if is_lfs_pointer(path) {
            return Err(shard_error(
                "this is a Git LFS pointer, a small file in place of the data: run `git lfs pull` in its repository"
                    .to_owned(),
            ));
        }
        let table = ParquetTable::open(path)?;
        let nested = format!("{}{BYTES_FIELD}", self.image);
        let column = match (table.has_column(&nested), table.has_column(&self.image)) {
            (true, _) => nested,
            (false, true) => self.image.clone(),
            (false, false) => return Err(table.no_column_error(&self.image, Some("image"))),
        };
        if !table.has_bytes(&column) {
            return Err(shard_error(format!(
                "the column `{column}` does not hold image files (the bytes of each file): set `image` \
                 to the column that does"
            )));
        }
        let n_rows = table.n_rows()?;
        // Empty or repeated rows take no space, so a few bytes could claim billions of rows.
        if n_rows as u64 > table.file_size {
            let size = table.file_size;
            return Err(shard_error(format!(
                "the file is damaged: it claims {n_rows} photos in {size} bytes"
            )));
        }
        let column_values = |parameter, column: &str| {
            if table.has_column(column) {
                table.read_values(column)
            } else {
                Err(table.no_column_error(column, Some(parameter)))
            }
        };
        let labels = column_values("label", &self.fields.label)?;
        let optional_column = |parameter, column: &Option<String>| {
            let column = column.clone();
            column.map(|column| Ok((column_values(parameter, &column)?, column))).transpose()
        };
        let groups: Option<NamedValues> = optional_column("group", &self.fields.group)?;
        let splits: Option<NamedValues> = optional_column("split", &self.fields.split)?;
        let class_names = read_class_names(&table, &self.fields.label).map_err(shard_error)?;
        let shard = Arc::new(ParquetShard::new(path, table, &column));
        let shard_split = Split::from_shard_path(name);
        let mut contents = ShardContents::default();
        for (row, label) in labels.into_iter().enumerate() {
            let text = |(values, column): &NamedValues| {
                let empty = || format!("the column `{column}` is empty: add a value");
                value_text(&values[row]).ok_or_else(empty)
            };
            let id = format!("{name}/{row}");
            let image = ImageRef::from_record(shard.clone(), row);
            let parse_row = || -> Result<Option<RawSample>, String> {
                let Some(class) = class_name(label, class_names.as_deref())? else { return Ok(None) };
                let group = groups.as_ref().map(text).transpose()?;
                let split = match &splits {
                    Some(column) => Some(Split::parse(&column.1, &text(column)?)?),
                    None => shard_split,
                };
                Ok(Some(RawSample { id: id.clone(), image, class, group, split }))
            };
            match parse_row() {
                Ok(Some(sample)) => contents.samples.push(sample),
                Ok(None) => contents.unlabeled.push(id),
                Err(problem) => {
                    let place = format!("row {row} (counted from 0)");
                    contents.errors.push(DatasetError::entry(
                        path,
                        place,
                        problem,
                        PassedOverReason::BadEntry,
                    ));
                }
            }
        }
        Ok(contents)
    }
}

/// Reads the column names of the Parquet file `path`: (columns that can hold images, all other columns), so
/// that `init` can guess which column is which. An image column is one of bytes; if it is the field `bytes`
/// of a struct, it has the name of the struct. Columns of lists are left out.
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

/// Whether the file is a pointer of Git LFS, which a clone has in place of a large file.
fn is_lfs_pointer(path: &Path) -> bool {
    const POINTER: &[u8] = b"version https://git-lfs";
    let mut start = [0; POINTER.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok_and(|()| start == POINTER)
}

/// The name of a class, group or split in a field of a table: text without surrounding whitespace, or a whole
/// number as text; `None` if the field is null or empty.
fn value_text(value: &Option<ParquetValue>) -> Option<String> {
    match value {
        None => None,
        Some(ParquetValue::Number(number)) => Some(number.to_string()),
        Some(ParquetValue::Text(text)) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
    }
}

/// The class name for the value of the label column; `None` for an image without a class. `class_names` are
/// the names by number, if the file has them: then -1 means no class, as in data sets of the hub. Without
/// them a number is its own name.
fn class_name(label: Option<ParquetValue>, class_names: Option<&[String]>) -> Result<Option<String>, String> {
    match (label, class_names) {
        (Some(ParquetValue::Number(-1)), Some(_)) => Ok(None),
        (Some(ParquetValue::Number(number)), Some(names)) => {
            let name = usize::try_from(number).ok().and_then(|index| names.get(index));
            name.cloned().map(Some).ok_or_else(|| {
                let n_names = counted(names.len(), "class name", "class names");
                format!(
                    "there is no class name for the number {number}: the metadata of the file has {n_names}"
                )
            })
        }
        (label, _) => Ok(value_text(&label)),
    }
}

/// The class names of the label column `column`, by class number, from the JSON metadata that the `datasets`
/// library stores in the file; `None` if it says nothing about the column or the column is not a
/// `ClassLabel`.
fn read_class_names(table: &ParquetTable, column: &str) -> Result<Option<Vec<String>>, String> {
    let Some(metadata) = table.metadata_value("huggingface") else { return Ok(None) };
    let metadata_error =
        |error: serde_json::Error| format!("the metadata `huggingface` of the file is invalid: {error}");
    let metadata: Value = serde_json::from_str(metadata).map_err(metadata_error)?;
    let features = metadata["info"]["features"].as_object();
    match features.ok_or("the metadata `huggingface` of the file is invalid: it has no features")?.get(column)
    {
        Some(feature) if feature["_type"] == "ClassLabel" => {
            Vec::deserialize(&feature["names"]).map(Some).map_err(metadata_error)
        }
        _ => Ok(None),
    }
}
