//! How a calibration is evaluated, and when it is used.

use headstock_split::KeyedRng;

use super::*;
use crate::metrics::{CalibrationError, LogLoss};

const METHODS: [CalibrationMethod; 3] =
    [CalibrationMethod::Temperature, CalibrationMethod::Platt, CalibrationMethod::Isotonic];

/// Noisy logits with a margin for the label, and the labels; classes have equal size.
fn synthetic_logits(seed: u64, samples: usize, classes: usize, margin: f64) -> (Logits, Vec<u32>) {
    let mut random = KeyedRng::new(&[seed]);
    let labels: Vec<u32> = (0..samples).map(|sample| (sample % classes) as u32).collect();
    let logits = labels.iter().flat_map(|&label| {
        let noise: Vec<f64> = (0..classes).map(|_| 4.0 * random.uniform() - 2.0).collect();
        (0..classes)
            .map(move |class| (noise[class] + if class == label as usize { margin } else { 0.0 }) as f32)
    });
    (Logits::new(logits.collect(), classes).unwrap(), labels)
}

/// Three folds: every third sample.
fn three_folds(samples: usize) -> Vec<SplitIndices> {
    (0..3)
        .map(|third| {
            let (test, train) = (0..samples).partition(|sample| sample % 3 == third);
            SplitIndices { train, test }
        })
        .collect()
}

fn select_samples(logits: &Logits, rows: &[usize]) -> Logits {
    let all: Vec<&[f32]> = logits.rows().collect();
    Logits::new(rows.iter().flat_map(|&row| all[row]).copied().collect(), logits.classes()).unwrap()
}

/// Probabilities of each sample by a calibration fitted on the other folds, sample by sample.
fn calibrated_by_others(
    method: CalibrationMethod,
    logits: &Logits,
    labels: &[u32],
    folds: &[SplitIndices],
) -> Vec<f32> {
    let mut all = Vec::new();
    for sample in 0..labels.len() {
        let fold = folds.iter().find(|fold| fold.test.contains(&sample)).unwrap();
        let others: Vec<usize> = (0..labels.len()).filter(|i| !fold.test.contains(i)).collect();
        let labels_of_others: Vec<u32> = others.iter().map(|&i| labels[i]).collect();
        let calibration =
            Calibration::fit(method, &select_samples(logits, &others), &labels_of_others).unwrap();
        all.extend(calibration.probabilities(&select_samples(logits, &[sample])).unwrap());
    }
    all
}

// effect: calibration
#[test]
fn a_fold_is_calibrated_on_the_other_folds_alone() {
    for method in METHODS {
        let (logits, labels) = synthetic_logits(3, 24, 3, 1.0);
        let folds = three_folds(24);
        let found = cross_calibrate(method, &logits, &labels, &folds).unwrap();
        assert_eq!(found, calibrated_by_others(method, &logits, &labels, &folds), "{method:?}");

        // Changing the labels of the first fold affects every fold but the first.
        let mut relabeled = labels.clone();
        folds[0].test.iter().for_each(|&sample| relabeled[sample] = (labels[sample] + 1) % 3);
        let changed = cross_calibrate(method, &logits, &relabeled, &folds).unwrap();
        for (number, fold) in folds.iter().enumerate() {
            let rows_of_fold =
                |all: &[f32]| fold.test.iter().flat_map(|&i| all[3 * i..][..3].to_vec()).collect::<Vec<_>>();
            assert_eq!(
                rows_of_fold(&found) == rows_of_fold(&changed),
                number == 0,
                "{method:?}, fold {number}"
            );
        }
    }
}

/// Many small problems, so that each combination of lower or higher log-loss and calibration error occurs.
// effect: calibration
#[test]
fn a_calibration_is_used_if_it_lowers_log_loss_and_does_not_raise_calibration_error() {
    // Counts by whether the log-loss falls and whether the calibration error does.
    let mut counts = [[0; 2]; 2];
    for method in METHODS {
        let (mut n_accepted, mut n_rejected) = (0, 0);
        for seed in 0..150 {
            let (samples, classes) = [(30, 2), (24, 3)][seed as usize % 2];
            let (logits, labels) =
                synthetic_logits(seed, samples, classes, [0.2, 1.0, 3.0][seed as usize % 3]);
            let folds = three_folds(samples);
            let uncalibrated = Predictions::new(&logits);
            let calibrated = Predictions::from_probabilities(
                calibrated_by_others(method, &logits, &labels, &folds),
                &logits,
            );
            let [before, after] = [&uncalibrated, &calibrated]
                .map(|predictions| Metrics::from_predictions(predictions, &labels).of_probabilities());
            let (loss_falls, error_falls) =
                (after[&LogLoss] < before[&LogLoss], after[&CalibrationError] <= before[&CalibrationError]);
            counts[usize::from(loss_falls)][usize::from(error_falls)] += 1;

            let CalibrationResult { calibration, held_out } =
                evaluate_calibration(method, &logits, &labels, &folds).unwrap().0;
            let held_out = held_out.unwrap();
            assert_eq!((held_out.n_folds, held_out.n_samples), (3, samples));
            assert_eq!(held_out.before, before);
            if loss_falls && error_falls {
                n_accepted += 1;
                assert_eq!(held_out.dropped, None);
                assert_eq!(held_out.after, after);
                // The calibration that is used is fitted on all folds; conformal scores use out-of-fold
                // calibrations.
                assert_eq!(calibration, Calibration::fit(method, &logits, &labels).unwrap());
                let scores = ConformalScores::fit(&calibrated.probabilities, &labels).unwrap();
                assert_eq!(held_out.conformal, scores);
                let own = calibration.probabilities(&logits).unwrap();
                assert_ne!(held_out.conformal, ConformalScores::fit(&own, &labels).unwrap());
            } else {
                n_rejected += 1;
                assert_eq!(held_out.dropped, Some(method));
                assert_eq!(calibration, Calibration::None);
                assert_eq!(held_out.after, before);
                let scores = ConformalScores::fit(&uncalibrated.probabilities, &labels).unwrap();
                assert_eq!(held_out.conformal, scores);
            }
        }
        assert!(n_accepted > 0 && n_rejected > 0, "{method:?}: {n_accepted}, {n_rejected}");
    }
    assert!(counts.iter().flatten().all(|&times| times > 0), "{counts:?}");
}

#[test]
fn scatter_restores_the_order_of_the_samples() {
    let fold = SplitIndices { train: vec![1], test: vec![3, 0, 2] };
    let mut all = [0.0; 8];
    let rows: [&[f32]; 3] = [&[1.0, 2.0], &[3.0, 4.0], &[5.0, 6.0]];
    scatter(rows.into_iter(), &fold, &mut all);
    assert_eq!(all, [3.0, 4.0, 0.0, 0.0, 5.0, 6.0, 1.0, 2.0]);
}
