//! Class probabilities and predicted classes.

use headstock_heads::{Calibration, HeadError, Logits};

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
    #[must_use]
    pub fn from_probabilities(probabilities: Vec<f32>, logits: &Logits) -> Self {
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
    #[must_use]
    pub fn select(&self, samples: &[usize]) -> Self {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Isotonic calibration can give two classes the same probability though their logits differ.
    #[test]
    fn among_equal_probabilities_the_higher_logit_is_predicted_then_the_lower_number() {
        let predicted = |logits: [f32; 4]| {
            let logits = Logits::new(logits.to_vec(), 4).unwrap();
            Predictions::from_probabilities(vec![0.25; 4], &logits).predicted
        };
        assert_eq!(predicted([0.1, 0.0, 0.0, 0.3]), [3]);
        assert_eq!(predicted([0.1, 0.3, 0.3, 0.0]), [1]);
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
    }
}
