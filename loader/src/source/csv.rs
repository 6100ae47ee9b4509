//! A CSV of image names and classes, such as `labels.csv`.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use headstock_split::words::{NameList, counted};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::{OpenDataSource, SourceConfig, SourceConfigError, SourceContext, resolve_path};
use super::paths::{relative_path, slash_path};
use super::seen_paths::{SeenPaths, canonical_path};
use super::{DataSource, FieldNames, default_label, find_image_files};
use crate::dataset::{DatasetError, RawDataset, RawSample, Split};

/// The keys of `[data]` of a CSV.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CsvConfig {
    /// A CSV or TSV file with one photo per row. Needs `images`.
    pub csv: PathBuf,
    /// The folder that the file names in the table are relative to.
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
        self.images.as_deref()
    }

    fn open(&self, context: &SourceContext) -> Result<OpenDataSource, DatasetError> {
        let root = self.images.clone().unwrap_or_default();
        let source = CsvSource {
            csv: self.csv.clone(),
            images: root.clone(),
            id: self.id.clone(),
            extension: self.extension.clone(),
            fields: context.fields(&self.label, self.group.as_ref()),
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
}

impl DataSource for CsvSource {
    /// Lists the rows whose image exists in the image folder.
    ///
    /// # Errors
    /// [`DatasetError`] for a file that cannot be read or parsed, or a missing column. Among
    /// [`RawDataset::errors`] are empty fields, images that are listed twice, ids that leave the image folder
    /// (`..`, absolute path, link), and missing images.
    fn list(&self) -> Result<RawDataset, DatasetError> {
        let (rows, errors) = read_rows(self)?;
        if !self.images.is_dir() {
            return Err(DatasetError::NoFolder(self.images.clone()));
        }
        let root = canonical_path(&self.images)?;
        let mut raw =
            RawDataset { origin: self.csv.clone(), samples: Vec::with_capacity(rows.len()), errors };
        let (mut first_lines, mut seen) = (HashMap::with_capacity(rows.len()), SeenPaths::default());
        let mut missing = Vec::new();
        for CsvRow { line, id, class, group, split } in rows {
            let leaves_root_error = || DatasetError::LeavesRoot {
                subject: format!("{}, line {line}: the id `{}`", self.csv.display(), id.escape_debug()),
                root: self.images.clone(),
            };
            let Some(relative) = relative_path(&with_extension(&id, &self.extension)) else {
                raw.errors.push(leaves_root_error());
                continue;
            };
            if let Some(&first) = first_lines.get(&relative) {
                let problem = format!(
                    "`{relative}` is on line {first} and on line {line}: each photo may be listed only once; \
                     remove one of the two lines"
                );
                raw.errors.push(DatasetError::invalid(&self.csv, problem));
                continue;
            }
            first_lines.insert(relative.clone(), line);
            let path = self.images.join(&relative);
            match path.canonicalize() {
                Ok(canonical) if !canonical.starts_with(&root) => raw.errors.push(leaves_root_error()),
                Ok(canonical) if canonical.is_file() => {
                    match seen.insert(canonical, format!("{}, line {line}: `{relative}`", self.csv.display()))
                    {
                        Ok(()) => {
                            let image = path.into();
                            raw.samples.push(RawSample { id: relative, image, class, group, split });
                        }
                        Err(error) => raw.errors.push(error),
                    }
                }
                Ok(_) => missing.push(relative),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    missing.push(relative);
                }
                Err(error) => return Err(DatasetError::io(&path)(error)),
            }
        }
        if !missing.is_empty() {
            let (csv, images) = (self.csv.clone(), self.images.clone());
            raw.errors.push(DatasetError::MissingImages { csv, images, missing: NameList(missing) });
        }
        Ok(raw)
    }

    /// Ids of the images in the image folder that no row lists.
    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        let (rows, _) = read_rows(self)?;
        let listed: HashSet<PathBuf> = (rows.iter())
            .filter_map(|row| relative_path(&with_extension(&row.id, &self.extension)))
            .map(|id| self.images.join(id))
            .collect();
        let relative_id = |file: &PathBuf| slash_path(file.strip_prefix(&self.images).unwrap_or(file));
        let files = find_image_files(&self.images)?;
        Ok(files.iter().filter(|file| !listed.contains(*file)).map(relative_id).collect())
    }

    fn table_path(&self) -> Option<&Path> {
        Some(&self.csv)
    }

    /// Of several rows with the same image only the first remains. Columns and delimiter are unchanged.
    ///
    /// ```
    /// use headstock_loader::source::{CsvSource, DataSource, FieldNames};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// std::fs::write(folder.join("labels.csv"), "id;breed;age\n1;pug;3\n2;akita;4\n")?;
    /// let source = CsvSource {
    ///     csv: folder.join("labels.csv"),
    ///     images: folder.join("train"),
    ///     id: "id".into(),
    ///     extension: "jpg".into(),
    ///     fields: FieldNames { label: "breed".into(), group: None, split: None },
    /// };
    /// let table = source.filter_table(&|path| path != "1.jpg")?;
    /// assert_eq!(table.ok_or("no table")?, b"id;breed;age\n2;akita;4\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn filter_table(&self, keep: &dyn Fn(&str) -> bool) -> Result<Option<Vec<u8>>, DatasetError> {
        let table = CsvFile::open(&self.csv)?;
        let mut reader = table.reader();
        let header = table.header(&mut reader)?;
        let id = find_column(&header, self, "id", &self.id)?;
        let mut writer = csv::WriterBuilder::new().delimiter(table.delimiter()).from_writer(Vec::new());
        writer.write_record(&header).map_err(|e| table.csv_error(&e))?;
        let mut seen = HashSet::new();
        for record in reader.records() {
            let record = record.map_err(|e| table.csv_error(&e))?;
            let path = record.get(id).and_then(|id| relative_path(&with_extension(id, &self.extension)));
            if let Some(path) = path
                && keep(&path)
                && seen.insert(path)
            {
                writer.write_record(&record).map_err(|e| table.csv_error(&e))?;
            }
        }
        Ok(Some(writer.into_inner().expect("writing to a vector cannot fail")))
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

/// The fields of a row that are used.
struct CsvRow {
    /// The line of the file, counted from 1, for messages.
    line: u64,
    /// As in the table, without the file extension that [`CsvSource`] appends.
    id: String,
    class: String,
    group: Option<String>,
    split: Option<Split>,
}

/// Parses all rows of the table; returns (the valid rows, the errors of the others). A missing column or a
/// row that the CSV parser refuses is an error of the whole table.
fn read_rows(source: &CsvSource) -> Result<(Vec<CsvRow>, Vec<DatasetError>), DatasetError> {
    let table = CsvFile::open(&source.csv)?;
    let mut reader = table.reader();
    let header = table.header(&mut reader)?;
    let column_index = |parameter, name: &str| find_column(&header, source, parameter, name);
    let optional_column = |parameter, name: &Option<String>| {
        name.as_deref().map(|name| column_index(parameter, name)).transpose()
    };
    let FieldNames { label, group, split } = &source.fields;
    let id_column = column_index("id", &source.id)?;
    let label_column = column_index("label", label)?;
    let group_column = optional_column("group", group)?;
    let split_column = optional_column("split", split)?;

    let mut lines = LineCounter { bytes: table.content(), offset: 0, line: 1 };
    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    for record in reader.records() {
        let record = record.map_err(|e| table.csv_error(&e))?;
        let line = lines.line_at(record.position());
        let parse_row = || -> Result<CsvRow, String> {
            let field = |column: usize| match record.get(column) {
                Some(value) if !value.is_empty() => Ok(value.to_owned()),
                _ => {
                    Err(format!("the column `{}` is empty: add a value, or remove the line", &header[column]))
                }
            };
            let split = split_column.map(|column| Split::parse(&header[column], &field(column)?));
            let (id, class) = (field(id_column)?, field(label_column)?);
            let group = group_column.map(field).transpose()?;
            Ok(CsvRow { line, id, class, group, split: split.transpose()? })
        };
        match parse_row() {
            Ok(row) => rows.push(row),
            Err(problem) => {
                errors.push(DatasetError::invalid(&source.csv, format!("line {line}: {problem}")));
            }
        }
    }
    if rows.is_empty() && errors.is_empty() {
        return Err(table.no_rows_error());
    }
    Ok((rows, errors))
}

/// The header and the first row of a CSV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableHead {
    /// Column names.
    pub columns: Vec<String>,
    /// Fields of the first row, one per column.
    pub first_row: Vec<String>,
}

/// Reads the header and the first row of a CSV in the same way as [`CsvSource`], for example to guess from
/// them which column is which.
///
/// # Errors
/// [`DatasetError`] for a file that cannot be read, has no rows, or whose first row cannot be parsed.
pub fn read_table_head(csv: &Path) -> Result<TableHead, DatasetError> {
    let table = CsvFile::open(csv)?;
    let mut reader = table.reader();
    let fields = |record: &csv::StringRecord| record.iter().map(str::to_owned).collect();
    let columns = fields(&table.header(&mut reader)?);
    match reader.records().next() {
        Some(first) => Ok(TableHead { columns, first_row: fields(&first.map_err(|e| table.csv_error(&e))?) }),
        None => Err(table.no_rows_error()),
    }
}

/// A CSV file in memory.
struct CsvFile<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
}

impl<'a> CsvFile<'a> {
    /// Reads the file `path` into memory.
    fn open(path: &'a Path) -> Result<Self, DatasetError> {
        let bytes = std::fs::read(path).map_err(DatasetError::io(path))?;
        Ok(Self { path, bytes })
    }

    /// The bytes of the file without a byte order mark, which spreadsheets put before UTF-8 text.
    fn content(&self) -> &[u8] {
        self.bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&self.bytes)
    }

    /// A parser of the file from its start, with the file's delimiter.
    fn reader(&self) -> csv::Reader<&[u8]> {
        csv::ReaderBuilder::new().delimiter(self.delimiter()).trim(csv::Trim::All).from_reader(self.content())
    }

    /// The character between fields: a tab if the file name ends in `.tsv`, otherwise the most frequent of
    /// comma, semicolon and tab in the first line that is not empty. Characters in double quotes do not
    /// count.
    fn delimiter(&self) -> u8 {
        if self.path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tsv")) {
            return b'\t';
        }
        let header = self.content().split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty());
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
        DatasetError::invalid(self.path, error_message(error, self.content()))
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

/// The message for the user about an error of the CSV parser. `bytes` is the content of the file, to count
/// the line of the error.
fn error_message(error: &csv::Error, bytes: &[u8]) -> String {
    let line = LineCounter { bytes, offset: 0, line: 1 }.line_at(error.position());
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            let fields = counted(*len as usize, "field", "fields");
            format!(
                "line {line} has {fields}, but the header has {expected_len}: put double quotes around a \
                 field that contains the separator"
            )
        }
        csv::ErrorKind::Utf8 { .. } => {
            format!("line {line} is not UTF-8 text: save the file as UTF-8 (in a spreadsheet: as CSV UTF-8)")
        }
        _ => error.to_string(),
    }
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
