//! Where a photo's bytes lie.

use std::cmp::Ordering;
use std::fmt;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::decode::DecodeError;
use crate::shard::Records;

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
pub struct Photo(Place);

#[derive(Clone, Debug)]
enum Place {
    File(PathBuf),
    Record { shard: Arc<dyn Records>, number: usize },
}

impl Photo {
    /// Record `number` of a shard.
    pub(crate) fn record(shard: Arc<dyn Records>, number: usize) -> Self {
        Self(Place::Record { shard, number })
    }

    /// Its bytes. Records are read fastest in the order of their numbers.
    ///
    /// # Errors
    /// [`DecodeError::Io`] as the system says it, [`DecodeError::Empty`] for no bytes, [`DecodeError::Record`] for a shard that
    /// is damaged.
    pub fn read(&self) -> Result<Vec<u8>, DecodeError> {
        let bytes = match &self.0 {
            Place::File(path) => fs::read(path)?,
            Place::Record { shard, number } => shard.read(*number)?,
        };
        if bytes.is_empty() { Err(DecodeError::Empty) } else { Ok(bytes) }
    }

    /// The file that holds it, and its number in there where it is a shard.
    #[must_use]
    pub fn place(&self) -> (&Path, Option<usize>) {
        match &self.0 {
            Place::File(path) => (path, None),
            Place::Record { shard, number } => (shard.path(), Some(*number)),
        }
    }

    /// The file, where it holds nothing else.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match &self.0 {
            Place::File(path) => Some(path),
            Place::Record { .. } => None,
        }
    }
}

impl From<PathBuf> for Photo {
    fn from(path: PathBuf) -> Self {
        Self(Place::File(path))
    }
}

impl PartialEq for Photo {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Photo {}

impl PartialOrd for Photo {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Photo {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl Hash for Photo {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.place().hash(state);
    }
}

impl fmt::Display for Photo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Record { shard, number } => {
                write!(f, "{}: {}", shard.path().display(), shard.name(*number))
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
        let read = |name: &str| Photo::from(folder.path().join(name)).read();
        assert!(matches!(read("none.jpg"), Err(DecodeError::Io(_))));
        fs::write(folder.path().join("empty.jpg"), []).unwrap();
        assert_eq!(read("empty.jpg").unwrap_err().to_string(), "the file is empty");
        fs::write(folder.path().join("some.jpg"), [1, 2]).unwrap();
        assert_eq!(read("some.jpg").unwrap(), [1, 2]);
    }
}
