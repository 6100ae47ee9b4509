//! A run on disk, as far as inference needs it.

use std::fs;
use std::path::{Path, PathBuf};

use headstock_heads::Registry;
use headstock_loader::DecodeOptions;
use serde::Deserialize;

use crate::error::{FileError, InferenceError};
use crate::model::Model;
use crate::pretrained::BackboneOptions;
use crate::run_files::{CONFIG_FILE, MODEL_FILE};

/// What inference needs of a run: its model, and the options of its backbone. A program may change the
/// options, for example if the weights have moved, before it makes a [`Predictor`](crate::Predictor) of them.
pub struct StoredRun {
    /// The model.
    pub model: Model,
    /// The place of the weights, and the device; `None` if the model was trained on precomputed features.
    pub backbone: Option<BackboneOptions>,
    /// How images are decoded.
    pub decode: DecodeOptions,
}

/// The folders in which the weights of the run in `folder` are looked for: its own and the one around it.
#[must_use]
pub fn search_folders(folder: &Path) -> Vec<PathBuf> {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.into());
    let around = absolute.parent().map(Path::to_path_buf);
    std::iter::once(folder.to_path_buf()).chain(around).collect()
}

/// The sections of the run's config that inference needs.
#[derive(Deserialize)]
struct RunConfig {
    backbone: Option<BackboneOptions>,
    #[serde(default)]
    data: DecodeOptions,
}

impl StoredRun {
    /// Opens the run in `folder`, whose head must be one of `heads`.
    ///
    /// # Errors
    /// [`InferenceError::NotARun`], [`InferenceError::File`], [`InferenceError::UnknownHead`].
    pub fn open(folder: &Path, heads: &Registry) -> Result<Self, InferenceError> {
        for file in [MODEL_FILE, CONFIG_FILE] {
            if !folder.join(file).is_file() {
                return Err(InferenceError::NotARun { folder: folder.into(), file });
            }
        }
        let path = folder.join(CONFIG_FILE);
        let text = fs::read_to_string(&path).map_err(FileError::io("read", &path))?;
        let RunConfig { mut backbone, data } = toml::from_str(&text).map_err(FileError::format(&path))?;
        if let Some(BackboneOptions { weights, search, .. }) = &mut backbone {
            if !weights.starts_with("hf://") {
                *weights = folder.join(&*weights).display().to_string();
            }
            *search = search_folders(folder);
        }
        Ok(Self { model: Model::read(&folder.join(MODEL_FILE), heads)?, backbone, decode: data })
    }
}
