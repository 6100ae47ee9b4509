//! Calibration of runs, on samples that neither the head nor the calibration was fitted on.

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
use headstock_train::config::{Config, Registries};
use headstock_train::feature_file::{FeatureFileWriter, SampleInfo};
use headstock_train::metrics::{CalibrationError, LogLoss};
use headstock_train::run::RunMetrics;
use headstock_train::{Run, RunDir, train};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Writes `counts[c]` samples of each class `c`. The first feature depends on the class with strength
/// `signal`; the others are noise.
fn write_features(folder: &Path, counts: &[usize], width: usize, signal: f32) {
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
    let infos: Vec<SampleInfo> = (labels.iter().enumerate())
        .map(|(row, &label)| SampleInfo {
            path: row.to_string(),
            class: label.to_string(),
            label,
            split: None,
        })
        .collect();
    let writer = FeatureFileWriter::create(&folder.join("x.npz")).unwrap();
    writer.write(&infos, width, &mut |range| Ok(rows[range].concat())).unwrap();
}

/// Trains on `x.npz` in `folder`; returns the written metrics and the run.
fn train_run(folder: &TempDir, registries: &Registries, overrides: &[&str]) -> (RunMetrics, Run) {
    let text = "version = 1\n[data]\nfeatures = \"x.npz\"\n[split]\ntest_size = 0.5\n";
    let mut config = Config::parse(text, "headstock.toml", folder.path()).unwrap();
    config.set(overrides).unwrap();
    let run_dir = folder.path().join(overrides.join("-"));
    let outcome =
        train(&config.resolve(registries).unwrap(), None, &RunDir::Named(run_dir.clone()), &()).unwrap();
    let written = fs::read_to_string(run_dir.join("metrics.json")).unwrap();
    let written: RunMetrics = serde_json::from_str(&written).unwrap();
    assert_eq!(written, outcome.metrics);
    (written, Run::open(&run_dir, registries).unwrap())
}

#[test]
fn calibration_corrects_an_overfitted_head() {
    let folder = tempfile::tempdir().unwrap();
    // There are more features than samples, and none depends on the class.
    write_features(folder.path(), &[60, 60], 100, 0.0);
    let (metrics, run) = train_run(&folder, &Registries::builtin(), &["head.C=1000"]);
    let calibration = metrics.calibration.clone().unwrap();
    assert_eq!((calibration.folds, calibration.samples), (5, 60));
    assert_eq!(calibration.method, CalibrationMethod::Temperature);
    assert!(calibration.test.before[&LogLoss] > 2.0, "{calibration:?}");
    // The best probabilities are 1/2.
    assert!((metrics.test[&LogLoss] - 2f64.ln()).abs() < 0.1, "{metrics:?}");
    assert_eq!(metrics.test.of_probabilities(), calibration.test.after);
    assert!(calibration.out_of_fold.after[&LogLoss] < calibration.out_of_fold.before[&LogLoss]);
    assert_eq!(run.model.record.calibration, Calibration::Temperature(calibration.temperature.unwrap()));
}

// effect: calibration
#[test]
fn without_calibration_metrics_equal_the_uncalibrated_ones_and_there_are_no_sets() {
    let folder = tempfile::tempdir().unwrap();
    write_features(folder.path(), &[40, 40, 40], 5, 0.3);
    let registries = Registries::builtin();
    let mut dropped = Vec::new();
    for head in ["head.kind=svm", "head.kind=linear"] {
        let (uncalibrated, uncalibrated_run) = train_run(&folder, &registries, &[head, "calibration=none"]);
        assert!(uncalibrated.calibration.is_none() && uncalibrated.conformal.is_none());
        assert_eq!(uncalibrated_run.model.record.calibration, Calibration::None);
        assert!(
            uncalibrated_run
                .model
                .sets(0.9, ConformalMethod::Lac)
                .unwrap_err()
                .to_string()
                .contains("calibration")
        );
        for method in ["temperature", "platt", "isotonic"] {
            let (metrics, run) = train_run(&folder, &registries, &[head, &format!("calibration={method}")]);
            let calibration = metrics.calibration.unwrap();
            assert_eq!(calibration.test.before, uncalibrated.test.of_probabilities(), "{head} {method}");
            let used = calibration.dropped.map_or(method, |_| "none");
            assert_eq!(calibration.method.as_str(), used, "{head} {method}");
            let same = calibration.test.before == calibration.test.after;
            assert_eq!(same, calibration.dropped.is_some(), "{head} {method}");
            assert_eq!(metrics.test == uncalibrated.test, same, "{head} {method}");
            if let Some(dropped_method) = calibration.dropped {
                assert_eq!((dropped_method.as_str(), calibration.temperature), (method, None));
                assert_eq!(calibration.out_of_fold.before, calibration.out_of_fold.after);
                dropped.push((head, method));
            }
            assert_eq!(run.model.record.calibration.method(), calibration.method);
            let conformal = run.model.conformal.as_ref().unwrap();
            assert_eq!(conformal.scores(ConformalMethod::Aps).len(), 60);
        }
    }
    // Some calibrations are dropped, and some are not.
    assert!(dropped.contains(&("head.kind=linear", "isotonic")), "{dropped:?}");
    assert!(!dropped.contains(&("head.kind=svm", "temperature")), "{dropped:?}");
}

// effect: calibration, head.kind
#[test]
fn svm_margins_get_a_temperature_below_one() {
    let folder = tempfile::tempdir().unwrap();
    write_features(folder.path(), &[60, 60, 60], 4, 2.0);
    let (metrics, _) = train_run(&folder, &Registries::builtin(), &["head.kind=svm", "head.C=1"]);
    let calibration = metrics.calibration.unwrap();
    assert!(calibration.temperature.unwrap() < 0.7, "{calibration:?}");
    assert!(calibration.test.after[&LogLoss] < calibration.test.before[&LogLoss], "{calibration:?}");
    assert!(
        calibration.test.after[&CalibrationError] < calibration.test.before[&CalibrationError],
        "{calibration:?}"
    );
}

#[test]
fn a_class_with_one_training_sample_is_not_calibrated() {
    let folder = tempfile::tempdir().unwrap();
    write_features(folder.path(), &[10, 2], 3, 1.0);
    let (metrics, run) = train_run(&folder, &Registries::builtin(), &["head.kind=linear"]);
    assert!(metrics.calibration.is_none() && metrics.conformal.is_none());
    assert_eq!(run.model.record.calibration, Calibration::None);
}

#[test]
fn there_are_as_many_folds_as_the_smallest_class_has_samples() {
    let folder = tempfile::tempdir().unwrap();
    write_features(folder.path(), &[20, 6], 3, 1.0);
    let (metrics, _) = train_run(&folder, &Registries::builtin(), &["head.kind=linear"]);
    assert_eq!(metrics.calibration.unwrap().folds, 3);
}

/// The regularization and the number of samples of each fit of [`AutoConfig`].
static FITS: Mutex<Vec<(Regularization, usize)>> = Mutex::new(Vec::new());

/// `linear` with a regularization that it pretends to choose.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct AutoConfig {
    /// Chosen by the fit.
    #[serde(rename = "C")]
    c: Regularization,
}

impl Default for AutoConfig {
    fn default() -> Self {
        Self { c: Regularization::Auto }
    }
}

impl HeadConfig for AutoConfig {
    const KIND: &'static str = "choosing";
    const ABOUT: &'static str = "chooses";
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
fn hyperparameters_chosen_by_the_fit_are_reused_in_the_folds() {
    let folder = tempfile::tempdir().unwrap();
    write_features(folder.path(), &[20, 20], 3, 1.0);
    let mut heads = Registry::builtin();
    heads.add::<AutoConfig>().unwrap();
    train_run(&folder, &heads.into(), &["head.kind=choosing"]);
    let fits = FITS.lock().unwrap();
    let expected: Vec<_> = std::iter::once((Regularization::Auto, 20))
        .chain(std::iter::repeat_n((Regularization::Fixed(0.25), 16), 5))
        .collect();
    assert_eq!(*fits, expected);
}

#[test]
fn a_calibration_round_trips_through_json_to_the_bit() {
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
