//! Files and folders that are the same under two names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::dataset::DatasetError;

/// What was met so far, by what it really is.
#[derive(Default)]
pub(super) struct SeenPaths(HashMap<PathBuf, String>);

impl SeenPaths {
    /// Notes that `real` was met under `name`.
    ///
    /// # Errors
    /// [`DatasetError::SameFile`] where it was met before.
    pub(super) fn insert(&mut self, canonical: PathBuf, name: String) -> Result<(), DatasetError> {
        match self.0.get(&canonical) {
            Some(first) => Err(DatasetError::SameFile { first: first.clone(), second: name }),
            None => {
                self.0.insert(canonical, name);
                Ok(())
            }
        }
    }
}

/// Where `path` is once links are followed.
pub(super) fn canonical_path(path: &Path) -> Result<PathBuf, DatasetError> {
    path.canonicalize().map_err(|source| DatasetError::Io { path: path.into(), source })
}
