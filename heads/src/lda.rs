//! The head `lda`: linear discriminant analysis with a shrunk covariance.

use faer::Mat;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::affine::Affine;
use crate::auto;
use crate::check::require;
use crate::data::TrainingSet;
use crate::dense::absent_classes::expand_to_all_classes;
use crate::dense::factor::{Cholesky, EigenDecomposition};
use crate::dense::gram::{GramAxis, LowerTriangular};
use crate::dense::means::ClassMeans;
use crate::dense::rows::{CenteredRows, RowSource, StandardizedRows};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, HeadConfig, HeadShape};
use crate::tensors::Tensors;
use crate::vector::VectorOps;

/// How far the covariance of each class is shrunk towards a diagonal matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum Shrinkage {
    /// Chosen for each class by the formula of Ledoit and Wolf (2004), *A well-conditioned estimator for
    /// large-dimensional covariance matrices*, on the standardized features of the class.
    #[default]
    #[schemars(schema_with = "auto::schema")]
    Auto,
    /// A fixed shrinkage from 0 (none) to 1 (full).
    Fixed(f64),
}

impl Serialize for Shrinkage {
    /// Writes a number, or the text `"auto"`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let share = match *self {
            Self::Auto => None,
            Self::Fixed(share) => Some(share),
        };
        auto::serialize(share, serializer)
    }
}

impl<'de> Deserialize<'de> for Shrinkage {
    /// Reads a number, or the text `"auto"`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(auto::deserialize(deserializer, "a number from 0 to 1")?.map_or(Self::Auto, Self::Fixed))
    }
}

/// `[head]` with `kind = "lda"`.
///
/// Models the classes as normal distributions with one covariance `Σ` `[F, F]` and their frequencies `π_c` as
/// priors, as scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr")`: with the means `m_c` `[F]`, the
/// logits are `x·Σ⁻¹m_c - ½ m_c·Σ⁻¹m_c + ln π_c`. To keep them small, `m_c` is taken relative to the mean of
/// all samples, which drops a term that is equal for all classes.
///
/// `Σ = Σ_c π_c ((1 - δ_c) S_c + δ_c T_c)`, where `S_c` is the covariance of class `c`. With a fixed
/// shrinkage, `δ_c` is that number and `T_c` the mean variance times the identity. With `"auto"`, `T_c` is
/// the diagonal of `S_c` (1 for a feature that is constant within the class), and `δ_c` is Ledoit and Wolf's;
/// where it multiplies `T_c` it is scaled by the share of non-constant features. Unlike scikit-learn, which
/// computes each `S_c`, `Σ` is one sum over all samples; `δ_c` only needs the products of the class's samples
/// or of its features, whichever are fewer.
///
/// If `Σ` is positive definite beyond rounding, the system is solved by Cholesky, otherwise by pseudo-inverse
/// (least squares). If no class has two distinct samples, `Σ` is the identity: the nearest mean wins.
///
/// ```
/// use headstock_heads::lda::{LdaConfig, Shrinkage};
/// use headstock_heads::{FeatureMatrix, FitContext, HeadConfig, TrainingSet};
///
/// let features = FeatureMatrix::new(&[0.0, 1.0, 3.0, 4.0], 1)?;
/// let data = TrainingSet::new(features, &[0, 0, 1, 1], 2)?;
/// let config = LdaConfig { shrinkage: Shrinkage::Fixed(0.0) };
/// let fitted = config.fit(&data, &FitContext::silent())?;
/// // The variance is 1/4; the means are 1.5 on either side of 2.
/// let (log_half, square) = (0.5f64.ln(), 0.5 * 1.5 * 6.0);
/// let bias = [12.0 - square + log_half, -12.0 - square + log_half];
/// assert_eq!(*fitted.head, headstock_heads::Affine::from_f64(&[-6.0, 6.0], &bias, 1)?);
/// # Ok::<(), headstock_heads::HeadError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LdaConfig {
    /// How far the covariance of each class is shrunk towards a diagonal matrix: a number from 0 (not at all)
    /// to 1 (fully), or `"auto"`. More shrinkage helps if there are few photos per class.
    pub shrinkage: Shrinkage,
}

impl HeadConfig for LdaConfig {
    const KIND: &'static str = "lda";
    const ABOUT: &'static str = "linear discriminant analysis with a shrunk covariance, in closed form";
    type Head = Affine;

    /// Checks that a fixed shrinkage is from 0 to 1.
    fn check(&self) -> Result<(), HeadError> {
        match self.shrinkage {
            Shrinkage::Auto => Ok(()),
            Shrinkage::Fixed(share) => {
                require((0.0..=1.0).contains(&share), "shrinkage", &share, "must be between 0 and 1")
            }
        }
    }

    /// Solves `Σ W = M` for the weights `W`, with the covariance `Σ` and the class means `M`, and computes
    /// the biases in closed form; [`LdaConfig`] has the formulas.
    fn fit(&self, data: &TrainingSet<'_>, _: &FitContext<'_>) -> Result<Fitted<Affine>, HeadError> {
        let classes = ClassMeans::compute(data, None);
        let width = classes.width;
        let samples = data.labels().len() as f64;
        let compute_covariance = || match self.shrinkage {
            Shrinkage::Auto => ledoit_wolf_covariance(data, &classes),
            Shrinkage::Fixed(shrinkage) => shrunk_covariance(data, &classes, shrinkage),
        };
        let center = classes.mean_of_means(classes.counts.iter().map(|&count| count as f64));
        // Of the present classes, one per column: `m_c` relative to the mean of all samples.
        let means = Mat::from_fn(width, classes.present.len(), |feature, k| {
            classes.mean(k)[feature] - center[feature]
        });
        let covariance = compute_covariance();
        // If all variances are only rounding, `Σ` is the identity.
        let solution =
            if covariance.diagonal().enumerate().all(|(f, v)| v <= rounding_variance(&classes, f, samples)) {
                means.clone()
            } else {
                match Cholesky::factorize(covariance) {
                    Some(factor) => factor.solve(means.clone()),
                    // The factorization overwrote the matrix. Computing it again in this rare case saves a
                    // copy of the matrix.
                    None => EigenDecomposition::decompose(&compute_covariance())?
                        .pseudo_solve(0.0, means.as_ref()),
                }
            };
        let vectors = VectorOps::new();
        let weight: Vec<f64> = solution.col_iter().flat_map(|column| column.iter().copied()).collect();
        // `w·(x - c) - ½ w·d + ln π = w·x - w·(½ d + c) + ln π`, where `d` is the class mean relative to `c`,
        // the mean of all samples.
        let bias =
            weight.chunks_exact(width).zip(&classes.counts).enumerate().map(|(k, (weight, &count))| {
                let midpoint: Vec<f64> = means.col(k).iter().zip(&center).map(|(d, c)| 0.5 * d + c).collect();
                (count as f64 / samples).ln() - vectors.dot(weight, &midpoint)
            });
        let bias: Vec<f64> = bias.collect();
        Ok(Fitted::without_history(expand_to_all_classes(&classes.present, &weight, &bias, data.classes())?))
    }

    /// Restores a fitted head from its saved tensors.
    fn load(&self, tensors: &Tensors) -> Result<Affine, HeadError> {
        Affine::load(tensors, "")
    }

    /// The configurations that the command `compare` fits to find the best: the shrinkage
    /// that the data suggest, and a fixed one.
    fn candidate_configs(&self) -> Vec<Self> {
        [Shrinkage::Auto, Shrinkage::Fixed(0.1)].map(|shrinkage| Self { shrinkage }).into()
    }

    /// Estimated memory of a fit in bytes, all in `f64`, to warn the user before it starts.
    fn memory_bytes(&self, shape: HeadShape) -> u64 {
        let (width, classes) = (shape.features as u64, shape.classes as u64);
        // Covariance and, if it is singular, the workspace of its decomposition; means and weights.
        8 * (5 * width * width + 5 * width * classes)
    }
}

/// Upper bound of the variance that rounding errors give to `feature` if it is constant within every class;
/// `samples` is the number of samples. A variance up to this bound may be a rounding error and is ignored.
fn rounding_variance(classes: &ClassMeans, feature: usize, samples: f64) -> f64 {
    let values = classes.means.iter().skip(feature).step_by(classes.width);
    let largest = values.fold(0.0f64, |top, mean| top.max(mean.abs()));
    (samples * f64::EPSILON * largest).powi(2)
}

/// Computes `Σ_c π_c (1 - δ_c) S_c` `[F, F]`, the part of the covariance `Σ` of linear discriminant analysis
/// that comes from the samples ([`LdaConfig`] has the formula): the sum of the covariances `S_c` of the
/// classes with samples, weighted by their frequencies `π_c`. `retained` holds `1 - δ_c` for each of these
/// classes, the share of `S_c` that shrinkage leaves.
fn pooled_covariance(data: &TrainingSet<'_>, classes: &ClassMeans, retained: &[f64]) -> LowerTriangular {
    let samples = data.labels().len() as f64;
    // In the sum, the product of a sample with itself has the weight `share / samples`, so the row is
    // multiplied by the square root.
    let scales: Vec<f64> = retained.iter().map(|share| (share / samples).sqrt()).collect();
    let (features, group, means) = (data.features(), &classes.class_of_row, &classes.means);
    LowerTriangular::gram(&CenteredRows { features, group, means, scales: &scales }, GramAxis::Columns)
}

/// Computes the covariance `Σ` `[F, F]` of linear discriminant analysis for a fixed `shrinkage`, the same for
/// every class: `1 - shrinkage` times the covariance of the samples around their class means, plus
/// `shrinkage` times its mean variance times the identity.
fn shrunk_covariance(data: &TrainingSet<'_>, classes: &ClassMeans, shrinkage: f64) -> LowerTriangular {
    // Scaling by 1 - shrinkage first would lose the trace when that is 0.
    let mut covariance = pooled_covariance(data, classes, &vec![1.0; classes.present.len()]);
    let mean_variance = covariance.diagonal().sum::<f64>() / classes.width as f64;
    covariance.scale(1.0 - shrinkage);
    covariance.add_to_diagonal(std::iter::repeat(shrinkage * mean_variance));
    covariance
}

/// Computes the covariance `Σ = Σ_c π_c ((1 - δ_c) S_c + δ_c T_c)` `[F, F]` of linear discriminant analysis
/// for `shrinkage = "auto"`: the covariance `S_c` of each class is shrunk towards a diagonal matrix `T_c` by
/// its own share `δ_c`, from Ledoit and Wolf's formula, and weighted by the frequency `π_c` of the class.
/// [`LdaConfig`] has the details.
fn ledoit_wolf_covariance(data: &TrainingSet<'_>, classes: &ClassMeans) -> LowerTriangular {
    let mut class_rows = vec![Vec::new(); classes.present.len()];
    classes.class_of_row.iter().enumerate().for_each(|(row, &class)| class_rows[class as usize].push(row));
    // `δ_c` and the diagonal of `δ_c T_c` of each class.
    let shrinkages: Vec<(f64, Vec<f64>)> = class_rows
        .par_iter()
        .enumerate()
        .map(|(k, rows)| class_shrinkage(data, rows, classes.mean(k)))
        .collect();
    let retained: Vec<f64> = shrinkages.iter().map(|(share, _)| 1.0 - share).collect();
    let mut covariance = pooled_covariance(data, classes, &retained);
    for ((_, target), &count) in shrinkages.iter().zip(&classes.counts) {
        let prior = count as f64 / data.labels().len() as f64;
        covariance.add_to_diagonal(target.iter().map(|value| prior * value));
    }
    covariance
}

/// Computes Ledoit and Wolf's shrinkage of the covariance of one class from the indices `rows` of its samples
/// and their `mean` `[F]`. Returns `δ` and the diagonal of `δ T` `[F]` in the formula of [`LdaConfig`]: the
/// share of the covariance that is replaced by a diagonal matrix, and the variances that replace it.
fn class_shrinkage(data: &TrainingSet<'_>, rows: &[usize], mean: &[f64]) -> (f64, Vec<f64>) {
    let features = data.features();
    let (width, count) = (features.width(), rows.len() as f64);
    let mut variance = vec![0.0; width];
    let mut constant = vec![true; width];
    let first_row = features.row(rows[0]);
    for &row in rows {
        let values = features.row(row).iter().zip(first_row).zip(mean);
        for ((sum, constant), ((&x, first), mean)) in variance.iter_mut().zip(&mut constant).zip(values) {
            *sum += (f64::from(x) - mean).powi(2);
            *constant &= x == *first;
        }
    }
    // The sums become the diagonal of `T`.
    for (variance, constant) in variance.iter_mut().zip(&constant) {
        *variance = if *constant { 1.0 } else { *variance / count };
    }
    let n_varying = constant.iter().filter(|constant| !**constant).count() as f64;
    // Constant features must become exactly 0: their mean may be off by rounding, so they are multiplied by
    // 0.
    let inverse_scale: Vec<f64> = variance
        .iter()
        .zip(&constant)
        .map(|(variance, constant)| if *constant { 0.0 } else { variance.sqrt().recip() })
        .collect();
    let shrinkage = ledoit_wolf_shrinkage(
        &StandardizedRows { features, row_indices: rows, mean, inverse_scale: &inverse_scale },
        n_varying,
    );
    // Standardized features have the variance 1 if they vary, 0 if they are constant.
    let mean_variance = n_varying / width as f64;
    variance.iter_mut().for_each(|value| *value *= shrinkage * mean_variance);
    (shrinkage, variance)
}

/// Computes Ledoit and Wolf's shrinkage, from 0 to 1, of the covariance `R` `[F, F]` of a class: the weight
/// `s` with which `(1 - s) R + s μI` is closest to the true covariance, by an estimate; `μ` is the mean
/// variance. `rows` are the standardized samples `[N, F]` of the class, in which `n_varying` features are not
/// constant.
fn ledoit_wolf_shrinkage(rows: &impl RowSource, n_varying: f64) -> f64 {
    // `N` and `F`. For the rows `z_i`, the shrinkage is `min(b, d) / d`, where `d = |R - μI|²` and
    // `b = Σ_i |z_i z_iᵀ - R|² / N²`. Both follow from `Σ_i |z_i|⁴` and `|R|²`. The latter is the same for
    // `ZZᵀ` and `ZᵀZ`, where `Z` has the rows `z_i`, so the smaller of the two is computed.
    let (count, width) = (rows.n_rows() as f64, rows.width() as f64);
    // With one feature, the covariance is `μI` already.
    if rows.width() == 1 {
        return 0.0;
    }
    let fewer_rows = rows.n_rows() <= rows.width();
    let axis = if fewer_rows { GramAxis::Rows } else { GramAxis::Columns };
    let gram: LowerTriangular = LowerTriangular::gram(rows, axis);
    // `|R|²`
    let squared_norm = gram.sum_of_squares() / (count * count);
    let sum_of_fourth_powers: f64 = if fewer_rows {
        gram.diagonal().map(|square| square * square).sum()
    } else {
        let (vectors, mut row) = (VectorOps::new(), Vec::<f64>::new());
        let fourth_power = |i| {
            rows.read_block([i], 0..rows.width(), &mut row);
            vectors.dot(&row, &row).powi(2)
        };
        (0..rows.n_rows()).map(fourth_power).sum()
    };
    // `d = |R|² - tr(R)² / F` and `b`; the trace is the number of features with variance 1.
    let target_distance = squared_norm - n_varying * n_varying / width;
    let estimation_error = (sum_of_fourth_powers / count - squared_norm) / count;
    if target_distance > 0.0 { (estimation_error / target_distance).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_head, check_head_with};
    use crate::data::FeatureMatrix;
    use crate::head::Head;

    #[test]
    fn lda_passes_check_head() {
        check_head::<LdaConfig>();
    }

    #[test]
    fn lda_with_fixed_shrinkage_passes_check_head() {
        for share in [0.0, 0.1, 1.0] {
            check_head_with(&LdaConfig { shrinkage: Shrinkage::Fixed(share) });
        }
    }

    #[test]
    fn classes_without_variance_reduce_to_the_nearest_mean() {
        let values = [[0.1f32, 0.1], [4.3, 0.7]].repeat(7).concat();
        let labels: Vec<u32> = (0..14).map(|row| row % 2).collect();
        let data = TrainingSet::new(FeatureMatrix::new(&values, 2).unwrap(), &labels, 2).unwrap();
        for shrinkage in [Shrinkage::Auto, Shrinkage::Fixed(0.0)] {
            let head = LdaConfig { shrinkage }.fit(&data, &FitContext::silent()).unwrap().head;
            let logits = head.logits(FeatureMatrix::new(&[4.3, 0.7], 2).unwrap()).unwrap();
            let difference = logits.as_slice()[1] - logits.as_slice()[0];
            assert!((difference - 0.5 * (4.2 * 4.2 + 0.6 * 0.6)).abs() < 1e-4, "{difference}");
        }
    }

    #[test]
    fn one_sample_per_class_reduces_to_the_nearest_mean() {
        let values = [0.0, 0.0, 4.0, 0.0, 0.0, 4.0];
        let data = TrainingSet::new(FeatureMatrix::new(&values, 2).unwrap(), &[0, 1, 2], 3).unwrap();
        let head = LdaConfig::default().fit(&data, &FitContext::silent()).unwrap().head;
        let queries = FeatureMatrix::new(&[1.0, 1.5, 3.0, 1.0, 1.0, 2.5], 2).unwrap();
        assert_eq!(head.logits(queries).unwrap().argmax(), [0, 1, 2]);
    }
}
