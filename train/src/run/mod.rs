//! A run: the folder that training writes.

mod in_progress;
mod metrics;
mod pack;
#[cfg(test)]
mod predictor_tests;
mod tables;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use headstock_inference::{CONFIG_FILE, FileError, InferenceError, MODEL_FILE, Model, Progress};

use crate::config::{Config, DataSourceConfig, Registries, Settings};
use crate::error::{Remedy, TrainError};
use crate::samples::{SplitRow, read_split};
use crate::trained_on::{self, ContentHash};
pub(crate) use in_progress::{ResumeState, RunInProgress};
pub(crate) use metrics::CONFORMAL_COVERAGE;
pub use metrics::{
    CalibrationEffect, CalibrationMetrics, ConformalMetrics, CrossValidation, PhaseSeconds, RunMetrics,
    SampleCounts, SetMetrics, StartMetrics, TrainTestOverlap, UnseenMetrics,
};
pub(crate) use tables::{history_csv, predictions_csv};
pub(crate) use write::RunFiles;
pub use write::{RunDir, RunReservation};

const METRICS: &str = "metrics.json";
const HISTORY: &str = "history.csv";
const SPLIT: &str = "split.csv";
pub(crate) const TRAINED_ON: &str = "trained_on.csv";
const TESTED_ON: &str = "tested_on.csv";
const PREDICTIONS: &str = "predictions.csv";
const REPORT: &str = "report.html";

/// The folder of the checkpoints. A run is in progress as long as it exists.
const CHECKPOINTS: &str = "checkpoints";

/// Whether `folder` is a run whose training has not finished, and can be resumed.
fn is_in_progress(folder: &Path) -> bool {
    folder.join(CHECKPOINTS).is_dir()
}

/// The error for a run in `folder` whose training has not finished.
fn unfinished_error(folder: &Path, remedy: Remedy) -> TrainError {
    TrainError::Usage(format!("the training of {} has not finished", folder.display())).with_remedy(remedy)
}

/// A finished run.
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// The fitted head and what it needs.
    pub model: Model,
    config: Config,
    /// The settings of the training; `None` if they no longer resolve.
    original_settings: Option<Settings>,
}

impl Run {
    /// Opens the run in `folder`, whose head must be one of those in `registries`.
    ///
    /// # Errors
    /// [`TrainError::Usage`] if it is not a run, [`TrainError::Inference`] if a file is damaged.
    pub fn open(folder: &Path, registries: &Registries) -> Result<Self, TrainError> {
        if is_in_progress(folder) {
            return Err(unfinished_error(folder, Remedy::Resume(folder.into())));
        }
        let model = folder.join(MODEL_FILE);
        if !model.is_file() {
            return Err(InferenceError::NotARun { folder: folder.into(), file: MODEL_FILE }.into());
        }
        let config = folder.join(CONFIG_FILE);
        if !config.is_file() {
            let problem = "the file is missing, so that the run is incomplete: train again";
            return Err(FileError::format(&config)(problem).into());
        }
        let config = Config::read(&config)?.with_overrides_from_cwd();
        let original_settings = config.clone().resolve(registries).ok();
        Ok(Self {
            folder: folder.into(),
            model: Model::read(&model, &registries.heads)?,
            config,
            original_settings,
        })
    }

    /// The run's settings, with `overrides` such as `backbone.weights=elsewhere`.
    ///
    /// # Errors
    /// [`TrainError::Config`].
    pub fn settings(&self, overrides: &[String], registries: &Registries) -> Result<Settings, TrainError> {
        let mut config = self.config.clone();
        config.set(overrides)?;
        Ok(config.resolve(registries)?)
    }

    /// The rows of `split.csv`: the split that training used.
    ///
    /// # Errors
    /// [`TrainError::Inference`].
    pub fn split(&self) -> Result<Vec<SplitRow>, TrainError> {
        read_split(&self.folder.join(SPLIT))
    }

    /// The content hashes of the samples that the run was tested on; `None` for runs of earlier versions, which do
    /// not store them.
    ///
    /// # Errors
    /// [`TrainError::Inference`] for a damaged file.
    pub(crate) fn tested_on_hashes(&self) -> Result<Option<BTreeSet<ContentHash>>, TrainError> {
        trained_on::read(&self.folder.join(TESTED_ON))
    }

    /// Whether the run was trained on photos whose contents cannot be compared with the samples of `settings`,
    /// which are precomputed features; then a warning says so.
    pub(crate) fn has_other_contents(&self, settings: &Settings) -> bool {
        let has_features = matches!(settings.source, DataSourceConfig::Features(_));
        let is_other = has_features && self.model.record.backbone.is_some();
        if is_other {
            tracing::warn!(
                "whether {} was trained on some of the test photos is unknown, because it was trained on photos \
                 and is tested on precomputed features: test it on photos",
                self.folder.display()
            );
        }
        is_other
    }

    /// The content hashes of the samples that the run was trained on. Runs of earlier versions do not store
    /// them: then they are computed from the samples of the split that still exist. `None`, with a warning,
    /// if the run's data cannot be listed or no sample is left.
    ///
    /// # Errors
    /// [`TrainError::Inference`] for the run's files.
    pub(crate) fn trained_on_hashes(
        &self,
        progress: &dyn Progress,
    ) -> Result<Option<BTreeSet<ContentHash>>, TrainError> {
        if let Some(hashes) = trained_on::read(&self.folder.join(TRAINED_ON))? {
            return Ok(Some(hashes));
        }
        let split = self.split()?;
        let Some(original_settings) = &self.original_settings else {
            tracing::warn!(
                "whether {} was trained on some of the test photos is unknown, because it has no file \
                 {TRAINED_ON} and its config is not valid any more",
                self.folder.display()
            );
            return Ok(None);
        };
        let warn_unknown = |error: TrainError| {
            tracing::warn!(
                "whether {} was trained on some of the test photos is unknown, because its data cannot be \
                 listed: {error}",
                self.folder.display()
            );
            None
        };
        Ok(trained_on::hashes_of_split(original_settings, &split, progress).unwrap_or_else(warn_unknown))
    }
}
