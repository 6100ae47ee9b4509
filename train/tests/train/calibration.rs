//! Calibration of a run: on photos that neither the head nor the calibration has seen.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use headstock_heads::calibration::{IsotonicCurve, Sigmoid};
use headstock_heads::linear::LinearConfig;
use headstock_heads::{
    Affine, Calibration, CalibrationMethod, ConformalMethod, FitContext, Fitted, HeadConfig, HeadError,
    Registry, Regularization, Tensors, TrainingSet,
};
use headstock_train::config::Config;
use headstock_train::feature_file::{Described, Target};
use headstock_train::run::RunMetrics;
use headstock_train::{Run, RunPlace, train};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Labels of the classes that `counts` says, and features of which the first has the class in it, `signal` strong, and the
/// others have not.
fn features(folder: &Path, counts: &[usize], width: usize, signal: f32) {
    let labels: Vec<u32> =
        counts.iter().enumerate().flat_map(|(class, &n)| std::iter::repeat_n(class as u32, n)).collect();
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let rows: Vec<Vec<f32>> = labels
        .iter()
        .map(|&label| {
            let mut row: Vec<f32> = (0..width).map(|_| noise()).collect();
            row[0] += signal * label as f32;
            row
        })
        .collect();
    let described: Vec<Described> = (labels.iter().enumerate())
        .map(|(row, &label)| Described { path: row.to_string(), class: label.to_string(), label })
        .collect();
    let target = Target::open(&folder.join("x.npz")).unwrap();
    target.write(&described, width, &mut |range| Ok(rows[range].concat())).unwrap();
}

/// Trains on `x.npz` in `folder`; its metrics as they were written, and the run.
fn run(folder: &TempDir, heads: &Registry, overrides: &[&str]) -> (RunMetrics, Run) {
    let text = "version = 1\n[data]\nfeatures = \"x.npz\"\n[split]\ntest_size = 0.5\n";
    let mut config = Config::parse(text, "headstock.toml", folder.path()).unwrap();
    config.set(overrides).unwrap();
    let place = folder.path().join(overrides.join("-"));
    let outcome = train(&config.resolve(heads).unwrap(), None, &RunPlace::Named(place.clone()), &()).unwrap();
    let written = fs::read_to_string(place.join("metrics.json")).unwrap();
    let written: RunMetrics = serde_json::from_str(&written).unwrap();
    assert_eq!(written, outcome.metrics);
    (written, Run::open(&place, heads).unwrap())
}

#[test]
fn a_head_that_knows_its_photos_by_heart_is_not_taken_at_its_word() {
    let folder = tempfile::tempdir().unwrap();
    // More features than photos, and none of them tells the class.
    features(folder.path(), &[60, 60], 100, 0.0);
    let (metrics, run) = run(&folder, &Registry::builtin(), &["head.C=1000"]);
    let calibration = metrics.calibration.clone().unwrap();
    assert_eq!((calibration.folds, calibration.samples), (5, 60));
    assert_eq!(calibration.method, CalibrationMethod::Temperature);
    assert!(calibration.test.before.log_loss > 2.0, "{calibration:?}");
    // Nothing is known: half and half.
    assert!((metrics.test.log_loss - 2f64.ln()).abs() < 0.1, "{metrics:?}");
    assert_eq!(metrics.test.reliability(), calibration.test.after);
    assert!(calibration.out_of_fold.after.log_loss < calibration.out_of_fold.before.log_loss);
    assert_eq!(run.model.record.calibration, Calibration::Temperature(calibration.temperature.unwrap()));
}

// effect: calibration
#[test]
fn without_calibration_the_figures_are_those_before_it_and_there_are_no_sets() {
    let folder = tempfile::tempdir().unwrap();
    features(folder.path(), &[40, 40, 40], 5, 0.3);
    let heads = Registry::builtin();
    let mut dropped = Vec::new();
    for head in ["head.kind=svm", "head.kind=linear"] {
        let (plain, bare) = run(&folder, &heads, &[head, "calibration=none"]);
        assert!(plain.calibration.is_none() && plain.conformal.is_none());
        assert_eq!(bare.model.record.calibration, Calibration::None);
        assert!(bare.model.sets(0.9, ConformalMethod::Lac).unwrap_err().to_string().contains("calibration"));
        for method in ["temperature", "platt", "isotonic"] {
            let (metrics, run) = run(&folder, &heads, &[head, &format!("calibration={method}")]);
            let calibration = metrics.calibration.unwrap();
            assert_eq!(calibration.test.before, plain.test.reliability(), "{head} {method}");
            let used = calibration.dropped.map_or(method, |_| "none");
            assert_eq!(calibration.method.as_str(), used, "{head} {method}");
            let same = calibration.test.before == calibration.test.after;
            assert_eq!(same, calibration.dropped.is_some(), "{head} {method}");
            assert_eq!(metrics.test == plain.test, same, "{head} {method}");
            if let Some(of) = calibration.dropped {
                assert_eq!((of.as_str(), calibration.temperature), (method, None));
                assert_eq!(calibration.out_of_fold.before, calibration.out_of_fold.after);
                dropped.push((head, method));
            }
            assert_eq!(run.model.record.calibration.method(), calibration.method);
            let conformal = run.model.conformal.as_ref().unwrap();
            assert_eq!(conformal.scores(ConformalMethod::Aps).len(), 60);
        }
    }
    // Some are, and some are not.
    assert!(dropped.contains(&("head.kind=linear", "isotonic")), "{dropped:?}");
    assert!(!dropped.contains(&("head.kind=svm", "temperature")), "{dropped:?}");
}

// effect: calibration, head.kind
#[test]
fn margins_are_worth_more_than_their_softmax_says() {
    let folder = tempfile::tempdir().unwrap();
    features(folder.path(), &[60, 60, 60], 4, 2.0);
    let (metrics, _) = run(&folder, &Registry::builtin(), &["head.kind=svm", "head.C=1"]);
    let calibration = metrics.calibration.unwrap();
    assert!(calibration.temperature.unwrap() < 0.7, "{calibration:?}");
    assert!(calibration.test.after.log_loss < calibration.test.before.log_loss, "{calibration:?}");
    assert!(calibration.test.after.ece < calibration.test.before.ece, "{calibration:?}");
}

#[test]
fn a_class_with_one_training_photo_leaves_nothing_to_hold_out() {
    let folder = tempfile::tempdir().unwrap();
    features(folder.path(), &[10, 2], 3, 1.0);
    let (metrics, run) = run(&folder, &Registry::builtin(), &["head.kind=linear"]);
    assert!(metrics.calibration.is_none() && metrics.conformal.is_none());
    assert_eq!(run.model.record.calibration, Calibration::None);
}

#[test]
fn as_many_folds_as_the_smallest_class_has_photos() {
    let folder = tempfile::tempdir().unwrap();
    features(folder.path(), &[20, 6], 3, 1.0);
    let (metrics, _) = run(&folder, &Registry::builtin(), &["head.kind=linear"]);
    assert_eq!(metrics.calibration.unwrap().folds, 3);
}

/// What the fits of [`Choosing`] were told, and on how many samples.
static FITS: Mutex<Vec<(Regularization, usize)>> = Mutex::new(Vec::new());

/// `linear` with a strength that it chooses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Choosing {
    #[serde(rename = "C")]
    c: Regularization,
}

impl Default for Choosing {
    fn default() -> Self {
        Self { c: Regularization::Auto }
    }
}

impl HeadConfig for Choosing {
    const KIND: &'static str = "choosing";
    const ABOUT: &'static str = "chooses";
    const PARAMETERS: &'static [headstock_heads::HyperparameterInfo] = &[("C", "as it likes")];
    type Head = Affine;

    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }

    fn fit(&self, data: &TrainingSet<'_>, context: &FitContext<'_>) -> Result<Fitted<Affine>, HeadError> {
        FITS.lock().unwrap().push((self.c, data.labels().len()));
        let fitted = LinearConfig::default().fit(data, context)?;
        Ok(fitted.with_chosen("C", self.c.fixed().is_none().then_some(0.25)))
    }

    fn load(&self, tensors: &Tensors) -> Result<Affine, HeadError> {
        Affine::load(tensors, "")
    }
}

#[test]
fn what_the_fit_chose_is_not_chosen_anew_in_the_folds() {
    let folder = tempfile::tempdir().unwrap();
    features(folder.path(), &[20, 20], 3, 1.0);
    let mut heads = Registry::builtin();
    heads.add::<Choosing>().unwrap();
    run(&folder, &heads, &["head.kind=choosing"]);
    let fits = FITS.lock().unwrap();
    let expected: Vec<_> = std::iter::once((Regularization::Auto, 20))
        .chain(std::iter::repeat_n((Regularization::Fixed(0.25), 16), 5))
        .collect();
    assert_eq!(*fits, expected);
}

#[test]
fn a_calibration_comes_back_from_json_to_the_bit() {
    let numbers = [0.1 + 0.2, 1.0 / 3.0, 5e-324, f64::MAX, 1.000_000_000_000_000_2, 123_456.789_012_345_67];
    for x in numbers {
        for calibration in [
            Calibration::None,
            Calibration::Temperature(x),
            Calibration::Platt(vec![Sigmoid { slope: x, intercept: -x }]),
            Calibration::Isotonic(vec![IsotonicCurve { logits: vec![-x, x], probabilities: vec![0.1, x] }]),
        ] {
            let text = serde_json::to_string(&calibration).unwrap();
            assert_eq!(serde_json::from_str::<Calibration>(&text).unwrap(), calibration, "{text}");
        }
    }
    assert_eq!(serde_json::to_string(&Calibration::None).unwrap(), "\"none\"");
}
