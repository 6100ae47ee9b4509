//! Log-loss.

use headstock_inference::Predictions;

use super::{Metric, WeightedMetric, mean};

/// The mean of `-ln p(label)`: scikit-learn's `log_loss` on `float32` probabilities.
pub struct LogLoss;

impl Metric for LogLoss {
    fn key(&self) -> &'static str {
        "log_loss"
    }

    fn name(&self) -> &'static str {
        "log-loss"
    }

    fn about(&self) -> &'static str {
        "Mean of -ln(predicted probability of the true class), which punishes confident errors"
    }

    fn higher_is_better(&self) -> bool {
        false
    }

    fn measures_probabilities(&self) -> bool {
        true
    }

    fn prepare(&self, predictions: &Predictions, labels: &[u32]) -> WeightedMetric {
        // As in scikit-learn, the probability of the label is clamped, so that the loss is finite.
        let epsilon = f64::from(f32::EPSILON);
        let loss = |p: f32| -f64::from(p).clamp(epsilon, 1.0 - epsilon).ln();
        mean(predictions.rows().zip(labels).map(|(row, &label)| loss(row[label as usize])))
    }
}

#[cfg(test)]
mod tests {
    use headstock_heads::Logits;

    use super::*;

    #[test]
    fn log_loss_is_clamped_to_single_precision() {
        let least = f64::from(f32::EPSILON);
        let loss = |p: f32| {
            let row = vec![p, 1.0 - p];
            let predictions = Predictions::from_probabilities(row.clone(), &Logits::new(row, 2).unwrap());
            LogLoss.prepare(&predictions, &[0])(&[1])
        };
        assert!((loss(0.0) + least.ln()).abs() < 1e-12);
        assert!((loss(1.0) + (1.0 - least).ln()).abs() < 1e-12);
        assert!((loss(0.25) - 4f64.ln()).abs() < 1e-12);
    }
}
