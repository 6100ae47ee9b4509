//! The linear heads against scikit-learn's `LogisticRegression` and `LinearSVC` (`reference/heads/make.py`).

use headstock_heads::linear::LinearConfig;
use headstock_heads::svm::{SvmConfig, SvmLoss};
use headstock_heads::{ClassWeight, FitContext, Head, HeadConfig, Regularization};

use crate::support::{DataSet, Golden, LinearParams, assert_same_predictions};

const SETS: [&str; 6] = ["two", "three", "five", "wide", "unbalanced", "two-unbalanced"];

fn golden() -> Golden {
    Golden::load("heads/scikit-learn.safetensors")
}

impl DataSet {
    /// `w·x + b` of each sample and weight vector, in `f64`.
    fn scores(&self, params: &LinearParams) -> Vec<Vec<f64>> {
        let score = |row: &[f32], (w, b): (&[f64], &f64)| {
            row.iter().zip(w).map(|(&x, w)| f64::from(x) * w).sum::<f64>() + b
        };
        self.features()
            .rows()
            .map(|row| {
                params
                    .weight
                    .chunks_exact(self.width)
                    .zip(&params.bias)
                    .map(|class_params| score(row, class_params))
                    .collect()
            })
            .collect()
    }
}

fn assert_relative(found: f64, expected: f64, tolerance: f64, case: &str) {
    let error = (found - expected) / expected;
    assert!(error.abs() <= tolerance, "{case}: objective {found}, expected {expected}: off by {error:.1e}");
}

/// `C Σ s_i log-loss_i + ½ |w|²`
fn logistic_objective(set: &DataSet, params: &LinearParams, config: &LinearConfig) -> f64 {
    let weights = set.training_set().class_weights(config.class_weight);
    let losses = set.scores(params).into_iter().zip(&set.labels).map(|(scores, &label)| {
        let scores = if scores.len() == 1 { vec![0.0, scores[0]] } else { scores };
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - top).exp()).sum();
        weights[label as usize] * (sum.ln() + top - scores[label as usize])
    });
    config.c.fixed().unwrap() * losses.sum::<f64>() + 0.5 * params.weight.iter().map(|w| w * w).sum::<f64>()
}

// effect: head.linear.solver, head.linear.C, head.linear.penalty, head.linear.class_weight
// effect: head.linear.standardize
// effect: head.linear.class_weight x head.linear.solver
#[test]
fn linear_matches_logistic_regression() {
    let golden = golden();
    for name in SETS {
        let set = golden.set(name);
        for (case, c, class_weight, standardize) in [
            ("linear-0.01-none", 0.01, ClassWeight::None, false),
            ("linear-1.0-none", 1.0, ClassWeight::None, false),
            ("linear-1.0-balanced", 1.0, ClassWeight::Balanced, false),
            ("linear-1.0-none-standardize", 1.0, ClassWeight::None, true),
        ] {
            let case = format!("{name}.{case}");
            let config =
                LinearConfig { c: c.into(), class_weight, standardize, tol: 1e-9, ..LinearConfig::default() };
            let head = config.fit(&set.training_set(), &FitContext::silent()).unwrap().head;
            let logits = head.logits(set.features()).unwrap();
            let probabilities = golden.f64s(&format!("{case}.probabilities"));
            let error = logits
                .softmax()
                .iter()
                .zip(&probabilities)
                .map(|(&a, b)| (f64::from(a) - b).abs())
                .fold(0.0, f64::max);
            assert!(error < 1e-5, "{case}: a probability is off by {error}");
            if standardize {
                // scikit-learn's weights are those of the standardized features.
                continue;
            }
            let (params, expected) =
                (LinearParams::difference_of_two(&*head), LinearParams::golden(&golden, &case));
            params.assert_near(&expected, 1e-5, &case);
            let objective = |params: &LinearParams| logistic_objective(&set, params, &config);
            assert_relative(objective(&params), objective(&expected), 1e-8, &case);
        }
    }
}

#[test]
fn linear_with_its_default_tolerance_is_within_a_thousandth_of_the_optimum() {
    let golden = golden();
    for name in SETS {
        let (set, config) = (golden.set(name), LinearConfig::default());
        let fitted = config.fit(&set.training_set(), &FitContext::silent()).unwrap();
        let expected = LinearParams::golden(&golden, &format!("{name}.linear-1.0-none"));
        let expected = logistic_objective(&set, &expected, &config);
        let found = logistic_objective(&set, &LinearParams::difference_of_two(&*fitted.head), &config);
        assert_relative(found, expected, 1e-3, name);
        assert_relative(fitted.history.rows.last().unwrap()[1], found, 1e-5, "the history's last row");
    }
}

/// `½ (|w|² + w₀²) + Σ C_i loss_i` of each problem, where `w₀` is the weight of the constant feature.
fn svm_objectives(set: &DataSet, params: &LinearParams, config: &SvmConfig) -> Vec<f64> {
    let weights = set.training_set().class_weights(config.class_weight);
    let scores = set.scores(params);
    let is_binary = set.classes == 2;
    let c = config.c.fixed().unwrap();
    (0..params.bias.len())
        .map(|index| {
            let class = if is_binary { 1 } else { index as u32 };
            let losses = scores.iter().zip(&set.labels).map(|(scores, &label)| {
                let positive = label == class;
                let slack = (1.0 - if positive { scores[index] } else { -scores[index] }).max(0.0);
                let weight = if positive || is_binary { weights[label as usize] } else { 1.0 };
                c * weight
                    * match config.loss {
                        SvmLoss::SquaredHinge => slack * slack,
                        SvmLoss::Hinge => slack,
                    }
            });
            let weight = &params.weight[index * set.width..(index + 1) * set.width];
            let constant = params.bias[index] / config.intercept_scaling;
            losses.sum::<f64>() + 0.5 * (weight.iter().map(|w| w * w).sum::<f64>() + constant * constant)
        })
        .collect()
}

// effect: head.svm.multi_class, head.svm.loss, head.svm.C, head.svm.intercept_scaling, head.svm.class_weight
// effect: head.svm.class_weight x head.svm.loss
#[test]
fn svm_matches_linear_svc() {
    let golden = golden();
    let losses = [("squared-hinge", SvmLoss::SquaredHinge), ("hinge", SvmLoss::Hinge)];
    for name in SETS {
        let set = golden.set(name);
        for (text, loss) in losses {
            for (c, class_weight, intercept_scaling) in [
                (0.01, ClassWeight::None, 1.0),
                (1.0, ClassWeight::None, 1.0),
                (0.1, ClassWeight::Balanced, 1.0),
                (0.1, ClassWeight::None, 10.0),
            ] {
                if loss == SvmLoss::Hinge && intercept_scaling == 10.0 {
                    continue;
                }
                let weights = if class_weight == ClassWeight::Balanced { "balanced" } else { "none" };
                let case = format!("{name}.svm-{c:?}-{text}-{weights}-{intercept_scaling:?}");
                let config = SvmConfig {
                    loss,
                    c: Regularization::Fixed(c),
                    class_weight,
                    intercept_scaling,
                    tol: 1e-10,
                    ..SvmConfig::default()
                };
                let head = config.fit(&set.training_set(), &FitContext::silent()).unwrap().head;
                let (params, expected) =
                    (LinearParams::second_of_two(&*head), LinearParams::golden(&golden, &case));
                params.assert_near(&expected, 1e-4, &case);
                let objectives = |params: &LinearParams| svm_objectives(&set, params, &config);
                // The hinge has a kink at its optimum: rounding the weights to f32 costs more there.
                let tolerance = if loss == SvmLoss::Hinge { 1e-5 } else { 1e-6 };
                for (found, expected) in objectives(&params).into_iter().zip(objectives(&expected)) {
                    assert_relative(found, expected, tolerance, &case);
                }
                let logits = head.logits(set.features()).unwrap();
                assert_same_predictions(&logits, &golden.u32s(&format!("{case}.predictions")), &case);
            }
        }
    }
}
