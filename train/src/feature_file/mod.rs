//! Files of features: read from elsewhere, written for elsewhere.

mod read;
mod write;

use std::path::Path;

pub use read::{FeatureArchive, FeatureTable, read_features};
pub use write::{FeatureFileWriter, SampleInfo};

use crate::error::TrainError;

/// A format of features, told by the ending of the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureFormat {
    /// numpy's array: `features` alone; a CSV beside it describes the rows.
    Npy,
    /// numpy's archive of `features` and `labels`; a CSV beside it, which nothing needs, describes the rows.
    Npz,
    /// `features` and `labels`, the rows described in the metadata.
    Safetensors,
    /// A row per sample: `path`, `class`, `label`, `features`.
    Parquet,
}

impl FeatureFormat {
    /// The format of a file called `path`.
    ///
    /// # Errors
    /// [`TrainError::Usage`], which lists the known endings.
    pub fn from_path(path: &Path) -> Result<Self, TrainError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("npz") => Ok(Self::Npz),
            Some("safetensors") => Ok(Self::Safetensors),
            Some("parquet") => Ok(Self::Parquet),
            _ => Err(TrainError::Usage(format!(
                "{}: the ending tells the format; known: .npy, .npz, .safetensors, .parquet",
                path.display()
            ))),
        }
    }
}
