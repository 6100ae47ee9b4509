//! Synthetic data sets for the conformance suite.

use crate::data::{FeatureMatrix, TrainingSet};
use crate::random::KeyedRng;

/// Features `[N, F]` and labels `[N]`.
#[derive(Clone, Debug)]
pub(super) struct SyntheticData {
    pub(super) values: Vec<f32>,
    pub(super) labels: Vec<u32>,
    pub(super) width: usize,
    pub(super) classes: usize,
}

impl SyntheticData {
    pub(super) fn features(&self) -> FeatureMatrix<'_> {
        FeatureMatrix::from_valid_rows(&self.values, self.width)
    }

    pub(super) fn training_set(&self) -> TrainingSet<'_> {
        TrainingSet::new(self.features(), &self.labels, self.classes).expect("the suite's samples are valid")
    }

    /// Uniform values from 0 to 1 (like after a ReLU); feature `c` is higher by `distance` for samples of
    /// class `c`.
    fn shifted_uniform(labels: Vec<u32>, width: usize, classes: usize, distance: f32) -> Self {
        let mut rng = KeyedRng::new(&[labels.len() as u64, width as u64]);
        let mut values = Vec::with_capacity(labels.len() * width);
        for &label in &labels {
            for feature in 0..width {
                let shift = if feature == label as usize { distance } else { 0.0 };
                values.push(rng.uniform() as f32 + shift);
            }
        }
        Self { values, labels, width, classes }
    }

    /// `n` samples with labels 0, 1, .., `classes - 1`, 0, 1, ..
    fn cycling_classes(n: usize, width: usize, classes: usize, distance: f32) -> Self {
        Self::shifted_uniform((0..n).map(|i| (i % classes) as u32).collect(), width, classes, distance)
    }

    /// Four well separated classes.
    pub(super) fn separable() -> Self {
        Self::cycling_classes(120, 8, 4, 4.0)
    }

    /// Three overlapping, equally frequent classes.
    pub(super) fn overlapping() -> Self {
        Self::cycling_classes(90, 7, 3, 0.4)
    }

    /// The same samples with zero features appended.
    pub(super) fn zero_padded(&self, width: usize) -> Self {
        let pad = |row: &[f32]| -> Vec<f32> {
            row.iter().copied().chain(std::iter::repeat(0.0)).take(width).collect()
        };
        let values = self.values.chunks_exact(self.width).flat_map(pad).collect();
        Self { values, width, labels: self.labels.clone(), classes: self.classes }
    }

    /// Samples of the first class only, out of `classes`.
    pub(super) fn one_class(classes: usize) -> Self {
        Self::shifted_uniform(vec![0; 10], 4, classes, 1.0)
    }

    pub(super) fn one_sample_per_class() -> Self {
        Self::cycling_classes(3, 5, 3, 1.0)
    }

    pub(super) fn more_features_than_samples() -> Self {
        Self::cycling_classes(6, 40, 3, 1.0)
    }

    /// Two of four features are constant; one of them is 0.
    pub(super) fn constant_features() -> Self {
        let mut samples = Self::cycling_classes(30, 4, 2, 2.0);
        for row in samples.values.chunks_exact_mut(4) {
            row[2..].copy_from_slice(&[0.0, 3.0]);
        }
        samples
    }

    /// Values near the largest `f32`.
    pub(super) fn huge() -> Self {
        let mut samples = Self::cycling_classes(30, 4, 2, 2.0);
        for value in &mut samples.values {
            *value *= 1e38;
        }
        samples
    }

    /// Two overlapping classes; the second is a tenth as frequent.
    pub(super) fn unbalanced() -> Self {
        Self::shifted_uniform((0..220).map(|i| u32::from(i % 11 == 0)).collect(), 5, 2, 0.3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_values_are_near_the_end_of_f32_and_as_different_as_others() {
        let (huge, usual) = (SyntheticData::huge(), SyntheticData::cycling_classes(30, 4, 2, 2.0));
        let largest = huge.values.iter().copied().fold(0.0, f32::max);
        assert!(largest.is_finite() && largest > f32::MAX / 2.0, "{largest}");
        for (huge, usual) in huge.values.iter().zip(&usual.values) {
            assert!((huge / 1e38 - usual).abs() < 1e-6);
        }
    }
}
