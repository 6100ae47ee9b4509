//! A table of photos: the tutorial's `labels.csv`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::error::Listed;
use super::{ClassMap, ClassOrder, Dataset, DatasetError, Sample, lies_below, stays_below};

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
    /// Appended to the id with a dot; empty when the id has its ending.
    pub extension: String,
}

/// Reads a CSV data set; samples are in the order of the rows.
///
/// # Errors
/// [`DatasetError`] for a file that cannot be read or parsed, a column that is not there, an empty field, an id twice,
/// an id that leaves the folder of the photos (`..`, absolute, by a link), photos that are not there, one class only.
pub fn read_csv(source: &CsvSource, order: ClassOrder) -> Result<Dataset, DatasetError> {
    let rows = read_rows(source)?;
    if rows.is_empty() {
        let hint = "every line below the header is a photo";
        return Err(DatasetError::Empty { path: source.csv.clone(), missing: "rows", hint });
    }
    if !source.images.is_dir() {
        return Err(DatasetError::NoFolder(source.images.clone()));
    }
    let classes = ClassMap::new(rows.iter().map(|row| row.label.as_str()), order);
    let root = source
        .images
        .canonicalize()
        .map_err(|e| DatasetError::Io { path: source.images.clone(), source: e })?;
    let mut lines = HashMap::with_capacity(rows.len());
    let mut missing = Vec::new();
    let mut samples = Vec::with_capacity(rows.len());
    for row in rows {
        let relative = if source.extension.is_empty() {
            row.id.clone()
        } else {
            format!("{}.{}", row.id, source.extension)
        };
        let leaves = || DatasetError::LeavesRoot {
            what: format!("{}, line {}: the id `{}`", source.csv.display(), row.line, row.id.escape_debug()),
            root: source.images.clone(),
        };
        if !stays_below(Path::new(&relative)) {
            return Err(leaves());
        }
        if let Some(first) = lines.insert(relative.clone(), row.line) {
            let (path, id, second) = (source.csv.clone(), row.id, row.line);
            return Err(DatasetError::DuplicateId { path, id, first, second });
        }
        let path = source.images.join(&relative);
        match lies_below(&root, &path) {
            Ok(true) if path.is_file() => {}
            Ok(true) | Err(_) => missing.push(relative.clone()),
            Ok(false) => return Err(leaves()),
        }
        let label = classes.number(&row.label).expect("the map is made of these labels");
        samples.push(Sample { id: relative, path, label });
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

struct Row {
    line: u64,
    id: String,
    label: String,
}

fn read_rows(source: &CsvSource) -> Result<Vec<Row>, DatasetError> {
    let path = || source.csv.clone();
    let bytes = std::fs::read(&source.csv).map_err(|e| DatasetError::Io { path: path(), source: e })?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let fault = |error: &csv::Error| DatasetError::Csv { path: path(), message: error.to_string() };
    let header = reader.headers().map_err(|e| fault(&e))?.clone();
    let column = |key, name: &str| {
        header.iter().position(|column| column == name).ok_or_else(|| DatasetError::NoColumn {
            path: path(),
            key,
            column: name.into(),
            columns: Listed(header.iter().map(str::to_owned).collect()),
        })
    };
    let (id, label) = (column("id", &source.id)?, column("label", &source.label)?);

    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| fault(&e))?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |at: usize, name: &str| match record.get(at) {
            Some(value) if !value.is_empty() => Ok(value.to_owned()),
            _ => Err(DatasetError::EmptyField { path: path(), line, column: name.into() }),
        };
        rows.push(Row { line, id: field(id, &source.id)?, label: field(label, &source.label)? });
    }
    Ok(rows)
}
