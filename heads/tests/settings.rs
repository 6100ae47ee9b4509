//! The table `[head]`: what is refused, and what a fit says about itself.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};

use headstock_heads::{Features, FitContext, Registry, TrainingSet};
use tracing::Dispatch;
use tracing::subscriber::NoSubscriber;

/// Why a head does not take a table.
fn refusal(kind: &str, table: &str) -> String {
    let registry = Registry::builtin();
    registry.get(kind).unwrap().configure(table.parse().unwrap()).err().expect(table).to_string()
}

#[test]
fn a_parameter_out_of_range_is_named_with_what_is_accepted() {
    for (kind, table, expected) in [
        ("linear", "C = 0.0", "`head.C` is 0: must be a number greater than 0"),
        ("linear", "C = nan", "`head.C` is NaN: must be a number greater than 0"),
        ("linear", "l1_ratio = 1.5", "`head.l1_ratio` is 1.5: must lie between 0 and 1"),
        (
            "linear",
            "solver = \"adam\"\npenalty = \"l1\"",
            "`head.penalty` is l1: must be l2 with solver = \"adam\"",
        ),
        (
            "linear",
            "solver = \"adam\"\nC = \"auto\"",
            "`head.C` is auto: must be a number with solver = \"adam\"",
        ),
        ("linear", "tol = -1.0", "`head.tol` is -1: must be a number greater than 0"),
        ("linear", "max_iter = 0", "`head.max_iter` is 0: must be at least 1"),
        ("linear", "epochs = 0", "`head.epochs` is 0: must be at least 1"),
        ("linear", "batch_size = 0", "`head.batch_size` is 0: must be at least 1"),
        ("linear", "lr = inf", "`head.lr` is inf: must be a number greater than 0"),
        ("svm", "C = -0.5", "`head.C` is -0.5: must be a number greater than 0"),
        ("svm", "intercept_scaling = 0.0", "`head.intercept_scaling` is 0: must be a number greater than 0"),
        ("svm", "tol = 0.0", "`head.tol` is 0: must be a number greater than 0"),
        ("svm", "max_iter = 0", "`head.max_iter` is 0: must be at least 1"),
        ("mlp", "hidden = []", "`head.hidden` is []: must be layers of 1 to 1048576 units, at least one"),
        (
            "mlp",
            "hidden = [8, 0]",
            "`head.hidden` is [8, 0]: must be layers of 1 to 1048576 units, at least one",
        ),
        ("mlp", "dropout = 1.0", "`head.dropout` is 1: must be at least 0 and less than 1"),
        ("mlp", "lr = 0.0", "`head.lr` is 0: must be a number greater than 0"),
        ("mlp", "weight_decay = -0.1", "`head.weight_decay` is -0.1: must be a number not less than 0"),
        ("mlp", "validation = 1.5", "`head.validation` is 1.5: must be at least 0 and less than 1"),
        ("mlp", "patience = 0", "`head.patience` is 0: must be at least 1"),
        ("mlp", "epochs = 0", "`head.epochs` is 0: must be at least 1"),
        ("mlp", "batch_size = 0", "`head.batch_size` is 0: must be at least 1"),
        ("cosine", "scale = 0.0", "`head.scale` is 0: must be a number greater than 0"),
        ("cosine", "lr = -1.0", "`head.lr` is -1: must be a number greater than 0"),
        ("cosine", "weight_decay = -0.1", "`head.weight_decay` is -0.1: must be a number not less than 0"),
        ("cosine", "validation = 1.5", "`head.validation` is 1.5: must be at least 0 and less than 1"),
        ("cosine", "patience = 0", "`head.patience` is 0: must be at least 1"),
        ("cosine", "epochs = 0", "`head.epochs` is 0: must be at least 1"),
        ("cosine", "batch_size = 0", "`head.batch_size` is 0: must be at least 1"),
        ("ridge", "alpha = 0.0", "`head.alpha` is 0: must be a number greater than 0"),
        ("ridge", "alphas = []", "`head.alphas` is []: must have at least one number"),
        ("ridge", "alphas = [1.0, -2.0]", "`head.alphas` is -2: must be a number greater than 0"),
        ("lda", "shrinkage = 1.5", "`head.shrinkage` is 1.5: must be from 0 to 1"),
        ("lda", "shrinkage = nan", "`head.shrinkage` is NaN: must be from 0 to 1"),
        ("knn", "k = 0", "`head.k` is 0: must be at least 1"),
    ] {
        assert_eq!(refusal(kind, table), expected);
    }
}

#[test]
fn a_key_of_the_wrong_type_and_an_unknown_value_are_errors_of_the_head() {
    for (kind, table, expected) in [
        (
            "linear",
            "C = \"high\"",
            "head `linear`: invalid value: string \"high\", expected a number or \"auto\"",
        ),
        ("svm", "loss = \"log\"", "head `svm`: unknown variant `log`, expected `squared-hinge` or `hinge`"),
        (
            "lda",
            "shrinkage = \"some\"",
            "head `lda`: invalid value: string \"some\", expected a number from 0 to 1 or \"auto\"",
        ),
        (
            "nearest-mean",
            "metric = \"l1\"",
            "head `nearest-mean`: unknown variant `l1`, expected `euclidean` or `cosine`",
        ),
    ] {
        assert_eq!(refusal(kind, table), expected);
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// While there is one subscriber only, an event that a thread without it meets first counts as of no interest to anyone.
static OTHERS: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::default())));

/// What a fit on overlapping classes logs.
fn log_of(kind: &str, table: &str, samples: usize) -> String {
    let values: Vec<f32> = (0..samples * 5).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
    let labels: Vec<u32> = (0..samples as u32).map(|i| i % 3).collect();
    let data = TrainingSet::new(Features::new(&values, 5).unwrap(), &labels, 3).unwrap();
    let config = Registry::builtin().get(kind).unwrap().configure(table.parse().unwrap()).unwrap();
    LazyLock::force(&OTHERS);
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || config.fit(&data, &FitContext::quiet())).unwrap();
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_fit_that_stops_short_of_its_tolerance_warns_and_one_that_does_not_is_silent() {
    for (kind, table, expected) in [
        ("linear", "max_iter = 2", "linear has not converged: after 2 iterations the gradient is"),
        (
            "svm",
            "max_iter = 1\nC = 100.0\nloss = \"hinge\"",
            "svm has not converged for class 0: after 1 rounds",
        ),
    ] {
        let log = log_of(kind, table, 60);
        assert!(log.contains("WARN") && log.contains(expected), "{log}");
        assert_eq!(log_of(kind, "", 60), "");
    }
}

#[test]
fn an_mlp_that_can_hold_nothing_out_says_so() {
    let log = log_of("mlp", "validation = 0.1\nepochs = 1", 3);
    assert!(log.contains("no class has enough photos to hold out 0.1 of them"), "{log}");
    assert_eq!(log_of("mlp", "epochs = 1", 3), "");
}
