//! In which order candidates come, which are marked as ties, and what changes nothing.

use headstock_heads::{
    FeatureMatrix, FitContext, Fitted, Head, HeadConfig, HeadError, HyperparameterInfo, Logits, Registry,
    Tensors, TrainingSet,
};
use serde::{Deserialize, Serialize};

use super::*;
use crate::config::{Config, Settings};
use crate::recording::{Made, write};

/// A head whose logits of two classes are features: those behind the first `2 * which`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SaidConfig {
    which: usize,
}

#[derive(Debug)]
struct Said {
    which: usize,
    width: usize,
}

impl HeadConfig for SaidConfig {
    const KIND: &'static str = "said";
    const ABOUT: &'static str = "says what it was told";
    const PARAMETERS: &'static [HyperparameterInfo] = &[("which", "which features are logits")];
    type Head = Said;

    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }

    fn fit(&self, data: &TrainingSet<'_>, _: &FitContext<'_>) -> Result<Fitted<Said>, HeadError> {
        Ok(Fitted::without_history(Said { which: self.which, width: data.features().width() }))
    }

    fn load(&self, _: &Tensors) -> Result<Said, HeadError> {
        Err(HeadError::Data("it is not loaded here".into()))
    }

    fn grid(&self) -> Vec<Self> {
        (0..3).map(|which| Self { which }).collect()
    }
}

impl Head for Said {
    fn width(&self) -> usize {
        self.width
    }

    fn classes(&self) -> usize {
        2
    }

    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError> {
        let said = features.rows().flat_map(|row| row[2 * self.which..][..2].to_vec());
        Logits::new(said.collect(), 2)
    }

    fn tensors(&self) -> Result<Tensors, HeadError> {
        Ok(Tensors::new())
    }
}

/// How sure each of three heads is of the true class of row `row`, of 400; below 0 it says the other class. A fifth is of class b.
fn sureness(row: usize) -> [f32; 3] {
    let (class_b, number) = (row % 5 == 4, row / 5);
    let sure = |right: bool| if right { 2.0 } else { -2.0 };
    [
        // Of the small class it knows one in four.
        sure(!class_b || number % 4 == 0),
        // It knows the small class, and takes a fifth of the large one for it.
        sure(if class_b { number % 20 != 3 } else { number % 5 != 1 }),
        // Of five it is sure of three and right; of the others it is not, and right half of the time.
        [6.0, 6.0, 6.0, 0.1, -0.1][(row / 3 + row) % 5],
    ]
}

fn settings(folder: &std::path::Path) -> Settings {
    let rows: Vec<Made> = (0..400)
        .map(|row| {
            let class_b = row % 5 == 4;
            let logits = sureness(row).map(|sure| if class_b { [0.0, sure] } else { [sure, 0.0] });
            Made { values: logits.concat(), class: if class_b { "b" } else { "a" }.into(), group: None }
        })
        .collect();
    write(folder, "x", &rows);
    let config = "version = 1\n[data]\nfeatures = \"x.npy\"\n[head]\nkind = \"said\"";
    Config::parse(config, "test", folder).unwrap().resolve(&heads()).unwrap()
}

fn heads() -> Registry {
    let mut heads = Registry::builtin();
    heads.add::<SaidConfig>().unwrap();
    heads
}

fn compared(settings: &Settings, prepared: &Prepared, by: Criterion) -> Comparison {
    let candidates = candidates(settings, &heads(), Some(&["said".to_owned()])).unwrap();
    compare(prepared, &candidates, &Plan { by, folds: 3, ..Plan::default() }, &()).unwrap()
}

fn which(comparison: &Comparison) -> Vec<i64> {
    comparison.candidates.iter().map(|entry| entry.parameters["which"].as_integer().unwrap()).collect()
}

// effect: compare --by
#[test]
fn candidates_come_in_the_order_of_the_figure_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let prepared = Prepared::new(&settings, &()).unwrap();
    for (by, order) in
        [(Criterion::Accuracy, [0, 1, 2]), (Criterion::MacroF1, [1, 2, 0]), (Criterion::LogLoss, [2, 0, 1])]
    {
        let comparison = compared(&settings, &prepared, by);
        assert_eq!((which(&comparison).as_slice(), comparison.by), (order.as_slice(), by));
        assert_eq!(comparison.best().unwrap().parameters["which"].as_integer(), Some(order[0]));
        for entry in &comparison.candidates {
            let judged = entry.judged().unwrap();
            let head = entry.parameters["which"].as_integer().unwrap() as usize;
            // Counted by hand: class by class how many are right, and how many are said to be of it.
            let (mut right, mut either) = ([0.0; 2], [0.0; 2]);
            for &row in &prepared.train {
                let (class, hit) = (usize::from(row % 5 == 4), sureness(row)[head] > 0.0);
                either[class] += 1.0;
                either[if hit { class } else { 1 - class }] += 1.0;
                right[class] += f64::from(u8::from(hit));
            }
            let accuracy = (right[0] + right[1]) / prepared.train.len() as f64;
            let f1 = (2.0 * right[0] / either[0] + 2.0 * right[1] / either[1]) / 2.0;
            assert!((judged.accuracy.value - accuracy).abs() < 1e-12, "{head}: {judged:?}");
            assert!((judged.macro_f1.value - f1).abs() < 1e-12, "{head}: {judged:?}");
            // What it is as good as is told by the figure that was asked for.
            assert_eq!(judged.by(by), [judged.accuracy, judged.macro_f1, judged.log_loss][by as usize]);
            let interval = judged.by(by).to_best;
            assert_eq!(judged.tied, interval.low <= 0.0 && interval.high >= 0.0);
        }
        let tied: Vec<bool> =
            comparison.candidates.iter().map(|entry| entry.judged().unwrap().tied).collect();
        // Some hundredths of accuracy are not told apart by so few samples; a tenth of macro F1 or of log loss is.
        let expected = match by {
            Criterion::Accuracy => [true, true, true],
            Criterion::MacroF1 => [true, true, false],
            Criterion::LogLoss => [true, false, false],
        };
        assert_eq!(tied, expected, "{by:?}");
    }
}

// effect: compare --by
#[test]
fn of_equals_the_one_with_less_log_loss_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    // The first is as often right as the second, and less sure where it is wrong.
    let rows: Vec<Made> = (0..60)
        .map(|row| {
            let (class, wrong) = (row % 2, row % 10 < 2);
            let said = |sure: f32| if class == 0 { [sure, 0.0] } else { [0.0, sure] };
            let values =
                [said(if wrong { -4.0 } else { 4.0 }), said(if wrong { -0.1 } else { 4.0 }), said(-9.0)];
            Made { values: values.concat(), class: ["a", "b"][class].into(), group: None }
        })
        .collect();
    write(folder.path(), "x", &rows);
    let config = "version = 1\n[data]\nfeatures = \"x.npy\"\n[head]\nkind = \"said\"";
    let settings = Config::parse(config, "test", folder.path()).unwrap().resolve(&heads()).unwrap();
    let prepared = Prepared::new(&settings, &()).unwrap();
    for by in [Criterion::Accuracy, Criterion::MacroF1, Criterion::LogLoss] {
        let comparison = compared(&settings, &prepared, by);
        assert_eq!(which(&comparison), [1, 0, 2], "{by:?}");
        let judged: Vec<&Judged> =
            comparison.candidates.iter().map(|entry| entry.judged().unwrap()).collect();
        assert_eq!(judged[0].accuracy.value, judged[1].accuracy.value);
        assert_eq!((judged[2].accuracy.value, judged[2].macro_f1.value), (0.0, 0.0));
        assert_eq!(judged[1].tied, by != Criterion::LogLoss);
        assert!(!judged[2].tied);
    }
}

/// But for the seconds.
fn timeless(mut comparison: Comparison) -> Comparison {
    comparison.seconds = 0.0;
    for entry in &mut comparison.candidates {
        if let State::Compared(judged) = &mut entry.state {
            (judged.fit_seconds, judged.predict_seconds) = (0.0, 0.0);
        }
    }
    comparison
}

#[test]
fn labels_of_the_test_part_and_names_of_classes_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let mut prepared = Prepared::new(&settings, &()).unwrap();
    let once = timeless(compared(&settings, &prepared, Criterion::LogLoss));
    assert_eq!(once.samples, 360);
    for test in prepared.test.clone() {
        prepared.samples.rows[test].label = 1 - prepared.samples.rows[test].label;
    }
    prepared.samples.classes =
        headstock_loader::ClassMap::new(["z", "y"], headstock_loader::ClassOrder::Appearance);
    assert_eq!(timeless(compared(&settings, &prepared, Criterion::LogLoss)), once);

    // A label of the training part does change something.
    let first = prepared.train[0];
    prepared.samples.rows[first].label = 1 - prepared.samples.rows[first].label;
    assert_ne!(timeless(compared(&settings, &prepared, Criterion::LogLoss)), once);
}

/// The differences of resampled accuracies, by hand, on the draws that belong to the seed.
// effect: compare --seed
#[test]
fn resamples_are_keyed_by_the_seed_and_the_interval_is_of_their_differences() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let prepared = Prepared::new(&settings, &()).unwrap();
    let candidates = candidates(&settings, &heads(), Some(&["said".to_owned()])).unwrap();
    let mut intervals = Vec::new();
    for seed in [0, 9] {
        let comparison = compare(&prepared, &candidates, &Plan { seed, ..Plan::default() }, &()).unwrap();
        let units = Units::new(360, None, seed);
        let gain = |row: usize| {
            let hit = |head: usize| i64::from(sureness(row)[head] > 0.0);
            hit(2) - hit(0)
        };
        let gains: Vec<i64> = prepared.train.iter().map(|&row| gain(row)).collect();
        let mut differences: Vec<f64> = (0..2000)
            .map(|resample| {
                let counts = units.draw(resample);
                let sum: i64 = gains.iter().zip(&counts).map(|(gain, &count)| gain * i64::from(count)).sum();
                sum as f64 / 360.0
            })
            .collect();
        differences.sort_unstable_by(f64::total_cmp);
        // numpy.quantile: 0.025 and 0.975 of 1999 steps.
        let at = |place: f64| {
            let (below, above) = (differences[place as usize], differences[place as usize + 1]);
            below + (above - below) * place.fract()
        };
        assert_eq!(which(&comparison), [0, 1, 2]);
        let found = comparison.candidates[2].judged().unwrap().accuracy.to_best;
        assert!(
            (found.low - at(49.975)).abs() < 1e-12 && (found.high - at(1949.025)).abs() < 1e-12,
            "{found:?}"
        );
        intervals.push(comparison.candidates[2].judged().unwrap().macro_f1.to_best);
    }
    assert_ne!(intervals[0], intervals[1]);
}

/// The same figures of temperatures that are fitted on the other folds, by hand.
#[test]
fn the_temperature_of_a_fold_is_that_of_the_other_folds() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let prepared = Prepared::new(&settings, &()).unwrap();
    let comparison = compared(&settings, &prepared, Criterion::Accuracy);
    let labels = prepared.samples.labels(&prepared.train);
    let splits = stratified_k_fold(&labels, 3, 0).unwrap();
    let temperatures = &comparison.candidates[0].judged().unwrap().temperatures;
    assert_eq!(temperatures.len(), 3);
    for (temperature, SplitIndices { test, .. }) in temperatures.iter().zip(&splits) {
        // All are as sure: what is said is right as often as it is said to be where `2 / T` is the log odds.
        let others: Vec<usize> =
            (0..labels.len()).filter(|i| !test.contains(i)).map(|i| prepared.train[i]).collect();
        let right = others.iter().filter(|&&row| sureness(row)[0] > 0.0).count() as f64;
        let odds = (right / (others.len() as f64 - right)).ln();
        assert!((temperature - 2.0 / odds).abs() < 1e-4, "{temperature}, {}", 2.0 / odds);
    }
}

// effect: compare --budget
#[test]
fn a_budget_of_nothing_leaves_nothing_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let prepared = Prepared::new(&settings, &()).unwrap();
    let candidates = candidates(&settings, &heads(), Some(&["said".to_owned()])).unwrap();
    let plan = |budget| Plan { budget: Some(Duration::from_secs(budget)), ..Plan::default() };
    let error = compare(&prepared, &candidates, &plan(0), &()).unwrap_err().to_string();
    assert!(error.contains("--budget"), "{error}");
    let comparison = compare(&prepared, &candidates, &plan(3600), &()).unwrap();
    assert!(comparison.candidates.iter().all(|entry| entry.judged().is_some()));
}
