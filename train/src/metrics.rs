//! Metrics of predictions.

use headstock_inference::Predictions;
use serde::{Deserialize, Serialize};

use crate::sample_scores::{WeightedMetrics, sample_scores};

/// Metrics of predictions on labeled samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Accuracy: the fraction of samples whose most probable class is the label.
    pub top1: f64,
    /// The fraction of samples whose label is among the five most probable classes; 1 with up to five
    /// classes.
    pub top5: f64,
    /// The mean F1 score of the classes that occur or are predicted: scikit-learn's
    /// `f1_score(average="macro")`.
    pub macro_f1: f64,
    /// The mean of `-ln p(label)`: scikit-learn's `log_loss` on `float32` probabilities.
    pub log_loss: f64,
    /// The expected calibration error of the most probable class, with 15 bins of equal width (Guo et al.
    /// 2017).
    pub ece: f64,
}

/// The metrics that measure the quality of probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbabilityMetrics {
    /// See [`Metrics::log_loss`].
    pub log_loss: f64,
    /// See [`Metrics::ece`].
    pub ece: f64,
}

impl Metrics {
    /// Computes accuracy, top-5 accuracy, macro F1, log-loss and calibration error of the predictions by
    /// comparing them with the true `labels` `[N]`; `N` must be at least 1.
    ///
    /// # Panics
    /// If the numbers of labels and samples differ, or a label is not below `C`.
    #[must_use]
    pub fn from_predictions(predictions: &Predictions, labels: &[u32]) -> Self {
        assert_eq!(labels.len(), predictions.predicted.len(), "one label per sample");
        let rows = predictions.rows().zip(&predictions.predicted).zip(labels);
        // A predicted class is first even if others have the same probability, which `rank` does not know.
        let top5 =
            rows.filter(|&((row, &predicted), &label)| predicted == label || rank(row, label) < 5).count();
        // `|_| 1`: each sample counts once.
        let WeightedMetrics { accuracy, macro_f1, log_loss, ece } =
            WeightedMetrics::from_scores(&sample_scores(predictions, labels), predictions.classes, |_| 1);
        Self { top1: accuracy, top5: top5 as f64 / labels.len() as f64, macro_f1, log_loss, ece }
    }

    /// The metrics that measure the quality of the probabilities.
    #[must_use]
    pub fn probability_metrics(&self) -> ProbabilityMetrics {
        ProbabilityMetrics { log_loss: self.log_loss, ece: self.ece }
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

/// The number of classes that rank before `label`, for the top-5 accuracy: those with a higher probability in
/// `row` `[C]`, and those with an equal probability and a lower class number.
fn rank(row: &[f32], label: u32) -> usize {
    let label_probability = row[label as usize];
    row.iter()
        .enumerate()
        .filter(|&(class, &p)| p > label_probability || (p == label_probability && class < label as usize))
        .count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use headstock_heads::Logits;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct MetricsCase {
        classes: usize,
        probabilities: Vec<f32>,
        labels: Vec<u32>,
        predicted: Vec<u32>,
        confusion: Vec<Vec<usize>>,
        #[serde(flatten)]
        metrics: Metrics,
    }

    #[test]
    fn metrics_with_ties_absent_classes_and_bin_edges_match_scikit_learn_and_guo() {
        let text = include_str!("../../reference/metrics/probabilities.json");
        let cases: BTreeMap<String, MetricsCase> = serde_json::from_str(text).unwrap();
        assert_eq!(cases.len(), 7);
        for (name, case) in cases {
            let logits = Logits::new(case.probabilities.clone(), case.classes).unwrap();
            let predictions = Predictions::from_probabilities(case.probabilities, &logits);
            assert_eq!(predictions.predicted, case.predicted, "{name}");
            assert_eq!(confusion_matrix(&predictions, &case.labels), case.confusion, "{name}");
            let (found, expected) = (Metrics::from_predictions(&predictions, &case.labels), case.metrics);
            for (metric, found, expected) in [
                ("top1", found.top1, expected.top1),
                ("top5", found.top5, expected.top5),
                ("macro F1", found.macro_f1, expected.macro_f1),
                ("log loss", found.log_loss, expected.log_loss),
                ("ece", found.ece, expected.ece),
            ] {
                // scikit-learn's log_loss normalizes the probabilities once more, in single precision.
                assert!((found - expected).abs() < 1e-6, "{name}, {metric}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn the_label_is_among_the_five_when_fewer_than_five_classes_are_before_it() {
        // Class 7 is the most probable; then come 1, 2 and 3, which are equal, and then 0, 4, 5 and 6.
        let row = vec![0.05, 0.15, 0.15, 0.15, 0.05, 0.05, 0.05, 0.35];
        let predictions = Predictions::from_probabilities(row.clone(), &Logits::new(row, 8).unwrap());
        let top5 = |label: u32| Metrics::from_predictions(&predictions, &[label]).top5;
        assert_eq!([7, 1, 2, 3, 0].map(top5), [1.0; 5]);
        assert_eq!([4, 5, 6].map(top5), [0.0; 3]);
    }

    /// Isotonic calibration can give two classes the same probability though their logits differ.
    #[test]
    fn among_equal_probabilities_the_higher_logit_is_predicted_and_is_among_the_five() {
        let logits = Logits::new(vec![0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3], 7).unwrap();
        let predictions = Predictions::from_probabilities(vec![1.0 / 7.0; 7], &logits);
        assert_eq!(predictions.predicted, [6]);
        let top1_and_top5 = |label: u32| {
            (
                Metrics::from_predictions(&predictions, &[label]).top1,
                Metrics::from_predictions(&predictions, &[label]).top5,
            )
        };
        assert_eq!(top1_and_top5(6), (1.0, 1.0));
        assert_eq!(top1_and_top5(5), (0.0, 0.0));
    }
}
