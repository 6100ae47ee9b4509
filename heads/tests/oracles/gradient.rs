//! Heads fitted by gradients against PyTorch in `f64`, for every key of their tables
//! (`reference/gradient/make.py`).

use std::collections::BTreeMap;

use headstock_heads::{FeatureMatrix, FitContext, Registry, TrainingSet};

use crate::support::{assert_near, f64s};

#[derive(serde::Deserialize)]
struct GoldenFits {
    set: BTreeMap<String, GoldenSet>,
    case: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct GoldenSet {
    features: Vec<f32>,
    labels: Vec<u32>,
}

#[derive(serde::Deserialize)]
struct Case {
    kind: String,
    set: String,
    table: String,
    history: Vec<Vec<f64>>,
    tensors: BTreeMap<String, Vec<f64>>,
}

/// Compares fitted tensors and histories of all cases of a kind with PyTorch's; `cases` is their expected
/// number.
fn check(kind: &str, cases: usize) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/gradient/fits.toml");
    let golden: GoldenFits = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let registry = Registry::builtin();
    let cases_of_kind: Vec<&Case> = golden.case.iter().filter(|case| case.kind == kind).collect();
    assert_eq!(cases_of_kind.len(), cases);
    for Case { set, table, history, tensors, .. } in cases_of_kind {
        let GoldenSet { features, labels } = &golden.set[set];
        let classes = *labels.iter().max().unwrap() as usize + 1;
        let features = FeatureMatrix::new(features, features.len() / labels.len()).unwrap();
        let data = TrainingSet::new(features, labels, classes).unwrap();
        let config = registry.get(kind).unwrap().configure(table.parse().unwrap()).unwrap();
        let fitted = config.fit(&data, &FitContext::silent()).unwrap();
        let case = format!("{kind} on {set} with {table}");
        let found = &fitted.history.rows;
        assert_eq!((found.len(), found[0].len()), (history.len(), history[0].len()), "{case}");
        for (found, expected) in found.iter().flatten().zip(history.iter().flatten()) {
            assert!((found - expected).abs() < 1e-4, "{case}: {found}, not {expected}");
        }
        let found = fitted.head.tensors().unwrap();
        assert!(found.keys().eq(tensors.keys()), "{case}: {:?}", found.keys());
        for (name, expected) in tensors {
            assert_near(&f64s(&found[name]), expected, 1e-4, &format!("{name} of {case}"));
        }
    }
}

// effect: head.linear.solver, head.linear.C, head.linear.class_weight, head.linear.standardize
// effect: head.linear.epochs
// effect: head.linear.batch_size, head.linear.lr, head.linear.seed
// effect: head.linear.class_weight x head.linear.solver, head.linear.C x head.linear.solver
// effect: head.linear.solver x head.linear.standardize
#[test]
fn linear_with_adam_matches_pytorch_for_every_key() {
    check("linear", 11);
}

// effect: head.mlp.hidden, head.mlp.dropout, head.mlp.lr, head.mlp.weight_decay, head.mlp.epochs
// effect: head.mlp.batch_size
// effect: head.mlp.validation, head.mlp.patience, head.mlp.class_weight, head.mlp.standardize, head.mlp.seed
// effect: head.mlp.patience x head.mlp.validation, head.mlp.class_weight x head.mlp.validation
#[test]
fn mlp_matches_pytorch_for_every_key() {
    check("mlp", 19);
}

// effect: head.cosine.scale, head.cosine.lr, head.cosine.weight_decay, head.cosine.epochs
// effect: head.cosine.batch_size
// effect: head.cosine.validation, head.cosine.patience, head.cosine.class_weight, head.cosine.seed
// effect: head.cosine.patience x head.cosine.validation
#[test]
fn cosine_matches_pytorch_for_every_key() {
    check("cosine", 12);
}
