//! The error type of this crate.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use headstock_backbone::BackboneError;
use headstock_heads::HeadError;
use headstock_hub::HubError;
use headstock_inference::{FailureKind, FileError, InferenceError};
use headstock_loader::{DatasetError, DecodeError, ImageRef};
use headstock_split::SplitError;
use headstock_split::words::first_names;
use thiserror::Error;

use crate::config::ConfigError;

/// Any error of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The config is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A request that the settings or the run do not allow, in a complete sentence.
    #[error("{0}")]
    Usage(String),
    /// A request that only works with images.
    #[error("photos are needed here, but the data has only precomputed features")]
    NeedsImages,
    /// The data set cannot be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The samples cannot be split.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// Images that cannot be read.
    #[error(transparent)]
    Unreadable(UnreadableImages),
    /// Data that cannot be used for training or testing, in a complete sentence.
    #[error("{0}")]
    Data(String),
    /// The backbone, the download of its weights, the head, a file or a trained model failed.
    #[error(transparent)]
    Inference(#[from] InferenceError),
    /// The download of a data set failed.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// An error with what helps against it.
    #[error("{error}")]
    WithRemedy {
        /// The error.
        #[source]
        error: Box<TrainError>,
        /// What helps.
        remedy: Remedy,
    },
    /// The feature cache failed.
    #[error("failed to read or write the cache {}{}", path.display(), cache_advice(source))]
    Cache {
        /// The file of the cache.
        path: PathBuf,
        /// The error of the store.
        source: Box<redb::Error>,
    },
}

/// What helps against an error. A program tells its users how they do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// To add augmentations to the settings.
    AddAugmentation,
    /// To find out which images cannot be read and why, by [`examine`](crate::doctor::examine).
    ExamineImages,
    /// To name a file of precomputed features as the data.
    NameFeatures,
    /// Not to fine-tune.
    NoFinetuning,
    /// Not to write a clean table.
    NoCleanTable,
    /// To give back this edited review of a clean table.
    GiveReview(PathBuf),
    /// Not to start from an earlier run.
    NoWarmStart,
    /// The head of this name, or not to start from an earlier run.
    WarmStartHead(String),
    /// Other features to evaluate a run on.
    OtherFeatures,
    /// Other test images.
    OtherTestImages,
    /// A different folder for the run.
    OtherRunFolder,
    /// A different folder for a packed run.
    OtherPackFolder,
    /// To resume the training of the run in this folder.
    Resume(PathBuf),
    /// To resume the training of the run in this folder, or a different folder for the run.
    ResumeOrOtherRunFolder(PathBuf),
    /// To start a training.
    Train,
    /// More time for a comparison.
    LargerBudget,
    /// Fewer folds of a comparison.
    FewerFolds,
    /// Fine-tuning from a stage of the backbone on, such as `layer4`.
    Finetune,
    /// A lower learning rate of fine-tuning, or clipped gradients.
    LowerLearningRate,
    /// A different split method, or the column that says the subset of each image.
    OtherSplit,
}

/// Advice on what to do about a failed feature cache, for the end of its error message. It depends on the
/// cause: a full disk or a read-only folder is no reason to delete features.
fn cache_advice(error: &redb::Error) -> &'static str {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let disk_errors = [PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull];
    match error {
        redb::Error::Io(error) if disk_errors.contains(&error.kind()) => {
            ": free disk space, allow access to its folder, or choose a different folder"
        }
        _ => ": if the file is damaged, delete it; its contents are then computed again",
    }
}

/// An error with its causes on one line, for messages about what goes on in spite of it.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

impl TrainError {
    /// This error with what helps against it.
    pub(crate) fn with_remedy(self, remedy: Remedy) -> Self {
        Self::WithRemedy { error: Box::new(self), remedy }
    }

    /// The class of the error, which determines the program's exit code.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Config(_) | Self::Usage(_) | Self::NeedsImages => FailureKind::Usage,
            Self::WithRemedy { error, .. } => error.kind(),
            Self::Dataset(_) | Self::Split(_) | Self::Unreadable(_) | Self::Data(_) => FailureKind::Data,
            Self::Inference(error) => error.kind(),
            Self::Hub(error) if error.is_name_error() => FailureKind::Usage,
            Self::Hub(_) => FailureKind::Hub,
            Self::Cache { .. } => FailureKind::Failed,
        }
    }

    /// For `map_err`: the error that `action` (a verb such as `read`) on `path` failed.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let error = FileError::io(action, path);
        move |source| error(source).into()
    }

    /// For `map_err`: the error that the file `path` has invalid contents.
    pub(crate) fn format<E: fmt::Display>(path: &Path) -> impl FnOnce(E) -> Self {
        let error = FileError::format(path);
        move |problem| error(problem).into()
    }
}

impl From<FileError> for TrainError {
    fn from(error: FileError) -> Self {
        InferenceError::from(error).into()
    }
}

impl From<BackboneError> for TrainError {
    fn from(error: BackboneError) -> Self {
        InferenceError::from(error).into()
    }
}

impl From<HeadError> for TrainError {
    fn from(error: HeadError) -> Self {
        InferenceError::from(error).into()
    }
}

/// Images that cannot be read, each with the reason.
#[derive(Debug)]
pub struct UnreadableImages(pub Vec<(ImageRef, DecodeError)>);

impl fmt::Display for UnreadableImages {
    /// Writes the error message that the user sees: each image with its reason, or one sentence for many that have
    /// the same, and what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.0.len() == 1 { "photo" } else { "photos" };
        write!(f, "{} {noun} cannot be read", self.0.len())?;
        let reasons: BTreeSet<String> = self.0.iter().map(|(_, error)| error.to_string()).collect();
        if let (Some(reason), 1, 4..) = (reasons.first(), reasons.len(), self.0.len()) {
            let names: Vec<String> = self.0.iter().map(|(image, _)| image.to_string()).collect();
            return write!(
                f,
                ", all for the same reason: {reason}\n  {}\nfix or remove these photos, or skip unreadable photos",
                first_names(&names)
            );
        }
        for (image, error) in &self.0 {
            write!(f, "\n  {image}: {error}")?;
        }
        f.write_str("\nfix or remove each photo in this list, or skip unreadable photos")
    }
}

impl std::error::Error for UnreadableImages {}
