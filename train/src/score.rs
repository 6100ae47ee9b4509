//! What the figures of a test are made of: how each sample was predicted.

/// Bins of the calibration error.
const BINS: usize = 15;

/// How a sample was predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Score {
    label: u32,
    predicted: u32,
    /// `-ln p(label)`, of a probability that is neither 0 nor 1 in `f32`.
    loss: f64,
    /// The probability of the predicted class, and the bin that it is in.
    confidence: f32,
    bin: u8,
}

impl Score {
    /// Of the `probabilities` of each class.
    pub(crate) fn new(probabilities: &[f32], predicted: u32, label: u32) -> Self {
        let least = f64::from(f32::EPSILON);
        let loss = -f64::from(probabilities[label as usize]).clamp(least, 1.0 - least).ln();
        let confidence = probabilities[predicted as usize];
        Self { label, predicted, loss, confidence, bin: bin(confidence) as u8 }
    }
}

/// The bin of a confidence. A bin holds its upper edge, not its lower one; edges are as exact as confidences are: one of a fifth is
/// on an edge, though the `f32` next to 0.2 is a little more.
fn bin(confidence: f32) -> usize {
    let upper = |bin: usize| ((bin + 1) as f64 / BINS as f64) as f32;
    (0..BINS - 1).find(|&bin| confidence <= upper(bin)).unwrap_or(BINS - 1)
}

/// Figures of scores; what each is, [`Metrics`](crate::metrics::Metrics) says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) accuracy: f64,
    pub(crate) macro_f1: f64,
    pub(crate) log_loss: f64,
    pub(crate) ece: f64,
}

impl Figures {
    /// Sample `i` counts `weight(i)` times; one at least counts.
    pub(crate) fn of(scores: &[Score], classes: usize, weight: impl Fn(usize) -> u32) -> Self {
        /// Counts of a class.
        #[derive(Clone, Copy, Default)]
        struct Class {
            /// Samples of the class, and those predicted to be: right ones count twice.
            either: u64,
            right: u64,
        }
        let mut of_class = vec![Class::default(); classes];
        // Per bin: sum of confidences, of hits.
        let mut bins = [(0.0, 0.0); BINS];
        let (mut samples, mut loss) = (0, 0.0);
        for (i, score) in scores.iter().enumerate() {
            let count = weight(i);
            if count == 0 {
                continue;
            }
            let (weight, hit) = (f64::from(count), score.predicted == score.label);
            let count = u64::from(count);
            samples += count;
            loss += weight * score.loss;
            of_class[score.label as usize].either += count;
            of_class[score.predicted as usize].either += count;
            let bin = &mut bins[usize::from(score.bin)];
            bin.0 += weight * f64::from(score.confidence);
            if hit {
                of_class[score.label as usize].right += count;
                bin.1 += weight;
            }
        }
        let samples_f64 = samples as f64;
        let right: u64 = of_class.iter().map(|class| class.right).sum();
        let met = of_class.iter().filter(|class| class.either > 0);
        let f1: Vec<f64> = met.map(|class| 2.0 * class.right as f64 / class.either as f64).collect();
        let gaps = bins.iter().map(|(confidence, hits): &(f64, f64)| (confidence - hits).abs());
        Self {
            accuracy: right as f64 / samples_f64,
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
        assert_eq!(bin(0.0), 0);
        for k in 1..=BINS {
            let edge = (k as f64 / BINS as f64) as f32;
            assert_eq!(bin(edge), k - 1, "{edge}");
            assert_eq!(bin(edge.next_down()), k - 1, "below {edge}");
            assert_eq!(bin(edge.next_up()), k.min(BINS - 1), "above {edge}");
        }
        // What a share of votes is, divided in single or in double precision.
        assert_eq!([1.0 / 5.0, 2.0 / 5.0, 2.0 / 3.0].map(bin), [2, 5, 9]);
        assert_eq!([1.0f64 / 5.0, 2.0 / 5.0, 2.0 / 3.0].map(|share| bin(share as f32)), [2, 5, 9]);
    }

    /// Eight samples by hand: what is right and what is said differ by bin, not in all.
    #[test]
    fn the_calibration_error_weighs_the_gaps_of_the_bins() {
        let score =
            |confidence: f32, hit: bool| Score::new(&[confidence, 1.0 - confidence], 0, u32::from(!hit));
        let of = |scores: &[Score]| Figures::of(scores, 2, |_| 1).ece;
        // Bin (0.733, 0.8]: said 0.75 twice, right once. Bin (0.8, 0.867]: said 0.85 twice, right twice.
        let scores = [score(0.75, true), score(0.75, false), score(0.85, true), score(0.85, true)];
        let expected = 0.5 * 0.25 + 0.5 * 0.15;
        assert!((of(&scores) - expected).abs() < 1e-7, "{}", of(&scores));
        // Within one bin a surplus makes up for a lack: (0.6, 0.667] said 0.61 and 0.65, right once of two.
        let scores = [score(0.61, true), score(0.65, false)];
        assert!((of(&scores) - (0.63 - 0.5)).abs() < 1e-7, "{}", of(&scores));
        // 0.8 is on the edge: it lies with 0.75, not with 0.85, so that the gaps do not make up for each other.
        let scores = [score(0.8, false), score(0.85, true)];
        assert!((of(&scores) - (0.4 + 0.075)).abs() < 1e-7, "{}", of(&scores));
    }

    #[test]
    fn a_sample_that_counts_twice_is_two_samples_and_one_that_counts_nothing_is_none() {
        let samples = [(0.9, 0, 0), (0.8, 0, 1), (0.6, 0, 2), (0.7, 0, 0)];
        let score = |&(p, predicted, label): &(f32, u32, u32)| {
            let rest = (1.0 - p) / 2.0;
            Score::new(&[p, rest, rest], predicted, label)
        };
        let scores: Vec<Score> = samples.iter().map(score).collect();
        let counts = [2, 1, 0, 3];
        let weighted = Figures::of(&scores, 3, |i| counts[i]);
        let repeated: Vec<Score> = scores
            .iter()
            .zip(counts)
            .flat_map(|(score, n)| std::iter::repeat_n(*score, n as usize))
            .collect();
        let plain = Figures::of(&repeated, 3, |_| 1);
        for (one, other) in [
            (weighted.accuracy, plain.accuracy),
            (weighted.macro_f1, plain.macro_f1),
            (weighted.log_loss, plain.log_loss),
            (weighted.ece, plain.ece),
        ] {
            assert!((one - other).abs() < 1e-12, "{weighted:?} {plain:?}");
        }
        // Of six, five are class 0, all predicted: F1 10/11 of class 0, 0 of class 1, and class 2 is not met.
        assert!((weighted.accuracy - 5.0 / 6.0).abs() < 1e-12);
        assert!((weighted.macro_f1 - 10.0 / 11.0 / 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_probability_of_nothing_or_all_costs_what_single_precision_can_tell() {
        let least = f64::from(f32::EPSILON);
        let loss = |p: f32| Figures::of(&[Score::new(&[p, 1.0 - p], 1, 0)], 2, |_| 1).log_loss;
        assert!((loss(0.0) + least.ln()).abs() < 1e-12);
        assert!((loss(1.0) + (1.0 - least).ln()).abs() < 1e-12);
        assert!((loss(0.25) - 4f64.ln()).abs() < 1e-12);
    }
}
