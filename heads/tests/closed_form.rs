//! The heads in closed form and `knn` against scikit-learn (`reference/heads/closed_form.py`).

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use headstock_heads::knn::{KnnConfig, Votes};
use headstock_heads::lda::{LdaConfig, Shrinkage};
use headstock_heads::nearest_mean::NearestMeanConfig;
use headstock_heads::ridge::RidgeConfig;
use headstock_heads::{
    Affine, ClassWeight, Features, FitContext, Fitted, Head, HeadConfig, Logits, Metric, Registry, Shape,
    Strength, TrainingSet,
};

const SETS: [&str; 7] = ["two", "three", "five", "wide", "unbalanced", "two-unbalanced", "constant"];
const ALPHAS: [f64; 5] = [0.1, 1.0, 10.0, 100.0, 1000.0];
const WEIGHTS: [(&str, ClassWeight); 2] = [("none", ClassWeight::None), ("balanced", ClassWeight::Balanced)];

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn load() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/heads/closed_form.safetensors");
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    fn f64s(&self, name: &str) -> Vec<f64> {
        self.0[name].to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn u32s(&self, name: &str) -> Vec<u32> {
        self.0[name].to_vec1().unwrap()
    }

    fn set(&self, name: &str) -> Set {
        let features = &self.0[&format!("{name}.features")];
        let labels = self.u32s(&format!("{name}.labels"));
        Set {
            values: features.flatten_all().unwrap().to_vec1().unwrap(),
            width: features.dims()[1],
            classes: *labels.iter().max().unwrap() as usize + 1,
            labels,
        }
    }
}

struct Set {
    values: Vec<f32>,
    width: usize,
    labels: Vec<u32>,
    classes: usize,
}

impl Set {
    fn features(&self) -> Features<'_> {
        Features::new(&self.values, self.width).unwrap()
    }

    fn training_set(&self) -> TrainingSet<'_> {
        TrainingSet::new(self.features(), &self.labels, self.classes).unwrap()
    }

    /// The rows at each third place, and the others.
    fn parts(&self) -> (Self, Self) {
        let part = |keep: &dyn Fn(usize) -> bool| {
            let rows: Vec<usize> = (0..self.labels.len()).filter(|&row| keep(row)).collect();
            Self {
                values: rows.iter().flat_map(|&row| self.features().row(row)).copied().collect(),
                labels: rows.iter().map(|&row| self.labels[row]).collect(),
                ..*self
            }
        };
        (part(&|row| row % 3 == 0), part(&|row| row % 3 != 0))
    }
}

fn fit<C: HeadConfig>(config: &C, set: &Set) -> Fitted<C::Head> {
    config.fit(&set.training_set(), &FitContext::quiet()).unwrap()
}

/// `max |a - b| <= tolerance * max |b|`
fn assert_near(found: &[f64], expected: &[f64], tolerance: f64, case: &str) {
    let largest = expected.iter().fold(0.0f64, |top, value| top.max(value.abs()));
    let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(
        found.len() == expected.len() && error <= tolerance * largest,
        "{case}: off by {error} of {largest}"
    );
}

/// Where the two highest logits differ by less than rounding, either may win.
fn assert_same_predictions(logits: &Logits, expected: &[u32], case: &str) {
    assert_eq!(logits.rows().len(), expected.len(), "{case}");
    for (row, (&expected, logits)) in expected.iter().zip(logits.rows()).enumerate() {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let rounding = 1e-5 * best.abs().max(1.0);
        assert!(
            best - logits[expected as usize] <= rounding,
            "{case}: row {row} has {logits:?}, expected class {expected}"
        );
    }
}

/// The weights `[K, F]` and intercepts `[K]` of a head; of two classes, the second's.
fn planes(head: &Affine) -> (Vec<f64>, Vec<f64>) {
    let tensors = head.tensors().unwrap();
    let values = |name: &str| -> Vec<f64> {
        tensors[name].to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    let (mut weight, mut bias) = (values("weight"), values("bias"));
    if head.classes() == 2 {
        weight.drain(..head.width());
        bias.remove(0);
    }
    (weight, bias)
}

#[test]
fn ridge_finds_the_planes_that_ridge_classifier_finds() {
    let golden = Golden::load();
    for name in SETS {
        let set = golden.set(name);
        for (text, class_weight) in WEIGHTS {
            for alpha in [0.1, 10.0] {
                let case = format!("{name}.ridge-{text}-{alpha:?}");
                let config =
                    RidgeConfig { alpha: Strength::Given(alpha), class_weight, ..RidgeConfig::default() };
                let fitted = fit(&config, &set);
                let (weight, bias) = planes(&fitted.head);
                assert_near(&weight, &golden.f64s(&format!("{case}.weight")), 1e-5, &case);
                assert_near(&bias, &golden.f64s(&format!("{case}.bias")), 1e-5, &case);
                let logits = fitted.head.logits(set.features()).unwrap();
                assert_same_predictions(&logits, &golden.u32s(&format!("{case}.predictions")), &case);
                assert_eq!((fitted.history.rows.len(), fitted.chosen), (0, vec![]), "{case}");
            }
        }
    }
}

#[test]
fn ridge_chooses_the_alpha_that_ridge_classifier_cv_chooses_by_the_same_errors() {
    let golden = Golden::load();
    for name in SETS {
        let set = golden.set(name);
        for (text, class_weight) in WEIGHTS {
            let case = format!("{name}.ridge-{text}-auto");
            let config = RidgeConfig { alpha: Strength::Auto, alphas: ALPHAS.into(), class_weight };
            let fitted = fit(&config, &set);
            assert_eq!(fitted.chosen, [("alpha", golden.f64s(&format!("{case}.alpha"))[0])], "{case}");
            let errors: Vec<f64> = fitted.history.rows.iter().map(|row| row[1]).collect();
            for (found, expected) in errors.iter().zip(golden.f64s(&format!("{case}.errors"))) {
                assert!((found / expected - 1.0).abs() < 1e-8, "{case}: {found}, expected {expected}");
            }
            assert_eq!(fitted.history.columns, ["alpha", "leave_one_out_error"]);
            assert_eq!(fitted.history.rows.iter().map(|row| row[0]).collect::<Vec<_>>(), ALPHAS);
            let (weight, bias) = planes(&fitted.head);
            assert_near(&weight, &golden.f64s(&format!("{case}.weight")), 1e-5, &case);
            assert_near(&bias, &golden.f64s(&format!("{case}.bias")), 1e-5, &case);
        }
    }
}

/// scikit-learn fits anew without each photo.
#[test]
fn ridge_leaves_out_all_views_of_a_photo_together() {
    let golden = Golden::load();
    for name in SETS {
        let set = golden.set(name);
        for (text, class_weight) in WEIGHTS {
            let case = format!("{name}.ridge-photos-{text}");
            let photos = golden.u32s(&format!("{case}.photos"));
            let data = set.training_set().with_photos(&photos).unwrap();
            let config = RidgeConfig { alpha: Strength::Auto, alphas: ALPHAS.into(), class_weight };
            let fitted = config.fit(&data, &FitContext::quiet()).unwrap();
            for (row, expected) in fitted.history.rows.iter().zip(golden.f64s(&format!("{case}.errors"))) {
                assert!((row[1] / expected - 1.0).abs() < 1e-8, "{case}: {row:?}, expected {expected}");
            }
        }
    }
}

#[test]
fn ridge_with_a_decomposition_is_ridge_with_the_alpha_that_it_chose() {
    let golden = Golden::load();
    for name in SETS {
        let set = golden.set(name);
        let auto = fit(&RidgeConfig::default(), &set);
        let given = RidgeConfig { alpha: auto.chosen[0].1.into(), ..RidgeConfig::default() };
        let (found, expected) = (planes(&auto.head), planes(&fit(&given, &set).head));
        assert_near(&found.0, &expected.0, 1e-6, name);
        assert_near(&found.1, &expected.1, 1e-6, name);
    }
}

/// Without two photos there is nothing to leave out.
#[test]
fn ridge_takes_the_middle_alpha_where_all_rows_are_views_of_one_photo() {
    let set = Golden::load().set("three");
    let photos = vec![7; set.labels.len()];
    let data = set.training_set().with_photos(&photos).unwrap();
    let config = RidgeConfig { alphas: vec![0.5, 2.0, 8.0], ..RidgeConfig::default() };
    let fitted = config.fit(&data, &FitContext::quiet()).unwrap();
    assert_eq!((fitted.chosen, fitted.history.rows.len()), (vec![("alpha", 2.0)], 0));
}

#[test]
fn lda_finds_the_discriminants_that_linear_discriminant_analysis_finds() {
    let golden = Golden::load();
    for name in SETS {
        let set = golden.set(name);
        for (text, shrinkage) in
            [("auto", Shrinkage::Auto), ("0.1", Shrinkage::Given(0.1)), ("0.0", Shrinkage::Given(0.0))]
        {
            let case = format!("{name}.lda-{text}");
            let head = fit(&LdaConfig { shrinkage }, &set).head;
            let logits = head.logits(set.features()).unwrap();
            let probabilities: Vec<f64> = logits.softmax().into_iter().map(f64::from).collect();
            assert_near(&probabilities, &golden.f64s(&format!("{case}.probabilities")), 1e-4, &case);
            assert_same_predictions(&logits, &golden.u32s(&format!("{case}.predictions")), &case);

            // Ours lack a part that all classes have in common.
            let of_differences = |mut values: Vec<f64>, width: usize| {
                let (first, rest) = values.split_at_mut(width);
                for row in rest.chunks_exact_mut(width) {
                    row.iter_mut().zip(&*first).for_each(|(value, first)| *value -= first);
                }
                values.split_off(width)
            };
            let tensors = head.tensors().unwrap();
            for (tensor, width) in [("weight", set.width), ("bias", 1)] {
                let values = tensors[tensor].to_dtype(DType::F64).unwrap().flatten_all().unwrap();
                let found = of_differences(values.to_vec1().unwrap(), width);
                let expected = golden.f64s(&format!("{case}.{tensor}"));
                let expected = if set.classes == 2 { expected } else { of_differences(expected, width) };
                assert_near(&found, &expected, 1e-4, &format!("{case}.{tensor}"));
            }
        }
    }
}

#[test]
fn nearest_mean_has_the_distances_that_nearest_centroid_has() {
    let golden = Golden::load();
    for name in SETS {
        let set = golden.set(name);
        let case = format!("{name}.nearest-mean-euclidean");
        let logits = fit(&NearestMeanConfig::default(), &set).head.logits(set.features()).unwrap();
        assert_same_predictions(&logits, &golden.u32s(&format!("{case}.predictions")), &case);
        let distances = golden.f64s(&format!("{case}.distances"));
        // A logit is half the squared distance, but for a part that all classes have in common.
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for (logits, distances) in logits.rows().zip(distances.chunks_exact(set.classes)) {
            found.extend(logits.iter().map(|logit| f64::from(logits[0] - logit)));
            expected.extend(distances.iter().map(|distance| 0.5 * (distance - distances[0])));
        }
        assert_near(&found, &expected, 1e-5, &case);
    }
}

#[test]
fn nearest_mean_by_angle_has_the_cosines_of_normalised_rows_and_their_means() {
    let golden = Golden::load();
    for name in SETS {
        let set = golden.set(name);
        let case = format!("{name}.nearest-mean-cosine");
        let config = NearestMeanConfig { metric: Metric::Cosine };
        let logits = fit(&config, &set).head.logits(set.features()).unwrap();
        let found: Vec<f64> = logits.as_slice().iter().copied().map(f64::from).collect();
        assert_near(&found, &golden.f64s(&format!("{case}.similarities")), 1e-6, &case);
        assert_same_predictions(&logits, &golden.u32s(&format!("{case}.predictions")), &case);
    }
}

#[test]
fn knn_has_the_votes_that_k_neighbors_classifier_has() {
    let golden = Golden::load();
    for name in SETS {
        let (asked, known) = golden.set(name).parts();
        for k in [1, 5, 15] {
            for (weights_text, weights) in [("uniform", Votes::Uniform), ("distance", Votes::Distance)] {
                for (metric_text, metric) in [("euclidean", Metric::Euclidean), ("cosine", Metric::Cosine)] {
                    let case = format!("{name}.knn-{k}-{weights_text}-{metric_text}");
                    let head = fit(&KnnConfig { k, weights, metric }, &known).head;
                    let shares = head.logits(asked.features()).unwrap().softmax();
                    // There is one vote more, which all classes share.
                    let share = |share: f32| {
                        (f64::from(share) * (k + 1) as f64 - 1.0 / known.classes as f64) / k as f64
                    };
                    let found: Vec<f64> = shares.into_iter().map(share).collect();
                    assert_near(&found, &golden.f64s(&format!("{case}.probabilities")), 1e-5, &case);
                }
            }
        }
    }
}

#[test]
fn features_near_the_end_of_f32_are_fitted_or_refused_but_give_no_logit_that_is_not_a_number() {
    let golden = Golden::load();
    let set = golden.set("three");
    let largest = set.values.iter().fold(0.0f32, |top, value| top.max(value.abs()));
    let values = set.values.iter().map(|value| value / largest * 1e38).collect();
    let huge = Set { values, ..golden.set("three") };
    let registry = Registry::builtin();
    for kind in ["ridge", "lda", "nearest-mean", "knn"] {
        for config in registry.get(kind).unwrap().configure(toml::Table::new()).unwrap().grid() {
            match config.fit(&huge.training_set(), &FitContext::quiet()) {
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
fn grids_hold_what_matters_most_and_memory_is_told_beforehand() {
    let registry = Registry::builtin();
    let grid = |kind: &str| -> Vec<String> {
        let config = registry.get(kind).unwrap().configure(toml::Table::new()).unwrap();
        config.grid().iter().map(|config| config.table().to_string().replace('\n', " ")).collect()
    };
    assert_eq!(grid("ridge").len(), 1);
    assert_eq!(grid("lda"), ["shrinkage = \"auto\" ", "shrinkage = 0.1 "]);
    assert_eq!(grid("nearest-mean"), ["metric = \"euclidean\" ", "metric = \"cosine\" "]);
    assert_eq!(
        grid("knn"),
        [
            "k = 5 weights = \"uniform\" metric = \"euclidean\" ",
            "k = 5 weights = \"distance\" metric = \"euclidean\" ",
            "k = 15 weights = \"uniform\" metric = \"euclidean\" ",
            "k = 15 weights = \"distance\" metric = \"euclidean\" ",
        ]
    );
    let shape = Shape { samples: 100_000, features: 2048, classes: 1000 };
    let gibibytes = |kind: &str| {
        let config = registry.get(kind).unwrap().configure(toml::Table::new()).unwrap();
        config.memory(shape) as f64 / f64::from(1 << 30)
    };
    for (kind, least, most) in [("ridge", 0.15, 2.0), ("nearest-mean", 0.015, 0.1), ("knn", 0.75, 0.8)] {
        assert!((least..most).contains(&gibibytes(kind)), "{kind} needs {}", gibibytes(kind));
    }
}

#[test]
fn a_parameter_out_of_range_is_named_with_what_is_accepted() {
    for (kind, table, expected) in [
        ("ridge", "alpha = 0.0", "`head.alpha` is 0: must be a number greater than 0"),
        ("ridge", "alphas = []", "`head.alphas` is []: must have at least one number"),
        ("ridge", "alphas = [1.0, -2.0]", "`head.alphas` is -2: must be a number greater than 0"),
        ("lda", "shrinkage = 1.5", "`head.shrinkage` is 1.5: must be from 0 to 1"),
        ("lda", "shrinkage = nan", "`head.shrinkage` is NaN: must be from 0 to 1"),
        (
            "lda",
            "shrinkage = \"some\"",
            "head `lda`: invalid value: string \"some\", expected a number from 0 to 1 or \"auto\"",
        ),
        ("knn", "k = 0", "`head.k` is 0: must be at least 1"),
        (
            "nearest-mean",
            "metric = \"l1\"",
            "head `nearest-mean`: unknown variant `l1`, expected `euclidean` or `cosine`",
        ),
    ] {
        let registry = Registry::builtin();
        let error = registry.get(kind).unwrap().configure(table.parse().unwrap()).err().expect(table);
        assert_eq!(error.to_string(), expected);
    }
}
