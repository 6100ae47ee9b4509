//! Class means.

use crate::data::{FeatureMatrix, TrainingSet};
use crate::gemm::par_fill_columns;
use crate::vector::VectorOps;

/// The classes that have samples, and the mean feature vector of each.
#[derive(Clone, Debug)]
pub(crate) struct ClassMeans {
    /// Classes with samples, ascending; `K` of them.
    pub(crate) present: Vec<usize>,
    /// Number of samples of each present class, `[K]`.
    pub(crate) counts: Vec<usize>,
    /// Means of the present classes, `[K, F]`.
    pub(crate) means: Vec<f64>,
    /// Index into `present` of each sample's class, `[N]`.
    pub(crate) class_of_row: Vec<u32>,
    /// Number of features, `F`.
    pub(crate) width: usize,
}

impl ClassMeans {
    /// Computes the mean feature vector of each class that has samples, after row `i` of the features is
    /// multiplied by `scales[i]` (`scales` is `[N]`), if given: reciprocal norms give the means of the
    /// normalized rows, which nearest mean needs with cosine similarity.
    pub(crate) fn compute(data: &TrainingSet<'_>, scales: Option<&[f64]>) -> Self {
        let (present, class_of_row) = data.present_classes();
        let counts = data.class_counts();
        let counts: Vec<usize> = present.iter().map(|&class| counts[class]).collect();
        let mut means = class_sums(data.features(), &class_of_row, present.len(), scales);
        for (mean, &count) in means.chunks_exact_mut(data.features().width()).zip(&counts) {
            mean.iter_mut().for_each(|sum| *sum /= count as f64);
        }
        Self { present, counts, means, class_of_row, width: data.features().width() }
    }

    /// The mean of the `k`-th present class, `[F]`.
    pub(crate) fn mean(&self, k: usize) -> &[f64] {
        &self.means[k * self.width..(k + 1) * self.width]
    }

    /// The average of the means of the `K` classes that have samples, weighted by `weights` `[K]`; a vector
    /// `[F]`. Heads subtract it from the features as their common center.
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

/// The sum of the feature rows of each class, `[classes, F]`, from which class means are computed. Row `i`
/// has the class `class_of_row[i]`, below `classes`, and is multiplied by `scales[i]`, if given. In parallel
/// over columns; each sum is in row order, so its bits do not depend on the number of threads.
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
