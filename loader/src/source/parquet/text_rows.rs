//! Rows of a Parquet file whose columns are text or whole numbers.

use std::collections::HashMap;
use std::path::Path;

use super::hub_features::HubFeatures;
use super::{check_row_count, class_name};
use crate::dataset::DatasetError;
use crate::shard::parquet::{ParquetTable, ParquetValue};
use crate::source::FieldNames;

/// The values of some columns of a Parquet file.
pub(in crate::source) struct ParquetRows {
    columns: HashMap<String, Vec<Option<ParquetValue>>>,
    label: String,
    /// The names of the classes in the column `label`, if its values are numbers of classes.
    class_names: Option<Vec<String>>,
}

impl ParquetRows {
    /// Reads the column `id` and those of `fields` from the Parquet file `path`.
    ///
    /// # Errors
    /// [`DatasetError`] for a file that cannot be read, and for a missing column.
    pub(in crate::source) fn read(path: &Path, id: &str, fields: &FieldNames) -> Result<Self, DatasetError> {
        let invalid = |problem| DatasetError::invalid(path, problem);
        let table = ParquetTable::open(path)?;
        check_row_count(path, &table)?;
        let class_names = HubFeatures::read(&table).and_then(|features| features.class_names(&fields.label));
        let mut columns = HashMap::new();
        let named = [
            (None, Some(id)),
            (Some("label"), Some(fields.label.as_str())),
            (Some("group"), fields.group.as_deref()),
            (Some("split"), fields.split.as_deref()),
        ];
        for (parameter, column) in named {
            let Some(column) = column else { continue };
            if !table.has_column(column) {
                return Err(table.no_column_error(column, parameter));
            }
            columns.insert(column.to_owned(), table.read_values(column)?);
        }
        let class_names = class_names.map_err(invalid)?;
        Ok(Self { columns, label: fields.label.clone(), class_names })
    }

    /// Number of rows, `N`.
    pub(in crate::source) fn len(&self) -> usize {
        self.columns.values().next().map_or(0, Vec::len)
    }

    /// The text in `column` of `row`, of a class its name; `None` if it is empty.
    ///
    /// # Errors
    /// A message for a number of a class that has no name.
    pub(in crate::source) fn text(&self, row: usize, column: &str) -> Result<Option<String>, String> {
        let value = self.columns.get(column).and_then(|values| values.get(row)).cloned().flatten();
        let class_names = self.class_names.as_deref().filter(|_| column == self.label);
        class_name(value, class_names)
    }
}
