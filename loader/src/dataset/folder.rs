//! A folder per class.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::Listed;
use super::same::{Seen, real_path};
use super::{ClassMap, ClassOrder, Dataset, DatasetError, Sample};

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

/// Reads the photos below `root`, whose folders are the classes; photos may lie deeper within them. Samples are ordered
/// by class and path, bytewise. Hidden files are passed over; files that are no photos too, with a line that says so.
/// Links are followed as long as they stay below `root` and lead to nothing that is met otherwise.
///
/// # Errors
/// [`DatasetError`] for a folder that is not there, no class, one class only, a class without photos, a link that leads
/// out of `root` or nowhere, a photo or folder that is met twice, a name that is not UTF-8.
pub fn read_folder(root: &Path, order: ClassOrder) -> Result<Dataset, DatasetError> {
    let mut walk = Walk::new(root)?;
    let folders = walk.class_folders()?;
    if folders.is_empty() {
        let hint = "it needs a folder for each class, with the photos of that class in it";
        return Err(DatasetError::Empty { path: root.into(), missing: "class folders", hint });
    }
    let classes = ClassMap::new(folders.iter().map(|folder| folder.id.as_str()), order);
    let (mut samples, mut empty, mut found_instead) = (Vec::new(), Vec::new(), BTreeSet::new());
    for folder in &folders {
        let photos = walk.photos_of(folder)?;
        if photos.is_empty() {
            empty.push(folder.id.clone());
            found_instead.append(&mut walk.others);
        }
        samples.extend(labelled(photos, &classes, &folder.id));
    }
    if !empty.is_empty() {
        let extensions = found_instead.into_iter().collect();
        return Err(DatasetError::EmptyClass { root: root.into(), classes: Listed(empty), extensions });
    }
    if let [class] = classes.names() {
        return Err(DatasetError::OneClass { path: root.into(), class: class.clone() });
    }
    walk.tell_what_was_passed_over();
    Ok(Dataset { classes, samples })
}

/// Reads the photos below `root` with the numbers of `classes`: a test folder. A class may have no photo here.
///
/// # Errors
/// [`DatasetError`] as for [`read_folder`], and for a class folder that is not among `classes`.
pub fn read_folder_with(root: &Path, classes: &ClassMap) -> Result<Dataset, DatasetError> {
    let mut walk = Walk::new(root)?;
    let folders = walk.class_folders()?;
    let unknown: Vec<String> = folders
        .iter()
        .filter(|folder| classes.number(&folder.id).is_none())
        .map(|folder| folder.id.clone())
        .collect();
    if !unknown.is_empty() {
        let known = Listed(classes.names().to_vec());
        return Err(DatasetError::UnknownClass { root: root.into(), classes: Listed(unknown), known });
    }
    let mut samples = Vec::new();
    for folder in &folders {
        samples.extend(labelled(walk.photos_of(folder)?, classes, &folder.id));
    }
    if samples.is_empty() {
        let hint = "it needs a folder for each class, with the photos of that class in it";
        return Err(DatasetError::Empty { path: root.into(), missing: "photos", hint });
    }
    walk.tell_what_was_passed_over();
    Ok(Dataset { classes: classes.clone(), samples })
}

/// The photos below `root`, which need no class, sorted by their path below it, bytewise. What is hidden is passed over, and
/// links are followed, as by [`read_folder`].
///
/// ```
/// use headstock_loader::dataset::photos_below;
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
    let mut walk = Walk::new(root)?;
    let everything = Entry { id: String::new(), path: root.into(), real: walk.canonical.clone() };
    Ok(walk.photos_of(&everything)?.into_iter().map(|photo| photo.path).collect())
}

fn labelled(photos: Vec<Entry>, classes: &ClassMap, class: &str) -> impl Iterator<Item = Sample> {
    let label = classes.number(class).expect("the folders were checked against the map, or made it");
    photos.into_iter().map(move |photo| Sample { id: photo.id, path: photo.path, label, group: None })
}

/// Something below the root: its path relative to that, where it lies, and where that is once links are followed.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    id: String,
    path: PathBuf,
    real: PathBuf,
}

struct Walk<'a> {
    root: &'a Path,
    canonical: PathBuf,
    seen: Seen,
    /// Endings of the files that are no photos, of the class that was read last.
    others: BTreeSet<String>,
    passed_over: (usize, BTreeSet<String>),
    loose_photos: usize,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Path) -> Result<Self, DatasetError> {
        if !root.is_dir() {
            return Err(DatasetError::NoFolder(root.into()));
        }
        let canonical = real_path(root)?;
        let (others, passed_over) = (BTreeSet::new(), (0, BTreeSet::new()));
        Ok(Self { root, canonical, seen: Seen::default(), others, passed_over, loose_photos: 0 })
    }

    /// The folders in the root.
    fn class_folders(&mut self) -> Result<Vec<Entry>, DatasetError> {
        self.seen.meet(self.canonical.clone(), self.root.display().to_string())?;
        let mut folders = Vec::new();
        for path in listed(self.root)? {
            let real = self.resolve(&self.canonical, &path)?;
            if path.is_dir() {
                folders.push(Entry { id: name(&path)?.to_owned(), path, real });
            } else if is_photo(&path) {
                self.loose_photos += 1;
            } else {
                self.pass_over(&path);
            }
        }
        Ok(folders)
    }

    /// The photos below a folder, sorted by id, bytewise.
    fn photos_of(&mut self, class: &Entry) -> Result<Vec<Entry>, DatasetError> {
        self.others.clear();
        let mut photos = Vec::new();
        self.enter(class, &mut photos)?;
        photos.sort_unstable();
        Ok(photos)
    }

    fn enter(&mut self, folder: &Entry, photos: &mut Vec<Entry>) -> Result<(), DatasetError> {
        self.seen.meet(folder.real.clone(), folder.path.display().to_string())?;
        for path in listed(&folder.path)? {
            let real = self.resolve(&folder.real, &path)?;
            let below = |path: &Path| match folder.id.as_str() {
                "" => name(path).map(str::to_owned),
                id => Ok(format!("{id}/{}", name(path)?)),
            };
            if path.is_dir() {
                self.enter(&Entry { id: below(&path)?, path, real }, photos)?;
            } else if is_photo(&path) && path.is_file() {
                let id = below(&path)?;
                self.seen.meet(real.clone(), path.display().to_string())?;
                photos.push(Entry { id, path, real });
            } else {
                self.pass_over(&path);
            }
        }
        Ok(())
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

    fn pass_over(&mut self, path: &Path) {
        let ending = extension(path).map_or_else(|| "no ending".into(), |extension| format!(".{extension}"));
        self.passed_over.0 += 1;
        self.passed_over.1.insert(ending.clone());
        self.others.insert(ending);
    }

    fn tell_what_was_passed_over(&self) {
        let root = self.root.display();
        if self.loose_photos > 0 {
            tracing::warn!("passed over in {root}: {} photos outside the class folders", self.loose_photos);
        }
        let (count, endings) = &self.passed_over;
        if *count > 0 {
            let endings = endings.iter().cloned().collect::<Vec<_>>().join(", ");
            tracing::info!("passed over below {root}: {count} files that are no photos ({endings})");
        }
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
