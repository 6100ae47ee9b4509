//! The head `nearest-mean`: the class with the nearest mean.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::affine::Affine;
use crate::data::{FeatureMatrix, Logits, TrainingSet};
use crate::dense::absent_classes::expand_to_all_classes;
use crate::dense::means::ClassMeans;
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, HeadShape};
use crate::metric::{DistanceMetric, inverse_or_zero};
use crate::tensors::Tensors;
use crate::vector::VectorOps;

/// `[head]` with `kind = "nearest-mean"`.
///
/// With `metric = "euclidean"` it predicts as scikit-learn's `NearestCentroid`: with the class means `m_c`
/// `[F]`, the logits are `-½ |x - m_c|²` without the term that is equal for all classes, which makes them
/// affine. With `metric = "cosine"`, rows are normalized both in the fit and in prediction, and the logits
/// are the cosines between a row and the means. A row of zeros has the cosine 0 to everything.
///
/// ```
/// use headstock_heads::nearest_mean::NearestMeanConfig;
/// use headstock_heads::{FeatureMatrix, FitContext, Head, HeadConfig, TrainingSet};
///
/// let features = FeatureMatrix::new(&[0.0, 1.0, 3.0, 4.0], 1)?;
/// let data = TrainingSet::new(features, &[0, 0, 1, 1], 2)?;
/// let fitted = NearestMeanConfig::default().fit(&data, &FitContext::silent())?;
/// let logits = fitted.head.logits(FeatureMatrix::new(&[1.5], 1)?)?;
/// // ½ (2² - 1²)
/// assert_eq!(logits.as_slice()[0] - logits.as_slice()[1], 1.5);
/// # Ok::<(), headstock_heads::HeadError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NearestMeanConfig {
    /// How the distance between a photo and the mean of a class is measured.
    pub metric: DistanceMetric,
}

impl HeadConfig for NearestMeanConfig {
    const KIND: &'static str = "nearest-mean";
    const ABOUT: &'static str = "the class whose average features are nearest";
    type Head = NearestMeanHead;

    /// Every configuration is valid: the type of `metric` allows valid values only.
    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }

    /// Computes the class means, as the weights and biases of an affine map, in closed form.
    fn fit(&self, data: &TrainingSet<'_>, _: &FitContext<'_>) -> Result<Fitted<NearestMeanHead>, HeadError> {
        let map = match self.metric {
            DistanceMetric::Euclidean => fit_euclidean(data)?,
            DistanceMetric::Cosine => fit_cosine(data)?,
        };
        Ok(Fitted::without_history(NearestMeanHead { map, metric: self.metric }))
    }

    /// Restores a fitted head from its saved tensors.
    fn load(&self, tensors: &Tensors) -> Result<NearestMeanHead, HeadError> {
        Ok(NearestMeanHead { map: Affine::load(tensors, "")?, metric: self.metric })
    }

    /// The configurations that the command `compare` fits to find the best: both metrics.
    fn candidate_configs(&self) -> Vec<Self> {
        [DistanceMetric::Euclidean, DistanceMetric::Cosine].map(|metric| Self { metric }).into()
    }

    /// Estimated memory of a fit in bytes for data of this `shape`, to warn the user before it starts.
    fn memory_bytes(&self, shape: HeadShape) -> u64 {
        // A few copies of the class means, and two values per sample, in `f64`.
        8 * (4 * shape.classes * shape.features + 2 * shape.samples) as u64
    }
}

/// Fits the affine map from features to logits for `metric = "euclidean"`. The logit of a class with mean `m`
/// is `½ (|x - g|² - |x - m|²) = (m - g)·x - ½ (m - g)·(m + g)`: relative to the mean `g` of the class means,
/// the weights are small and rounding loses little.
fn fit_euclidean(data: &TrainingSet<'_>) -> Result<Affine, HeadError> {
    let classes = ClassMeans::compute(data, None);
    let center = classes.mean_of_means(classes.present.iter().map(|_| 1.0));
    let (mut weight, mut bias) = (Vec::with_capacity(classes.means.len()), Vec::new());
    for mean in classes.means.chunks_exact(classes.width) {
        let mean_and_center = || mean.iter().zip(&center);
        weight.extend(mean_and_center().map(|(m, g)| m - g));
        bias.push(-0.5 * mean_and_center().map(|(m, g)| (m - g) * (m + g)).sum::<f64>());
    }
    expand_to_all_classes(&classes.present, &weight, &bias, data.classes())
}

/// Fits the affine map from normalized features to logits for `metric = "cosine"`: the weights are the
/// normalized class means of the normalized rows, so that the logits are the cosines of a row with the means;
/// the biases are 0.
fn fit_cosine(data: &TrainingSet<'_>) -> Result<Affine, HeadError> {
    let vectors = VectorOps::new();
    let features = data.features();
    let scale = |row: &[f32]| inverse_or_zero(vectors.dot(row, row).sqrt());
    let scales: Vec<f64> = features.as_slice().par_chunks_exact(features.width()).map(scale).collect();
    let mut classes = ClassMeans::compute(data, Some(&scales));
    for mean in classes.means.chunks_exact_mut(classes.width) {
        let scale = inverse_or_zero(vectors.dot(mean, mean).sqrt());
        mean.iter_mut().for_each(|value| *value *= scale);
    }
    expand_to_all_classes(&classes.present, &classes.means, &vec![0.0; classes.present.len()], data.classes())
}

/// Fitted class means: the tensors `weight` `[C, F]` and `bias` `[C]` of an [`Affine`] map.
#[derive(Clone, Debug, PartialEq)]
pub struct NearestMeanHead {
    map: Affine,
    metric: DistanceMetric,
}

impl Head for NearestMeanHead {
    fn width(&self) -> usize {
        self.map.width()
    }

    fn classes(&self) -> usize {
        self.map.classes()
    }

    /// Applies the affine map to the features, in parallel over blocks of rows. For `metric = "cosine"` the
    /// rows are first normalized to length 1.
    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError> {
        if self.metric == DistanceMetric::Euclidean {
            return self.map.logits(features);
        }
        let (width, vectors, packed) = (self.width(), VectorOps::new(), self.map.to_packed());
        features.logits_by_block(width, self.classes(), |rows, out| {
            let mut rows = rows.to_vec();
            for row in rows.chunks_exact_mut(width) {
                let scale = inverse_or_zero(vectors.dot(row, row).sqrt());
                row.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
            }
            packed.apply(&rows, out);
        })
    }

    /// The weights and biases of the affine map by name: what is saved of the head.
    fn tensors(&self) -> Result<Tensors, HeadError> {
        self.map.tensors()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_head, check_head_with};

    #[test]
    fn nearest_mean_passes_check_head() {
        check_head::<NearestMeanConfig>();
    }

    #[test]
    fn nearest_mean_by_angle_passes_check_head() {
        check_head_with(&NearestMeanConfig { metric: DistanceMetric::Cosine });
    }

    #[test]
    fn by_angle_row_norms_do_not_matter_and_zero_rows_have_logit_0() {
        let values = [1.0, 0.0, 30.0, 10.0, 0.0, 2.0, 0.1, 0.5];
        let data = TrainingSet::new(FeatureMatrix::new(&values, 2).unwrap(), &[0, 0, 1, 1], 2).unwrap();
        let config = NearestMeanConfig { metric: DistanceMetric::Cosine };
        let head = config.fit(&data, &FitContext::silent()).unwrap().head;
        let logits =
            head.logits(FeatureMatrix::new(&[2.0, 1.0, 2e-20, 1e-20, 0.0, 0.0], 2).unwrap()).unwrap();
        let rows: Vec<&[f32]> = logits.rows().collect();
        assert_eq!(rows[0], rows[1]);
        assert_eq!(rows[2], [0.0, 0.0]);
    }
}
