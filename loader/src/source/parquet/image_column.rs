//! The column of a Parquet file with the images: their bytes, or the paths of their files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstock_split::words::NameList;

use super::value_text;
use crate::dataset::{DatasetError, PassedOverReason};
use crate::image_ref::ImageRef;
use crate::shard::parquet::{ParquetShard, ParquetTable};
use crate::source::paths::{is_image_file, parent_folder};
use crate::source::rows::missing_cause;
use crate::source::tree::{ImageRoot, Located};

/// The end of the path of a column that is the field `bytes` of a struct, where the `datasets` library stores
/// an image's bytes.
const BYTES_FIELD: &str = ".bytes";

/// The same for the field `path`: the path of the image's file, which is used if there are no bytes.
const PATH_FIELD: &str = ".path";

/// The image of each row of a Parquet file.
pub(super) struct ImageColumn {
    path: PathBuf,
    /// The shard of the images that are in the file.
    shard: Option<Arc<ParquetShard>>,
    /// The path of each image that is a file of its own, `[N]`; empty if there are none.
    paths: Vec<Option<String>>,
    /// The folder that paths are relative to.
    root: ImageRoot,
    follow_links: bool,
    missing: Vec<String>,
}

/// The names of the columns that can hold images: of bytes, or of a struct with the field `bytes`.
pub(super) fn image_columns(table: &ParquetTable) -> Vec<String> {
    let columns = table.columns().filter(|column| table.is_binary(column));
    columns.map(|column| column.strip_suffix(BYTES_FIELD).unwrap_or(column).to_owned()).collect()
}

impl ImageColumn {
    /// Finds the images in `column` of `table`, the open file `path`.
    ///
    /// # Errors
    /// [`DatasetError`] if there is no such column, or it holds something else.
    pub(super) fn open(
        path: &Path,
        table: ParquetTable,
        column: &str,
        follow_links: bool,
    ) -> Result<Self, DatasetError> {
        let (bytes_field, path_field) = (format!("{column}{BYTES_FIELD}"), format!("{column}{PATH_FIELD}"));
        let in_struct = |field: String| Some(field).filter(|field| table.has_column(field));
        let (mut bytes, mut paths) = (in_struct(bytes_field), in_struct(path_field));
        if bytes.is_none() && paths.is_none() {
            let Some(description) = table.describe_column(column) else {
                return Err(table.no_column_error(column, Some("image")));
            };
            let is_single = table.has_column(column);
            if is_single && table.is_text(column) {
                paths = Some(column.to_owned());
            } else if is_single && table.has_bytes(column) {
                bytes = Some(column.to_owned());
            } else {
                return Err(DatasetError::invalid(path, no_images_message(&table, column, &description)));
            }
        }
        let paths = match (&bytes, paths.filter(|paths| table.is_text(paths))) {
            (_, None) => Vec::new(),
            (None, Some(paths)) => read_texts(&table, &paths)?,
            (Some(bytes), Some(paths)) => {
                let is_null = table.null_rows(bytes)?;
                if is_null.contains(&true) {
                    let texts = read_texts(&table, &paths)?;
                    is_null.iter().zip(texts).map(|(is_null, text)| text.filter(|_| *is_null)).collect()
                } else {
                    Vec::new()
                }
            }
        };
        let mut texts = paths.iter().flatten();
        if bytes.is_none() && !texts.clone().any(|text| is_image_file(Path::new(text))) {
            let example =
                texts.next().map_or_else(String::new, |text| format!(" such as `{}`", text.escape_debug()));
            let message = no_images_message(&table, column, &format!("text{example}"));
            return Err(DatasetError::invalid(path, message));
        }
        let root = ImageRoot::open(parent_folder(path), follow_links)?;
        let shard = bytes.map(|column| Arc::new(ParquetShard::new(path, table, &column)));
        Ok(Self { path: path.into(), shard, paths, root, follow_links, missing: Vec::new() })
    }

    /// The image in `row`, or the error for a path that leads out of the folder; `None` for a path where there
    /// is no file, which [`missing_error`](Self::missing_error) reports.
    pub(super) fn image(&mut self, row: usize) -> Result<Option<ImageRef>, DatasetError> {
        let place = || format!("row {row} (counted from 0)");
        match (self.paths.get(row).and_then(Option::as_deref), &self.shard) {
            (None, Some(shard)) => Ok(Some(ImageRef::from_record(shard.clone(), row))),
            (None, None) => {
                let problem = "the path of the photo is empty: add a value, or remove the row";
                Err(DatasetError::entry(&self.path, place(), problem, PassedOverReason::BadEntry))
            }
            (Some(text), _) => {
                let id = self.root.relative_id(text);
                let found = id.map_or(Ok(Located::OutsideRoot), |id| self.root.find(&id))?;
                match found {
                    Located::Image(image, _) => Ok(Some(image)),
                    Located::Missing => {
                        self.missing.push(text.to_owned());
                        Ok(None)
                    }
                    Located::OutsideRoot => {
                        let subject = format!(
                            "{}, {}: the path `{}`",
                            self.path.display(),
                            place(),
                            text.escape_debug()
                        );
                        Err(DatasetError::LeavesRoot { subjects: vec![subject], root: self.folder().into() })
                    }
                }
            }
        }
    }

    /// The error for the paths where there are no files.
    pub(super) fn missing_error(self) -> Option<DatasetError> {
        let cause = missing_cause(&self.missing, self.folder(), self.follow_links);
        let (table, images) = (self.path.clone(), self.folder().into());
        let missing = NameList(self.missing);
        (!missing.0.is_empty()).then_some(DatasetError::MissingImages { table, images, missing, cause })
    }

    fn folder(&self) -> &Path {
        parent_folder(&self.path)
    }
}

/// The values of a column of text, without surrounding whitespace.
fn read_texts(table: &ParquetTable, column: &str) -> Result<Vec<Option<String>>, DatasetError> {
    Ok(table.read_values(column)?.iter().map(value_text).collect())
}

/// The message that `column` holds what `description` says, and no images.
fn no_images_message(table: &ParquetTable, column: &str, description: &str) -> String {
    let advice = match image_columns(table) {
        columns if columns.is_empty() => "no column of the file does".to_owned(),
        columns => format!("set `image` to a column that does: {}", NameList(columns)),
    };
    format!(
        "the column `{column}` holds {description}, neither image files (the bytes of each file) nor their paths; \
         {advice}"
    )
}
