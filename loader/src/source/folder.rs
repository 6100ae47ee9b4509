//! One folder per class, as torchvision's `ImageFolder`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use headstock_split::words::{NameList, counted};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DataSource;
use super::config::{OpenDataSource, SourceConfig, SourceConfigError, SourceContext, resolve_path};
use super::paths::{is_image_file, lowercase_extension};
use super::seen_paths::{SeenPaths, canonical_path};
use crate::dataset::{DatasetError, RawDataset, RawSample, Split};
use crate::shard::visible_entries;

/// The keys of `[data]` of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// A folder that contains one folder per class, or folders such as `train` and `test` that contain one
    /// per class.
    pub folder: PathBuf,
    /// A folder of photos for testing only, with one folder per class. If it is given, `[split]` is not used.
    pub test_folder: Option<PathBuf>,
}

impl SourceConfig for FolderConfig {
    const KIND: &'static str = "folder";

    fn resolve(&mut self, base: &Path) -> Result<(), SourceConfigError> {
        resolve_path("folder", &mut self.folder, base)?;
        self.test_folder.as_mut().map_or(Ok(()), |folder| resolve_path("test_folder", folder, base))
    }

    fn test_data(&self) -> Option<Self> {
        Some(Self { folder: self.test_folder.clone()?, test_folder: None })
    }

    fn image_root(&self) -> Option<&Path> {
        Some(&self.folder)
    }

    fn listed_folder(&self) -> Option<&Path> {
        Some(&self.folder)
    }

    fn open(&self, _: &SourceContext) -> Result<OpenDataSource, DatasetError> {
        let root = self.folder.clone();
        Ok(OpenDataSource { source: Box::new(FolderSource { root: root.clone() }), root })
    }
}

/// One folder per class, with images at any depth; or one folder per split (`train`, `val`, `test` and the
/// other names of [`Split`]) that contains one folder per class.
///
/// The folders are splits if every folder with images has the name of a split, one of them is a training
/// split, and no image in them is outside a class folder. Samples are sorted by split, class and path,
/// bytewise. Hidden files are skipped; files that are not images are skipped and logged. Links are followed
/// if they stay inside `root` and do not lead to a file or folder that is listed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderSource {
    /// The folder of the class folders, or of the split folders.
    pub root: PathBuf,
}

impl DataSource for FolderSource {
    /// Lists the images in class folders, and logs which files are skipped.
    ///
    /// # Errors
    /// [`DatasetError`] for a missing folder, no class folder, a link that is broken or points outside
    /// `root`, an image or folder that appears twice, or a name that is not UTF-8. A class without images is
    /// among [`RawDataset::errors`].
    fn list(&self) -> Result<RawDataset, DatasetError> {
        let root = Folder::read(&self.root)?;
        let mut raw = RawDataset { origin: self.root.clone(), samples: Vec::new(), errors: Vec::new() };
        match root.splits() {
            Some(splits) => {
                splits.iter().for_each(|(split, folder)| folder.append_samples(Some(*split), &mut raw));
            }
            None if root.subfolders.is_empty() => {
                let hint = "put the photos of each class into a folder that is named after the class";
                let path = self.root.clone();
                return Err(DatasetError::Empty { path, missing: "class folders", hint });
            }
            None => root.append_samples(None, &mut raw),
        }
        root.log_skipped_files();
        Ok(raw)
    }

    /// Ids of the images in the root folder itself, outside the class folders.
    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        let root = Folder::read(&self.root)?;
        Ok(root.images.iter().map(|file| file.id.clone()).collect())
    }
}

/// The image files in `root` and its subfolders, which need not be classes, sorted bytewise by path, for
/// example to predict their classes. Hidden files are skipped and links are followed as in [`FolderSource`].
///
/// ```
/// use headstock_loader::source::find_image_files;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// # std::fs::create_dir(folder.join("march"))?;
/// for file in ["b.jpg", "march/a.png", "._b.jpg", "notes.txt"] {
///     std::fs::write(folder.join(file), [])?;
/// }
/// assert_eq!(find_image_files(folder)?, [folder.join("b.jpg"), folder.join("march/a.png")]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`DatasetError`] for a folder that does not exist or cannot be read, a link that is broken or points
/// outside `root`, an image or folder that appears twice, or a name that is not UTF-8.
pub fn find_image_files(root: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    Ok(Folder::read(root)?.all_images().into_iter().map(|file| file.path.clone()).collect())
}

/// An image file.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct ImageFile {
    /// Path relative to the root, with `/` as separator.
    id: String,
    path: PathBuf,
}

/// A folder and its visible contents, recursively.
struct Folder {
    /// Path relative to the root.
    id: String,
    path: PathBuf,
    /// Sorted bytewise by name, as are the subfolders.
    images: Vec<ImageFile>,
    subfolders: Vec<Folder>,
    /// Number of other files by extension.
    other_files: BTreeMap<String, usize>,
}

impl Folder {
    /// Lists the files in `root` and all its subfolders as a tree, without opening files. It is an error if a
    /// link leads out of `root` or makes a file or folder appear twice.
    fn read(root: &Path) -> Result<Self, DatasetError> {
        if !root.is_dir() {
            return Err(DatasetError::NoFolder(root.into()));
        }
        let canonical = canonical_path(root)?;
        let mut walker = FolderWalker { root, canonical: canonical.clone(), seen: SeenPaths::default() };
        walker.read_folder(String::new(), root.into(), &canonical)
    }

    /// The split folders of this root folder, such as `train` and `test`, each with its split; `None` if the
    /// subfolders are classes. They are splits if every subfolder with images has the name of a split, one is
    /// for training, and no image lies directly in a split folder.
    fn splits(&self) -> Option<Vec<(Split, &Self)>> {
        let with_images = self.subfolders.iter().filter(|folder| folder.has_images());
        let splits: Option<Vec<(Split, &Self)>> =
            with_images.map(|folder| Some((Split::from_name(&folder.id)?, folder))).collect();
        splits.filter(|splits| {
            splits.iter().any(|(split, _)| *split == Split::Train)
                && splits.iter().all(|(_, folder)| folder.images.is_empty())
        })
    }

    /// Whether there are images at any depth.
    fn has_images(&self) -> bool {
        !self.images.is_empty() || self.subfolders.iter().any(Self::has_images)
    }

    /// Appends to `raw` the samples of this folder, whose subfolders are the classes, and an error if some
    /// classes have no images. `split` is the split of these samples, if the folder is a split folder.
    fn append_samples(&self, split: Option<Split>, raw: &mut RawDataset) {
        let (mut empty, mut extensions) = (Vec::new(), BTreeSet::new());
        for class_folder in &self.subfolders {
            let name = class_folder.id.rsplit('/').next().unwrap_or_default();
            let images = class_folder.all_images();
            if images.is_empty() {
                empty.push(name.to_owned());
                extensions.extend(class_folder.all_other_files().into_keys());
            }
            raw.samples.extend(images.into_iter().map(|file| RawSample {
                id: file.id.clone(),
                image: file.path.clone().into(),
                class: name.to_owned(),
                group: None,
                split,
            }));
        }
        if !empty.is_empty() {
            let (root, extensions) = (self.path.clone(), extensions.into_iter().collect());
            raw.errors.push(DatasetError::EmptyClass { root, classes: NameList(empty), extensions });
        }
    }

    /// The images at any depth, sorted bytewise by id.
    fn all_images(&self) -> Vec<&ImageFile> {
        let mut images: Vec<&ImageFile> = self.images.iter().collect();
        images.extend(self.subfolders.iter().flat_map(Self::all_images));
        images.sort_unstable();
        images
    }

    /// Number of files that are not images, at any depth, by extension, to report what was skipped.
    fn all_other_files(&self) -> BTreeMap<String, usize> {
        let mut counts = self.other_files.clone();
        for (extension, count) in self.subfolders.iter().flat_map(Self::all_other_files) {
            *counts.entry(extension).or_default() += count;
        }
        counts
    }

    /// Logs what this root folder has besides samples: the number of images outside class folders, and the
    /// number and extensions of the files that are not images.
    fn log_skipped_files(&self) {
        let root = self.path.display();
        if !self.images.is_empty() {
            let n_images = counted(self.images.len(), "photo", "photos");
            tracing::warn!(
                "skipped {n_images} in {root} outside the class folders: move the photos into the folders of \
                 their classes"
            );
        }
        let other_files = self.all_other_files();
        if !other_files.is_empty() {
            let files = counted(other_files.values().sum(), "file", "files");
            let extensions = other_files.into_keys().collect::<Vec<_>>().join(", ");
            tracing::info!("skipped {files} in {root} because of the file type: {extensions}");
        }
    }
}

/// Lists a folder tree and checks its links.
struct FolderWalker<'a> {
    root: &'a Path,
    /// `root` with links resolved.
    canonical: PathBuf,
    /// The folders and images listed so far.
    seen: SeenPaths,
}

impl FolderWalker<'_> {
    /// Lists the folder `path` and its subfolders as a tree; `id` is its path relative to the root,
    /// `canonical` its path with links resolved.
    fn read_folder(&mut self, id: String, path: PathBuf, canonical: &Path) -> Result<Folder, DatasetError> {
        self.seen.insert(canonical.to_path_buf(), path.display().to_string())?;
        let (images, subfolders, other_files) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut folder = Folder { id, path, images, subfolders, other_files };
        for entry_path in visible_entries(&folder.path)? {
            let entry_canonical = self.resolve(canonical, &entry_path)?;
            let id_of = |path: &Path| match folder.id.as_str() {
                "" => utf8_name(path).map(str::to_owned),
                id => Ok(format!("{id}/{}", utf8_name(path)?)),
            };
            if entry_path.is_dir() {
                let id = id_of(&entry_path)?;
                folder.subfolders.push(self.read_folder(id, entry_path, &entry_canonical)?);
            } else if is_image_file(&entry_path) && entry_path.is_file() {
                let id = id_of(&entry_path)?;
                self.seen.insert(entry_canonical, entry_path.display().to_string())?;
                folder.images.push(ImageFile { id, path: entry_path });
            } else {
                let extension = lowercase_extension(&entry_path)
                    .map_or_else(|| "no extension".into(), |extension| format!(".{extension}"));
                *folder.other_files.entry(extension).or_default() += 1;
            }
        }
        Ok(folder)
    }

    /// The canonical path (with links resolved) of the file or folder `path`; `parent` is that of its folder,
    /// so only `path` itself can be a link. A link that leads out of the root is an error.
    fn resolve(&self, parent: &Path, path: &Path) -> Result<PathBuf, DatasetError> {
        if !path.symlink_metadata().map_err(DatasetError::io(path))?.is_symlink() {
            return Ok(path.file_name().map_or_else(|| parent.into(), |name| parent.join(name)));
        }
        let canonical = canonical_path(path)?;
        if canonical.starts_with(&self.canonical) {
            return Ok(canonical);
        }
        Err(DatasetError::LeavesRoot {
            subject: format!("the link {}", path.display()),
            root: self.root.into(),
        })
    }
}

/// The file name of `path`, which must be UTF-8.
fn utf8_name(path: &Path) -> Result<&str, DatasetError> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| {
        DatasetError::invalid(path, "the name is not valid UTF-8 text: rename the file or folder")
    })
}
