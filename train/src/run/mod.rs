//! A run: the folder that training writes.

mod in_progress;
mod metrics;
mod model;
mod tables;
pub(crate) mod tensors;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use headstock_heads::Registry;

use crate::config::{Config, Settings};
use crate::error::TrainError;
use crate::progress::Progress;
use crate::trained_on::{self, ContentHash};
pub(crate) use in_progress::{ResumeState, RunInProgress};
pub use metrics::{
    CalibrationEffect, CalibrationMetrics, ConformalMetrics, PhaseSeconds, RunMetrics, SampleCounts,
    SetMetrics, TrainTestOverlap, UnseenMetrics,
};
pub use model::{BackboneRecord, HeadRecord, Model, ModelRecord};
pub use tables::{SplitRow, write_split};
pub(crate) use tables::{TestSample, history_csv, predictions_csv, split_csv};
pub(crate) use write::RunFiles;
pub use write::{RunDir, RunReservation};

pub(crate) const CONFIG: &str = "headstock.toml";
const MODEL: &str = "model.safetensors";
const METRICS: &str = "metrics.json";
const HISTORY: &str = "history.csv";
const SPLIT: &str = "split.csv";
pub(crate) const TRAINED_ON: &str = "trained_on.csv";
const PREDICTIONS: &str = "predictions.csv";
const REPORT: &str = "report.html";

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
    /// Opens the run in `folder`, whose head must be one of `heads`.
    ///
    /// # Errors
    /// [`TrainError::Usage`] if it is not a run, [`TrainError::Format`] if a file is damaged.
    pub fn open(folder: &Path, heads: &Registry) -> Result<Self, TrainError> {
        if in_progress::is_in_progress(folder) {
            return Err(TrainError::Usage(format!(
                "the training of {} has not finished: continue it with `headstock train --resume {}`",
                folder.display(),
                folder.display()
            )));
        }
        let model = folder.join(MODEL);
        if !model.is_file() {
            return Err(TrainError::Usage(format!(
                "{} is not a run: it has no {MODEL}; give a folder that `headstock train` has written",
                folder.display()
            )));
        }
        let config = folder.join(CONFIG);
        if !config.is_file() {
            return Err(TrainError::Format {
                path: config,
                problem: "the file is missing, so that the run is incomplete: train again".into(),
            });
        }
        let config = Config::read(&config)?.with_overrides_from_cwd();
        let original_settings = config.clone().resolve(heads).ok();
        Ok(Self { folder: folder.into(), model: Model::read(&model, heads)?, config, original_settings })
    }

    /// The run's settings, with `overrides` such as `backbone.weights=elsewhere`.
    ///
    /// # Errors
    /// [`TrainError::Config`].
    pub fn settings(&self, overrides: &[String], heads: &Registry) -> Result<Settings, TrainError> {
        let mut config = self.config.clone();
        config.set(overrides)?;
        Ok(config.resolve(heads)?)
    }

    /// The rows of `split.csv`: the split that training used.
    ///
    /// # Errors
    /// [`TrainError::Io`], [`TrainError::Format`].
    pub fn split(&self) -> Result<Vec<SplitRow>, TrainError> {
        tables::read_split(&self.folder.join(SPLIT))
    }

    /// The content hashes of the samples that the run was trained on. Runs of earlier versions do not store
    /// them: then they are computed from the samples of the split that still exist. `None`, with a warning,
    /// if the run's data cannot be listed or no sample is left.
    ///
    /// # Errors
    /// [`TrainError::Io`], [`TrainError::Format`] for the run's files.
    pub(crate) fn trained_on_hashes(
        &self,
        progress: &dyn Progress,
    ) -> Result<Option<BTreeSet<ContentHash>>, TrainError> {
        if let Some(hashes) = trained_on::read(&self.folder.join(TRAINED_ON))? {
            return Ok(Some(hashes));
        }
        let split = self.split()?;
        let Some(original_settings) = &self.original_settings else { return Ok(None) };
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
