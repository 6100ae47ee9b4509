//! A folder per class.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::Listed;
use super::{ClassMap, ClassOrder, Dataset, DatasetError, Sample, lies_below};

const PHOTO_EXTENSIONS: [&str; 10] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Folders within folders: more than this is a mistake, or a loop of links.
const DEEPEST: usize = 32;

/// Whether a file is a photo by the ending of its name.
#[must_use]
pub fn is_photo(path: &Path) -> bool {
    extension(path).is_some_and(|extension| PHOTO_EXTENSIONS.contains(&extension.as_str()))
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// Reads the photos below `root`, whose folders are the classes; photos may lie deeper within them. Samples are ordered
/// by class and path, bytewise. Hidden files are passed over; files that are no photos too, with a line that says so.
///
/// # Errors
/// [`DatasetError`] for a folder that is not there, no class, one class only, a class without photos, a link that leads
/// out of `root`, a name that is not UTF-8.
pub fn read_folder(root: &Path, order: ClassOrder) -> Result<Dataset, DatasetError> {
    let names = class_folders(root)?;
    if names.is_empty() {
        let hint = "it needs a folder for each class, with the photos of that class in it";
        return Err(DatasetError::Empty { path: root.into(), missing: "class folders", hint });
    }
    let classes = ClassMap::new(names.iter().map(String::as_str), order);
    let (dataset, others) = read_classes(root, classes)?;
    let empty: Vec<String> = dataset
        .class_counts()
        .iter()
        .zip(&names)
        .filter(|&(&n, _)| n == 0)
        .map(|(_, name)| name.clone())
        .collect();
    if !empty.is_empty() {
        let extensions = others.into_iter().collect();
        return Err(DatasetError::EmptyClass { root: root.into(), classes: Listed(empty), extensions });
    }
    if let [class] = dataset.classes.names() {
        return Err(DatasetError::OneClass { path: root.into(), class: class.clone() });
    }
    Ok(dataset)
}

/// Reads the photos below `root` with the numbers of `classes`: a test folder. A class may have no photo here.
///
/// # Errors
/// [`DatasetError`] as for [`read_folder`], and for a class folder that is not among `classes`.
pub fn read_folder_with(root: &Path, classes: &ClassMap) -> Result<Dataset, DatasetError> {
    let names = class_folders(root)?;
    let unknown: Vec<String> = names.iter().filter(|name| classes.number(name).is_none()).cloned().collect();
    if !unknown.is_empty() {
        let known = Listed(classes.names().to_vec());
        return Err(DatasetError::UnknownClass { root: root.into(), classes: Listed(unknown), known });
    }
    let (dataset, _) = read_classes(root, classes.clone())?;
    if dataset.samples.is_empty() {
        let hint = "it needs a folder for each class, with the photos of that class in it";
        return Err(DatasetError::Empty { path: root.into(), missing: "photos", hint });
    }
    Ok(dataset)
}

fn class_folders(root: &Path) -> Result<Vec<String>, DatasetError> {
    if !root.is_dir() {
        return Err(DatasetError::NoFolder(root.into()));
    }
    let mut names = Vec::new();
    for path in listed(root)? {
        if path.is_dir() {
            names.push(name(&path)?.to_owned());
        }
    }
    Ok(names)
}

/// The samples of every class, and the endings of the files that are no photos.
fn read_classes(root: &Path, classes: ClassMap) -> Result<(Dataset, BTreeSet<String>), DatasetError> {
    let canonical = root.canonicalize().map_err(|source| DatasetError::Io { path: root.into(), source })?;
    let mut walk =
        Walk { root, canonical: &canonical, photos: Vec::new(), others: BTreeSet::new(), passed_over: 0 };
    let mut samples = Vec::new();
    for path in listed(root)? {
        if !path.is_dir() {
            continue;
        }
        let name = name(&path)?;
        let Some(label) = classes.number(name) else { continue };
        walk.enter(&path, name, 0)?;
        walk.photos.sort_unstable();
        samples.extend(walk.photos.drain(..).map(|(id, path)| Sample { id, path, label }));
    }
    if walk.passed_over > 0 {
        let endings = walk.others.iter().cloned().collect::<Vec<_>>().join(", ");
        tracing::info!(
            "{} files below {} are no photos and are passed over ({endings})",
            walk.passed_over,
            root.display()
        );
    }
    Ok((Dataset { classes, samples }, walk.others))
}

struct Walk<'a> {
    root: &'a Path,
    canonical: &'a Path,
    photos: Vec<(String, PathBuf)>,
    others: BTreeSet<String>,
    passed_over: usize,
}

impl Walk<'_> {
    fn enter(&mut self, folder: &Path, id: &str, depth: usize) -> Result<(), DatasetError> {
        let io = |source| DatasetError::Io { path: folder.into(), source };
        if depth > DEEPEST {
            return Err(io(std::io::Error::other(format!("more than {DEEPEST} folders within each other"))));
        }
        for path in listed(folder)? {
            let id = format!("{id}/{}", name(&path)?);
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink())
                && !lies_below(self.canonical, &path)
                    .map_err(|source| DatasetError::Io { path: path.clone(), source })?
            {
                let what = format!("the link {}", path.display());
                return Err(DatasetError::LeavesRoot { what, root: self.root.into() });
            }
            if path.is_dir() {
                self.enter(&path, &id, depth + 1)?;
            } else if is_photo(&path) {
                self.photos.push((id, path));
            } else {
                self.passed_over += 1;
                self.others.insert(extension(&path).map_or_else(|| "no ending".into(), |e| format!(".{e}")));
            }
        }
        Ok(())
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
