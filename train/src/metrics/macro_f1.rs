//! Macro F1.

use headstock_inference::Predictions;

use super::{Metric, WeightedMetric};

/// The mean F1 score of the classes that occur or are predicted: scikit-learn's `f1_score(average="macro")`.
pub struct MacroF1;

impl Metric for MacroF1 {
    fn key(&self) -> &'static str {
        "macro_f1"
    }

    fn name(&self) -> &'static str {
        "macro F1"
    }

    fn about(&self) -> &'static str {
        "Mean over the classes of the F1 score (harmonic mean of precision and recall), so that rare classes \
         count as much as frequent ones"
    }

    fn prepare(&self, predictions: &Predictions, labels: &[u32]) -> WeightedMetric {
        let classes = predictions.classes;
        let (predicted, labels) = (predictions.predicted.clone(), labels.to_vec());
        Box::new(move |weights| {
            // Of each class: the correct samples, and the samples with this label plus those predicted as
            // it, the denominator of F1.
            let mut tallies = vec![(0u64, 0u64); classes];
            for ((&predicted, &label), &weight) in predicted.iter().zip(&labels).zip(weights) {
                let weight = u64::from(weight);
                tallies[label as usize].0 += if predicted == label { weight } else { 0 };
                tallies[label as usize].1 += weight;
                tallies[predicted as usize].1 += weight;
            }
            tallies.retain(|&(_, label_plus_predicted)| label_plus_predicted > 0);
            let f1 = tallies.iter().map(|&(correct, both)| 2.0 * correct as f64 / both as f64);
            f1.sum::<f64>() / tallies.len() as f64
        })
    }
}
