//! Reads Parquet files with one row per sample.

use std::path::Path;

use headstock_loader::{ParquetTable, ParquetValue};

use super::{FeatureArchive, FeatureTable, SampleColumns, data_error};
use crate::error::TrainError;

/// Reads a Parquet file with one row per sample: the columns `features` (lists of floats), `label` (or
/// `labels`), `class`, `group`, `path` and `split`.
pub(super) fn read(path: &Path) -> Result<FeatureArchive, TrainError> {
    let file = ParquetTable::open(path)?;
    let (values, width) = file.read_lists("features")?;
    let table = FeatureTable::new(values, &[file.n_rows()?, width]).map_err(data_error(path))?;
    let label = if file.has_column("label") { "label" } else { "labels" };
    let columns = SampleColumns {
        labels: read_column(&file, path, label, |value| match value {
            ParquetValue::Number(number) => Ok(number),
            ParquetValue::Text(text) => {
                Err(format!("is `{text}`, not a whole number: write class names into the column `class`"))
            }
        })?,
        classes: read_column(&file, path, "class", to_text)?,
        groups: read_column(&file, path, "group", Ok)?,
        paths: read_column(&file, path, "path", to_text)?,
        splits: read_column(&file, path, "split", to_text)?,
    };
    columns.into_archive(table).map_err(data_error(path))
}

/// The text of a value, which must not be empty.
fn to_text(value: ParquetValue) -> Result<String, String> {
    match value {
        ParquetValue::Number(number) => Ok(number.to_string()),
        ParquetValue::Text(text) if text.is_empty() => Err("is empty".into()),
        ParquetValue::Text(text) => Ok(text),
    }
}

/// Reads the column `name` and converts each value with `convert`; a row without a value is an error. `None`
/// if the file has no such column. `path` is the file, for error messages.
fn read_column<T>(
    file: &ParquetTable,
    path: &Path,
    name: &str,
    convert: impl Fn(ParquetValue) -> Result<T, String>,
) -> Result<Option<Vec<T>>, TrainError> {
    if !file.has_column(name) {
        return Ok(None);
    }
    let converted = file.read_values(name)?.into_iter().enumerate().map(|(row, value)| {
        let result = value.ok_or_else(|| "is null".to_owned()).and_then(&convert);
        result.map_err(|problem| data_error(path)(format!("`{name}` of row {row} {problem}")))
    });
    converted.collect::<Result<_, _>>().map(Some)
}
