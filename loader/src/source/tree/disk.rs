//! The image files of a folder on the disk.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::system_files::is_system_file;
use super::{FileKind, ImageFile, ImageFolder, ImageTree, Located, join_id};
use crate::dataset::{DatasetError, PassedOverReason};
use crate::shard::sorted_entries;
use crate::source::seen_paths::SeenPaths;

/// Lists the files in `root` and its subfolders as a tree, without opening files.
pub(super) fn read(root: &Path, follow_links: bool) -> Result<ImageTree, DatasetError> {
    if !root.is_dir() {
        return Err(DatasetError::NoFolder(root.into()));
    }
    let canonical = canonical_path(root)?;
    let mut walker = FolderWalker {
        root,
        canonical_root: canonical.clone(),
        follow_links,
        seen: SeenPaths::default(),
        tree: ImageTree::new(),
    };
    walker.seen.insert(canonical.clone(), root.display().to_string()).map_or(Ok(()), Err)?;
    let folder = walker.read_folder(String::new(), root, &canonical)?;
    Ok(ImageTree { root: folder, ..walker.tree })
}

/// Lists a folder tree and checks its links.
struct FolderWalker<'a> {
    root: &'a Path,
    /// `root` with links resolved.
    canonical_root: PathBuf,
    follow_links: bool,
    /// The folders and images listed so far.
    seen: SeenPaths,
    /// What was found besides images.
    tree: ImageTree,
}

impl FolderWalker<'_> {
    /// Lists the folder `path` and its subfolders; `id` is its path relative to the root, `canonical` its path
    /// with links resolved.
    fn read_folder(
        &mut self,
        id: String,
        path: &Path,
        canonical: &Path,
    ) -> Result<ImageFolder, DatasetError> {
        let mut folder = ImageFolder { id, ..ImageFolder::default() };
        for entry in sorted_entries(path)? {
            let Some(name) = entry.file_name().and_then(|name| name.to_str()) else {
                self.refuse_name(&entry, &mut folder)?;
                continue;
            };
            let entry_id = join_id(&folder.id, name);
            let is_folder = entry.is_dir();
            if is_system_file(name, is_folder) {
                let files = files_inside(&entry)?;
                let names = files.iter().map(|file| entry_id_of(&entry_id, &entry, file));
                names.for_each(|name| self.tree.passed_over.add(PassedOverReason::SystemFile, name));
                continue;
            }
            let kind = FileKind::from_name(name);
            let is_image = matches!(kind, FileKind::Image) && !is_folder;
            let is_link = entry.symlink_metadata().map_err(DatasetError::io(&entry))?.is_symlink();
            // A link that leads nowhere is neither a file nor a folder; it may be that of a class.
            let is_broken = is_link && !entry.exists();
            let is_listed = is_folder || is_broken || is_image && entry.is_file();
            if !is_listed {
                kind.pass_over(&mut folder, &mut self.tree.passed_over);
                continue;
            }
            let entry_canonical = if is_link { self.resolve_link(&entry) } else { Ok(canonical.join(name)) };
            let checked = entry_canonical.and_then(|entry_canonical| {
                let name = entry.display().to_string();
                self.seen.insert(entry_canonical.clone(), name).map_or(Ok(entry_canonical), Err)
            });
            match checked {
                Ok(entry_canonical) if is_folder => {
                    folder.subfolders.push(self.read_folder(entry_id, &entry, &entry_canonical)?);
                }
                Ok(_) => folder.images.push(ImageFile { id: entry_id, image: entry.into() }),
                Err(error) => self.tree.errors.push(error),
            }
        }
        Ok(folder)
    }

    /// The path of a link with all links resolved. It is an error if the link is broken, or leads out of the
    /// root although links are not followed.
    fn resolve_link(&self, link: &Path) -> Result<PathBuf, DatasetError> {
        let Ok(canonical) = link.canonicalize() else {
            let problem = "the link leads to a file or folder that does not exist: remove the link, or put \
                           back what it points to";
            let place = format!("the link {}", link.display());
            return Err(DatasetError::entry(self.root, place, problem, PassedOverReason::MissingImage));
        };
        if self.follow_links || canonical.starts_with(&self.canonical_root) {
            return Ok(canonical);
        }
        let subjects = vec![format!("the link {}", link.display())];
        Err(DatasetError::LeavesRoot { subjects, root: self.root.into() })
    }

    /// Adds an error for the photo `entry`, or for all photos in the folder `entry`, whose name is not UTF-8;
    /// passes over other files.
    fn refuse_name(&mut self, entry: &Path, folder: &mut ImageFolder) -> Result<(), DatasetError> {
        let problem = "the name is not valid UTF-8 text: rename the file or folder";
        for file in files_inside(entry)? {
            match FileKind::from_name(&file.to_string_lossy()) {
                FileKind::Image => {
                    let place = file.display().to_string();
                    let reason = PassedOverReason::BadEntry;
                    self.tree.errors.push(DatasetError::entry(self.root, place, problem, reason));
                }
                kind => kind.pass_over(folder, &mut self.tree.passed_over),
            }
        }
        Ok(())
    }
}

/// The id of `file`, which is `entry` or inside it, if the id of `entry` is `entry_id`.
fn entry_id_of(entry_id: &str, entry: &Path, file: &Path) -> String {
    match file.strip_prefix(entry) {
        Ok(inside) if !inside.as_os_str().is_empty() => format!("{entry_id}/{}", inside.display()),
        _ => entry_id.to_owned(),
    }
}

/// The files in `path` at any depth, or `path` itself if it is no folder. Links are not followed.
fn files_inside(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    if !path.symlink_metadata().map_err(DatasetError::io(path))?.is_dir() {
        return Ok(vec![path.into()]);
    }
    let mut files = Vec::new();
    for entry in sorted_entries(path)? {
        files.extend(files_inside(&entry)?);
    }
    Ok(files)
}

/// `path` with all links resolved.
pub(super) fn canonical_path(path: &Path) -> Result<PathBuf, DatasetError> {
    path.canonicalize().map_err(DatasetError::io(path))
}

/// Finds the image file `path`, which must lie below `canonical_root` unless `follow_links` is set.
pub(super) fn find_file(
    path: &Path,
    canonical_root: &Path,
    follow_links: bool,
) -> Result<Located, DatasetError> {
    match path.canonicalize() {
        Ok(canonical) if !follow_links && !canonical.starts_with(canonical_root) => Ok(Located::OutsideRoot),
        Ok(canonical) if canonical.is_file() => Ok(Located::Image(path.to_path_buf().into(), canonical)),
        Ok(_) => Ok(Located::Missing),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Located::Missing)
        }
        Err(error) => Err(DatasetError::io(path)(error)),
    }
}
