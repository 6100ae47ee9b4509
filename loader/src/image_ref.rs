//! Where a photo's bytes lie.

use std::cmp::Ordering;
use std::fmt;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::decode::DecodeError;
use crate::shard::RecordReader;

/// A photo that has not been read: a file, or a record of a shard that holds many.
///
/// ```
/// use headstock_loader::Photo;
///
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("a.png");
/// image::RgbImage::new(4, 3).save(&path)?;
/// let photo = Photo::from(path.clone());
/// assert_eq!(photo.to_string(), path.display().to_string());
/// assert_eq!(photo.read()?, std::fs::read(path)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ImageRef(ImageLocation);

#[derive(Clone, Debug)]
enum ImageLocation {
    File(PathBuf),
    Record { shard: Arc<dyn RecordReader>, index: usize },
}

impl ImageRef {
    /// Record `number` of a shard.
    pub(crate) fn from_record(shard: Arc<dyn RecordReader>, index: usize) -> Self {
        Self(ImageLocation::Record { shard, index })
    }

    /// Its bytes. Records are read fastest in the order of their numbers.
    ///
    /// # Errors
    /// [`DecodeError::Io`] as the system says it, [`DecodeError::Empty`] for no bytes, [`DecodeError::Shard`] for a shard that
    /// is damaged.
    pub fn read(&self) -> Result<Vec<u8>, DecodeError> {
        let bytes = match &self.0 {
            ImageLocation::File(path) => fs::read(path)?,
            ImageLocation::Record { shard, index } => shard.read(*index)?,
        };
        if bytes.is_empty() { Err(DecodeError::Empty) } else { Ok(bytes) }
    }

    /// The file that holds it, and its number in there where it is a shard.
    #[must_use]
    pub fn location(&self) -> (&Path, Option<usize>) {
        match &self.0 {
            ImageLocation::File(path) => (path, None),
            ImageLocation::Record { shard, index } => (shard.path(), Some(*index)),
        }
    }

    /// The file, where it holds nothing else.
    #[must_use]
    pub fn file_path(&self) -> Option<&Path> {
        match &self.0 {
            ImageLocation::File(path) => Some(path),
            ImageLocation::Record { .. } => None,
        }
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

impl PartialOrd for ImageRef {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ImageRef {
    fn cmp(&self, other: &Self) -> Ordering {
        self.location().cmp(&other.location())
    }
}

impl Hash for ImageRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.location().hash(state);
    }
}

impl fmt::Display for ImageRef {
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
    fn files_that_cannot_be_read_say_so() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| ImageRef::from(folder.path().join(name)).read();
        assert!(matches!(read("none.jpg"), Err(DecodeError::Io(_))));
        fs::write(folder.path().join("empty.jpg"), []).unwrap();
        assert_eq!(read("empty.jpg").unwrap_err().to_string(), "the file is empty");
        fs::write(folder.path().join("some.jpg"), [1, 2]).unwrap();
        assert_eq!(read("some.jpg").unwrap(), [1, 2]);
    }
}
