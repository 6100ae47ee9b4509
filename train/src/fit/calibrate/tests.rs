//! What a calibration is judged by, and when it stays.

use headstock_heads::KeyedRng;

use super::*;

const METHODS: [CalibrationMethod; 3] =
    [CalibrationMethod::Temperature, CalibrationMethod::Platt, CalibrationMethod::Isotonic];

/// Logits of samples of `classes` classes that lean `sharp` to their label, and the labels, of every class so many.
fn synthetic_logits(seed: u64, samples: usize, classes: usize, sharp: f64) -> (Logits, Vec<u32>) {
    let mut random = KeyedRng::new(&[seed]);
    let labels: Vec<u32> = (0..samples).map(|sample| (sample % classes) as u32).collect();
    let logits = labels.iter().flat_map(|&label| {
        let noise: Vec<f64> = (0..classes).map(|_| 4.0 * random.uniform() - 2.0).collect();
        (0..classes)
            .map(move |class| (noise[class] + if class == label as usize { sharp } else { 0.0 }) as f32)
    });
    (Logits::new(logits.collect(), classes).unwrap(), labels)
}

/// Every third sample, and so on: three folds.
fn three_folds(samples: usize) -> Vec<Fold> {
    (0..3)
        .map(|third| {
            let (held_out, fit) = (0..samples).partition(|sample| sample % 3 == third);
            Fold { fit, held_out }
        })
        .collect()
}

fn select_samples(logits: &Logits, rows: &[usize]) -> Logits {
    let all: Vec<&[f32]> = logits.rows().collect();
    Logits::new(rows.iter().flat_map(|&row| all[row]).copied().collect(), logits.classes()).unwrap()
}

/// The probabilities of each sample by a calibration that was fitted on the other folds, sample by sample.
fn calibrated_by_others(
    method: CalibrationMethod,
    logits: &Logits,
    labels: &[u32],
    folds: &[Fold],
) -> Vec<f32> {
    let mut all = Vec::new();
    for sample in 0..labels.len() {
        let fold = folds.iter().find(|fold| fold.held_out.contains(&sample)).unwrap();
        let others: Vec<usize> = (0..labels.len()).filter(|i| !fold.held_out.contains(i)).collect();
        let of_others: Vec<u32> = others.iter().map(|&i| labels[i]).collect();
        let calibration = Calibration::fit(method, &select_samples(logits, &others), &of_others).unwrap();
        all.extend(calibration.probabilities(&select_samples(logits, &[sample])).unwrap());
    }
    all
}

// effect: calibration
#[test]
fn what_is_said_of_a_fold_comes_from_the_others_alone() {
    for method in METHODS {
        let (logits, labels) = synthetic_logits(3, 24, 3, 1.0);
        let folds = three_folds(24);
        let found = cross_calibrate(method, &logits, &labels, &folds).unwrap();
        assert_eq!(found, calibrated_by_others(method, &logits, &labels, &folds), "{method:?}");

        // Other labels of the first fold change what is said of every fold but the first.
        let mut other = labels.clone();
        folds[0].held_out.iter().for_each(|&sample| other[sample] = (labels[sample] + 1) % 3);
        let changed = cross_calibrate(method, &logits, &other, &folds).unwrap();
        for (number, fold) in folds.iter().enumerate() {
            let of = |all: &[f32]| {
                fold.held_out.iter().flat_map(|&i| all[3 * i..][..3].to_vec()).collect::<Vec<_>>()
            };
            assert_eq!(of(&found) == of(&changed), number == 0, "{method:?}, fold {number}");
        }
    }
}

/// Over many small problems: each combination of a log loss and a calibration error that fall or rise comes up.
// effect: calibration
#[test]
fn a_calibration_stays_where_the_log_loss_of_the_folds_falls_and_their_calibration_error_does_not_rise() {
    // By whether the log loss falls and the calibration error does.
    let mut met = [[0; 2]; 2];
    for method in METHODS {
        let (mut stays, mut goes) = (0, 0);
        for seed in 0..150 {
            let (samples, classes) = [(30, 2), (24, 3)][seed as usize % 2];
            let (logits, labels) =
                synthetic_logits(seed, samples, classes, [0.2, 1.0, 3.0][seed as usize % 3]);
            let folds = three_folds(samples);
            let plain = Predictions::new(&logits);
            let calibrated = Predictions::from_probabilities(
                calibrated_by_others(method, &logits, &labels, &folds),
                &logits,
            );
            let [before, after] =
                [&plain, &calibrated].map(|predictions| predictions.metrics(&labels).probability_metrics());
            let (loss_falls, error_falls) = (after.log_loss < before.log_loss, after.ece <= before.ece);
            met[usize::from(loss_falls)][usize::from(error_falls)] += 1;

            let CalibrationResult { calibration, held_out } =
                evaluate_calibration(method, &logits, &labels, &folds).unwrap();
            let held_out = held_out.unwrap();
            assert_eq!((held_out.n_folds, held_out.n_samples), (3, samples));
            assert_eq!(held_out.before, before);
            if loss_falls && error_falls {
                stays += 1;
                assert_eq!(held_out.dropped, None);
                assert_eq!(held_out.after, after);
                // The one that stays has seen all folds; the scores are of probabilities by others.
                assert_eq!(calibration, Calibration::fit(method, &logits, &labels).unwrap());
                let scores = ConformalScores::fit(&calibrated.probabilities, &labels).unwrap();
                assert_eq!(held_out.conformal, scores);
                let own = calibration.probabilities(&logits).unwrap();
                assert_ne!(held_out.conformal, ConformalScores::fit(&own, &labels).unwrap());
            } else {
                goes += 1;
                assert_eq!(held_out.dropped, Some(method));
                assert_eq!(calibration, Calibration::None);
                assert_eq!(held_out.after, before);
                let scores = ConformalScores::fit(&plain.probabilities, &labels).unwrap();
                assert_eq!(held_out.conformal, scores);
            }
        }
        assert!(stays > 0 && goes > 0, "{method:?}: {stays}, {goes}");
    }
    assert!(met.iter().flatten().all(|&times| times > 0), "{met:?}");
}

#[test]
fn rows_are_put_where_they_were_held_out_from() {
    let fold = Fold { fit: vec![1], held_out: vec![3, 0, 2] };
    let mut all = [0.0; 8];
    let rows: [&[f32]; 3] = [&[1.0, 2.0], &[3.0, 4.0], &[5.0, 6.0]];
    scatter(rows.into_iter(), &fold, &mut all);
    assert_eq!(all, [3.0, 4.0, 0.0, 0.0, 5.0, 6.0, 1.0, 2.0]);
}
