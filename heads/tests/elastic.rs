//! `linear` with absolute values in its penalty, against scikit-learn's `LogisticRegression` (`reference/elastic/make.py`).

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use candle_core::{DType, Device, Tensor};
use headstock_heads::linear::{LinearConfig, Penalty};
use headstock_heads::{Features, FitContext, Head, HeadConfig, TrainingSet};

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn l1_and_elastic_net_end_where_saga_ends_with_the_same_weights_at_0() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/elastic/scikit-learn.safetensors");
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    for (set, classes) in [("two", 2), ("five", 5)] {
        let (features, labels) = (&golden[&format!("{set}.features")], &golden[&format!("{set}.labels")]);
        let rows: Vec<f32> = features.flatten_all().unwrap().to_vec1().unwrap();
        let labels: Vec<u32> = labels.to_vec1().unwrap();
        let width = features.dims()[1];
        let data = TrainingSet::new(Features::new(&rows, width).unwrap(), &labels, classes).unwrap();
        for (case, penalty, l1_ratio) in [("1.0", Penalty::L1, 0.5), ("0.3", Penalty::ElasticNet, 0.3)] {
            let config = LinearConfig {
                c: 0.5.into(),
                penalty,
                l1_ratio,
                tol: 1e-9,
                max_iter: 10_000,
                ..LinearConfig::default()
            };
            let head = config.fit(&data, &FitContext::quiet()).unwrap().head.tensors().unwrap();
            let (mut weight, mut bias) = (values(&head["weight"]), values(&head["bias"]));
            if classes == 2 {
                // Theirs is the plane between the two, which are each other's mirror images.
                let difference = |values: &[f64], n: usize| -> Vec<f64> {
                    (0..n).map(|i| values[n + i] - values[i]).collect()
                };
                (weight, bias) = (difference(&weight, width), difference(&bias, 1));
            }
            for (name, mut found) in [("weight", weight), ("bias", bias)] {
                let mut expected = values(&golden[&format!("{set}.{case}.{name}")]);
                if name == "bias" && classes > 2 {
                    // Neither the losses nor the penalty know what all intercepts have in common.
                    for biases in [&mut found, &mut expected] {
                        let mean = biases.iter().sum::<f64>() / classes as f64;
                        biases.iter_mut().for_each(|bias| *bias -= mean);
                    }
                }
                let largest = expected.iter().fold(0.0f64, |top, value| top.max(value.abs()));
                assert_eq!(found.len(), expected.len());
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let error = (found - expected).abs();
                    assert!(error <= 1e-4 * largest, "{set} {case} {name} {i}: {found}, expected {expected}");
                    assert_eq!(
                        *found == 0.0,
                        *expected == 0.0,
                        "{set} {case} {name} {i}: {found}, {expected}"
                    );
                }
            }
        }
    }
}
