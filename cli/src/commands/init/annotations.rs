//! Photos whose classes are in files of other programs: `metadata.jsonl` and its kin, and COCO's JSON.

use std::fs;
use std::path::{Path, PathBuf};

use headstock_loader::source::{
    CocoConfig, MetadataConfig, find_metadata_files, parent_folder, read_coco_file_names,
    read_metadata_columns,
};
use headstock_train::TrainError;

use super::DetectedData;
use super::table::{LABEL_COLUMNS, find_group_column, find_images, find_listed_split, position_of};
use crate::args::InitArgs;

/// The column of metadata with the file name.
const FILE_NAME: &str = "file_name";

/// Number of photos that are looked for in the folders beside a JSON file.
const MAX_PROBED_IMAGES: usize = 100;

/// The photos of `args.path` if it is, or has, metadata or a JSON file in COCO's format.
pub(super) fn detect_annotations(path: &Path, args: &InitArgs) -> Result<Option<DetectedData>, TrainError> {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    if path.is_file() && ["metadata.jsonl", "metadata.parquet"].contains(&name.as_str()) {
        return detect_metadata(parent_folder(path), args).map(Some);
    }
    if path.is_file() && name.ends_with(".json") {
        let Some(names) = read_coco_file_names(path, MAX_PROBED_IMAGES) else {
            return Err(TrainError::Usage(format!(
                "{} is not a JSON file in COCO's format, with the lists images, annotations and categories",
                path.display()
            )));
        };
        return detect_coco(path, &names, args).map(Some);
    }
    if !path.is_dir() {
        return Ok(None);
    }
    // One metadata.csv is a table as any other.
    let is_metadata = match find_metadata_files(path) {
        Ok(files) => files.as_slice() != [path.join("metadata.csv")],
        Err(_) => false,
    };
    if is_metadata {
        return detect_metadata(path, args).map(Some);
    }
    let train = json_files(path).into_iter().find_map(|file| {
        let is_for_training = !is_held_out(&file);
        Some((read_coco_file_names(&file, MAX_PROBED_IMAGES).filter(|_| is_for_training)?, file))
    });
    train.map(|(names, file)| detect_coco(&file, &names, args)).transpose()
}

/// The JSON files in the folder `path` and in its folder `annotations`, sorted.
fn json_files(path: &Path) -> Vec<PathBuf> {
    let entries =
        [path.to_path_buf(), path.join("annotations")].into_iter().filter_map(|path| fs::read_dir(path).ok());
    let files = entries.flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = files
        .filter(|file| file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json")))
        .collect();
    files.sort_unstable();
    files
}

/// Whether the file is for validation or testing by its name.
fn is_held_out(file: &Path) -> bool {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    !name.contains("train") && (name.contains("val") || name.contains("test"))
}

/// The configuration of the metadata files in `folder`.
fn detect_metadata(folder: &Path, args: &InitArgs) -> Result<DetectedData, TrainError> {
    let files = find_metadata_files(folder)?;
    let columns = read_metadata_columns(&files[0])?;
    let file = files[0].display();
    if args.images.is_some() || args.id.is_some() {
        return Err(TrainError::Usage(format!(
            "--images and --id are for other tables: in {file}, the column {FILE_NAME} has the names of the photos, \
             relative to its folder; leave out these arguments"
        )));
    }
    let label = match &args.label {
        Some(label) => label.clone(),
        None => position_of(&columns, &LABEL_COLUMNS).map(|column| columns[column].clone()).ok_or_else(|| {
            TrainError::Usage(format!(
                "{file}: it is not clear which column holds the classes: name the column with --label; the columns \
                 are {}",
                columns.join(", ")
            ))
        })?,
    };
    tracing::info!("the classes are taken from the column `{label}` of {file}");
    let group_column = find_group_column(&columns, &[FILE_NAME, &label]);
    let config = MetadataConfig { metadata: folder.into(), label, group: None };
    let split_column = find_listed_split(&config, &columns);
    Ok(DetectedData { source: Box::new(config), split_column, group_column })
}

/// The configuration of the JSON file `file`, whose first photos are called `names`, with the file for testing
/// beside it.
fn detect_coco(file: &Path, names: &[String], args: &InitArgs) -> Result<DetectedData, TrainError> {
    if args.id.is_some() {
        return Err(TrainError::Usage(format!(
            "--id is for tables (CSV or TSV), but {} is a JSON file: leave out --id",
            file.display()
        )));
    }
    let parent = parent_folder(file);
    let beside = if parent.ends_with("annotations") { parent_folder(parent) } else { parent };
    let stem = file.file_stem().unwrap_or_default();
    let folders = match &args.images {
        Some(folder) => vec![folder.clone()],
        None => vec![
            beside.into(),
            beside.join("images"),
            beside.join(stem),
            beside.join("train"),
            beside.join("data"),
        ],
    };
    let probed: Vec<&str> = names.iter().map(String::as_str).collect();
    let Some((images, _)) = find_images(&folders, &[""], &probed) else {
        let searched: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        return Err(TrainError::Usage(format!(
            "{}: the photo `{}` was not found in the folders {}: name the folder of the photos with --images",
            file.display(),
            names.first().map(String::as_str).unwrap_or_default(),
            searched.join(", ")
        )));
    };
    let test_coco = json_files(parent).into_iter().find(|other| {
        other.file_name() != file.file_name()
            && other.parent() == Some(parent)
            && is_held_out(other)
            && read_coco_file_names(other, 0).is_some()
    });
    tracing::info!("the classes are taken from {}", file.display());
    if let Some(test) = &test_coco {
        tracing::info!("the photos for testing are those of {}", test.display());
    }
    let label = args.label.clone().unwrap_or_else(|| "name".into());
    Ok(DetectedData::new(CocoConfig {
        coco: file.into(),
        images: Some(images),
        label,
        group: None,
        test_coco,
    }))
}
