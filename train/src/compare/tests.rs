use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Device, Tensor};
use headstock_heads::{
    FeatureMatrix, FitContext, Fitted, Head, HeadConfig, HeadError, Logits, Registry, Tensors, TrainingSet,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::config::{Config, Settings};
use crate::metrics::LogLoss;

/// A head whose logits are the log frequencies of the classes. Its fit warns, or fails if `fails` is set.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct PriorConfig {
    /// Added to each count.
    smoothing: f64,
    /// Whether the fit fails.
    fails: bool,
}

impl Default for PriorConfig {
    fn default() -> Self {
        Self { smoothing: 1.0, fails: false }
    }
}

struct Prior {
    width: usize,
    logits: Vec<f32>,
}

impl HeadConfig for PriorConfig {
    const KIND: &'static str = "prior";
    const ABOUT: &'static str = "the frequencies of the classes";
    type Head = Prior;

    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }

    fn fit(&self, data: &TrainingSet<'_>, _: &FitContext<'_>) -> Result<Fitted<Prior>, HeadError> {
        if self.fails {
            return Err(HeadError::Data("this head fails".into()));
        }
        tracing::warn!("features are not used");
        let logits = data.class_counts().iter().map(|&n| (n as f64 + self.smoothing).ln() as f32).collect();
        Ok(Fitted::without_history(Prior { width: data.features().width(), logits })
            .with_chosen("seen", Some(7.0)))
    }

    fn load(&self, _: &Tensors) -> Result<Prior, HeadError> {
        Err(HeadError::Data("this head cannot be loaded".into()))
    }

    fn candidate_configs(&self) -> Vec<Self> {
        let smoothed = |smoothing| Self { smoothing, ..self.clone() };
        vec![self.clone(), smoothed(10.0), Self { fails: true, ..self.clone() }]
    }

    fn memory_bytes(&self, shape: HeadShape) -> u64 {
        assert_eq!((shape.features, shape.classes), (4, 3));
        // The second point needs all memory, and so gets all threads.
        if self.smoothing > 1.0 { u64::MAX } else { 0 }
    }
}

impl Head for Prior {
    fn width(&self) -> usize {
        self.width
    }

    fn classes(&self) -> usize {
        self.logits.len()
    }

    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError> {
        Logits::new(self.logits.repeat(features.len()), self.classes())
    }

    fn tensors(&self) -> Result<Tensors, HeadError> {
        Ok(Tensors::from([("logits".into(), Tensor::new(self.logits.as_slice(), &Device::Cpu)?)]))
    }
}

fn heads() -> Registry {
    let mut heads = Registry::builtin();
    heads.add::<PriorConfig>().unwrap();
    heads
}

fn settings(features: &str, head: &str) -> Settings {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference");
    let config = format!("version = 1\n[data]\nfeatures = \"{features}.npz\"\n[head]\n{head}");
    Config::parse(&config, "test", &folder).unwrap().resolve(&heads().into()).unwrap()
}

fn to_names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn run_comparison(features: &str, head: &str, names: &[&str], options: &CompareOptions) -> Comparison {
    let settings = settings(features, head);
    let prepared = PreparedData::prepare(&settings, &()).unwrap();
    let candidates = candidates(&settings, &heads(), Some(&to_names(names))).unwrap();
    compare(&prepared, &candidates, options, &()).unwrap()
}

// effect: compare --folds, compare --seed
#[test]
fn metrics_match_scikit_learns_cross_validation_with_and_without_groups() {
    let text = include_str!("../../../reference/compare/cross_validated.json");
    let reference: BTreeMap<String, BTreeMap<String, f64>> = serde_json::from_str(text).unwrap();
    for (name, expected) in reference {
        let head = "kind = \"linear\"\ntol = 1e-9";
        let comparison =
            run_comparison(&format!("compare/{name}"), head, &["linear"], &CompareOptions::default());
        assert_eq!(comparison.groups.is_some(), name == "grouped");
        let candidate =
            comparison.candidates.iter().find(|entry| entry.parameters["C"].as_float() == Some(1.0));
        let scores = candidate.unwrap().scores().unwrap();
        assert_eq!(scores.metrics.iter().count(), 4);
        for (metric, found) in scores.metrics.iter() {
            let expected = expected[metric.key()];
            assert!((found.value - expected).abs() < 2e-5, "{name}, {metric:?}: {found:?}, not {expected}");
        }
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

// effect: --threads
#[test]
fn threads_and_order_change_nothing_but_the_seconds() {
    let run_on = |threads, names: &[&str], budget: Option<f64>| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let options =
            CompareOptions { budget: budget.map(Duration::from_secs_f64), ..CompareOptions::default() };
        pool.install(|| without_seconds(run_comparison("compare/overlapping", "", names, &options)))
    };
    let expected = run_on(1, &["linear", "mlp", "prior", "svm"], None);
    assert!(expected.candidates.len() >= 6);
    assert_eq!(run_on(3, &["svm", "prior", "linear", "mlp"], None), expected);
    // With a budget every round is a pass.
    assert_eq!(run_on(2, &["mlp", "linear", "svm", "prior"], Some(1e6)), expected);
}

#[test]
fn the_best_come_first_and_the_failed_last() {
    let options = CompareOptions { metric: &LogLoss, ..CompareOptions::default() };
    let comparison = run_comparison("compare/overlapping", "", &["prior", "linear"], &options);
    let losses: Vec<f64> = comparison
        .candidates
        .iter()
        .filter_map(|e| e.scores())
        .map(|scores| scores.metrics[&LogLoss].value)
        .collect();
    assert!(losses.len() >= 3 && losses.is_sorted(), "{losses:?}");

    let best = comparison.best().unwrap();
    assert_eq!(best.head, "linear");
    let log_loss = best.scores().unwrap().metrics[&LogLoss];
    assert_eq!((log_loss.to_best.low, log_loss.to_best.high), (0.0, 0.0));
    assert!(best.scores().unwrap().tied);

    let best_rows = comparison.best_per_head();
    assert_eq!(best_rows.iter().map(|row| row.head.as_str()).collect::<Vec<_>>(), ["linear", "prior"]);
    let prior = best_rows[1].scores().unwrap();
    assert!(!prior.tied && prior.metrics[&LogLoss].to_best.low > 0.0, "{prior:?}");
    // Three `f32` numbers.
    assert_eq!(prior.bytes, 12);
    assert_eq!(prior.warnings, ["features are not used"]);
    assert_eq!(prior.chosen, [ChosenParameter { parameter: "seen".into(), values: vec![7.0; 5] }]);

    let described: Vec<String> = comparison
        .candidates
        .iter()
        .filter(|e| e.head == "prior")
        .map(CandidateResult::describe_changes)
        .collect();
    for expected in ["", "smoothing = 10.0", "fails = true"] {
        assert!(described.iter().any(|found| found == expected), "{described:?}");
    }
    let failed = CandidateStatus::Failed { error: "this head fails".into() };
    assert_eq!(comparison.candidates.last().unwrap().status, failed);
}

// effect: compare --budget
#[test]
fn a_budget_leaves_whole_rounds_and_lists_the_rest() {
    let settings = settings("compare/overlapping", "");
    let prepared = PreparedData::prepare(&settings, &()).unwrap();
    let candidates = candidates(&settings, &heads(), Some(&to_names(&["prior", "linear"]))).unwrap();
    let options = CompareOptions { budget: Some(Duration::from_secs(1)), ..CompareOptions::default() };
    let n_started = AtomicUsize::new(0);
    let has_time = || n_started.fetch_add(1, Ordering::SeqCst) < 2;
    let comparison = compare_while(&prepared, &candidates, &options, &has_time, &()).unwrap();
    let candidates_with = |is_wanted: fn(&CandidateStatus) -> bool| -> Vec<(&str, String)> {
        let found = comparison.candidates.iter().filter(|candidate| is_wanted(&candidate.status));
        found.map(|entry| (entry.head.as_str(), entry.describe_changes())).collect()
    };
    // The first point of each head is fitted in all folds; the other points are listed but not fitted.
    let done = candidates_with(|state| matches!(state, CandidateStatus::Compared(_)));
    assert_eq!(done.iter().map(|(head, _)| *head).collect::<Vec<_>>(), ["linear", "prior"]);
    let left_out = candidates_with(|state| *state == CandidateStatus::LeftOut);
    assert!(left_out.contains(&("prior", "smoothing = 10.0".into())), "{left_out:?}");
    assert_eq!(done.len() + left_out.len(), candidates.len());

    let error = compare_while(&prepared, &candidates, &options, &|| false, &()).unwrap_err();
    assert!(error.to_string().contains("before the first head was fitted"), "{error}");
}

// effect: compare --heads, head.kind
#[test]
fn first_points_of_all_heads_come_first_and_the_configs_head_is_the_settings() {
    let settings = settings("compare/overlapping", "kind = \"prior\"\nsmoothing = 3");
    let candidates = candidates(&settings, &heads(), Some(&to_names(&["prior", "linear", "svm"]))).unwrap();
    let first: Vec<&str> =
        candidates.iter().filter(|candidate| candidate.round == 0).map(Candidate::kind).collect();
    assert_eq!(first, ["linear", "prior", "svm"]);
    assert!(candidates.is_sorted_by_key(|candidate| candidate.round));
    let described = candidates[1].to_result(CandidateStatus::LeftOut).describe_changes();
    assert_eq!(described, "smoothing = 3.0");

    let pass_sizes = |rounds, max_candidates| -> Vec<usize> {
        plan_passes(&candidates, rounds, max_candidates).into_iter().map(<[Candidate]>::len).collect()
    };
    assert_eq!(pass_sizes(Rounds::Together, 1000), [candidates.len()]);
    assert_eq!(pass_sizes(Rounds::Separate, 1000)[0], 3);
    assert_eq!(pass_sizes(Rounds::Separate, 2)[..2], [2, 1]);
    assert_eq!(pass_sizes(Rounds::Together, 1), vec![1; candidates.len()]);
}

#[test]
fn heads_that_are_not_known_or_named_twice_are_refused() {
    let settings = settings("compare/overlapping", "");
    for (names, reason) in
        [(["linear", "forest"], "there is no head `forest`"), (["svm", "svm"], "`svm` is named twice")]
    {
        let error = candidates(&settings, &heads(), Some(&to_names(&names))).err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn impossible_folds_are_refused() {
    for (features, folds, reason) in [
        ("compare/overlapping", 1, "at least 2 folds"),
        ("compare/overlapping", 100, "largest class"),
        ("compare/grouped", 31, "groups"),
    ] {
        let settings = settings(features, "");
        let prepared = PreparedData::prepare(&settings, &()).unwrap();
        let candidates = candidates(&settings, &heads(), Some(&to_names(&["prior"]))).unwrap();
        let error =
            compare(&prepared, &candidates, &CompareOptions { folds, ..CompareOptions::default() }, &())
                .unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(error.kind(), headstock_inference::FailureKind::Data);
    }
}
