//! The overlap of tested samples with those that a run was trained on.

use super::*;
use crate::config::{Config, Registries};
use crate::metrics::{Accuracy, CalibrationError, LogLoss, MacroF1, Metrics};
use crate::run::{Run, RunDir, RunMetrics, TrainTestOverlap};
use crate::tests::recording_head::{FeatureRow, solid_color_png, write_backbone, write_features};
use crate::{Evaluation, evaluate, train};

/// Distinct rows of two overlapping classes.
fn feature_rows(count: usize) -> Vec<FeatureRow> {
    (0..count)
        .map(|row| {
            let (class, noise) = (row % 2, (row as f32 * 2.3).sin());
            let values = vec![class as f32 + noise, (row as f32 * 1.7).cos(), row as f32 / 100.0];
            FeatureRow { values, class: ["a", "b"][class].into(), group: None }
        })
        .collect()
}

fn settings(folder: &Path, overrides: &[&str]) -> Settings {
    let text = "version = 1\n[data]\nfeatures = \"x.npy\"\n[split]\ntest_size = 0.25\n";
    let mut config = Config::parse(text, "test", folder).unwrap();
    config.set(overrides).unwrap();
    config.resolve(&Registries::builtin()).unwrap()
}

/// Trains the run `name` in `folder`.
fn train_run(folder: &Path, name: &str, warm_start: Option<&Run>, overrides: &[&str]) -> (RunMetrics, Run) {
    let run_dir = folder.join(name);
    train(&settings(folder, overrides), warm_start, &RunDir::Named(run_dir.clone()), &()).unwrap();
    let metrics = serde_json::from_slice(&fs::read(run_dir.join("metrics.json")).unwrap()).unwrap();
    (metrics, Run::open(&run_dir, &Registries::builtin()).unwrap())
}

fn evaluate_run(run: &Run, settings: &Settings) -> Evaluation {
    evaluate(run, settings, &Registries::builtin(), &()).unwrap()
}

fn ids(run: &Run, subset: &str) -> BTreeSet<usize> {
    let split = run.split().unwrap();
    split.iter().filter(|row| row.split == subset).map(|row| row.path.parse().unwrap()).collect()
}

/// The metrics of some rows, computed with the run's head directly.
fn metrics_of_rows(run: &Run, data: &[FeatureRow], rows: &BTreeSet<usize>) -> Metrics {
    let values: Vec<f32> = rows.iter().flat_map(|&row| data[row].values.clone()).collect();
    let features = headstock_heads::FeatureMatrix::new(&values, 3).unwrap();
    let logits = run.model.head.logits(features).unwrap();
    let labels: Vec<u32> = rows.iter().map(|&row| u32::from(data[row].class == "b")).collect();
    Metrics::from_predictions(&run.model.predictions(&logits).unwrap(), &labels)
}

/// Sums of the same numbers in another order can differ in the last digit.
fn is_close(a: &Metrics, b: &Metrics) -> bool {
    let pairs = [
        (a[&Accuracy], b[&Accuracy]),
        (a[&MacroF1], b[&MacroF1]),
        (a[&LogLoss], b[&LogLoss]),
        (a[&CalibrationError], b[&CalibrationError]),
    ];
    pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-12)
}

/// Asserts that of `tested` those in `known` are counted, and the others have metrics of their own.
fn assert_overlap(
    found: &TrainTestOverlap,
    run: &Run,
    data: &[FeatureRow],
    tested: &BTreeSet<usize>,
    known: &BTreeSet<usize>,
) {
    let unseen: BTreeSet<usize> = tested.difference(known).copied().collect();
    assert!(!unseen.is_empty() && unseen.len() < tested.len(), "{unseen:?}");
    assert_eq!(found.samples, tested.len() - unseen.len());
    let unseen_metrics = found.unseen.as_ref().unwrap();
    assert_eq!(unseen_metrics.samples, unseen.len());
    assert!(is_close(&unseen_metrics.test, &metrics_of_rows(run, data, &unseen)), "{unseen_metrics:?}");
    assert!(
        !is_close(&unseen_metrics.test, &metrics_of_rows(run, data, tested)),
        "the metrics of unseen samples differ"
    );
    assert!(unseen_metrics.conformal.is_some());
}

// effect: evaluate RUN
#[test]
fn a_run_evaluated_on_another_split_counts_its_training_samples() {
    let folder = tempfile::tempdir().unwrap();
    let data = feature_rows(60);
    write_features(folder.path(), "x", &data);
    let (metrics, run) = train_run(folder.path(), "run", None, &[]);
    assert_eq!(metrics.trained_on, None, "there was no earlier training");

    // The run has seen nothing of its own test set.
    let own = evaluate_run(&run, &settings(folder.path(), &[]));
    let overlap = own.trained_on.unwrap();
    assert_eq!((overlap.samples, overlap.unseen.as_ref().unwrap().samples, own.samples), (0, 15, 15));
    assert_eq!(overlap.unseen.as_ref().unwrap().test, own.metrics);
    assert_eq!(overlap.unseen.as_ref().unwrap().conformal, own.conformal);
    assert_eq!(own.metrics, metrics.test);

    let other = settings(folder.path(), &["split.seed=5"]);
    let found = evaluate_run(&run, &other);
    let (_, drawn) = train_run(folder.path(), "drawn", None, &["split.seed=5"]);
    let tested = ids(&drawn, "test");
    assert_eq!(found.metrics, metrics_of_rows(&run, &data, &tested));
    assert_overlap(&found.trained_on.unwrap(), &run, &data, &tested, &ids(&run, "train"));
}

#[test]
fn rows_are_matched_by_their_values() {
    let folder = tempfile::tempdir().unwrap();
    let data = feature_rows(60);
    write_features(folder.path(), "x", &data);
    let (_, run) = train_run(folder.path(), "run", None, &[]);
    let known = ids(&run, "train");

    // Another file with more rows, in another order.
    let other_dir = tempfile::tempdir().unwrap();
    let mut reversed: Vec<FeatureRow> = feature_rows(90);
    reversed.reverse();
    write_features(other_dir.path(), "x", &reversed);
    let found = evaluate_run(&run, &settings(other_dir.path(), &[]));
    let (_, drawn) = train_run(other_dir.path(), "drawn", None, &[]);
    let tested: BTreeSet<usize> = ids(&drawn, "test").into_iter().map(|row| 89 - row).collect();
    assert_overlap(&found.trained_on.unwrap(), &run, &feature_rows(90), &tested, &known);

    // All samples were trained on, then none.
    let overlap_for = |rows: Vec<FeatureRow>| {
        write_features(other_dir.path(), "x", &rows);
        evaluate_run(&run, &settings(other_dir.path(), &[])).trained_on.unwrap()
    };
    let trained_rows: Vec<FeatureRow> = known.iter().map(|&row| data[row].clone()).collect();
    let overlap = overlap_for(trained_rows);
    assert!(overlap.samples > 5 && overlap.unseen.is_none(), "{overlap:?}");
    let overlap = overlap_for(
        feature_rows(60)
            .into_iter()
            .map(|mut row| {
                row.values[0] += 0.5;
                row
            })
            .collect(),
    );
    assert_eq!((overlap.samples, overlap.unseen.as_ref().unwrap().samples), (0, 15));
}

/// Runs of earlier versions have no `trained_on.csv`.
#[test]
fn without_the_hash_file_the_split_is_used() {
    let folder = tempfile::tempdir().unwrap();
    write_features(folder.path(), "x", &feature_rows(60));
    let (_, run) = train_run(folder.path(), "run", None, &[]);
    let other = settings(folder.path(), &["split.seed=5"]);
    let overlap = evaluate_run(&run, &other).trained_on.unwrap();
    assert!(overlap.samples > 0);
    fs::remove_file(folder.path().join("run/trained_on.csv")).unwrap();
    assert_eq!(evaluate_run(&run, &other).trained_on, Some(overlap));

    // The training data is gone: the overlap is unknown.
    let other_dir = tempfile::tempdir().unwrap();
    write_features(other_dir.path(), "x", &feature_rows(60));
    fs::remove_file(folder.path().join("x.npy")).unwrap();
    assert_eq!(evaluate_run(&run, &settings(other_dir.path(), &[])).trained_on, None);
}

// effect: train --warm
#[test]
fn a_warm_started_run_reports_the_overlap_with_earlier_training() {
    let folder = tempfile::tempdir().unwrap();
    let data = feature_rows(60);
    write_features(folder.path(), "x", &data);
    let (_, first) = train_run(folder.path(), "first", None, &[]);
    let (metrics, second) = train_run(folder.path(), "second", Some(&first), &["split.seed=5"]);
    assert_overlap(
        metrics.trained_on.as_ref().unwrap(),
        &second,
        &data,
        &ids(&second, "test"),
        &ids(&first, "train"),
    );

    // Runs that descend from the first have seen its training samples.
    let own = evaluate_run(&second, &settings(folder.path(), &["split.seed=5"]));
    assert_eq!(own.trained_on, metrics.trained_on);
    let (metrics, third) = train_run(folder.path(), "third", Some(&second), &["split.seed=8"]);
    let seen: BTreeSet<usize> = &ids(&first, "train") | &ids(&second, "train");
    let overlap = metrics.trained_on.as_ref().unwrap();
    assert_eq!(overlap.samples, ids(&third, "test").intersection(&seen).count());

    // With the same split no tested sample was trained on.
    let (metrics, _) = train_run(folder.path(), "again", Some(&first), &[]);
    let overlap = metrics.trained_on.as_ref().unwrap();
    assert_eq!((overlap.samples, &overlap.unseen.as_ref().unwrap().test), (0, &metrics.test));

    // A head that is not warm-started has learned nothing from the earlier run.
    let (_, ridge) = train_run(folder.path(), "ridge", None, &["head.kind=ridge"]);
    let (metrics, _) = train_run(folder.path(), "cold", Some(&ridge), &["head.kind=ridge", "split.seed=5"]);
    assert_eq!(metrics.trained_on, None);
}

/// Renamed images in a folder and images of a table are recognized.
#[test]
fn images_are_matched_by_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let write_images = |root: &str, name: &dyn Fn(usize) -> String, count: usize| {
        for number in 0..count {
            let path = folder.path().join(root).join(name(number));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, solid_color_png(number)).unwrap();
        }
    };
    let class = |number: usize| ["a", "b"][number % 2];
    write_images("photos", &|number| format!("{}/{number:02}.png", class(number)), 16);
    write_images("renamed", &|number| format!("{}/other{:02}.png", class(number), 40 - number), 20);
    write_images("heap", &|number| format!("{number:02}.png"), 20);
    let table: String = (0..20).map(|number| format!("{number:02}.png,{}\n", class(number))).collect();
    fs::write(folder.path().join("heap.csv"), format!("id,label\n{table}")).unwrap();
    write_backbone(folder.path());
    let settings_for = |data: &str| {
        let text = format!(
            "version = 1\n[data]\n{data}\n[split]\ntest_size = 0.25\n[backbone]\nweights = \
             \"backbone\"\nlayer = \"layer1\"\n"
        );
        Config::parse(&text, "test", folder.path()).unwrap().resolve(&Registries::builtin()).unwrap()
    };
    let run = folder.path().join("run");
    train(&settings_for("folder = \"photos\""), None, &RunDir::Named(run.clone()), &()).unwrap();
    let run = Run::open(&run, &Registries::builtin()).unwrap();
    let split = run.split().unwrap();
    let known: BTreeSet<usize> = (split.iter().filter(|row| row.split == "train"))
        .map(|row| row.path[2..4].parse().unwrap())
        .collect();
    assert_eq!(known.len(), 12);
    for (data, number) in [
        (
            "test_folder = \"renamed\"\nfolder = \"photos\"",
            &(|id: &str| 40 - id[id.len() - 6..id.len() - 4].parse::<usize>().unwrap())
                as &dyn Fn(&str) -> usize,
        ),
        ("csv = \"heap.csv\"\nimages = \"heap\"", &|id: &str| id[..2].parse().unwrap()),
    ] {
        let settings = settings_for(data);
        let found = evaluate_run(&run, &settings);
        let samples = crate::samples::SampleSet::read(&settings, &()).unwrap().0;
        let tested: Vec<usize> =
            samples.rows_of(Subset::Test).into_iter().map(|row| number(&samples.rows[row].id)).collect();
        let seen = tested.iter().filter(|&number| known.contains(number)).count();
        let overlap = found.trained_on.unwrap();
        assert!(seen > 0 && seen < tested.len(), "{tested:?}");
        assert_eq!(
            (overlap.samples, overlap.unseen.as_ref().unwrap().samples),
            (seen, tested.len() - seen),
            "{data}"
        );
        if data.starts_with("csv") {
            continue;
        }
        // Without the file, the hashes are computed from the images.
        let file = run.folder.join(crate::run::TRAINED_ON);
        let saved = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(evaluate_run(&run, &settings).trained_on, Some(overlap));
        fs::write(&file, saved).unwrap();
    }
}
