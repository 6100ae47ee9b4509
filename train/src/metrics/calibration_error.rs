//! The expected calibration error.

use headstock_inference::Predictions;

use super::{Metric, WeightedMetric};

/// Number of bins of equal width that confidences, the probabilities of the predicted classes, are sorted into.
const N_BINS: usize = 15;

/// The expected calibration error (ECE) of the most probable class, with 15 bins of equal width (Guo et al.
/// 2017).
pub struct CalibrationError;

impl Metric for CalibrationError {
    fn key(&self) -> &'static str {
        "ece"
    }

    fn name(&self) -> &'static str {
        "calibration error"
    }

    fn about(&self) -> &'static str {
        "Mean difference between the probability of the predicted class and the fraction of correct predictions"
    }

    fn higher_is_better(&self) -> bool {
        false
    }

    fn measures_probabilities(&self) -> bool {
        true
    }

    /// A head that always predicts the frequencies of the classes has a low one.
    fn can_rank(&self) -> bool {
        false
    }

    fn prepare(&self, predictions: &Predictions, labels: &[u32]) -> WeightedMetric {
        // Of each sample: its bin, its confidence, and 1 if the prediction is correct.
        let rows = predictions.rows().zip(&predictions.predicted).zip(labels);
        let samples: Vec<(usize, f64, f64)> = rows
            .map(|((row, &predicted), &label)| {
                let confidence = row[predicted as usize];
                (confidence_bin(confidence), f64::from(confidence), f64::from(predicted == label))
            })
            .collect();
        Box::new(move |weights| {
            // Of each bin: the sum of confidences and the number of correct predictions.
            let mut bins = [(0.0, 0.0); N_BINS];
            for (&(bin, confidence, correct), &weight) in samples.iter().zip(weights) {
                bins[bin].0 += f64::from(weight) * confidence;
                bins[bin].1 += f64::from(weight) * correct;
            }
            // |mean confidence - accuracy| of each bin, times the bin's number of samples, which turns both
            // means into the sums at hand; the division by all samples follows.
            let gaps = bins.iter().map(|(confidences, correct): &(f64, f64)| (confidences - correct).abs());
            gaps.sum::<f64>() / weights.iter().map(|&weight| f64::from(weight)).sum::<f64>()
        })
    }
}

/// The index of the bin that a confidence is in. A bin contains its upper edge, not its lower one. Edges are
/// rounded to `f32` as confidences are, so that 1/5 is on an edge although the `f32` nearest to 0.2 is
/// slightly larger.
fn confidence_bin(confidence: f32) -> usize {
    let upper = |bin: usize| ((bin + 1) as f64 / N_BINS as f64) as f32;
    (0..N_BINS - 1).find(|&bin| confidence <= upper(bin)).unwrap_or(N_BINS - 1)
}

#[cfg(test)]
mod tests {
    use headstock_heads::Logits;

    use super::*;

    #[test]
    fn a_bin_holds_its_upper_edge_and_not_its_lower_one() {
        assert_eq!(confidence_bin(0.0), 0);
        for k in 1..=N_BINS {
            let edge = (k as f64 / N_BINS as f64) as f32;
            assert_eq!(confidence_bin(edge), k - 1, "{edge}");
            assert_eq!(confidence_bin(edge.next_down()), k - 1, "below {edge}");
            assert_eq!(confidence_bin(edge.next_up()), k.min(N_BINS - 1), "above {edge}");
        }
        // Fractions of votes, divided in single or in double precision.
        assert_eq!([1.0 / 5.0, 2.0 / 5.0, 2.0 / 3.0].map(confidence_bin), [2, 5, 9]);
        assert_eq!([1.0f64 / 5.0, 2.0 / 5.0, 2.0 / 3.0].map(|share| confidence_bin(share as f32)), [2, 5, 9]);
    }

    /// By hand: accuracy and confidence differ within bins, but not overall.
    #[test]
    fn the_calibration_error_weighs_the_gaps_of_the_bins() {
        // Each sample: the confidence in class 0, and whether class 0 is the label.
        let ece = |samples: &[(f32, bool)]| {
            let rows: Vec<f32> = samples.iter().flat_map(|(p, _)| [*p, 1.0 - p]).collect();
            let predictions = Predictions::from_probabilities(rows.clone(), &Logits::new(rows, 2).unwrap());
            let labels: Vec<u32> = samples.iter().map(|(_, hit)| u32::from(!hit)).collect();
            CalibrationError.prepare(&predictions, &labels)(&vec![1; samples.len()])
        };
        // Bin (0.733, 0.8]: confidence 0.75 twice, correct once. Bin (0.8, 0.867]: 0.85 twice, correct twice.
        let found = ece(&[(0.75, true), (0.75, false), (0.85, true), (0.85, true)]);
        assert!((found - (0.5 * 0.25 + 0.5 * 0.15)).abs() < 1e-7, "{found}");
        // Within a bin over- and underconfidence cancel: (0.6, 0.667] has 0.61 and 0.65, one of two correct.
        let found = ece(&[(0.61, true), (0.65, false)]);
        assert!((found - (0.63 - 0.5)).abs() < 1e-7, "{found}");
        // 0.8 is on the edge: its bin is that of 0.75, not that of 0.85, so that the gaps do not cancel.
        let found = ece(&[(0.8, false), (0.85, true)]);
        assert!((found - (0.4 + 0.075)).abs() < 1e-7, "{found}");
    }
}
