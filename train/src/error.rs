//! What can go wrong, and what kind of thing it is.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use headstock_backbone::{BackboneError, ErrorKind, HubError};
use headstock_heads::HeadError;
use headstock_loader::{DatasetError, DecodeError, ImageRef};
use thiserror::Error;

use crate::config::ConfigError;

/// An error of training or of using a run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something asked for that the settings or the run do not allow; a whole sentence.
    #[error("{0}")]
    Usage(String),
    /// The data set cannot be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Photos that cannot be read.
    #[error(transparent)]
    Unreadable(UnreadableImages),
    /// Data that cannot be learned from or tested on; a whole sentence.
    #[error("{0}")]
    Data(String),
    /// The backbone.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// The head.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A file or folder cannot be read or written.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// `read`, `write` and the like.
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The feature cache failed.
    #[error("the feature cache {} failed{}", path.display(), cache_advice(source))]
    Cache {
        /// The cache's file.
        path: PathBuf,
        /// What the store says.
        source: Box<redb::Error>,
    },
}

/// What to do about a store that failed. A disk that is full, or a folder that may not be written to, is no reason to throw
/// features away.
fn cache_advice(error: &redb::Error) -> &'static str {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let disk_errors = [PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull];
    match error {
        redb::Error::Io(error) if disk_errors.contains(&error.kind()) => {
            ": make room or give access, or keep features elsewhere (`features.cache`)"
        }
        _ => "; if it is damaged, delete it: features are then computed anew",
    }
}

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Anything else.
    Failed,
    /// Bad usage or a bad config.
    Usage,
    /// Bad data.
    Data,
    /// The hub or the network.
    Hub,
}

impl TrainError {
    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Config(_) | Self::Usage(_) => FailureKind::Usage,
            Self::Head(HeadError::Parameter { .. } | HeadError::Config { .. }) => FailureKind::Usage,
            Self::Dataset(_) | Self::Unreadable(_) | Self::Data(_) => FailureKind::Data,
            Self::Head(HeadError::Data(_) | HeadError::Width { .. }) => FailureKind::Data,
            Self::Backbone(error) => match error.kind() {
                ErrorKind::Config => FailureKind::Usage,
                ErrorKind::Hub => FailureKind::Hub,
                ErrorKind::Failed => FailureKind::Failed,
            },
            Self::Head(_) | Self::Io { .. } | Self::Format { .. } | Self::Cache { .. } => FailureKind::Failed,
        }
    }

    /// For `map_err`: `action` on `path` failed.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// For `map_err`: `path` is not what it should be.
    pub(crate) fn format<E: fmt::Display>(path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_path_buf();
        move |error| Self::Format { path, problem: error.to_string() }
    }
}

impl From<HubError> for TrainError {
    fn from(error: HubError) -> Self {
        Self::Backbone(error.into())
    }
}

/// Photos that cannot be read, each with the reason.
#[derive(Debug)]
pub struct UnreadableImages(pub Vec<(ImageRef, DecodeError)>);

impl fmt::Display for UnreadableImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.0.len() == 1 { "photo" } else { "photos" };
        write!(f, "{} {noun} cannot be read", self.0.len())?;
        for (image, error) in &self.0 {
            write!(f, "\n  {image}: {error}")?;
        }
        f.write_str("\nmend or remove them, or go on without them: data.on_error = \"skip\"")
    }
}

impl std::error::Error for UnreadableImages {}
