//! Metrics of predictions: a list of one trait. What a run writes, the report, the tables of the terminal and
//! `compare` go through the list, so that a new metric is one file here and its line in [`METRICS`].

mod accuracy;
mod calibration_error;
mod log_loss;
mod macro_f1;
mod metric_map;
mod top5_accuracy;

use std::fmt;

use headstock_inference::Predictions;

pub use accuracy::Accuracy;
pub use calibration_error::CalibrationError;
pub use log_loss::LogLoss;
pub use macro_f1::MacroF1;
pub use metric_map::{MetricMap, Metrics};
pub use top5_accuracy::Top5Accuracy;

/// All metrics, in the order in which they are shown.
pub static METRICS: [&dyn Metric; 5] = [&Accuracy, &Top5Accuracy, &MacroF1, &LogLoss, &CalibrationError];

/// A metric of predictions on labeled samples.
pub trait Metric: Sync {
    /// The name in results for programs, such as `macro_f1`.
    fn key(&self) -> &'static str;

    /// The name in `metrics.json`.
    fn run_key(&self) -> &'static str {
        self.key()
    }

    /// The name in tables and messages, such as `macro F1`.
    fn name(&self) -> &'static str;

    /// What the metric measures, in a few words.
    fn about(&self) -> &'static str;

    /// Whether a higher value is better.
    fn higher_is_better(&self) -> bool {
        true
    }

    /// Whether the metric measures the probabilities rather than the predicted classes: calibration changes
    /// it.
    fn measures_probabilities(&self) -> bool {
        false
    }

    /// Whether a comparison of heads has this metric.
    fn is_compared(&self) -> bool {
        true
    }

    /// Whether a comparison can order heads by this metric.
    fn can_rank(&self) -> bool {
        self.is_compared()
    }

    /// Prepares the metric of `predictions` for samples with the true `labels` `[N]`, so that it can be
    /// computed for many weightings of the samples.
    fn prepare(&self, predictions: &Predictions, labels: &[u32]) -> WeightedMetric;
}

/// Computes a metric from the weights of the samples, `[N]`. Sample `i` counts as if it occurred `weights[i]`
/// times, as in a bootstrap resample; at least one weight must be positive.
pub type WeightedMetric = Box<dyn Fn(&[u32]) -> f64 + Send + Sync>;

/// A metric that is the weighted mean of a value of each sample.
fn mean(values: impl Iterator<Item = f64>) -> WeightedMetric {
    let values: Vec<f64> = values.collect();
    Box::new(move |weights| {
        let sum: f64 = values.iter().zip(weights).map(|(value, &weight)| value * f64::from(weight)).sum();
        sum / weights.iter().map(|&weight| f64::from(weight)).sum::<f64>()
    })
}

impl PartialEq for dyn Metric {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl fmt::Debug for dyn Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// The confusion matrix `[C][C]` of predictions for the true `labels` `[N]`: rows are labels, columns
/// predicted classes.
#[must_use]
pub fn confusion_matrix(predictions: &Predictions, labels: &[u32]) -> Vec<Vec<usize>> {
    let mut counts = vec![vec![0; predictions.classes]; predictions.classes];
    for (&label, &predicted) in labels.iter().zip(&predictions.predicted) {
        counts[label as usize][predicted as usize] += 1;
    }
    counts
}

#[cfg(test)]
mod tests;
