//! How good predictions are.

use headstock_heads::{Calibration, HeadError, Logits};
use serde::{Deserialize, Serialize};

use crate::score::{Figures, Score};

/// Figures of a test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The share of samples whose class is the most probable.
    pub top1: f64,
    /// The share of samples whose class is among the five most probable; with fewer classes, always 1.
    pub top5: f64,
    /// The F1 score averaged over the classes that occur or are predicted: scikit-learn's `f1_score(average="macro")`.
    pub macro_f1: f64,
    /// The mean of `-ln p(class)`: scikit-learn's `log_loss` on `float32` probabilities.
    pub log_loss: f64,
    /// The expected calibration error of the most probable class, in 15 bins of equal width (Guo et al. 2017).
    pub ece: f64,
}

/// Those of the figures that say how honest probabilities are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reliability {
    /// As [`Metrics::log_loss`].
    pub log_loss: f64,
    /// As [`Metrics::ece`].
    pub ece: f64,
}

impl Metrics {
    /// How honest the probabilities are.
    #[must_use]
    pub fn reliability(&self) -> Reliability {
        Reliability { log_loss: self.log_loss, ece: self.ece }
    }
}

/// Probabilities of each class, and what follows from them.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// `[N, C]`, row-major.
    pub probabilities: Vec<f32>,
    /// The most probable class of each sample, `[N]`; among equals that of the highest logit, then of the lowest number.
    pub predicted: Vec<u32>,
    /// The number of classes, `C`.
    pub classes: usize,
}

impl Predictions {
    /// Softmax of `logits`.
    #[must_use]
    pub fn new(logits: &Logits) -> Self {
        Self::with(logits.softmax(), logits)
    }

    /// What `calibration` makes of `logits`.
    ///
    /// # Errors
    /// As [`Calibration::probabilities`].
    pub fn calibrated(logits: &Logits, calibration: &Calibration) -> Result<Self, HeadError> {
        Ok(Self::with(calibration.probabilities(logits)?, logits))
    }

    /// `probabilities` `[N, C]` that were made of `logits`.
    pub(crate) fn with(probabilities: Vec<f32>, logits: &Logits) -> Self {
        let classes = logits.classes();
        let rows = probabilities.chunks_exact(classes).zip(logits.rows());
        let predicted = rows.map(|(row, logits)| {
            let before = |a: usize, b: usize| (row[a], logits[a]) > (row[b], logits[b]);
            (1..classes).fold(0, |best, class| if before(class, best) { class } else { best }) as u32
        });
        Self { predicted: predicted.collect(), probabilities, classes }
    }

    /// The probabilities of each sample.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.probabilities.chunks_exact(self.classes)
    }

    /// Compares with the true `labels`, `[N]`, at least one.
    ///
    /// # Panics
    /// When there are other many labels than samples, or a label is not below `C`.
    #[must_use]
    pub fn metrics(&self, labels: &[u32]) -> Metrics {
        assert_eq!(labels.len(), self.predicted.len(), "a label a sample");
        let rows = self.rows().zip(&self.predicted).zip(labels);
        let top5 =
            rows.filter(|&((row, &predicted), &label)| predicted == label || rank(row, label) < 5).count();
        let Figures { accuracy, macro_f1, log_loss, ece } =
            Figures::of(&self.scores(labels), self.classes, |_| 1);
        Metrics { top1: accuracy, top5: top5 as f64 / labels.len() as f64, macro_f1, log_loss, ece }
    }

    /// How each sample was predicted, beside its label.
    pub(crate) fn scores<'a>(&'a self, labels: &'a [u32]) -> Vec<Score> {
        let rows = self.rows().zip(&self.predicted).zip(labels);
        rows.map(|((row, &predicted), &label)| Score::new(row, predicted, label)).collect()
    }

    /// How many samples of each class (rows) are predicted as each class (columns), `[C][C]`.
    #[must_use]
    pub fn confusion(&self, labels: &[u32]) -> Vec<Vec<usize>> {
        let mut counts = vec![vec![0; self.classes]; self.classes];
        for (&label, &predicted) in labels.iter().zip(&self.predicted) {
            counts[label as usize][predicted as usize] += 1;
        }
        counts
    }
}

/// How many classes are more probable than `label`; among equals the lower number is before.
fn rank(row: &[f32], label: u32) -> usize {
    let own = row[label as usize];
    row.iter().enumerate().filter(|&(class, &p)| p > own || (p == own && class < label as usize)).count()
}
