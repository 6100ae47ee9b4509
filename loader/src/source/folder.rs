//! One folder per class, as torchvision's `ImageFolder`.

use std::path::{Path, PathBuf};

use headstock_split::words::NameList;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DataSource;
use super::config::{OpenDataSource, SourceConfig, SourceConfigError, SourceContext, resolve_path};
use super::tree::{FolderRoles, FolderSplit, ImageFile, ImageFolder, ImageTree, split_of_folder};
use crate::dataset::{DatasetError, PassedOverReason, RawDataset, RawSample, Split};

/// The keys of `[data]` of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// A folder that contains one folder per class, or folders such as `train` and `test` that contain one
    /// per class. A zip archive, or a folder inside one, is read like a folder: `"photos.zip"`,
    /// `"photos.zip/train"`.
    pub folder: PathBuf,
    /// A folder of photos for testing only, with one folder per class. If it is given, `[split]` is not used.
    pub test_folder: Option<PathBuf>,
    /// Whether the folders in `folder` are splits such as `train` and `test` (`true`) or classes (`false`). If
    /// it is not given, their names and contents decide; where they are not clear, an error asks for this key.
    pub split_folders: Option<bool>,
    /// A regular expression that finds the class in the name of each file, in its first group, as fastai's
    /// `from_name_re`: `"^(.+)_[0-9]+"` finds `pug` in `pug_12.jpg`. Then the folders are no classes.
    pub label_pattern: Option<String>,
}

impl FolderConfig {
    /// The configuration of the classes in `folder`.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, test_folder: None, split_folders: None, label_pattern: None }
    }
}

impl SourceConfig for FolderConfig {
    const KIND: &'static str = "folder";

    fn resolve(&mut self, base: &Path) -> Result<(), SourceConfigError> {
        if let Some(pattern) = &self.label_pattern {
            let compiled = Regex::new(pattern).map_err(|error| {
                SourceConfigError::key("label_pattern", format!("is not a regular expression: {error}"))
            })?;
            if compiled.captures_len() < 2 {
                let problem = format!(
                    "is `{pattern}`, which has no group: put the part with the class into parentheses, as in \
                     `^(.+)_[0-9]+`"
                );
                return Err(SourceConfigError::key("label_pattern", problem));
            }
        }
        resolve_path("folder", &mut self.folder, base)?;
        self.test_folder.as_mut().map_or(Ok(()), |folder| resolve_path("test_folder", folder, base))
    }

    fn test_data(&self) -> Option<Self> {
        Some(Self { folder: self.test_folder.clone()?, test_folder: None, ..self.clone() })
    }

    fn image_root(&self) -> Option<&Path> {
        Some(self.folder.as_path()).filter(|folder| folder.is_dir())
    }

    fn listed_folder(&self) -> Option<&Path> {
        Some(&self.folder)
    }

    fn open(&self, context: &SourceContext) -> Result<OpenDataSource, DatasetError> {
        let root = self.folder.clone();
        let source = FolderSource {
            root: root.clone(),
            follow_links: context.follow_links,
            split_folders: self.split_folders,
            label_pattern: self.label_pattern.clone(),
        };
        Ok(OpenDataSource { source: Box::new(source), root })
    }
}

/// One folder per class, with images at any depth; or one folder per split (`train`, `val`, `test` and the
/// other names of [`Split`]) that contains one folder per class.
///
/// The folders are splits if every folder with images has a word for a split in its name, one of them is a
/// training split with class folders, and the others have the same. Samples are sorted by split, class and
/// path, bytewise. Hidden files and those of the system are passed over, and so are files that are not images.
/// Links are followed if they stay inside `root` and do not lead to a file or folder that is listed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderSource {
    /// The folder of the class folders, or of the split folders, or a zip archive of them.
    pub root: PathBuf,
    /// Whether links may lead out of `root`.
    pub follow_links: bool,
    /// Whether the folders are splits; `None` if their names and contents decide.
    pub split_folders: Option<bool>,
    /// A regular expression whose first group is the class in the name of a file, in place of class folders.
    pub label_pattern: Option<String>,
}

impl FolderSource {
    /// The source of the class or split folders in `root`.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root, follow_links: false, split_folders: None, label_pattern: None }
    }

    /// Appends the images of the class folders in `folder`, which is for `split`, to `raw`.
    fn append_classes(&self, folder: &ImageFolder, split: Option<Split>, raw: &mut RawDataset) {
        let (mut empty, mut extensions) = (Vec::new(), Vec::new());
        for class_folder in &folder.subfolders {
            let images = class_folder.all_images();
            if images.is_empty() {
                empty.push(class_folder.name().to_owned());
                extensions.extend(class_folder.all_other_files());
            }
            raw.samples.extend(images.into_iter().map(|file| sample(file, class_folder.name(), split)));
        }
        if !empty.is_empty() {
            extensions.sort_unstable();
            extensions.dedup();
            let root = if folder.id.is_empty() { self.root.clone() } else { self.root.join(&folder.id) };
            raw.errors.push(DatasetError::EmptyClass { root, classes: NameList(empty), extensions });
        }
    }

    /// Appends the images in `root` whose names `pattern` matches to `raw`. If all images are in folders with
    /// the names of splits, these are the splits; a folder in which no name matches is left out.
    fn append_by_pattern(&self, root: &ImageFolder, pattern: &Regex, raw: &mut RawDataset) {
        let folders: Vec<&ImageFolder> = root.subfolders_with_images().collect();
        let matches = |folder: &ImageFolder| {
            folder.all_images().iter().any(|file| class_in_name(&file.id, pattern).is_some())
        };
        let splits: Vec<Option<FolderSplit>> =
            folders.iter().map(|folder| split_of_folder(folder.name())).collect();
        let are_splits = root.images.is_empty() && splits.iter().all(Option::is_some);
        let mut append = |files: Vec<&ImageFile>, split| {
            for file in files {
                match class_in_name(&file.id, pattern) {
                    Some(class) => raw.samples.push(sample(file, class, split)),
                    None => {
                        let problem = format!(
                            "the name does not match the pattern `{pattern}`, so the class is not known: \
                             rename the photo, or change the pattern"
                        );
                        let reason = PassedOverReason::Unlabeled;
                        raw.errors.push(DatasetError::entry(&self.root, &file.id, problem, reason));
                    }
                }
            }
        };
        append(root.images.iter().collect(), None);
        let mut left_out = Vec::new();
        for (folder, split) in folders.into_iter().zip(splits) {
            match split {
                Some(_) if !matches(folder) => left_out.push(folder),
                Some(FolderSplit::Split(split)) if are_splits => append(folder.all_images(), Some(split)),
                _ => append(folder.all_images(), None),
            }
        }
        leave_out(&left_out, "has no photo whose name matches the pattern", raw);
    }
}

/// The sample of an image file of `class` and `split`.
fn sample(file: &ImageFile, class: &str, split: Option<Split>) -> RawSample {
    let (id, image) = (file.id.clone(), file.image.clone());
    RawSample { id, image, class: class.to_owned(), group: None, split }
}

/// Passes over the images in `folders`; `why` says what is wrong with such a folder.
fn leave_out(folders: &[&ImageFolder], why: &str, raw: &mut RawDataset) {
    for file in folders.iter().flat_map(|folder| folder.all_images()) {
        raw.passed_over.add(PassedOverReason::UnusedSplit, &file.id);
    }
    let names: Vec<String> =
        folders.iter().map(|folder| format!("the folder `{}` {why}", folder.name())).collect();
    raw.passed_over.explain(PassedOverReason::UnusedSplit, format!(": {}", names.join("; ")));
}

/// The class in the file name of the path `id`: the first group of `pattern`, if that matches.
fn class_in_name<'a>(id: &'a str, pattern: &Regex) -> Option<&'a str> {
    let name = id.rsplit('/').next().unwrap_or_default();
    pattern.captures(name)?.get(1).map(|class| class.as_str()).filter(|class| !class.is_empty())
}

impl DataSource for FolderSource {
    /// Lists the images in class folders.
    ///
    /// # Errors
    /// [`DatasetError`] for a missing folder, no class folder, or folders that may be classes or splits. Among
    /// [`RawDataset::errors`] are a class without images, a link that is broken or points outside `root`, an
    /// image or folder that appears twice, and a name that is not UTF-8.
    fn list(&self) -> Result<RawDataset, DatasetError> {
        let tree = ImageTree::read(&self.root, self.follow_links)?;
        let root = &tree.root;
        let mut raw = RawDataset::new(self.root.clone());
        let pattern = self.label_pattern.as_deref().map(Regex::new).transpose().map_err(|error| {
            DatasetError::invalid(&self.root, format!("the pattern is not a regular expression: {error}"))
        })?;
        (raw.passed_over, raw.errors) = (tree.passed_over, tree.errors);
        if let Some(pattern) = pattern {
            self.append_by_pattern(root, &pattern, &mut raw);
            return Ok(raw);
        }
        match FolderRoles::detect(root, self.split_folders, &self.root)? {
            FolderRoles::Splits { splits, left_out } => {
                splits.iter().for_each(|(split, folder)| self.append_classes(folder, Some(*split), &mut raw));
                leave_out(&left_out, "has no folder for each class", &mut raw);
            }
            FolderRoles::Classes if root.subfolders.is_empty() => {
                let hint = "put the photos of each class into a folder that is named after the class";
                let path = self.root.clone();
                return Err(DatasetError::Empty { path, missing: "class folders", hint });
            }
            FolderRoles::Classes => self.append_classes(root, None, &mut raw),
        }
        for file in &root.images {
            raw.passed_over.add(PassedOverReason::Unlabeled, &file.id);
        }
        let explanation = " outside the class folders: move the photos into the folders of their classes";
        raw.passed_over.explain(PassedOverReason::Unlabeled, explanation);
        Ok(raw)
    }

    /// Ids of the images in the root folder itself, outside the class folders.
    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        if self.label_pattern.is_some() {
            return Ok(Vec::new());
        }
        let tree = ImageTree::read(&self.root, self.follow_links)?;
        Ok(tree.root.images.into_iter().map(|file| file.id).collect())
    }
}
