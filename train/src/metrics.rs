//! How good predictions are.

use headstock_heads::{Calibration, HeadError, Logits};
use serde::{Deserialize, Serialize};

/// Bins of the calibration error.
const BINS: usize = 15;

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
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / labels.len() as f64;
        let hit = |(predicted, label): (&u32, &u32)| f64::from(u8::from(predicted == label));
        let top1 = mean(&mut self.predicted.iter().zip(labels).map(hit));
        let among_five = |((row, &predicted), &label): ((&[f32], &u32), &u32)| {
            f64::from(u8::from(predicted == label || rank(row, label) < 5))
        };
        let top5 = mean(&mut self.rows().zip(&self.predicted).zip(labels).map(among_five));
        let least = f64::from(f32::EPSILON);
        let log_loss = mean(
            &mut self
                .rows()
                .zip(labels)
                .map(|(row, &label)| -f64::from(row[label as usize]).clamp(least, 1.0 - least).ln()),
        );
        Metrics { top1, top5, macro_f1: self.macro_f1(labels), log_loss, ece: self.ece(labels) }
    }

    fn macro_f1(&self, labels: &[u32]) -> f64 {
        let confusion = self.confusion(labels);
        let f1: Vec<f64> = (0..self.classes)
            .filter_map(|class| {
                let right = confusion[class][class];
                let labelled: usize = confusion[class].iter().sum();
                let predicted: usize = confusion.iter().map(|row| row[class]).sum();
                (labelled + predicted > 0).then(|| 2.0 * right as f64 / (labelled + predicted) as f64)
            })
            .collect();
        f1.iter().sum::<f64>() / f1.len() as f64
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

    fn ece(&self, labels: &[u32]) -> f64 {
        // Per bin: sum of confidences, of hits.
        let mut bins = [(0.0, 0.0); BINS];
        for ((row, &predicted), &label) in self.rows().zip(&self.predicted).zip(labels) {
            let confidence = f64::from(row[predicted as usize]);
            // A bin holds its upper edge, not its lower one.
            let bin = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
            bins[bin].0 += confidence;
            bins[bin].1 += f64::from(u8::from(predicted == label));
        }
        bins.iter().map(|(confidence, hits): &(f64, f64)| (confidence - hits).abs()).sum::<f64>()
            / labels.len() as f64
    }
}

/// How many classes are more probable than `label`; among equals the lower number is before.
fn rank(row: &[f32], label: u32) -> usize {
    let own = row[label as usize];
    row.iter().enumerate().filter(|&(class, &p)| p > own || (p == own && class < label as usize)).count()
}
