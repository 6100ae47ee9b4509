//! The files of a run, compared with its model and with values computed by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use headstock_heads::{
    Calibration, CalibrationMethod, ConformalMethod, FeatureMatrix, FitContext, Tensors, TrainingSet,
};

use headstock_inference::tensors::StoredTensors;
use headstock_inference::{FailureKind, Predictions};

use super::*;
use crate::metrics::{CalibrationError, LogLoss, METRICS, Metrics};
use crate::samples::{SampleSet, Subset};
use crate::tests::recording_head::{FeatureRow, features_settings, registry_with_recording, write_features};
use crate::{train, trained_on};

/// Rows of three overlapping classes of different sizes.
fn feature_rows() -> Vec<FeatureRow> {
    (0..90)
        .map(|row| {
            let class = [0, 1, 1, 2, 1, 0][row % 6];
            let noise = |f: f32| ((row as f32 + 1.0) * f).sin();
            let values = vec![class as f32 + noise(12.9), noise(78.2), 0.3 * class as f32 + noise(37.7)];
            FeatureRow { values, class: ["<ant>", "bee", "cat, \"big\""][class].into(), group: None }
        })
        .collect()
}

fn read_text(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap()
}

fn read_csv(folder: &Path, name: &str) -> Vec<Vec<String>> {
    let text = read_text(folder, name);
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
    reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect()
}

#[test]
fn all_files_of_a_run_agree_with_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let data = feature_rows();
    write_features(folder.path(), "x", &data);
    let options = "calibration = \"platt\"\n[split]\ntest_size = 0.4\n[head]\nkind = \"svm\"";
    let settings = features_settings(folder.path(), "x", options);
    let run_dir = folder.path().join("run");
    let outcome = train(&settings, None, &RunDir::Named(run_dir.clone()), &()).unwrap();
    let run = Run::open(&run_dir, &registry_with_recording().into()).unwrap();
    let metrics: RunMetrics = serde_json::from_str(&read_text(&run_dir, "metrics.json")).unwrap();
    assert_eq!(metrics, outcome.metrics);
    assert_eq!((outcome.folder.as_path(), outcome.example), (run_dir.as_path(), None));

    // The split is the one that the settings define.
    let samples = SampleSet::read(&settings, &()).unwrap().0;
    let names = samples.classes.names();
    let split: Vec<Vec<String>> = (samples.rows.iter())
        .map(|row| vec![row.id.clone(), names[row.label as usize].clone(), row.subset.as_str().into()])
        .collect();
    let mut expected = vec![["path", "label", "split"].map(str::to_owned).to_vec()];
    expected.extend(split);
    assert_eq!(read_csv(&run_dir, "split.csv"), expected);

    // The predictions of the model for the test set.
    let (train_rows, test_rows) = (samples.rows_of(Subset::Train), samples.rows_of(Subset::Test));
    let values = |rows: &[usize]| rows.iter().flat_map(|&row| data[row].values.clone()).collect::<Vec<f32>>();
    let test_values = values(&test_rows);
    let logits = run.model.head.logits(FeatureMatrix::new(&test_values, 3).unwrap()).unwrap();
    let predictions = run.model.predictions(&logits).unwrap();
    let labels = samples.labels(&test_rows);
    let header =
        [vec!["path", "label", "predicted", "probability"], names.iter().map(String::as_str).collect()];
    let mut expected = vec![header.concat().into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for ((&row, &predicted), probabilities) in
        test_rows.iter().zip(&predictions.predicted).zip(predictions.rows())
    {
        let name = |class: u32| names[class as usize].clone();
        let first = [row.to_string(), name(samples.rows[row].label), name(predicted)];
        let numbers = std::iter::once(&probabilities[predicted as usize]).chain(probabilities);
        expected.push(first.into_iter().chain(numbers.map(f32::to_string)).collect());
    }
    assert_eq!(read_csv(&run_dir, "predictions.csv"), expected);

    // The metrics at the top level are those after calibration.
    assert_eq!(metrics.test, Metrics::from_predictions(&predictions, &labels));
    let counts = SampleCounts {
        classes: 3,
        train: train_rows.len(),
        test: test_rows.len(),
        views: 0,
        skipped: 0,
        passed_over: BTreeMap::new(),
        computed: 0,
    };
    assert_eq!(counts.train, 54);
    assert_eq!(metrics.counts, counts);
    let calibration = metrics.calibration.clone().unwrap();
    assert_eq!(calibration.dropped, None, "calibration helps here");
    assert_eq!(
        calibration.test.before,
        Metrics::from_predictions(&Predictions::new(&logits), &labels).of_probabilities()
    );
    assert_eq!(calibration.test.after, metrics.test.of_probabilities());
    assert_ne!(calibration.test.before, calibration.test.after);
    assert_eq!((calibration.samples, calibration.folds, calibration.temperature), (54, 5, None));
    assert!(calibration.out_of_fold.after[&LogLoss] < calibration.out_of_fold.before[&LogLoss]);
    assert!(matches!(run.model.record.calibration, Calibration::Platt(_)));

    // Conformal sets, evaluated one by one.
    let conformal = metrics.conformal.unwrap();
    assert_eq!(conformal.coverage, 0.9);
    for (method, set_metrics) in
        [(ConformalMethod::Lac, conformal.lac), (ConformalMethod::Aps, conformal.aps)]
    {
        let sets = run.model.sets(0.9, method).unwrap();
        let sets: Vec<Vec<u32>> = predictions.rows().map(|row| sets.predict(row)).collect();
        let fraction = |count: usize| count as f64 / test_rows.len() as f64;
        let n_covered = sets.iter().zip(&labels).filter(|(set, label)| set.contains(label)).count();
        assert_eq!(set_metrics.coverage, fraction(n_covered), "{method:?}");
        assert_eq!(set_metrics.mean_size, fraction(sets.iter().map(Vec::len).sum()), "{method:?}");
        assert_eq!(
            set_metrics.empty,
            fraction(sets.iter().filter(|set| set.is_empty()).count()),
            "{method:?}"
        );
        assert!(set_metrics.mean_size > 1.0 && set_metrics.mean_size < 3.0, "{set_metrics:?}");
    }
    assert_ne!(conformal.lac, conformal.aps);
    let scores = |method| run.model.conformal.as_ref().unwrap().scores(method).len();
    assert_eq!((scores(ConformalMethod::Lac), scores(ConformalMethod::Aps)), (54, 54));

    // The fit on the training set and its history.
    let train_values = values(&train_rows);
    let train_labels = samples.labels(&train_rows);
    let groups: Vec<u32> = (0..train_rows.len() as u32).collect();
    let train_set =
        TrainingSet::new(FeatureMatrix::new(&train_values, 3).unwrap(), &train_labels, 3).unwrap();
    let fitted = settings.head.fit(&train_set.with_groups(&groups).unwrap(), &FitContext::silent()).unwrap();
    assert_eq!(
        metrics.chosen,
        fitted.chosen.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect()
    );
    let mut expected =
        vec![fitted.history.columns.iter().map(|&column| column.to_owned()).collect::<Vec<_>>()];
    expected.extend(fitted.history.rows.iter().map(|row| row.iter().map(f64::to_string).collect()));
    assert_eq!(read_csv(&run_dir, "history.csv"), expected);
    assert!(expected.len() > 3);
    assert_eq!(fitted.head.logits(FeatureMatrix::new(&test_values, 3).unwrap()).unwrap(), logits);

    let record = &run.model.record;
    assert_eq!((record.format, record.width, record.classes.as_slice()), (1, 3, names));
    assert_eq!((record.head.kind.as_str(), &record.head.parameters), ("svm", &settings.head.table()));
    assert!(
        record.preprocessing.is_none() && record.backbone.is_none() && run.model.tuned_weights.is_empty()
    );

    let hashes: BTreeSet<_> =
        train_rows.iter().map(|&row| trained_on::hash_features(&data[row].values)).collect();
    assert_eq!(read_text(&run_dir, "trained_on.csv").into_bytes(), trained_on::to_csv(&hashes));
    assert_eq!(run.trained_on_hashes(&()).unwrap(), Some(hashes));
    assert_eq!(
        run.settings(&[], &registry_with_recording().into()).unwrap().to_options(),
        settings.to_options()
    );

    let report = read_text(&run_dir, "report.html");
    assert_eq!(metrics.test.iter().count(), METRICS.len());
    for (metric, value) in metrics.test.iter() {
        let row = format!("<td>{}</td><td>{value:.4}</td></tr>", metric.name());
        assert!(report.contains(&row), "{row}: {report}");
    }
    for (name, change) in [("test", &calibration.test), ("held out", &calibration.out_of_fold)] {
        let CalibrationEffect { before, after } = change;
        let numbers =
            [before[&LogLoss], after[&LogLoss], before[&CalibrationError], after[&CalibrationError]];
        let cells = numbers.map(|number| format!("<td>{number:.4}</td>")).concat();
        let row = format!("<tr><td>{name}</td>{cells}</tr>");
        assert!(report.contains(&row), "{row}: {report}");
    }
    for (method, sets) in [("lac", conformal.lac), ("aps", conformal.aps)] {
        let SetMetrics { coverage, mean_size, empty } = sets;
        let row = format!(
            "<td><code>{method}</code></td><td>{coverage:.3}</td><td>{mean_size:.2}</td><td>{empty:.3}</td>"
        );
        assert!(report.contains(&row), "{row}: {report}");
    }
    let counts = [("training photos", 54), ("test photos", 36), ("skipped", 0)];
    let counts = counts.map(|(name, count)| format!("<tr><td>{name}</td><td>{count}</td></tr>")).concat();
    assert!(report.contains(&counts), "{counts}: {report}");
    assert!(report.contains("held out in 5 folds"), "{report}");
}

#[test]
fn a_calibration_that_does_not_help_is_dropped_and_the_run_says_so() {
    let folder = tempfile::tempdir().unwrap();
    write_features(folder.path(), "x", &feature_rows());
    let train_with = |method: &str| {
        let options = format!("calibration = \"{method}\"\n[split]\ntest_size = 0.4\n[head]\nkind = \"svm\"");
        let run_dir = folder.path().join(method);
        let settings = features_settings(folder.path(), "x", &options);
        let metrics = train(&settings, None, &RunDir::Named(run_dir.clone()), &()).unwrap().metrics;
        (metrics, Run::open(&run_dir, &registry_with_recording().into()).unwrap())
    };
    let (uncalibrated, uncalibrated_run) = train_with("none");
    assert!(
        uncalibrated.calibration.is_none()
            && uncalibrated.conformal.is_none()
            && uncalibrated_run.model.conformal.is_none()
    );
    let (metrics, run) = train_with("isotonic");
    let calibration = metrics.calibration.unwrap();
    assert_eq!(calibration.dropped, Some(CalibrationMethod::Isotonic));
    assert_eq!((calibration.method, calibration.temperature), (CalibrationMethod::None, None));
    assert_eq!(run.model.record.calibration, Calibration::None);
    assert_eq!(calibration.test.before, calibration.test.after);
    assert_eq!(calibration.out_of_fold.before, calibration.out_of_fold.after);
    // The metrics are those without calibration; the conformal sets exist nevertheless.
    assert_eq!(metrics.test, uncalibrated.test);
    assert_eq!(calibration.test.after, uncalibrated.test.of_probabilities());
    assert!(metrics.conformal.is_some() && run.model.conformal.is_some());
}

#[test]
fn hyperparameters_chosen_by_the_fit_are_in_the_metrics() {
    let folder = tempfile::tempdir().unwrap();
    write_features(folder.path(), "x", &feature_rows());
    let settings = features_settings(
        folder.path(),
        "x",
        "calibration = \"none\"\n[head]\nkind = \"ridge\"\nalpha = \"auto\"",
    );
    let run_dir = RunDir::Named(folder.path().join("run"));
    let chosen = train(&settings, None, &run_dir, &()).unwrap().metrics.chosen;
    let samples = SampleSet::read(&settings, &()).unwrap().0;
    let train_rows = samples.rows_of(Subset::Train);
    let values: Vec<f32> = train_rows.iter().flat_map(|&row| feature_rows()[row].values.clone()).collect();
    let labels = samples.labels(&train_rows);
    let groups: Vec<u32> = (0..train_rows.len() as u32).collect();
    let data = TrainingSet::new(FeatureMatrix::new(&values, 3).unwrap(), &labels, 3).unwrap();
    let fitted = settings.head.fit(&data.with_groups(&groups).unwrap(), &FitContext::silent()).unwrap();
    let alpha = fitted.chosen.iter().find(|(key, _)| *key == "alpha").unwrap().1;
    assert_eq!(chosen, [("alpha".to_owned(), alpha)].into());
}

/// The first loss of a warm start is the last loss of the earlier fit.
// effect: train --warm
#[test]
fn a_warm_start_continues_the_run_and_keeps_its_class_order() {
    let folder = tempfile::tempdir().unwrap();
    write_features(folder.path(), "x", &feature_rows());
    let registries = registry_with_recording().into();
    let train_on = |run: &str, start: Option<&Run>, options: &str| {
        let settings = features_settings(
            folder.path(),
            "x",
            &format!("calibration = \"none\"\n{options}[head]\nkind = \"linear\"\ntol = 1e-8"),
        );
        let run_dir = folder.path().join(run);
        train(&settings, start, &RunDir::Named(run_dir.clone()), &()).unwrap();
        let column = |index: usize| -> Vec<f64> {
            read_csv(&run_dir, "history.csv").iter().skip(1).map(|row| row[index].parse().unwrap()).collect()
        };
        (column(1), Run::open(&run_dir, &registries).unwrap())
    };
    let (cold, first) = train_on("cold", None, "");
    let (warm, again) = train_on("warm", Some(&first), "");
    let final_loss = cold[cold.len() - 1];
    assert!(cold[0] > 1.05 * final_loss, "{cold:?}");
    assert!(warm[0] < final_loss * (1.0 + 1e-6), "{warm:?} after {final_loss}");
    assert_eq!(again.model.record.classes, first.model.record.classes);

    // With another class order in the data, the run keeps its order and its weights.
    let mut rotated = feature_rows();
    rotated.rotate_left(3);
    write_features(folder.path(), "x", &rotated);
    let (_, other) = train_on("other", None, "");
    assert_eq!(other.model.record.classes, first.model.record.classes, "sorted by name");
    let text = "version = 1\ncalibration = \"none\"\n[data]\nfeatures = \"x.npy\"\nclass_order = \
                \"appearance\"\n[head]\nkind = \"linear\"\ntol = 1e-8";
    let settings = Config::parse(text, "test", folder.path()).unwrap().resolve(&registries).unwrap();
    let run_dir = folder.path().join("turned");
    assert_ne!(SampleSet::read(&settings, &()).unwrap().0.classes.names(), first.model.record.classes);
    train(&settings, Some(&first), &RunDir::Named(run_dir.clone()), &()).unwrap();
    let reordered = Run::open(&run_dir, &registries).unwrap();
    assert_eq!(reordered.model.record.classes, first.model.record.classes);
    let first_loss: f64 = read_csv(&run_dir, "history.csv")[1][1].parse().unwrap();
    assert!(first_loss < 1.05 * final_loss, "{first_loss} after {final_loss}");
}

/// A change of a model's metadata and tensors.
type Damage = dyn Fn(&mut serde_json::Value, &mut Tensors);

#[test]
fn a_damaged_model_or_an_unknown_format_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    write_features(folder.path(), "x", &feature_rows());
    let settings = features_settings(folder.path(), "x", "");
    let run_dir = folder.path().join("run");
    train(&settings, None, &RunDir::Named(run_dir.clone()), &()).unwrap();
    let path = run_dir.join("model.safetensors");
    let original = fs::read(&path).unwrap();
    let stored = StoredTensors::open(&path).unwrap();
    let entry: serde_json::Value = serde_json::from_str(stored.metadata_entry("headstock").unwrap()).unwrap();
    let saved_tensors = stored.tensors().unwrap();
    let open_error = |change: &Damage| {
        let (mut entry, mut tensors) = (entry.clone(), saved_tensors.clone());
        change(&mut entry, &mut tensors);
        let metadata = std::collections::HashMap::from([("headstock".to_owned(), entry.to_string())]);
        headstock_inference::tensors::write(&path, &tensors, metadata).unwrap();
        Run::open(&run_dir, &registry_with_recording().into())
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert_eq!(open_error(&|_, _| ()), "", "unchanged");
    let cases: [(&Damage, &str); 6] = [
        (
            &|entry, _| entry["format"] = 2.into(),
            "the format of the file is 2, but this headstock reads version 1",
        ),
        (
            &|entry, _| entry["head"]["kind"] = "forest".into(),
            "the head `forest`, which this program does not have",
        ),
        (
            &|entry, _| entry["width"] = 4.into(),
            "its head has 3 features and 3 classes, but its metadata has 4 and 3",
        ),
        (&|entry, _| entry["classes"] = serde_json::json!(["a", "b"]), "but its metadata has 3 and 2"),
        (
            &|entry, _| entry["calibration"] = serde_json::json!({ "temperature": -1.0 }),
            "model.safetensors: ",
        ),
        (
            &|_, tensors| assert!(tensors.remove("conformal.aps").is_some()),
            "tensor `conformal.aps`: is missing",
        ),
    ];
    for (change, reason) in cases {
        let error = open_error(change);
        assert!(error.contains(reason), "{reason}: {error}");
    }
    // A run of an earlier version has no scores, and so no conformal sets.
    let error = open_error(&|_, tensors| tensors.retain(|name, _| !name.starts_with("conformal.")));
    assert_eq!(error, "");
    let run = Run::open(&run_dir, &registry_with_recording().into()).unwrap();
    let error = run.model.sets(0.9, ConformalMethod::Lac).unwrap_err();
    assert!(
        error.to_string().contains("it has not saved the scores that they need")
            && error.kind() == FailureKind::Usage
    );
    fs::write(&path, original).unwrap();
    fs::remove_file(run_dir.join("headstock.toml")).unwrap();
    let error = Run::open(&run_dir, &registry_with_recording().into()).err().unwrap().to_string();
    assert!(error.contains("the run is incomplete"), "{error}");
    fs::remove_file(&path).unwrap();
    let error = Run::open(&run_dir, &registry_with_recording().into()).err().unwrap().to_string();
    assert!(error.contains("is not a run"), "{error}");
}
