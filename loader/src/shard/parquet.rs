//! Parquet files, read row by row.

mod pages;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use headstock_split::words::{NameList, counted};
use parquet::basic::{ConvertedType, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, Length, SerializedFileReader};
use parquet::file::statistics::Statistics;
use parquet::schema::types::SchemaDescriptor;

use self::pages::{CheckedPages, ReopeningFile};
use super::cursor_pool::{Cursor, CursorPool};
use super::{MAX_RECORD_BYTES, record_error, refuse_lfs_pointer, too_large_message};
use crate::dataset::DatasetError;
use crate::image_ref::{ReadError, RecordReader};

/// Rows per read when a whole column is read.
const ROWS_PER_READ: usize = 4096;

/// Rows per read of a list column; each row may have thousands of numbers.
const LISTS_PER_READ: usize = 256;

/// Rows per read of a column of images, of which each may have megabytes.
const IMAGES_PER_READ: usize = 16;

/// An open Parquet file. Columns within structs are named by their path, such as `image.bytes`.
///
/// Each method that reads a damaged file returns [`DatasetError::Invalid`].
pub struct ParquetTable {
    path: PathBuf,
    /// Size of the file in bytes.
    pub(crate) file_size: u64,
    reader: SerializedFileReader<ReopeningFile>,
    /// Columns of single values by path.
    columns: BTreeMap<String, ParquetColumn>,
}

/// A column of single values, where it is in the file and how to read it.
#[derive(Clone, Copy)]
struct ParquetColumn {
    /// Index among the leaf columns of the schema.
    index: usize,
    /// Definition level of a non-null value.
    present_level: i16,
    /// Whether integers are unsigned.
    is_unsigned: bool,
}

/// The value of a field. Numbers sort by value, text by its bytes, numbers before text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParquetValue {
    /// A whole number; booleans are 1 and 0.
    Number(i64),
    /// Text.
    Text(String),
}

impl ParquetTable {
    /// Opens the Parquet file `path` and finds its columns; reads no rows.
    ///
    /// # Errors
    /// [`DatasetError::Invalid`] for a file that is missing or not Parquet.
    pub fn open(path: &Path) -> Result<Self, DatasetError> {
        let open = || {
            refuse_lfs_pointer(path)?;
            let file = ReopeningFile::new(path).map_err(|error| error.to_string())?;
            let file_size = file.len();
            let reader = SerializedFileReader::new(file).map_err(error_message)?;
            let schema = reader.metadata().file_metadata().schema_descr();
            let columns = (schema.columns().iter().enumerate())
                // Columns within lists have a higher repetition level.
                .filter(|(_, column)| column.max_rep_level() == 0)
                .map(|(index, column)| {
                    let unsigned_types = [ConvertedType::UINT_32, ConvertedType::UINT_64];
                    let is_unsigned = unsigned_types.contains(&column.converted_type());
                    (
                        column.path().string(),
                        ParquetColumn { index, present_level: column.max_def_level(), is_unsigned },
                    )
                })
                .collect();
            Ok(Self { path: path.into(), file_size, reader, columns })
        };
        catch_panic(open).map_err(|problem| DatasetError::invalid(path, problem))
    }

    /// A reader of the values of the leaf column with index `column` in the row group with index `group`;
    /// refuses damaged pages.
    fn column_reader(&self, group: usize, column: usize) -> Result<ColumnReader, String> {
        let pages = self.reader.get_row_group(group).and_then(|group| group.get_column_page_reader(column));
        Ok(get_column_reader(
            self.schema().column(column),
            Box::new(CheckedPages(pages.map_err(error_message)?)),
        ))
    }

    /// The schema of the file: its leaf columns with their types.
    fn schema(&self) -> &SchemaDescriptor {
        self.reader.metadata().file_metadata().schema_descr()
    }

    /// The error that this file has a `problem`.
    fn shard_error(&self, problem: impl Into<String>) -> DatasetError {
        DatasetError::invalid(&self.path, problem)
    }

    /// Paths of all columns except lists.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.keys().map(String::as_str)
    }

    /// Whether the values of a column are bytes, which may be text.
    pub(crate) fn has_bytes(&self, column: &str) -> bool {
        self.schema().column(self.columns[column].index).physical_type() == PhysicalType::BYTE_ARRAY
    }

    /// Whether a column holds bytes that are declared as text.
    pub(crate) fn is_text(&self, column: &str) -> bool {
        self.has_bytes(column) && !self.is_binary(column)
    }

    /// What the values of the column `name` are, for messages; the column may be one of lists or of structs.
    /// `None` if there is no such column.
    pub(crate) fn describe_column(&self, name: &str) -> Option<String> {
        if let Some(&ParquetColumn { index, .. }) = self.columns.get(name) {
            return Some(match self.schema().column(index).physical_type() {
                PhysicalType::BYTE_ARRAY if self.is_binary(name) => "bytes".to_owned(),
                PhysicalType::BYTE_ARRAY => "text".to_owned(),
                PhysicalType::BOOLEAN => "booleans".to_owned(),
                _ => "numbers".to_owned(),
            });
        }
        let leaves = self.schema().columns().iter().filter(|leaf| leaf.path().parts()[0] == name);
        let leaves: Vec<_> = leaves.collect();
        let first = leaves.first()?;
        if first.max_rep_level() > 0 {
            return Some("a list in each row".to_owned());
        }
        let fields = leaves.iter().map(|leaf| leaf.path().parts()[1..].join(".")).collect();
        Some(format!("a struct of {}", NameList(fields)))
    }

    /// Whether each value of `column` (which must exist) is null, `[N]`.
    ///
    /// # Errors
    /// [`DatasetError::Invalid`] for a damaged file.
    pub(crate) fn null_rows(&self, column: &str) -> Result<Vec<bool>, DatasetError> {
        let &ParquetColumn { index, present_level, .. } = &self.columns[column];
        let mut is_null = Vec::with_capacity(self.n_rows()?);
        for (group, metadata) in self.reader.metadata().row_groups().iter().enumerate() {
            let n_rows = usize::try_from(metadata.num_rows()).unwrap_or(0);
            let n_null = metadata.column(index).statistics().and_then(Statistics::null_count_opt);
            match n_null.and_then(|n_null| usize::try_from(n_null).ok()) {
                _ if present_level == 0 => is_null.resize(is_null.len() + n_rows, false),
                Some(0) => is_null.resize(is_null.len() + n_rows, false),
                Some(n_null) if n_null == n_rows => is_null.resize(is_null.len() + n_rows, true),
                _ => {
                    let read = || match self.column_reader(group, index)? {
                        ColumnReader::ByteArrayColumnReader(reader) => {
                            read_nulls(reader, present_level, n_rows)
                        }
                        _ => Err(format!("the column `{column}` does not hold bytes")),
                    };
                    is_null.extend(catch_panic(read).map_err(|problem| self.shard_error(problem))?);
                }
            }
        }
        Ok(is_null)
    }

    /// Whether a column holds bytes that are not declared as text, so that it may hold images.
    pub(crate) fn is_binary(&self, column: &str) -> bool {
        let schema = self.schema().column(self.columns[column].index);
        self.has_bytes(column)
            && schema.logical_type_ref().is_none()
            && schema.converted_type() == ConvertedType::NONE
    }

    /// Whether `column` is a column of single values.
    #[must_use]
    pub fn has_column(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    /// The value of `key` in the file metadata.
    pub(crate) fn metadata_value(&self, key: &str) -> Option<&str> {
        let metadata = self.reader.metadata().file_metadata().key_value_metadata()?;
        metadata.iter().find(|entry| entry.key == key)?.value.as_deref()
    }

    /// Number of rows, `N`.
    ///
    /// # Errors
    /// [`DatasetError::Invalid`] if the row count is negative or overflows.
    pub fn n_rows(&self) -> Result<usize, DatasetError> {
        let groups = self.reader.metadata().row_groups();
        let n_rows = groups
            .iter()
            .try_fold(0usize, |total, group| total.checked_add(usize::try_from(group.num_rows()).ok()?));
        n_rows.ok_or_else(|| self.shard_error("the file is damaged: it claims an impossible number of rows"))
    }

    /// Reads a column of single values that are whole numbers, booleans or text, such as labels: `[N]` in row
    /// order. Null values are `None`.
    ///
    /// # Errors
    /// [`DatasetError::Invalid`] for a missing column or another type.
    pub fn read_values(&self, column: &str) -> Result<Vec<Option<ParquetValue>>, DatasetError> {
        let &ParquetColumn { index, present_level: level, is_unsigned } =
            self.columns.get(column).ok_or_else(|| self.no_column_error(column, None))?;
        let number = |value: i64| Ok(ParquetValue::Number(value));
        let int32 =
            |&value: &i32| number(if is_unsigned { value.cast_unsigned().into() } else { value.into() });
        let int64 = |&value: &i64| match value {
            ..0 if is_unsigned => Err(format!(
                "the column `{column}` has a number above 2^63 - 1, which is too large: use smaller numbers"
            )),
            _ => number(value),
        };
        let text = |value: &ByteArray| match value.as_utf8() {
            Ok(text) => Ok(ParquetValue::Text(text.to_owned())),
            Err(_) => {
                Err(format!("the column `{column}` has text that is not UTF-8: save the text as UTF-8"))
            }
        };
        let mut values = Vec::new();
        self.for_each_row_group(column, index, |reader, n_rows| {
            let group = match reader {
                ColumnReader::Int32ColumnReader(reader) => read_nullable(reader, level, n_rows, int32),
                ColumnReader::Int64ColumnReader(reader) => read_nullable(reader, level, n_rows, int64),
                ColumnReader::BoolColumnReader(reader) => {
                    read_nullable(reader, level, n_rows, |&value| number(value.into()))
                }
                ColumnReader::ByteArrayColumnReader(reader) => read_nullable(reader, level, n_rows, text),
                _ => Err(format!(
                    "the column `{column}` holds neither whole numbers nor text: choose a different column, \
                     or save the values as whole numbers or text"
                )),
            }?;
            let n_read = group.len();
            values.extend(group);
            Ok(n_read)
        })?;
        Ok(values)
    }

    /// Reads a column of lists of FLOAT, or of DOUBLE rounded to `f32`, such as features. Returns the values
    /// `[N, F]` in row order, and the length `F` of the lists, which must be the same for all.
    ///
    /// # Errors
    /// [`DatasetError::Invalid`] for a missing column, another type, a null list or number, or lists of
    /// different lengths.
    pub fn read_lists(&self, column: &str) -> Result<(Vec<f32>, usize), DatasetError> {
        let columns = self.schema().columns().iter().enumerate();
        let leaves: Vec<_> = columns.filter(|(_, leaf)| leaf.path().parts()[0] == column).collect();
        let (column_index, leaf) = match leaves.as_slice() {
            [] => return Err(self.no_column_error(column, None)),
            [(index, leaf)] if leaf.max_rep_level() == 1 => (*index, leaf),
            _ => {
                return Err(self.shard_error(format!(
                    "`{column}` does not hold a list of numbers in each row: save the column as lists of \
                     float32"
                )));
            }
        };
        let mut lists = ListColumn {
            present_level: leaf.max_def_level(),
            item_level: leaf.repeated_ancestor_def_level(),
            values: Vec::new(),
            list_length: None,
            n_rows: 0,
        };
        self.for_each_row_group(column, column_index, |reader, _| {
            let n_before = lists.n_rows;
            let read = match reader {
                ColumnReader::FloatColumnReader(reader) => lists.append_all(reader, |value| value),
                ColumnReader::DoubleColumnReader(reader) => lists.append_all(reader, |value| value as f32),
                _ => {
                    let kind = self.schema().column(column_index).physical_type();
                    return Err(format!(
                        "the column `{column}` holds lists of {kind}: save the numbers in the lists as \
                         float32"
                    ));
                }
            };
            read.map_err(|problem| format!("`{column}`: {problem}"))?;
            Ok(lists.n_rows - n_before)
        })?;
        Ok((lists.values, lists.list_length.unwrap_or(0)))
    }

    /// Calls `read_group` for each row group of a column with a reader of its values and the number of its
    /// rows. `read_group` returns how many rows it read; anything but all rows is an error.
    fn for_each_row_group(
        &self,
        column: &str,
        column_index: usize,
        mut read_group: impl FnMut(ColumnReader, usize) -> Result<usize, String>,
    ) -> Result<(), DatasetError> {
        for group in 0..self.reader.num_row_groups() {
            let n_rows = usize::try_from(self.reader.metadata().row_group(group).num_rows()).unwrap_or(0);
            let n_read = catch_panic(|| read_group(self.column_reader(group, column_index)?, n_rows));
            if n_read.map_err(|problem| self.shard_error(problem))? != n_rows {
                return Err(self.shard_error(format!(
                    "the file is damaged: `{column}` does not have one value per row"
                )));
            }
        }
        Ok(())
    }

    /// The error for a column that the file lacks, with the names of the columns that exist; `parameter` is
    /// the parameter of the source that names the column.
    pub(crate) fn no_column_error(&self, column: &str, parameter: Option<&'static str>) -> DatasetError {
        let mut columns: Vec<String> = match parameter {
            Some(_) => self.columns.keys().cloned().collect(),
            None => self.schema().columns().iter().map(|leaf| leaf.path().parts()[0].clone()).collect(),
        };
        // The columns within a struct are adjacent.
        columns.dedup();
        let (path, columns) = (self.path.clone(), NameList(columns));
        DatasetError::NoColumn { path, parameter, column: column.into(), columns }
    }
}

/// The values of a list column that were read so far, and its definition levels. Parquet stores one with each
/// number; it tells what is null.
struct ListColumn {
    /// Level of a non-null number.
    present_level: i16,
    /// Level of a list item, null or not; a lower level means a null or empty list.
    item_level: i16,
    /// `[n_rows, list_length]`
    values: Vec<f32>,
    /// Length of every list, once a row has been read.
    list_length: Option<usize>,
    n_rows: usize,
}

impl ListColumn {
    /// Appends the remaining rows of `reader`, with values converted by `to_f32`. Parquet stores the values
    /// of all lists one after the other and two levels with each value: the repetition level tells where a
    /// list starts, the definition level what is null: the list itself below `item_level`, the value below
    /// `present_level`. Null lists, null values and lists of another length than the first are errors.
    fn append_all<T: DataType>(
        &mut self,
        mut reader: ColumnReaderImpl<T>,
        to_f32: impl Fn(T::T) -> f32,
    ) -> Result<(), String> {
        let (mut definition_levels, mut repetition_levels, mut values) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            definition_levels.clear();
            repetition_levels.clear();
            values.clear();
            let (n_rows, ..) = reader
                .read_records(
                    LISTS_PER_READ,
                    Some(&mut definition_levels),
                    Some(&mut repetition_levels),
                    &mut values,
                )
                .map_err(error_message)?;
            if n_rows == 0 {
                return Ok(());
            }
            let mut unread_levels = &definition_levels[..];
            // Repetition level 0 starts the list of a row.
            for list in repetition_levels.chunk_by(|_, &next| next > 0) {
                let (row, length) = (self.n_rows, list.len());
                let (row_levels, rest) = unread_levels.split_at(length);
                unread_levels = rest;
                if row_levels[0] < self.item_level {
                    return Err(format!("row {row} has no list: each row needs a list of numbers"));
                }
                if let Some(null) = row_levels.iter().position(|&level| level < self.present_level) {
                    return Err(format!(
                        "number {null} in the list of row {row} is null (missing): write a number"
                    ));
                }
                let expected = *self.list_length.get_or_insert(length);
                if length != expected {
                    return Err(format!(
                        "row {row} has {}, but the rows before it have {expected}: all rows need the same \
                         number of values",
                        counted(length, "value", "values")
                    ));
                }
                self.n_rows += 1;
            }
            self.values.extend(values.drain(..).map(&to_f32));
        }
    }
}

/// Reads the remaining values of a column reader, converted by `convert`; `None` for null. `present_level` is
/// the definition level of a value that is not null. Stops early once there are more than `max_rows`, because a
/// damaged file could claim values without end.
fn read_nullable<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    present_level: i16,
    max_rows: usize,
    convert: impl Fn(&T::T) -> Result<ParquetValue, String>,
) -> Result<Vec<Option<ParquetValue>>, String> {
    let mut values = Vec::new();
    loop {
        let (is_present, present_values) = read_batch(&mut reader, present_level, ROWS_PER_READ)?;
        if is_present.is_empty() || values.len() > max_rows {
            return Ok(values);
        }
        let mut present = present_values.iter();
        for is_present in is_present {
            values.push(if is_present { present.next().map(&convert).transpose()? } else { None });
        }
    }
}

/// Whether each of the remaining `n_rows` values of a column of bytes is null.
fn read_nulls(
    mut reader: ColumnReaderImpl<ByteArrayType>,
    present_level: i16,
    n_rows: usize,
) -> Result<Vec<bool>, String> {
    let mut is_null = Vec::with_capacity(n_rows);
    while is_null.len() < n_rows {
        let (is_present, _) = read_batch(&mut reader, present_level, IMAGES_PER_READ)?;
        if is_present.is_empty() {
            return Err("the file is damaged: a column has fewer values than rows".into());
        }
        is_null.extend(is_present.into_iter().map(|is_present| !is_present));
    }
    Ok(is_null)
}

/// Reads up to `max_rows` rows of a column of single values. Returns one entry per row, false for null, and the
/// values of the other rows. `present_level` is the definition level of a value that is not null; at 0 the column
/// has no nulls.
fn read_batch<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    present_level: i16,
    max_rows: usize,
) -> Result<(Vec<bool>, Vec<T::T>), String> {
    let (mut definition_levels, mut values) = (Vec::new(), Vec::new());
    let (_, n_values, _) = reader
        .read_records(max_rows, Some(&mut definition_levels), None, &mut values)
        .map_err(error_message)?;
    let is_present = match present_level {
        0 => vec![true; n_values],
        _ => definition_levels.iter().map(|&level| level == present_level).collect(),
    };
    Ok((is_present, values))
}

/// A Parquet file as a shard: each row is a record, and one column has the bytes of its image.
pub(crate) struct ParquetShard {
    path: PathBuf,
    table: ParquetTable,
    /// The column of the image bytes.
    column: ParquetColumn,
    /// First row of each row group, and the total number of rows.
    row_group_starts: Vec<usize>,
    cursors: CursorPool<RowCursor>,
}

impl std::fmt::Debug for ParquetShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetShard").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ParquetShard {
    /// A shard of the images in `column` (which must exist) of `table`, the open file `path`.
    pub(crate) fn new(path: &Path, table: ParquetTable, column: &str) -> Self {
        let column = table.columns[column];
        let mut row_group_starts = vec![0];
        for group in table.reader.metadata().row_groups() {
            let n_rows = usize::try_from(group.num_rows()).unwrap_or(0);
            row_group_starts.push(row_group_starts[row_group_starts.len() - 1] + n_rows);
        }
        Self { path: path.into(), table, column, row_group_starts, cursors: CursorPool(Mutex::default()) }
    }

    /// Opens a reader at the start of the row group that contains `row`, for rows that no pooled reader can
    /// reach: rows can only be read forward within a row group.
    fn open_cursor(&self, row: usize) -> Result<RowCursor, String> {
        let group = self.row_group_starts.partition_point(|&start| start <= row) - 1;
        let (start, end) = (self.row_group_starts[group], self.row_group_starts[group + 1]);
        match self.table.column_reader(group, self.column.index)? {
            ColumnReader::ByteArrayColumnReader(reader) => {
                Ok(RowCursor { reader, next_row: start, end_row: end })
            }
            // Other columns are refused before.
            _ => Err("the column of photos does not hold bytes".into()),
        }
    }
}

impl RecordReader for ParquetShard {
    fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self, index: usize) -> String {
        format!("row {index}")
    }

    /// Reads the bytes of the image in row `index`, from the nearest pooled reader before it in its row
    /// group; rows between are skipped.
    fn read(&self, index: usize) -> Result<Vec<u8>, ReadError> {
        let read_row = |cursor: &mut RowCursor| {
            let n_skipped = index - cursor.next_row;
            if n_skipped > 0 && cursor.reader.skip_records(n_skipped).map_err(error_message)? != n_skipped {
                return Err("the file is damaged: the column of photos has fewer values than rows; copy or \
                            download the file again"
                    .into());
            }
            let (_, values) = read_batch(&mut cursor.reader, self.column.present_level, 1)?;
            cursor.next_row = index + 1;
            let bytes = values.first().ok_or("the row has no photo")?;
            if bytes.len() as u64 > MAX_RECORD_BYTES {
                return Err(too_large_message(bytes.len() as u64));
            }
            Ok(bytes.data().to_vec())
        };
        catch_panic(|| self.cursors.read(index, || self.open_cursor(index), read_row)).map_err(record_error)
    }
}

/// A forward-only reader of the images in the rows `next_row..end_row` of a row group.
struct RowCursor {
    reader: ColumnReaderImpl<ByteArrayType>,
    next_row: usize,
    end_row: usize,
}

impl Cursor for RowCursor {
    fn position_before(&self, record: usize) -> Option<usize> {
        (self.next_row..self.end_row).contains(&record).then_some(self.next_row)
    }
}

/// The message of an error of the `parquet` crate, without the kind of error that the crate puts before it.
fn error_message(error: ParquetError) -> String {
    match error {
        ParquetError::EOF(_) => "the file is truncated: copy or download the file again".into(),
        ParquetError::General(message) => message,
        ParquetError::External(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// Turns panics of the `parquet` crate, which damaged files can cause, into errors.
fn catch_panic<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("the file is damaged: copy or download the file again".into()))
}
