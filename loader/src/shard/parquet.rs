//! Parquet files, a row at a time.

mod pages;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::{ConvertedType, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, Length, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;

use self::pages::{CheckedPages, ReopeningFile};
use super::cursor_pool::{Cursor, CursorPool};
use super::{MAX_RECORD_BYTES, RecordReader, record_error};
use crate::dataset::{DatasetError, NameList, did_you_mean};
use crate::decode::DecodeError;

/// Rows that are read at a time where all of them are wanted.
const ROWS_PER_READ: usize = 4096;

/// Rows of lists that are read at a time: a row may be thousands of numbers.
const LISTS_PER_READ: usize = 256;

/// A Parquet file, opened. Columns within structs are called by the path of their names, `image.bytes`.
///
/// A damaged file is an error of each method that reads it: [`DatasetError::Shard`].
pub struct ParquetTable {
    path: PathBuf,
    file_size: u64,
    reader: SerializedFileReader<ReopeningFile>,
    /// The column of the values themselves, by the path of their names.
    columns: BTreeMap<String, ParquetColumn>,
}

#[derive(Clone, Copy)]
struct ParquetColumn {
    index: usize,
    /// The definition level of a value that is there.
    present_level: i16,
    /// How its whole numbers are meant.
    is_unsigned: bool,
}

/// The value of a field. Numbers come in order of value, text in that of its bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParquetValue {
    /// A whole number, or 1 and 0 for what is true and false.
    Number(i64),
    /// Text.
    Text(String),
}

impl ParquetTable {
    /// Opens `path`.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn open(path: &Path) -> Result<Self, DatasetError> {
        let open = || {
            let file = ReopeningFile::new(path).map_err(|error| error.to_string())?;
            let file_size = file.len();
            let reader = SerializedFileReader::new(file).map_err(error_message)?;
            let schema = reader.metadata().file_metadata().schema_descr();
            let columns = (schema.columns().iter().enumerate())
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
        catch_panic(open).map_err(|problem| DatasetError::Shard { path: path.into(), problem })
    }

    /// Reads the part of column `number` that is in a row group.
    fn column_reader(&self, group: usize, column: usize) -> Result<ColumnReader, String> {
        let pages = self.reader.get_row_group(group).and_then(|group| group.get_column_page_reader(column));
        Ok(get_column_reader(
            self.schema().column(column),
            Box::new(CheckedPages(pages.map_err(error_message)?)),
        ))
    }

    fn schema(&self) -> &SchemaDescriptor {
        self.reader.metadata().file_metadata().schema_descr()
    }

    fn shard_error(&self, problem: String) -> DatasetError {
        DatasetError::Shard { path: self.path.clone(), problem }
    }

    /// The paths of all columns but those of lists.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.keys().map(String::as_str)
    }

    /// Whether a column holds bytes that are not said to be text.
    pub(crate) fn is_binary(&self, column: &str) -> bool {
        let column = self.schema().column(self.columns[column].index);
        column.physical_type() == PhysicalType::BYTE_ARRAY
            && column.logical_type_ref().is_none()
            && column.converted_type() == ConvertedType::NONE
    }

    /// Whether there is a column `column` of single values.
    #[must_use]
    pub fn has_column(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    /// An entry of the metadata.
    pub(crate) fn metadata_value(&self, key: &str) -> Option<&str> {
        let metadata = self.reader.metadata().file_metadata().key_value_metadata()?;
        metadata.iter().find(|note| note.key == key)?.value.as_deref()
    }

    /// The number of rows.
    ///
    /// # Errors
    /// For a file that claims more than can be.
    pub fn n_rows(&self) -> Result<usize, DatasetError> {
        let groups = self.reader.metadata().row_groups();
        let rows = groups
            .iter()
            .try_fold(0usize, |total, group| total.checked_add(usize::try_from(group.num_rows()).ok()?));
        rows.ok_or_else(|| self.shard_error("it claims an impossible number of rows".into()))
    }

    /// How many bytes the file has.
    pub(crate) fn file_size(&self) -> u64 {
        self.file_size
    }

    /// All values of a column of whole numbers or text; none where a row has none.
    ///
    /// # Errors
    /// For a column that is not there or holds something else.
    pub fn read_values(&self, column: &str) -> Result<Vec<Option<ParquetValue>>, DatasetError> {
        let &ParquetColumn { index, present_level, is_unsigned } =
            self.columns.get(column).ok_or_else(|| self.missing_column(column))?;
        let mut values = Vec::new();
        self.for_each_row_group(column, index, |reader, rows| {
            let n_before = values.len();
            let max_len = n_before.saturating_add(rows);
            match reader {
                ColumnReader::Int32ColumnReader(reader) => {
                    append_values(reader, present_level, (&mut values, max_len), |&value| {
                        Ok(ParquetValue::Number(if is_unsigned {
                            value.cast_unsigned().into()
                        } else {
                            value.into()
                        }))
                    })
                }
                ColumnReader::Int64ColumnReader(reader) => {
                    append_values(reader, present_level, (&mut values, max_len), |&value| {
                        let is_too_large = is_unsigned && value < 0;
                        let too_large = || format!("`{column}` has a number beyond 63 bits");
                        if is_too_large { Err(too_large()) } else { Ok(ParquetValue::Number(value)) }
                    })
                }
                ColumnReader::BoolColumnReader(reader) => {
                    append_values(reader, present_level, (&mut values, max_len), |value| {
                        Ok(ParquetValue::Number((*value).into()))
                    })
                }
                ColumnReader::ByteArrayColumnReader(reader) => {
                    append_values(reader, present_level, (&mut values, max_len), |value| {
                        let text = value.as_utf8().map_err(|_| format!("`{column}` is not UTF-8"))?;
                        Ok(ParquetValue::Text(text.to_owned()))
                    })
                }
                _ => Err(format!("`{column}` is neither a whole number nor text")),
            }?;
            Ok(values.len() - n_before)
        })?;
        Ok(values)
    }

    /// All numbers of a column of lists (FLOAT, or DOUBLE that is rounded), row after row, `[N, F]`, and `F`: each list must be
    /// as long as the first.
    ///
    /// # Errors
    /// For a column that is not there or holds something else, a list or a number that is null, and a list of another length.
    pub fn read_lists(&self, column: &str) -> Result<(Vec<f32>, usize), DatasetError> {
        let columns = self.schema().columns().iter().enumerate();
        let leaves: Vec<_> = columns.filter(|(_, leaf)| leaf.path().parts()[0] == column).collect();
        let (column_index, levels) = match leaves.as_slice() {
            [] => return Err(self.missing_column(column)),
            [(number, leaf)] if leaf.max_rep_level() == 1 => (
                *number,
                ListLevels { present: leaf.max_def_level(), in_list: leaf.repeated_ancestor_def_level() },
            ),
            _ => {
                return Err(
                    self.shard_error(format!("`{column}` does not hold a list of numbers in each row"))
                );
            }
        };
        let mut lists = ListColumn::default();
        self.for_each_row_group(column, column_index, |reader, _| {
            let n_before = lists.n_rows;
            let read = match reader {
                ColumnReader::FloatColumnReader(reader) => lists.append_all(reader, levels, |value| value),
                ColumnReader::DoubleColumnReader(reader) => {
                    lists.append_all(reader, levels, |value| value as f32)
                }
                _ => {
                    let kind = self.schema().column(column_index).physical_type();
                    return Err(format!("`{column}` holds lists of {kind}; save them as float32"));
                }
            };
            read.map_err(|problem| format!("`{column}`: {problem}"))?;
            Ok(lists.n_rows - n_before)
        })?;
        Ok((lists.values, lists.list_length.unwrap_or(0)))
    }

    /// Has `read` read a column's part of each row group, which has so many rows; it says how many it met.
    fn for_each_row_group(
        &self,
        column: &str,
        column_index: usize,
        mut read_group: impl FnMut(ColumnReader, usize) -> Result<usize, String>,
    ) -> Result<(), DatasetError> {
        for group in 0..self.reader.num_row_groups() {
            let rows = self.reader.metadata().row_group(group).num_rows();
            let rows = usize::try_from(rows).unwrap_or(0);
            let read = catch_panic(|| read_group(self.column_reader(group, column_index)?, rows));
            if read.map_err(|problem| self.shard_error(problem))? != rows {
                return Err(self.shard_error(format!("`{column}` has not as many values as there are rows")));
            }
        }
        Ok(())
    }

    fn missing_column(&self, column: &str) -> DatasetError {
        let mut names: Vec<String> = Vec::new();
        for leaf in self.schema().columns() {
            let name = &leaf.path().parts()[0];
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        let columns = NameList(names);
        let hint = did_you_mean(column, &columns);
        self.shard_error(format!("there is no column `{column}`; its columns: {columns}{hint}"))
    }
}

/// The definition levels of a column of lists.
#[derive(Clone, Copy)]
struct ListLevels {
    /// A number that is there.
    present: i16,
    /// A number's place in a list, whether it is there or null; below it there is no list, or an empty one.
    in_list: i16,
}

#[derive(Default)]
struct ListColumn {
    values: Vec<f32>,
    list_length: Option<usize>,
    n_rows: usize,
}

impl ListColumn {
    fn append_all<T: DataType>(
        &mut self,
        mut reader: ColumnReaderImpl<T>,
        levels: ListLevels,
        number: impl Fn(T::T) -> f32,
    ) -> Result<(), String> {
        let (mut definition_levels, mut repetition_levels, mut values) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            definition_levels.clear();
            repetition_levels.clear();
            values.clear();
            let (rows, ..) = reader
                .read_records(
                    LISTS_PER_READ,
                    Some(&mut definition_levels),
                    Some(&mut repetition_levels),
                    &mut values,
                )
                .map_err(error_message)?;
            if rows == 0 {
                return Ok(());
            }
            let mut length = 0;
            for (i, (&definition_level, &repetition_level)) in
                definition_levels.iter().zip(&repetition_levels).enumerate()
            {
                if repetition_level == 0 && i > 0 {
                    self.finish_row(length)?;
                    length = 0;
                }
                if definition_level < levels.in_list {
                    return Err(format!("row {} has none", self.n_rows));
                }
                if definition_level < levels.present {
                    return Err(format!("value {length} of row {} is null", self.n_rows));
                }
                length += 1;
            }
            self.finish_row(length)?;
            self.values.extend(values.drain(..).map(&number));
        }
    }

    fn finish_row(&mut self, length: usize) -> Result<(), String> {
        let width = *self.list_length.get_or_insert(length);
        if length != width {
            return Err(format!("row {} has {length} values, but those before it have {width}", self.n_rows));
        }
        self.n_rows += 1;
        Ok(())
    }
}

/// Reads what is left into `all`, but not on where that has more than `most`.
fn append_values<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    full: i16,
    (all, most): (&mut Vec<Option<ParquetValue>>, usize),
    convert: impl Fn(&T::T) -> Result<ParquetValue, String>,
) -> Result<(), String> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    loop {
        let rows = read_batch(&mut reader, full, ROWS_PER_READ, &mut levels, &mut values)?;
        if rows == 0 || all.len() > most {
            return Ok(());
        }
        let mut present = values.iter();
        for &is_there in &levels {
            let value = if is_there { present.next().map(&convert).transpose()? } else { None };
            all.push(value);
        }
    }
}

/// Reads up to `most` rows: of each whether it has a value, and the values of those that have one.
fn read_batch<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    present_level: i16,
    max_rows: usize,
    is_present: &mut Vec<bool>,
    values: &mut Vec<T::T>,
) -> Result<usize, String> {
    is_present.clear();
    values.clear();
    let mut definition_levels = Vec::new();
    let (rows, count, _) =
        reader.read_records(max_rows, Some(&mut definition_levels), None, values).map_err(error_message)?;
    if present_level == 0 {
        is_present.resize(count, true);
    } else {
        is_present.extend(definition_levels.iter().map(|&level| level == present_level));
    }
    Ok(rows)
}

/// The bytes in a column, a row a record.
pub(crate) struct ParquetShard {
    path: PathBuf,
    table: ParquetTable,
    /// The column of the bytes.
    column: ParquetColumn,
    /// Where each row group begins, and the end.
    row_group_starts: Vec<usize>,
    cursors: CursorPool<RowCursor>,
}

impl std::fmt::Debug for ParquetShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetShard").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ParquetShard {
    /// The rows of `column`, which must be there, as records.
    pub(crate) fn new(path: &Path, table: ParquetTable, column: &str) -> Self {
        let column = table.columns[column];
        let mut row_group_starts = vec![0];
        for group in table.reader.metadata().row_groups() {
            row_group_starts.push(
                row_group_starts[row_group_starts.len() - 1] + usize::try_from(group.num_rows()).unwrap_or(0),
            );
        }
        Self { path: path.into(), table, column, row_group_starts, cursors: CursorPool::default() }
    }

    fn open_cursor(&self, row: usize) -> Result<RowCursor, String> {
        let group = self.row_group_starts.partition_point(|&begin| begin <= row) - 1;
        let (start, end) = (self.row_group_starts[group], self.row_group_starts[group + 1]);
        match self.table.column_reader(group, self.column.index)? {
            ColumnReader::ByteArrayColumnReader(reader) => {
                Ok(RowCursor { reader, next_row: start, end_row: end })
            }
            _ => Err("the column of the photos does not hold bytes".into()),
        }
    }
}

impl RecordReader for ParquetShard {
    fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self, number: usize) -> String {
        format!("row {number}")
    }

    fn read(&self, number: usize) -> Result<Vec<u8>, DecodeError> {
        let read_next = |rows: &mut RowCursor| {
            let n_skipped = number - rows.next_row;
            if n_skipped > 0 && rows.reader.skip_records(n_skipped).map_err(error_message)? != n_skipped {
                return Err("the column ends before its rows do".into());
            }
            let (mut is_present, mut values): (_, Vec<ByteArray>) = (Vec::new(), Vec::new());
            read_batch(&mut rows.reader, self.column.present_level, 1, &mut is_present, &mut values)?;
            rows.next_row = number + 1;
            let bytes = values.first().ok_or("there is no photo in it")?;
            if bytes.len() as u64 > MAX_RECORD_BYTES {
                return Err(format!("it takes {} bytes, more than are allowed", bytes.len()));
            }
            Ok(bytes.data().to_vec())
        };
        catch_panic(|| self.cursors.read(number, || self.open_cursor(number), read_next))
            .map_err(record_error)
    }
}

/// The rows of a row group that are left.
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

fn error_message(error: ParquetError) -> String {
    match error {
        ParquetError::EOF(_) => "the file is cut short".into(),
        ParquetError::General(message) => message,
        ParquetError::External(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// The reader is others' code and indexes by what the file says: a damaged file makes it panic here and there.
fn catch_panic<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("the file is damaged".into()))
}
