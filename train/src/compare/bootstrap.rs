//! Paired bootstrap intervals of the differences between candidates.

use rayon::prelude::*;

use super::results::MetricEstimate;
use crate::bootstrap::percentile_interval;
use crate::metrics::{MetricMap, Metrics, WeightedMetric};

/// Estimates the metrics of each candidate: the value, and a confidence interval of its difference to the
/// candidate with the index `best`, to see which may be as good as the best. `candidates[i]` has the metrics
/// of candidate `i`, `values[i]` their values on the data itself.
///
/// The intervals are percentiles over bootstrap resamples (Efron and Tibshirani 1993, chapter 13), of which
/// there are `resamples`. `draw(i)` returns how often each sample occurs in resample `i`. The comparison is
/// paired: all candidates get the same resamples.
pub(super) fn compare_to_best(
    candidates: &[&MetricMap<WeightedMetric>],
    values: &[&Metrics],
    best: usize,
    resamples: usize,
    draw: impl Fn(usize) -> Vec<u32> + Sync,
) -> Vec<MetricMap<MetricEstimate>> {
    if candidates.is_empty() {
        return Vec::new();
    }
    // The metrics of each resample and candidate.
    let resampled: Vec<Vec<Metrics>> = (0..resamples)
        .into_par_iter()
        .map(|resample| {
            let weights = draw(resample);
            candidates.iter().map(|metrics| metrics.map(|_, compute| compute(&weights))).collect()
        })
        .collect();
    let estimate = |candidate: usize| {
        values[candidate].map(|metric, &value| {
            let difference = |resample: &Vec<Metrics>| resample[candidate][metric] - resample[best][metric];
            let differences = resampled.iter().map(difference).collect();
            MetricEstimate { value, to_best: percentile_interval(differences) }
        })
    };
    (0..candidates.len()).into_par_iter().map(estimate).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use headstock_heads::Logits;
    use serde::Deserialize;

    use super::*;
    use headstock_inference::Predictions;

    use crate::bootstrap::Interval;
    use crate::compare::trial::compared_metrics;

    #[derive(Deserialize)]
    struct BootstrapReference {
        classes: usize,
        labels: Vec<u32>,
        /// By candidate.
        logits: Vec<Vec<f32>>,
        best: usize,
        resamples: Vec<Vec<usize>>,
        /// By candidate and metric: value, low, high.
        figures: Vec<BTreeMap<String, [f64; 3]>>,
    }

    #[test]
    fn intervals_are_those_of_scikit_learn_and_numpy_on_the_same_resamples() {
        let text = include_str!("../../../reference/compare/bootstrap.json");
        let reference: BootstrapReference = serde_json::from_str(text).unwrap();
        let metrics: Vec<_> = reference
            .logits
            .iter()
            .map(|logits| {
                let logits = Logits::new(logits.clone(), reference.classes).unwrap();
                compared_metrics(&Predictions::new(&logits), &reference.labels)
            })
            .collect();
        let (metrics, values): (Vec<_>, Vec<_>) =
            metrics.iter().map(|(metrics, values)| (metrics, values)).unzip();
        let draw = |resample: usize| {
            let mut weights = vec![0; reference.labels.len()];
            for &sample in &reference.resamples[resample] {
                weights[sample] += 1;
            }
            weights
        };
        let found = compare_to_best(&metrics, &values, reference.best, reference.resamples.len(), draw);
        assert_eq!(found.len(), reference.figures.len());
        for (number, (found, expected)) in found.iter().zip(&reference.figures).enumerate() {
            assert_eq!(found.iter().count(), expected.len());
            for (metric, estimate) in found.iter() {
                let MetricEstimate { value, to_best: Interval { low, high } } = *estimate;
                for (found, expected) in [value, low, high].iter().zip(expected[metric.key()]) {
                    // scikit-learn's log_loss normalizes the probabilities once more, in single precision.
                    assert!(
                        (found - expected).abs() < 1e-6,
                        "{number}, {metric:?}: {estimate:?}, {expected}"
                    );
                }
            }
        }
    }
}
