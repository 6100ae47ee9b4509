//! Detects files and folders that appear under two paths, so that no image is in the data twice.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::dataset::DatasetError;

/// The files and folders seen so far: their names for messages, by canonical path (with links resolved).
#[derive(Default)]
pub(super) struct SeenPaths(HashMap<PathBuf, String>);

impl SeenPaths {
    /// Records that the file or folder with the canonical path `canonical` was seen; `name` is what messages
    /// call it. Returns [`DatasetError::SameFile`] if it was seen before, for example through a link.
    pub(super) fn insert(&mut self, canonical: PathBuf, name: String) -> Option<DatasetError> {
        if let Some(first) = self.0.get(&canonical) {
            return Some(DatasetError::SameFile { paths: vec![(first.clone(), name)] });
        }
        self.0.insert(canonical, name);
        None
    }
}
