mod groups;
mod hash;
mod k_folds;
mod shuffle;

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::SplitIndices;

/// The test cases of the file `name` in `reference/split`.
fn golden(name: &str) -> serde_json::Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../reference/split");
    serde_json::from_slice(&std::fs::read(Path::new(folder).join(name)).unwrap()).unwrap()
}

/// `label` of `reference/split/make.py`.
fn label(shape: &str, classes: u64, i: u64) -> u32 {
    let u = i * 2_654_435_761 % (1 << 32);
    let squared = (u * u) >> 32;
    let number = match shape {
        _ if i < 2 * classes => i % classes,
        "turns" => i % classes,
        "blocks" => i / 7 % classes,
        "scattered" => (u * classes) >> 32,
        "steep" => (((squared * squared) >> 32) * classes) >> 32,
        _ => (squared * classes) >> 32,
    };
    (if shape == "gaps" { number * 3 + 1 } else { number }) as u32
}

/// `group` of `reference/split/make.py`.
fn group(shape: &str, groups: u64, i: u64, label: u64) -> u32 {
    let v = (i * 2_246_822_519 + 374_761_393) % (1 << 32);
    let number = match shape {
        "alone" => i,
        "runs" => i / 6 % groups,
        "pure" => label * groups + ((v * groups) >> 32),
        "skewed" => ((((v * v) >> 32) * groups) >> 32) * 5 + 2,
        _ => (v * groups) >> 32,
    };
    number as u32
}

/// Asserts that `splits` equal those that `kept` of `reference/split/make.py` wrote for a case.
fn assert_splits_match(splits: &[SplitIndices], case: &serde_json::Value) {
    let indices =
        |value: &serde_json::Value| -> Vec<usize> { serde_json::from_value(value.clone()).unwrap() };
    let expected_splits = case["splits"].as_array().unwrap();
    assert_eq!(splits.len(), expected_splits.len());
    for (split, expected) in splits.iter().zip(expected_splits) {
        if let Some(sha256) = expected["sha256"].as_str() {
            assert_eq!(split.train[..8], indices(&expected["train_first"]), "{case}");
            assert_eq!(split.test[..8.min(split.test.len())], indices(&expected["test_first"]), "{case}");
            let mut hash = Sha256::new();
            for &index in split.train.iter().chain(&split.test) {
                hash.update((index as u32).to_le_bytes());
            }
            let ours: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(ours, sha256, "{case}");
        } else {
            assert_eq!(split.train, indices(&expected["train"]), "{case}");
            assert_eq!(split.test, indices(&expected["test"]), "{case}");
        }
    }
}
