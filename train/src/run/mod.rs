//! A run: the folder that training leaves behind.

mod model;
mod tables;
mod write;

use std::path::{Path, PathBuf};

use headstock_heads::Registry;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Settings};
use crate::error::TrainError;
use crate::metrics::Metrics;
pub use model::{BackboneRecord, Calibration, HeadRecord, Model, ModelRecord};
pub use tables::{SplitRow, write_split};
pub(crate) use tables::{TestRow, history, predictions, split};
pub(crate) use write::RunFiles;
pub use write::{Reserved, RunPlace};

const CONFIG: &str = "headstock.toml";
const MODEL: &str = "model.safetensors";
const METRICS: &str = "metrics.json";
const HISTORY: &str = "history.csv";
const SPLIT: &str = "split.csv";
const PREDICTIONS: &str = "predictions.csv";
const REPORT: &str = "report.html";

/// `metrics.json`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunMetrics {
    /// On the test part.
    #[serde(flatten)]
    pub test: Metrics,
    /// How many there are.
    pub counts: Counts,
    /// How long each phase took.
    pub seconds: Seconds,
}

/// How many samples of each kind there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Classes.
    pub classes: usize,
    /// Samples fitted on.
    pub train: usize,
    /// Samples tested on.
    pub test: usize,
    /// Augmented views of each training photo.
    pub views: u32,
    /// Photos left out because they cannot be read.
    pub skipped: usize,
    /// Feature vectors that were computed in this run, rather than found in the cache.
    pub computed: usize,
}

/// Wall-clock seconds of each phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Reading the data set and computing features.
    pub features: f64,
    /// Fitting the head.
    pub fit: f64,
    /// Testing it.
    pub test: f64,
}

/// A finished run.
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// The fitted head and what it needs.
    pub model: Model,
    config: Config,
}

impl Run {
    /// Opens the run in `folder`.
    ///
    /// # Errors
    /// [`TrainError::Usage`] when it is no run, [`TrainError::Format`] for a damaged file.
    pub fn open(folder: &Path, heads: &Registry) -> Result<Self, TrainError> {
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
        Ok(Self { folder: folder.into(), model: Model::read(&model, heads)?, config })
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
    /// [`TrainError::Io`], [`TrainError::Format`].
    pub fn split(&self) -> Result<Vec<SplitRow>, TrainError> {
        tables::read_split(&self.folder.join(SPLIT))
    }
}
