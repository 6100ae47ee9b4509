//! How to read a table of photos: which column is which, and where the photos are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use headstock_loader::source::{
    ConfiguredSource, CsvConfig, TableContents, common_folder, find_image_files, read_table,
};
use headstock_loader::{DatasetError, Split};
use headstock_train::TrainError;
use headstock_train::samples::open_source;

use super::DetectedData;
use crate::args::InitArgs;

/// Usual names of the column with the file name, the most usual name first. Case is ignored in all names.
const ID_COLUMNS: [&str; 14] = [
    "id",
    "image",
    "image_id",
    "filename",
    "file_name",
    "file",
    "path",
    "photo",
    "name",
    "image_path",
    "filepath",
    "file_path",
    "img",
    "image_name",
];
/// Usual names of the column with the class.
pub(super) const LABEL_COLUMNS: [&str; 13] = [
    "label",
    "class",
    "breed",
    "species",
    "category",
    "target",
    "variety",
    "y",
    "labels",
    "class_name",
    "diagnosis",
    "dx",
    "classid",
];
/// Usual names of the column that says which photos are for training and which for testing.
const SPLIT_COLUMNS: [&str; 6] = ["split", "subset", "set", "partition", "usage", "phase"];
/// Usual names of the column that says which photos belong together.
const GROUP_COLUMNS: [&str; 8] =
    ["group", "group_id", "patient", "patient_id", "subject", "subject_id", "lesion_id", "animal_id"];

/// Usual names of a column of boxes, in three notations.
const BOX_COLUMNS: [&[&str]; 3] =
    [&["xmin", "x_min", "x1"], &["bbox", "box", "bounding_box"], &["bbox_x", "bbox_xmin"]];

/// Usual folders of images next to their table.
const IMAGE_FOLDERS: [&str; 8] = ["train", "images", "photos", "img", "imgs", "image", "data", "."];

/// Extensions that are appended to the file name in a table until a file has that name.
const EXTENSIONS: [&str; 8] = ["", "jpg", "jpeg", "png", "JPG", "webp", "tif", "ppm"];

/// Number of rows whose photos are looked for: the photos of some rows may be missing.
const MAX_PROBED_ROWS: usize = 100;

/// Finds out how to read the table `csv` (CSV or TSV): the columns with the file names, the classes, the split
/// and the group, the folder of the images, and the extension to append to the file names. Folder and
/// extension are those with which most of the first photos exist.
pub(super) fn detect_table(csv: &Path, args: &InitArgs) -> Result<DetectedData, TrainError> {
    let usage_error = |problem: String| TrainError::Usage(format!("{}: {problem}", csv.display()));
    let TableContents { columns, rows, .. } = read_table(csv)?;
    // The index of the column that the user named with `flag`, or else of the first usual name.
    let find_column =
        |requested: &Option<String>, usual_names: &[&str], flag: &str, meaning: &str| match requested {
            Some(name) => columns.iter().position(|column| column == name).ok_or_else(|| {
                usage_error(format!(
                    "the table has no column `{name}` (named by {flag}): choose one of the columns {}",
                    columns.join(", ")
                ))
            }),
            None => position_of(&columns, usual_names).ok_or_else(|| {
                usage_error(format!(
                    "it is not clear which column holds {meaning}: name the column with {flag}; the \
                     columns are {}",
                    columns.join(", ")
                ))
            }),
        };
    let id = find_column(&args.id, &ID_COLUMNS, "--id", "the file names of the photos")?;
    let label = find_column(&args.label, &LABEL_COLUMNS, "--label", "the classes")?;
    let parent = csv.parent().unwrap_or(Path::new(""));
    let folders = match &args.images {
        Some(folder) => vec![folder.clone()],
        None => IMAGE_FOLDERS.iter().map(|name| parent.join(name)).collect(),
    };
    let name_of = |column: usize| columns[column].clone();
    let config_with = |images: PathBuf, extension: String| CsvConfig {
        csv: csv.into(),
        images: Some(images),
        id: name_of(id),
        label: name_of(label),
        group: None,
        extension,
    };
    let ids: Vec<&str> = rows.iter().map(|row| row[id].as_str()).filter(|id| !id.is_empty()).collect();
    refuse_boxes(csv, &columns, &ids)?;
    let common = args.images.is_none().then(|| common_folder_of_absolute(&ids)).flatten();
    let folders: Vec<PathBuf> = folders.into_iter().chain(common).collect();
    let Some((images, extension)) = find_images(&folders, &EXTENSIONS, &ids) else {
        // The listing says what the names have in common.
        if let Some(folder) = folders.iter().find(|folder| has_images(folder)) {
            let config = config_with(folder.clone(), String::new());
            let listing = open_source(&config, None, false, &())?.source.list()?;
            let is_explained =
                |error: &DatasetError| matches!(error, DatasetError::MissingImages { cause: Some(_), .. });
            if let Some(error) = listing.errors.into_iter().find(is_explained) {
                return Err(error.into());
            }
        }
        let searched: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        let first = ids.first().copied().unwrap_or_default();
        return Err(usage_error(format!(
            "the photo of the first row, `{first}`, was not found in the folders {}: name the folder of the \
             photos with --images",
            searched.join(", ")
        )));
    };
    let others: Vec<usize> = (0..columns.len()).filter(|&column| column != id && column != label).collect();
    let split_column = find_split_column(csv, &columns, &rows, &others);
    let group_column = find_group_column(&columns, &[&columns[id], &columns[label]]);
    Ok(DetectedData {
        source: Box::new(config_with(images, extension)),
        split_column: split_column.map(name_of),
        group_column,
    })
}

/// The position of the first of `usual_names` among `columns`, ignoring case.
pub(super) fn position_of(columns: &[String], usual_names: &[&str]) -> Option<usize> {
    usual_names.iter().find_map(|name| columns.iter().position(|column| column.eq_ignore_ascii_case(name)))
}

/// The folder that all `ids` are in, if they are absolute paths.
fn common_folder_of_absolute(ids: &[&str]) -> Option<PathBuf> {
    let paths: Vec<PathBuf> = ids.iter().map(PathBuf::from).collect();
    (!paths.is_empty() && paths.iter().all(|path| path.is_absolute())).then(|| common_folder(&paths))
}

/// Whether there is a photo in `folder`, at any depth.
fn has_images(folder: &Path) -> bool {
    find_image_files(folder, true).is_ok_and(|found| !found.images.is_empty())
}

/// The column that says which photos belong together, by its name; none of `others`, which have other meanings.
pub(super) fn find_group_column(columns: &[String], others: &[&str]) -> Option<String> {
    let column = &columns[position_of(columns, &GROUP_COLUMNS)?];
    (!others.contains(&column.as_str())).then(|| column.clone())
}

/// Refuses a table of boxes for object detection: it has columns of their corners, and photos on several rows.
fn refuse_boxes(csv: &Path, columns: &[String], ids: &[&str]) -> Result<(), TrainError> {
    let has_boxes = BOX_COLUMNS.iter().any(|names| position_of(columns, names).is_some());
    let n_different = ids.iter().collect::<BTreeSet<_>>().len();
    if !has_boxes || n_different == ids.len() {
        return Ok(());
    }
    Err(TrainError::Usage(format!(
        "{} looks like data for object detection: it has columns of boxes, and photos are on several rows, but a \
         classifier needs one class for each photo; crop the boxes and put the crops into a folder for each class",
        csv.display()
    )))
}

/// `path` as an absolute path.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

/// The folder and the extension with which most of the first photos exist; of several, the first.
pub(super) fn find_images(
    folders: &[PathBuf],
    extensions: &[&str],
    ids: &[&str],
) -> Option<(PathBuf, String)> {
    let probed = &ids[..ids.len().min(MAX_PROBED_ROWS)];
    let file_name = |id: &str, extension: &str| {
        if extension.is_empty() { id.to_owned() } else { format!("{id}.{extension}") }
    };
    let n_found = |folder: &Path, extension| {
        // A path that is absolute is found from every folder, but only one of them has the photo.
        let is_inside = |id: &str| Path::new(id).is_relative() || Path::new(id).starts_with(absolute(folder));
        let is_found = |id: &&&str| is_inside(id) && folder.join(file_name(id, extension)).is_file();
        probed.iter().filter(is_found).count()
    };
    let mut best: Option<(usize, PathBuf, String)> = None;
    for folder in folders {
        for &extension in extensions {
            let n_found = n_found(folder, extension);
            if n_found > best.as_ref().map_or(0, |(most, ..)| *most) {
                best = Some((n_found, folder.clone(), extension.to_owned()));
            }
        }
    }
    best.map(|(_, folder, extension)| (folder, extension))
}

/// The first of `columns` that is called like a split and that says so for each of the listed photos of `source`.
pub(super) fn find_listed_split(source: &dyn ConfiguredSource, columns: &[String]) -> Option<String> {
    let is_named = |column: &&String| {
        let name = column.to_ascii_lowercase();
        SPLIT_COLUMNS.contains(&name.as_str()) || name.starts_with("is_")
    };
    let is_split = |column: &&String| {
        let opened = open_source(source, Some(column), true, &()).ok()?;
        let listing = opened.source.list().ok()?;
        let splits: BTreeSet<Split> = listing.samples.iter().filter_map(|sample| sample.split).collect();
        (splits.contains(&Split::Train) && splits.len() > 1).then_some(())
    };
    columns.iter().filter(is_named).find(|column| is_split(column).is_some()).cloned()
}

/// The column among `others` that says which photos are for training and which for testing: all of its values are
/// splits, some for training and some not. Logs if the values of a column that is called like a split are something
/// else.
fn find_split_column(
    csv: &Path,
    columns: &[String],
    rows: &[Vec<String>],
    others: &[usize],
) -> Option<usize> {
    let is_split = |column: usize| {
        let values = rows.iter().map(|row| row[column].as_str()).filter(|value| !value.is_empty());
        let splits: Result<BTreeSet<Split>, String> =
            values.map(|value| Split::parse(&columns[column], value)).collect();
        splits.is_ok_and(|splits| splits.contains(&Split::Train) && splits.len() > 1)
    };
    if let Some(&column) = others.iter().find(|&&column| is_split(column)) {
        return Some(column);
    }
    let column = position_of(columns, &SPLIT_COLUMNS).filter(|column| others.contains(column))?;
    let values: BTreeSet<&str> = rows.iter().map(|row| row[column].as_str()).collect();
    let shown: Vec<&str> = values.into_iter().take(5).collect();
    tracing::info!(
        "{}: the column `{}` is not used as the split of the data, because its values are not train, validation and \
         test: {}",
        csv.display(),
        columns[column],
        shown.join(", ").escape_debug()
    );
    None
}
