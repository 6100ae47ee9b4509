//! The head `lda`: linear discriminant analysis with a shrunk covariance.

use faer::Mat;
use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::affine::Affine;
use crate::auto;
use crate::check::require;
use crate::data::TrainingSet;
use crate::dense::factor::{Cholesky, Eigen};
use crate::dense::gram::Lower;
use crate::dense::means::ClassMeans;
use crate::dense::planes::spread;
use crate::dense::rows::{Centred, Rows, Standardised};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, HeadConfig, Parameter, Shape, Tensors};
use crate::vector::Vectors;

/// How far a class's covariance is drawn towards equal variances without correlation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Shrinkage {
    /// By the formula of Ledoit and Wolf (2004), *A well-conditioned estimator for large-dimensional covariance matrices*, on
    /// the class's features brought to variance 1.
    #[default]
    Auto,
    /// From 0, not at all, to 1, all the way.
    Given(f64),
}

impl Serialize for Shrinkage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let share = match *self {
            Self::Auto => None,
            Self::Given(share) => Some(share),
        };
        auto::serialize(share, serializer)
    }
}

impl<'de> Deserialize<'de> for Shrinkage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(auto::deserialize(deserializer, "a number from 0 to 1")?.map_or(Self::Auto, Self::Given))
    }
}

/// `[head]` with `kind = "lda"`.
///
/// The classes are taken as normal with one covariance `Σ` `[F, F]` and their frequencies `π_c` as priors, as in
/// scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr")`: with the means `m_c` `[F]`, the logits are
/// `x·Σ⁻¹m_c - ½ m_c·Σ⁻¹m_c + ln π_c`. A part that is the same for every class is left out, so that they stay small: `m_c` is
/// taken less the mean of all samples.
///
/// `Σ = Σ_c π_c ((1 - δ_c) S_c + δ_c T_c)`, where `S_c` is the covariance of the class's samples. With a number, `δ_c` is that
/// number and `T_c` the mean variance times the identity. With `"auto"`, `T_c` holds the variances of the features alone
/// (for one that is constant within the class, 1), and `δ_c` is Ledoit and Wolf's, times the share of the features that are
/// not constant where it meets `T_c`. scikit-learn makes each `S_c`; here one sum over all samples makes `Σ`, because
/// `δ_c` needs no more than the products of the class's samples, or of its features, whichever are fewer.
///
/// Where `Σ` is positive definite beyond rounding it is solved by Cholesky's factors, else by its pseudo-inverse, as
/// least squares do. Where no class has two samples that differ, `Σ` is taken as the identity: the nearest mean wins.
///
/// ```
/// use headstock_heads::lda::{LdaConfig, Shrinkage};
/// use headstock_heads::{Features, FitContext, HeadConfig, TrainingSet};
///
/// let features = Features::new(&[0.0, 1.0, 3.0, 4.0], 1)?;
/// let data = TrainingSet::new(features, &[0, 0, 1, 1], 2)?;
/// let config = LdaConfig { shrinkage: Shrinkage::Given(0.0) };
/// let fitted = config.fit(&data, &FitContext::quiet())?;
/// // The variance is 1/4; the means are 1.5 on either side of 2.
/// let (log_half, square) = (0.5f64.ln(), 0.5 * 1.5 * 6.0);
/// let bias = [12.0 - square + log_half, -12.0 - square + log_half];
/// assert_eq!(*fitted.head, headstock_heads::Affine::from_f64(&[-6.0, 6.0], &bias, 1)?);
/// # Ok::<(), headstock_heads::HeadError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LdaConfig {
    /// How far the covariance is shrunk.
    pub shrinkage: Shrinkage,
}

impl HeadConfig for LdaConfig {
    const KIND: &'static str = "lda";
    const ABOUT: &'static str = "linear discriminant analysis with a shrunk covariance, in closed form";
    const PARAMETERS: &'static [Parameter] = &[(
        "shrinkage",
        "how far the covariance is drawn towards none, 0 to 1; \"auto\": by Ledoit and Wolf's formula",
    )];
    type Head = Affine;

    fn check(&self) -> Result<(), HeadError> {
        match self.shrinkage {
            Shrinkage::Auto => Ok(()),
            Shrinkage::Given(share) => {
                require((0.0..=1.0).contains(&share), "shrinkage", &share, "must be from 0 to 1")
            }
        }
    }

    fn fit(&self, data: &TrainingSet<'_>, _: &FitContext<'_>) -> Result<Fitted<Affine>, HeadError> {
        let classes = ClassMeans::new(data);
        let width = classes.width;
        let samples = data.labels().len() as f64;
        let covariance = || match self.shrinkage {
            Shrinkage::Auto => ledoit_wolf(data, &classes),
            Shrinkage::Given(share) => shrunk(data, &classes, share),
        };
        let centre = classes.mean_of_means(classes.counts.iter().map(|&count| count as f64));
        let means = Mat::from_fn(width, classes.present.len(), |feature, k| {
            classes.mean(k)[feature] - centre[feature]
        });
        let first = covariance();
        let solution = if first.diagonal().enumerate().all(|(f, v)| v <= rounding(&classes, f, samples)) {
            means.clone()
        } else {
            match Cholesky::new(first) {
                Some(factor) => factor.solve(means.clone()),
                // The factor has taken its place: to keep a copy for what is rare would cost as much as the features.
                None => Eigen::new(&covariance())?.pseudo_solve(means.as_ref()),
            }
        };
        let vectors = Vectors::new();
        let weight: Vec<f64> = solution.col_iter().flat_map(|column| column.iter().copied()).collect();
        let bias =
            weight.chunks_exact(width).zip(&classes.counts).enumerate().map(|(k, (weight, &count))| {
                let middle: Vec<f64> = means.col(k).iter().zip(&centre).map(|(d, c)| 0.5 * d + c).collect();
                (count as f64 / samples).ln() - vectors.dot(weight, &middle)
            });
        let bias: Vec<f64> = bias.collect();
        Ok(Fitted::at_once(spread(&classes.present, &weight, &bias, data.classes())?))
    }

    fn load(&self, tensors: &Tensors) -> Result<Affine, HeadError> {
        Affine::load(tensors, "")
    }

    fn grid(&self) -> Vec<Self> {
        [Shrinkage::Auto, Shrinkage::Given(0.1)].map(|shrinkage| Self { shrinkage }).into()
    }

    fn memory(&self, shape: Shape) -> u64 {
        let (width, classes) = (shape.features as u64, shape.classes as u64);
        // The covariance and, where it is singular, what its decomposition takes; means and weights.
        8 * (5 * width * width + 5 * width * classes)
    }
}

/// What a feature's variance may be when it does not vary within any class: its mean is then off by rounding.
fn rounding(classes: &ClassMeans, feature: usize, samples: f64) -> f64 {
    let values = classes.means.iter().skip(feature).step_by(classes.width);
    let largest = values.fold(0.0f64, |top, mean| top.max(mean.abs()));
    (samples * f64::EPSILON * largest).powi(2)
}

/// `Σ_c π_c (1 - δ_c) S_c` for `kept` `[K]`, the `1 - δ_c`.
fn pooled(data: &TrainingSet<'_>, classes: &ClassMeans, kept: &[f64]) -> Lower {
    let samples = data.labels().len() as f64;
    let scales: Vec<f64> = kept.iter().map(|kept| (kept / samples).sqrt()).collect();
    Lower::of_columns(&Centred {
        features: data.features(),
        group: &classes.of_row,
        means: &classes.means,
        scales: &scales,
    })
}

/// The covariance with the same share of shrinkage for every class.
fn shrunk(data: &TrainingSet<'_>, classes: &ClassMeans, share: f64) -> Lower {
    // Scaling by 1 - share afterwards would lose the trace where that is 0.
    let mut covariance = pooled(data, classes, &vec![1.0; classes.present.len()]);
    let mean_variance = covariance.diagonal().sum::<f64>() / classes.width as f64;
    covariance.scale(1.0 - share);
    covariance.add_to_diagonal(std::iter::repeat(share * mean_variance));
    covariance
}

/// The covariance with Ledoit and Wolf's shrinkage of each class.
fn ledoit_wolf(data: &TrainingSet<'_>, classes: &ClassMeans) -> Lower {
    let mut rows_of = vec![Vec::new(); classes.present.len()];
    classes.of_row.iter().enumerate().for_each(|(row, &class)| rows_of[class as usize].push(row));
    let of_class: Vec<(f64, Vec<f64>)> =
        rows_of.par_iter().enumerate().map(|(k, rows)| of_class(data, rows, classes.mean(k))).collect();
    let kept: Vec<f64> = of_class.iter().map(|(share, _)| 1.0 - share).collect();
    let mut covariance = pooled(data, classes, &kept);
    for ((_, target), &count) in of_class.iter().zip(&classes.counts) {
        let prior = count as f64 / data.labels().len() as f64;
        covariance.add_to_diagonal(target.iter().map(|value| prior * value));
    }
    covariance
}

/// The shrinkage `δ` of a class and `δ T`, `[F]`, for its rows and their mean.
fn of_class(data: &TrainingSet<'_>, rows: &[usize], mean: &[f64]) -> (f64, Vec<f64>) {
    let features = data.features();
    let (width, count) = (features.width(), rows.len() as f64);
    let mut variance = vec![0.0; width];
    let mut constant = vec![true; width];
    let first = features.row(rows[0]);
    for &row in rows {
        let values = features.row(row).iter().zip(first).zip(mean);
        for ((sum, constant), ((&x, first), mean)) in variance.iter_mut().zip(&mut constant).zip(values) {
            *sum += (f64::from(x) - mean).powi(2);
            *constant &= x == *first;
        }
    }
    for (variance, constant) in variance.iter_mut().zip(&constant) {
        *variance = if *constant { 1.0 } else { *variance / count };
    }
    let varying = constant.iter().filter(|constant| !**constant).count() as f64;
    // Constant features must be 0 exactly: their mean may be off by rounding, but they are multiplied by 0.
    let inverse: Vec<f64> = variance
        .iter()
        .zip(&constant)
        .map(|(variance, constant)| if *constant { 0.0 } else { variance.sqrt().recip() })
        .collect();
    let share = share(&Standardised { features, chosen: rows, mean, inverse: &inverse }, varying);
    let mean_variance = varying / width as f64;
    variance.iter_mut().for_each(|value| *value *= share * mean_variance);
    (share, variance)
}

/// Ledoit and Wolf's share for standardised rows, of which `varying` features are not constant.
///
/// With `R` their covariance and `μ = tr(R) / F`, it is `min(b, d) / d`, where `d = |R - μI|²` and
/// `b = Σ_i |z_i z_iᵀ - R|² / N²`: here of `Σ_i |z_i|⁴` and `|R|²`, which `ZZᵀ` has as well as `ZᵀZ`.
fn share(rows: &impl Rows, varying: f64) -> f64 {
    let (count, width) = (rows.count() as f64, rows.width() as f64);
    if rows.width() == 1 {
        return 0.0;
    }
    let few = rows.count() <= rows.width();
    let product: Lower = if few { Lower::of_rows(rows) } else { Lower::of_columns(rows) };
    let covariance = product.sum_of_squares() / (count * count);
    let fourth: f64 = if few {
        product.diagonal().map(|square| square * square).sum()
    } else {
        let (vectors, mut row) = (Vectors::new(), Vec::<f64>::new());
        let of_row = |i| {
            rows.block([i], 0..rows.width(), &mut row);
            vectors.dot(&row, &row).powi(2)
        };
        (0..rows.count()).map(of_row).sum()
    };
    let distance = covariance - varying * varying / width;
    let error = (fourth / count - covariance) / count;
    if distance > 0.0 { (error / distance).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_head, check_head_with};
    use crate::data::Features;
    use crate::head::Head;

    #[test]
    fn lda_keeps_the_laws_of_heads() {
        check_head::<LdaConfig>();
    }

    #[test]
    fn lda_with_a_given_shrinkage_keeps_the_laws_of_heads() {
        for share in [0.0, 0.1, 1.0] {
            check_head_with(&LdaConfig { shrinkage: Shrinkage::Given(share) });
        }
    }

    #[test]
    fn classes_that_do_not_vary_leave_the_nearest_mean() {
        let values = [[0.1f32, 0.1], [4.3, 0.7]].repeat(7).concat();
        let labels: Vec<u32> = (0..14).map(|row| row % 2).collect();
        let data = TrainingSet::new(Features::new(&values, 2).unwrap(), &labels, 2).unwrap();
        for shrinkage in [Shrinkage::Auto, Shrinkage::Given(0.0)] {
            let head = LdaConfig { shrinkage }.fit(&data, &FitContext::quiet()).unwrap().head;
            let logits = head.logits(Features::new(&[4.3, 0.7], 2).unwrap()).unwrap();
            let difference = logits.as_slice()[1] - logits.as_slice()[0];
            assert!((difference - 0.5 * (4.2 * 4.2 + 0.6 * 0.6)).abs() < 1e-4, "{difference}");
        }
    }

    #[test]
    fn one_sample_a_class_leaves_the_nearest_mean() {
        let values = [0.0, 0.0, 4.0, 0.0, 0.0, 4.0];
        let data = TrainingSet::new(Features::new(&values, 2).unwrap(), &[0, 1, 2], 3).unwrap();
        let head = LdaConfig::default().fit(&data, &FitContext::quiet()).unwrap().head;
        let asked = Features::new(&[1.0, 1.5, 3.0, 1.0, 1.0, 2.5], 2).unwrap();
        assert_eq!(head.logits(asked).unwrap().argmax(), [0, 1, 2]);
    }
}
