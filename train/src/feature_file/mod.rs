//! Reads and writes files of features, to exchange them with other tools.

mod read;
mod write;

use std::path::Path;

pub use read::{FeatureArchive, FeatureTable, read_features};
pub use write::{FeatureFileWriter, SampleInfo};

use crate::error::TrainError;

/// A file format of features, determined by the file name extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureFormat {
    /// A NumPy array of the features; a CSV of the same name describes the rows.
    Npy,
    /// A NumPy archive of `features` and `labels`; an optional CSV of the same name describes the rows.
    Npz,
    /// The tensors `features` and `labels`; the metadata describes the rows.
    Safetensors,
    /// One row per sample: `path`, `class`, `label`, `features`.
    Parquet,
}

impl FeatureFormat {
    /// Determines the format of the feature file `path` by its extension.
    ///
    /// # Errors
    /// [`TrainError::Usage`] for an unknown extension; it lists the known ones.
    pub fn from_path(path: &Path) -> Result<Self, TrainError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("npz") => Ok(Self::Npz),
            Some("safetensors") => Ok(Self::Safetensors),
            Some("parquet") => Ok(Self::Parquet),
            _ => Err(TrainError::Usage(format!(
                "{}: unknown file extension: choose a file name that ends in .npy, .npz, .safetensors or \
                 .parquet",
                path.display()
            ))),
        }
    }
}
