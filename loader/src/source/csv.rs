//! A CSV of image names and classes, such as `labels.csv`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use headstock_split::words::{NameList, counted};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::{OpenDataSource, SourceConfig, SourceConfigError, SourceContext, resolve_path};
use super::rows::{ImageTable, ListedRow, unlisted_images};
use super::tree::ImageRoot;
use super::{DataSource, FieldNames, default_label};
use crate::dataset::{DatasetError, PassedOverReason, RawDataset, Split};
use crate::shard::{LFS_POINTER_MESSAGE, is_lfs_pointer};

/// The keys of `[data]` of a CSV.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CsvConfig {
    /// A CSV or TSV file with one photo per row. Needs `images`.
    pub csv: PathBuf,
    /// The folder that the file names in the table are relative to, or a zip archive of photos.
    pub images: Option<PathBuf>,
    /// The column with the name of the photo's file.
    #[serde(default = "default_id")]
    pub id: String,
    /// The column with the class.
    #[serde(default = "default_label")]
    pub label: String,
    /// The column with the group of a photo: what it has in common with other photos besides the class, for
    /// example the patient, the dog or the film. A head does too well on photos of a group that it was
    /// trained on. `compare` keeps all photos of a group in the same fold. `split.method = "group"` keeps
    /// them together in the training set or in the test set; with other methods a message says how many
    /// groups are in both. Groups are ordered by name. Optional.
    pub group: Option<String>,
    /// The file name extension that is appended to the file names.
    #[serde(default)]
    pub extension: String,
}

fn default_id() -> String {
    "id".into()
}

impl SourceConfig for CsvConfig {
    const KIND: &'static str = "csv";

    fn resolve(&mut self, base: &Path) -> Result<(), SourceConfigError> {
        resolve_path("csv", &mut self.csv, base)?;
        let missing = "is missing: give the folder that the file names in `csv` are relative to";
        let images = self.images.as_mut().ok_or_else(|| SourceConfigError::key("images", missing))?;
        resolve_path("images", images, base)
    }

    fn has_groups(&self) -> bool {
        self.group.is_some()
    }

    fn image_root(&self) -> Option<&Path> {
        self.images.as_deref().filter(|images| images.is_dir())
    }

    fn open(&self, context: &SourceContext) -> Result<OpenDataSource, DatasetError> {
        let root = self.images.clone().unwrap_or_default();
        let source = CsvSource {
            csv: self.csv.clone(),
            images: root.clone(),
            id: self.id.clone(),
            extension: self.extension.clone(),
            fields: context.fields(&self.label, self.group.as_ref()),
            follow_links: context.follow_links,
        };
        Ok(OpenDataSource { source: Box::new(source), root })
    }
}

/// A CSV with a header line and one image per row. Samples are in the order of the rows. Whitespace around a
/// field is ignored. The delimiter is a tab if the file name ends in `.tsv`, otherwise the most frequent of
/// `,`, `;` and tab in the header.
///
/// ```
/// use headstock_loader::source::{CsvSource, DataSource, FieldNames};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// # std::fs::create_dir(folder.join("train"))?;
/// # for name in ["000bec18.jpg", "001513df.jpg"] {
/// #     std::fs::write(folder.join("train").join(name), [])?;
/// # }
/// std::fs::write(folder.join("labels.csv"), "id,breed\n000bec18,pug\n001513df,akita\n")?;
/// let source = CsvSource {
///     csv: folder.join("labels.csv"),
///     images: folder.join("train"),
///     id: "id".into(),
///     extension: "jpg".into(),
///     fields: FieldNames { label: "breed".into(), group: None, split: None },
///     follow_links: false,
/// };
/// let samples = source.list()?.samples;
/// assert_eq!((samples[0].id.as_str(), samples[0].class.as_str()), ("000bec18.jpg", "pug"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvSource {
    /// The CSV file.
    pub csv: PathBuf,
    /// The folder that ids are relative to.
    pub images: PathBuf,
    /// The column of the file name.
    pub id: String,
    /// File extension to append to the id, with or without its dot; empty if ids include the extension.
    pub extension: String,
    /// The other columns.
    pub fields: FieldNames,
    /// Whether links may lead out of the folder of the images.
    pub follow_links: bool,
}

impl DataSource for CsvSource {
    /// Lists the rows whose image exists in the image folder.
    ///
    /// # Errors
    /// [`DatasetError`] for a file that cannot be read or parsed, or a missing column. Among
    /// [`RawDataset::errors`] are empty fields, images that are listed twice, ids that leave the image folder
    /// (`..`, absolute path, link), and missing images.
    fn list(&self) -> Result<RawDataset, DatasetError> {
        let mut raw = RawDataset::new(self.csv.clone());
        let rows = self.read_rows(&mut raw)?;
        let table = ImageTable { table: &self.csv, images: &self.images, follow_links: self.follow_links };
        table.locate(&rows, &mut raw)?;
        Ok(raw)
    }

    /// Ids of the images in the image folder that no row lists.
    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        let rows = self.read_rows(&mut RawDataset::new(self.csv.clone()))?;
        unlisted_images(&rows, &self.images, self.follow_links)
    }

    fn table_path(&self) -> Option<&Path> {
        Some(&self.csv)
    }

    /// Of several rows with the same image only the first remains; rows that cannot be read are left out. Only
    /// the column of the class changes; the delimiter stays.
    ///
    /// ```
    /// use headstock_loader::source::{CsvSource, DataSource, FieldNames};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// std::fs::create_dir(folder.join("train"))?;
    /// std::fs::write(folder.join("labels.csv"), "id;breed;age\n1;pug;3\n2;akita;4\n")?;
    /// let source = CsvSource {
    ///     csv: folder.join("labels.csv"),
    ///     images: folder.join("train"),
    ///     id: "id".into(),
    ///     extension: "jpg".into(),
    ///     fields: FieldNames { label: "breed".into(), group: None, split: None },
    ///     follow_links: false,
    /// };
    /// let table = source.filter_table(&|path| (path != "1.jpg").then(|| "shiba".to_owned()))?;
    /// assert_eq!(table.ok_or("no table")?, b"id;breed;age\n2;shiba;4\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn filter_table(
        &self,
        class_of: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Vec<u8>>, DatasetError> {
        let table = CsvFile::open(&self.csv)?;
        let mut reader = table.reader();
        let header = table.header(&mut reader)?;
        let id = find_column(&header, self, "id", &self.id)?;
        let label = find_column(&header, self, "label", &self.fields.label)?;
        let mut writer = csv::WriterBuilder::new().delimiter(table.delimiter()).from_writer(Vec::new());
        writer.write_record(&header).map_err(|e| table.csv_error(&e))?;
        let mut seen = HashSet::new();
        let root = ImageRoot::open(&self.images, self.follow_links)?;
        for record in reader.byte_records() {
            let Ok(record) = check_record(record.map_err(|e| table.csv_error(&e))?, &header) else {
                continue;
            };
            let path = record.get(id).and_then(|id| root.relative_id(&with_extension(id, &self.extension)));
            if let Some(path) = path
                && let Some(class) = class_of(&path)
                && seen.insert(path)
            {
                let fields = record.iter().enumerate();
                let fields =
                    fields.map(|(column, field)| if column == label { class.as_str() } else { field });
                writer.write_record(fields).map_err(|e| table.csv_error(&e))?;
            }
        }
        Ok(Some(writer.into_inner().expect("writing to a vector cannot fail")))
    }
}

impl CsvSource {
    /// Parses all rows of the table and returns those that are valid. Errors of the others are added to `raw`,
    /// which also counts the empty rows. A missing column is an error of the whole table.
    pub(super) fn read_rows(&self, raw: &mut RawDataset) -> Result<Vec<ListedRow>, DatasetError> {
        let table = CsvFile::open(&self.csv)?;
        let mut reader = table.reader();
        let header = table.header(&mut reader)?;
        let column_index = |parameter, name: &str| find_column(&header, self, parameter, name);
        let optional_column = |parameter, name: &Option<String>| {
            name.as_deref().map(|name| column_index(parameter, name)).transpose()
        };
        let FieldNames { label, group, split } = &self.fields;
        let id_column = column_index("id", &self.id)?;
        let label_column = column_index("label", label)?;
        let group_column = optional_column("group", group)?;
        let split_column = optional_column("split", split)?;

        let mut lines = table.line_counter();
        let mut rows = Vec::new();
        for record in reader.byte_records() {
            let record = record.map_err(|e| table.csv_error(&e))?;
            let place = format!("line {}", lines.line_at(record.position()));
            if record.iter().all(<[u8]>::is_empty) {
                raw.passed_over.add(PassedOverReason::EmptyRow, place);
                continue;
            }
            let mut error_reason = PassedOverReason::BadEntry;
            let parse_row = || -> Result<ListedRow, String> {
                let record = check_record(record, &header)?;
                let field = |column: usize| match record.get(column) {
                    Some(value) if !value.is_empty() => Ok(value.to_owned()),
                    _ => Err(format!(
                        "the column `{}` is empty: add a value, or remove the line",
                        &header[column]
                    )),
                };
                let id = with_extension(&field(id_column)?, &self.extension);
                error_reason = PassedOverReason::Unlabeled;
                let class = field(label_column)?;
                error_reason = PassedOverReason::BadEntry;
                let split = split_column.map(|column| Split::parse(&header[column], &field(column)?));
                let group = group_column.map(field).transpose()?;
                Ok(ListedRow { place: place.clone(), id, class, group, split: split.transpose()? })
            };
            match parse_row() {
                Ok(row) => rows.push(row),
                Err(problem) => {
                    raw.errors.push(DatasetError::entry(&self.csv, place.clone(), problem, error_reason));
                }
            }
        }
        if rows.is_empty() && raw.errors.is_empty() {
            return Err(table.no_rows_error());
        }
        Ok(rows)
    }
}

/// The file name of the image `id`: the id, followed by `.` and `extension`, which may have a dot of its own.
/// An empty extension adds nothing, for tables whose ids are file names.
fn with_extension(id: &str, extension: &str) -> String {
    match extension.strip_prefix('.').unwrap_or(extension) {
        "" => id.into(),
        extension => format!("{id}.{extension}"),
    }
}

/// The fields of a row as text. It is an error if the text is not UTF-8, or the number of fields is not that
/// of the `header`.
fn check_record(record: csv::ByteRecord, header: &csv::StringRecord) -> Result<csv::StringRecord, String> {
    if record.len() != header.len() {
        return Err(format!(
            "the line has {}, but the header has {}: put double quotes around a field that contains the \
             separator",
            counted(record.len(), "field", "fields"),
            header.len()
        ));
    }
    csv::StringRecord::from_byte_record(record).map_err(|_| {
        "the text is not UTF-8: save the file as UTF-8 (in a spreadsheet: as CSV UTF-8)".to_owned()
    })
}

/// The contents of a CSV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableContents {
    /// Column names.
    pub columns: Vec<String>,
    /// The fields of each row, one per column. Empty rows, and rows that cannot be read, are left out.
    pub rows: Vec<Vec<String>>,
    /// The rows that cannot be read: the line, such as `line 5`, and what is wrong with it.
    pub unreadable: Vec<String>,
    /// The character between fields.
    pub delimiter: u8,
}

/// Reads a CSV in the same way as [`CsvSource`], for example to guess which column is which.
///
/// # Errors
/// [`DatasetError`] for a file that cannot be read, or has no rows that can be read.
pub fn read_table(csv: &Path) -> Result<TableContents, DatasetError> {
    let table = CsvFile::open(csv)?;
    let mut reader = table.reader();
    let header = table.header(&mut reader)?;
    let mut lines = table.line_counter();
    let (mut rows, mut unreadable) = (Vec::new(), Vec::new());
    for record in reader.byte_records() {
        let record = record.map_err(|e| table.csv_error(&e))?;
        let line = lines.line_at(record.position());
        if record.iter().all(<[u8]>::is_empty) {
            continue;
        }
        match check_record(record, &header) {
            Ok(record) => rows.push(record.iter().map(str::to_owned).collect()),
            Err(problem) => unreadable.push(format!("line {line}: {problem}")),
        }
    }
    if rows.is_empty() {
        return Err(match unreadable.first() {
            Some(problem) => DatasetError::invalid(csv, format!("no row can be read: {problem}")),
            None => table.no_rows_error(),
        });
    }
    let columns = header.iter().map(str::to_owned).collect();
    Ok(TableContents { columns, rows, unreadable, delimiter: table.delimiter() })
}

/// A CSV file in memory.
struct CsvFile<'a> {
    path: &'a Path,
    /// The text after a byte order mark and after the line `sep=;`, with which a spreadsheet may tell the
    /// separator.
    content: Vec<u8>,
    /// The separator of that line.
    separator: Option<u8>,
}

impl<'a> CsvFile<'a> {
    /// Reads the file `path` into memory. UTF-16, which spreadsheets write as "Unicode text", becomes UTF-8.
    fn open(path: &'a Path) -> Result<Self, DatasetError> {
        let bytes = std::fs::read(path).map_err(DatasetError::io(path))?;
        if is_lfs_pointer(&bytes) {
            return Err(DatasetError::invalid(path, LFS_POINTER_MESSAGE));
        }
        let mut content = match bytes.as_slice() {
            [0xEF, 0xBB, 0xBF, text @ ..] => text.to_vec(),
            [0xFF, 0xFE, text @ ..] => utf16_to_utf8(path, text, u16::from_le_bytes)?,
            [0xFE, 0xFF, text @ ..] => utf16_to_utf8(path, text, u16::from_be_bytes)?,
            _ => bytes,
        };
        let first_line = content.split_inclusive(|&byte| byte == b'\n').next().unwrap_or_default();
        let separator = match first_line.trim_ascii().strip_prefix(b"sep=") {
            Some(&[separator]) => Some(separator),
            _ => None,
        };
        if separator.is_some() {
            content.drain(..first_line.len());
        }
        Ok(Self { path, content, separator })
    }

    /// A parser of the file from its start, with the file's delimiter. Rows may have any number of fields.
    fn reader(&self) -> csv::Reader<&[u8]> {
        let mut builder = csv::ReaderBuilder::new();
        builder.delimiter(self.delimiter()).trim(csv::Trim::All).flexible(true).from_reader(&self.content)
    }

    /// Counts the lines of the file.
    fn line_counter(&self) -> LineCounter<'_> {
        LineCounter { bytes: &self.content, offset: 0, line: 1 + u64::from(self.separator.is_some()) }
    }

    /// The character between fields: that of a line `sep=;`; a tab if the file name ends in `.tsv`; otherwise
    /// the most frequent of comma, semicolon and tab in the first line that is not empty. Characters in double
    /// quotes do not count.
    fn delimiter(&self) -> u8 {
        if let Some(separator) = self.separator {
            return separator;
        }
        if self.path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tsv")) {
            return b'\t';
        }
        let header = self.content.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty());
        let count = |delimiter: u8| {
            let is_quote = |byte: &u8| *byte == b'"';
            // Quotes split the header into parts that are by turns outside and inside quotes.
            let unquoted = header.unwrap_or_default().split(is_quote).step_by(2).flatten();
            unquoted.filter(|&&byte| byte == delimiter).count()
        };
        // Of equal counts `max_by_key` returns the last, the comma before the others.
        [b'\t', b';', b','].into_iter().max_by_key(|&delimiter| count(delimiter)).unwrap_or(b',')
    }

    /// Reads the column names from the first line; a file without them is an error. `reader` is this file's
    /// parser.
    fn header(&self, reader: &mut csv::Reader<&[u8]>) -> Result<csv::StringRecord, DatasetError> {
        let header = reader.headers().map_err(|e| self.csv_error(&e))?;
        if header.is_empty() {
            let hint = "the first line of the file must name the columns, such as id,label";
            return Err(DatasetError::Empty { path: self.path.into(), missing: "header", hint });
        }
        Ok(header.clone())
    }

    /// Converts an error of the CSV parser.
    fn csv_error(&self, error: &csv::Error) -> DatasetError {
        let line = self.line_counter().line_at(error.position());
        let message = match error.kind() {
            csv::ErrorKind::Utf8 { .. } => format!(
                "line {line} is not UTF-8 text: save the file as UTF-8 (in a spreadsheet: as CSV UTF-8)"
            ),
            _ => error.to_string(),
        };
        DatasetError::invalid(self.path, message)
    }

    /// The error for a file that has nothing but a header.
    fn no_rows_error(&self) -> DatasetError {
        let hint = "add one line for each photo after the line with the column names";
        DatasetError::Empty { path: self.path.into(), missing: "rows", hint }
    }
}

/// Counts the lines of a CSV, for messages. The parser's own count is one too low after `\r\n` and empty
/// lines.
struct LineCounter<'a> {
    /// The content of the file.
    bytes: &'a [u8],
    /// Bytes before this offset are counted already.
    offset: usize,
    /// The line of the byte at `offset`, counted from 1.
    line: u64,
}

impl LineCounter<'_> {
    /// The line, counted from 1, of the record at the parser's `position`: counts the line breaks since the
    /// previous call, so positions must not decrease between calls. `None` counts as the previous position.
    fn line_at(&mut self, position: Option<&csv::Position>) -> u64 {
        let mut start = position.map_or(self.offset, |position| position.byte() as usize);
        // The position may be before empty lines, or before the second half of `\r\n`.
        while self.bytes.get(start).is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            start += 1;
        }
        let skipped = self.bytes.get(self.offset..start).unwrap_or_default();
        self.line += skipped.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.offset = start;
        self.line
    }
}

/// UTF-16 `text`, whose units `from_bytes` reads, as UTF-8; an error if it is damaged.
fn utf16_to_utf8(path: &Path, text: &[u8], from_bytes: fn([u8; 2]) -> u16) -> Result<Vec<u8>, DatasetError> {
    let units = text.as_chunks().0.iter().map(|&bytes| from_bytes(bytes));
    let decoded: Result<String, _> = char::decode_utf16(units).collect();
    decoded
        .map(String::into_bytes)
        .map_err(|_| DatasetError::invalid(path, "the text is damaged UTF-16: save the file as UTF-8"))
}

/// Index of the column `name` in the header of the table `source.csv`, which must have it exactly once.
/// `parameter` is the parameter of the source with this name, for the error.
fn find_column(
    header: &csv::StringRecord,
    source: &CsvSource,
    parameter: &'static str,
    name: &str,
) -> Result<usize, DatasetError> {
    let mut indices = (0..header.len()).filter(|&index| &header[index] == name);
    match (indices.next(), indices.next()) {
        (Some(index), None) => Ok(index),
        (Some(_), Some(_)) => {
            let problem = format!("two columns are called `{name}`: rename one of them");
            Err(DatasetError::invalid(&source.csv, problem))
        }
        (None, _) => Err(DatasetError::NoColumn {
            path: source.csv.clone(),
            parameter: Some(parameter),
            column: name.into(),
            columns: NameList(header.iter().map(str::to_owned).collect()),
        }),
    }
}
