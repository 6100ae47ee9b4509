//! Detects files and folders that appear under two paths, so that no image is in the data twice.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::dataset::DatasetError;

/// The files and folders seen so far: their names for messages, by canonical path (with links resolved).
#[derive(Default)]
pub(super) struct SeenPaths(HashMap<PathBuf, String>);

impl SeenPaths {
    /// Records that the file or folder with the canonical path `canonical` was seen; `name` is what messages
    /// call it.
    ///
    /// # Errors
    /// [`DatasetError::SameFile`] if it was seen before, for example through a link.
    pub(super) fn insert(&mut self, canonical: PathBuf, name: String) -> Result<(), DatasetError> {
        if let Some(first) = self.0.get(&canonical) {
            return Err(DatasetError::SameFile { first: first.clone(), second: name });
        }
        self.0.insert(canonical, name);
        Ok(())
    }
}

/// `path` with all links resolved.
pub(super) fn canonical_path(path: &Path) -> Result<PathBuf, DatasetError> {
    path.canonicalize().map_err(DatasetError::io(path))
}
