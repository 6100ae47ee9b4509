//! Fits in processes with different numbers of threads; candle reads the number once per process.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::process::Command;

use headstock_heads::{FeatureMatrix, FitContext, Registry, TrainingSet};

const FITS: [(&str, &str); 8] = [
    ("linear", ""),
    ("linear", "solver = \"adam\"\nepochs = 2"),
    ("svm", "C = 1.0"),
    ("ridge", ""),
    ("lda", ""),
    ("nearest-mean", ""),
    ("mlp", "hidden = [96]\nepochs = 3\nclass_weight = \"balanced\"\nstandardize = true"),
    ("cosine", "epochs = 3"),
];

/// Large enough that the matrix products are split over threads.
fn fit_all() -> String {
    let (n, width, classes) = (400, 300, 11);
    let values: Vec<f32> = (0..n * width).map(|i| ((i * i) as f32 * 0.37).sin().max(0.0)).collect();
    let labels: Vec<u32> = (0..n).map(|i| (i * i % classes) as u32).collect();
    let data = TrainingSet::new(FeatureMatrix::new(&values, width).unwrap(), &labels, classes).unwrap();
    let mut out = String::new();
    for (kind, table) in FITS {
        let config = Registry::builtin().get(kind).unwrap().configure(table.parse().unwrap()).unwrap();
        let head = config.fit(&data, &FitContext::silent()).unwrap().head;
        for (name, tensor) in head.tensors().unwrap() {
            let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            let mix = |sum: u64, value: f32| {
                (sum.rotate_left(5) ^ u64::from(value.to_bits())).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            };
            out += &format!("{kind} {name} {:016x}\n", values.into_iter().fold(0, mix));
        }
    }
    out
}

#[test]
#[ignore = "run by the test below, in processes of its own"]
fn print_a_fit() {
    println!("{}", fit_all());
}

#[test]
fn fits_on_one_thread_two_and_three_are_the_same_to_the_bit() {
    let run_with = |threads: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["print_a_fit", "--exact", "--ignored", "--nocapture"])
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<String> = text
            .lines()
            // On one core the test's name precedes the first line.
            .map(|line| line.trim_start_matches("test print_a_fit ... "))
            .filter(|line| FITS.iter().any(|(kind, _)| line.starts_with(kind)))
            .map(String::from)
            .collect();
        assert_eq!(lines.len(), 18, "{text}");
        lines
    };
    let single = run_with("1");
    assert_eq!(single, run_with("2"));
    assert_eq!(single, run_with("3"));
}
