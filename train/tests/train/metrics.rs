//! Metrics, compared with scikit-learn's.

use headstock_heads::Logits;
use headstock_inference::Predictions;
use headstock_train::metrics::{Metrics, confusion_matrix};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    classes: usize,
    logits: Vec<f32>,
    labels: Vec<u32>,
    #[serde(flatten)]
    metrics: Metrics,
}

#[test]
fn metrics_match_scikit_learn() {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/metrics/metrics.json"));
    let cases: Vec<Case> = serde_json::from_str(text).unwrap();
    for (number, case) in cases.into_iter().enumerate() {
        let logits = Logits::new(case.logits, case.classes).unwrap();
        let found = Metrics::from_predictions(&Predictions::new(&logits), &case.labels);
        assert_eq!(case.metrics.iter().count(), 5, "the reference has all metrics");
        for (metric, expected) in case.metrics.iter() {
            let found = found[metric];
            // scikit-learn's log_loss normalizes the probabilities once more, in single precision.
            assert!((found - expected).abs() < 1e-6, "case {number}, {metric:?}: {found} is not {expected}");
        }
    }
}

#[test]
fn a_tie_goes_to_the_lower_number_and_confusion_counts_every_sample() {
    let predictions = Predictions::new(&Logits::new(vec![1.0, 1.0, 0.0, 0.0, 2.0, 2.0], 3).unwrap());
    assert_eq!(predictions.predicted, [0, 1]);
    assert_eq!(confusion_matrix(&predictions, &[0, 2]), [[1, 0, 0], [0, 0, 0], [0, 1, 0]]);
}
