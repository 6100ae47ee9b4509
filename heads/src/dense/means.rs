//! The mean of each class.

use crate::data::{FeatureMatrix, TrainingSet};
use crate::gemm::par_fill_columns;
use crate::vector::VectorOps;

/// The classes that have samples, and the mean of each.
#[derive(Clone, Debug)]
pub(crate) struct ClassMeans {
    /// The classes with samples, in ascending order; there are `K` of them.
    pub(crate) present: Vec<usize>,
    /// Samples of each of those, `[K]`.
    pub(crate) counts: Vec<usize>,
    /// Their means, `[K, F]`.
    pub(crate) means: Vec<f64>,
    /// For each sample, which of those classes is its own; `[N]`.
    pub(crate) class_of_row: Vec<u32>,
    /// Number of features, `F`.
    pub(crate) width: usize,
}

impl ClassMeans {
    /// One pass over the features.
    pub(crate) fn new(data: &TrainingSet<'_>) -> Self {
        Self::with_row_scales(data, None)
    }

    /// The same, of rows that are each multiplied by a number, `scales` `[N]`.
    pub(crate) fn with_row_scales(data: &TrainingSet<'_>, scales: Option<&[f64]>) -> Self {
        let counts = data.class_counts();
        let present: Vec<usize> = (0..data.classes()).filter(|&class| counts[class] > 0).collect();
        let present_index: Vec<u32> =
            (0..data.classes()).map(|class| present.partition_point(|&p| p < class) as u32).collect();
        let class_of_row: Vec<u32> =
            data.labels().iter().map(|&label| present_index[label as usize]).collect();
        let counts: Vec<usize> = present.iter().map(|&class| counts[class]).collect();
        let mut means = class_sums(data.features(), &class_of_row, present.len(), scales);
        for (mean, &count) in means.chunks_exact_mut(data.features().width()).zip(&counts) {
            mean.iter_mut().for_each(|sum| *sum /= count as f64);
        }
        Self { present, counts, means, class_of_row, width: data.features().width() }
    }

    /// The mean of class `k` of those present, `[F]`.
    pub(crate) fn mean(&self, k: usize) -> &[f64] {
        &self.means[k * self.width..(k + 1) * self.width]
    }

    /// The mean of the class means, each counting `weights` `[K]`; `[F]`.
    pub(crate) fn mean_of_means(&self, weights: impl IntoIterator<Item = f64>) -> Vec<f64> {
        let (mut mean, mut weight_sum) = (vec![0.0; self.width], 0.0);
        for (k, weight) in weights.into_iter().enumerate() {
            VectorOps::new().add_scaled(&mut mean, weight, self.mean(k));
            weight_sum += weight;
        }
        mean.iter_mut().for_each(|sum| *sum /= weight_sum);
        mean
    }
}

/// The sum of the rows of each class, `[K, F]`, in parallel over the columns; each sum in the order of the rows.
fn class_sums(
    features: FeatureMatrix<'_>,
    class_of_row: &[u32],
    classes: usize,
    scales: Option<&[f64]>,
) -> Vec<f64> {
    let vectors = VectorOps::new();
    par_fill_columns(features.width(), classes, |columns, sums| {
        for (i, (row, &class)) in features.rows().zip(class_of_row).enumerate() {
            let sums = &mut sums[class as usize * columns.len()..][..columns.len()];
            let scale = scales.map_or(1.0, |scales| scales[i]);
            vectors.add_scaled(sums, scale, &row[columns.clone()]);
        }
    })
}
