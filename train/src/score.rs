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
        // A bin holds its upper edge, not its lower one.
        let bin = ((f64::from(confidence) * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        Self { label, predicted, loss, confidence, bin: bin as u8 }
    }
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
