//! The order of candidates, ties, and changes that do not affect the results.

use headstock_heads::{
    FeatureMatrix, FitContext, Fitted, Head, HeadConfig, HeadError, Logits, Registry, Tensors, TrainingSet,
};
use headstock_split::stratified_k_fold;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::config::{Config, Settings};
use crate::metrics::{LogLoss, MacroF1};
use crate::tests::recording_head::{FeatureRow, write_features};

/// A head whose logits of two classes are features `2 * which` and `2 * which + 1`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct FeatureLogitsConfig {
    /// Which features are the logits.
    which: usize,
}

#[derive(Debug)]
struct FeatureLogits {
    which: usize,
    width: usize,
}

impl HeadConfig for FeatureLogitsConfig {
    const KIND: &'static str = "feature-logits";
    const ABOUT: &'static str = "returns features as logits";
    type Head = FeatureLogits;

    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }

    fn fit(&self, data: &TrainingSet<'_>, _: &FitContext<'_>) -> Result<Fitted<FeatureLogits>, HeadError> {
        Ok(Fitted::without_history(FeatureLogits { which: self.which, width: data.features().width() }))
    }

    fn load(&self, _: &Tensors) -> Result<FeatureLogits, HeadError> {
        Err(HeadError::Data("this head cannot be loaded".into()))
    }

    fn candidate_configs(&self) -> Vec<Self> {
        (0..3).map(|which| Self { which }).collect()
    }
}

impl Head for FeatureLogits {
    fn width(&self) -> usize {
        self.width
    }

    fn classes(&self) -> usize {
        2
    }

    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError> {
        let values = features.rows().flat_map(|row| row[2 * self.which..][..2].to_vec());
        Logits::new(values.collect(), 2)
    }

    fn tensors(&self) -> Result<Tensors, HeadError> {
        Ok(Tensors::new())
    }
}

/// The logit difference in favor of the true class of `row`, for each of three heads; below 0 the prediction
/// is wrong. A fifth of the 400 rows is class b.
fn signed_confidence(row: usize) -> [f32; 3] {
    let (class_b, number) = (row % 5 == 4, row / 5);
    let confidence = |right: bool| if right { 2.0 } else { -2.0 };
    [
        // Correct for the large class and for a quarter of the small class.
        confidence(!class_b || number % 4 == 0),
        // Correct for most of the small class and for four fifths of the large class.
        confidence(if class_b { number % 20 != 3 } else { number % 5 != 1 }),
        // Confident and correct for three of five; unsure of the others, and correct for half of them.
        [6.0, 6.0, 6.0, 0.1, -0.1][(row / 3 + row) % 5],
    ]
}

fn settings(folder: &std::path::Path) -> Settings {
    let rows: Vec<FeatureRow> = (0..400)
        .map(|row| {
            let class_b = row % 5 == 4;
            let logits = signed_confidence(row).map(|sure| if class_b { [0.0, sure] } else { [sure, 0.0] });
            FeatureRow { values: logits.concat(), class: if class_b { "b" } else { "a" }.into(), group: None }
        })
        .collect();
    write_features(folder, "x", &rows);
    let config = "version = 1\n[data]\nfeatures = \"x.npy\"\n[head]\nkind = \"feature-logits\"";
    Config::parse(config, "test", folder).unwrap().resolve(&heads().into()).unwrap()
}

fn heads() -> Registry {
    let mut heads = Registry::builtin();
    heads.add::<FeatureLogitsConfig>().unwrap();
    heads
}

fn run_comparison(settings: &Settings, prepared: &PreparedData, metric: &'static dyn Metric) -> Comparison {
    let candidates = candidates(settings, &heads(), Some(&["feature-logits".to_owned()])).unwrap();
    compare(prepared, &candidates, &CompareOptions { metric, folds: 3, ..CompareOptions::default() }, &())
        .unwrap()
}

fn head_order(comparison: &Comparison) -> Vec<i64> {
    comparison
        .candidates
        .iter()
        .map(|candidate| candidate.parameters["which"].as_integer().unwrap())
        .collect()
}

// effect: compare --metric
#[test]
fn candidates_are_ordered_by_the_requested_metric() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let prepared = PreparedData::prepare(&settings, &()).unwrap();
    // With so few samples, hundredths of accuracy are a tie, but tenths of macro F1 or log-loss are not.
    for (metric, order, expected_ties) in [
        (&Accuracy as &dyn Metric, [0, 1, 2], [true, true, true]),
        (&MacroF1, [1, 2, 0], [true, true, false]),
        (&LogLoss, [2, 0, 1], [true, false, false]),
    ] {
        let comparison = run_comparison(&settings, &prepared, metric);
        assert_eq!((head_order(&comparison).as_slice(), comparison.metric), (order.as_slice(), metric));
        assert_eq!(comparison.best().unwrap().parameters["which"].as_integer(), Some(order[0]));
        for candidate in &comparison.candidates {
            let scores = candidate.scores().unwrap();
            let head = candidate.parameters["which"].as_integer().unwrap() as usize;
            // By hand for each class: correct predictions, and samples of the class plus predictions of it.
            let (mut correct, mut label_plus_predicted) = ([0.0; 2], [0.0; 2]);
            for &row in &prepared.train {
                let (class, hit) = (usize::from(row % 5 == 4), signed_confidence(row)[head] > 0.0);
                label_plus_predicted[class] += 1.0;
                label_plus_predicted[if hit { class } else { 1 - class }] += 1.0;
                correct[class] += f64::from(u8::from(hit));
            }
            let accuracy = (correct[0] + correct[1]) / prepared.train.len() as f64;
            let f1 = (2.0 * correct[0] / label_plus_predicted[0]
                + 2.0 * correct[1] / label_plus_predicted[1])
                / 2.0;
            assert!((scores.metrics[&Accuracy].value - accuracy).abs() < 1e-12, "{head}: {scores:?}");
            assert!((scores.metrics[&MacroF1].value - f1).abs() < 1e-12, "{head}: {scores:?}");
            // Ties are determined by the requested metric.
            let interval = scores.metrics[metric].to_best;
            assert_eq!(scores.tied, interval.low <= 0.0 && interval.high >= 0.0);
        }
        let tied: Vec<bool> =
            comparison.candidates.iter().map(|candidate| candidate.scores().unwrap().tied).collect();
        assert_eq!(tied, expected_ties, "{metric:?}");
    }
}

// effect: compare --metric
#[test]
fn ties_are_broken_by_the_lower_log_loss() {
    let folder = tempfile::tempdir().unwrap();
    // The second head has the accuracy of the first, and is less confident where it is wrong.
    let rows: Vec<FeatureRow> = (0..60)
        .map(|row| {
            let (class, wrong) = (row % 2, row % 10 < 2);
            let logits = |sure: f32| if class == 0 { [sure, 0.0] } else { [0.0, sure] };
            let values = [
                logits(if wrong { -4.0 } else { 4.0 }),
                logits(if wrong { -0.1 } else { 4.0 }),
                logits(-9.0),
            ];
            FeatureRow { values: values.concat(), class: ["a", "b"][class].into(), group: None }
        })
        .collect();
    write_features(folder.path(), "x", &rows);
    let config = "version = 1\n[data]\nfeatures = \"x.npy\"\n[head]\nkind = \"feature-logits\"";
    let settings = Config::parse(config, "test", folder.path()).unwrap().resolve(&heads().into()).unwrap();
    let prepared = PreparedData::prepare(&settings, &()).unwrap();
    for metric in [&Accuracy as &dyn Metric, &MacroF1, &LogLoss] {
        let comparison = run_comparison(&settings, &prepared, metric);
        assert_eq!(head_order(&comparison), [1, 0, 2], "{metric:?}");
        let scores: Vec<&CandidateScores> =
            comparison.candidates.iter().map(|candidate| candidate.scores().unwrap()).collect();
        assert_eq!(scores[0].metrics[&Accuracy].value, scores[1].metrics[&Accuracy].value);
        assert_eq!((scores[2].metrics[&Accuracy].value, scores[2].metrics[&MacroF1].value), (0.0, 0.0));
        assert_eq!(scores[1].tied, metric.key() != LogLoss.key());
        assert!(!scores[2].tied);
    }
}

/// The comparison with all seconds set to 0.
fn without_seconds(mut comparison: Comparison) -> Comparison {
    comparison.seconds = 0.0;
    for candidate in &mut comparison.candidates {
        if let CandidateStatus::Compared(scores) = &mut candidate.status {
            (scores.fit_seconds, scores.predict_seconds) = (0.0, 0.0);
        }
    }
    comparison
}

#[test]
fn labels_of_the_test_set_and_names_of_classes_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let mut prepared = PreparedData::prepare(&settings, &()).unwrap();
    let expected = without_seconds(run_comparison(&settings, &prepared, &LogLoss));
    assert_eq!(expected.samples, 360);
    for test in prepared.test.clone() {
        prepared.samples.rows[test].label = 1 - prepared.samples.rows[test].label;
    }
    prepared.samples.classes =
        headstock_loader::ClassMap::new(["z", "y"], headstock_loader::ClassOrder::Appearance);
    assert_eq!(without_seconds(run_comparison(&settings, &prepared, &LogLoss)), expected);

    // A changed label of the training set changes the results.
    let first = prepared.train[0];
    prepared.samples.rows[first].label = 1 - prepared.samples.rows[first].label;
    assert_ne!(without_seconds(run_comparison(&settings, &prepared, &LogLoss)), expected);
}

/// The interval is computed by hand from differences of accuracies on the resamples of the seed.
// effect: compare --seed
#[test]
fn intervals_are_quantiles_of_differences_on_resamples_keyed_by_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let prepared = PreparedData::prepare(&settings, &()).unwrap();
    let candidates = candidates(&settings, &heads(), Some(&["feature-logits".to_owned()])).unwrap();
    let mut intervals = Vec::new();
    for seed in [0, 9] {
        let comparison =
            compare(&prepared, &candidates, &CompareOptions { seed, ..CompareOptions::default() }, &())
                .unwrap();
        let units = BootstrapUnits::new(360, None, seed);
        let gain = |row: usize| {
            let hit = |head: usize| i64::from(signed_confidence(row)[head] > 0.0);
            hit(2) - hit(0)
        };
        let gains: Vec<i64> = prepared.train.iter().map(|&row| gain(row)).collect();
        let mut differences: Vec<f64> = (0..2000)
            .map(|resample| {
                let counts = units.resample_counts(resample);
                let sum: i64 = gains.iter().zip(&counts).map(|(gain, &count)| gain * i64::from(count)).sum();
                sum as f64 / 360.0
            })
            .collect();
        differences.sort_unstable_by(f64::total_cmp);
        // numpy.quantile: positions 0.025 * 1999 and 0.975 * 1999.
        let quantile = |position: f64| {
            let (below, above) = (differences[position as usize], differences[position as usize + 1]);
            below + (above - below) * position.fract()
        };
        assert_eq!(head_order(&comparison), [0, 1, 2]);
        let found = comparison.candidates[2].scores().unwrap().metrics[&Accuracy].to_best;
        assert!(
            (found.low - quantile(49.975)).abs() < 1e-12 && (found.high - quantile(1949.025)).abs() < 1e-12,
            "{found:?}"
        );
        intervals.push(comparison.candidates[2].scores().unwrap().metrics[&MacroF1].to_best);
    }
    assert_ne!(intervals[0], intervals[1]);
}

/// The temperatures are computed by hand from the other folds.
#[test]
fn the_temperature_of_a_fold_is_that_of_the_other_folds() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let prepared = PreparedData::prepare(&settings, &()).unwrap();
    let comparison = run_comparison(&settings, &prepared, &Accuracy);
    let labels = prepared.samples.labels(&prepared.train);
    let splits = stratified_k_fold(&labels, 3, 0).unwrap();
    let temperatures = &comparison.candidates[0].scores().unwrap().temperatures;
    assert_eq!(temperatures.len(), 3);
    for (temperature, SplitIndices { test, .. }) in temperatures.iter().zip(&splits) {
        // All predictions have the same confidence: the best temperature makes `2 / T` the log odds of being
        // correct.
        let others: Vec<usize> =
            (0..labels.len()).filter(|i| !test.contains(i)).map(|i| prepared.train[i]).collect();
        let correct = others.iter().filter(|&&row| signed_confidence(row)[0] > 0.0).count() as f64;
        let odds = (correct / (others.len() as f64 - correct)).ln();
        assert!((temperature - 2.0 / odds).abs() < 1e-4, "{temperature}, {}", 2.0 / odds);
    }
}

// effect: compare --budget
#[test]
fn a_budget_of_zero_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let prepared = PreparedData::prepare(&settings, &()).unwrap();
    let candidates = candidates(&settings, &heads(), Some(&["feature-logits".to_owned()])).unwrap();
    let with_budget =
        |budget| CompareOptions { budget: Some(Duration::from_secs(budget)), ..CompareOptions::default() };
    let error = compare(&prepared, &candidates, &with_budget(0), &()).unwrap_err().to_string();
    assert!(error.contains("the time budget ended"), "{error}");
    let comparison = compare(&prepared, &candidates, &with_budget(3600), &()).unwrap();
    assert!(comparison.candidates.iter().all(|candidate| candidate.scores().is_some()));
}
