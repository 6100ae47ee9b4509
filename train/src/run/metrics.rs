//! `metrics.json`: the metrics of a run.

use std::collections::{BTreeMap, BTreeSet};

use headstock_heads::{CalibrationMethod, ConformalMethod};
use headstock_inference::{Model, Predictions};
use headstock_loader::dataset::PassedOverReason;
use serde::{Deserialize, Serialize};

use crate::bootstrap::Interval;
use crate::error::TrainError;
use crate::metrics::Metrics;
use crate::trained_on::ContentHash;

/// Target coverage of the conformal sets that are tested.
pub(crate) const CONFORMAL_COVERAGE: f64 = 0.9;

/// The contents of `metrics.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunMetrics {
    /// Metrics of the calibrated predictions on the test set. Without a test set, of the training samples, each
    /// predicted by a head that was fitted without its fold: see `cross_validation`.
    #[serde(flatten)]
    pub test: Metrics,
    /// Without a test set: how the training samples were divided into folds; `None` with a test set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross_validation: Option<CrossValidation>,
    /// Numbers of samples and classes.
    pub counts: SampleCounts,
    /// Values that the fit chose for hyperparameters such as `C = "auto"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub chosen: BTreeMap<String, f64>,
    /// The effect of calibration; `None` if no samples were held out for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationMetrics>,
    /// Metrics of conformal sets on the test set; `None` if no samples were held out for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conformal: Option<ConformalMetrics>,
    /// With a warm start: the overlap of the test set with the samples that the earlier run was trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<TrainTestOverlap>,
    /// With a warm start: the same head fitted from both starts, on the test samples that the earlier run was
    /// not trained on; `None` if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<StartMetrics>,
    /// Duration of each phase.
    pub seconds: PhaseSeconds,
}

/// Numbers of samples and classes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleCounts {
    /// Classes.
    pub classes: usize,
    /// Training samples.
    pub train: usize,
    /// Test samples.
    pub test: usize,
    /// Augmented views of each training image.
    pub views: u32,
    /// Images skipped because they cannot be read.
    pub skipped: usize,
    /// Files and rows of the data that are not used, by reason; with those of `skipped`.
    #[serde(default)]
    pub passed_over: BTreeMap<PassedOverReason, usize>,
    /// Feature vectors that were computed in this run because they were not in the cache.
    pub computed: usize,
}

/// How the figures of a run without a test set were measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossValidation {
    /// The number of folds.
    pub folds: usize,
    /// scikit-learn's `random_state` of the folds, and the seed of the bootstrap resamples.
    pub seed: u32,
    /// The number of samples, each predicted once.
    pub samples: usize,
    /// The number of groups, which folds and resamples keep together, if the data has groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<usize>,
    /// The fraction of bootstrap resamples inside an interval.
    pub coverage: f64,
    /// The confidence intervals of accuracy and macro F1, by their names in `metrics.json`.
    pub intervals: BTreeMap<String, Interval>,
}

/// Wall-clock seconds of each phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseSeconds {
    /// Reading the data set and computing features.
    pub features: f64,
    /// Fitting the head.
    pub fit: f64,
    /// Calibration, with the fits of the head in all folds.
    #[serde(default)]
    pub calibration: f64,
    /// Fine-tuning the backbone and the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tune: Option<f64>,
    /// Testing.
    pub test: f64,
}

/// The effect of calibration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationMetrics {
    /// The method that is used.
    pub method: CalibrationMethod,
    /// The temperature, with [`CalibrationMethod::Temperature`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The requested method, if it is not used because on held-out samples it did not lower the log-loss or
    /// raised the calibration error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<CalibrationMethod>,
    /// Number of folds that the head was fitted in.
    pub folds: usize,
    /// Number of training samples that were held out, each once.
    pub samples: usize,
    /// The effect on the test set.
    #[serde(flatten)]
    pub test: CalibrationEffect,
    /// The effect on the held-out training samples, each predicted by a head and a calibration fitted without
    /// it.
    pub out_of_fold: CalibrationEffect,
}

/// The metrics of probabilities before and after calibration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationEffect {
    /// Of the softmax of the logits.
    pub before: Metrics,
    /// Of the calibrated probabilities.
    pub after: Metrics,
}

/// Metrics of conformal sets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConformalMetrics {
    /// The target coverage.
    pub coverage: f64,
    /// Of sets by [`ConformalMethod::Lac`].
    pub lac: SetMetrics,
    /// Of sets by [`ConformalMethod::Aps`].
    pub aps: SetMetrics,
}

/// Metrics of the conformal sets of one method.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetMetrics {
    /// The fraction of sets that contain the true class.
    pub coverage: f64,
    /// The mean number of classes in a set.
    pub mean_size: f64,
    /// The fraction of empty sets.
    pub empty: f64,
}

/// The overlap of test samples with samples that a run, or the run that it was warm-started from, was trained
/// on. Samples are recognized by content: the image's bytes, or the row of features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainTestOverlap {
    /// The number of test samples that were trained on.
    pub samples: usize,
    /// Metrics of the other samples, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen: Option<UnseenMetrics>,
}

/// Metrics of the samples that were not trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnseenMetrics {
    /// The number of samples.
    pub samples: usize,
    /// Their metrics.
    #[serde(flatten)]
    pub test: Metrics,
    /// Metrics of conformal sets; `None` if the run has no conformal scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conformal: Option<ConformalMetrics>,
}

/// Metrics of a head that was fitted twice, from an earlier run's head and from scratch, on the same test
/// samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartMetrics {
    /// The number of samples: those of the test set that the earlier run was not trained on.
    pub samples: usize,
    /// Of the head that started from the earlier run's: the head of this run.
    pub warm: Metrics,
    /// Of the head that was fitted from scratch, with the same settings and the same calibration.
    pub cold: Metrics,
}

impl StartMetrics {
    /// The metrics of the predictions `warm` and `cold` for the test samples with the true `labels` `[N]`, on
    /// those whose `content_hash` is not among `trained_hashes`, the samples that the earlier run was trained
    /// on; without `trained_hashes`, if they are not known, on all. `None` if there are no such samples.
    pub(crate) fn from_predictions(
        trained_hashes: Option<&BTreeSet<ContentHash>>,
        warm: &Predictions,
        cold: &Predictions,
        labels: &[u32],
        content_hash: impl Fn(usize) -> Option<ContentHash>,
    ) -> Option<Self> {
        let no_hashes = BTreeSet::new();
        let rows = unseen_rows(trained_hashes.unwrap_or(&no_hashes), labels.len(), content_hash);
        let labels: Vec<u32> = rows.iter().map(|&row| labels[row]).collect();
        let metrics =
            |predictions: &Predictions| Metrics::from_predictions(&predictions.select(&rows), &labels);
        (!rows.is_empty()).then(|| Self { samples: rows.len(), warm: metrics(warm), cold: metrics(cold) })
    }
}

/// The numbers of those of `n_samples` samples whose `content_hash` is not among `trained_hashes`. A sample
/// without a hash counts as not trained on.
fn unseen_rows(
    trained_hashes: &BTreeSet<ContentHash>,
    n_samples: usize,
    content_hash: impl Fn(usize) -> Option<ContentHash>,
) -> Vec<usize> {
    let is_trained_on = |row: &usize| content_hash(*row).is_some_and(|hash| trained_hashes.contains(&hash));
    (0..n_samples).filter(|row| !is_trained_on(row)).collect()
}

impl TrainTestOverlap {
    /// Counts the test samples that are among `trained_hashes`, the samples that a run was trained on, and
    /// computes the metrics of the others, because those of the seen samples are too optimistic.
    /// `predictions` are those of `model` for the test samples, `labels` `[N]` their true classes.
    /// `content_hash(i)` is the hash of test sample `i`; a sample without one counts as not trained on.
    pub(crate) fn from_predictions(
        trained_hashes: &BTreeSet<ContentHash>,
        model: &Model,
        predictions: &Predictions,
        labels: &[u32],
        content_hash: impl Fn(usize) -> Option<ContentHash>,
    ) -> Result<Self, TrainError> {
        let unseen_rows = unseen_rows(trained_hashes, labels.len(), content_hash);
        let n_seen = labels.len() - unseen_rows.len();
        if unseen_rows.is_empty() {
            return Ok(Self { samples: n_seen, unseen: None });
        }
        let predictions = predictions.select(&unseen_rows);
        let labels: Vec<u32> = unseen_rows.iter().map(|&row| labels[row]).collect();
        let unseen = UnseenMetrics {
            samples: unseen_rows.len(),
            test: Metrics::from_predictions(&predictions, &labels),
            conformal: ConformalMetrics::from_predictions(model, &predictions, &labels)?,
        };
        Ok(Self { samples: n_seen, unseen: Some(unseen) })
    }
}

impl ConformalMetrics {
    /// Measures how often the conformal sets of `model` (sets of classes that should contain the true class
    /// with the probability [`CONFORMAL_COVERAGE`]) really contain it, and how large they are, for both methods, LAC
    /// and APS. The `predictions` are for samples with the true `labels` `[N]`. `None` if the model has no
    /// conformal scores.
    pub(crate) fn from_predictions(
        model: &Model,
        predictions: &Predictions,
        labels: &[u32],
    ) -> Result<Option<Self>, TrainError> {
        if model.conformal.is_none() {
            return Ok(None);
        }
        let set_metrics = |method| {
            let predictor = model.sets(CONFORMAL_COVERAGE, method)?;
            let sets: Vec<Vec<u32>> = predictions.rows().map(|row| predictor.predict(row)).collect();
            Ok::<_, TrainError>(SetMetrics::from_sets(&sets, labels))
        };
        Ok(Some(Self {
            coverage: CONFORMAL_COVERAGE,
            lac: set_metrics(ConformalMethod::Lac)?,
            aps: set_metrics(ConformalMethod::Aps)?,
        }))
    }
}

impl SetMetrics {
    /// Measures how often the conformal `sets` `[N]` contain the true label in `labels` `[N]`, their mean size, and how
    /// often they are empty.
    pub(crate) fn from_sets(sets: &[Vec<u32>], labels: &[u32]) -> Self {
        // `n_classes`: the classes in all sets together.
        let (mut n_covered, mut n_classes, mut n_empty) = (0, 0, 0);
        for (set, label) in sets.iter().zip(labels) {
            n_covered += usize::from(set.contains(label));
            n_classes += set.len();
            n_empty += usize::from(set.is_empty());
        }
        let fraction = |count: usize| count as f64 / labels.len() as f64;
        Self { coverage: fraction(n_covered), mean_size: fraction(n_classes), empty: fraction(n_empty) }
    }
}
