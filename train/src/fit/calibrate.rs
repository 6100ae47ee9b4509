//! Calibrating a head on photos that it was not fitted on: the training photos, each predicted by a head that was fitted
//! without it.

use std::collections::BTreeSet;

use headstock_heads::folds::{Fold, stratified};
use headstock_heads::{Calibration, CalibrationMethod, ConfiguredHead, Conformal, Logits};

use super::learn::{Learner, logits};
use crate::error::TrainError;
use crate::metrics::{Predictions, Reliability};

/// Folds, where every class has so many photos, or groups of them.
pub(crate) const FOLDS: usize = 5;

/// What calibrating gives.
#[derive(Default)]
pub(crate) struct Calibrated {
    pub(crate) calibration: Calibration,
    /// None where nothing was held out.
    pub(crate) held_out: Option<HeldOut>,
}

/// What the photos that were held out in turn give.
pub(crate) struct HeldOut {
    pub(crate) conformal: Conformal,
    pub(crate) folds: usize,
    pub(crate) samples: usize,
    /// Of the logits' softmax.
    pub(crate) before: Reliability,
    /// Of each fold, calibrated by what the others give.
    pub(crate) after: Reliability,
    /// The method that was asked for and is not used, for it made things no better.
    pub(crate) dropped: Option<CalibrationMethod>,
}

/// Fits `head` on each part of `rows` that leaves a fold out, and calibrates by `method` on what these heads make of the folds,
/// as [`judge`] does. No group has photos on both sides of a fold.
pub(super) fn calibrate(
    learner: &mut Learner<'_>,
    head: &dyn ConfiguredHead,
    rows: &[usize],
    method: CalibrationMethod,
) -> Result<Calibrated, TrainError> {
    if method == CalibrationMethod::None {
        return Ok(Calibrated::default());
    }
    let (labels, groups) = (learner.samples.labels(rows), learner.samples.tied(rows));
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
            return Ok(Calibrated::default());
        }
        Some((fewest, _)) => stratified(&labels, Some(&groups), FOLDS.min(fewest)),
    };
    let logits = out_of_fold(learner, head, rows, &folds)?;
    let (held_out, folds) = of_held_out(&folds);
    let labels: Vec<u32> = held_out.iter().map(|&i| labels[i]).collect();
    judge(method, &only(&logits, &held_out)?, &labels, &folds)
}

/// The rows that are held out by a fold, and the same folds of these alone: of a group that no fold can miss, nothing is known.
fn of_held_out(folds: &[Fold]) -> (Vec<usize>, Vec<Fold>) {
    let mut rows: Vec<usize> = folds.iter().flat_map(|fold| &fold.held_out).copied().collect();
    rows.sort_unstable();
    let among = |part: &[usize]| part.iter().filter_map(|row| rows.binary_search(row).ok()).collect();
    let folds = folds.iter().map(|fold| Fold { fit: among(&fold.fit), held_out: among(&fold.held_out) });
    let folds = folds.collect();
    (rows, folds)
}

/// The logits of some rows.
fn only(logits: &Logits, rows: &[usize]) -> Result<Logits, TrainError> {
    let classes = logits.classes();
    let values = rows.iter().flat_map(|&row| &logits.as_slice()[row * classes..][..classes]);
    Ok(Logits::new(values.copied().collect(), classes)?)
}

/// Calibrates by `method` on logits of photos that were not fitted on, and scores the calibrated probabilities for conformal
/// sets. What is said of a fold comes from the others. A calibration stays only where it lowers the log-loss of the folds and
/// does not raise their calibration error.
pub(crate) fn judge(
    method: CalibrationMethod,
    logits: &Logits,
    labels: &[u32],
    folds: &[Fold],
) -> Result<Calibrated, TrainError> {
    let plain = Predictions::new(logits);
    let crossed = Predictions::with(crossed(method, logits, labels, folds)?, logits);
    let (before, after) = (plain.metrics(labels).reliability(), crossed.metrics(labels).reliability());
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
    let held_out = HeldOut {
        conformal: Conformal::fit(&scored.probabilities, labels)?,
        folds: folds.len(),
        samples: labels.len(),
        before,
        after,
        dropped: (!better).then_some(method),
    };
    Ok(Calibrated { calibration, held_out: Some(held_out) })
}

/// The logits of each of `rows` by a head that was fitted without it, `[N, C]`.
fn out_of_fold(
    learner: &mut Learner<'_>,
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
        scatter(logits(fitted.head.as_ref(), learner.matrix, &of(&fold.held_out))?.rows(), fold, &mut all);
    }
    Ok(Logits::new(all, classes)?)
}

/// The probabilities of each fold, calibrated on the others, `[N, C]`.
pub(crate) fn crossed(
    method: CalibrationMethod,
    logits: &Logits,
    labels: &[u32],
    folds: &[Fold],
) -> Result<Vec<f32>, TrainError> {
    let classes = logits.classes();
    let mut all = vec![0.0; logits.as_slice().len()];
    for fold in folds {
        let labels: Vec<u32> = fold.fit.iter().map(|&i| labels[i]).collect();
        let calibration = Calibration::fit(method, &only(logits, &fold.fit)?, &labels)?;
        let probabilities = calibration.probabilities(&only(logits, &fold.held_out)?)?;
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
mod judged;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::noise;

    const METHODS: [CalibrationMethod; 3] =
        [CalibrationMethod::Temperature, CalibrationMethod::Platt, CalibrationMethod::Isotonic];

    /// Logits of photos of so many classes; `signal` of the true class is added, and all are that many times too large.
    fn logits(seed: u64, labels: &[u32], classes: usize, signal: f32, scale: f32) -> Logits {
        let mut noise = noise(seed);
        let of =
            |&label: &u32| (0..classes).map(move |class| if class == label as usize { signal } else { 0.0 });
        Logits::new(labels.iter().flat_map(of).map(|value| scale * (value + noise())).collect(), classes)
            .unwrap()
    }

    fn labels(count: usize, classes: u32) -> Vec<u32> {
        (0..count as u32).map(|i| (i * 7 + i / 5) % classes).collect()
    }

    // effect: calibration
    #[test]
    fn probabilities_of_a_fold_are_calibrated_by_what_the_other_folds_show_alone() {
        let labels = labels(40, 3);
        let folds = stratified(&labels, None, 4);
        let logits = logits(1, &labels, 3, 0.3, 4.0);
        for method in METHODS {
            let found = crossed(method, &logits, &labels, &folds).unwrap();
            for (number, fold) in folds.iter().enumerate() {
                // Other labels of what is held out change nothing of it, and all of what is fitted on it.
                let mut others = labels.clone();
                fold.held_out.iter().for_each(|&i| others[i] = (labels[i] + 1) % 3);
                let changed = crossed(method, &logits, &others, &folds).unwrap();
                let of = |all: &[f32], rows: &[usize]| -> Vec<f32> {
                    rows.iter().flat_map(|&i| all[3 * i..][..3].to_vec()).collect()
                };
                assert_eq!(of(&found, &fold.held_out), of(&changed, &fold.held_out), "{method:?} {number}");
                assert_ne!(of(&found, &fold.fit), of(&changed, &fold.fit), "{method:?} {number}");
                // What the others show.
                let rows = |rows: &[usize]| Logits::new(of(logits.as_slice(), rows), 3).unwrap();
                let theirs: Vec<u32> = fold.fit.iter().map(|&i| labels[i]).collect();
                let calibration = Calibration::fit(method, &rows(&fold.fit), &theirs).unwrap();
                let expected = calibration.probabilities(&rows(&fold.held_out)).unwrap();
                assert_eq!(of(&found, &fold.held_out), expected, "{method:?} {number}");
            }
        }
    }

    // effect: calibration
    #[test]
    fn a_calibration_stays_where_it_lowers_the_log_loss_and_does_not_raise_the_calibration_error() {
        // Of each method, how often the log loss fell and how often the calibration error did not rise.
        let mut seen = [[0; 2]; 2];
        for seed in 0..120 {
            let method = METHODS[seed as usize % 3];
            let classes = 2 + seed % 3;
            let labels = labels(30 + seed as usize, classes as u32);
            let signal = (seed % 5) as f32 / 10.0;
            let logits = logits(seed, &labels, classes as usize, signal, 0.5 + (seed % 7) as f32);
            let folds = stratified(&labels, None, 3);
            let plain = Predictions::new(&logits).metrics(&labels).reliability();
            let crossed = crossed(method, &logits, &labels, &folds).unwrap();
            let crossed = Predictions::with(crossed, &logits);
            let figures = crossed.metrics(&labels).reliability();
            let (lower, no_worse) = (figures.log_loss < plain.log_loss, figures.ece <= plain.ece);
            seen[usize::from(lower)][usize::from(no_worse)] += 1;

            let Calibrated { calibration, held_out } = judge(method, &logits, &labels, &folds).unwrap();
            let held_out = held_out.unwrap();
            assert_eq!((held_out.folds, held_out.samples), (3, labels.len()));
            assert_eq!(held_out.before, plain);
            if lower && no_worse {
                assert_eq!((held_out.dropped, held_out.after), (None, figures), "{seed}");
                // For new photos it is fitted on all that was held out.
                assert_eq!(calibration, Calibration::fit(method, &logits, &labels).unwrap());
                assert_eq!(held_out.conformal, Conformal::fit(&crossed.probabilities, &labels).unwrap());
            } else {
                assert_eq!((held_out.dropped, held_out.after), (Some(method), plain), "{seed}");
                assert_eq!(calibration, Calibration::None);
                assert_eq!(held_out.conformal, Conformal::fit(&logits.softmax(), &labels).unwrap());
            }
        }
        assert!(seen.as_flattened().iter().all(|&times| times > 1), "{seen:?}");
    }

    #[test]
    fn rows_are_put_where_they_were_held_out_from() {
        let fold = Fold { fit: vec![1], held_out: vec![3, 0, 2] };
        let mut all = [0.0; 8];
        let rows: [&[f32]; 3] = [&[1.0, 2.0], &[3.0, 4.0], &[5.0, 6.0]];
        scatter(rows.into_iter(), &fold, &mut all);
        assert_eq!(all, [3.0, 4.0, 0.0, 0.0, 5.0, 6.0, 1.0, 2.0]);
    }
}
