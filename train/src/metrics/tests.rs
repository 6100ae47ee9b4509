use std::collections::{BTreeMap, BTreeSet};

use headstock_heads::Logits;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct MetricsCase {
    classes: usize,
    probabilities: Vec<f32>,
    labels: Vec<u32>,
    predicted: Vec<u32>,
    confusion: Vec<Vec<usize>>,
    #[serde(flatten)]
    metrics: Metrics,
}

#[test]
fn metrics_with_ties_absent_classes_and_bin_edges_match_scikit_learn_and_guo() {
    let text = include_str!("../../../reference/metrics/probabilities.json");
    let cases: BTreeMap<String, MetricsCase> = serde_json::from_str(text).unwrap();
    assert_eq!(cases.len(), 7);
    for (name, case) in cases {
        let logits = Logits::new(case.probabilities.clone(), case.classes).unwrap();
        let predictions = Predictions::from_probabilities(case.probabilities, &logits);
        assert_eq!(predictions.predicted, case.predicted, "{name}");
        assert_eq!(confusion_matrix(&predictions, &case.labels), case.confusion, "{name}");
        let found = Metrics::from_predictions(&predictions, &case.labels);
        assert_eq!(case.metrics.iter().count(), 5, "the reference has all metrics");
        for (metric, expected) in case.metrics.iter() {
            // scikit-learn's log_loss normalizes the probabilities once more, in single precision.
            let found = found[metric];
            assert!((found - expected).abs() < 1e-6, "{name}, {metric:?}: {found}, not {expected}");
        }
    }
}

#[test]
fn a_weight_equals_that_many_repetitions() {
    let samples = [(0.9, 0), (0.8, 1), (0.6, 2), (0.7, 0)];
    let weighted = |counts: [u32; 4], weights: &[u32]| -> Metrics {
        let repeated =
            samples.iter().zip(counts).flat_map(|(sample, n)| std::iter::repeat_n(sample, n as usize));
        let (rows, labels): (Vec<[f32; 3]>, Vec<u32>) =
            repeated.map(|&(p, label)| ([p, (1.0 - p) / 2.0, (1.0 - p) / 2.0], label)).unzip();
        let logits = Logits::new(rows.concat(), 3).unwrap();
        let predictions = Predictions::from_probabilities(rows.concat(), &logits);
        METRICS.iter().map(|&metric| (metric, metric.prepare(&predictions, &labels)(weights))).collect()
    };
    let counts = [2, 1, 0, 3];
    let (found, expected) = (weighted([1; 4], &counts), weighted(counts, &[1; 6]));
    for (metric, expected) in expected.iter() {
        assert!((found[metric] - expected).abs() < 1e-12, "{metric:?}: {found:?} {expected:?}");
    }
    // Five of six samples are class 0, and all are predicted as class 0: F1 is 10/11 for class 0 and 0 for
    // class 1; class 2 does not occur.
    assert!((found[&Accuracy] - 5.0 / 6.0).abs() < 1e-12);
    assert!((found[&MacroF1] - 10.0 / 11.0 / 2.0).abs() < 1e-12);
}

#[test]
fn metrics_are_written_and_read_by_their_names_and_other_fields_are_ignored() {
    let predictions = Predictions::new(&Logits::new(vec![1.0, 0.0], 2).unwrap());
    let metrics = Metrics::from_predictions(&predictions, &[0]);
    let text = serde_json::to_string(&metrics).unwrap();
    let found: BTreeMap<String, f64> = serde_json::from_str(&text).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["ece", "log_loss", "macro_f1", "top1", "top5"]);
    assert_eq!(serde_json::from_str::<Metrics>(&text).unwrap(), metrics);
    let partial: Metrics = serde_json::from_str(r#"{"top1": 0.5, "counts": {"test": 3}}"#).unwrap();
    assert_eq!(partial.to_string(), "accuracy 0.500");
    assert_eq!(
        metrics.of_probabilities().iter().map(|(metric, _)| metric.key()).collect::<Vec<_>>(),
        ["log_loss", "ece"]
    );
}

#[test]
fn no_two_metrics_share_a_name() {
    let names = METRICS.map(|metric| [metric.key(), metric.run_key(), metric.name()]);
    for kind in 0..3 {
        assert_eq!(names.iter().map(|names| names[kind]).collect::<BTreeSet<_>>().len(), METRICS.len());
    }
}
