use headstock_split::KeyedRng;
use proptest::prelude::*;

use super::*;

const METHODS: [CalibrationMethod; 4] = [
    CalibrationMethod::None,
    CalibrationMethod::Temperature,
    CalibrationMethod::Isotonic,
    CalibrationMethod::Platt,
];

fn logits(values: &[f32], classes: usize) -> Logits {
    Logits::new(values.to_vec(), classes).unwrap()
}

fn temperature(values: &[f32], classes: usize, labels: &[u32]) -> f64 {
    let fitted = Calibration::fit(CalibrationMethod::Temperature, &logits(values, classes), labels);
    let Calibration::Temperature(temperature) = fitted.unwrap() else { panic!("another method") };
    temperature
}

/// Mean log-loss at a temperature, computed without rounding the probabilities.
fn log_loss(logits: &Logits, temperature: f64, labels: &[u32]) -> f64 {
    let rows = logits.rows().zip(labels).map(|(row, &label)| {
        let label_logit = f64::from(row[label as usize]);
        let differences: Vec<f64> = row.iter().map(|&z| (f64::from(z) - label_logit) / temperature).collect();
        let max = differences.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        max + differences.iter().map(|z| (z - max).exp()).sum::<f64>().ln()
    });
    rows.sum::<f64>() / labels.len() as f64
}

/// Strategy: logits of any scale, and labels, for a number of classes in the range.
fn samples(classes: std::ops::Range<usize>) -> impl Strategy<Value = (Logits, Vec<u32>)> {
    (classes, 1usize..40, -3f32..4.0).prop_flat_map(|(classes, rows, scale)| {
        let value = (-30i8..30).prop_map(move |v| f32::from(v) / 10.0 * 10f32.powf(scale));
        let values = prop::collection::vec(value, rows * classes);
        let labels = prop::collection::vec(0..classes as u32, rows);
        (values.prop_map(move |values| Logits::new(values, classes).unwrap()), labels)
    })
}

proptest! {
    #[test]
    fn rows_are_probabilities_that_sum_to_one((logits, labels) in samples(1..6)) {
        for method in METHODS {
            let fitted = Calibration::fit(method, &logits, &labels).unwrap();
            for row in fitted.probabilities(&logits).unwrap().chunks_exact(logits.classes()) {
                prop_assert!(row.iter().all(|p| (0.0..=1.0).contains(p)), "{method:?}: {row:?}");
                prop_assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{method:?}: {row:?}");
            }
        }
    }

    #[test]
    fn a_temperature_keeps_the_most_probable_class((logits, labels) in samples(1..6)) {
        let fitted = Calibration::fit(CalibrationMethod::Temperature, &logits, &labels).unwrap();
        let probabilities = fitted.probabilities(&logits).unwrap();
        for (row, best) in probabilities.chunks_exact(logits.classes()).zip(logits.argmax()) {
            prop_assert!(row.iter().all(|&p| p <= row[best as usize]), "{row:?}");
        }
    }

    #[test]
    fn no_other_temperature_has_a_lower_loss((logits, labels) in samples(2..6), factor in 0.2f64..5.0) {
        let fitted = Calibration::fit(CalibrationMethod::Temperature, &logits, &labels).unwrap();
        let Calibration::Temperature(best) = fitted else { panic!("another method") };
        let loss = |temperature| log_loss(&logits, temperature, &labels);
        let n = labels.len() as f64;
        // The loss floor (rule of succession) limits the temperature on one side, the bracket (where uniform
        // probabilities are best) on the other.
        let (loss_floor, uniform_loss) = (((n + 2.0) / (n + 1.0)).ln(), (logits.classes() as f64).ln() - 1e-3);
        let other = loss(best * factor).max(loss_floor);
        prop_assert!(loss(best) <= if other > uniform_loss { other + 2e-3 } else { other + 1e-6 }, "{best}");
    }

    #[test]
    fn isotonic_never_falls(
        values in prop::collection::vec(-20i8..20, 1..60), hits in prop::collection::vec(any::<bool>(), 60),
    ) {
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        let fitted = IsotonicCurve::fit(&values, &hits[..values.len()]);
        prop_assert!(fitted.is_valid(), "{fitted:?}");
        let probabilities: Vec<f64> = (-250..250).map(|x| fitted.probability(f64::from(x) / 10.0)).collect();
        prop_assert!(probabilities.is_sorted(), "{probabilities:?}");
        // The fitted probabilities are unbiased: they sum to the number of positives.
        let mean = values.iter().map(|&v| fitted.probability(v)).sum::<f64>();
        let count = hits[..values.len()].iter().filter(|&&hit| hit).count() as f64;
        prop_assert!((mean - count).abs() < 1e-9, "{mean} {count}");
    }
}

/// The slope is exactly 0 there, and Newton's step ends at an end of the bracket.
#[test]
fn newton_may_end_exactly_at_the_minimum() {
    let values = [0.001460308, 0.039428316, 0.0073015396, -0.0073015396, 0.0];
    let more = [-0.02190462, 0.011682464, 0.013142771, 0.02190462, 0.001460308];
    let logits = logits(&[values, more].concat(), 5);
    let fitted = Calibration::fit(CalibrationMethod::Temperature, &logits, &[2, 2]).unwrap();
    assert!((fitted.temperature().unwrap() - 0.072_211_24).abs() < 1e-6, "{fitted:?}");
}

/// 0.3 plus the rounded difference to 0.9 slightly exceeds 0.9.
#[test]
fn isotonic_is_monotonic_despite_rounding() {
    let fitted = IsotonicCurve { logits: vec![-1.0, 0.0], probabilities: vec![0.3, 0.9] };
    assert_eq!([fitted.probability(0.0), fitted.probability(1.0)], [0.9, 0.9]);
}

#[test]
fn temperature_scaling_recovers_the_true_probabilities() {
    // Labels are drawn from a softmax; the logits are then scaled by 7.
    let mut rng = KeyedRng::new(&[1]);
    let mut values = Vec::new();
    let mut labels = Vec::new();
    for _ in 0..20_000 {
        let row: Vec<f32> = (0..4).map(|_| (rng.uniform() * 4.0) as f32).collect();
        let mut remaining = rng.uniform() as f32;
        let probabilities = logits(&row, 4).softmax();
        let class = probabilities.iter().position(|p| {
            remaining -= p;
            remaining < 0.0
        });
        labels.push(class.unwrap_or(3) as u32);
        values.extend(row.iter().map(|v| 7.0 * v));
    }
    let found = temperature(&values, 4, &labels);
    assert!((found - 7.0).abs() < 0.2, "{found}");
}

#[test]
fn perfect_accuracy_gives_the_rule_of_succession_probability() {
    for n in [1, 8, 1000] {
        let values: Vec<f32> = (0..n).flat_map(|_| [3.0, -1.0, 0.5]).collect();
        let labels = vec![0; n];
        let fitted = Calibration::fit(CalibrationMethod::Temperature, &logits(&values, 3), &labels).unwrap();
        let found = f64::from(fitted.probabilities(&logits(&values, 3)).unwrap()[0]);
        let expected = (n as f64 + 1.0) / (n as f64 + 2.0);
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

#[test]
fn logits_worse_than_chance_give_uniform_probabilities() {
    let values = [1.0, 0.0, 0.0, 1.0];
    let found = temperature(&values, 2, &[1, 0]);
    assert!(found.is_finite() && found > 1e3, "{found}");
}

#[test]
fn equal_logits_keep_the_temperature_at_one() {
    assert_eq!(temperature(&[2.0; 9], 3, &[0, 1, 1]), 1.0);
    let values = logits(&[2.0; 9], 3);
    let platt = Calibration::fit(CalibrationMethod::Platt, &values, &[0, 1, 1]).unwrap();
    let isotonic = Calibration::fit(CalibrationMethod::Isotonic, &values, &[0, 1, 1]).unwrap();
    // One, two and none of three samples, smoothed by Platt's targets, then normalized.
    let smoothed = [
        (1.0 / 3.0) * (2.0 / 3.0) + (2.0 / 3.0) * (1.0 / 4.0),
        (2.0 / 3.0) * (3.0 / 4.0) + (1.0 / 3.0) * (1.0 / 3.0),
        1.0 / 5.0,
    ];
    let sum: f64 = smoothed.iter().sum();
    for (found, expected) in platt.probabilities(&values).unwrap().iter().zip(smoothed) {
        assert!((f64::from(*found) - expected / sum).abs() < 1e-6, "{found} {expected}");
    }
    assert_eq!(isotonic.probabilities(&values).unwrap()[..3], [1.0 / 3.0, 2.0 / 3.0, 0.0]);
}

#[test]
fn a_row_with_only_zero_isotonic_probabilities_is_uniform() {
    // Low logits of all classes: every class has probability 0.
    let values = [-5.0, -5.0, -5.0, 5.0, -5.0, -5.0, -5.0, 5.0, -5.0, -5.0, -5.0, 5.0, -5.0, -5.0, -5.0];
    let mut labels = vec![0, 0, 1, 2, 0];
    let fitted = Calibration::fit(CalibrationMethod::Isotonic, &logits(&values, 3), &labels).unwrap();
    let low = fitted.probabilities(&logits(&[-9.0; 3], 3)).unwrap();
    assert!((low.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    labels = vec![0, 0, 1, 2, 2];
    let fitted =
        Calibration::fit(CalibrationMethod::Isotonic, &logits(&values[3..12], 3), &labels[1..4]).unwrap();
    assert_eq!(fitted.probabilities(&logits(&[-9.0; 3], 3)).unwrap(), [1.0 / 3.0; 3]);
}

#[test]
fn one_class_is_certain() {
    for method in METHODS {
        let fitted = Calibration::fit(method, &logits(&[1.0, -3.0], 1), &[0, 0]).unwrap();
        assert_eq!(fitted.probabilities(&logits(&[7.0], 1)).unwrap(), [1.0]);
    }
}

#[test]
fn invalid_calibration_data_is_refused_with_row_and_class() {
    let fit = |values: &[f32], labels: &[u32]| {
        Calibration::fit(CalibrationMethod::Temperature, &logits(values, 2), labels).unwrap_err().to_string()
    };
    let cases = [
        (
            fit(&[], &[]),
            "there are no held-out photos to calibrate the probabilities on: hold out at least one photo",
        ),
        (
            fit(&[1.0, 2.0], &[0, 1]),
            "the numbers of rows of logits or probabilities (1) and of labels (2) differ: each row needs one \
             label",
        ),
        (
            fit(&[1.0, 2.0], &[2]),
            "label 2 in row 0 is out of range: labels must be below the number of classes, 2",
        ),
        (
            fit(&[1.0, 2.0, f32::NAN, 0.0], &[0, 1]),
            "the logit of class 0 in row 1 is NaN: logits must be finite",
        ),
        (fit(&[1.0, f32::INFINITY], &[0]), "the logit of class 1 in row 0 is inf: logits must be finite"),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
    for method in METHODS {
        let fitted = Calibration::fit(method, &logits(&[1.0, 2.0, 3.0, 1.0], 2), &[0, 1]).unwrap();
        assert!(fitted.probabilities(&logits(&[f32::NEG_INFINITY, 1.0], 2)).is_err(), "{method:?}");
    }
}

#[test]
fn a_calibration_with_another_class_count_or_invalid_numbers_is_refused() {
    let isotonic = |logits: &[f64], probabilities: &[f64]| {
        Calibration::Isotonic(vec![IsotonicCurve {
            logits: logits.to_vec(),
            probabilities: probabilities.to_vec(),
        }])
    };
    for (calibration, classes) in [
        (Calibration::Temperature(0.0), 3),
        (Calibration::Temperature(f64::NAN), 3),
        (Calibration::Temperature(f64::INFINITY), 3),
        (Calibration::Platt(vec![Sigmoid { slope: 1.0, intercept: 0.0 }]), 3),
        (Calibration::Platt(vec![Sigmoid { slope: 1.0, intercept: f64::NAN }]), 2),
        (isotonic(&[], &[]), 2),
        (isotonic(&[1.0, 0.0], &[0.1, 0.2]), 2),
        (isotonic(&[0.0, 1.0], &[0.2, 0.1]), 2),
        (isotonic(&[0.0, 1.0], &[0.2]), 2),
        (isotonic(&[0.0], &[1.5]), 2),
    ] {
        assert!(calibration.check(classes).is_err(), "{calibration:?}");
    }
    let valid = isotonic(&[0.0, 1.0], &[0.1, 0.2]);
    assert!(valid.check(2).is_ok());
    assert!(valid.probabilities(&logits(&[1.0, 2.0, 3.0], 3)).is_err());
}

#[test]
fn a_single_sample_makes_isotonic_constant_and_platt_its_smoothed_target() {
    for (label, hit, target) in [(1, 1.0, 2.0 / 3.0), (0, 0.0, 1.0 / 3.0)] {
        let single = logits(&[-1.0, 2.0], 2);
        let probabilities_of = |method| {
            let fitted = Calibration::fit(method, &single, &[label]).unwrap();
            fitted.probabilities(&logits(&[5.0, -5.0, -1.0, 2.0], 2)).unwrap()
        };
        assert_eq!(probabilities_of(CalibrationMethod::Isotonic), [1.0 - hit, hit, 1.0 - hit, hit]);
        // Platt's targets: (1 + 1) / (1 + 2) for a positive, 1 / (1 + 2) for a negative.
        let platt = probabilities_of(CalibrationMethod::Platt);
        assert!((platt[3] - target as f32).abs() < 1e-4, "{platt:?}, not {target}");
    }
}

#[test]
fn methods_have_names_and_fit_their_own_variant() {
    let values = logits(&[3.0, 0.0, 0.0, 2.0, 1.0, 0.0, 0.0, 1.0], 2);
    for (method, name) in METHODS.into_iter().zip(["none", "temperature", "isotonic", "platt"]) {
        let fitted = Calibration::fit(method, &values, &[0, 1, 1, 0]).unwrap();
        assert_eq!((method.as_str(), fitted.method()), (name, method));
        assert_eq!(fitted.temperature().is_some(), name == "temperature");
    }
}
