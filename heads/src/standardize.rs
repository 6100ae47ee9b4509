//! Standardization of features, and conversion of weights between standardized and raw features.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::data::FeatureMatrix;

/// Maps features to mean 0 and variance 1, as scikit-learn's `StandardScaler`: the variance divides by `N`,
/// and constant features are only shifted.
#[derive(Clone, Debug, PartialEq)]
struct StandardScaler {
    /// The mean of each feature, `[F]`.
    mean: Vec<f64>,
    /// The standard deviation of each feature or, if it is constant, 1; `[F]`.
    scale: Vec<f64>,
}

impl StandardScaler {
    /// Computes the mean and the standard deviation of each feature, to standardize by. A feature that is
    /// equal in all rows is found by comparison: rounding could make its standard deviation differ from 0.
    fn fit(features: FeatureMatrix<'_>) -> Self {
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

/// The mean of each feature over all rows, `[F]`, summed in `f64`: to center the features.
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

/// The features that a head is fitted on: raw, or standardized if its key `standardize` is set. Also converts
/// weights, as a fitted head takes raw features.
#[derive(Debug)]
pub(crate) struct PreparedFeatures<'a> {
    /// `[N, F]`, row by row.
    data: Cow<'a, [f32]>,
    width: usize,
    /// How the features were standardized; `None` if they are raw.
    scaler: Option<StandardScaler>,
}

impl<'a> PreparedFeatures<'a> {
    /// Prepares the raw `features` for a fit: borrows them as they are or, if `standardize` is set, copies
    /// them and maps each feature to mean 0 and variance 1.
    pub(crate) fn new(features: FeatureMatrix<'a>, standardize: bool) -> Self {
        let width = features.width();
        if !standardize {
            return Self { data: features.as_slice().into(), width, scaler: None };
        }
        let scaler = StandardScaler::fit(features);
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

    /// Converts fitted weights `[C, F]` and biases `[C]`, which take the prepared features, in place into
    /// those that give the same logits for the raw features, as a fitted head stores them, by
    /// `w·(x - mean) / scale + b = (w / scale)·x + b - (w / scale)·mean`. Changes nothing if the features are
    /// raw.
    pub(crate) fn unstandardize_weights(&self, weight: &mut [f64], bias: &mut [f64]) {
        let Some(scaler) = &self.scaler else { return };
        for (weight, bias) in weight.chunks_exact_mut(self.width).zip(bias) {
            for ((w, mean), scale) in weight.iter_mut().zip(&scaler.mean).zip(&scaler.scale) {
                *w /= scale;
                *bias -= *w * mean;
            }
        }
    }

    /// Converts weights `[C, F]` and biases `[C]` for raw features, as a fitted head has them, in place into
    /// those that give the same logits for the prepared features, to start a fit from (warm start), by
    /// `w·x + b = (scale w)·(x - mean) / scale + b + w·mean`: the inverse of
    /// [`PreparedFeatures::unstandardize_weights`]. Changes nothing if the features are raw.
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
