//! The results of a comparison.

use std::collections::BTreeMap;

use headstock_loader::dataset::PassedOverReason;
use serde::{Serialize, Serializer};
use toml::Table;

use crate::bootstrap::Interval;
use crate::metrics::{Metric, MetricMap};

/// The results of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The version of this object.
    pub comparison: u32,
    /// The metric that candidates are ordered by.
    #[serde(rename = "by", serialize_with = "serialize_metric")]
    pub metric: &'static dyn Metric,
    /// The number of folds.
    pub folds: usize,
    /// scikit-learn's `random_state` of the folds, and the seed of the resamples.
    pub seed: u32,
    /// The number of samples of the training set, `N`.
    pub samples: usize,
    /// The number of groups, which folds and resamples keep together, if the data has groups.
    pub groups: Option<usize>,
    /// The number of classes, `C`.
    pub classes: usize,
    /// The number of features, `F`.
    pub features: usize,
    /// The number of augmented views of each sample that candidates were fitted on, in addition to the
    /// unaugmented one.
    pub views: u32,
    /// The number of bootstrap resamples.
    pub resamples: usize,
    /// The fraction of resamples inside an interval.
    pub coverage: f64,
    /// The number of files and rows that are not used, by reason.
    pub passed_over: BTreeMap<PassedOverReason, usize>,
    /// Wall-clock seconds of fitting, predicting and comparing.
    pub seconds: f64,
    /// First the compared candidates, the best first; then those that failed; then those that the budget left
    /// out.
    pub candidates: Vec<CandidateResult>,
}

/// A candidate and its result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateResult {
    /// The head's name.
    pub head: String,
    /// The complete table of its parameters.
    pub parameters: Table,
    /// The parameters that differ from the head's defaults.
    pub changed: Table,
    /// The result.
    #[serde(flatten)]
    pub status: CandidateStatus,
}

/// The result of a candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum CandidateStatus {
    /// It was fitted and scored in every fold.
    Compared(Box<CandidateScores>),
    /// It could not be fitted, or its logits were not finite.
    Failed {
        /// The reason.
        error: String,
    },
    /// The time budget ended before it began.
    LeftOut,
}

/// A metric with its difference to the best candidate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MetricEstimate {
    /// The metric over all samples, each predicted by a head that was not fitted on it.
    pub value: f64,
    /// The interval of the difference, this candidate minus the best.
    pub to_best: Interval,
}

/// The scores of a candidate. Log-loss and calibration error are calibrated by temperatures fitted on the
/// other folds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateScores {
    /// The metrics.
    #[serde(flatten)]
    pub metrics: MetricMap<MetricEstimate>,
    /// Whether the candidate may be as good as the best: the interval of the difference contains 0, for the
    /// metric that candidates are ordered by.
    pub tied: bool,
    /// The temperature of each fold.
    pub temperatures: Vec<f64>,
    /// Seconds of a fit: the median over the folds.
    pub fit_seconds: f64,
    /// Seconds of predicting a fold: the median over the folds.
    pub predict_seconds: f64,
    /// Bytes of the head's tensors: the maximum over the folds.
    pub bytes: u64,
    /// Hyperparameters that the fits chose.
    pub chosen: Vec<ChosenParameter>,
    /// Distinct warnings of the fits.
    pub warnings: Vec<String>,
}

/// A hyperparameter that the fits chose.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChosenParameter {
    /// The name.
    pub parameter: String,
    /// The value in each fold.
    pub values: Vec<f64>,
}

impl Comparison {
    /// The best candidate, if any was compared.
    #[must_use]
    pub fn best(&self) -> Option<&CandidateResult> {
        self.candidates.first().filter(|candidate| candidate.scores().is_some())
    }

    /// The best candidate (choice of hyperparameters) of each head, the best head first, for a summary. For a
    /// head whose candidates all failed or were left out, it is the first of them.
    #[must_use]
    pub fn best_per_head(&self) -> Vec<&CandidateResult> {
        // The candidates are ordered: the first one of a head is its best.
        let mut best: Vec<&CandidateResult> = Vec::new();
        for candidate in &self.candidates {
            if best.iter().all(|better| better.head != candidate.head) {
                best.push(candidate);
            }
        }
        best
    }
}

impl CandidateResult {
    /// The scores, if the candidate was compared.
    #[must_use]
    pub fn scores(&self) -> Option<&CandidateScores> {
        match &self.status {
            CandidateStatus::Compared(scores) => Some(scores),
            CandidateStatus::Failed { .. } | CandidateStatus::LeftOut => None,
        }
    }

    /// The parameters that differ from the defaults, as `C = 0.1, solver = "adam"`; empty for the defaults.
    #[must_use]
    pub fn describe_changes(&self) -> String {
        let changed: Vec<String> =
            self.changed.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        changed.join(", ")
    }
}

/// A field of each metric.
impl Serialize for MetricMap<MetricEstimate> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(metric, estimate)| (metric.key(), estimate)))
    }
}

/// Serializes a metric as its name with hyphens, such as `macro-f1`.
fn serialize_metric<S: Serializer>(metric: &&'static dyn Metric, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&metric.key().replace('_', "-"))
}
