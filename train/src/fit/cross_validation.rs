//! Cross-validation of a run without a test set: its figures are those of predictions out of fold.

use headstock_heads::{CalibrationMethod, ConfiguredHead, ConformalMethod, ConformalScores};
use headstock_inference::Predictions;
use headstock_split::{SplitIndices, stratified_group_k_fold, stratified_k_fold};

use super::calibrate::{CalibrationResult, evaluate_calibration, out_of_fold_logits};
use super::head_fitter::HeadFitter;
use crate::bootstrap::{BootstrapUnits, COVERAGE, metric_interval};
use crate::config::{DEFAULT_FOLDS, SplitOptions};
use crate::error::{Remedy, TrainError};
use crate::metrics::{Accuracy, MacroF1, Metric};
use crate::run::{CONFORMAL_COVERAGE, ConformalMetrics, CrossValidation, SetMetrics};

/// Predictions of all training samples, each by a head and a calibration that were fitted without its fold.
pub(crate) struct OutOfFold {
    pub(crate) predictions: Predictions,
    /// Of sets from scores of the other folds; `None` without calibration.
    pub(crate) conformal: Option<ConformalMetrics>,
    /// How the samples were divided, and confidence intervals.
    pub(crate) summary: CrossValidation,
}

/// Cross-validates `head` on the training samples `rows` (indices): fits it without each fold in turn and predicts the
/// fold. Hyperparameters that the head chooses itself are chosen in each fold anew. Also calibrates by `method` on these
/// predictions, for the head of the run. The folds are those of [`cross_validation_folds`] with the seed of the split.
pub(super) fn cross_validate(
    fitter: &mut HeadFitter<'_>,
    head: &dyn ConfiguredHead,
    rows: &[usize],
    method: CalibrationMethod,
    split: &SplitOptions,
) -> Result<(CalibrationResult, OutOfFold), TrainError> {
    let (labels, groups) = (fitter.samples.labels(rows), fitter.samples.groups(rows));
    let n_folds = split.folds.unwrap_or(DEFAULT_FOLDS) as usize;
    let folds = cross_validation_folds(&labels, groups.as_deref(), n_folds, split.seed)?;
    check_classes(&folds, &labels, fitter.samples.classes.names())?;
    let logits = out_of_fold_logits(fitter, head, rows, &folds, "cross-validating")?;
    let (calibration, predictions) = if method == CalibrationMethod::None {
        (CalibrationResult::default(), Predictions::new(&logits))
    } else {
        let (result, predictions) = evaluate_calibration(method, &logits, &labels, &folds)?;
        (result, predictions)
    };
    let has_sets = calibration.held_out.is_some();
    let conformal = has_sets.then(|| cross_conformal(&predictions, &labels, &folds)).transpose()?;
    let units = BootstrapUnits::new(labels.len(), groups.as_deref(), split.seed);
    let intervals: [&'static dyn Metric; 2] = [&Accuracy, &MacroF1];
    let intervals = intervals.map(|metric| {
        (metric.run_key().to_owned(), metric_interval(&metric.prepare(&predictions, &labels), &units))
    });
    let summary = CrossValidation {
        folds: n_folds,
        seed: split.seed,
        samples: labels.len(),
        groups: groups.is_some().then_some(units.n_units),
        coverage: COVERAGE,
        intervals: intervals.into_iter().collect(),
    };
    Ok((calibration, OutOfFold { predictions, conformal, summary }))
}

/// Divides samples with these `labels` into folds for a cross-validation: scikit-learn's `StratifiedKFold(shuffle=True)`
/// or, if `groups` has the group of each sample, `StratifiedGroupKFold(shuffle=True)`; `seed` is its `random_state`.
///
/// # Errors
/// [`TrainError::Data`] if there are too few samples or groups.
pub(crate) fn cross_validation_folds(
    labels: &[u32],
    groups: Option<&[u32]>,
    n_folds: usize,
    seed: u32,
) -> Result<Vec<SplitIndices>, TrainError> {
    let folds = match groups {
        Some(groups) => stratified_group_k_fold(labels, groups, n_folds, seed),
        None => stratified_k_fold(labels, n_folds, seed),
    };
    let data_error = |problem: String| TrainError::Data(problem).with_remedy(Remedy::FewerFolds);
    let folds = folds.map_err(|error| data_error(error.to_string()))?;
    if folds.iter().any(|fold| fold.test.is_empty() || fold.train.is_empty()) {
        return Err(data_error(format!("there are too few groups to fill {n_folds} folds")));
    }
    Ok(folds)
}

/// Refuses folds without which a class has no samples: a head that is fitted without the fold would not know the class.
fn check_classes(folds: &[SplitIndices], labels: &[u32], names: &[String]) -> Result<(), TrainError> {
    for fold in folds {
        let mut is_known = vec![false; names.len()];
        fold.train.iter().for_each(|&i| is_known[labels[i] as usize] = true);
        if let Some((class, _)) = names.iter().zip(is_known).find(|(_, known)| !known) {
            return Err(TrainError::Data(format!(
                "all photos of class `{class}` are in one fold of the cross-validation, so no head can be tested on \
                 them that has learned the class: add photos (or groups) of this class, leave the class out, or choose \
                 a test set"
            )));
        }
    }
    Ok(())
}

/// Metrics of the conformal sets of out-of-fold `predictions` with the true `labels` `[N]`. The scores for the sets of a fold
/// are those of the other folds, as the scores of a run are those of samples that it does not test.
fn cross_conformal(
    predictions: &Predictions,
    labels: &[u32],
    folds: &[SplitIndices],
) -> Result<ConformalMetrics, TrainError> {
    let mut sets = [Vec::new(), Vec::new()];
    let tested: Vec<usize> = folds.iter().flat_map(|fold| fold.test.iter().copied()).collect();
    for fold in folds {
        let others: Vec<u32> = fold.train.iter().map(|&i| labels[i]).collect();
        let scores = ConformalScores::fit(&predictions.select(&fold.train).probabilities, &others)?;
        for (method, sets) in [ConformalMethod::Lac, ConformalMethod::Aps].into_iter().zip(&mut sets) {
            let predictor = scores.set_predictor(CONFORMAL_COVERAGE, method)?;
            sets.extend(predictions.select(&fold.test).rows().map(|row| predictor.predict(row)));
        }
    }
    let tested_labels: Vec<u32> = tested.iter().map(|&i| labels[i]).collect();
    let [lac, aps] = sets.map(|sets| SetMetrics::from_sets(&sets, &tested_labels));
    Ok(ConformalMetrics { coverage: CONFORMAL_COVERAGE, lac, aps })
}
