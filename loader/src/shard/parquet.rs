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

use self::pages::{Opening, Pages};
use super::cursors::{Cursor, Cursors};
use super::{MOST_BYTES, Records, damaged};
use crate::dataset::{DatasetError, Listed, did_you_mean};
use crate::decode::DecodeError;

/// Rows that are read at a time where all of them are wanted.
const ROWS: usize = 4096;

/// Rows of lists that are read at a time: a row may be thousands of numbers.
const LISTS: usize = 256;

/// A Parquet file, opened. Columns within structs are called by the path of their names, `image.bytes`.
///
/// A damaged file is an error of each method that reads it: [`DatasetError::Shard`].
pub struct Table {
    path: PathBuf,
    bytes: u64,
    reader: SerializedFileReader<Opening>,
    /// The column of the values themselves, by the path of their names.
    columns: BTreeMap<String, Column>,
}

#[derive(Clone, Copy)]
struct Column {
    number: usize,
    /// The definition level of a value that is there.
    full: i16,
    /// How its whole numbers are meant.
    unsigned: bool,
}

/// The value of a field. Numbers come in order of value, text in that of its bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// A whole number, or 1 and 0 for what is true and false.
    Number(i64),
    /// Text.
    Text(String),
}

impl Table {
    /// Opens `path`.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn open(path: &Path) -> Result<Self, DatasetError> {
        let open = || {
            let file = Opening::new(path).map_err(|error| error.to_string())?;
            let bytes = file.len();
            let reader = SerializedFileReader::new(file).map_err(said)?;
            let schema = reader.metadata().file_metadata().schema_descr();
            let columns = (schema.columns().iter().enumerate())
                .filter(|(_, column)| column.max_rep_level() == 0)
                .map(|(number, column)| {
                    let unsigned = [ConvertedType::UINT_32, ConvertedType::UINT_64];
                    let unsigned = unsigned.contains(&column.converted_type());
                    (column.path().string(), Column { number, full: column.max_def_level(), unsigned })
                })
                .collect();
            Ok(Self { path: path.into(), bytes, reader, columns })
        };
        without_panic(open).map_err(|problem| DatasetError::Shard { path: path.into(), problem })
    }

    /// Reads the part of column `number` that is in a row group.
    fn column_reader(&self, group: usize, number: usize) -> Result<ColumnReader, String> {
        let pages = self.reader.get_row_group(group).and_then(|group| group.get_column_page_reader(number));
        Ok(get_column_reader(self.schema().column(number), Box::new(Pages(pages.map_err(said)?))))
    }

    fn schema(&self) -> &SchemaDescriptor {
        self.reader.metadata().file_metadata().schema_descr()
    }

    fn fault(&self, problem: String) -> DatasetError {
        DatasetError::Shard { path: self.path.clone(), problem }
    }

    /// The paths of all columns but those of lists.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.keys().map(String::as_str)
    }

    /// Whether a column holds bytes that are not said to be text.
    pub(crate) fn holds_bytes(&self, column: &str) -> bool {
        let column = self.schema().column(self.columns[column].number);
        column.physical_type() == PhysicalType::BYTE_ARRAY
            && column.logical_type_ref().is_none()
            && column.converted_type() == ConvertedType::NONE
    }

    /// Whether there is a column `column` of single values.
    #[must_use]
    pub fn has(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    /// An entry of the metadata.
    pub(crate) fn note(&self, key: &str) -> Option<&str> {
        let notes = self.reader.metadata().file_metadata().key_value_metadata()?;
        notes.iter().find(|note| note.key == key)?.value.as_deref()
    }

    /// The number of rows.
    ///
    /// # Errors
    /// For a file that claims more than can be.
    pub fn rows(&self) -> Result<usize, DatasetError> {
        let groups = self.reader.metadata().row_groups();
        let rows = groups
            .iter()
            .try_fold(0usize, |all, group| all.checked_add(usize::try_from(group.num_rows()).ok()?));
        rows.ok_or_else(|| self.fault("it claims an impossible number of rows".into()))
    }

    /// How many bytes the file has.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All values of a column of whole numbers or text; none where a row has none.
    ///
    /// # Errors
    /// For a column that is not there or holds something else.
    pub fn values(&self, column: &str) -> Result<Vec<Option<Value>>, DatasetError> {
        let &Column { number, full, unsigned } =
            self.columns.get(column).ok_or_else(|| self.no_column(column))?;
        let mut all = Vec::new();
        self.each_group(column, number, |reader, rows| {
            let before = all.len();
            let most = before.saturating_add(rows);
            match reader {
                ColumnReader::Int32ColumnReader(reader) => {
                    read_all(reader, full, (&mut all, most), |&value| {
                        Ok(Value::Number(if unsigned { value.cast_unsigned().into() } else { value.into() }))
                    })
                }
                ColumnReader::Int64ColumnReader(reader) => {
                    read_all(reader, full, (&mut all, most), |&value| {
                        let beyond = unsigned && value < 0;
                        let too_large = || format!("`{column}` has a number beyond 63 bits");
                        if beyond { Err(too_large()) } else { Ok(Value::Number(value)) }
                    })
                }
                ColumnReader::BoolColumnReader(reader) => {
                    read_all(reader, full, (&mut all, most), |value| Ok(Value::Number((*value).into())))
                }
                ColumnReader::ByteArrayColumnReader(reader) => {
                    read_all(reader, full, (&mut all, most), |value| {
                        let text = value.as_utf8().map_err(|_| format!("`{column}` is not UTF-8"))?;
                        Ok(Value::Text(text.to_owned()))
                    })
                }
                _ => Err(format!("`{column}` is neither a whole number nor text")),
            }?;
            Ok(all.len() - before)
        })?;
        Ok(all)
    }

    /// All numbers of a column of lists (FLOAT, or DOUBLE that is rounded), row after row, `[N, F]`, and `F`: each list must be
    /// as long as the first.
    ///
    /// # Errors
    /// For a column that is not there or holds something else, a list or a number that is null, and a list of another length.
    pub fn lists(&self, column: &str) -> Result<(Vec<f32>, usize), DatasetError> {
        let columns = self.schema().columns().iter().enumerate();
        let below: Vec<_> = columns.filter(|(_, leaf)| leaf.path().parts()[0] == column).collect();
        let (number, levels) = match below.as_slice() {
            [] => return Err(self.no_column(column)),
            [(number, leaf)] if leaf.max_rep_level() == 1 => {
                (*number, Levels { full: leaf.max_def_level(), listed: leaf.repeated_ancestor_def_level() })
            }
            _ => return Err(self.fault(format!("`{column}` does not hold a list of numbers in each row"))),
        };
        let mut lists = Lists::default();
        self.each_group(column, number, |reader, _| {
            let before = lists.rows;
            let read = match reader {
                ColumnReader::FloatColumnReader(reader) => lists.read(reader, levels, |value| value),
                ColumnReader::DoubleColumnReader(reader) => lists.read(reader, levels, |value| value as f32),
                _ => {
                    let kind = self.schema().column(number).physical_type();
                    return Err(format!("`{column}` holds lists of {kind}; save them as float32"));
                }
            };
            read.map_err(|problem| format!("`{column}`: {problem}"))?;
            Ok(lists.rows - before)
        })?;
        Ok((lists.values, lists.width.unwrap_or(0)))
    }

    /// Has `read` read a column's part of each row group, which has so many rows; it says how many it met.
    fn each_group(
        &self,
        column: &str,
        number: usize,
        mut read: impl FnMut(ColumnReader, usize) -> Result<usize, String>,
    ) -> Result<(), DatasetError> {
        for group in 0..self.reader.num_row_groups() {
            let rows = self.reader.metadata().row_group(group).num_rows();
            let rows = usize::try_from(rows).unwrap_or(0);
            let read = without_panic(|| read(self.column_reader(group, number)?, rows));
            if read.map_err(|problem| self.fault(problem))? != rows {
                return Err(self.fault(format!("`{column}` has not as many values as there are rows")));
            }
        }
        Ok(())
    }

    fn no_column(&self, column: &str) -> DatasetError {
        let mut names: Vec<String> = Vec::new();
        for leaf in self.schema().columns() {
            let name = &leaf.path().parts()[0];
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        let columns = Listed(names);
        let hint = did_you_mean(column, &columns);
        self.fault(format!("there is no column `{column}`; its columns: {columns}{hint}"))
    }
}

/// The definition levels of a column of lists.
#[derive(Clone, Copy)]
struct Levels {
    /// A number that is there.
    full: i16,
    /// A number's place in a list, whether it is there or null; below it there is no list, or an empty one.
    listed: i16,
}

#[derive(Default)]
struct Lists {
    values: Vec<f32>,
    width: Option<usize>,
    rows: usize,
}

impl Lists {
    fn read<T: DataType>(
        &mut self,
        mut reader: ColumnReaderImpl<T>,
        levels: Levels,
        number: impl Fn(T::T) -> f32,
    ) -> Result<(), String> {
        let (mut present, mut begins, mut values) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            present.clear();
            begins.clear();
            values.clear();
            let (rows, ..) = reader
                .read_records(LISTS, Some(&mut present), Some(&mut begins), &mut values)
                .map_err(said)?;
            if rows == 0 {
                return Ok(());
            }
            let mut length = 0;
            for (i, (&present, &begin)) in present.iter().zip(&begins).enumerate() {
                if begin == 0 && i > 0 {
                    self.end_row(length)?;
                    length = 0;
                }
                if present < levels.listed {
                    return Err(format!("row {} has none", self.rows));
                }
                if present < levels.full {
                    return Err(format!("value {length} of row {} is null", self.rows));
                }
                length += 1;
            }
            self.end_row(length)?;
            self.values.extend(values.drain(..).map(&number));
        }
    }

    fn end_row(&mut self, length: usize) -> Result<(), String> {
        let width = *self.width.get_or_insert(length);
        if length != width {
            return Err(format!("row {} has {length} values, but those before it have {width}", self.rows));
        }
        self.rows += 1;
        Ok(())
    }
}

/// Reads what is left into `all`, but not on where that has more than `most`.
fn read_all<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    full: i16,
    (all, most): (&mut Vec<Option<Value>>, usize),
    make: impl Fn(&T::T) -> Result<Value, String>,
) -> Result<(), String> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    loop {
        let rows = read(&mut reader, full, ROWS, &mut levels, &mut values)?;
        if rows == 0 || all.len() > most {
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
        match self.table.column_reader(group, self.column.number)? {
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

fn said(error: ParquetError) -> String {
    match error {
        ParquetError::EOF(_) => "the file is cut short".into(),
        ParquetError::General(message) => message,
        ParquetError::External(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// The reader is others' code and indexes by what the file says: a damaged file makes it panic here and there.
fn without_panic<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err("the file is damaged".into()))
}
