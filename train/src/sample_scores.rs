//! Per-sample scores and the metrics computed from them, with sample weights.

use headstock_inference::Predictions;

/// Number of bins of equal width that the expected calibration error (ECE) sorts confidences into.
const N_BINS: usize = 15;

/// What the metrics need to know of a sample's prediction. It is computed once, so that `compare` can compute
/// metrics of many weightings of the same samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct SampleScore {
    label: u32,
    predicted: u32,
    /// `-ln p(label)`; the probability is clamped to `f32::EPSILON ..= 1 - f32::EPSILON`.
    loss: f64,
    /// Probability of the predicted class, and the index of its bin.
    confidence: f32,
    bin: u8,
}

impl SampleScore {
    /// The score of one sample: `probabilities` `[C]` of the classes, the number of the `predicted` class,
    /// and the true `label`. As in scikit-learn's `log_loss`, the probability of the label is clamped, so
    /// that the loss is finite.
    pub(crate) fn new(probabilities: &[f32], predicted: u32, label: u32) -> Self {
        let epsilon = f64::from(f32::EPSILON);
        let loss = -f64::from(probabilities[label as usize]).clamp(epsilon, 1.0 - epsilon).ln();
        let confidence = probabilities[predicted as usize];
        Self { label, predicted, loss, confidence, bin: confidence_bin(confidence) as u8 }
    }
}

/// The score of each sample, `[N]`, given its true label in `labels` `[N]`.
pub(crate) fn sample_scores(predictions: &Predictions, labels: &[u32]) -> Vec<SampleScore> {
    let rows = predictions.rows().zip(&predictions.predicted).zip(labels);
    rows.map(|((row, &predicted), &label)| SampleScore::new(row, predicted, label)).collect()
}

/// The index of the bin of the calibration error that a confidence, the probability of the predicted class,
/// is in. A bin contains its upper edge, not its lower one. Edges are rounded to `f32` as confidences are,
/// so that 1/5 is on an edge although the `f32` nearest to 0.2 is slightly larger.
fn confidence_bin(confidence: f32) -> usize {
    let upper = |bin: usize| ((bin + 1) as f64 / N_BINS as f64) as f32;
    (0..N_BINS - 1).find(|&bin| confidence <= upper(bin)).unwrap_or(N_BINS - 1)
}

/// Metrics of weighted samples; [`Metrics`](crate::metrics::Metrics) defines them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct WeightedMetrics {
    pub(crate) accuracy: f64,
    pub(crate) macro_f1: f64,
    pub(crate) log_loss: f64,
    pub(crate) ece: f64,
}

impl WeightedMetrics {
    /// Computes accuracy, macro F1, log-loss and expected calibration error (ECE) from the `scores` of
    /// predictions, with this number of `classes`. Sample `i` counts as if it occurred `weight(i)` times, as
    /// in a bootstrap sample; at least one weight must be positive.
    pub(crate) fn from_scores(scores: &[SampleScore], classes: usize, weight: impl Fn(usize) -> u32) -> Self {
        /// Weighted counts of a class.
        #[derive(Clone, Copy, Default)]
        struct ClassTally {
            /// Samples with this label plus samples predicted as this class: the denominator of F1.
            label_plus_predicted: u64,
            correct: u64,
        }
        let mut tallies = vec![ClassTally::default(); classes];
        // Bins of the calibration error: (sum of confidences, number of correct predictions).
        let mut bins = [(0.0, 0.0); N_BINS];
        let (mut samples, mut loss) = (0, 0.0);
        for (i, score) in scores.iter().enumerate() {
            let count = weight(i);
            if count == 0 {
                continue;
            }
            let is_correct = score.predicted == score.label;
            let count_f64 = f64::from(count);
            let count = u64::from(count);
            samples += count;
            loss += count_f64 * score.loss;
            tallies[score.label as usize].label_plus_predicted += count;
            tallies[score.predicted as usize].label_plus_predicted += count;
            let (confidence_sum, n_correct) = &mut bins[usize::from(score.bin)];
            *confidence_sum += count_f64 * f64::from(score.confidence);
            if is_correct {
                tallies[score.label as usize].correct += count;
                *n_correct += count_f64;
            }
        }
        let samples_f64 = samples as f64;
        let correct: u64 = tallies.iter().map(|class| class.correct).sum();
        let present = tallies.iter().filter(|class| class.label_plus_predicted > 0);
        let f1: Vec<f64> =
            present.map(|class| 2.0 * class.correct as f64 / class.label_plus_predicted as f64).collect();
        // ECE: |mean confidence - accuracy| of each bin, times the bin's number of samples, which turns both
        // means into the sums at hand; the division by all samples follows.
        let gaps = bins.iter().map(|(confidence, correct): &(f64, f64)| (confidence - correct).abs());
        Self {
            accuracy: correct as f64 / samples_f64,
            macro_f1: f1.iter().sum::<f64>() / f1.len() as f64,
            log_loss: loss / samples_f64,
            ece: gaps.sum::<f64>() / samples_f64,
        }
    }
}

#[cfg(test)]
mod tests {
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
        let score = |confidence: f32, hit: bool| {
            SampleScore::new(&[confidence, 1.0 - confidence], 0, u32::from(!hit))
        };
        let ece = |scores: &[SampleScore]| WeightedMetrics::from_scores(scores, 2, |_| 1).ece;
        // Bin (0.733, 0.8]: confidence 0.75 twice, correct once. Bin (0.8, 0.867]: 0.85 twice, correct twice.
        let scores = [score(0.75, true), score(0.75, false), score(0.85, true), score(0.85, true)];
        let expected = 0.5 * 0.25 + 0.5 * 0.15;
        assert!((ece(&scores) - expected).abs() < 1e-7, "{}", ece(&scores));
        // Within a bin over- and underconfidence cancel: (0.6, 0.667] has 0.61 and 0.65, one of two correct.
        let scores = [score(0.61, true), score(0.65, false)];
        assert!((ece(&scores) - (0.63 - 0.5)).abs() < 1e-7, "{}", ece(&scores));
        // 0.8 is on the edge: its bin is that of 0.75, not that of 0.85, so that the gaps do not cancel.
        let scores = [score(0.8, false), score(0.85, true)];
        assert!((ece(&scores) - (0.4 + 0.075)).abs() < 1e-7, "{}", ece(&scores));
    }

    #[test]
    fn a_weight_equals_that_many_repetitions() {
        let samples = [(0.9, 0, 0), (0.8, 0, 1), (0.6, 0, 2), (0.7, 0, 0)];
        let score = |&(p, predicted, label): &(f32, u32, u32)| {
            let rest = (1.0 - p) / 2.0;
            SampleScore::new(&[p, rest, rest], predicted, label)
        };
        let scores: Vec<SampleScore> = samples.iter().map(score).collect();
        let counts = [2, 1, 0, 3];
        let weighted = WeightedMetrics::from_scores(&scores, 3, |i| counts[i]);
        let repeated: Vec<SampleScore> = scores
            .iter()
            .zip(counts)
            .flat_map(|(score, n)| std::iter::repeat_n(*score, n as usize))
            .collect();
        let unweighted = WeightedMetrics::from_scores(&repeated, 3, |_| 1);
        for (found, expected) in [
            (weighted.accuracy, unweighted.accuracy),
            (weighted.macro_f1, unweighted.macro_f1),
            (weighted.log_loss, unweighted.log_loss),
            (weighted.ece, unweighted.ece),
        ] {
            assert!((found - expected).abs() < 1e-12, "{weighted:?} {unweighted:?}");
        }
        // Five of six samples are class 0, and all are predicted as class 0: F1 is 10/11 for class 0 and 0
        // for class 1; class 2 does not occur.
        assert!((weighted.accuracy - 5.0 / 6.0).abs() < 1e-12);
        assert!((weighted.macro_f1 - 10.0 / 11.0 / 2.0).abs() < 1e-12);
    }

    #[test]
    fn log_loss_is_clamped_to_single_precision() {
        let least = f64::from(f32::EPSILON);
        let loss = |p: f32| {
            WeightedMetrics::from_scores(&[SampleScore::new(&[p, 1.0 - p], 1, 0)], 2, |_| 1).log_loss
        };
        assert!((loss(0.0) + least.ln()).abs() < 1e-12);
        assert!((loss(1.0) + (1.0 - least).ln()).abs() < 1e-12);
        assert!((loss(0.25) - 4f64.ln()).abs() < 1e-12);
    }
}
