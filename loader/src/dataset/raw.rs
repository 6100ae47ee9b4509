//! Samples as a source lists them, before classes are numbered.

use std::path::PathBuf;

use super::{DatasetError, Split};
use crate::image_ref::ImageRef;

/// The samples of a source before classes are numbered.
#[derive(Debug)]
pub struct RawDataset {
    /// The folder or file that was read, for messages.
    pub origin: PathBuf,
    /// The samples: sorted by class and path for a folder, otherwise in the order of the source.
    pub samples: Vec<RawSample>,
    /// Errors of single samples, which are left out. Training data must have no errors.
    pub errors: Vec<DatasetError>,
}

impl RawDataset {
    /// The first of the errors, if there are any.
    pub(super) fn check_no_errors(&mut self) -> Result<(), DatasetError> {
        if self.errors.is_empty() { Ok(()) } else { Err(self.errors.swap_remove(0)) }
    }
}

/// A sample with its class, group and split by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSample {
    /// Path relative to the data root, with `/` as separator.
    pub id: String,
    /// The image.
    pub image: ImageRef,
    /// Class name.
    pub class: String,
    /// Group name, if the source has groups.
    pub group: Option<String>,
    /// The split that the source assigns, if it has splits.
    pub split: Option<Split>,
}
