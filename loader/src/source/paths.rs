//! Paths: which files are images, and paths relative to a folder.

use std::path::{Component, Path, PathBuf};

use crate::decode::is_heif_extension;

/// File extensions of images, in lower case.
const IMAGE_EXTENSIONS: [&str; 14] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"];

/// Whether a path has the extension of an image file, ignoring case.
#[must_use]
pub fn is_image_file(path: &Path) -> bool {
    lowercase_extension(path).is_some_and(|extension| {
        let extension = extension.as_str();
        IMAGE_EXTENSIONS.contains(&extension) || cfg!(feature = "heif") && is_heif_extension(extension)
    })
}

/// The file extension in lower case, without the dot; `None` if there is none or it is not UTF-8.
pub(super) fn lowercase_extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// `id` as a relative path with `/` as separator and without `.` components; `None` if it is absolute or has
/// `..` or NUL, because data must not name files outside the image folder.
#[must_use]
pub fn relative_path(id: &str) -> Option<String> {
    let mut components = Vec::new();
    for component in Path::new(id).components() {
        match component {
            Component::Normal(part) => components.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!id.contains('\0')).then(|| components.join("/"))
}

/// The folder of the file `path`, `.` for a file name alone.
#[must_use]
pub fn parent_folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// `path` with `/` as separator on every system; a part that is not UTF-8 is changed.
pub(super) fn slash_path(path: &Path) -> String {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

/// The deepest folder that contains all `files`, at any depth; an empty path if there is none. Ids of samples
/// in shards begin with the shard's path relative to this folder.
#[must_use]
pub fn common_folder(files: &[PathBuf]) -> PathBuf {
    let mut folder = files.first().and_then(|file| file.parent()).unwrap_or(Path::new("")).to_path_buf();
    while !files.iter().all(|file| file.starts_with(&folder)) {
        folder.pop();
    }
    folder
}
