//! Golden files, their contents, and comparisons with heads.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use headstock_heads::{FeatureMatrix, Head, Logits, TrainingSet};

/// Tensors computed by a reference implementation.
pub(crate) struct Golden(HashMap<String, Tensor>);

impl Golden {
    /// Reads a file in `reference/`.
    pub(crate) fn load(file: &str) -> Self {
        let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference");
        Self(candle_core::safetensors::load(reference.join(file), &Device::Cpu).unwrap())
    }

    pub(crate) fn f64s(&self, name: &str) -> Vec<f64> {
        f64s(&self.0[name])
    }

    pub(crate) fn f32s(&self, name: &str) -> Vec<f32> {
        self.0[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    pub(crate) fn u32s(&self, name: &str) -> Vec<u32> {
        self.0[name].to_vec1().unwrap()
    }

    /// The row length of a matrix.
    pub(crate) fn width(&self, name: &str) -> usize {
        self.0[name].dims()[1]
    }

    pub(crate) fn set(&self, name: &str) -> DataSet {
        let features = format!("{name}.features");
        let labels = self.u32s(&format!("{name}.labels"));
        DataSet {
            values: self.f32s(&features),
            width: self.width(&features),
            classes: *labels.iter().max().unwrap() as usize + 1,
            labels,
        }
    }
}

pub(crate) fn f64s(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// A labeled data set.
pub(crate) struct DataSet {
    pub(crate) values: Vec<f32>,
    pub(crate) width: usize,
    pub(crate) labels: Vec<u32>,
    pub(crate) classes: usize,
}

impl DataSet {
    pub(crate) fn features(&self) -> FeatureMatrix<'_> {
        FeatureMatrix::new(&self.values, self.width).unwrap()
    }

    pub(crate) fn training_set(&self) -> TrainingSet<'_> {
        TrainingSet::new(self.features(), &self.labels, self.classes).unwrap()
    }

    /// The samples whose index and label `keep` accepts, with the same number of classes.
    pub(crate) fn subset(&self, keep: impl Fn(usize, u32) -> bool) -> Self {
        let rows = (0..self.labels.len()).filter(|&row| keep(row, self.labels[row]));
        let rows: Vec<usize> = rows.collect();
        Self {
            values: rows.iter().flat_map(|&row| self.features().row(row)).copied().collect(),
            labels: rows.iter().map(|&row| self.labels[row]).collect(),
            ..*self
        }
    }
}

/// Weights `[K, F]` and intercepts `[K]`; as in scikit-learn, two classes share one row.
#[derive(Debug)]
pub(crate) struct LinearParams {
    pub(crate) weight: Vec<f64>,
    pub(crate) bias: Vec<f64>,
}

impl LinearParams {
    pub(crate) fn golden(golden: &Golden, case: &str) -> Self {
        Self { weight: golden.f64s(&format!("{case}.weight")), bias: golden.f64s(&format!("{case}.bias")) }
    }

    /// The rows of all classes of a head.
    pub(crate) fn per_class(head: &impl Head) -> Self {
        let tensors = head.tensors().unwrap();
        Self { weight: f64s(&tensors["weight"]), bias: f64s(&tensors["bias"]) }
    }

    /// As in scikit-learn: with two classes, the difference of their rows.
    pub(crate) fn difference_of_two(head: &impl Head) -> Self {
        Self::per_class(head).merge_two_classes(|first, second| second - first)
    }

    /// As in scikit-learn: with two classes, the row of the second, which is the negative of the first.
    pub(crate) fn second_of_two(head: &impl Head) -> Self {
        Self::per_class(head).merge_two_classes(|_, second| second)
    }

    /// Merges the rows of two classes into one; leaves other numbers of classes alone.
    fn merge_two_classes(self, merge: impl Fn(f64, f64) -> f64) -> Self {
        if self.bias.len() != 2 {
            return self;
        }
        let merge_halves = |values: Vec<f64>| {
            let (first, second) = values.split_at(values.len() / 2);
            first.iter().zip(second).map(|(&first, &second)| merge(first, second)).collect()
        };
        Self { weight: merge_halves(self.weight), bias: merge_halves(self.bias) }
    }

    pub(crate) fn assert_near(&self, expected: &Self, tolerance: f64, case: &str) {
        assert_near(&self.weight, &expected.weight, tolerance, &format!("{case}.weight"));
        assert_near(&self.bias, &expected.bias, tolerance, &format!("{case}.bias"));
    }
}

/// `max |a - b| <= tolerance * max |b|`
pub(crate) fn assert_near(found: &[f64], expected: &[f64], tolerance: f64, case: &str) {
    let largest = expected.iter().fold(0.0f64, |top, value| top.max(value.abs()));
    let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).max_by(f64::total_cmp).unwrap();
    assert!(
        found.len() == expected.len() && error <= tolerance * largest,
        "{case}: off by {error} of {largest}"
    );
}

/// If the two highest logits are equal up to rounding, either may win.
pub(crate) fn assert_same_predictions(logits: &Logits, expected: &[u32], case: &str) {
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
