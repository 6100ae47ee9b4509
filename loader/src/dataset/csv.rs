//! A table of photos: the tutorial's `labels.csv`.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use super::error::Listed;
use super::same::{Seen, real_path};
use super::{ClassMap, ClassOrder, Dataset, DatasetError, Sample, number_groups};

/// Where a CSV data set lies and which columns to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvSource {
    /// The table, with a header.
    pub csv: PathBuf,
    /// The folder that the ids are relative to.
    pub images: PathBuf,
    /// The column with the file's name.
    pub id: String,
    /// The column with the class.
    pub label: String,
    /// The column with the group that a photo belongs to, where groups are to be kept together.
    pub group: Option<String>,
    /// Appended to the id, after a dot that may be written or not; empty when the id has its ending.
    pub extension: String,
}

/// Reads a CSV data set; samples are in the order of the rows. Space around a field does not count.
///
/// ```
/// use headstock_loader::{ClassOrder, CsvSource, read_csv};
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
///     label: "breed".into(),
///     group: None,
///     extension: "jpg".into(),
/// };
/// let data = read_csv(&source, ClassOrder::Sorted)?;
/// assert_eq!(data.samples[0].id, "000bec18.jpg");
/// assert_eq!(data.labels(), [1, 0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`DatasetError`] for a file that cannot be read or parsed, a column that is not there, an empty field, a photo that is
/// listed twice, an id that leaves the folder of the photos (`..`, absolute, by a link), photos that are not there, one
/// class only.
pub fn read_csv(source: &CsvSource, order: ClassOrder) -> Result<Dataset, DatasetError> {
    let rows = read_rows(source)?;
    if !source.images.is_dir() {
        return Err(DatasetError::NoFolder(source.images.clone()));
    }
    let classes = ClassMap::new(rows.iter().map(|row| row.label.as_str()), order);
    let root = real_path(&source.images)?;
    let groups: Option<Vec<&str>> = rows.iter().map(|row| row.group.as_deref()).collect();
    let groups = groups.map(|groups| number_groups(&groups));
    let (mut lines, mut seen) = (HashMap::with_capacity(rows.len()), Seen::default());
    let mut missing = Vec::new();
    let mut samples = Vec::with_capacity(rows.len());
    for (number, row) in rows.iter().enumerate() {
        let leaves = || DatasetError::LeavesRoot {
            what: format!("{}, line {}: the id `{}`", source.csv.display(), row.line, row.id.escape_debug()),
            root: source.images.clone(),
        };
        let relative = relative_path(&with_extension(&row.id, &source.extension)).ok_or_else(leaves)?;
        if let Some(first) = lines.insert(relative.clone(), row.line) {
            let (path, second) = (source.csv.clone(), row.line);
            return Err(DatasetError::DuplicateId { path, id: relative, first, second });
        }
        let path = source.images.join(&relative);
        match path.canonicalize() {
            Ok(real) if !real.starts_with(&root) => return Err(leaves()),
            Ok(real) if real.is_file() => {
                seen.meet(real, format!("{}, line {}: `{relative}`", source.csv.display(), row.line))?;
            }
            Ok(_) => missing.push(relative.clone()),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                missing.push(relative.clone());
            }
            Err(source) => return Err(DatasetError::Io { path, source }),
        }
        let label = classes.number(&row.label).expect("the map is made of these labels");
        let group = groups.as_ref().map(|groups| groups[number]);
        samples.push(Sample { id: relative, path, label, group });
    }
    if !missing.is_empty() {
        let (csv, images) = (source.csv.clone(), source.images.clone());
        return Err(DatasetError::MissingPhotos {
            csv,
            images,
            count: missing.len(),
            photos: Listed(missing),
        });
    }
    if let [class] = classes.names() {
        return Err(DatasetError::OneClass { path: source.csv.clone(), class: class.clone() });
    }
    Ok(Dataset { classes, samples })
}

fn with_extension(id: &str, extension: &str) -> String {
    match extension.strip_prefix('.').unwrap_or(extension) {
        "" => id.into(),
        extension => format!("{id}.{extension}"),
    }
}

/// `id` as a path with `/` between its parts and no `.` among them; none for one that is absolute, has `..` or NUL.
fn relative_path(id: &str) -> Option<String> {
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
    label: String,
    group: Option<String>,
}

fn read_rows(source: &CsvSource) -> Result<Vec<Row>, DatasetError> {
    let table = Table::open(&source.csv)?;
    let mut reader = table.reader();
    let header = table.header(&mut reader)?;
    let id = column(&header, source, "id", &source.id)?;
    let label = column(&header, source, "label", &source.label)?;
    let group = match &source.group {
        Some(name) => Some((column(&header, source, "group", name)?, name)),
        None => None,
    };

    let mut lines = Lines { bytes: table.text(), at: 0, line: 1 };
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| table.fault(&e))?;
        let line = lines.line_of(record.position());
        let field = |at: usize, name: &str| match record.get(at) {
            Some(value) if !value.is_empty() => Ok(value.to_owned()),
            _ => Err(DatasetError::EmptyField { path: source.csv.clone(), line, column: name.into() }),
        };
        let group = group.map(|(at, name)| field(at, name)).transpose()?;
        rows.push(Row { line, id: field(id, &source.id)?, label: field(label, &source.label)?, group });
    }
    if rows.is_empty() {
        return Err(table.has_no_rows());
    }
    Ok(rows)
}

/// How a table begins: enough to tell what its columns hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableHead {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The fields of the first row, one a column.
    pub first: Vec<String>,
}

/// Reads the header and the first row of a CSV, as [`read_csv`] would.
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
        csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(self.text())
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

/// Where the column `name`, set by `data.KEY`, stands in the header.
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
