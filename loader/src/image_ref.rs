//! References to images that have not been read, and reading them.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

/// Why the bytes of an image cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file that holds the image and others is damaged; the message says what is wrong and what to do.
    #[error("{0}")]
    Record(String),
    /// The file has no bytes.
    #[error("the file is empty: copy or download the photo again")]
    Empty,
}

/// Reads the images of a file that holds many, such as a Parquet file or a tar archive, by their index. It is
/// called from several threads at a time.
pub trait RecordReader: fmt::Debug + Send + Sync {
    /// Path of the file. Together with the index it identifies a record.
    fn path(&self) -> &Path;

    /// Name of the record `index` within the file for messages, such as `row 5`.
    fn name(&self, index: usize) -> String;

    /// Reads the record `index`: the bytes of an encoded image. Every call with an index gives the same
    /// bytes; indices are mostly read in ascending order.
    ///
    /// # Errors
    /// [`ReadError`] if the file cannot be read or is damaged.
    fn read(&self, index: usize) -> Result<Vec<u8>, ReadError>;
}

/// An image that has not been read: a file of its own, or one record of a shard.
///
/// ```
/// use headstock_loader::ImageRef;
///
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("a.png");
/// image::RgbImage::new(4, 3).save(&path)?;
/// let image = ImageRef::from(path.clone());
/// assert_eq!(image.to_string(), path.display().to_string());
/// assert_eq!(image.read()?, std::fs::read(path)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ImageRef(ImageLocation);

/// Where the bytes of an image are stored.
#[derive(Clone, Debug)]
enum ImageLocation {
    /// A file of its own.
    File(PathBuf),
    /// Record `index` of a shard.
    Record { shard: Arc<dyn RecordReader>, index: usize },
}

impl ImageRef {
    /// The image in record `index` of a shard.
    #[must_use]
    pub fn from_record(shard: Arc<dyn RecordReader>, index: usize) -> Self {
        Self(ImageLocation::Record { shard, index })
    }

    /// Reads the bytes of the encoded image file. Records are read fastest in ascending order.
    ///
    /// # Errors
    /// [`ReadError::Io`] for a system error, [`ReadError::Empty`] for an empty file, [`ReadError::Record`]
    /// for a damaged shard.
    pub fn read(&self) -> Result<Vec<u8>, ReadError> {
        let bytes = match &self.0 {
            ImageLocation::File(path) => fs::read(path)?,
            ImageLocation::Record { shard, index } => shard.read(*index)?,
        };
        if bytes.is_empty() { Err(ReadError::Empty) } else { Ok(bytes) }
    }

    /// What identifies the image: the path of the file that holds it, and the index of its record if that
    /// file is a shard. Two references are equal if their locations are.
    #[must_use]
    pub fn location(&self) -> (&Path, Option<usize>) {
        match &self.0 {
            ImageLocation::File(path) => (path, None),
            ImageLocation::Record { shard, index } => (shard.path(), Some(*index)),
        }
    }

    /// The path of the image file, or `None` for a record of a shard, which has no file of its own.
    #[must_use]
    pub fn file_path(&self) -> Option<&Path> {
        let (path, record) = self.location();
        record.is_none().then_some(path)
    }
}

impl From<PathBuf> for ImageRef {
    fn from(path: PathBuf) -> Self {
        Self(ImageLocation::File(path))
    }
}

impl PartialEq for ImageRef {
    fn eq(&self, other: &Self) -> bool {
        self.location() == other.location()
    }
}

impl Eq for ImageRef {}

impl fmt::Display for ImageRef {
    /// Names the image in messages: the path of its file, or the path of its shard and the name of its
    /// record.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ImageLocation::File(path) => write!(f, "{}", path.display()),
            ImageLocation::Record { shard, index } => {
                write!(f, "{}: {}", shard.path().display(), shard.name(*index))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| ImageRef::from(folder.path().join(name)).read();
        assert!(matches!(read("none.jpg"), Err(ReadError::Io(_))));
        fs::write(folder.path().join("empty.jpg"), []).unwrap();
        assert!(matches!(read("empty.jpg"), Err(ReadError::Empty)));
        fs::write(folder.path().join("some.jpg"), [1, 2]).unwrap();
        assert_eq!(read("some.jpg").unwrap(), [1, 2]);
    }
}
