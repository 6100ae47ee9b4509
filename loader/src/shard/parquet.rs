//! Parquet files, a row at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::{ConvertedType, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::cursors::{Cursor, Cursors};
use super::{MOST_BYTES, Records, damaged};
use crate::decode::DecodeError;

/// Rows that are read at a time where all of them are wanted.
const ROWS: usize = 4096;

/// A table, opened.
pub(crate) struct Table {
    reader: SerializedFileReader<File>,
    /// The column of the values themselves, by the path of their names.
    columns: BTreeMap<String, Column>,
}

#[derive(Clone, Copy)]
struct Column {
    number: usize,
    /// The definition level of a value that is there.
    full: i16,
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Number(i64),
    Text(String),
}

impl Table {
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        without_panic(|| {
            let file = File::open(path).map_err(|error| error.to_string())?;
            let reader = SerializedFileReader::new(file).map_err(said)?;
            let schema = reader.metadata().file_metadata().schema_descr();
            let columns = (schema.columns().iter().enumerate())
                .filter(|(_, column)| column.max_rep_level() == 0)
                .map(|(number, column)| {
                    (column.path().string(), Column { number, full: column.max_def_level() })
                })
                .collect();
            Ok(Self { reader, columns })
        })
    }

    /// The paths of all columns but those of lists.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.keys().map(String::as_str)
    }

    /// Whether a column holds bytes that are not said to be text.
    pub(crate) fn holds_bytes(&self, column: &str) -> bool {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        let column = schema.column(self.columns[column].number);
        column.physical_type() == PhysicalType::BYTE_ARRAY
            && column.logical_type_ref().is_none()
            && column.converted_type() == ConvertedType::NONE
    }

    pub(crate) fn has(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    /// An entry of the metadata.
    pub(crate) fn note(&self, key: &str) -> Option<&str> {
        let notes = self.reader.metadata().file_metadata().key_value_metadata()?;
        notes.iter().find(|note| note.key == key)?.value.as_deref()
    }

    /// The number of rows.
    pub(crate) fn rows(&self) -> Result<usize, String> {
        let groups = self.reader.metadata().row_groups();
        let rows = groups
            .iter()
            .try_fold(0usize, |all, group| all.checked_add(usize::try_from(group.num_rows()).ok()?));
        rows.ok_or_else(|| "it claims an impossible number of rows".into())
    }

    /// All values of a column of numbers or text; none where a row has none.
    pub(crate) fn values(&self, column: &str) -> Result<Vec<Option<Value>>, String> {
        let Column { number, full } = self.columns[column];
        let mut all = Vec::new();
        for group in 0..self.reader.num_row_groups() {
            let rows = self.reader.metadata().row_group(group).num_rows();
            let before = all.len();
            without_panic(|| {
                let reader =
                    self.reader.get_row_group(group).and_then(|group| group.get_column_reader(number));
                match reader.map_err(said)? {
                    ColumnReader::Int32ColumnReader(reader) => {
                        read_all(reader, full, &mut all, |value| Ok(Value::Number((*value).into())))
                    }
                    ColumnReader::Int64ColumnReader(reader) => {
                        read_all(reader, full, &mut all, |value| Ok(Value::Number(*value)))
                    }
                    ColumnReader::BoolColumnReader(reader) => {
                        read_all(reader, full, &mut all, |value| Ok(Value::Number((*value).into())))
                    }
                    ColumnReader::ByteArrayColumnReader(reader) => {
                        read_all(reader, full, &mut all, |value| {
                            let text = value.as_utf8().map_err(|_| format!("`{column}` is not UTF-8"))?;
                            Ok(Value::Text(text.to_owned()))
                        })
                    }
                    _ => Err(format!("`{column}` is neither a whole number nor text")),
                }
            })?;
            if (all.len() - before) as i64 != rows {
                return Err(format!("`{column}` has not as many values as there are rows"));
            }
        }
        Ok(all)
    }
}

fn read_all<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    full: i16,
    all: &mut Vec<Option<Value>>,
    make: impl Fn(&T::T) -> Result<Value, String>,
) -> Result<(), String> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    loop {
        let rows = read(&mut reader, full, ROWS, &mut levels, &mut values)?;
        if rows == 0 {
            return Ok(());
        }
        let mut present = values.iter();
        for &is_there in &levels {
            let value = if is_there { present.next().map(&make).transpose()? } else { None };
            all.push(value);
        }
    }
}

/// Reads up to `most` rows: of each whether it has a value, and the values of those that have one.
fn read<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    full: i16,
    most: usize,
    there: &mut Vec<bool>,
    values: &mut Vec<T::T>,
) -> Result<usize, String> {
    there.clear();
    values.clear();
    let mut levels = Vec::new();
    let (rows, count, _) = reader.read_records(most, Some(&mut levels), None, values).map_err(said)?;
    if full == 0 {
        there.resize(count, true);
    } else {
        there.extend(levels.iter().map(|&level| level == full));
    }
    Ok(rows)
}

/// The bytes in a column, a row a record.
pub(crate) struct ParquetShard {
    path: PathBuf,
    table: Table,
    /// The column of the bytes.
    column: Column,
    /// Where each row group begins, and the end.
    begins: Vec<usize>,
    cursors: Cursors<Rows>,
}

impl std::fmt::Debug for ParquetShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetShard").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ParquetShard {
    /// The rows of `column`, which must be there, as records.
    pub(crate) fn new(path: &Path, table: Table, column: &str) -> Self {
        let column = table.columns[column];
        let mut begins = vec![0];
        for group in table.reader.metadata().row_groups() {
            begins.push(begins[begins.len() - 1] + usize::try_from(group.num_rows()).unwrap_or(0));
        }
        Self { path: path.into(), table, column, begins, cursors: Cursors::default() }
    }

    fn open(&self, row: usize) -> Result<Rows, String> {
        let group = self.begins.partition_point(|&begin| begin <= row) - 1;
        let (begin, end) = (self.begins[group], self.begins[group + 1]);
        let reader = self.table.reader.get_row_group(group).map_err(said)?;
        match reader.get_column_reader(self.column.number).map_err(said)? {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(Rows { reader, next: begin, end }),
            _ => Err("the column of the photos does not hold bytes".into()),
        }
    }
}

impl Records for ParquetShard {
    fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self, number: usize) -> String {
        format!("row {number}")
    }

    fn read(&self, number: usize) -> Result<Vec<u8>, DecodeError> {
        let next = |rows: &mut Rows| {
            let passed = number - rows.next;
            if passed > 0 && rows.reader.skip_records(passed).map_err(said)? != passed {
                return Err("the column ends before its rows do".into());
            }
            let (mut there, mut values): (_, Vec<ByteArray>) = (Vec::new(), Vec::new());
            read(&mut rows.reader, self.column.full, 1, &mut there, &mut values)?;
            rows.next = number + 1;
            let bytes = values.first().ok_or("there is no photo in it")?;
            if bytes.len() as u64 > MOST_BYTES {
                return Err(format!("it takes {} bytes, more than are allowed", bytes.len()));
            }
            Ok(bytes.data().to_vec())
        };
        without_panic(|| self.cursors.read(number, || self.open(number), next)).map_err(damaged)
    }
}

/// The rows of a row group that are left.
struct Rows {
    reader: ColumnReaderImpl<ByteArrayType>,
    next: usize,
    end: usize,
}

impl Cursor for Rows {
    fn before(&self, record: usize) -> Option<usize> {
        (self.next..self.end).contains(&record).then_some(self.next)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(error: ParquetError) -> String {
    match error {
        ParquetError::EOF(_) => "the file is cut short".into(),
        ParquetError::General(message) => message,
        other => other.to_string(),
    }
}

/// The reader is others' code and indexes by what the file says: a damaged file makes it panic here and there.
fn without_panic<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("the file is damaged".into()))
}
