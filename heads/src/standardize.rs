//! Standardization of features, and conversion of weights between standardized and raw features.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::data::FeatureMatrix;

/// Maps features to mean 0 and variance 1, as scikit-learn's `StandardScaler`: the variance divides by `N`,
/// and constant features are only shifted.
#[derive(Clone, Debug, PartialEq)]
struct StandardScaler {
    /// `[F]`
    mean: Vec<f64>,
    /// The standard deviation or, for a constant feature, 1; `[F]`.
    scale: Vec<f64>,
}

impl StandardScaler {
    fn new(features: FeatureMatrix<'_>) -> Self {
        let n = features.len() as f64;
        let mean = column_means(features);
        let mut scale = vec![0.0; features.width()];
        for row in features.rows() {
            for ((sum, mean), &x) in scale.iter_mut().zip(&mean).zip(row) {
                *sum += (f64::from(x) - mean).powi(2);
            }
        }
        let mut constant = vec![true; features.width()];
        for row in features.rows() {
            for ((constant, x), first) in constant.iter_mut().zip(row).zip(features.row(0)) {
                *constant &= x == first;
            }
        }
        for (scale, constant) in scale.iter_mut().zip(constant) {
            *scale = if constant { 1.0 } else { (*scale / n).sqrt() };
        }
        Self { mean, scale }
    }
}

/// The mean of each feature, `[F]`.
pub(crate) fn column_means(features: FeatureMatrix<'_>) -> Vec<f64> {
    let mut mean = vec![0.0; features.width()];
    for row in features.rows() {
        for (sum, &x) in mean.iter_mut().zip(row) {
            *sum += f64::from(x);
        }
    }
    for sum in &mut mean {
        *sum /= features.len() as f64;
    }
    mean
}

/// The features that a head is fitted on: raw or standardized.
#[derive(Debug)]
pub(crate) struct PreparedFeatures<'a> {
    data: Cow<'a, [f32]>,
    width: usize,
    scaler: Option<StandardScaler>,
}

impl<'a> PreparedFeatures<'a> {
    /// Standardizes the features if `standardize` is set.
    pub(crate) fn new(features: FeatureMatrix<'a>, standardize: bool) -> Self {
        let width = features.width();
        if !standardize {
            return Self { data: features.as_slice().into(), width, scaler: None };
        }
        let scaler = StandardScaler::new(features);
        let mut data = features.as_slice().to_vec();
        data.par_chunks_exact_mut(width).for_each(|row| {
            for ((x, mean), scale) in row.iter_mut().zip(&scaler.mean).zip(&scaler.scale) {
                *x = ((f64::from(*x) - mean) / scale) as f32;
            }
        });
        Self { data: data.into(), width, scaler: Some(scaler) }
    }

    /// The features to fit on, `[N, F]`.
    pub(crate) fn features(&self) -> FeatureMatrix<'_> {
        FeatureMatrix::from_valid_rows(&self.data, self.width)
    }

    /// Converts an affine map of the prepared features, `weight` `[C, F]` and `bias` `[C]`, in place into the
    /// same map of the raw features.
    pub(crate) fn unstandardize_weights(&self, weight: &mut [f64], bias: &mut [f64]) {
        let Some(scaler) = &self.scaler else { return };
        for (weight, bias) in weight.chunks_exact_mut(self.width).zip(bias) {
            for ((w, mean), scale) in weight.iter_mut().zip(&scaler.mean).zip(&scaler.scale) {
                *w /= scale;
                *bias -= *w * mean;
            }
        }
    }

    /// Converts an affine map of the raw features in place into the same map of the prepared features: the
    /// inverse of [`PreparedFeatures::unstandardize_weights`].
    pub(crate) fn standardize_weights(&self, weight: &mut [f64], bias: &mut [f64]) {
        let Some(scaler) = &self.scaler else { return };
        for (weight, bias) in weight.chunks_exact_mut(self.width).zip(bias) {
            for ((w, mean), scale) in weight.iter_mut().zip(&scaler.mean).zip(&scaler.scale) {
                *bias += *w * mean;
                *w *= scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three features: one small, one constant, one large.
    const ROWS: [f32; 12] = [1.0, 5.0, 1000.0, 2.0, 5.0, 3000.0, 4.0, 5.0, 2000.0, 9.0, 5.0, 6000.0];

    #[test]
    fn standardised_features_have_mean_0_and_variance_1_and_constant_ones_are_0() {
        let prepared = PreparedFeatures::new(FeatureMatrix::new(&ROWS, 3).unwrap(), true);
        for column in 0..3 {
            let values: Vec<f32> = prepared.features().rows().map(|row| row[column]).collect();
            let mean = values.iter().sum::<f32>() / 4.0;
            let variance = values.iter().map(|x| x * x).sum::<f32>() / 4.0;
            assert!(mean.abs() < 1e-6, "column {column}");
            assert!((variance - f32::from(column != 1)).abs() < 1e-6, "column {column}");
        }
    }

    #[test]
    fn an_affine_map_of_standardised_features_comes_back_as_one_of_the_raw_ones() {
        let prepared = PreparedFeatures::new(FeatureMatrix::new(&ROWS, 3).unwrap(), true);
        let (mut weight, mut bias) = ([0.5, -1.0, 2.0], [0.25]);
        let apply = |row: &[f32], weight: &[f64], bias: &[f64]| -> f64 {
            row.iter().zip(weight).map(|(&x, w)| f64::from(x) * w).sum::<f64>() + bias[0]
        };
        let expected: Vec<f64> = prepared.features().rows().map(|row| apply(row, &weight, &bias)).collect();
        let before = (weight, bias);
        prepared.unstandardize_weights(&mut weight, &mut bias);
        for (row, expected) in ROWS.chunks_exact(3).zip(expected) {
            assert!((apply(row, &weight, &bias) - expected).abs() < 1e-6);
        }
        prepared.standardize_weights(&mut weight, &mut bias);
        for (found, expected) in weight.iter().chain(&bias).zip(before.0.iter().chain(&before.1)) {
            assert!((found - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn without_standardising_nothing_changes() {
        let prepared = PreparedFeatures::new(FeatureMatrix::new(&ROWS, 3).unwrap(), false);
        assert_eq!(prepared.features().as_slice(), ROWS);
        let (mut weight, mut bias) = ([0.5, -1.0, 2.0], [0.25]);
        prepared.unstandardize_weights(&mut weight, &mut bias);
        assert_eq!((weight, bias), ([0.5, -1.0, 2.0], [0.25]));
    }
}
