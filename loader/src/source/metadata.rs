//! Folders of photos with a table of metadata, the layout `imagefolder` of the `datasets` library.

use std::fs;
use std::path::{Path, PathBuf};

use headstock_split::words::NameList;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{OpenDataSource, SourceConfig, SourceConfigError, SourceContext, resolve_path};
use super::csv::{CsvSource, read_table};
use super::json_field::text_field;
#[cfg(feature = "parquet")]
use super::parquet::ParquetRows;
use super::paths::slash_path;
use super::rows::{ImageTable, ListedRow, unlisted_images};
use super::tree::{FolderSplit, split_of_folder};
use super::{DataSource, FieldNames, default_label};
use crate::dataset::{DatasetError, PassedOverReason, RawDataset, Split};

/// The names of metadata files, in the order in which they are looked for.
const FILE_NAMES: [&str; 3] = ["metadata.csv", "metadata.jsonl", "metadata.parquet"];

/// The column with the path of the photo, relative to the folder of the metadata file.
const FILE_NAME: &str = "file_name";

/// The depth of the folders in which metadata files are looked for, below the root.
const MAX_DEPTH: usize = 2;

/// The keys of `[data]` of folders with a table of metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetadataConfig {
    /// A folder of photos with a file `metadata.csv`, `metadata.jsonl` or `metadata.parquet`, or with one in each
    /// of its folders such as `train` and `test`: the layout `imagefolder` of the Hugging Face hub. The column
    /// `file_name` has the path of the photo, relative to the folder of the file.
    pub metadata: PathBuf,
    /// The column with the class.
    #[serde(default = "default_label")]
    pub label: String,
    /// The column with the group of a photo, as for `csv`. Optional.
    pub group: Option<String>,
}

impl SourceConfig for MetadataConfig {
    const KIND: &'static str = "metadata";

    fn resolve(&mut self, base: &Path) -> Result<(), SourceConfigError> {
        resolve_path("metadata", &mut self.metadata, base)
    }

    fn has_groups(&self) -> bool {
        self.group.is_some()
    }

    fn image_root(&self) -> Option<&Path> {
        Some(&self.metadata)
    }

    fn open(&self, context: &SourceContext) -> Result<OpenDataSource, DatasetError> {
        let root = self.metadata.clone();
        let source = MetadataSource {
            root: root.clone(),
            fields: context.fields(&self.label, self.group.as_ref()),
            follow_links: context.follow_links,
        };
        Ok(OpenDataSource { source: Box::new(source), root })
    }
}

/// A folder of images with a metadata file, or with one in each of its folders. Samples are in the order of the
/// files and of their rows; ids are relative to `root`.
///
/// The split of a sample is read from the column that `fields` names, otherwise it is that of the folder in
/// `root` with the metadata file, by the folder's name.
///
/// ```
/// use headstock_loader::source::{DataSource, FieldNames, MetadataSource};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// # for name in ["train/1.jpg", "train/2.jpg"] {
/// #     std::fs::create_dir_all(folder.join("train"))?;
/// #     std::fs::write(folder.join(name), [])?;
/// # }
/// let rows = "{\"file_name\": \"1.jpg\", \"breed\": \"pug\"}\n{\"file_name\": \"2.jpg\", \"breed\": \"akita\"}\n";
/// std::fs::write(folder.join("train/metadata.jsonl"), rows)?;
/// let source = MetadataSource {
///     root: folder.into(),
///     fields: FieldNames { label: "breed".into(), group: None, split: None },
///     follow_links: false,
/// };
/// let samples = source.list()?.samples;
/// assert_eq!((samples[0].id.as_str(), samples[0].class.as_str()), ("train/1.jpg", "pug"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataSource {
    /// The folder.
    pub root: PathBuf,
    /// The columns.
    pub fields: FieldNames,
    /// Whether links may lead out of `root`.
    pub follow_links: bool,
}

impl DataSource for MetadataSource {
    /// Lists the rows whose image exists.
    ///
    /// # Errors
    /// [`DatasetError`] for a folder without metadata, for metadata that cannot be read, and for a missing
    /// column. Errors of single rows are in [`RawDataset::errors`].
    fn list(&self) -> Result<RawDataset, DatasetError> {
        let mut raw = RawDataset::new(self.root.clone());
        for file in find_metadata_files(&self.root)? {
            let rows = self.read_rows(&file, &mut raw)?;
            let table = ImageTable { table: &file, images: &self.root, follow_links: self.follow_links };
            table.locate(&rows, &mut raw)?;
        }
        Ok(raw)
    }

    /// Ids of the images in the folder that no row lists.
    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        let mut rows = Vec::new();
        for file in find_metadata_files(&self.root)? {
            rows.extend(self.read_rows(&file, &mut RawDataset::new(self.root.clone()))?);
        }
        unlisted_images(&rows, &self.root, self.follow_links)
    }
}

impl MetadataSource {
    /// The rows of the metadata `file`, with ids relative to `root`. Adds the rows that are errors, and those
    /// that are empty, to `raw`.
    fn read_rows(&self, file: &Path, raw: &mut RawDataset) -> Result<Vec<ListedRow>, DatasetError> {
        let mut rows = match file.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => CsvSource {
                csv: file.into(),
                images: self.root.clone(),
                id: FILE_NAME.into(),
                extension: String::new(),
                fields: self.fields.clone(),
                follow_links: self.follow_links,
            }
            .read_rows(raw)?,
            Some("jsonl") => self.read_json_lines(file, raw)?,
            _ => self.read_parquet(file, raw)?,
        };
        let folder = file.parent().unwrap_or(&self.root);
        let inside = slash_path(folder.strip_prefix(&self.root).unwrap_or(Path::new("")));
        let split = match split_of_folder(inside.split('/').next().unwrap_or_default()) {
            Some(FolderSplit::Split(split)) if self.fields.split.is_none() => Some(split),
            _ => None,
        };
        for row in &mut rows {
            row.split = row.split.or(split);
            if !inside.is_empty() && Path::new(&row.id).is_relative() {
                row.id = format!("{inside}/{}", row.id);
            }
        }
        Ok(rows)
    }

    /// The rows of a file with a JSON object on each line.
    fn read_json_lines(&self, file: &Path, raw: &mut RawDataset) -> Result<Vec<ListedRow>, DatasetError> {
        let bytes = fs::read(file).map_err(DatasetError::io(file))?;
        let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
        let mut rows = Vec::new();
        let mut has_label = false;
        let mut columns = Vec::new();
        // The last line ends with a line break, so there is nothing after it.
        let lines = text.strip_suffix(b"\n").unwrap_or(text).split(|&byte| byte == b'\n');
        for (index, line) in lines.enumerate() {
            let place = format!("line {}", index + 1);
            if line.trim_ascii().is_empty() {
                raw.passed_over.add(PassedOverReason::EmptyRow, place);
                continue;
            }
            let mut reason = PassedOverReason::BadEntry;
            let mut row = || {
                let record: Value = serde_json::from_slice(line)
                    .map_err(|error| format!("this is not valid JSON: {error}"))?;
                let object = record
                    .as_object()
                    .ok_or("this is not a JSON object, such as {\"file_name\": \"1.jpg\"}")?;
                has_label |= object.contains_key(&self.fields.label);
                if columns.is_empty() {
                    columns = object.keys().cloned().collect();
                }
                parse_row(&place, &self.fields, &mut reason, |field| text_field(&record, field))
            };
            match row() {
                Ok(row) => rows.push(row),
                Err(problem) => raw.errors.push(DatasetError::entry(file, place, problem, reason)),
            }
        }
        if !has_label && !columns.is_empty() {
            return Err(DatasetError::NoColumn {
                path: file.into(),
                parameter: Some("label"),
                column: self.fields.label.clone(),
                columns: NameList(columns),
            });
        }
        Ok(rows)
    }

    /// The rows of a Parquet file.
    #[cfg(feature = "parquet")]
    fn read_parquet(&self, file: &Path, raw: &mut RawDataset) -> Result<Vec<ListedRow>, DatasetError> {
        let table = ParquetRows::read(file, FILE_NAME, &self.fields)?;
        let mut rows = Vec::with_capacity(table.len());
        for index in 0..table.len() {
            let place = format!("row {index} (counted from 0)");
            let mut reason = PassedOverReason::BadEntry;
            match parse_row(&place, &self.fields, &mut reason, |field| table.text(index, field)) {
                Ok(row) => rows.push(row),
                Err(problem) => raw.errors.push(DatasetError::entry(file, place, problem, reason)),
            }
        }
        Ok(rows)
    }

    #[cfg(not(feature = "parquet"))]
    fn read_parquet(&self, file: &Path, _: &mut RawDataset) -> Result<Vec<ListedRow>, DatasetError> {
        Err(DatasetError::invalid(
            file,
            "this program is built without Parquet: save the table as metadata.csv",
        ))
    }
}

/// The row with the values that `text` finds by their columns; `reason` becomes what is wrong with it.
fn parse_row(
    place: &str,
    fields: &FieldNames,
    reason: &mut PassedOverReason,
    text: impl Fn(&str) -> Result<Option<String>, String>,
) -> Result<ListedRow, String> {
    let required = |field: &str| {
        text(field)?.ok_or_else(|| format!("`{field}` is empty: add a value, or remove the row"))
    };
    let id = required(FILE_NAME)?;
    *reason = PassedOverReason::Unlabeled;
    let class = required(&fields.label)?;
    *reason = PassedOverReason::BadEntry;
    let group = fields.group.as_deref().map(required).transpose()?;
    let split = fields.split.as_deref().map(|field| Split::parse(field, &required(field)?)).transpose()?;
    Ok(ListedRow { place: place.to_owned(), id, class, group, split })
}

/// The metadata file in `root`, or those in its folders, sorted by path.
///
/// # Errors
/// [`DatasetError`] if there is none, if a folder has two, or if a folder cannot be read.
pub fn find_metadata_files(root: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    if !root.is_dir() {
        return Err(DatasetError::NoFolder(root.into()));
    }
    let mut found = Vec::new();
    add_metadata_files(root, MAX_DEPTH, &mut found)?;
    if found.is_empty() {
        let hint = "add metadata.csv with the columns file_name and label, or check the path";
        return Err(DatasetError::Empty {
            path: root.into(),
            missing: "metadata.csv, metadata.jsonl or metadata.parquet",
            hint,
        });
    }
    Ok(found)
}

/// The names of the columns of the metadata `file`: of JSON lines, those of the first line.
///
/// # Errors
/// [`DatasetError`] for a file that cannot be read.
pub fn read_metadata_columns(file: &Path) -> Result<Vec<String>, DatasetError> {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => Ok(read_table(file)?.columns),
        Some("jsonl") => {
            let text = fs::read(file).map_err(DatasetError::io(file))?;
            let first = text.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty());
            let record = serde_json::from_slice::<serde_json::Map<String, Value>>(first.unwrap_or_default());
            let problem =
                |error| DatasetError::invalid(file, format!("the first line is not a JSON object: {error}"));
            Ok(record.map_err(problem)?.into_iter().map(|(name, _)| name).collect())
        }
        #[cfg(feature = "parquet")]
        _ => Ok(super::parquet::read_parquet_columns(file)?.others),
        #[cfg(not(feature = "parquet"))]
        _ => Ok(Vec::new()),
    }
}

fn add_metadata_files(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), DatasetError> {
    let here: Vec<PathBuf> =
        FILE_NAMES.iter().map(|name| folder.join(name)).filter(|file| file.is_file()).collect();
    match here.as_slice() {
        [_, _, ..] => {
            let names: Vec<String> =
                here.iter().map(|file| slash_path(file.strip_prefix(folder).unwrap_or(file))).collect();
            return Err(DatasetError::invalid(
                folder,
                format!("the folder has {}: remove all but one", NameList(names)),
            ));
        }
        [file] => {
            found.push(file.clone());
            return Ok(());
        }
        [] if depth == 0 => return Ok(()),
        [] => {}
    }
    // The type of an entry is known without opening it, except for links: a folder may have many photos.
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).map_err(DatasetError::io(folder))? {
        let entry = entry.map_err(DatasetError::io(folder))?;
        let kind = entry.file_type().map_err(DatasetError::io(folder))?;
        if kind.is_dir() || kind.is_symlink() && entry.path().is_dir() {
            folders.push(entry.path());
        }
    }
    folders.sort_unstable();
    folders.iter().try_for_each(|folder| add_metadata_files(folder, depth - 1, found))
}
