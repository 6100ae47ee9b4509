//! The closed-form heads and `knn` against scikit-learn (`reference/heads/closed_form.py`).

use headstock_heads::knn::{KnnConfig, VoteWeights};
use headstock_heads::lda::{LdaConfig, Shrinkage};
use headstock_heads::nearest_mean::NearestMeanConfig;
use headstock_heads::ridge::RidgeConfig;
use headstock_heads::{
    ClassWeight, DistanceMetric, FitContext, Fitted, Head, HeadConfig, HeadShape, Registry, Regularization,
};

use crate::support::{DataSet, Golden, LinearParams, assert_near, assert_same_predictions, f64s};

const SETS: [&str; 7] = ["two", "three", "five", "wide", "unbalanced", "two-unbalanced", "constant"];
const ALPHAS: [f64; 5] = [0.1, 1.0, 10.0, 100.0, 1000.0];
const WEIGHTS: [(&str, ClassWeight); 2] = [("none", ClassWeight::None), ("balanced", ClassWeight::Balanced)];

fn golden() -> Golden {
    Golden::load("heads/closed_form.safetensors")
}

fn fit<C: HeadConfig>(config: &C, set: &DataSet) -> Fitted<C::Head> {
    config.fit(&set.training_set(), &FitContext::silent()).unwrap()
}

// effect: head.ridge.alpha, head.ridge.class_weight
#[test]
fn ridge_matches_ridge_classifier() {
    let golden = golden();
    for name in SETS {
        let set = golden.set(name);
        for (text, class_weight) in WEIGHTS {
            for alpha in [0.1, 10.0] {
                let case = format!("{name}.ridge-{text}-{alpha:?}");
                let config = RidgeConfig {
                    alpha: Regularization::Fixed(alpha),
                    class_weight,
                    ..RidgeConfig::default()
                };
                let fitted = fit(&config, &set);
                LinearParams::second_of_two(&*fitted.head).assert_near(
                    &LinearParams::golden(&golden, &case),
                    1e-5,
                    &case,
                );
                let logits = fitted.head.logits(set.features()).unwrap();
                assert_same_predictions(&logits, &golden.u32s(&format!("{case}.predictions")), &case);
                assert_eq!((fitted.history.rows.len(), fitted.chosen), (0, vec![]), "{case}");
            }
        }
    }
}

// effect: head.ridge.alpha, head.ridge.alphas, head.ridge.class_weight
// effect: head.ridge.alpha x head.ridge.alphas, head.ridge.alpha x head.ridge.class_weight
#[test]
fn ridge_chooses_alpha_by_the_same_errors_as_ridge_classifier_cv() {
    let golden = golden();
    for name in SETS {
        let set = golden.set(name);
        for (text, class_weight) in WEIGHTS {
            let case = format!("{name}.ridge-{text}-auto");
            let config = RidgeConfig { alpha: Regularization::Auto, alphas: ALPHAS.into(), class_weight };
            let fitted = fit(&config, &set);
            assert_eq!(fitted.chosen, [("alpha", golden.f64s(&format!("{case}.alpha"))[0])], "{case}");
            let errors: Vec<f64> = fitted.history.rows.iter().map(|row| row[1]).collect();
            for (found, expected) in errors.iter().zip(golden.f64s(&format!("{case}.errors"))) {
                assert!((found / expected - 1.0).abs() < 1e-8, "{case}: {found}, expected {expected}");
            }
            assert_eq!(fitted.history.columns, ["alpha", "leave_one_out_error"]);
            assert_eq!(fitted.history.rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ALPHAS);
            LinearParams::second_of_two(&*fitted.head).assert_near(
                &LinearParams::golden(&golden, &case),
                1e-5,
                &case,
            );
        }
    }
}

/// scikit-learn refits without each photo.
// effect: features.views x head.ridge.alpha, data.group x head.ridge.alpha
#[test]
fn ridge_leaves_out_all_views_of_a_image_together() {
    let golden = golden();
    for name in SETS {
        let set = golden.set(name);
        for (text, class_weight) in WEIGHTS {
            let case = format!("{name}.ridge-photos-{text}");
            let groups = golden.u32s(&format!("{case}.photos"));
            let data = set.training_set().with_groups(&groups).unwrap();
            let config = RidgeConfig { alpha: Regularization::Auto, alphas: ALPHAS.into(), class_weight };
            let fitted = config.fit(&data, &FitContext::silent()).unwrap();
            for (row, expected) in fitted.history.rows.iter().zip(golden.f64s(&format!("{case}.errors"))) {
                assert!((row[1] / expected - 1.0).abs() < 1e-8, "{case}: {row:?}, expected {expected}");
            }
        }
    }
}

#[test]
fn ridge_with_auto_alpha_matches_ridge_with_the_chosen_alpha() {
    let golden = golden();
    for name in SETS {
        let set = golden.set(name);
        let auto = fit(&RidgeConfig::default(), &set);
        let given = RidgeConfig { alpha: auto.chosen[0].1.into(), ..RidgeConfig::default() };
        LinearParams::second_of_two(&*auto.head).assert_near(
            &LinearParams::second_of_two(&*fit(&given, &set).head),
            1e-6,
            name,
        );
    }
}

/// With a single group there is nothing to leave out.
#[test]
fn ridge_takes_the_middle_alpha_for_a_single_group() {
    let set = golden().set("three");
    let groups = vec![7; set.labels.len()];
    let data = set.training_set().with_groups(&groups).unwrap();
    let config = RidgeConfig { alphas: vec![0.5, 2.0, 8.0], ..RidgeConfig::default() };
    let fitted = config.fit(&data, &FitContext::silent()).unwrap();
    assert_eq!((fitted.chosen, fitted.history.rows.len()), (vec![("alpha", 2.0)], 0));
}

// effect: head.lda.shrinkage
#[test]
fn lda_matches_linear_discriminant_analysis() {
    let golden = golden();
    for name in SETS {
        let set = golden.set(name);
        for (text, shrinkage) in
            [("auto", Shrinkage::Auto), ("0.1", Shrinkage::Fixed(0.1)), ("0.0", Shrinkage::Fixed(0.0))]
        {
            let case = format!("{name}.lda-{text}");
            let head = fit(&LdaConfig { shrinkage }, &set).head;
            let logits = head.logits(set.features()).unwrap();
            let probabilities: Vec<f64> = logits.softmax().into_iter().map(f64::from).collect();
            assert_near(&probabilities, &golden.f64s(&format!("{case}.probabilities")), 1e-4, &case);
            assert_same_predictions(&logits, &golden.u32s(&format!("{case}.predictions")), &case);

            // Ours omit a term that is equal for all classes.
            let minus_first_class = |mut values: Vec<f64>, width: usize| {
                let (first, rest) = values.split_at_mut(width);
                for row in rest.chunks_exact_mut(width) {
                    row.iter_mut().zip(&*first).for_each(|(value, first)| *value -= first);
                }
                values.split_off(width)
            };
            let tensors = head.tensors().unwrap();
            for (tensor, width) in [("weight", set.width), ("bias", 1)] {
                let found = minus_first_class(f64s(&tensors[tensor]), width);
                let expected = golden.f64s(&format!("{case}.{tensor}"));
                let expected = if set.classes == 2 { expected } else { minus_first_class(expected, width) };
                assert_near(&found, &expected, 1e-4, &format!("{case}.{tensor}"));
            }
        }
    }
}

// effect: head.nearest-mean.metric
#[test]
fn nearest_mean_matches_nearest_centroid() {
    let golden = golden();
    for name in SETS {
        let set = golden.set(name);
        let case = format!("{name}.nearest-mean-euclidean");
        let logits = fit(&NearestMeanConfig::default(), &set).head.logits(set.features()).unwrap();
        assert_same_predictions(&logits, &golden.u32s(&format!("{case}.predictions")), &case);
        let distances = golden.f64s(&format!("{case}.distances"));
        // A logit is minus half the squared distance, up to a term that is equal for all classes.
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for (logits, distances) in logits.rows().zip(distances.chunks_exact(set.classes)) {
            found.extend(logits.iter().map(|logit| f64::from(logits[0] - logit)));
            expected.extend(distances.iter().map(|distance| 0.5 * (distance - distances[0])));
        }
        assert_near(&found, &expected, 1e-5, &case);
    }
}

// effect: head.nearest-mean.metric
#[test]
fn nearest_mean_by_angle_matches_cosine_similarities() {
    let golden = golden();
    for name in SETS {
        let set = golden.set(name);
        let case = format!("{name}.nearest-mean-cosine");
        let config = NearestMeanConfig { metric: DistanceMetric::Cosine };
        let logits = fit(&config, &set).head.logits(set.features()).unwrap();
        let found: Vec<f64> = logits.as_slice().iter().copied().map(f64::from).collect();
        assert_near(&found, &golden.f64s(&format!("{case}.similarities")), 1e-6, &case);
        assert_same_predictions(&logits, &golden.u32s(&format!("{case}.predictions")), &case);
    }
}

// effect: head.knn.k, head.knn.weights, head.knn.metric
#[test]
fn knn_matches_k_neighbors_classifier() {
    let golden = golden();
    for name in SETS {
        let set = golden.set(name);
        let (queries, train) = (set.subset(|row, _| row % 3 == 0), set.subset(|row, _| row % 3 != 0));
        for k in [1, 5, 15] {
            for (weights_text, weights) in
                [("uniform", VoteWeights::Uniform), ("distance", VoteWeights::Distance)]
            {
                for (metric_text, metric) in
                    [("euclidean", DistanceMetric::Euclidean), ("cosine", DistanceMetric::Cosine)]
                {
                    let case = format!("{name}.knn-{k}-{weights_text}-{metric_text}");
                    let head = fit(&KnnConfig { k, weights, metric }, &train).head;
                    let shares = head.logits(queries.features()).unwrap().softmax();
                    // The head adds one vote that is split among all classes.
                    let share = |share: f32| {
                        (f64::from(share) * (k + 1) as f64 - 1.0 / train.classes as f64) / k as f64
                    };
                    let found: Vec<f64> = shares.into_iter().map(share).collect();
                    assert_near(&found, &golden.f64s(&format!("{case}.probabilities")), 1e-5, &case);
                }
            }
        }
    }
}

#[test]
fn features_near_f32_max_are_fitted_to_finite_logits_or_refused() {
    let golden = golden();
    let set = golden.set("three");
    let largest = set.values.iter().fold(0.0f32, |top, value| top.max(value.abs()));
    let values = set.values.iter().map(|value| value / largest * 1e38).collect();
    let huge = DataSet { values, ..golden.set("three") };
    let registry = Registry::builtin();
    for kind in ["ridge", "lda", "nearest-mean", "knn"] {
        for config in registry.get(kind).unwrap().configure(toml::Table::new()).unwrap().candidate_configs() {
            match config.fit(&huge.training_set(), &FitContext::silent()) {
                Ok(fitted) => {
                    let logits = fitted.head.logits(huge.features()).unwrap();
                    assert!(logits.as_slice().iter().all(|logit| logit.is_finite()), "{:?}", config.table());
                }
                Err(error) => assert!(error.to_string().contains("scale the features"), "{error}"),
            }
        }
    }
}

#[test]
fn candidate_configs_and_memory_estimates() {
    let registry = Registry::builtin();
    let candidates = |kind: &str| -> Vec<String> {
        let config = registry.get(kind).unwrap().configure(toml::Table::new()).unwrap();
        config
            .candidate_configs()
            .iter()
            .map(|config| config.table().to_string().replace('\n', " "))
            .collect()
    };
    assert_eq!(candidates("ridge").len(), 1);
    assert_eq!(candidates("lda"), ["shrinkage = \"auto\" ", "shrinkage = 0.1 "]);
    assert_eq!(candidates("nearest-mean"), ["metric = \"euclidean\" ", "metric = \"cosine\" "]);
    assert_eq!(
        candidates("knn"),
        [
            "k = 5 weights = \"uniform\" metric = \"euclidean\" ",
            "k = 5 weights = \"distance\" metric = \"euclidean\" ",
            "k = 15 weights = \"uniform\" metric = \"euclidean\" ",
            "k = 15 weights = \"distance\" metric = \"euclidean\" ",
        ]
    );
    let shape = HeadShape { samples: 100_000, features: 2048, classes: 1000 };
    let gibibytes = |kind: &str| {
        let config = registry.get(kind).unwrap().configure(toml::Table::new()).unwrap();
        config.memory_bytes(shape) as f64 / f64::from(1 << 30)
    };
    for (kind, least, most) in [("ridge", 0.15, 2.0), ("nearest-mean", 0.015, 0.1), ("knn", 0.75, 0.8)] {
        assert!((least..most).contains(&gibibytes(kind)), "{kind} needs {}", gibibytes(kind));
    }
}
