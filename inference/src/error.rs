//! Errors of this crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use headstock_backbone::{BackboneError, ErrorKind, FeatureLayer, Precision};
use headstock_heads::HeadError;
use headstock_loader::DecodeError;
use thiserror::Error;

/// An error of inference.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InferenceError {
    /// The image cannot be read or decoded.
    #[error("the photo cannot be read: {0}")]
    Image(#[from] DecodeError),
    /// The backbone or the hub failed.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// The head failed.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A file of the run cannot be read or is damaged.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder is not a run.
    #[error("{} is not a run: it has no {file}; give a folder that a training has written", folder.display())]
    NotARun {
        /// The folder.
        folder: PathBuf,
        /// The missing file.
        file: &'static str,
    },
    /// The model was trained on precomputed features, so it has no backbone.
    #[error(
        "the run was trained on precomputed features, so it cannot classify photos: train a new run on photos"
    )]
    NoBackbone,
    /// The program does not have the head of the model.
    #[error(
        "{} has the head `{kind}`, which this program does not have: use the program that trained the run, or \
         train a new run",
        path.display()
    )]
    UnknownHead {
        /// The file of the model.
        path: PathBuf,
        /// The name of the head.
        kind: String,
    },
    /// The layer or the precision is not the one that the head was fitted on.
    #[error(
        "the head was fitted on features of the layer `{layer}` with the precision {precision}, which cannot \
         be changed afterwards: leave them unchanged, or train again"
    )]
    OtherFeatures {
        /// The layer of the model.
        layer: FeatureLayer,
        /// The precision of the model.
        precision: Precision,
    },
    /// The weights are not those that the head was fitted on.
    #[error(
        "the weights {weights} are not those that the head was fitted on (they were at {original}): their \
         sha256 is {found} instead of {expected}; give the original weights"
    )]
    OtherWeights {
        /// The weights that were given.
        weights: String,
        /// The weights of the training.
        original: String,
        /// SHA-256 of the given weights, in hexadecimal.
        found: String,
        /// SHA-256 of the original weights, in hexadecimal.
        expected: String,
    },
    /// The weights of the model are not in their place, and were not found by their hash either.
    #[error("{error}; no file with the sha256 of the run's weights ({sha256}) is in {}", places.join(", "))]
    WeightsNotFound {
        /// Why the weights in their place cannot be used.
        error: Box<InferenceError>,
        /// SHA-256 of the weights, in hexadecimal.
        sha256: String,
        /// Where they were looked for.
        places: Vec<String>,
    },
    /// The model has no scores for conformal sets.
    #[error(
        "this run cannot give conformal sets, because it has not saved the scores that they need: it was \
         trained without calibration, with only one photo of a class, or by an earlier version of headstock; \
         train again with calibration and at least two photos of each class"
    )]
    NoConformalScores,
    /// The coverage of conformal sets is not between 0 and 1.
    #[error("{0}")]
    Coverage(String),
    /// The head computes logits from which no probabilities can be computed.
    #[error("the head of the run gives invalid results ({0}): the model file may be damaged; train again")]
    Logits(String),
    /// The model cannot be written.
    #[error("the head `{kind}` cannot be saved: {problem}")]
    UnsavableHead {
        /// The name of the head.
        kind: String,
        /// Why, and what to do.
        problem: String,
    },
}

/// The class of an error; the program's exit code depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Any other failure.
    Failed,
    /// Invalid usage or an invalid config.
    Usage,
    /// Invalid data.
    Data,
    /// A failure of the hub or the network.
    Hub,
}

impl InferenceError {
    /// The class of the error, which determines the program's exit code.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::WeightsNotFound { error, .. } => error.kind(),
            Self::Backbone(error) => match error.kind() {
                ErrorKind::Config => FailureKind::Usage,
                ErrorKind::Hub => FailureKind::Hub,
                ErrorKind::Failed => FailureKind::Failed,
            },
            Self::NotARun { .. }
            | Self::NoBackbone
            | Self::UnknownHead { .. }
            | Self::OtherFeatures { .. }
            | Self::OtherWeights { .. }
            | Self::NoConformalScores
            | Self::Coverage(_)
            | Self::Head(HeadError::Parameter { .. } | HeadError::Config { .. }) => FailureKind::Usage,
            Self::Image(_)
            | Self::Logits(_)
            | Self::UnsavableHead { .. }
            | Self::Head(HeadError::Data(_) | HeadError::NotFinite { .. } | HeadError::Width { .. }) => {
                FailureKind::Data
            }
            Self::Head(_) | Self::File(_) => FailureKind::Failed,
        }
    }
}

/// An error of a file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// A file or folder cannot be read or written.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// `read`, `write` and the like.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file has invalid contents.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl FileError {
    /// For `map_err`: the error that `action` (a verb such as `read`) on `path` failed.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// For `map_err`: the error that the file `path` has invalid contents.
    pub fn format<E: fmt::Display>(path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_path_buf();
        move |error| Self::Format { path, problem: error.to_string() }
    }
}
