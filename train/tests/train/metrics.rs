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
    top1: f64,
    top5: f64,
    macro_f1: f64,
    log_loss: f64,
    ece: f64,
}

#[test]
fn metrics_match_scikit_learn() {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/metrics/metrics.json"));
    let cases: Vec<Case> = serde_json::from_str(text).unwrap();
    for (number, case) in cases.into_iter().enumerate() {
        let logits = Logits::new(case.logits, case.classes).unwrap();
        let found = Metrics::from_predictions(&Predictions::new(&logits), &case.labels);
        for (name, found, expected) in [
            ("top1", found.top1, case.top1),
            ("top5", found.top5, case.top5),
            ("macro_f1", found.macro_f1, case.macro_f1),
            ("log_loss", found.log_loss, case.log_loss),
            ("ece", found.ece, case.ece),
        ] {
            // scikit-learn's log_loss normalizes the probabilities once more, in single precision.
            assert!((found - expected).abs() < 1e-6, "case {number}, {name}: {found} is not {expected}");
        }
    }
}

#[test]
fn a_tie_goes_to_the_lower_number_and_confusion_counts_every_sample() {
    let predictions = Predictions::new(&Logits::new(vec![1.0, 1.0, 0.0, 0.0, 2.0, 2.0], 3).unwrap());
    assert_eq!(predictions.predicted, [0, 1]);
    assert_eq!(confusion_matrix(&predictions, &[0, 2]), [[1, 0, 0], [0, 0, 0], [0, 1, 0]]);
}
