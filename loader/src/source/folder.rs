//! A folder per class.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::same::{Seen, real_path};
use super::{Entry, Listing, Part, Source};
use crate::dataset::{DatasetError, Listed};

const PHOTO_EXTENSIONS: [&str; 10] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Whether a file is a photo by the ending of its name, in small or capital letters.
#[must_use]
pub fn is_photo(path: &Path) -> bool {
    extension(path).is_some_and(|extension| PHOTO_EXTENSIONS.contains(&extension.as_str()))
}

fn extension(path: &Path) -> Option<String> {
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

impl Source for FolderSource {
    /// # Errors
    /// [`DatasetError`] for a folder that is not there, no class, a link that leads out of `root` or nowhere, a photo or folder
    /// that is met twice, a name that is not UTF-8. A class without photos is a fault.
    fn list(&self) -> Result<Listing, DatasetError> {
        let root = Folder::read(&self.root)?;
        let mut listing = Listing { origin: self.root.clone(), entries: Vec::new(), faults: Vec::new() };
        match root.parts() {
            Some(parts) => parts.iter().for_each(|(part, folder)| folder.list(Some(*part), &mut listing)),
            None if root.folders.is_empty() => {
                let hint = "it needs a folder for each class, with the photos of that class in it";
                let path = self.root.clone();
                return Err(DatasetError::Empty { path, missing: "class folders", hint });
            }
            None => root.list(None, &mut listing),
        }
        root.tell_what_was_passed_over();
        Ok(listing)
    }

    fn unlabelled(&self) -> Result<Vec<String>, DatasetError> {
        let root = Folder::read(&self.root)?;
        Ok(root.photos.iter().map(|photo| photo.id.clone()).collect())
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
pub fn photos_below(root: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    Ok(Folder::read(root)?.photos_below().into_iter().map(|photo| photo.path.clone()).collect())
}

/// A photo: its path relative to the root, where it lies, and where that is once links are followed.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    id: String,
    path: PathBuf,
    real: PathBuf,
}

/// What lies in a folder and is not hidden.
struct Folder {
    /// Its path relative to the root.
    id: String,
    path: PathBuf,
    /// Sorted by name, bytewise, as the folders are.
    photos: Vec<Found>,
    folders: Vec<Folder>,
    /// How many files are neither, by the endings of their names.
    others: BTreeMap<String, usize>,
}

impl Folder {
    /// `root` and all below it.
    fn read(root: &Path) -> Result<Self, DatasetError> {
        if !root.is_dir() {
            return Err(DatasetError::NoFolder(root.into()));
        }
        let canonical = real_path(root)?;
        let mut walk = Walk { root, canonical: canonical.clone(), seen: Seen::default() };
        walk.enter(String::new(), root.into(), &canonical)
    }

    /// The folders of the parts, where this is made of parts.
    fn parts(&self) -> Option<Vec<(Part, &Self)>> {
        let full = self.folders.iter().filter(|folder| folder.holds_photos());
        let parts: Option<Vec<(Part, &Self)>> =
            full.map(|folder| Some((Part::named(&folder.id)?, folder))).collect();
        parts.filter(|parts| {
            parts.iter().any(|(part, _)| *part == Part::Train)
                && parts.iter().all(|(_, folder)| folder.photos.is_empty())
        })
    }

    fn holds_photos(&self) -> bool {
        !self.photos.is_empty() || self.folders.iter().any(Self::holds_photos)
    }

    /// Lists the classes that the folders in this one are.
    fn list(&self, part: Option<Part>, listing: &mut Listing) {
        let (mut empty, mut extensions) = (Vec::new(), BTreeSet::new());
        for class in &self.folders {
            let name = class.id.rsplit('/').next().unwrap_or_default();
            let photos = class.photos_below();
            if photos.is_empty() {
                empty.push(name.to_owned());
                extensions.extend(class.others_below().into_keys());
            }
            listing.entries.extend(photos.into_iter().map(|photo| Entry {
                id: photo.id.clone(),
                photo: photo.path.clone().into(),
                class: name.to_owned(),
                group: None,
                part,
            }));
        }
        if !empty.is_empty() {
            let (root, extensions) = (self.path.clone(), extensions.into_iter().collect());
            listing.faults.push(DatasetError::EmptyClass { root, classes: Listed(empty), extensions });
        }
    }

    /// The photos in it and below, sorted by id, bytewise.
    fn photos_below(&self) -> Vec<&Found> {
        let mut photos: Vec<&Found> = self.photos.iter().collect();
        photos.extend(self.folders.iter().flat_map(Self::photos_below));
        photos.sort_unstable();
        photos
    }

    fn others_below(&self) -> BTreeMap<String, usize> {
        let mut all = self.others.clone();
        for (ending, count) in self.folders.iter().flat_map(Self::others_below) {
            *all.entry(ending).or_default() += count;
        }
        all
    }

    fn tell_what_was_passed_over(&self) {
        let root = self.path.display();
        if !self.photos.is_empty() {
            tracing::warn!("passed over in {root}: {} photos outside the class folders", self.photos.len());
        }
        let others = self.others_below();
        if !others.is_empty() {
            let count: usize = others.values().sum();
            let endings = others.into_keys().collect::<Vec<_>>().join(", ");
            tracing::info!("passed over below {root}: {count} files that are no photos ({endings})");
        }
    }
}

struct Walk<'a> {
    root: &'a Path,
    canonical: PathBuf,
    seen: Seen,
}

impl Walk<'_> {
    fn enter(&mut self, id: String, path: PathBuf, real: &Path) -> Result<Folder, DatasetError> {
        self.seen.meet(real.to_path_buf(), path.display().to_string())?;
        let (photos, folders, others) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut folder = Folder { id, path, photos, folders, others };
        for path in listed(&folder.path)? {
            let real = self.resolve(real, &path)?;
            let below = |path: &Path| match folder.id.as_str() {
                "" => name(path).map(str::to_owned),
                id => Ok(format!("{id}/{}", name(path)?)),
            };
            if path.is_dir() {
                let id = below(&path)?;
                folder.folders.push(self.enter(id, path, &real)?);
            } else if is_photo(&path) && path.is_file() {
                let id = below(&path)?;
                self.seen.meet(real.clone(), path.display().to_string())?;
                folder.photos.push(Found { id, path, real });
            } else {
                let ending =
                    extension(&path).map_or_else(|| "no ending".into(), |extension| format!(".{extension}"));
                *folder.others.entry(ending).or_default() += 1;
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
        let real = real_path(path)?;
        if real.starts_with(&self.canonical) {
            return Ok(real);
        }
        Err(DatasetError::LeavesRoot { what: format!("the link {}", path.display()), root: self.root.into() })
    }
}

/// What lies in `folder` and is not hidden, sorted by name, bytewise.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
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

fn name(path: &Path) -> Result<&str, DatasetError> {
    path.file_name().and_then(|name| name.to_str()).ok_or_else(|| DatasetError::NotUtf8(path.into()))
}
