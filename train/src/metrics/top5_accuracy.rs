//! Top-5 accuracy.

use headstock_inference::Predictions;

use super::{Metric, WeightedMetric, mean};

/// The fraction of samples whose label is among the five most probable classes; 1 with up to five classes.
pub struct Top5Accuracy;

impl Metric for Top5Accuracy {
    fn key(&self) -> &'static str {
        "top5"
    }

    fn name(&self) -> &'static str {
        "top-5 accuracy"
    }

    fn about(&self) -> &'static str {
        "Fraction of photos whose true class is among the five most probable ones"
    }

    /// Heads hardly differ in it.
    fn is_compared(&self) -> bool {
        false
    }

    fn prepare(&self, predictions: &Predictions, labels: &[u32]) -> WeightedMetric {
        let rows = predictions.rows().zip(&predictions.predicted).zip(labels);
        // A predicted class is first even if others have the same probability, which `rank` does not know.
        mean(rows.map(|((row, predicted), label)| f64::from(predicted == label || rank(row, *label) < 5)))
    }
}

/// The number of classes that rank before `label`: those with a higher probability in `row` `[C]`, and those
/// with an equal probability and a lower class number.
fn rank(row: &[f32], label: u32) -> usize {
    let label_probability = row[label as usize];
    row.iter()
        .enumerate()
        .filter(|&(class, &p)| p > label_probability || (p == label_probability && class < label as usize))
        .count()
}

#[cfg(test)]
mod tests {
    use headstock_heads::Logits;

    use super::*;
    use crate::metrics::{Accuracy, Metrics};

    #[test]
    fn the_label_is_among_the_five_when_fewer_than_five_classes_are_before_it() {
        // Class 7 is the most probable; then come 1, 2 and 3, which are equal, and then 0, 4, 5 and 6.
        let row = vec![0.05, 0.15, 0.15, 0.15, 0.05, 0.05, 0.05, 0.35];
        let predictions = Predictions::from_probabilities(row.clone(), &Logits::new(row, 8).unwrap());
        let top5 = |label: u32| Metrics::from_predictions(&predictions, &[label])[&Top5Accuracy];
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
            let metrics = Metrics::from_predictions(&predictions, &[label]);
            (metrics[&Accuracy], metrics[&Top5Accuracy])
        };
        assert_eq!(top1_and_top5(6), (1.0, 1.0));
        assert_eq!(top1_and_top5(5), (0.0, 0.0));
    }
}
