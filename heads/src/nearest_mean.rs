//! The head `nearest-mean`: the class whose mean is nearest.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::affine::Affine;
use crate::data::{Features, Logits, TrainingSet};
use crate::dense::means::ClassMeans;
use crate::dense::planes::spread;
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, Parameter, Shape, Tensors};
use crate::metric::{Metric, inverse};
use crate::vector::Vectors;

/// Rows that a thread takes at a time.
const BLOCK: usize = 64;

/// `[head]` with `kind = "nearest-mean"`.
///
/// With `metric = "euclidean"` it predicts as scikit-learn's `NearestCentroid`: with the class means `m_c` `[F]`, the
/// logits are `-½ |x - m_c|²` but for a part that is the same for every class, which makes them affine. With
/// `metric = "cosine"`, rows are brought to length 1, before their class's mean is taken and when they are asked for; the
/// logits are the cosines between a row and the means. A row of zeros has the cosine 0 to everything.
///
/// ```
/// use headstock_heads::nearest_mean::NearestMeanConfig;
/// use headstock_heads::{Features, FitContext, Head, HeadConfig, TrainingSet};
///
/// let features = Features::new(&[0.0, 1.0, 3.0, 4.0], 1)?;
/// let data = TrainingSet::new(features, &[0, 0, 1, 1], 2)?;
/// let fitted = NearestMeanConfig::default().fit(&data, &FitContext::quiet())?;
/// let logits = fitted.head.logits(Features::new(&[1.5], 1)?)?;
/// // ½ (2² - 1²)
/// assert_eq!(logits.as_slice()[0] - logits.as_slice()[1], 1.5);
/// # Ok::<(), headstock_heads::HeadError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NearestMeanConfig {
    /// How near a photo is to a mean.
    pub metric: Metric,
}

impl HeadConfig for NearestMeanConfig {
    const KIND: &'static str = "nearest-mean";
    const ABOUT: &'static str = "the class whose mean is nearest";
    const PARAMETERS: &'static [Parameter] =
        &[("metric", "\"euclidean\": by distance, or \"cosine\": by angle")];
    type Head = NearestMean;

    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }

    fn fit(&self, data: &TrainingSet<'_>, _: &FitContext<'_>) -> Result<Fitted<NearestMean>, HeadError> {
        let map = match self.metric {
            Metric::Euclidean => euclidean(data)?,
            Metric::Cosine => cosine(data)?,
        };
        Ok(Fitted::at_once(NearestMean { map, metric: self.metric }))
    }

    fn load(&self, tensors: &Tensors) -> Result<NearestMean, HeadError> {
        Ok(NearestMean { map: Affine::load(tensors, "")?, metric: self.metric })
    }

    fn grid(&self) -> Vec<Self> {
        [Metric::Euclidean, Metric::Cosine].map(|metric| Self { metric }).into()
    }

    fn memory(&self, shape: Shape) -> u64 {
        8 * (4 * shape.classes * shape.features + 2 * shape.samples) as u64
    }
}

/// Less the mean `g` of the class means, `½ (|x - g|² - |x - m|²) = (m - g)·x - ½ (m - g)·(m + g)`.
fn euclidean(data: &TrainingSet<'_>) -> Result<Affine, HeadError> {
    let classes = ClassMeans::new(data);
    let centre = classes.mean_of_means(classes.present.iter().map(|_| 1.0));
    let (mut weight, mut bias) = (Vec::with_capacity(classes.means.len()), Vec::new());
    for mean in classes.means.chunks_exact(classes.width) {
        let pairs = || mean.iter().zip(&centre);
        weight.extend(pairs().map(|(m, g)| m - g));
        bias.push(-0.5 * pairs().map(|(m, g)| (m - g) * (m + g)).sum::<f64>());
    }
    spread(&classes.present, &weight, &bias, data.classes())
}

fn cosine(data: &TrainingSet<'_>) -> Result<Affine, HeadError> {
    let vectors = Vectors::new();
    let features = data.features();
    let scale = |row: &[f32]| inverse(vectors.dot(row, row).sqrt());
    let scales: Vec<f64> = features.as_slice().par_chunks_exact(features.width()).map(scale).collect();
    let mut classes = ClassMeans::of_scaled(data, Some(&scales));
    for mean in classes.means.chunks_exact_mut(classes.width) {
        let scale = inverse(vectors.dot(mean, mean).sqrt());
        mean.iter_mut().for_each(|value| *value *= scale);
    }
    spread(&classes.present, &classes.means, &vec![0.0; classes.present.len()], data.classes())
}

/// Fitted means: the tensors `weight` `[C, F]` and `bias` `[C]` of an [`Affine`] map.
#[derive(Clone, Debug, PartialEq)]
pub struct NearestMean {
    map: Affine,
    metric: Metric,
}

impl Head for NearestMean {
    fn width(&self) -> usize {
        self.map.width()
    }

    fn classes(&self) -> usize {
        self.map.classes()
    }

    fn logits(&self, features: Features<'_>) -> Result<Logits, HeadError> {
        if self.metric == Metric::Euclidean {
            return self.map.logits(features);
        }
        features.expect_width(self.width())?;
        let (width, vectors, packed) = (self.width(), Vectors::new(), self.map.packed());
        let mut out = vec![0.0; features.len() * self.classes()];
        let blocks = features.as_slice().par_chunks(BLOCK * width);
        out.par_chunks_mut(BLOCK * self.classes()).zip(blocks).for_each(|(out, rows)| {
            let mut rows = rows.to_vec();
            for row in rows.chunks_exact_mut(width) {
                let scale = inverse(vectors.dot(row, row).sqrt());
                row.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
            }
            packed.apply(&rows, out);
        });
        Logits::new(out, self.classes())
    }

    fn tensors(&self) -> Result<Tensors, HeadError> {
        self.map.tensors()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_head, check_head_with};

    #[test]
    fn nearest_mean_keeps_the_laws_of_heads() {
        check_head::<NearestMeanConfig>();
    }

    #[test]
    fn nearest_mean_by_angle_keeps_the_laws_of_heads() {
        check_head_with(&NearestMeanConfig { metric: Metric::Cosine });
    }

    #[test]
    fn by_angle_the_size_of_a_row_does_not_count_and_a_row_of_zeros_has_no_angle() {
        let values = [1.0, 0.0, 30.0, 10.0, 0.0, 2.0, 0.1, 0.5];
        let data = TrainingSet::new(Features::new(&values, 2).unwrap(), &[0, 0, 1, 1], 2).unwrap();
        let config = NearestMeanConfig { metric: Metric::Cosine };
        let head = config.fit(&data, &FitContext::quiet()).unwrap().head;
        let logits = head.logits(Features::new(&[2.0, 1.0, 2e-20, 1e-20, 0.0, 0.0], 2).unwrap()).unwrap();
        let rows: Vec<&[f32]> = logits.rows().collect();
        assert_eq!(rows[0], rows[1]);
        assert_eq!(rows[2], [0.0, 0.0]);
    }
}
