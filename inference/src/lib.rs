//! Inference: features of images by a pretrained backbone, and class probabilities by a trained model.
//!
//! A [`Predictor`] classifies images with a run that `headstock train` has written; a [`FeatureExtractor`]
//! computes features for other uses. Both own what they need, may be shared by threads, and keep their
//! workers and buffers between calls. Images are files, bytes in memory, or decoded pixels.
//!
//! Shapes are of `N` images, `F` features per image and `C` classes.

mod error;
mod extractor;
mod model;
pub mod pipeline;
mod predictions;
mod predictor;
mod pretrained;
mod progress;
mod run_files;
mod stored_run;
pub mod tensors;
mod weights_search;

pub use error::{FailureKind, FileError, InferenceError};
pub use extractor::{FeatureExtractor, FindFeatures, OnFeatures};
pub use headstock_loader::DecodeOptions;
pub use model::{BackboneRecord, HeadRecord, Model, ModelRecord};
pub use predictions::Predictions;
pub use predictor::{OnPredictions, Prediction, Predictor};
pub use pretrained::{BackboneOptions, PretrainedBackbone};
pub use progress::Progress;
pub use run_files::{CONFIG_FILE, MODEL_FILE};
pub use stored_run::{StoredRun, search_folders};
