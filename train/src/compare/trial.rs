//! A candidate in one fold, and in all folds.

use std::cmp::Ordering;
use std::time::Instant;

use headstock_heads::{
    Calibration, CalibrationMethod, ConfiguredHead, FeatureMatrix, FitContext, Fitted, HeadError, Logits,
    Tensors, TrainingSet,
};
use headstock_inference::Predictions;
use headstock_split::SplitIndices;
use tracing::Level;

use super::log_capture::capture_events;
use super::results::{CandidateScores, CandidateStatus, ChosenParameter, MetricEstimate};
use crate::metrics::{Accuracy, LogLoss, METRICS, Metric, MetricMap, Metrics, WeightedMetric};
use crate::statistics::median;

/// What came of a candidate, in one fold or in all: its result, or as an error that it failed or was left
/// out.
pub(super) type TrialOutcome<T> = Result<T, CandidateStatus>;

/// Adds the outcome of the next fold to `folds`, those of a candidate in earlier folds. A candidate that
/// failed or was left out in one fold stays failed or left out.
pub(super) fn add_fold(folds: &mut TrialOutcome<Vec<FoldTrial>>, outcome: TrialOutcome<FoldTrial>) {
    if let Ok(trials) = folds {
        match outcome {
            Ok(trial) => trials.push(trial),
            Err(status) => *folds = Err(status),
        }
    }
}

/// The result of a candidate in one fold.
pub(super) struct FoldTrial {
    /// The logits of the test samples, `[test samples, classes]`.
    logits: Logits,
    pub(super) fit_seconds: f64,
    predict_seconds: f64,
    /// The size of the fitted head's tensors.
    bytes: u64,
    /// The names and values of the hyperparameters that the fit chose itself.
    chosen: Vec<(&'static str, f64)>,
    warnings: Vec<String>,
}

/// Fits a head on the training samples of a cross-validation fold and predicts its test samples. The result
/// has the logits of the test samples, the times, and the warnings that the fit logged.
pub(super) fn fit_fold(
    head: &dyn ConfiguredHead,
    train_set: &TrainingSet<'_>,
    test_features: FeatureMatrix<'_>,
) -> TrialOutcome<FoldTrial> {
    let (trial, warnings) = capture_events(Level::WARN, || fit_and_predict(head, train_set, test_features));
    match trial {
        Ok(trial) => Ok(FoldTrial { warnings, ..trial }),
        Err(error) => Err(CandidateStatus::Failed { error: error.to_string() }),
    }
}

/// Fits `head` on the training samples of a fold, predicts its test samples, and measures the seconds of
/// both. Logits that are not finite are an error, because they have no metrics.
fn fit_and_predict(
    head: &dyn ConfiguredHead,
    train_set: &TrainingSet<'_>,
    test_features: FeatureMatrix<'_>,
) -> Result<FoldTrial, HeadError> {
    let started = Instant::now();
    let Fitted { head, chosen, .. } = head.fit(train_set, &FitContext::silent())?;
    let fit_seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let logits = head.logits(test_features)?;
    let predict_seconds = started.elapsed().as_secs_f64();
    if logits.as_slice().iter().any(|logit| !logit.is_finite()) {
        return Err(HeadError::Diverged("the logits are not finite".into()));
    }
    let bytes = tensor_bytes(&head.tensors()?);
    Ok(FoldTrial { logits, fit_seconds, predict_seconds, bytes, chosen, warnings: Vec::new() })
}

/// The total size of tensors in bytes.
fn tensor_bytes(tensors: &Tensors) -> u64 {
    tensors.values().map(|tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64).sum()
}

/// The cross-validated scores of a candidate.
pub(super) struct CvScores {
    /// The metrics of the predictions of all samples, each by the head that was not fitted on it.
    pub(super) metrics: MetricMap<WeightedMetric>,
    /// Their values, with each sample once.
    pub(super) values: Metrics,
    /// The temperature that calibrates the logits of each fold.
    temperatures: Vec<f64>,
    fit_seconds: f64,
    predict_seconds: f64,
    bytes: u64,
    chosen: Vec<ChosenParameter>,
    warnings: Vec<String>,
}

impl CvScores {
    /// Combines the results of a candidate in all folds into its cross-validated scores. `splits` are the
    /// folds, `labels` the true class of each sample. Before probabilities are made of the logits of a fold,
    /// the logits are divided by a temperature, which is fitted on the logits of the other folds, so that the
    /// probabilities match the frequencies and no sample is used for its own calibration.
    pub(super) fn from_folds(trials: &[FoldTrial], splits: &[SplitIndices], labels: &[u32]) -> Self {
        let test_labels: Vec<Vec<u32>> =
            splits.iter().map(|split| split.test.iter().map(|&sample| labels[sample]).collect()).collect();
        let mut probabilities = Vec::new();
        let mut predicted = Vec::new();
        let mut temperatures: Vec<f64> = Vec::with_capacity(trials.len());
        for (fold, trial) in trials.iter().enumerate() {
            let other_folds = (0..trials.len()).filter(|&other| other != fold);
            let (mut other_logits, mut other_labels) = (Vec::new(), Vec::new());
            for other in other_folds {
                other_logits.extend_from_slice(trials[other].logits.as_slice());
                other_labels.extend_from_slice(&test_labels[other]);
            }
            let calibration = Logits::new(other_logits, trial.logits.classes())
                .and_then(|logits| Calibration::fit(CalibrationMethod::Temperature, &logits, &other_labels))
                .expect("logits are finite, and each row has a label");
            temperatures.push(calibration.temperature().unwrap_or(1.0));
            let predictions = Predictions::with_calibration(&trial.logits, &calibration)
                .expect("logits are finite, and have the same number of classes");
            probabilities.extend(predictions.probabilities);
            predicted.extend(predictions.predicted);
        }
        let predictions = Predictions { probabilities, predicted, classes: trials[0].logits.classes() };
        let (metrics, values) = compared_metrics(&predictions.select(&fold_positions(splits)), labels);
        let mut warnings: Vec<String> = trials.iter().flat_map(|trial| trial.warnings.clone()).collect();
        warnings.sort_unstable();
        warnings.dedup();
        let median_of =
            |seconds: fn(&FoldTrial) -> f64| median(trials.iter().map(seconds).collect()).unwrap_or(0.0);
        Self {
            metrics,
            values,
            temperatures,
            fit_seconds: median_of(|trial| trial.fit_seconds),
            predict_seconds: median_of(|trial| trial.predict_seconds),
            bytes: trials.iter().map(|trial| trial.bytes).max().unwrap_or(0),
            chosen: collect_chosen(trials),
            warnings,
        }
    }

    /// Compares two candidates for sorting, so that the better one comes first: by `metric`, and if it is
    /// equal, by log-loss and then by accuracy.
    pub(super) fn compare_by(&self, other: &Self, metric: &'static dyn Metric) -> Ordering {
        let by_metric = |metric: &'static dyn Metric| {
            let order = self.values[metric].total_cmp(&other.values[metric]);
            if metric.higher_is_better() { order.reverse() } else { order }
        };
        by_metric(metric).then_with(|| by_metric(&LogLoss)).then_with(|| by_metric(&Accuracy))
    }

    /// Converts to the scores that the results of the comparison show. `metrics` are the candidate's metrics
    /// with confidence intervals of their differences to the best candidate; `metric` is the one that ranks.
    /// A candidate is tied with the best, and may be as good, if the interval for `metric` contains 0.
    pub(super) fn into_candidate_scores(
        self,
        metrics: MetricMap<MetricEstimate>,
        metric: &dyn Metric,
    ) -> CandidateScores {
        let to_best = metrics[metric].to_best;
        CandidateScores {
            metrics,
            tied: to_best.low <= 0.0 && to_best.high >= 0.0,
            temperatures: self.temperatures,
            fit_seconds: self.fit_seconds,
            predict_seconds: self.predict_seconds,
            bytes: self.bytes,
            chosen: self.chosen,
            warnings: self.warnings,
        }
    }
}

/// The metrics that a comparison has, of `predictions` for samples with the true `labels` `[N]`, and their
/// values with each sample once.
pub(super) fn compared_metrics(
    predictions: &Predictions,
    labels: &[u32],
) -> (MetricMap<WeightedMetric>, Metrics) {
    let compared = METRICS.iter().filter(|metric| metric.is_compared());
    let metrics: MetricMap<WeightedMetric> =
        compared.map(|&metric| (metric, metric.prepare(predictions, labels))).collect();
    let weights = vec![1; labels.len()];
    let values = metrics.map(|_, compute| compute(&weights));
    (metrics, values)
}

/// The position of each sample in the test sets of all folds one after the other: each sample is in one.
fn fold_positions(splits: &[SplitIndices]) -> Vec<usize> {
    let tested: Vec<usize> = splits.iter().flat_map(|split| &split.test).copied().collect();
    let mut positions = vec![0; tested.len()];
    for (position, &sample) in tested.iter().enumerate() {
        positions[sample] = position;
    }
    positions
}

/// The hyperparameters that the fits of a candidate chose themselves, such as a regularization strength, each
/// with its values in all folds, for the results. `trials` are the fits of all folds, which choose the same
/// parameters.
fn collect_chosen(trials: &[FoldTrial]) -> Vec<ChosenParameter> {
    let first = trials.first().map(|trial| trial.chosen.as_slice()).unwrap_or_default();
    let values_of = |name: &str| {
        let chosen = trials.iter().flat_map(|trial| &trial.chosen);
        chosen.filter(|(parameter, _)| *parameter == name).map(|(_, value)| *value).collect()
    };
    first
        .iter()
        .map(|(parameter, _)| ChosenParameter {
            parameter: (*parameter).to_owned(),
            values: values_of(parameter),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    fn trial(logits: &[f32], seconds: f64, bytes: u64, chosen: f64, warning: &str) -> FoldTrial {
        FoldTrial {
            logits: Logits::new(logits.to_vec(), 2).unwrap(),
            fit_seconds: seconds,
            predict_seconds: seconds / 4.0,
            bytes,
            chosen: vec![("C", chosen)],
            warnings: vec![warning.into(), "always".into()],
        }
    }

    #[test]
    fn fold_results_are_combined() {
        let splits = [[1, 2], [0, 3]].map(|test| SplitIndices { train: Vec::new(), test: test.to_vec() });
        let trials = [
            trial(&[3.0, 0.0, 0.0, 3.0], 4.0, 12, 0.5, "b"),
            trial(&[0.0, 3.0, 0.0, 1.0], 2.0, 16, 2.0, "a"),
        ];
        let scored = CvScores::from_folds(&trials, &splits, &[1, 0, 1, 0]);
        assert_eq!((scored.fit_seconds, scored.predict_seconds, scored.bytes), (3.0, 0.75, 16));
        assert_eq!(scored.chosen, [ChosenParameter { parameter: "C".into(), values: vec![0.5, 2.0] }]);
        assert_eq!(scored.warnings, ["a", "always", "b"]);
        // Scores are in the order of the samples: only sample 3 is predicted wrongly.
        assert_eq!(scored.values[&Accuracy], 0.75);
        assert_eq!(scored.metrics[&Accuracy](&[0, 0, 0, 1]), 0.0);
        // The first fold is correct twice with the same confidence: two of two give a probability of 3 / 4.
        assert!((scored.temperatures[1] - 3.0 / 3f64.ln()).abs() < 1e-4, "{:?}", scored.temperatures);
        // The second fold is correct with margin 3 and wrong with margin 1: the derivative of the loss is 0.
        let probability = |logit: f64| 1.0 / (1.0 + (-logit / scored.temperatures[0]).exp());
        assert!(
            (3.0 * (1.0 - probability(3.0)) - probability(1.0)).abs() < 1e-4,
            "{:?}",
            scored.temperatures
        );
    }

    #[test]
    fn a_candidate_that_failed_in_a_fold_has_failed() {
        let done = || Ok(trial(&[1.0, 0.0], 1.0, 1, 1.0, ""));
        let failed = || Err(CandidateStatus::Failed { error: "no".into() });
        let left_out = || Err(CandidateStatus::LeftOut);
        let outcome_of = |folds: Vec<TrialOutcome<FoldTrial>>| {
            let mut outcome = Ok(Vec::new());
            folds.into_iter().for_each(|fold| add_fold(&mut outcome, fold));
            match outcome {
                Ok(trials) => format!("{} folds", trials.len()),
                Err(CandidateStatus::Failed { error }) => error,
                Err(status) => format!("{status:?}"),
            }
        };
        assert_eq!(outcome_of(vec![done(), done()]), "2 folds");
        assert_eq!(outcome_of(vec![done(), failed(), done()]), "no");
        assert_eq!(outcome_of(vec![failed(), left_out()]), "no");
        assert_eq!(outcome_of(vec![left_out(), done()]), "LeftOut");
    }

    #[test]
    fn bytes_are_those_of_all_tensors() {
        let zeros = |shape: (usize, usize), dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
        let tensors = Tensors::from([
            ("a".into(), zeros((3, 5), DType::F32)),
            ("b".into(), zeros((2, 2), DType::F64)),
            ("c".into(), zeros((7, 1), DType::U8)),
        ]);
        assert_eq!(tensor_bytes(&tensors), 60 + 32 + 7);
    }
}
