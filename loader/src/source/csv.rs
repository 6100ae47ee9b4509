//! A table of photos: the tutorial's `labels.csv`.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use super::same::{Seen, real_path};
use super::webdataset::known_part;
use super::{Entry, Fields, Listing, Part, Source, photos_below};
use crate::dataset::{DatasetError, Listed};

/// A table with a photo in each row, its header in the first line. Samples are in the order of the rows. Space around a field
/// does not count. Fields end at a tab where the file's name ends in `.tsv`, else at whichever of `,`, `;` and tab the header
/// has most of.
///
/// ```
/// use headstock_loader::source::{CsvSource, Fields, Source};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// # std::fs::create_dir(folder.join("train"))?;
/// # for photo in ["000bec18.jpg", "001513df.jpg"] {
/// #     std::fs::write(folder.join("train").join(photo), [])?;
/// # }
/// std::fs::write(folder.join("labels.csv"), "id,breed\n000bec18,pug\n001513df,akita\n")?;
/// let source = CsvSource {
///     csv: folder.join("labels.csv"),
///     images: folder.join("train"),
///     id: "id".into(),
///     extension: "jpg".into(),
///     fields: Fields { label: "breed".into(), group: None, part: None },
/// };
/// let entries = source.list()?.entries;
/// assert_eq!((entries[0].id.as_str(), entries[0].class.as_str()), ("000bec18.jpg", "pug"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvSource {
    /// The table.
    pub csv: PathBuf,
    /// The folder that the ids are relative to.
    pub images: PathBuf,
    /// The column with the file's name.
    pub id: String,
    /// Appended to the id, after a dot that may be written or not; empty when the id has its ending.
    pub extension: String,
    /// The other columns.
    pub fields: Fields,
}

impl Source for CsvSource {
    /// # Errors
    /// [`DatasetError`] for a file that cannot be read or parsed, a column that is not there. An empty field, a photo that is
    /// listed twice, an id that leaves the folder of the photos (`..`, absolute, by a link), and photos that are not there are
    /// faults.
    fn list(&self) -> Result<Listing, DatasetError> {
        let (rows, faults) = read_rows(self)?;
        if !self.images.is_dir() {
            return Err(DatasetError::NoFolder(self.images.clone()));
        }
        let root = real_path(&self.images)?;
        let mut listing =
            Listing { origin: self.csv.clone(), entries: Vec::with_capacity(rows.len()), faults };
        let (mut lines, mut seen) = (HashMap::with_capacity(rows.len()), Seen::default());
        let mut missing = Vec::new();
        for Row { line, id, class, group, part } in rows {
            let leaves = || DatasetError::LeavesRoot {
                what: format!("{}, line {line}: the id `{}`", self.csv.display(), id.escape_debug()),
                root: self.images.clone(),
            };
            let Some(relative) = relative_path(&with_extension(&id, &self.extension)) else {
                listing.faults.push(leaves());
                continue;
            };
            if let Some(&first) = lines.get(&relative) {
                let (path, second) = (self.csv.clone(), line);
                listing.faults.push(DatasetError::DuplicateId { path, id: relative, first, second });
                continue;
            }
            lines.insert(relative.clone(), line);
            let path = self.images.join(&relative);
            match path.canonicalize() {
                Ok(real) if !real.starts_with(&root) => listing.faults.push(leaves()),
                Ok(real) if real.is_file() => {
                    match seen.meet(real, format!("{}, line {line}: `{relative}`", self.csv.display())) {
                        Ok(()) => {
                            let photo = path.into();
                            listing.entries.push(Entry { id: relative, photo, class, group, part });
                        }
                        Err(fault) => listing.faults.push(fault),
                    }
                }
                Ok(_) => missing.push(relative),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    missing.push(relative);
                }
                Err(source) => return Err(DatasetError::Io { path, source }),
            }
        }
        if !missing.is_empty() {
            let (csv, images, count) = (self.csv.clone(), self.images.clone(), missing.len());
            listing.faults.push(DatasetError::MissingPhotos { csv, images, count, photos: Listed(missing) });
        }
        Ok(listing)
    }

    fn unlabelled(&self) -> Result<Vec<String>, DatasetError> {
        let (rows, _) = read_rows(self)?;
        let listed: HashSet<PathBuf> = (rows.iter())
            .filter_map(|row| relative_path(&with_extension(&row.id, &self.extension)))
            .map(|id| self.images.join(id))
            .collect();
        let below = |photo: &PathBuf| {
            let path = photo.strip_prefix(&self.images).unwrap_or(photo);
            path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
        };
        let photos = photos_below(&self.images)?;
        Ok(photos.iter().filter(|photo| !listed.contains(*photo)).map(below).collect())
    }
}

impl CsvSource {
    /// The table without the rows whose photos `keeps` does not name, each by its path below the folder of the photos; of rows of
    /// the same photo the first stays. All columns stay, and what parts them.
    ///
    /// ```
    /// use headstock_loader::source::{CsvSource, Fields};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// std::fs::write(folder.join("labels.csv"), "id;breed;age\n1;pug;3\n2;akita;4\n")?;
    /// let source = CsvSource {
    ///     csv: folder.join("labels.csv"),
    ///     images: folder.join("train"),
    ///     id: "id".into(),
    ///     extension: "jpg".into(),
    ///     fields: Fields { label: "breed".into(), group: None, part: None },
    /// };
    /// assert_eq!(source.only(|photo| photo != "1.jpg")?, b"id;breed;age\n2;akita;4\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`DatasetError`] for a table that cannot be read or parsed.
    pub fn only(&self, keeps: impl Fn(&str) -> bool) -> Result<Vec<u8>, DatasetError> {
        let table = Table::open(&self.csv)?;
        let mut reader = table.reader();
        let header = table.header(&mut reader)?;
        let id = column(&header, self, "data.id", &self.id)?;
        let mut writer = csv::WriterBuilder::new().delimiter(table.delimiter()).from_writer(Vec::new());
        writer.write_record(&header).map_err(|e| table.fault(&e))?;
        let mut seen = HashSet::new();
        for record in reader.records() {
            let record = record.map_err(|e| table.fault(&e))?;
            let path = record.get(id).and_then(|id| relative_path(&with_extension(id, &self.extension)));
            if let Some(path) = path
                && keeps(&path)
                && seen.insert(path)
            {
                writer.write_record(&record).map_err(|e| table.fault(&e))?;
            }
        }
        Ok(writer.into_inner().expect("a vector takes every byte"))
    }
}

fn with_extension(id: &str, extension: &str) -> String {
    match extension.strip_prefix('.').unwrap_or(extension) {
        "" => id.into(),
        extension => format!("{id}.{extension}"),
    }
}

/// `id` as a path with `/` between its parts and no `.` among them; none for one that is absolute, has `..` or NUL.
pub(super) fn relative_path(id: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in Path::new(id).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!id.contains('\0')).then(|| parts.join("/"))
}

struct Row {
    line: u64,
    id: String,
    class: String,
    group: Option<String>,
    part: Option<Part>,
}

/// The rows, and what is wrong with those that are none.
fn read_rows(source: &CsvSource) -> Result<(Vec<Row>, Vec<DatasetError>), DatasetError> {
    let table = Table::open(&source.csv)?;
    let mut reader = table.reader();
    let header = table.header(&mut reader)?;
    let place = |key, name: &str| column(&header, source, key, name);
    let optional = |key, name: &Option<String>| name.as_deref().map(|name| place(key, name)).transpose();
    let Fields { label, group, part } = &source.fields;
    let columns = (
        place("data.id", &source.id)?,
        place("data.label", label)?,
        optional("data.group", group)?,
        optional("split.column", part)?,
    );

    let mut lines = Lines { bytes: table.text(), at: 0, line: 1 };
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    for record in reader.records() {
        let record = record.map_err(|e| table.fault(&e))?;
        let line = lines.line_of(record.position());
        let read = || -> Result<Row, DatasetError> {
            let field = |at: usize| match record.get(at) {
                Some(value) if !value.is_empty() => Ok(value.to_owned()),
                _ => {
                    let (path, column) = (source.csv.clone(), header[at].to_owned());
                    Err(DatasetError::EmptyField { path, line, column })
                }
            };
            let part = columns.3.map(|at| {
                known_part(&header[at], &field(at)?).map_err(|problem| DatasetError::Csv {
                    path: source.csv.clone(),
                    message: format!("line {line}: {problem}"),
                })
            });
            let (id, class) = (field(columns.0)?, field(columns.1)?);
            Ok(Row { line, id, class, group: columns.2.map(field).transpose()?, part: part.transpose()? })
        };
        match read() {
            Ok(row) => rows.push(row),
            Err(fault) => faults.push(fault),
        }
    }
    if rows.is_empty() && faults.is_empty() {
        return Err(table.has_no_rows());
    }
    Ok((rows, faults))
}

/// How a table begins: enough to tell what its columns hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableHead {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The fields of the first row, one a column.
    pub first: Vec<String>,
}

/// Reads the header and the first row of a CSV, as [`CsvSource`] would.
///
/// # Errors
/// [`DatasetError`] for a file that cannot be read, has no row, or cannot be parsed up to there.
pub fn read_table_head(csv: &Path) -> Result<TableHead, DatasetError> {
    let table = Table::open(csv)?;
    let mut reader = table.reader();
    let fields = |record: &csv::StringRecord| record.iter().map(str::to_owned).collect();
    let columns = fields(&table.header(&mut reader)?);
    match reader.records().next() {
        Some(first) => Ok(TableHead { columns, first: fields(&first.map_err(|e| table.fault(&e))?) }),
        None => Err(table.has_no_rows()),
    }
}

/// The bytes of a CSV.
struct Table<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
}

impl<'a> Table<'a> {
    fn open(path: &'a Path) -> Result<Self, DatasetError> {
        let bytes = std::fs::read(path).map_err(|source| DatasetError::Io { path: path.into(), source })?;
        Ok(Self { path, bytes })
    }

    /// Without a byte order mark.
    fn text(&self) -> &[u8] {
        self.bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&self.bytes)
    }

    fn reader(&self) -> csv::Reader<&[u8]> {
        csv::ReaderBuilder::new().delimiter(self.delimiter()).trim(csv::Trim::All).from_reader(self.text())
    }

    /// What parts the fields.
    fn delimiter(&self) -> u8 {
        if self.path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tsv")) {
            return b'\t';
        }
        let header = self.text().split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty());
        let count = |wanted: u8| {
            let is_quote = |byte: &u8| *byte == b'"';
            let outside = header.unwrap_or_default().split(is_quote).step_by(2).flatten();
            outside.filter(|&&byte| byte == wanted).count()
        };
        // The last of equals is the greatest.
        [b'\t', b';', b','].into_iter().max_by_key(|&delimiter| count(delimiter)).unwrap_or(b',')
    }

    fn header(&self, reader: &mut csv::Reader<&[u8]>) -> Result<csv::StringRecord, DatasetError> {
        let header = reader.headers().map_err(|e| self.fault(&e))?;
        if header.is_empty() {
            let hint = "its first line names the columns";
            return Err(DatasetError::Empty { path: self.path.into(), missing: "header", hint });
        }
        Ok(header.clone())
    }

    fn fault(&self, error: &csv::Error) -> DatasetError {
        DatasetError::Csv { path: self.path.into(), message: message(error, self.text()) }
    }

    fn has_no_rows(&self) -> DatasetError {
        let hint = "every line below the header is a photo";
        DatasetError::Empty { path: self.path.into(), missing: "rows", hint }
    }
}

/// Counts lines. The parser's own count stands one too low behind `\r\n` and empty lines.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// The line, from 1, of a record that does not lie before the last one asked for.
    fn line_of(&mut self, position: Option<&csv::Position>) -> u64 {
        let mut record = position.map_or(self.at, |position| position.byte() as usize);
        while self.bytes.get(record).is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            record += 1;
        }
        let passed = self.bytes.get(self.at..record).unwrap_or_default();
        self.line += passed.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.at = record;
        self.line
    }
}

fn message(error: &csv::Error, bytes: &[u8]) -> String {
    let line = Lines { bytes, at: 0, line: 1 }.line_of(error.position());
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("line {line} has {len} fields, the header {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => format!("line {line} is not UTF-8: save the table as UTF-8"),
        _ => error.to_string(),
    }
}

/// Where the column `name`, set by `key`, stands in the header.
fn column(
    header: &csv::StringRecord,
    source: &CsvSource,
    key: &'static str,
    name: &str,
) -> Result<usize, DatasetError> {
    let path = source.csv.clone();
    let mut places = header.iter().enumerate().filter(|&(_, column)| column == name).map(|(at, _)| at);
    match (places.next(), places.next()) {
        (Some(at), None) => Ok(at),
        (Some(_), Some(_)) => {
            Err(DatasetError::Csv { path, message: format!("the header has the column `{name}` twice") })
        }
        (None, _) => Err(DatasetError::NoColumn {
            path,
            key,
            column: name.into(),
            columns: Listed(header.iter().map(str::to_owned).collect()),
        }),
    }
}
