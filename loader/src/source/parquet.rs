//! Parquet files in the layout of image data sets on the Hugging Face hub.

mod hub_features;
mod image_column;
mod text_rows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use headstock_split::hub_names::{HubKind, name_in_missing_path};
use headstock_split::words::counted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::hub_features::HubFeatures;
use self::image_column::{ImageColumn, image_columns};
pub(super) use self::text_rows::ParquetRows;
use super::config::{DownloadedDataset, OpenDataSource, SourceConfig, SourceConfigError, SourceContext};
use super::paths::common_folder;
use super::shard_contents::{HUB, ShardContents, refuse_several_configurations, resolve_shards};
use super::{DataSource, FieldNames, default_label};
use crate::dataset::{DatasetError, PassedOverReason, RawDataset, RawSample, Split};
use crate::shard::find_shards;
use crate::shard::parquet::{ParquetTable, ParquetValue};

/// The keys of `[data]` of Parquet shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParquetConfig {
    /// Parquet shards: a file, a folder, a pattern such as `"data/train-*.parquet"`, or a data set of the
    /// Hugging Face hub as `"hf://datasets/owner/name"` or `"hf://datasets/owner/name/CONFIG"`.
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
        let (shards, splits, root) = match context.downloads.get(&self.parquet) {
            Some(DownloadedDataset { files, root }) => {
                let shards = files.iter().map(|file| file.path.clone()).collect();
                let splits = files.iter().filter_map(|file| Some((file.path.clone(), file.split?)));
                (shards, splits.collect(), root.clone())
            }
            None => {
                let shards = find_local_shards(&self.parquet)?;
                let root = common_folder(&shards);
                refuse_several_configurations(Path::new(&self.parquet), &shards)?;
                (shards, BTreeMap::new(), root)
            }
        };
        let fields = context.fields(&self.label, self.group.as_ref());
        let (image, follow_links) = (self.image.clone(), context.follow_links);
        let source = ParquetSource { shards, splits, image, fields, follow_links };
        Ok(OpenDataSource { source: Box::new(source), root })
    }
}

/// The local shards that `pattern` matches. If nothing is there, the error says which data set of the Hugging
/// Face hub may be meant.
fn find_local_shards(pattern: &str) -> Result<Vec<PathBuf>, DatasetError> {
    let path = Path::new(pattern);
    let result = find_shards(path, &["parquet"]);
    match (result, name_in_missing_path(path, HubKind::Dataset)) {
        (Err(DatasetError::Invalid { .. }), Some(name)) if !path.exists() => {
            let problem = format!(
                "there is no such file or folder: did you mean \"{name}\" on the Hugging Face hub? If not, check \
                 the path"
            );
            Err(DatasetError::invalid(path, problem))
        }
        (result, _) => result,
    }
}

/// Parquet files with one image per row. The column `image` holds bytes, or the path of a file, relative to the
/// folder of the Parquet file, or a struct with the fields `bytes` and `path`, of which the path is used where
/// there are no bytes. The label column holds text or whole numbers. Class names of numbers are read from the
/// metadata of the `datasets` library (`ClassLabel`). If a column has its default name and does not exist, the
/// only column that the metadata calls an `Image` or a `ClassLabel` takes its place.
///
/// The split of a sample is read from the column that `fields` names, otherwise it is that of the shard in
/// `splits`, or else the one in the shard's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParquetSource {
    /// The shards, in order.
    pub shards: Vec<PathBuf>,
    /// The splits of shards, if the data set states them elsewhere than in their names.
    pub splits: BTreeMap<PathBuf, Split>,
    /// The column of the image.
    pub image: String,
    /// The other columns.
    pub fields: FieldNames,
    /// Whether the paths of photos may lead, by links, out of the folder of their Parquet file.
    pub follow_links: bool,
}

impl DataSource for ParquetSource {
    fn list(&self) -> Result<RawDataset, DatasetError> {
        self.log_columns();
        Ok(self.read_shards()?.into_raw_dataset(&self.shards, &format!("the column `{}`", self.fields.label)))
    }

    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        Ok(self.read_shards()?.unlabeled)
    }
}

/// What the columns beside the image say about a row with a class.
struct LabeledRow {
    class: String,
    group: Option<String>,
    split: Option<Split>,
}

/// The values of a column, `[N]`, and the name of the column.
type NamedValues = (Vec<Option<ParquetValue>>, String);

impl ParquetSource {
    /// Logs which columns take the place of those with the default names, by the first shard.
    fn log_columns(&self) {
        let Some(Ok(table)) = self.shards.first().map(|path| ParquetTable::open(path)) else { return };
        let Ok(features) = HubFeatures::read(&table) else { return };
        for (key, column, default, kind) in [
            ("image", &self.image, default_image(), "Image"),
            ("label", &self.fields.label, default_label(), "ClassLabel"),
        ] {
            let used = features.column(&table, column, &default, kind);
            if used != *column {
                tracing::info!(
                    "there is no column `{column}`: the column `{used}` takes its place as `{key}`, because it is \
                     the only one of the type {kind}"
                );
            }
        }
    }

    /// Reads the samples of all shards, in parallel.
    fn read_shards(&self) -> Result<ShardContents, DatasetError> {
        ShardContents::read_all(&self.shards, |path, name| self.read_shard(path, name))
    }

    /// Reads the samples of the shard `path`, one per row, but not the images; `name` is the prefix of their
    /// ids. Rows without a class are listed as unlabeled.
    fn read_shard(&self, path: &Path, name: &str) -> Result<ShardContents, DatasetError> {
        let shard_error = |problem| DatasetError::invalid(path, problem);
        let table = ParquetTable::open(path)?;
        check_row_count(path, &table)?;
        let features = HubFeatures::read(&table).map_err(shard_error)?;
        let column_values = |parameter, column: &str| {
            if table.has_column(column) {
                table.read_values(column)
            } else {
                Err(table.no_column_error(column, Some(parameter)))
            }
        };
        let label = features.column(&table, &self.fields.label, &default_label(), "ClassLabel");
        let labels = column_values("label", &label)?;
        let optional_column = |parameter, column: &Option<String>| {
            let column = column.clone();
            column.map(|column| Ok((column_values(parameter, &column)?, column))).transpose()
        };
        let groups: Option<NamedValues> = optional_column("group", &self.fields.group)?;
        let splits: Option<NamedValues> = optional_column("split", &self.fields.split)?;
        let class_names = features.class_names(&label).map_err(shard_error)?;
        let image = features.column(&table, &self.image, &default_image(), "Image");
        let mut images = ImageColumn::open(path, table, &image, self.follow_links)?;
        let shard_split = self.splits.get(path).copied().or_else(|| Split::from_shard_path(name));
        let mut contents = ShardContents::default();
        for (row, label) in labels.into_iter().enumerate() {
            let text = |(values, column): &NamedValues| {
                let empty = || format!("the column `{column}` is empty: add a value");
                value_text(&values[row]).ok_or_else(empty)
            };
            let id = format!("{name}/{row}");
            // A closure, so that `?` ends the row and not the shard.
            let parse_row = || -> Result<Option<LabeledRow>, String> {
                let Some(class) = class_name(label, class_names.as_deref())? else { return Ok(None) };
                let group = groups.as_ref().map(text).transpose()?;
                let split = match &splits {
                    Some(column) => Some(Split::parse(&column.1, &text(column)?)?),
                    None => shard_split,
                };
                Ok(Some(LabeledRow { class, group, split }))
            };
            match parse_row() {
                Ok(Some(LabeledRow { class, group, split })) => match images.image(row) {
                    Ok(Some(image)) => contents.samples.push(RawSample { id, image, class, group, split }),
                    Ok(None) => {}
                    Err(error) => contents.errors.push(error),
                },
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
        contents.errors.extend(images.missing_error());
        Ok(contents)
    }
}

/// Refuses the file `path` if it claims more rows than it has bytes.
fn check_row_count(path: &Path, table: &ParquetTable) -> Result<(), DatasetError> {
    let (n_rows, size) = (table.n_rows()?, table.file_size);
    // Empty or repeated rows take no space, so a few bytes could claim billions of rows.
    if n_rows as u64 > size {
        let problem = format!("the file is damaged: it claims {n_rows} rows in {size} bytes");
        return Err(DatasetError::invalid(path, problem));
    }
    Ok(())
}

/// Columns of a Parquet file, for `init` to guess which is which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParquetColumns {
    /// Columns that can hold images: of bytes, or of a struct with the field `bytes`.
    pub images: Vec<String>,
    /// The columns that the metadata of the `datasets` library calls a `ClassLabel`.
    pub class_labels: Vec<String>,
    /// Columns of single values that hold no images.
    pub others: Vec<String>,
}

/// Reads the names of the columns of the Parquet file `path`.
///
/// # Errors
/// [`DatasetError`] for a file that is not Parquet.
pub fn read_parquet_columns(path: &Path) -> Result<ParquetColumns, DatasetError> {
    let table = ParquetTable::open(path)?;
    let features = HubFeatures::read(&table).map_err(|problem| DatasetError::invalid(path, problem))?;
    let class_labels = features.columns_of("ClassLabel").into_iter().map(str::to_owned).collect();
    let others = table.columns().filter(|column| !table.is_binary(column)).map(str::to_owned);
    Ok(ParquetColumns { images: image_columns(&table), class_labels, others: others.collect() })
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
