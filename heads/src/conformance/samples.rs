//! Synthetic data sets for the conformance suite.

use headstock_split::KeyedRng;

use crate::data::{FeatureMatrix, TrainingSet};

/// A small generated data set on which the conformance suite fits a head.
#[derive(Clone, Debug)]
pub(super) struct SyntheticData {
    /// Features, `[N, F]`, row-major.
    pub(super) values: Vec<f32>,
    /// The class of each sample, `[N]`.
    pub(super) labels: Vec<u32>,
    /// Number of features, `F`.
    pub(super) width: usize,
    /// Number of classes, some of which may have no samples.
    pub(super) classes: usize,
}

impl SyntheticData {
    /// The features as a matrix `[N, F]`.
    pub(super) fn features(&self) -> FeatureMatrix<'_> {
        FeatureMatrix::from_valid_rows(&self.values, self.width)
    }

    /// The features and labels as a training set.
    pub(super) fn training_set(&self) -> TrainingSet<'_> {
        TrainingSet::new(self.features(), &self.labels, self.classes).expect("the suite's samples are valid")
    }

    /// Generates `width` random features for each label: uniform from 0 to 1 (not negative, as after a ReLU),
    /// and for a sample of class `c` feature `c` is higher by `distance`. The distance decides how much the
    /// classes overlap: above 1 they are separable.
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

    /// Generates `n` samples with labels 0, 1, .., `classes - 1`, 0, 1, ..; see
    /// [`shifted_uniform`](Self::shifted_uniform) for the features.
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

    /// The same samples with zeros appended to each row up to `width` features, to match another data set.
    pub(super) fn zero_padded(&self, width: usize) -> Self {
        let pad = |row: &[f32]| -> Vec<f32> {
            row.iter().copied().chain(std::iter::repeat(0.0)).take(width).collect()
        };
        let values = self.values.chunks_exact(self.width).flat_map(pad).collect();
        Self { values, width, labels: self.labels.clone(), classes: self.classes }
    }

    /// Ten samples of class 0 only, out of `classes`: the other classes have no samples.
    pub(super) fn one_class(classes: usize) -> Self {
        Self::shifted_uniform(vec![0; 10], 4, classes, 1.0)
    }

    /// Three classes with one sample each.
    pub(super) fn one_sample_per_class() -> Self {
        Self::cycling_classes(3, 5, 3, 1.0)
    }

    /// 40 features of only 6 samples.
    pub(super) fn more_features_than_samples() -> Self {
        Self::cycling_classes(6, 40, 3, 1.0)
    }

    /// Two of four features have the same value in all samples, 0 and 3: their standard deviation is 0, by
    /// which a head must not divide.
    pub(super) fn constant_features() -> Self {
        let mut samples = Self::cycling_classes(30, 4, 2, 2.0);
        for row in samples.values.chunks_exact_mut(4) {
            row[2..].copy_from_slice(&[0.0, 3.0]);
        }
        samples
    }

    /// Values near the largest `f32`, about 3.4e38, to test that a head does not panic when sums overflow.
    pub(super) fn huge() -> Self {
        let mut samples = Self::cycling_classes(30, 4, 2, 2.0);
        for value in &mut samples.values {
            *value *= 1e38;
        }
        samples
    }

    /// Two overlapping classes; the second is a tenth as frequent as the first.
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
