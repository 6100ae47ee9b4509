//! The table `[head]`: rejected values, defaults, stopping rules and log messages.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};

use headstock_heads::{FeatureMatrix, FitContext, HeadKind, Registry, TrainingSet};
use tracing::Dispatch;
use tracing::subscriber::NoSubscriber;

/// The error message for a table.
fn refusal(kind: &str, table: &str) -> String {
    let registry = Registry::builtin();
    registry.get(kind).unwrap().configure(table.parse().unwrap()).err().expect(table).to_string()
}

#[test]
fn a_parameter_out_of_range_is_named_with_what_is_accepted() {
    for (kind, table, expected) in [
        ("linear", "C = 0.0", "`C` is 0: must be a number greater than 0"),
        ("linear", "C = nan", "`C` is NaN: must be a number greater than 0"),
        ("linear", "l1_ratio = 1.5", "`l1_ratio` is 1.5: must be between 0 and 1"),
        (
            "linear",
            "solver = \"adam\"\npenalty = \"l1\"",
            "`penalty` is l1: must be l2 with solver = \"adam\"",
        ),
        ("linear", "solver = \"adam\"\nC = \"auto\"", "`C` is auto: must be a number with solver = \"adam\""),
        ("linear", "tol = -1.0", "`tol` is -1: must be a number greater than 0"),
        ("linear", "max_iter = 0", "`max_iter` is 0: must be at least 1"),
        ("linear", "epochs = 0", "`epochs` is 0: must be at least 1"),
        ("linear", "batch_size = 0", "`batch_size` is 0: must be at least 1"),
        ("linear", "lr = inf", "`lr` is inf: must be a number greater than 0"),
        ("svm", "C = -0.5", "`C` is -0.5: must be a number greater than 0"),
        ("svm", "intercept_scaling = 0.0", "`intercept_scaling` is 0: must be a number greater than 0"),
        ("svm", "tol = 0.0", "`tol` is 0: must be a number greater than 0"),
        ("svm", "max_iter = 0", "`max_iter` is 0: must be at least 1"),
        ("mlp", "hidden = []", "`hidden` is []: must list at least one layer, each of 1 to 1048576 units"),
        (
            "mlp",
            "hidden = [8, 0]",
            "`hidden` is [8, 0]: must list at least one layer, each of 1 to 1048576 units",
        ),
        ("mlp", "dropout = 1.0", "`dropout` is 1: must be at least 0 and less than 1"),
        ("mlp", "lr = 0.0", "`lr` is 0: must be a number greater than 0"),
        ("mlp", "weight_decay = -0.1", "`weight_decay` is -0.1: must be a number of at least 0"),
        ("mlp", "validation = 1.5", "`validation` is 1.5: must be at least 0 and less than 1"),
        ("mlp", "patience = 0", "`patience` is 0: must be at least 1"),
        ("mlp", "epochs = 0", "`epochs` is 0: must be at least 1"),
        ("mlp", "batch_size = 0", "`batch_size` is 0: must be at least 1"),
        ("cosine", "scale = 0.0", "`scale` is 0: must be a number greater than 0"),
        ("cosine", "lr = -1.0", "`lr` is -1: must be a number greater than 0"),
        ("cosine", "weight_decay = -0.1", "`weight_decay` is -0.1: must be a number of at least 0"),
        ("cosine", "validation = 1.5", "`validation` is 1.5: must be at least 0 and less than 1"),
        ("cosine", "patience = 0", "`patience` is 0: must be at least 1"),
        ("cosine", "epochs = 0", "`epochs` is 0: must be at least 1"),
        ("cosine", "batch_size = 0", "`batch_size` is 0: must be at least 1"),
        ("ridge", "alpha = 0.0", "`alpha` is 0: must be a number greater than 0"),
        ("ridge", "alphas = []", "`alphas` is []: must contain at least one number"),
        ("ridge", "alphas = [1.0, -2.0]", "`alphas` is -2: must be a number greater than 0"),
        ("lda", "shrinkage = 1.5", "`shrinkage` is 1.5: must be between 0 and 1"),
        ("lda", "shrinkage = nan", "`shrinkage` is NaN: must be between 0 and 1"),
        ("knn", "k = 0", "`k` is 0: must be at least 1"),
    ] {
        assert_eq!(refusal(kind, table), expected);
    }
}

// effect: head.cosine.scale, head.cosine.lr, head.cosine.weight_decay, head.cosine.epochs
// effect: head.cosine.batch_size
// effect: head.cosine.validation, head.cosine.patience, head.cosine.class_weight, head.cosine.seed
// effect: head.knn.k, head.knn.weights, head.knn.metric, head.lda.shrinkage, head.nearest-mean.metric
// effect: head.linear.solver, head.linear.C, head.linear.penalty, head.linear.l1_ratio
// effect: head.linear.class_weight
// effect: head.linear.standardize, head.linear.tol, head.linear.max_iter, head.linear.epochs
// effect: head.linear.batch_size
// effect: head.linear.lr, head.linear.seed, head.mlp.hidden, head.mlp.dropout, head.mlp.lr
// effect: head.mlp.weight_decay
// effect: head.mlp.epochs, head.mlp.batch_size, head.mlp.validation, head.mlp.patience, head.mlp.class_weight
// effect: head.mlp.standardize, head.mlp.seed, head.ridge.alpha, head.ridge.alphas, head.ridge.class_weight
// effect: head.svm.multi_class, head.svm.loss, head.svm.C, head.svm.intercept_scaling, head.svm.tol
// effect: head.svm.max_iter
// effect: head.svm.class_weight, head.svm.standardize, head.svm.seed
#[test]
fn an_empty_table_has_these_defaults() {
    for (kind, defaults) in [
        (
            "cosine",
            "scale = 20.0\nlr = 3e-3\nweight_decay = 0.01\nepochs = 15\nbatch_size = 128\nvalidation = 0.0\npatience = 5
             class_weight = 'none'\nseed = 0",
        ),
        ("knn", "k = 5\nweights = 'uniform'\nmetric = 'euclidean'"),
        ("lda", "shrinkage = 'auto'"),
        (
            "linear",
            "solver = 'lbfgs'\nC = 1.0\npenalty = 'l2'\nl1_ratio = 0.5\nclass_weight = 'none'\nstandardize = false
             tol = 1e-5\nmax_iter = 1000\nepochs = 9\nbatch_size = 128\nlr = 1e-3\nseed = 0",
        ),
        (
            "mlp",
            "hidden = [512]\ndropout = 0.5\nlr = 1e-3\nweight_decay = 0.01\nepochs = 15\nbatch_size = 128\nvalidation = 0.0
             patience = 5\nclass_weight = 'none'\nstandardize = false\nseed = 0",
        ),
        ("nearest-mean", "metric = 'euclidean'"),
        (
            "ridge",
            "alpha = 'auto'\nclass_weight = 'none'
             alphas = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5]",
        ),
        (
            "svm",
            "multi_class = 'ovr'\nloss = 'squared-hinge'\nC = 0.01\nintercept_scaling = 1.0\ntol = 1e-5\nmax_iter = 1000
             class_weight = 'none'\nstandardize = false\nseed = 0",
        ),
    ] {
        let registry = Registry::builtin();
        let found = registry.get(kind).unwrap().configure(toml::Table::new()).unwrap().table();
        assert_eq!(found, defaults.parse::<toml::Table>().unwrap(), "{kind}");
    }
}

/// Features `[n, 4]` of unequal scales and offsets, with overlapping classes.
fn overlapping(n: usize) -> (Vec<f32>, Vec<u32>) {
    let labels: Vec<u32> = (0..n as u32).map(|i| i * i % 5 % 3).collect();
    let value = |index: usize| {
        let noise = ((index * index) as f32 * 0.37).sin();
        let shift = if labels[index / 4] as usize == index % 4 { 0.8 } else { 0.0 };
        (noise + shift) * [1.0, 5.0, 0.3, 2.0][index % 4] + [3.0, 0.0, -1.0, 10.0][index % 4]
    };
    ((0..4 * n).map(value).collect(), labels)
}

/// The logits of a fit on its training data, and its history.
fn fitted(kind: &str, table: &str, values: &[f32], labels: &[u32]) -> (Vec<f32>, Vec<Vec<f64>>) {
    let features = FeatureMatrix::new(values, 4).unwrap();
    let data = TrainingSet::new(features, labels, 3).unwrap();
    let config = Registry::builtin().get(kind).unwrap().configure(table.parse().unwrap()).unwrap();
    let fitted = config.fit(&data, &FitContext::silent()).unwrap();
    (fitted.head.logits(features).unwrap().as_slice().to_vec(), fitted.history.rows)
}

// effect: head.linear.standardize, head.svm.standardize, head.linear.penalty x head.linear.standardize
// effect: head.svm.loss x head.svm.standardize, head.svm.multi_class x head.svm.standardize
#[test]
fn standardize_matches_a_fit_on_standardized_features() {
    let (values, labels) = overlapping(60);
    let mut standard = values.clone();
    for feature in 0..4 {
        let column = || values.iter().skip(feature).step_by(4).copied().map(f64::from);
        let mean = column().sum::<f64>() / 60.0;
        let deviation = (column().map(|x| (x - mean).powi(2)).sum::<f64>() / 60.0).sqrt();
        standard
            .iter_mut()
            .skip(feature)
            .step_by(4)
            .for_each(|x| *x = ((f64::from(*x) - mean) / deviation) as f32);
    }
    for (kind, table) in [
        ("linear", "tol = 1e-8"),
        ("linear", "tol = 1e-8\npenalty = 'l1'"),
        ("linear", "tol = 1e-8\npenalty = 'elastic-net'"),
        ("svm", "tol = 1e-9\nC = 0.1"),
        ("svm", "tol = 1e-9\nC = 0.1\nloss = 'hinge'"),
        ("svm", "tol = 1e-9\nC = 0.1\nmulti_class = 'crammer-singer'"),
    ] {
        let (found, _) = fitted(kind, &format!("{table}\nstandardize = true"), &values, &labels);
        let (expected, _) = fitted(kind, table, &standard, &labels);
        let (without, _) = fitted(kind, table, &values, &labels);
        let max_difference =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(
            max_difference(&found, &expected) < 1e-3,
            "{kind} {table}: {}",
            max_difference(&found, &expected)
        );
        assert!(
            max_difference(&without, &expected) > 0.05,
            "{kind} {table}: {}",
            max_difference(&without, &expected)
        );
    }
}

// effect: head.linear.tol, head.linear.max_iter
#[test]
fn linear_stops_at_the_tolerance_or_after_max_iter() {
    let (values, labels) = overlapping(60);
    for penalty in ["l2", "l1"] {
        for tol in [1e-2, 1e-4, 1e-6] {
            let (_, history) =
                fitted("linear", &format!("tol = {tol}\npenalty = '{penalty}'"), &values, &labels);
            let (last, before) = history.split_last().unwrap();
            assert!(last[2] <= tol && before.iter().all(|row| row[2] > tol), "{penalty} {tol}: {history:?}");
        }
        for max_iter in [1, 3] {
            let table = format!("tol = 1e-12\nmax_iter = {max_iter}\npenalty = '{penalty}'");
            let (_, history) = fitted("linear", &table, &values, &labels);
            // The first row is the start.
            assert_eq!(history.len(), max_iter + 1, "{penalty}");
        }
    }
}

// effect: head.svm.tol, head.svm.max_iter
#[test]
fn svm_stops_at_the_tolerance_or_after_max_iter() {
    let (values, labels) = overlapping(60);
    for settings in ["multi_class = 'crammer-singer'", "loss = 'hinge'", "loss = 'squared-hinge'"] {
        for tol in [1e-1, 1e-3, 1e-6] {
            let (_, history) = fitted("svm", &format!("C = 1.0\ntol = {tol}\n{settings}"), &values, &labels);
            let round = |row: usize| history[row][0];
            let lasts =
                (0..history.len()).filter(|&row| row + 1 == history.len() || round(row + 1) <= round(row));
            let lasts: Vec<usize> = lasts.collect();
            assert_eq!(lasts.len(), if settings.starts_with("multi") { 1 } else { 3 });
            for (index, row) in history.iter().enumerate() {
                let [.., objective, gap] = row[..] else { panic!("{row:?}") };
                assert_eq!(gap <= tol * objective, lasts.contains(&index), "{settings} {tol}: {history:?}");
            }
        }
        let (_, history) =
            fitted("svm", &format!("C = 10.0\ntol = 1e-12\nmax_iter = 2\n{settings}"), &values, &labels);
        assert!(
            history.iter().all(|row| row[0] <= 2.0) && history.iter().any(|row| row[0] == 2.0),
            "{history:?}"
        );
    }
}

// effect: head.svm.seed
#[test]
fn another_svm_seed_takes_other_steps_to_the_same_optimum() {
    let (values, labels) = overlapping(60);
    for settings in ["multi_class = 'crammer-singer'", "loss = 'hinge'"] {
        let fit_with_seed = |seed: u32| {
            fitted("svm", &format!("C = 1.0\ntol = 1e-9\nseed = {seed}\n{settings}"), &values, &labels)
        };
        let ((first, first_history), (second, second_history)) = (fit_with_seed(0), fit_with_seed(1));
        assert_ne!(first_history[0], second_history[0], "{settings}");
        assert!(first.iter().zip(&second).all(|(a, b)| (a - b).abs() < 1e-3), "{settings}");
        assert_eq!(fit_with_seed(1), (second, second_history));
    }
}

#[test]
fn some_heads_support_warm_starts() {
    let registry = Registry::builtin();
    let warm =
        registry.iter().filter(|kind| kind.configure(toml::Table::new()).unwrap().supports_warm_start());
    assert_eq!(warm.map(HeadKind::name).collect::<Vec<_>>(), ["cosine", "linear", "mlp", "svm"]);
}

// effect: head.kind
#[test]
fn each_head_has_its_name_description_and_keys() {
    let registry = Registry::builtin();
    for (kind, about, keys) in [
        ("cosine", "softmax of cosine similarities with a learned scale", 9),
        ("knn", "a vote of the most similar training photos", 3),
        ("lda", "linear discriminant analysis with a shrunk covariance, in closed form", 1),
        ("linear", "multinomial logistic regression", 12),
        ("mlp", "a small neural network (multi-layer perceptron) with dropout", 11),
        ("nearest-mean", "the class whose average features are nearest", 1),
        ("ridge", "ridge regression to ±1, one class against the rest, in closed form", 3),
        ("svm", "linear support vector machines, one class against the rest or all at once", 9),
    ] {
        let head = registry.get(kind).unwrap();
        assert_eq!((head.name(), head.about(), head.hyperparameters().len()), (kind, about, keys));
        assert_eq!(head.configure(toml::Table::new()).unwrap().kind(), kind);
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

/// With only one subscriber, an event that is first reached on another thread would be cached as disabled.
static SPARE_SUBSCRIBERS: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| Dispatch::new(NoSubscriber::default())));

/// The log output of a fit on overlapping classes.
fn log_of(kind: &str, table: &str, samples: usize) -> String {
    let values: Vec<f32> = (0..samples * 5).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
    let labels: Vec<u32> = (0..samples as u32).map(|i| i % 3).collect();
    let data = TrainingSet::new(FeatureMatrix::new(&values, 5).unwrap(), &labels, 3).unwrap();
    let config = Registry::builtin().get(kind).unwrap().configure(table.parse().unwrap()).unwrap();
    LazyLock::force(&SPARE_SUBSCRIBERS);
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || config.fit(&data, &FitContext::silent())).unwrap();
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_fit_that_does_not_converge_warns_and_others_are_silent() {
    for (kind, table, expected) in [
        (
            "linear",
            "max_iter = 2",
            "the head `linear` has not converged and may be less accurate: the gradient is",
        ),
        (
            "svm",
            "max_iter = 1\nC = 100.0\nloss = \"hinge\"",
            "the head `svm` has not converged for class 0 and may be less accurate: the duality gap is",
        ),
    ] {
        let log = log_of(kind, table, 60);
        assert!(log.contains("WARN") && log.contains(expected), "{log}");
        assert_eq!(log_of(kind, "", 60), "");
    }
}

#[test]
fn an_mlp_with_nothing_to_hold_out_warns() {
    let log = log_of("mlp", "validation = 0.1\nepochs = 1", 3);
    assert!(
        log.contains("no class has enough photos to hold out a fraction of 0.1 for early stopping"),
        "{log}"
    );
    assert_eq!(log_of("mlp", "epochs = 1", 3), "");
}
