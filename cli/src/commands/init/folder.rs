//! What kind of data a folder holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use headstock_loader::source::{FolderConfig, find_image_files};
use headstock_train::TrainError;
use regex::Regex;

use super::DetectedData;
use super::table::detect_table;
use crate::args::InitArgs;
use crate::commands::shell_quote;

/// Name of the folder of training images, if test images are in a folder beside it.
const TRAIN_FOLDER: &str = "train";
/// Usual names of that folder of test images, the most usual one first.
const TEST_FOLDERS: [&str; 4] = ["test", "val", "valid", "validation"];

/// Usual names of tables beside the photos, the most usual one first.
const TABLES: [&str; 8] = [
    "labels.csv",
    "train.csv",
    "train_labels.csv",
    "metadata.csv",
    "labels.tsv",
    "data.csv",
    "annotations.csv",
    "classes.csv",
];

/// Patterns of the class in file names such as `cat.0.jpg`, `great_pyrenees_12.jpg` and `17_frog.png`, the
/// strictest first.
const LABEL_PATTERNS: [&str; 3] = [
    r"^([^.]*[^.0-9])\.[0-9]+\.[^.]+$",
    r"^(.*[^-_ 0-9(])[-_ ]*\(?[0-9]+\)?\.[^.]+$",
    r"^[0-9]+[-_ ]+([^.]*[^-_ .0-9])\.[^.]+$",
];

/// Finds out how the photos in the folder `path` are stored: in a folder per class, perhaps inside `train/`
/// with test images beside it; with a table beside them; or with the class in their names.
pub(super) fn detect_folder(path: &Path, args: &InitArgs) -> Result<DetectedData, TrainError> {
    let tree = FolderIds::read(path)?;
    if let Some(detected) = detect_detection_data(path) {
        return Err(detected);
    }
    let train = path.join(TRAIN_FOLDER);
    let table = TABLES.iter().map(|name| path.join(name)).find(|table| table.is_file());
    // Photos in `train` itself are those of the table.
    let has_table = table.is_some() && !tree.folder(TRAIN_FOLDER).images.is_empty();
    let has_classes_in_names = tree.has_flat_training_folder() && tree.label_pattern().is_some();
    if tree.has_class_folders() && !has_table && !has_classes_in_names {
        let classes_in_train = tree.folder(TRAIN_FOLDER).class_names();
        let inner = tree.only_folder().filter(|(_, inner)| inner.has_class_folders());
        return Ok(match inner {
            _ if !classes_in_train.is_empty() && tree.are_splits() => {
                train_and_test_folders(path, &train, &tree)
            }
            _ if !classes_in_train.is_empty() && tree.has_test_folder() => {
                train_and_test_folders(path, &train, &tree)
            }
            Some((name, _)) => {
                let inner_path = path.join(name);
                tracing::info!("the folders of the classes are in {}", inner_path.display());
                return detect_folder(&inner_path, args);
            }
            None => DetectedData::new(FolderConfig::new(path.into())),
        });
    }
    if let Some(table) = table {
        tracing::info!(
            "{} has no folder for each class: the classes are taken from the table {}",
            path.display(),
            table.display()
        );
        return detect_table(&table, args);
    }
    if let Some(pattern) = tree.label_pattern() {
        tracing::info!(
            "{} has no folder for each class: the classes are taken from the names of the files",
            path.display()
        );
        let config = FolderConfig { label_pattern: Some(pattern.into()), ..FolderConfig::new(path.into()) };
        return Ok(DetectedData::new(config));
    }
    if let Some(archive) = find_archive(path) {
        return Err(TrainError::Usage(format!(
            "{} has no photos, but it has the archive {}: archives are read as they are, with `headstock init {}`",
            path.display(),
            archive.display(),
            shell_quote(archive.display())
        )));
    }
    Ok(DetectedData::new(FolderConfig::new(path.into())))
}

/// The folder `train` of `path` with the folder of test images beside it, if there is one with the same
/// classes. Logs which other folders are ignored.
fn train_and_test_folders(path: &Path, train: &Path, tree: &FolderIds) -> DetectedData {
    for name in tree.folders.keys().filter(|name| !is_split_name(name)) {
        tracing::info!(
            "ignored the folder {}: the photos for training are taken from {}",
            path.join(name).display(),
            train.display()
        );
    }
    let train_classes = tree.folder(TRAIN_FOLDER).class_names();
    let mut test: Option<PathBuf> = None;
    for name in TEST_FOLDERS {
        let folder = path.join(name);
        if !folder.is_dir() {
            continue;
        }
        let shown_path = folder.display();
        let classes = tree.folder(name).class_names();
        if let Some(test) = &test {
            tracing::info!(
                "ignored the folder {shown_path}: the photos for testing are taken from {}",
                test.display()
            );
        } else if classes.is_empty() {
            tracing::info!(
                "ignored the folder {shown_path}: to test with its photos, put them into one folder per \
                 class, as for training"
            );
        } else if classes.iter().all(|class| !train_classes.contains(class)) {
            tracing::info!(
                "ignored the folder {shown_path}: none of its folders has the name of a class in {}; to test \
                 with its photos, give its folders the names of the classes",
                train.display()
            );
        } else {
            test = Some(folder);
        }
    }
    DetectedData::new(FolderConfig { test_folder: test, ..FolderConfig::new(train.into()) })
}

/// Whether a folder is for training or testing by its name.
fn is_split_name(name: &str) -> bool {
    name == TRAIN_FOLDER || TEST_FOLDERS.contains(&name)
}

/// The first zip archive in `path`.
fn find_archive(path: &Path) -> Option<PathBuf> {
    let mut archives: Vec<PathBuf> = fs::read_dir(path).ok()?.flatten().map(|entry| entry.path()).collect();
    archives.sort_unstable();
    archives
        .into_iter()
        .find(|path| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zip")))
}

/// The error for a folder of object detection data, which has boxes in place of one class per photo: the layouts
/// of Ultralytics (a text file with boxes for each photo), Pascal VOC and COCO as Roboflow exports it, also in
/// the folders of splits.
fn detect_detection_data(path: &Path) -> Option<TrainError> {
    let inner = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut folders: Vec<PathBuf> = inner.filter(|path| path.is_dir()).collect();
    folders.sort_unstable();
    folders.insert(0, path.into());
    let (folder, layout) = folders.iter().find_map(|folder| {
        let has_folder = |name| folder.join(name).is_dir();
        if has_folder("labels") && has_folder("images") && has_file_with(folder, "labels", "txt") {
            Some((folder, "Ultralytics (YOLO)"))
        } else if has_folder("Annotations") && has_folder("JPEGImages") {
            Some((folder, "Pascal VOC"))
        } else if folder.join("_annotations.coco.json").is_file() {
            Some((folder, "COCO"))
        } else {
            None
        }
    })?;
    Some(TrainError::Usage(format!(
        "{} looks like data for object detection in the layout of {layout}: the labels are boxes, but a classifier \
         needs one class for each photo; crop the boxes and put the crops into a folder for each class",
        folder.display()
    )))
}

/// Whether a file with `extension` is in the folder `name` of `path`, at any depth.
fn has_file_with(path: &Path, name: &str, extension: &str) -> bool {
    let Ok(entries) = fs::read_dir(path.join(name)) else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        path.extension().is_some_and(|ending| ending == extension)
            || path.is_dir() && has_file_with(&path, "", extension)
    })
}

/// The images of a folder as a tree of names.
#[derive(Default)]
struct FolderIds {
    /// Names of the images in the folder itself.
    images: Vec<String>,
    folders: BTreeMap<String, FolderIds>,
}

impl FolderIds {
    /// Finds the images in `path`, a folder or a zip archive. Links that lead elsewhere are followed here: what
    /// becomes of them is said when the data is listed.
    fn read(path: &Path) -> Result<Self, TrainError> {
        let mut root = Self::default();
        for (id, _) in find_image_files(path, true)?.images {
            let mut names: Vec<&str> = id.split('/').collect();
            let name = names.pop().unwrap_or_default();
            let mut folder = &mut root;
            for name in names {
                folder = folder.folders.entry(name.to_owned()).or_default();
            }
            folder.images.push(name.to_owned());
        }
        Ok(root)
    }

    /// The folder `name` in this one; without images if there is none.
    fn folder(&self, name: &str) -> &Self {
        const EMPTY: &FolderIds = &FolderIds { images: Vec::new(), folders: BTreeMap::new() };
        self.folders.get(name).unwrap_or(EMPTY)
    }

    /// The names of the folders with images in this one.
    fn class_names(&self) -> Vec<&str> {
        self.folders.keys().map(String::as_str).collect()
    }

    /// The only folder with images, if there are no others and no images beside it.
    fn only_folder(&self) -> Option<(&str, &Self)> {
        let (name, folder) = self.folders.first_key_value()?;
        (self.folders.len() == 1 && self.images.is_empty()).then_some((name, folder))
    }

    /// Whether the folders in this one, or in its only folder, can be classes: there are two or more, or they
    /// are splits with folders of classes.
    fn has_class_folders(&self) -> bool {
        match self.only_folder() {
            Some((_, only)) => only.folders.len() > 1,
            None => {
                self.folders.len() > 1 && !(self.are_splits() && self.folder(TRAIN_FOLDER).folders.is_empty())
            }
        }
    }

    /// Whether the folder for training has no folders of classes, perhaps in a folder of its own.
    fn has_flat_training_folder(&self) -> bool {
        let mut folder = self.folder(TRAIN_FOLDER);
        while let Some((_, inner)) = folder.only_folder() {
            folder = inner;
        }
        !folder.images.is_empty() && folder.folders.is_empty()
    }

    /// Whether all folders have the names of splits, and one is for training.
    fn are_splits(&self) -> bool {
        self.folders.contains_key(TRAIN_FOLDER) && self.folders.keys().all(|name| is_split_name(name))
    }

    /// Whether a folder for testing has folders of classes of the folder for training.
    fn has_test_folder(&self) -> bool {
        let train = self.folder(TRAIN_FOLDER).class_names();
        TEST_FOLDERS
            .iter()
            .any(|name| self.folder(name).class_names().iter().any(|class| train.contains(class)))
    }

    /// All names of images, at any depth.
    fn all_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.images.iter().map(String::as_str).collect();
        names.extend(self.folders.values().flat_map(Self::all_names));
        names
    }

    /// The pattern of the class in the names of the images, if nearly all of the names in one folder match it
    /// and give two or more classes, each with two or more images on average.
    fn label_pattern(&self) -> Option<&'static str> {
        let names = if self.images.is_empty() {
            self.folders.values().map(Self::all_names).max_by_key(Vec::len)?
        } else {
            self.all_names()
        };
        LABEL_PATTERNS.into_iter().find(|pattern| {
            let pattern = Regex::new(pattern).expect("the pattern is valid");
            let mut classes = BTreeMap::new();
            for name in &names {
                if let Some(class) = pattern.captures(name).and_then(|groups| groups.get(1)) {
                    *classes.entry(class.as_str()).or_insert(0) += 1;
                }
            }
            let n_matches: usize = classes.values().sum();
            n_matches * 20 >= names.len() * 19 && classes.len() >= 2 && n_matches >= classes.len() * 2
        })
    }
}
