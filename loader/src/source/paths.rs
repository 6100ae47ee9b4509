//! Paths: which files are images, and paths relative to a folder.

use std::path::{Component, Path, PathBuf};

/// File extensions of images, in lower case.
const IMAGE_EXTENSIONS: [&str; 10] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Whether a path has the extension of an image file, ignoring case.
#[must_use]
pub fn is_image_file(path: &Path) -> bool {
    lowercase_extension(path).is_some_and(|extension| IMAGE_EXTENSIONS.contains(&extension.as_str()))
}

/// File extensions of photos in formats that are not decoded, in lower case, with the name of the format.
const UNSUPPORTED_FORMATS: [(&str, &str); 18] = [
    ("heic", "HEIC"),
    ("heif", "HEIF"),
    ("avif", "AVIF"),
    ("jxl", "JPEG XL"),
    ("jp2", "JPEG 2000"),
    ("ppm", "PPM"),
    ("pgm", "PGM"),
    ("pnm", "PNM"),
    ("psd", "PSD"),
    ("dcm", "DICOM"),
    ("cr2", "camera RAW (CR2)"),
    ("cr3", "camera RAW (CR3)"),
    ("nef", "camera RAW (NEF)"),
    ("arw", "camera RAW (ARW)"),
    ("raf", "camera RAW (RAF)"),
    ("orf", "camera RAW (ORF)"),
    ("rw2", "camera RAW (RW2)"),
    ("dng", "camera RAW (DNG)"),
];

/// The name of the format of photos with this `extension` in lower case, if it is not decoded.
pub(super) fn unsupported_image_format(extension: &str) -> Option<&'static str> {
    UNSUPPORTED_FORMATS.iter().find(|(known, _)| *known == extension).map(|(_, name)| *name)
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
