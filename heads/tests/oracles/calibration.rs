//! Calibration against scikit-learn's `CalibratedClassifierCV` and conformal sets against MAPIE
//! (`reference/calibration/make.py`).

use headstock_heads::{Calibration, CalibrationMethod, ConformalMethod, ConformalScores, Logits};

use crate::support::Golden;

const CASES: [&str; 6] = ["margins", "sharp", "two", "ties", "rare", "few"];

fn golden() -> Golden {
    Golden::load("calibration/calibration.safetensors")
}

impl Golden {
    fn logits(&self, name: &str) -> Logits {
        Logits::new(self.f32s(name), self.width(name)).unwrap()
    }

    fn fit(&self, case: &str, method: CalibrationMethod) -> Calibration {
        let labels = self.u32s(&format!("{case}.labels"));
        Calibration::fit(method, &self.logits(&format!("{case}.logits")), &labels).unwrap()
    }
}

// effect: calibration
#[test]
fn the_temperature_is_scikit_learns() {
    let golden = golden();
    for case in CASES {
        let Calibration::Temperature(found) = golden.fit(case, CalibrationMethod::Temperature) else {
            panic!("{case}: another method")
        };
        let expected = golden.f64s(&format!("{case}.temperature.T"))[0];
        assert!((found / expected - 1.0).abs() < 1e-6, "{case}: {found} {expected}");
    }
}

// effect: calibration
#[test]
fn probabilities_are_scikit_learns() {
    let golden = golden();
    for method in [CalibrationMethod::Temperature, CalibrationMethod::Isotonic, CalibrationMethod::Platt] {
        for case in CASES {
            let found =
                golden.fit(case, method).probabilities(&golden.logits(&format!("{case}.fresh"))).unwrap();
            let expected = golden.f64s(&format!("{case}.{}.probabilities", method.as_str()));
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                let name = method.as_str();
                assert!((f64::from(*found) - expected).abs() < 1e-6, "{case} {name}: {found} {expected}");
            }
        }
    }
}

#[test]
fn scores_and_sets_are_mapies() {
    let golden = golden();
    for case in ["margins", "sharp", "rare", "few"] {
        let key = |name: &str| format!("{case}.conformal.{name}");
        let conformal =
            ConformalScores::fit(&golden.f32s(&key("fit")), &golden.u32s(&key("labels"))).unwrap();
        let fresh = golden.logits(&key("fresh"));
        for method in [ConformalMethod::Lac, ConformalMethod::Aps] {
            let name = method.as_str();
            let expected = golden.f64s(&key(&format!("{name}.scores")));
            assert_eq!(conformal.scores(method).len(), expected.len());
            // MAPIE's score of LAC is one minus the probability.
            let more = if method == ConformalMethod::Lac { 1.0 } else { 0.0 };
            for (found, expected) in conformal.scores(method).iter().zip(expected) {
                let found = more + f64::from(*found);
                assert!((found - expected).abs() < 1e-6, "{case} {name}: {found} {expected}");
            }
            for coverage in [0.5, 0.8, 0.9, 0.95] {
                let expected = golden.f64s(&key(&format!("{name}.{coverage}")));
                let sets = conformal.set_predictor(coverage, method).unwrap();
                for (row, expected) in fresh.rows().zip(expected.chunks_exact(fresh.classes())) {
                    let mut found = sets.predict(row);
                    found.sort_unstable();
                    let expected: Vec<u32> =
                        (0..expected.len()).filter(|&k| expected[k] > 0.0).map(|k| k as u32).collect();
                    assert_eq!(found, expected, "{case} {name} {coverage}: {row:?}");
                }
            }
        }
    }
}
