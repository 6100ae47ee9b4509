//! Predictions and their metrics.

use headstock_heads::{Calibration, HeadError, Logits};
use serde::{Deserialize, Serialize};

use crate::sample_scores::{SampleScore, WeightedMetrics};

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
    /// The metrics that measure the quality of the probabilities.
    #[must_use]
    pub fn probability_metrics(&self) -> ProbabilityMetrics {
        ProbabilityMetrics { log_loss: self.log_loss, ece: self.ece }
    }
}

/// Class probabilities of samples, and the predicted classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// Probabilities `[N, C]`, row-major.
    pub probabilities: Vec<f32>,
    /// The most probable class of each sample, `[N]`. Ties go to the highest logit, then to the lowest class
    /// number.
    pub predicted: Vec<u32>,
    /// The number of classes, `C`.
    pub classes: usize,
}

impl Predictions {
    /// The predictions by the softmax of `logits`, without calibration.
    #[must_use]
    pub fn new(logits: &Logits) -> Self {
        Self::from_probabilities(logits.softmax(), logits)
    }

    /// The predictions by the calibrated probabilities of `logits`.
    ///
    /// # Errors
    /// The errors of [`Calibration::probabilities`].
    pub fn with_calibration(logits: &Logits, calibration: &Calibration) -> Result<Self, HeadError> {
        Ok(Self::from_probabilities(calibration.probabilities(logits)?, logits))
    }

    /// Predicts the most probable class of each sample from `probabilities` `[N, C]`, which were computed
    /// from `logits` `[N, C]`. The logits decide between equal probabilities: a softmax that saturates, or
    /// isotonic calibration, gives several classes the same one.
    pub(crate) fn from_probabilities(probabilities: Vec<f32>, logits: &Logits) -> Self {
        let classes = logits.classes();
        let rows = probabilities.chunks_exact(classes).zip(logits.rows());
        let predicted = rows.map(|(row, logits)| {
            let is_better = |a: usize, b: usize| (row[a], logits[a]) > (row[b], logits[b]);
            (1..classes).fold(0, |best, class| if is_better(class, best) { class } else { best }) as u32
        });
        Self { predicted: predicted.collect(), probabilities, classes }
    }

    /// The predictions of the samples with the indices `samples`, in that order: metrics of a part of the
    /// samples are computed from them.
    pub(crate) fn select(&self, samples: &[usize]) -> Self {
        let row = |&sample: &usize| &self.probabilities[sample * self.classes..][..self.classes];
        Self {
            probabilities: samples.iter().flat_map(row).copied().collect(),
            predicted: samples.iter().map(|&sample| self.predicted[sample]).collect(),
            classes: self.classes,
        }
    }

    /// The probabilities `[C]` of each sample.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.probabilities.chunks_exact(self.classes)
    }

    /// Computes accuracy, top-5 accuracy, macro F1, log-loss and calibration error of the predictions by
    /// comparing them with the true `labels` `[N]`; `N` must be at least 1.
    ///
    /// # Panics
    /// If the numbers of labels and samples differ, or a label is not below `C`.
    #[must_use]
    pub fn metrics(&self, labels: &[u32]) -> Metrics {
        assert_eq!(labels.len(), self.predicted.len(), "one label per sample");
        let rows = self.rows().zip(&self.predicted).zip(labels);
        // A predicted class is first even if others have the same probability, which `rank` does not know.
        let top5 =
            rows.filter(|&((row, &predicted), &label)| predicted == label || rank(row, label) < 5).count();
        // `|_| 1`: each sample counts once.
        let WeightedMetrics { accuracy, macro_f1, log_loss, ece } =
            WeightedMetrics::from_scores(&self.scores(labels), self.classes, |_| 1);
        Metrics { top1: accuracy, top5: top5 as f64 / labels.len() as f64, macro_f1, log_loss, ece }
    }

    /// The score of each sample, `[N]`, given the true labels `[N]`: all that a metric needs to know of it.
    pub(crate) fn scores<'a>(&'a self, labels: &'a [u32]) -> Vec<SampleScore> {
        let rows = self.rows().zip(&self.predicted).zip(labels);
        rows.map(|((row, &predicted), &label)| SampleScore::new(row, predicted, label)).collect()
    }

    /// The confusion matrix `[C][C]` for true `labels` `[N]`: rows are labels, columns predicted classes.
    #[must_use]
    pub fn confusion(&self, labels: &[u32]) -> Vec<Vec<usize>> {
        let mut counts = vec![vec![0; self.classes]; self.classes];
        for (&label, &predicted) in labels.iter().zip(&self.predicted) {
            counts[label as usize][predicted as usize] += 1;
        }
        counts
    }
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
            assert_eq!(predictions.confusion(&case.labels), case.confusion, "{name}");
            let (found, expected) = (predictions.metrics(&case.labels), case.metrics);
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
        let top5 = |label: u32| predictions.metrics(&[label]).top5;
        assert_eq!([7, 1, 2, 3, 0].map(top5), [1.0; 5]);
        assert_eq!([4, 5, 6].map(top5), [0.0; 3]);
    }

    /// Isotonic calibration can give two classes the same probability though their logits differ.
    #[test]
    fn among_equal_probabilities_the_higher_logit_is_predicted_and_is_among_the_five() {
        let logits = Logits::new(vec![0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3], 7).unwrap();
        let predictions = Predictions::from_probabilities(vec![1.0 / 7.0; 7], &logits);
        assert_eq!(predictions.predicted, [6]);
        let top1_and_top5 =
            |label: u32| (predictions.metrics(&[label]).top1, predictions.metrics(&[label]).top5);
        assert_eq!(top1_and_top5(6), (1.0, 1.0));
        assert_eq!(top1_and_top5(5), (0.0, 0.0));
    }

    #[test]
    fn selected_samples_keep_their_predictions() {
        let logits = |rows: &[[f32; 2]]| Logits::new(rows.concat(), 2).unwrap();
        let predictions = Predictions::new(&logits(&[[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]));
        assert_eq!(predictions.select(&[2, 0]), Predictions::new(&logits(&[[0.0, 3.0], [0.0, 1.0]])));
        assert_eq!(predictions.select(&[2, 0]).predicted, [1, 1]);
    }

    #[test]
    fn calibrated_predictions_are_the_calibrations_probabilities() {
        let logits = Logits::new(vec![2.0, 0.0, 0.0, 4.0], 2).unwrap();
        let found = Predictions::with_calibration(&logits, &Calibration::Temperature(2.0)).unwrap();
        let sigmoid = |x: f64| (1.0 / (1.0 + (-x).exp())) as f32;
        for (found, expected) in found.probabilities.iter().zip([1.0, -1.0, -2.0, 2.0].map(sigmoid)) {
            assert!((found - expected).abs() < 1e-7, "{found} {expected}");
        }
        assert_eq!(found.metrics(&[0, 1]).probability_metrics().log_loss, found.metrics(&[0, 1]).log_loss);
        assert_eq!(found.metrics(&[0, 1]).probability_metrics().ece, found.metrics(&[0, 1]).ece);
    }
}
