//! Trees of image files: of a folder on the disk, or of a zip archive.

mod disk;
mod split_folders;
mod system_files;
mod zip;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) use self::split_folders::{FolderRoles, FolderSplit, split_of_folder};
use super::paths::{is_image_file, lowercase_extension};
use crate::dataset::{DatasetError, PassedOver, PassedOverReason};
use crate::decode::unsupported_image_format;
use crate::image_ref::ImageRef;
use crate::shard::zip::split_archive_path;

/// The image files of a folder and everything else in it.
#[derive(Debug)]
pub(super) struct ImageTree {
    pub(super) root: ImageFolder,
    /// The files that are not images.
    pub(super) passed_over: PassedOver,
    /// Errors of single files and links, which are not in the tree.
    pub(super) errors: Vec<DatasetError>,
}

/// A folder and its image files, at any depth.
#[derive(Debug, Default)]
pub(super) struct ImageFolder {
    /// Path relative to the root, with `/` as separator.
    pub(super) id: String,
    /// Sorted bytewise by name, as are the subfolders.
    pub(super) images: Vec<ImageFile>,
    pub(super) subfolders: Vec<Self>,
    /// Number of other files in this folder by what they are, such as `.txt`.
    pub(super) other_files: BTreeMap<String, usize>,
}

/// An image file.
#[derive(Clone, Debug)]
pub(super) struct ImageFile {
    /// Path relative to the root, with `/` as separator.
    pub(super) id: String,
    pub(super) image: ImageRef,
}

impl ImageTree {
    /// Lists the files in `root`, a folder or a zip archive or a folder inside one, without opening them.
    /// With `follow_links` a link may lead out of `root`. Each file and folder may be reached once.
    ///
    /// # Errors
    /// [`DatasetError`] for a folder or archive that does not exist or cannot be read.
    pub(super) fn read(root: &Path, follow_links: bool) -> Result<Self, DatasetError> {
        match split_archive_path(root) {
            Some((archive, inner)) => zip::read(&archive, &inner),
            None => disk::read(root, follow_links),
        }
    }

    /// A tree without any file yet.
    fn new() -> Self {
        Self { root: ImageFolder::default(), passed_over: PassedOver::default(), errors: Vec::new() }
    }
}

impl ImageFolder {
    /// The name of the folder.
    pub(super) fn name(&self) -> &str {
        self.id.rsplit('/').next().unwrap_or_default()
    }

    /// Whether there are images at any depth.
    pub(super) fn has_images(&self) -> bool {
        !self.images.is_empty() || self.subfolders.iter().any(Self::has_images)
    }

    /// The subfolders that have images at any depth.
    pub(super) fn subfolders_with_images(&self) -> impl Iterator<Item = &Self> {
        self.subfolders.iter().filter(|folder| folder.has_images())
    }

    /// The folder that directly contains the folders of the classes: this one, or the only folder in it with
    /// images, if that has the same name or contains folders with images itself. Programs that pack or unpack
    /// archives often put a folder into another one of the same name.
    pub(super) fn without_wrappers(&self) -> &Self {
        let mut with_images = self.subfolders_with_images();
        match (with_images.next(), with_images.next()) {
            (Some(only), None)
                if self.images.is_empty()
                    && (only.name() == self.name()
                        || only.images.is_empty() && only.subfolders_with_images().next().is_some()) =>
            {
                only.without_wrappers()
            }
            _ => self,
        }
    }

    /// The images at any depth, sorted bytewise by id.
    pub(super) fn all_images(&self) -> Vec<&ImageFile> {
        let mut images: Vec<&ImageFile> = self.images.iter().collect();
        images.extend(self.subfolders.iter().flat_map(Self::all_images));
        images.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        images
    }

    /// What the files that are not images are, at any depth.
    pub(super) fn all_other_files(&self) -> Vec<String> {
        let mut kinds: Vec<String> = self.other_files.keys().cloned().collect();
        kinds.extend(self.subfolders.iter().flat_map(Self::all_other_files));
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }
}

/// What a file is by its name.
enum FileKind {
    Image,
    /// A photo in a format that is not decoded, with the name of the format.
    UnsupportedFormat(&'static str),
    /// Any other file, with its extension, such as `.txt`.
    Other(String),
}

impl FileKind {
    /// The kind of the file with this `name`.
    fn from_name(name: &str) -> Self {
        let path = Path::new(name);
        if is_image_file(path) {
            return Self::Image;
        }
        let Some(extension) = lowercase_extension(path) else { return Self::Other("no extension".into()) };
        match unsupported_image_format(&extension) {
            Some(format) => Self::UnsupportedFormat(format),
            None => Self::Other(format!(".{extension}")),
        }
    }

    /// Why a file of this kind is passed over, and what the account calls the kind. An image is passed over
    /// only if it is no regular file.
    fn passed_over_as(self) -> (PassedOverReason, String) {
        match self {
            Self::Image => (PassedOverReason::FileType, "not a regular file".to_owned()),
            Self::UnsupportedFormat(format) => (PassedOverReason::UnsupportedFormat, format.to_owned()),
            Self::Other(extension) => (PassedOverReason::FileType, extension),
        }
    }

    /// Counts a file that is not used in the account of the tree and in its folder.
    fn pass_over(self, folder: &mut ImageFolder, passed_over: &mut PassedOver) {
        let (reason, kind) = self.passed_over_as();
        passed_over.add_kind(reason, &kind);
        *folder.other_files.entry(kind).or_default() += 1;
    }
}

/// Why a file that is not an image by its path is passed over, and its kind, such as `.txt`.
pub(super) fn other_file_kind(path: &str) -> (PassedOverReason, String) {
    FileKind::from_name(path).passed_over_as()
}

/// The id of the entry `name` of the folder `folder`.
fn join_id(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// The images in `root` and its subfolders, which need not be classes, such as photos to predict the classes
/// of.
#[derive(Debug)]
pub struct FoundImages {
    /// Their paths relative to the root, with `/` as separator, and the images, sorted bytewise by path.
    pub images: Vec<(String, ImageRef)>,
    /// The other files.
    pub passed_over: PassedOver,
    /// Errors of single files and links.
    pub errors: Vec<DatasetError>,
}

/// Finds the images in `root`, a folder or a zip archive, and its subfolders. Hidden files are passed over; a
/// link out of `root` is an error unless `follow_links` is set, and so is a file that is reached twice.
///
/// ```
/// use headstock_loader::dataset::PassedOverReason;
/// use headstock_loader::source::find_image_files;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// # std::fs::create_dir(folder.join("march"))?;
/// for file in ["b.jpg", "march/a.png", "._b.jpg", "notes.txt", "c.jxl"] {
///     std::fs::write(folder.join(file), [])?;
/// }
/// let found = find_image_files(folder, false)?;
/// let paths: Vec<&str> = found.images.iter().map(|(path, _)| path.as_str()).collect();
/// assert_eq!(paths, ["b.jpg", "march/a.png"]);
/// assert_eq!(found.passed_over.count(PassedOverReason::UnsupportedFormat), 1);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`DatasetError`] for a folder or archive that does not exist or cannot be read.
pub fn find_image_files(root: &Path, follow_links: bool) -> Result<FoundImages, DatasetError> {
    let ImageTree { root, passed_over, errors } = ImageTree::read(root, follow_links)?;
    let images = root.all_images().into_iter().map(|file| (file.id.clone(), file.image.clone())).collect();
    Ok(FoundImages { images, passed_over, errors })
}

/// Whether `path` is a folder, or a zip archive or a folder inside one, in which images are found.
#[must_use]
pub fn is_image_folder(path: &Path) -> bool {
    path.is_dir() || split_archive_path(path).is_some()
}

/// Where images are found by their ids: a folder on the disk, or the files of a zip archive.
pub(super) enum ImageRoot {
    Disk { root: PathBuf, canonical: PathBuf, follow_links: bool },
    Archive(BTreeMap<String, ImageRef>),
}

/// Where [`ImageRoot::find`] finds an id.
pub(super) enum Located {
    /// The image, and the path that identifies its file, with all links resolved.
    Image(ImageRef, PathBuf),
    Missing,
    OutsideRoot,
}

impl ImageRoot {
    /// Opens `root`, a folder or a zip archive or a folder inside one.
    pub(super) fn open(root: &Path, follow_links: bool) -> Result<Self, DatasetError> {
        if split_archive_path(root).is_some() {
            let tree = ImageTree::read(root, follow_links)?;
            let images = tree.root.all_images().into_iter().map(|file| (file.id.clone(), file.image.clone()));
            return Ok(Self::Archive(images.collect()));
        }
        if !root.is_dir() {
            return Err(DatasetError::NoFolder(root.into()));
        }
        let canonical = disk::canonical_path(root)?;
        Ok(Self::Disk { root: root.into(), canonical, follow_links })
    }

    /// Finds the image whose path relative to the root is `id`.
    ///
    /// # Errors
    /// [`DatasetError::Io`] if the file system cannot be read.
    pub(super) fn find(&self, id: &str) -> Result<Located, DatasetError> {
        match self {
            Self::Archive(images) => Ok(match images.get(id) {
                Some(image) => Located::Image(image.clone(), id.into()),
                None => Located::Missing,
            }),
            Self::Disk { root, canonical, follow_links } => {
                disk::find_file(&root.join(id), canonical, *follow_links)
            }
        }
    }
}
