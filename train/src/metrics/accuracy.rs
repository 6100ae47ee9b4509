//! Accuracy.

use headstock_inference::Predictions;

use super::{Metric, WeightedMetric, mean};

/// The fraction of samples whose most probable class is the label.
pub struct Accuracy;

impl Metric for Accuracy {
    fn key(&self) -> &'static str {
        "accuracy"
    }

    fn run_key(&self) -> &'static str {
        "top1"
    }

    fn name(&self) -> &'static str {
        "accuracy"
    }

    fn about(&self) -> &'static str {
        "Fraction of photos that are classified correctly"
    }

    fn prepare(&self, predictions: &Predictions, labels: &[u32]) -> WeightedMetric {
        mean(predictions.predicted.iter().zip(labels).map(|(predicted, label)| f64::from(predicted == label)))
    }
}
