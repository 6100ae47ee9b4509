//! A folder per class.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::seen_paths::{SeenPaths, canonical_path};
use super::{DataSource, RawDataset, RawSample, Split};
use crate::dataset::{DatasetError, NameList};

const IMAGE_EXTENSIONS: [&str; 10] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Whether a file is a photo by the ending of its name, in small or capital letters.
#[must_use]
pub fn is_image_file(path: &Path) -> bool {
    lowercase_extension(path).is_some_and(|extension| IMAGE_EXTENSIONS.contains(&extension.as_str()))
}

fn lowercase_extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// A folder per class, whose photos may lie deeper within it; or a folder per part (`train`, `val`, `test` and what else the
/// Hugging Face hub calls them), with a folder per class in each.
///
/// It is taken for parts where all folders in it that hold photos are called as parts, one of them as the one to train on, and
/// no photo lies in them outside of their class folders. Samples are ordered by part and class and path, bytewise. Hidden files
/// are passed over; files that are no photos too, with a line that says so. Links are followed as long as they stay below `root`
/// and lead to nothing that is met otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderSource {
    /// The folder of the classes, or of the parts.
    pub root: PathBuf,
}

impl DataSource for FolderSource {
    /// # Errors
    /// [`DatasetError`] for a folder that is not there, no class, a link that leads out of `root` or nowhere, a photo or folder
    /// that is met twice, a name that is not UTF-8. A class without photos is a fault.
    fn list(&self) -> Result<RawDataset, DatasetError> {
        let root = Folder::read(&self.root)?;
        let mut raw = RawDataset { origin: self.root.clone(), samples: Vec::new(), errors: Vec::new() };
        match root.splits() {
            Some(parts) => {
                parts.iter().for_each(|(split, folder)| folder.append_samples(Some(*split), &mut raw))
            }
            None if root.subfolders.is_empty() => {
                let hint = "it needs a folder for each class, with the photos of that class in it";
                let path = self.root.clone();
                return Err(DatasetError::Empty { path, missing: "class folders", hint });
            }
            None => root.append_samples(None, &mut raw),
        }
        root.log_skipped_files();
        Ok(raw)
    }

    fn unlabeled(&self) -> Result<Vec<String>, DatasetError> {
        let root = Folder::read(&self.root)?;
        Ok(root.images.iter().map(|file| file.id.clone()).collect())
    }
}

/// The photos below `root`, which need no class, sorted by their path below it, bytewise. What is hidden is passed over, and
/// links are followed, as by [`FolderSource`].
///
/// ```
/// use headstock_loader::source::photos_below;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// # std::fs::create_dir(folder.join("march"))?;
/// for file in ["b.jpg", "march/a.png", "._b.jpg", "notes.txt"] {
///     std::fs::write(folder.join(file), [])?;
/// }
/// assert_eq!(photos_below(folder)?, [folder.join("b.jpg"), folder.join("march/a.png")]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`DatasetError`] for a folder that is not there or cannot be read, a link that leads out of `root` or nowhere, a photo or
/// folder that is met twice, a name that is not UTF-8.
pub fn find_image_files(root: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    Ok(Folder::read(root)?.all_images().into_iter().map(|file| file.path.clone()).collect())
}

/// A photo: its path relative to the root, where it lies, and where that is once links are followed.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct ImageFile {
    id: String,
    path: PathBuf,
    canonical: PathBuf,
}

/// What lies in a folder and is not hidden.
struct Folder {
    /// Its path relative to the root.
    id: String,
    path: PathBuf,
    /// Sorted by name, bytewise, as the folders are.
    images: Vec<ImageFile>,
    subfolders: Vec<Folder>,
    /// How many files are neither, by the endings of their names.
    other_files: BTreeMap<String, usize>,
}

impl Folder {
    /// `root` and all below it.
    fn read(root: &Path) -> Result<Self, DatasetError> {
        if !root.is_dir() {
            return Err(DatasetError::NoFolder(root.into()));
        }
        let canonical = canonical_path(root)?;
        let mut walker = FolderWalker { root, canonical: canonical.clone(), seen: SeenPaths::default() };
        walker.read_folder(String::new(), root.into(), &canonical)
    }

    /// The folders of the parts, where this is made of parts.
    fn splits(&self) -> Option<Vec<(Split, &Self)>> {
        let nonempty = self.subfolders.iter().filter(|folder| folder.has_images());
        let splits: Option<Vec<(Split, &Self)>> =
            nonempty.map(|folder| Some((Split::from_name(&folder.id)?, folder))).collect();
        splits.filter(|splits| {
            splits.iter().any(|(split, _)| *split == Split::Train)
                && splits.iter().all(|(_, folder)| folder.images.is_empty())
        })
    }

    fn has_images(&self) -> bool {
        !self.images.is_empty() || self.subfolders.iter().any(Self::has_images)
    }

    /// Lists the classes that the folders in this one are.
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

    /// The photos in it and below, sorted by id, bytewise.
    fn all_images(&self) -> Vec<&ImageFile> {
        let mut images: Vec<&ImageFile> = self.images.iter().collect();
        images.extend(self.subfolders.iter().flat_map(Self::all_images));
        images.sort_unstable();
        images
    }

    fn all_other_files(&self) -> BTreeMap<String, usize> {
        let mut counts = self.other_files.clone();
        for (ending, count) in self.subfolders.iter().flat_map(Self::all_other_files) {
            *counts.entry(ending).or_default() += count;
        }
        counts
    }

    fn log_skipped_files(&self) {
        let root = self.path.display();
        if !self.images.is_empty() {
            tracing::warn!("passed over in {root}: {} photos outside the class folders", self.images.len());
        }
        let other_files = self.all_other_files();
        if !other_files.is_empty() {
            let count: usize = other_files.values().sum();
            let extensions = other_files.into_keys().collect::<Vec<_>>().join(", ");
            tracing::info!("passed over below {root}: {count} files that are no photos ({extensions})");
        }
    }
}

struct FolderWalker<'a> {
    root: &'a Path,
    canonical: PathBuf,
    seen: SeenPaths,
}

impl FolderWalker<'_> {
    fn read_folder(&mut self, id: String, path: PathBuf, canonical: &Path) -> Result<Folder, DatasetError> {
        self.seen.insert(canonical.to_path_buf(), path.display().to_string())?;
        let (photos, folders, others) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut folder = Folder { id, path, images: photos, subfolders: folders, other_files: others };
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
                self.seen.insert(entry_canonical.clone(), entry_path.display().to_string())?;
                folder.images.push(ImageFile { id, path: entry_path, canonical: entry_canonical });
            } else {
                let extension = lowercase_extension(&entry_path)
                    .map_or_else(|| "no ending".into(), |extension| format!(".{extension}"));
                *folder.other_files.entry(extension).or_default() += 1;
            }
        }
        Ok(folder)
    }

    /// Where `path`, in a folder that really is `parent`, is once links are followed; it must not leave the root.
    fn resolve(&self, parent: &Path, path: &Path) -> Result<PathBuf, DatasetError> {
        let io = |source| DatasetError::Io { path: path.into(), source };
        if !fs::symlink_metadata(path).map_err(io)?.is_symlink() {
            return Ok(path.file_name().map_or_else(|| parent.into(), |name| parent.join(name)));
        }
        let canonical = canonical_path(path)?;
        if canonical.starts_with(&self.canonical) {
            return Ok(canonical);
        }
        Err(DatasetError::LeavesRoot { what: format!("the link {}", path.display()), root: self.root.into() })
    }
}

/// What lies in `folder` and is not hidden, sorted by name, bytewise.
fn visible_entries(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let io = |source| DatasetError::Io { path: folder.into(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable_by(|a, b| a.file_name().cmp(&b.file_name()));
    Ok(paths)
}

fn utf8_name(path: &Path) -> Result<&str, DatasetError> {
    path.file_name().and_then(|name| name.to_str()).ok_or_else(|| DatasetError::NotUtf8(path.into()))
}
