//! `metrics.json`: the figures of a run.

use std::collections::{BTreeMap, BTreeSet};

use headstock_heads::{CalibrationMethod, ConformalMethod, SetPredictor};
use serde::{Deserialize, Serialize};

use super::Model;
use crate::error::TrainError;
use crate::metrics::{Metrics, Predictions, ProbabilityMetrics};
use crate::trained_on::ContentHash;

/// The coverage whose sets are tested.
const COVERAGE: f64 = 0.9;

/// `metrics.json`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunMetrics {
    /// On the test part, calibrated.
    #[serde(flatten)]
    pub test: Metrics,
    /// How many there are.
    pub counts: SampleCounts,
    /// Parameters that the settings left to the fit, such as `C = "auto"`, and what it chose.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub chosen: BTreeMap<String, f64>,
    /// What calibration did; none where nothing was held out for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationMetrics>,
    /// How conformal sets do on the test part; none where nothing was held out for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conformal: Option<ConformalMetrics>,
    /// How much of the test part the run that this one starts from was trained on; none without such a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<TrainTestOverlap>,
    /// How long each phase took.
    pub seconds: PhaseSeconds,
}

/// How many samples of each kind there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleCounts {
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
pub struct PhaseSeconds {
    /// Reading the data set and computing features.
    pub features: f64,
    /// Fitting the head.
    pub fit: f64,
    /// Fitting it again for each fold, and what is learned from the folds.
    #[serde(default)]
    pub calibration: f64,
    /// Tuning the backbone with it, where that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tune: Option<f64>,
    /// Testing it.
    pub test: f64,
}

/// What calibration did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationMetrics {
    /// The method in use.
    pub method: CalibrationMethod,
    /// What logits are divided by, where that is the method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The method that was asked for and is not used, for on the photos held out it did not lower the log-loss, or raised
    /// the calibration error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<CalibrationMethod>,
    /// Times the head was fitted on a part of the training photos.
    pub folds: usize,
    /// Training photos that were held out, each once.
    pub samples: usize,
    /// On the test part.
    #[serde(flatten)]
    pub test: CalibrationEffect,
    /// On the training photos, each predicted by a head and a calibration that were fitted without it.
    pub out_of_fold: CalibrationEffect,
}

/// Probabilities without calibration and with it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationEffect {
    /// Softmax of the logits.
    pub before: ProbabilityMetrics,
    /// Calibrated.
    pub after: ProbabilityMetrics,
}

/// How conformal sets do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConformalMetrics {
    /// The frequency with which sets are to hold the true class.
    pub coverage: f64,
    /// Sets by [`ConformalMethod::Lac`].
    pub lac: SetMetrics,
    /// Sets by [`ConformalMethod::Aps`].
    pub aps: SetMetrics,
}

/// How the sets of one method do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetMetrics {
    /// The share of sets that hold the true class.
    pub coverage: f64,
    /// Classes in a set, on average.
    pub mean_size: f64,
    /// The share of sets without a class.
    pub empty: f64,
}

/// How many of the samples that a run is tested on are samples that it was trained on, or the run that it starts from, and how
/// it does on the others. They are known by their content: the photo's bytes, or the row of features.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainTestOverlap {
    /// How many were trained on.
    pub samples: usize,
    /// The figures of the others; none where there are no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen: Option<UnseenMetrics>,
}

/// Figures of the samples that were not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnseenMetrics {
    /// How many there are.
    pub samples: usize,
    /// Their figures.
    #[serde(flatten)]
    pub test: Metrics,
    /// How conformal sets do on them; none where the run has no scores to make them of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conformal: Option<ConformalMetrics>,
}

impl TrainTestOverlap {
    /// Of what `model` predicts for samples with these `labels` and this content.
    pub(crate) fn from_predictions(
        trained_hashes: &BTreeSet<ContentHash>,
        model: &Model,
        predictions: &Predictions,
        labels: &[u32],
        content_hash: impl Fn(usize) -> Option<ContentHash>,
    ) -> Result<Self, TrainError> {
        let is_trained_on =
            |row: &usize| content_hash(*row).is_some_and(|content| trained_hashes.contains(&content));
        let unseen_rows: Vec<usize> = (0..labels.len()).filter(|row| !is_trained_on(row)).collect();
        let samples = labels.len() - unseen_rows.len();
        if unseen_rows.is_empty() {
            return Ok(Self { samples, unseen: None });
        }
        let predictions = predictions.select(&unseen_rows);
        let labels: Vec<u32> = unseen_rows.iter().map(|&row| labels[row]).collect();
        let unseen = UnseenMetrics {
            samples: unseen_rows.len(),
            test: predictions.metrics(&labels),
            conformal: ConformalMetrics::from_predictions(model, &predictions, &labels)?,
        };
        Ok(Self { samples, unseen: Some(unseen) })
    }
}

impl ConformalMetrics {
    /// Of what `model` predicts for samples with these `labels`; none where it has no scores to make sets of.
    pub(crate) fn from_predictions(
        model: &Model,
        predictions: &Predictions,
        labels: &[u32],
    ) -> Result<Option<Self>, TrainError> {
        if model.conformal.is_none() {
            return Ok(None);
        }
        let set_metrics = |method| {
            model.sets(COVERAGE, method).map(|sets| SetMetrics::from_sets(&sets, predictions, labels))
        };
        Ok(Some(Self {
            coverage: COVERAGE,
            lac: set_metrics(ConformalMethod::Lac)?,
            aps: set_metrics(ConformalMethod::Aps)?,
        }))
    }
}

impl SetMetrics {
    fn from_sets(sets: &SetPredictor, predictions: &Predictions, labels: &[u32]) -> Self {
        let (mut n_covered, mut n_classes, mut n_empty) = (0, 0, 0);
        for (row, label) in predictions.rows().zip(labels) {
            let set = sets.predict(row);
            n_covered += usize::from(set.contains(label));
            n_classes += set.len();
            n_empty += usize::from(set.is_empty());
        }
        let fraction = |count: usize| count as f64 / labels.len() as f64;
        Self { coverage: fraction(n_covered), mean_size: fraction(n_classes), empty: fraction(n_empty) }
    }
}
