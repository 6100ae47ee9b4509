//! Parquet, a row per sample.

use std::path::Path;

use headstock_loader::{ParquetTable, ParquetValue};

use super::{Columns, FeatureArchive, FeatureTable, fault};
use crate::error::TrainError;

/// Reads the columns `features`, `label` (or `labels`), `class` and `group`.
pub(super) fn read(path: &Path) -> Result<FeatureArchive, TrainError> {
    let file = ParquetTable::open(path)?;
    let (values, width) = file.read_lists("features")?;
    let table = FeatureTable::new(values, &[file.n_rows()?, width]).map_err(fault(path))?;
    let label = if file.has_column("label") { "label" } else { "labels" };
    let columns = Columns {
        labels: column(&file, path, label, |value| match value {
            ParquetValue::Number(number) => Ok(number),
            ParquetValue::Text(text) => {
                Err(format!("is `{text}`, not a whole number; names belong in the column `class`"))
            }
        })?,
        classes: column(&file, path, "class", |value| match value {
            ParquetValue::Number(number) => Ok(number.to_string()),
            ParquetValue::Text(text) if text.is_empty() => Err("is empty".into()),
            ParquetValue::Text(text) => Ok(text),
        })?,
        groups: column(&file, path, "group", Ok)?,
    };
    columns.describe(table).map_err(fault(path))
}

/// What `make` makes of each value of a column, where it is there; a row without a value is an error.
fn column<T>(
    file: &ParquetTable,
    path: &Path,
    name: &str,
    make: impl Fn(ParquetValue) -> Result<T, String>,
) -> Result<Option<Vec<T>>, TrainError> {
    if !file.has_column(name) {
        return Ok(None);
    }
    let made = file.read_values(name)?.into_iter().enumerate().map(|(row, value)| {
        let made = value.ok_or_else(|| "is null".to_owned()).and_then(&make);
        made.map_err(|problem| fault(path)(format!("`{name}` of row {row} {problem}")))
    });
    made.collect::<Result<_, _>>().map(Some)
}
