//! Calibrating a head on photos that it was not fitted on: the training photos, each predicted by a head that was fitted
//! without it.

use std::collections::BTreeSet;

use headstock_heads::folds::{Fold, stratified_folds};
use headstock_heads::{Calibration, CalibrationMethod, ConfiguredHead, ConformalScores, Logits};

use super::head_fitter::{HeadFitter, eval_logits};
use crate::error::TrainError;
use crate::metrics::{Predictions, ProbabilityMetrics};

/// Folds, where every class has so many photos, or groups of them.
pub(crate) const MAX_FOLDS: usize = 5;

/// What calibrating gives.
#[derive(Default)]
pub(crate) struct CalibrationResult {
    pub(crate) calibration: Calibration,
    /// None where nothing was held out.
    pub(crate) held_out: Option<HeldOutResult>,
}

/// What the photos that were held out in turn give.
pub(crate) struct HeldOutResult {
    pub(crate) conformal: ConformalScores,
    pub(crate) n_folds: usize,
    pub(crate) n_samples: usize,
    /// Of the logits' softmax.
    pub(crate) before: ProbabilityMetrics,
    /// Of each fold, calibrated by what the others give.
    pub(crate) after: ProbabilityMetrics,
    /// The method that was asked for and is not used, for it made things no better.
    pub(crate) dropped: Option<CalibrationMethod>,
}

/// Fits `head` on each part of `rows` that leaves a fold out, and calibrates by `method` on what these heads make of the folds,
/// as [`judge`] does. No group has photos on both sides of a fold.
pub(super) fn calibrate_by_folds(
    learner: &mut HeadFitter<'_>,
    head: &dyn ConfiguredHead,
    rows: &[usize],
    method: CalibrationMethod,
) -> Result<CalibrationResult, TrainError> {
    if method == CalibrationMethod::None {
        return Ok(CalibrationResult::default());
    }
    let (labels, groups) = (learner.samples.labels(rows), learner.samples.groups_or_singletons(rows));
    let names = learner.samples.classes.names();
    // Photos of a group are held out together: what a class has of them, not how many photos, can be divided.
    let mut of_class = vec![BTreeSet::new(); names.len()];
    for (&label, &group) in labels.iter().zip(&groups) {
        of_class[label as usize].insert(group);
    }
    let fewest = of_class.iter().map(BTreeSet::len).enumerate().map(|(class, count)| (count, class)).min();
    let folds = match fewest {
        None | Some((0 | 1, _)) => {
            let class = fewest.map_or("", |(_, class)| names[class].as_str());
            let grouped = learner.samples.groups(rows).is_some();
            let photos = if grouped { "training photos of one group" } else { "one training photo" };
            tracing::warn!(
                "probabilities are not calibrated, and there are no conformal sets: class `{class}` has {photos}, and a head \
                 that is fitted without it knows nothing of the class"
            );
            return Ok(CalibrationResult::default());
        }
        Some((fewest, _)) => stratified_folds(&labels, Some(&groups), MAX_FOLDS.min(fewest)),
    };
    let logits = out_of_fold_logits(learner, head, rows, &folds)?;
    let (held_out, folds) = reindex_held_out(&folds);
    let labels: Vec<u32> = held_out.iter().map(|&i| labels[i]).collect();
    evaluate_calibration(method, &select_rows(&logits, &held_out)?, &labels, &folds)
}

/// The rows that are held out by a fold, and the same folds of these alone: of a group that no fold can miss, nothing is known.
fn reindex_held_out(folds: &[Fold]) -> (Vec<usize>, Vec<Fold>) {
    let mut rows: Vec<usize> = folds.iter().flat_map(|fold| &fold.held_out).copied().collect();
    rows.sort_unstable();
    let among = |part: &[usize]| part.iter().filter_map(|row| rows.binary_search(row).ok()).collect();
    let folds = folds.iter().map(|fold| Fold { fit: among(&fold.fit), held_out: among(&fold.held_out) });
    let folds = folds.collect();
    (rows, folds)
}

/// The logits of some rows.
fn select_rows(logits: &Logits, rows: &[usize]) -> Result<Logits, TrainError> {
    let classes = logits.classes();
    let values = rows.iter().flat_map(|&row| &logits.as_slice()[row * classes..][..classes]);
    Ok(Logits::new(values.copied().collect(), classes)?)
}

/// Calibrates by `method` on logits of photos that were not fitted on, and scores the calibrated probabilities for conformal
/// sets. What is said of a fold comes from the others. A calibration stays only where it lowers the log-loss of the folds and
/// does not raise their calibration error.
pub(crate) fn evaluate_calibration(
    method: CalibrationMethod,
    logits: &Logits,
    labels: &[u32],
    folds: &[Fold],
) -> Result<CalibrationResult, TrainError> {
    let plain = Predictions::new(logits);
    let crossed = Predictions::from_probabilities(cross_calibrate(method, logits, labels, folds)?, logits);
    let (before, after) =
        (plain.metrics(labels).probability_metrics(), crossed.metrics(labels).probability_metrics());
    let better = after.log_loss < before.log_loss && after.ece <= before.ece;
    let (calibration, after, scored) = if better {
        (Calibration::fit(method, logits, labels)?, after, crossed)
    } else {
        tracing::info!(
            "probabilities stay as they are: calibrating them ({}) would not make them better on photos held out (log loss \
             {:.4} to {:.4}, calibration error {:.4} to {:.4})",
            method.as_str(),
            before.log_loss,
            after.log_loss,
            before.ece,
            after.ece
        );
        (Calibration::None, before, plain)
    };
    let held_out = HeldOutResult {
        conformal: ConformalScores::fit(&scored.probabilities, labels)?,
        n_folds: folds.len(),
        n_samples: labels.len(),
        before,
        after,
        dropped: (!better).then_some(method),
    };
    Ok(CalibrationResult { calibration, held_out: Some(held_out) })
}

/// The logits of each of `rows` by a head that was fitted without it, `[N, C]`.
fn out_of_fold_logits(
    learner: &mut HeadFitter<'_>,
    head: &dyn ConfiguredHead,
    rows: &[usize],
    folds: &[Fold],
) -> Result<Logits, TrainError> {
    let classes = learner.samples.classes.len();
    let mut all = vec![0.0; rows.len() * classes];
    for (number, fold) in folds.iter().enumerate() {
        let of = |part: &[usize]| part.iter().map(|&i| rows[i]).collect::<Vec<_>>();
        let what = format!("calibrating {}, fold {} of {}", head.kind(), number + 1, folds.len());
        let (fitted, _) = learner.fit(head, None, &of(&fold.fit), &what)?;
        scatter(
            eval_logits(fitted.head.as_ref(), learner.features, &of(&fold.held_out))?.rows(),
            fold,
            &mut all,
        );
    }
    Ok(Logits::new(all, classes)?)
}

/// The probabilities of each fold, calibrated on the others, `[N, C]`.
pub(crate) fn cross_calibrate(
    method: CalibrationMethod,
    logits: &Logits,
    labels: &[u32],
    folds: &[Fold],
) -> Result<Vec<f32>, TrainError> {
    let classes = logits.classes();
    let mut all = vec![0.0; logits.as_slice().len()];
    for fold in folds {
        let labels: Vec<u32> = fold.fit.iter().map(|&i| labels[i]).collect();
        let calibration = Calibration::fit(method, &select_rows(logits, &fold.fit)?, &labels)?;
        let probabilities = calibration.probabilities(&select_rows(logits, &fold.held_out)?)?;
        scatter(probabilities.chunks_exact(classes), fold, &mut all);
    }
    Ok(all)
}

/// Puts the rows of what was held out where they belong in `all`.
fn scatter<'a>(rows: impl Iterator<Item = &'a [f32]>, fold: &Fold, all: &mut [f32]) {
    for (row, &i) in rows.zip(&fold.held_out) {
        all[i * row.len()..][..row.len()].copy_from_slice(row);
    }
}

#[cfg(test)]
mod tests;
