//! Calibration by cross-validation: every training sample is predicted by a head that was fitted without it.

use std::collections::BTreeSet;

use headstock_heads::{Calibration, CalibrationMethod, ConfiguredHead, ConformalScores, Logits};
use headstock_inference::Predictions;
use headstock_split::{SplitIndices, stratified_folds};

use super::head_fitter::{HeadFitter, eval_logits};
use crate::error::TrainError;
use crate::metrics::{CalibrationError, LogLoss, Metrics};

/// Number of folds, if every class has at least as many samples or groups.
pub(crate) const MAX_FOLDS: usize = 5;

/// The result of calibration.
#[derive(Default)]
pub(crate) struct CalibrationResult {
    /// How the run turns logits into probabilities.
    pub(crate) calibration: Calibration,
    /// `None` if nothing was held out.
    pub(crate) held_out: Option<HeldOutResult>,
}

/// Results on the held-out samples.
pub(crate) struct HeldOutResult {
    /// Scores for conformal sets, from the final probabilities.
    pub(crate) conformal: ConformalScores,
    pub(crate) n_folds: usize,
    pub(crate) n_samples: usize,
    /// The metrics of the softmax of the raw logits.
    pub(crate) before: Metrics,
    /// The metrics of the final probabilities: each fold calibrated on the other folds, or equal to `before` if
    /// the calibration was rejected.
    pub(crate) after: Metrics,
    /// The requested method, if it was rejected because it brought no improvement.
    pub(crate) dropped: Option<CalibrationMethod>,
}

/// Calibrates the probabilities of `head` by cross-validation on the training samples `rows` (indices): fits
/// it without each fold in turn, and fits a calibration by `method` on the out-of-fold logits, as
/// [`evaluate_calibration`] does. The logits of samples that a head was fitted on would be overconfident. A
/// group (samples that belong together) is never split. Without two groups of each class it only warns.
pub(super) fn calibrate_by_folds(
    fitter: &mut HeadFitter<'_>,
    head: &dyn ConfiguredHead,
    rows: &[usize],
    method: CalibrationMethod,
) -> Result<CalibrationResult, TrainError> {
    if method == CalibrationMethod::None {
        return Ok(CalibrationResult::default());
    }
    let (labels, groups) = (fitter.samples.labels(rows), fitter.samples.groups_or_singletons(rows));
    let names = fitter.samples.classes.names();
    // Samples of a group are held out together: the groups of a class are divided into folds, not its
    // samples.
    let counts = count_groups_per_class(&labels, &groups, names.len());
    let fewest = counts.into_iter().zip(0..).min();
    let folds = match fewest {
        None | Some((0 | 1, _)) => {
            let class = fewest.map_or("", |(_, class): (_, usize)| names[class].as_str());
            let grouped = fitter.samples.groups(rows).is_some();
            let (found, wanted) = if grouped {
                ("training photos of only one group", "photos of at least two groups")
            } else {
                ("only one training photo", "at least two photos")
            };
            tracing::warn!(
                "the probabilities are not calibrated (corrected to match how often predictions are right), \
                 and the run has no scores of conformal sets: class `{class}` has \
                 {found}, but both need {wanted} of each class in the training set; add photos of this \
                 class"
            );
            return Ok(CalibrationResult::default());
        }
        Some((fewest, _)) => stratified_folds(&labels, Some(&groups), MAX_FOLDS.min(fewest)),
    };
    let logits = out_of_fold_logits(fitter, head, rows, &folds, "calibrating")?;
    let (held_out, folds) = reindex_held_out(&folds);
    let labels: Vec<u32> = held_out.iter().map(|&i| labels[i]).collect();
    Ok(evaluate_calibration(method, &select_rows(&logits, &held_out)?, &labels, &folds)?.0)
}

/// The number of different groups that the samples of each class are in. `labels` and `groups` are those of
/// the samples. Samples of a group, such as copies of an image, stay in one fold, so a class with a single
/// group cannot be split into folds.
pub(crate) fn count_groups_per_class(labels: &[u32], groups: &[u32], n_classes: usize) -> Vec<usize> {
    let pairs: BTreeSet<(u32, u32)> = labels.iter().copied().zip(groups.iter().copied()).collect();
    let mut counts = vec![0; n_classes];
    pairs.into_iter().for_each(|(label, _)| counts[label as usize] += 1);
    counts
}

/// Restricts cross-validation `folds` to the samples that some fold holds out: only these have out-of-fold
/// logits to calibrate on (a group that no fold can hold out has none). Returns the indices of these samples,
/// sorted, and the folds with each index replaced by its position in this list; other indices are dropped.
fn reindex_held_out(folds: &[SplitIndices]) -> (Vec<usize>, Vec<SplitIndices>) {
    let mut held_out: Vec<usize> = folds.iter().flat_map(|fold| &fold.test).copied().collect();
    held_out.sort_unstable();
    let reindex = |subset: &[usize]| subset.iter().filter_map(|i| held_out.binary_search(i).ok()).collect();
    let reindexed = folds
        .iter()
        .map(|fold| SplitIndices { train: reindex(&fold.train), test: reindex(&fold.test) })
        .collect();
    (held_out, reindexed)
}

/// Copies the logits of some `rows` (indices), in this order: `[rows.len(), C]`.
fn select_rows(logits: &Logits, rows: &[usize]) -> Result<Logits, TrainError> {
    let classes = logits.classes();
    let values = rows.iter().flat_map(|&row| &logits.as_slice()[row * classes..][..classes]);
    Ok(Logits::new(values.copied().collect(), classes)?)
}

/// Fits a calibration by `method` on held-out `logits` `[N, C]` with their `labels` `[N]`, and decides
/// whether to use it. To judge it, each of `folds` is calibrated by a calibration fitted on the other folds:
/// it is used only if that lowers the log-loss and does not raise the calibration error, and otherwise
/// dropped. Also fits, on the resulting probabilities, the scores from which conformal sets are made. Returns the
/// predictions with these probabilities, too: each fold calibrated on the other folds, or not at all.
pub(crate) fn evaluate_calibration(
    method: CalibrationMethod,
    logits: &Logits,
    labels: &[u32],
    folds: &[SplitIndices],
) -> Result<(CalibrationResult, Predictions), TrainError> {
    let uncalibrated = Predictions::new(logits);
    let calibrated = Predictions::from_probabilities(cross_calibrate(method, logits, labels, folds)?, logits);
    let before = Metrics::from_predictions(&uncalibrated, labels).of_probabilities();
    let after = Metrics::from_predictions(&calibrated, labels).of_probabilities();
    let improves =
        after[&LogLoss] < before[&LogLoss] && after[&CalibrationError] <= before[&CalibrationError];
    let (calibration, after, predictions) = if improves {
        (Calibration::fit(method, logits, labels)?, after, calibrated)
    } else {
        tracing::info!(
            "the probabilities are used as the head gives them: calibration ({}), which corrects \
             probabilities to match how often predictions are right, does not improve them on held-out \
             photos (without it: {before:.4}; with it: {after:.4}; lower is better)",
            method.as_str()
        );
        (Calibration::None, before.clone(), uncalibrated)
    };
    let held_out = HeldOutResult {
        conformal: ConformalScores::fit(&predictions.probabilities, labels)?,
        n_folds: folds.len(),
        n_samples: labels.len(),
        before,
        after,
        dropped: (!improves).then_some(method),
    };
    Ok((CalibrationResult { calibration, held_out: Some(held_out) }, predictions))
}

/// Computes the out-of-fold logits `[rows.len(), C]` of the samples `rows` (indices): the logits of each
/// sample by a head fitted without the sample's fold, to calibrate on; zero for a sample that no fold holds
/// out. The indices in `folds` are positions in `rows`. `task` says for what, in progress reports.
pub(super) fn out_of_fold_logits(
    fitter: &mut HeadFitter<'_>,
    head: &dyn ConfiguredHead,
    rows: &[usize],
    folds: &[SplitIndices],
    task: &str,
) -> Result<Logits, TrainError> {
    let classes = fitter.samples.classes.len();
    let mut all_logits = vec![0.0; rows.len() * classes];
    for (index, fold) in folds.iter().enumerate() {
        let rows_at = |indices: &[usize]| indices.iter().map(|&i| rows[i]).collect::<Vec<_>>();
        let task = format!("{task} {}, fold {} of {}", head.kind(), index + 1, folds.len());
        let (fitted, _) = fitter.fit(head, None, &rows_at(&fold.train), &task)?;
        let logits = eval_logits(fitted.head.as_ref(), fitter.features, &rows_at(&fold.test))?;
        scatter(logits.rows(), fold, &mut all_logits);
    }
    Ok(Logits::new(all_logits, classes)?)
}

/// Computes calibrated probabilities `[N, C]` of the samples with these `logits` `[N, C]` and `labels` `[N]`,
/// to judge the calibration `method`. Each fold is calibrated by a calibration fitted on the other folds, so
/// that a comparison of its probabilities with its labels is fair.
pub(crate) fn cross_calibrate(
    method: CalibrationMethod,
    logits: &Logits,
    labels: &[u32],
    folds: &[SplitIndices],
) -> Result<Vec<f32>, TrainError> {
    let classes = logits.classes();
    let mut all_probabilities = vec![0.0; logits.as_slice().len()];
    for fold in folds {
        let labels: Vec<u32> = fold.train.iter().map(|&i| labels[i]).collect();
        let calibration = Calibration::fit(method, &select_rows(logits, &fold.train)?, &labels)?;
        let probabilities = calibration.probabilities(&select_rows(logits, &fold.test)?)?;
        scatter(probabilities.chunks_exact(classes), fold, &mut all_probabilities);
    }
    Ok(all_probabilities)
}

/// Copies `rows` (logits or probabilities of the fold's held-out samples, in their order) to the positions of
/// these samples in `out` `[N, C]`.
pub(crate) fn scatter<'a>(rows: impl Iterator<Item = &'a [f32]>, fold: &SplitIndices, out: &mut [f32]) {
    for (row, &i) in rows.zip(&fold.test) {
        out[i * row.len()..][..row.len()].copy_from_slice(row);
    }
}

#[cfg(test)]
mod tests;
