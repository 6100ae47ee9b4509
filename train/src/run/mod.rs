//! A run: the folder that training leaves behind.

mod metrics;
mod model;
mod tables;
pub(crate) mod tensors;
#[cfg(test)]
mod tests;
mod unfinished;
mod write;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use headstock_heads::Registry;

use crate::config::{Config, Settings};
use crate::error::TrainError;
use crate::progress::Progress;
use crate::trained_on::{self, Content};
pub use metrics::{
    CalibrationMetrics, Change, ConformalMetrics, Counts, RunMetrics, Seconds, SetMetrics, TrainedOn, Unseen,
};
pub use model::{BackboneRecord, HeadRecord, Model, ModelRecord};
pub use tables::{SplitRow, write_split};
pub(crate) use tables::{TestRow, history, predictions, split};
pub(crate) use unfinished::{Resumed, Unfinished};
pub(crate) use write::RunFiles;
pub use write::{Reserved, RunPlace};

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
    /// The settings as they were; none where they cannot be followed any more.
    own: Option<Settings>,
}

impl Run {
    /// Opens the run in `folder`.
    ///
    /// # Errors
    /// [`TrainError::Usage`] when it is no run, [`TrainError::UnknownFormat`] for a damaged file.
    pub fn open(folder: &Path, heads: &Registry) -> Result<Self, TrainError> {
        if unfinished::is_unfinished(folder) {
            return Err(TrainError::Usage(format!(
                "{} is a training that has not ended: go on with `headstock train --resume {}`",
                folder.display(),
                folder.display()
            )));
        }
        let model = folder.join(MODEL);
        if !model.is_file() {
            return Err(TrainError::Usage(format!(
                "{} is no run: it has no {MODEL}; `headstock train` makes one",
                folder.display()
            )));
        }
        let config = folder.join(CONFIG);
        if !config.is_file() {
            return Err(TrainError::Format {
                path: config,
                problem: "it is missing: the run is not whole".into(),
            });
        }
        let config = Config::read(&config)?.relative_to_here();
        let own = config.clone().resolve(heads).ok();
        Ok(Self { folder: folder.into(), model: Model::read(&model, heads)?, config, own })
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

    /// The split that training used, by path.
    ///
    /// # Errors
    /// [`TrainError::Io`], [`TrainError::UnknownFormat`].
    pub fn split(&self) -> Result<Vec<SplitRow>, TrainError> {
        tables::read_split(&self.folder.join(SPLIT))
    }

    /// What the run was trained on, by content. The runs of an earlier headstock do not say it: then it is what their split names,
    /// as far as it is there; none where nothing of it is, or the run's data cannot be listed any more, which a line says.
    ///
    /// # Errors
    /// [`TrainError::Io`], [`TrainError::UnknownFormat`] for the run's files.
    pub(crate) fn trained_on(
        &self,
        progress: &dyn Progress,
    ) -> Result<Option<BTreeSet<Content>>, TrainError> {
        if let Some(contents) = trained_on::read(&self.folder.join(TRAINED_ON))? {
            return Ok(Some(contents));
        }
        let split = self.split()?;
        let Some(own) = &self.own else { return Ok(None) };
        let unknown = |error: TrainError| {
            tracing::warn!("what {} was trained on is not known: {error}", self.folder.display());
            None
        };
        Ok(trained_on::of_split(own, &split, progress).unwrap_or_else(unknown))
    }
}
