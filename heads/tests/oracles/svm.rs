//! The head `svm`: Crammer and Singer's objective against scikit-learn's
//! (`reference/crammer_singer/make.py`), the choice of `C`, and warm starts.

use headstock_heads::svm::{MultiClass, SvmConfig, SvmLoss};
use headstock_heads::{Affine, ClassWeight, FitContext, Fitted, Head, HeadConfig, Regularization, Tensors};

use crate::support::{DataSet, Golden, LinearParams, assert_same_predictions};

const SETS: [&str; 5] = ["two", "three", "seven", "wide", "unbalanced"];

fn golden() -> Golden {
    Golden::load("crammer_singer/scikit-learn.safetensors")
}

impl DataSet {
    /// The samples of the first `classes` classes.
    fn first_classes(&self, classes: usize) -> Self {
        Self { classes, ..self.subset(|_, label| (label as usize) < classes) }
    }
}

/// `½ Σ_m (|w_m|² + w_m₀²) + Σ C_i max_m ([m ≠ y_i] + s_im - s_iy)`. If two classes share one row, it is
/// split into two halves of opposite sign.
fn objective(set: &DataSet, params: &LinearParams, config: &SvmConfig) -> f64 {
    let (mut weight, mut bias) = (params.weight.clone(), params.bias.clone());
    if bias.len() == 1 {
        weight = weight.iter().map(|w| -0.5 * w).chain(weight.iter().map(|w| 0.5 * w)).collect();
        bias = vec![-0.5 * bias[0], 0.5 * bias[0]];
    }
    let class_weights = set.training_set().class_weights(config.class_weight);
    let c = config.c.fixed().unwrap();
    let losses = set.values.chunks_exact(set.width).zip(&set.labels).map(|(row, &label)| {
        let score = |m: usize| {
            let class_weight = &weight[m * set.width..(m + 1) * set.width];
            row.iter().zip(class_weight).map(|(&x, w)| f64::from(x) * w).sum::<f64>() + bias[m]
        };
        let label = label as usize;
        let margins = (0..set.classes).map(|m| score(m) + if m == label { 0.0 } else { 1.0 });
        c * class_weights[label] * (margins.fold(f64::NEG_INFINITY, f64::max) - score(label))
    });
    let constants = bias.iter().map(|b| (b / config.intercept_scaling).powi(2));
    losses.sum::<f64>() + 0.5 * (weight.iter().map(|w| w * w).sum::<f64>() + constants.sum::<f64>())
}

// effect: head.svm.multi_class, head.svm.C, head.svm.intercept_scaling, head.svm.class_weight
// effect: head.svm.class_weight x head.svm.multi_class
#[test]
fn crammer_singer_matches_linear_svc() {
    let golden = golden();
    for name in SETS {
        let set = golden.set(name);
        for (text, c, class_weight, intercept_scaling) in [
            ("0.01-none-1.0", 0.01, ClassWeight::None, 1.0),
            ("1.0-none-1.0", 1.0, ClassWeight::None, 1.0),
            ("0.1-balanced-1.0", 0.1, ClassWeight::Balanced, 1.0),
            ("0.1-none-10.0", 0.1, ClassWeight::None, 10.0),
        ] {
            let case = format!("{name}.{text}");
            let config = SvmConfig {
                multi_class: MultiClass::CrammerSinger,
                c: Regularization::Fixed(c),
                class_weight,
                intercept_scaling,
                tol: 1e-9,
                max_iter: 100_000,
                ..SvmConfig::default()
            };
            let fitted = config.fit(&set.training_set(), &FitContext::silent()).unwrap();
            let expected = LinearParams::golden(&golden, &case);
            let [ours, reference] = [&LinearParams::per_class(&*fitted.head), &expected]
                .map(|params| objective(&set, params, &config));
            assert!((ours - reference).abs() <= 1e-5 * reference, "{case}: {ours}, scikit-learn {reference}");
            let last = fitted.history.rows.last().unwrap();
            assert!((last[1] - ours).abs() <= 1e-5 * ours, "{case}: the history says {last:?}, found {ours}");
            LinearParams::difference_of_two(&*fitted.head).assert_near(&expected, 1e-3, &case);
            let logits = fitted.head.logits(set.features()).unwrap();
            assert_same_predictions(&logits, &golden.u32s(&format!("{case}.predictions")), &case);
        }
    }
}

/// Configurations with every objective.
fn objectives(c: Regularization) -> [SvmConfig; 3] {
    let with = |multi_class, loss| SvmConfig { multi_class, loss, c, ..SvmConfig::default() };
    [
        with(MultiClass::Ovr, SvmLoss::SquaredHinge),
        with(MultiClass::Ovr, SvmLoss::Hinge),
        with(MultiClass::CrammerSinger, SvmLoss::SquaredHinge),
    ]
}

/// Rounds of all problems together, and the sum of their objectives.
fn rounds_and_objective(fitted: &Fitted<Affine>) -> (usize, f64) {
    let rows = &fitted.history.rows;
    let objective = |row: &[f64]| row[row.len() - 2];
    let last = (0..rows.len()).filter(|&k| rows.get(k + 1).is_none_or(|next| next[0] <= rows[k][0]));
    (rows.len(), last.map(|k| objective(&rows[k])).sum())
}

fn fit(config: &SvmConfig, set: &DataSet, warm_start: Option<&Tensors>) -> Fitted<Affine> {
    let context = FitContext { warm_start, ..FitContext::silent() };
    config.fit(&set.training_set(), &context).unwrap()
}

#[test]
fn a_warm_start_from_the_optimum_keeps_the_objective_and_saves_rounds() {
    let golden = golden();
    for name in SETS {
        let set = golden.set(name);
        for config in objectives(Regularization::Fixed(0.1)) {
            for standardize in [false, true] {
                let config = SvmConfig { standardize, ..config.clone() };
                let cold = fit(&config, &set, None);
                let warm = fit(&config, &set, Some(&cold.head.tensors().unwrap()));
                let (before, after) = (rounds_and_objective(&cold), rounds_and_objective(&warm));
                assert!(
                    (before.1 - after.1).abs() <= 3e-5 * before.1,
                    "{name} {config:?}: {before:?} {after:?}"
                );
                if config.loss == SvmLoss::SquaredHinge && config.multi_class == MultiClass::Ovr {
                    assert!(after.0 < before.0, "{name} {config:?}: {before:?} {after:?}");
                }
            }
        }
    }
}

#[test]
fn a_warm_start_with_fewer_classes_finds_the_optimum_of_all() {
    let golden = golden();
    let set = golden.set("seven");
    for config in objectives(Regularization::Fixed(0.1)) {
        let start = fit(&config, &set.first_classes(5), None).head.tensors().unwrap();
        let (cold, warm) = (fit(&config, &set, None), fit(&config, &set, Some(&start)));
        let (cold, warm) = (rounds_and_objective(&cold), rounds_and_objective(&warm));
        assert!((cold.1 - warm.1).abs() <= 3e-5 * cold.1, "{config:?}: {cold:?} {warm:?}");
    }
}

#[test]
fn a_warm_start_of_another_width_or_with_more_classes_is_refused() {
    let golden = golden();
    let [three, seven, wide] = ["three", "seven", "wide"].map(|name| golden.set(name));
    let config = SvmConfig::default();
    let error = |start: &DataSet, set: &DataSet| {
        let start = fit(&config, start, None).head.tensors().unwrap();
        let context = FitContext::silent().with_warm_start(&start);
        config.fit(&set.training_set(), &context).unwrap_err().to_string()
    };
    let message = error(&wide, &three);
    assert!(
        message.starts_with("the head expects 40 features per photo, but the data has 12: "),
        "{message}"
    );
    let message = error(&seven, &seven.first_classes(5));
    assert!(message.starts_with("the earlier head has more classes (7) than the data (5): "), "{message}");
}

#[test]
fn auto_matches_a_fit_with_the_reported_c() {
    let golden = golden();
    let set = golden.set("seven");
    for config in objectives(Regularization::Auto) {
        let auto = fit(&config, &set, None);
        let [("C", c)] = auto.chosen[..] else { panic!("{:?}", auto.chosen) };
        assert!((1e-4..=1.0).contains(&c), "{c}");
        let given = fit(&SvmConfig { c: Regularization::Fixed(c), ..config }, &set, None);
        assert!(given.chosen.is_empty());
        assert_eq!(given.head, auto.head);
    }
}

/// Two small informative features separate the classes; eight large features are noise.
#[test]
fn auto_chooses_a_large_c_where_it_predicts_better() {
    let (samples, width) = (120, 10);
    let noise = |i: usize| ((i * i) as f32 * 0.37).sin();
    let labels: Vec<u32> = (0..samples as u32).map(|i| i % 3).collect();
    let value = |at: usize| match (at / width, at % width) {
        (row, 0) => 0.3 * labels[row] as f32 * labels[row] as f32,
        (row, 1) => 0.3 * labels[row] as f32,
        _ => noise(at),
    };
    let set = DataSet {
        values: (0..samples * width).map(value).collect(),
        width,
        labels: labels.clone(),
        classes: 3,
    };
    let [squared, ..] = objectives(Regularization::Auto);
    let chosen = fit(&squared, &set, None).chosen[0].1;
    assert!(chosen >= 0.1, "{chosen}");
}

#[test]
fn candidate_configs_span_two_decades_of_c_and_keep_other_keys() {
    let config = SvmConfig { loss: SvmLoss::Hinge, standardize: true, ..SvmConfig::default() };
    let candidates = config.candidate_configs();
    let values: Vec<Regularization> = candidates.iter().map(|config| config.c).collect();
    assert_eq!(values, [0.001, 0.01, 0.1].map(Regularization::Fixed));
    assert!(candidates.iter().all(|other| SvmConfig { c: config.c, ..other.clone() } == config));
}
