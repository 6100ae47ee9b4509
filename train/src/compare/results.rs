//! What a comparison gives.

use serde::Serialize;
use toml::Table;

/// What candidates are ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RankingMetric {
    /// The share of samples whose class is the most probable; higher is better.
    #[default]
    Accuracy,
    /// The F1 score averaged over the classes; higher is better.
    MacroF1,
    /// The mean of `-ln p(class)`; lower is better.
    LogLoss,
}

/// Candidates, the best first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The version of this object.
    pub comparison: u32,
    /// What candidates are ordered by.
    pub by: RankingMetric,
    /// How many folds.
    pub folds: usize,
    /// scikit-learn's `random_state` of the folds, and what resamples are keyed by.
    pub seed: u32,
    /// Samples, `N`: the training part.
    pub samples: usize,
    /// The number of groups that folds and resamples keep together, where the data names groups.
    pub groups: Option<usize>,
    /// Classes, `C`.
    pub classes: usize,
    /// Features, `F`.
    pub features: usize,
    /// Augmented views of each sample that candidates were fitted on, beside the plain one.
    pub views: u32,
    /// Resamples that the intervals are taken from.
    pub resamples: usize,
    /// The share of resamples that an interval holds.
    pub coverage: f64,
    /// Wall-clock seconds of fitting, predicting and judging.
    pub seconds: f64,
    /// First those that were compared, the best first; then those that failed; then those that the budget left out.
    pub candidates: Vec<CandidateResult>,
}

/// A candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateResult {
    /// The head's name.
    pub head: String,
    /// Its whole table.
    pub parameters: Table,
    /// The part of it that is not the default.
    pub changed: Table,
    /// What came of it.
    #[serde(flatten)]
    pub status: CandidateStatus,
}

/// What came of a candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum CandidateStatus {
    /// It was fitted and judged in every fold.
    Compared(Box<CandidateScores>),
    /// It could not be fitted, or gave no figures.
    Failed {
        /// Why.
        error: String,
    },
    /// The budget was spent before its turn.
    LeftOut,
}

/// A figure, and how far it is from the best candidate's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MetricEstimate {
    /// On all samples, each predicted by a head that was not fitted on it.
    pub value: f64,
    /// Of the difference, this minus the best's.
    pub to_best: Interval,
}

/// An interval of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// How good a candidate is. Log-loss and calibration error are those after a temperature that was fitted on the other folds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateScores {
    /// The share of samples whose class is the most probable.
    pub accuracy: MetricEstimate,
    /// The F1 score averaged over the classes.
    pub macro_f1: MetricEstimate,
    /// The mean of `-ln p(class)`.
    pub log_loss: MetricEstimate,
    /// The expected calibration error of the most probable class, in 15 bins.
    pub ece: MetricEstimate,
    /// Whether the interval of the difference that candidates are ordered by holds 0: it may be as good as the best.
    pub tied: bool,
    /// The temperature of each fold, `[K]`.
    pub temperatures: Vec<f64>,
    /// Seconds of a fit: the median over the folds.
    pub fit_seconds: f64,
    /// Seconds of predicting a fold: the median over the folds.
    pub predict_seconds: f64,
    /// Bytes of the head's tensors: the most over the folds.
    pub bytes: u64,
    /// Parameters that the fits chose, each with its value in each fold.
    pub chosen: Vec<ChosenParameter>,
    /// What the fits warned of.
    pub warnings: Vec<String>,
}

/// A parameter that was left to the fit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChosenParameter {
    /// Its name.
    pub parameter: String,
    /// By fold.
    pub values: Vec<f64>,
}

impl Comparison {
    /// The best candidate, if any could be compared.
    #[must_use]
    pub fn best(&self) -> Option<&CandidateResult> {
        self.candidates.first().filter(|candidate| candidate.scores().is_some())
    }

    /// The best candidate of each head, in order; of a head of which none was compared, the first one.
    #[must_use]
    pub fn best_per_head(&self) -> Vec<&CandidateResult> {
        let mut best: Vec<&CandidateResult> = Vec::new();
        for candidate in &self.candidates {
            if best.iter().all(|row| row.head != candidate.head) {
                best.push(candidate);
            }
        }
        best
    }
}

impl CandidateResult {
    /// Its figures, where it was compared.
    #[must_use]
    pub fn scores(&self) -> Option<&CandidateScores> {
        match &self.status {
            CandidateStatus::Compared(scores) => Some(scores),
            CandidateStatus::Failed { .. } | CandidateStatus::LeftOut => None,
        }
    }

    /// What it changes of the defaults, as `C = 0.1, solver = "adam"`; empty for the defaults themselves.
    #[must_use]
    pub fn describe_changes(&self) -> String {
        let changed: Vec<String> =
            self.changed.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        changed.join(", ")
    }
}

impl CandidateScores {
    /// The figure that candidates are ordered by.
    #[must_use]
    pub fn metric(&self, metric: RankingMetric) -> MetricEstimate {
        match metric {
            RankingMetric::Accuracy => self.accuracy,
            RankingMetric::MacroF1 => self.macro_f1,
            RankingMetric::LogLoss => self.log_loss,
        }
    }
}
