//! The image files of a zip archive, as if it was a folder. Nothing is unpacked to the disk by name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::system_files::is_system_file;
use super::{FileKind, ImageFile, ImageFolder, ImageTree, join_id};
use crate::dataset::{DatasetError, PassedOverReason};
use crate::image_ref::ImageRef;
use crate::shard::zip::{ZipMember, ZipShard, is_zip_file};
use crate::source::paths::relative_path;

/// How deep archives may be inside each other.
const MAX_DEPTH: usize = 4;

/// Lists the image files of the zip archive `path` that are in its folder `inner`; an empty one is the whole
/// archive. An archive inside the archive is a folder with its name. A folder that holds all others is left
/// out of the paths, because many programs put a folder with its name into an archive.
pub(super) fn read(path: &Path, inner: &str) -> Result<ImageTree, DatasetError> {
    let mut builder =
        TreeBuilder { path, inner: folder_names(inner), folder: Folder::default(), tree: ImageTree::new() };
    builder.add_archive(
        ZipShard::open(path).map_err(|problem| DatasetError::invalid(path, problem))?,
        &[],
        0,
    )?;
    let TreeBuilder { mut folder, mut tree, inner, .. } = builder;
    if inner.is_empty() {
        folder = folder.without_wrappers(&mut tree);
    } else if folder.is_empty() && tree.passed_over.total() + tree.errors.len() == 0 {
        return Err(DatasetError::NoFolder(path.join(inner.join("/"))));
    }
    tree.root = folder.into_image_folder(String::new(), &mut tree);
    Ok(tree)
}

/// The names of the folders of a path inside an archive; archives count as folders.
fn folder_names(inner: &str) -> Vec<String> {
    inner.split('/').filter(|name| !name.is_empty()).map(|name| without_zip(name).to_owned()).collect()
}

/// The name of an archive as a folder: without the extension.
fn without_zip(name: &str) -> &str {
    if is_zip_file(Path::new(name)) { &name[..name.len() - ".zip".len()] } else { name }
}

/// A folder while the tree is built.
#[derive(Default)]
struct Folder {
    images: BTreeMap<String, ImageRef>,
    folders: BTreeMap<String, Folder>,
    /// The names of files that are not images.
    others: Vec<String>,
}

impl Folder {
    fn is_empty(&self) -> bool {
        self.images.is_empty() && self.folders.is_empty() && self.others.is_empty()
    }

    fn has_images(&self) -> bool {
        !self.images.is_empty() || self.folders.values().any(Self::has_images)
    }

    /// The folder in which the folders of the classes are: this one, or the only one with images in it, if
    /// that has folders with images of its own. Files outside it are counted in `tree`.
    fn without_wrappers(mut self, tree: &mut ImageTree) -> Self {
        let with_images = self.folders.iter().filter(|(_, folder)| folder.has_images());
        let names: Vec<String> = with_images.map(|(name, _)| name.clone()).collect();
        let is_wrapper = |only: &Self| only.images.is_empty() && only.folders.values().any(Self::has_images);
        match names.as_slice() {
            [only] if self.images.is_empty() && is_wrapper(&self.folders[only]) => {
                let inner = self.folders.remove(only).expect("the folder was just found");
                self.into_image_folder(String::new(), tree);
                inner.without_wrappers(tree)
            }
            _ => self,
        }
    }

    /// The folder with the paths `id` and below; counts the files that are not images in `tree`.
    fn into_image_folder(self, id: String, tree: &mut ImageTree) -> ImageFolder {
        let mut folder = ImageFolder { id, ..ImageFolder::default() };
        for name in self.others {
            FileKind::from_name(&name).pass_over(&mut folder, &mut tree.passed_over);
        }
        folder.images = (self.images.into_iter())
            .map(|(name, image)| ImageFile { id: join_id(&folder.id, &name), image })
            .collect();
        for (name, subfolder) in self.folders {
            let id = join_id(&folder.id, &name);
            folder.subfolders.push(subfolder.into_image_folder(id, tree));
        }
        folder
    }
}

/// Collects the files of an archive and of the archives in it.
struct TreeBuilder<'a> {
    path: &'a Path,
    /// The folder in the archive whose files are listed.
    inner: Vec<String>,
    folder: Folder,
    /// What was found besides images.
    tree: ImageTree,
}

impl TreeBuilder<'_> {
    /// Adds the files of `archive`, which lies in the folder `parents` of the outermost archive, at this
    /// `depth` of archives.
    fn add_archive(
        &mut self,
        archive: ZipShard,
        parents: &[String],
        depth: usize,
    ) -> Result<(), DatasetError> {
        if archive.has_duplicate_names() {
            let problem = "two files in the archive have the same path: create the archive again";
            return Err(DatasetError::invalid(self.path, problem));
        }
        let archive = Arc::new(archive);
        let members = archive.members();
        // An archive with a folder of its own name, as `train.zip` with `train/`, is one folder.
        let own_name = parents.last().map(|name| format!("{name}/"));
        let repeats_name = own_name.as_ref().is_some_and(|own| {
            members.iter().all(|member| is_of_system(&member.path) || member.path.starts_with(own))
        });
        for member in members {
            let stored = member.path.clone();
            let Some(relative) = relative_path(&stored).filter(|path| !path.is_empty()) else {
                let place = format!("the path `{}` in the archive", stored.escape_debug());
                let problem = "it leads out of the archive: create the archive again without this file";
                let reason = PassedOverReason::OutsideFolder;
                self.tree.errors.push(DatasetError::entry(self.path, place, problem, reason));
                continue;
            };
            let names = relative
                .split('/')
                .map(str::to_owned)
                .skip(usize::from(repeats_name && !is_of_system(&stored)));
            let path: Vec<String> = parents.iter().cloned().chain(names).collect();
            self.add_member(&archive, &member, path, depth)?;
        }
        Ok(())
    }

    /// Adds the file `member` of `archive`, whose path in the outermost archive is `path`.
    fn add_member(
        &mut self,
        archive: &Arc<ZipShard>,
        member: &ZipMember,
        mut path: Vec<String>,
        depth: usize,
    ) -> Result<(), DatasetError> {
        let name = path.pop().unwrap_or_default();
        let is_archive = is_zip_file(Path::new(&name)) && !is_of_system(&member.path) && !member.is_link;
        if is_archive && depth < MAX_DEPTH {
            path.push(without_zip(&name).to_owned());
            let n_common = path.len().min(self.inner.len());
            if path[..n_common] != self.inner[..n_common] {
                return Ok(());
            }
            return match archive.open_nested(member) {
                Ok(nested) => self.add_archive(nested, &path, depth + 1),
                Err(problem) => Err(DatasetError::invalid(&self.path.join(&member.path), problem)),
            };
        }
        let Some(folders) = path.strip_prefix(self.inner.as_slice()) else { return Ok(()) };
        let id = folders.iter().rev().fold(name.clone(), |id, folder| join_id(folder, &id));
        if is_of_system(&id) {
            self.tree.passed_over.add(PassedOverReason::SystemFile, id);
            return Ok(());
        }
        if member.is_link {
            self.tree.passed_over.add(PassedOverReason::Link, id);
            return Ok(());
        }
        let mut folder = &mut self.folder;
        for name in folders {
            folder = folder.folders.entry(name.clone()).or_default();
        }
        if matches!(FileKind::from_name(&name), FileKind::Image) {
            let image = ImageRef::from_record(archive.clone(), member.index);
            folder.images.insert(name, image);
        } else {
            folder.others.push(name);
        }
        Ok(())
    }
}

/// Whether the file with this path, or a folder that it is in, belongs to the system or to another program.
fn is_of_system(path: &str) -> bool {
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    is_system_file(name, false) || folders.split('/').any(|folder| is_system_file(folder, true))
}
