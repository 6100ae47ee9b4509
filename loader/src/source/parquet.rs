//! Parquet, as the Hugging Face hub keeps data sets of images.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::shards::Found;
use super::webdataset::known_part;
use super::{Entry, Fields, Listing, Part, Source};
use crate::dataset::{DatasetError, Listed, did_you_mean};
use crate::photo::Photo;
use crate::shard::parquet::{ParquetShard, Table, Value};

/// The field of a struct that holds a photo.
const BYTES: &str = ".bytes";

/// Tables with a photo in each row: the column `image` holds its bytes, or a struct with `bytes`; the column of the class holds
/// text or a number. What the numbers mean is read from the metadata that the `datasets` library writes (`ClassLabel`).
///
/// The part of a sample is the one that its shard's name tells, or the column's where `fields` names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParquetSource {
    /// The shards, in order.
    pub shards: Vec<PathBuf>,
    /// The column with the photo.
    pub image: String,
    /// The other columns.
    pub fields: Fields,
}

impl Source for ParquetSource {
    fn list(&self) -> Result<Listing, DatasetError> {
        Ok(self.read()?.listing(&self.shards, &format!("`{}`", self.fields.label)))
    }

    fn unlabelled(&self) -> Result<Vec<String>, DatasetError> {
        Ok(self.read()?.unlabelled)
    }
}

impl ParquetSource {
    fn read(&self) -> Result<Found, DatasetError> {
        Found::read(&self.shards, |path, name| self.read_shard(path, name))
    }

    fn read_shard(&self, path: &Path, name: &str) -> Result<Found, DatasetError> {
        let fault = |problem| DatasetError::Shard { path: path.into(), problem };
        let table = Table::open(path)?;
        let nested = format!("{}{BYTES}", self.image);
        let column = match (table.has(&nested), table.has(&self.image)) {
            (true, _) => nested,
            (false, true) => self.image.clone(),
            (false, false) => return Err(no_column(&table, path, "image", &self.image)),
        };
        let rows = table.rows()?;
        // Rows of nothing, or of one photo again and again, take no room: a few bytes could list thousands of millions.
        if rows as u64 > table.bytes() {
            return Err(fault(format!("it claims {rows} photos in {} bytes", table.bytes())));
        }
        let values = |key, column: &str| {
            if table.has(column) { table.values(column) } else { Err(no_column(&table, path, key, column)) }
        };
        let labels = values("label", &self.fields.label)?;
        let groups = self.fields.group.as_deref().map(|column| values("group", column)).transpose()?;
        let parts = self.fields.part.as_deref().map(|column| values("split", column)).transpose()?;
        let names = class_names(&table, &self.fields.label).map_err(fault)?;
        let shard = Arc::new(ParquetShard::new(path, table, &column));
        let part_of_shard = Part::of_shard(name);
        let mut found = Found::default();
        for (row, label) in labels.into_iter().enumerate() {
            let at_row = |problem| fault(format!("row {row}: {problem}"));
            let id = format!("{name}/{row}");
            let Some(class) = class(label, names.as_deref()).map_err(at_row)? else {
                found.unlabelled.push(id);
                continue;
            };
            let group = match (&groups, &self.fields.group) {
                (Some(groups), Some(column)) => {
                    Some(text(&groups[row]).ok_or_else(|| at_row(format!("`{column}` is empty")))?)
                }
                _ => None,
            };
            let part = match (&parts, &self.fields.part) {
                (Some(parts), Some(column)) => {
                    let name = text(&parts[row]).ok_or_else(|| at_row(format!("`{column}` is empty")))?;
                    Some(known_part(column, &name).map_err(at_row)?)
                }
                _ => part_of_shard,
            };
            let photo = Photo::record(shard.clone(), row);
            found.entries.push(Entry { id, photo, class, group, part });
        }
        Ok(found)
    }
}

/// The columns that can hold photos, structs of bytes by their own names, and all other columns of single values.
///
/// # Errors
/// [`DatasetError`] for a file that is no Parquet.
pub fn read_parquet_columns(path: &Path) -> Result<(Vec<String>, Vec<String>), DatasetError> {
    let table = Table::open(path)?;
    let (images, others): (Vec<&str>, Vec<&str>) =
        table.columns().partition(|column| table.holds_bytes(column));
    let images = images.iter().map(|column| column.strip_suffix(BYTES).unwrap_or(column).to_owned());
    Ok((images.collect(), others.into_iter().map(str::to_owned).collect()))
}

fn no_column(table: &Table, path: &Path, key: &'static str, column: &str) -> DatasetError {
    let columns = Listed(table.columns().map(str::to_owned).collect());
    let hint = did_you_mean(column, &columns);
    let problem = format!("there is no column `{column}` (`data.{key}`); its columns: {columns}{hint}");
    DatasetError::Shard { path: path.into(), problem }
}

fn text(value: &Option<Value>) -> Option<String> {
    match value {
        None => None,
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(Value::Text(text)) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
    }
}

/// The class that a label means. A number without a name is its own; where there are names, -1 is how the hub's data sets write
/// that there is none.
fn class(label: Option<Value>, names: Option<&[String]>) -> Result<Option<String>, String> {
    match (label, names) {
        (Some(Value::Number(-1)), Some(_)) => Ok(None),
        (Some(Value::Number(number)), Some(names)) => {
            let name = usize::try_from(number).ok().and_then(|number| names.get(number));
            name.cloned().map(Some).ok_or_else(|| {
                format!("the class has the number {number}, but there are {} names", names.len())
            })
        }
        (label, _) => Ok(text(&label)),
    }
}

/// The names of the classes in the metadata that the `datasets` library writes.
fn class_names(table: &Table, column: &str) -> Result<Option<Vec<String>>, String> {
    #[derive(Deserialize)]
    struct Note {
        info: Info,
    }
    #[derive(Deserialize)]
    struct Info {
        features: serde_json::Map<String, serde_json::Value>,
    }
    #[derive(Deserialize)]
    struct ClassLabel {
        names: Vec<String>,
    }
    let Some(note) = table.note("huggingface") else { return Ok(None) };
    let wrong = |error: serde_json::Error| format!("the metadata `huggingface`: {error}");
    let Note { info: Info { features } } = serde_json::from_str(note).map_err(wrong)?;
    match features.get(column) {
        Some(feature) if feature["_type"] == "ClassLabel" => {
            let ClassLabel { names } = ClassLabel::deserialize(feature).map_err(wrong)?;
            Ok(Some(names))
        }
        _ => Ok(None),
    }
}
