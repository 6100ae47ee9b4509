//! The head `knn`: a vote of the nearest training photos.

mod bounds;
mod neighbors;
mod search;

use candle_core::{DType, Device, Layout, Storage, Tensor};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::affine::ABSENT_CLASS_LOGIT;
use crate::check::require_at_least_one;
use crate::data::{FeatureMatrix, Logits, TrainingSet};
use crate::error::HeadError;
use crate::head::{FitContext, Fitted, Head, HeadConfig, HeadShape};
use crate::metric::DistanceMetric;
use crate::tensors::{Tensors, tensor_error, typed_tensor};
pub use neighbors::nearest_neighbors;
pub use search::Neighbor;
use search::{MAX_ROWS_PER_TASK, NeighborSearch, row_norm};

/// Name of the tensor `[N, F]` with the training features.
const FEATURES: &str = "features";
/// Name of the tensor `[N]` with the training labels.
const LABELS: &str = "labels";
/// Name of the tensor `[C]` with the number of training photos per class.
const COUNTS: &str = "counts";

/// How much the vote of each neighbor counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VoteWeights {
    /// Every vote counts 1.
    #[default]
    Uniform,
    /// A vote counts 1 / distance; if any neighbors are at distance 0, only those count.
    Distance,
}

/// `[head]` with `kind = "knn"`.
///
/// Predicts as scikit-learn's `KNeighborsClassifier`: the class with the most votes among the `k` nearest
/// training photos (all of them if there are fewer). Equal distances are ordered by position in the training
/// set; equal votes go to the lowest class. Distances are exact in `f64`. With `metric = "cosine"` the
/// distance is 1 minus the cosine (0 if that is within rounding); a row of zeros has the cosine 0 to every
/// row.
///
/// The logits are the logarithms of the vote shares, after adding one vote that is split evenly among all
/// classes with samples: they are finite, and a softmax restores the shares. A non-finite row has no
/// neighbors, and its logits are NaN.
///
/// ```
/// use headstock_heads::knn::KnnConfig;
/// use headstock_heads::{FeatureMatrix, FitContext, Head, HeadConfig, TrainingSet};
///
/// let features = FeatureMatrix::new(&[0.0, 1.0, 2.5, 4.0], 1)?;
/// let data = TrainingSet::new(features, &[0, 0, 1, 1], 2)?;
/// let config = KnnConfig { k: 3, ..KnnConfig::default() };
/// let fitted = config.fit(&data, &FitContext::silent())?;
/// let logits = fitted.head.logits(FeatureMatrix::new(&[1.5], 1)?)?;
/// // Two votes of three, plus half of the added vote.
/// assert_eq!(logits.softmax(), [2.5 / 4.0, 1.5 / 4.0]);
/// # Ok::<(), headstock_heads::HeadError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KnnConfig {
    /// Number of nearest training photos that vote on the class of a photo, at least 1.
    pub k: u64,
    /// How much the vote of each of these photos counts.
    pub weights: VoteWeights,
    /// How the distance between two photos is measured.
    pub metric: DistanceMetric,
}

impl Default for KnnConfig {
    /// The hyperparameters of a `knn` head when the config does not set them: the defaults of scikit-learn.
    fn default() -> Self {
        Self { k: 5, weights: VoteWeights::Uniform, metric: DistanceMetric::Euclidean }
    }
}

impl HeadConfig for KnnConfig {
    const KIND: &'static str = "knn";
    const ABOUT: &'static str = "a vote of the most similar training photos";
    type Head = KnnHead;

    /// Checks that the number of neighbors is at least 1.
    fn check(&self) -> Result<(), HeadError> {
        require_at_least_one("k", self.k)
    }

    /// Copies the training set, among which a fitted head searches, and computes the norms of its rows, which
    /// the search needs; there is nothing to optimize.
    fn fit(&self, data: &TrainingSet<'_>, _: &FitContext<'_>) -> Result<Fitted<KnnHead>, HeadError> {
        let counts = data.class_counts().into_iter().map(|count| count as u32).collect();
        let (features, width) = (data.features(), data.features().width());
        let mut values = vec![0.0; features.as_slice().len()];
        let rows = values.par_chunks_exact_mut(width).zip(features.as_slice().par_chunks_exact(width));
        let copy_and_norm = |(copy, row): (&mut [f32], &[f32])| {
            copy.copy_from_slice(row);
            row_norm(copy)
        };
        let norms = rows.map(copy_and_norm).collect();
        let features = Tensor::from_vec(values, (features.len(), width), &Device::Cpu)?;
        let head = KnnHead::new(self, features, data.labels().to_vec(), counts, norms);
        Ok(Fitted::without_history(head))
    }

    /// Restores a fitted head from its saved training set. Checks that features, labels and counts have
    /// matching sizes, that the counts are those of the labels, and that the features are finite.
    fn load(&self, tensors: &Tensors) -> Result<KnnHead, HeadError> {
        let features = ranked_tensor(tensors, FEATURES, DType::F32, 2)?;
        let labels: Vec<u32> = ranked_tensor(tensors, LABELS, DType::U32, 1)?.to_vec1()?;
        let counts: Vec<u32> = ranked_tensor(tensors, COUNTS, DType::U32, 1)?.to_vec1()?;
        let (rows, width) = features.dims2()?;
        if rows != labels.len() {
            return Err(tensor_error(
                LABELS,
                format!("has length {}, expected {rows} (one label per row of features)", labels.len()),
            ));
        }
        let mut label_counts = vec![0; counts.len()];
        for &label in &labels {
            let count = label_counts.get_mut(label as usize);
            *count.ok_or_else(|| {
                tensor_error(
                    LABELS,
                    format!("contains label {label}, but labels must be below {}", counts.len()),
                )
            })? += 1;
        }
        if label_counts != counts {
            return Err(tensor_error(COUNTS, "does not match the number of labels of each class".into()));
        }
        let features = features.to_device(&Device::Cpu)?.contiguous()?;
        let norms: Vec<f64> = {
            let (storage, layout) = features.storage_and_layout();
            contiguous_values(&storage, layout)?.par_chunks_exact(width).map(row_norm).collect()
        };
        if norms.iter().any(|norm| !norm.is_finite()) {
            return Err(tensor_error(FEATURES, "contains a NaN or an infinite value".into()));
        }
        Ok(KnnHead::new(self, features, labels, counts, norms))
    }

    /// The configurations that the command `compare` fits to find the best: few and many
    /// neighbors, each with both kinds of votes.
    fn candidate_configs(&self) -> Vec<Self> {
        let with_k = |k| {
            [VoteWeights::Uniform, VoteWeights::Distance].map(|weights| Self { k, weights, ..self.clone() })
        };
        [with_k(5), with_k(15)].concat()
    }

    /// Estimated memory of a fit in bytes for data of this `shape`, to warn the user before it starts.
    fn memory_bytes(&self, shape: HeadShape) -> u64 {
        // Of each sample the features in `f32`, the label (4 bytes) and the norm (8 bytes).
        (4 * shape.features + 12) as u64 * shape.samples as u64
    }
}

/// Looks up the saved tensor `name`, and checks that it has this dtype and rank (number of dimensions) and is
/// not empty.
fn ranked_tensor<'a>(
    tensors: &'a Tensors,
    name: &str,
    dtype: DType,
    rank: usize,
) -> Result<&'a Tensor, HeadError> {
    let tensor = typed_tensor(tensors, name, dtype)?;
    if tensor.rank() != rank || tensor.elem_count() == 0 {
        let shape = tensor.dims();
        return Err(tensor_error(name, format!("has shape {shape:?}, expected {rank} nonzero dimensions")));
    }
    Ok(tensor)
}

/// Borrows the values of a contiguous tensor on the CPU from its storage and layout, so that the training
/// features are not copied for each search.
fn contiguous_values<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32], HeadError> {
    match (storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Ok(&storage.as_slice()?[start..end]),
        _ => Err(tensor_error(FEATURES, "is not contiguous in memory".into())),
    }
}

/// The training photos of a fitted `knn`: tensors `features` `[N, F]`, `labels` `[N]` and `counts` `[C]`.
#[derive(Clone, Debug)]
pub struct KnnHead {
    /// On the CPU, row-major; saved and loaded tensors share this memory.
    features: Tensor,
    labels: Vec<u32>,
    counts: Vec<u32>,
    /// The norm of each row, `[N]`.
    norms: Vec<f64>,
    k: usize,
    votes: VoteWeights,
    metric: DistanceMetric,
}

impl KnnHead {
    /// A head from the training features `[N, F]`, the labels `[N]`, the number of samples of each class
    /// `[C]` and the norms of the rows of features `[N]`. With fewer than `k` samples, all of them vote.
    fn new(
        config: &KnnConfig,
        features: Tensor,
        labels: Vec<u32>,
        counts: Vec<u32>,
        norms: Vec<f64>,
    ) -> Self {
        let k = usize::try_from(config.k).unwrap_or(usize::MAX).min(labels.len());
        Self { features, labels, counts, norms, k, votes: config.weights, metric: config.metric }
    }

    /// Counts the votes of the neighbors of a row (at least one), and writes the logarithms of the vote
    /// shares to `logits` `[C]`; [`KnnConfig`] explains the votes and shares.
    fn vote_logits(&self, neighbors: &[Neighbor], logits: &mut [f32]) {
        let has_exact_match =
            self.votes == VoteWeights::Distance && neighbors.iter().any(|neighbor| neighbor.distance == 0.0);
        let mut votes = vec![0.0; self.counts.len()];
        for neighbor in neighbors {
            votes[self.labels[neighbor.row] as usize] += match self.votes {
                VoteWeights::Uniform => 1.0,
                VoteWeights::Distance if has_exact_match => f64::from(neighbor.distance == 0.0),
                VoteWeights::Distance => 1.0 / neighbor.distance,
            };
        }
        let sum: f64 = votes.iter().sum();
        let n_present = self.counts.iter().filter(|count| **count > 0).count() as f64;
        let n_voters = neighbors.len() as f64;
        for ((logit, vote), &count) in logits.iter_mut().zip(votes).zip(&self.counts) {
            // Including one vote that the classes with samples share.
            let share = (vote / sum * n_voters + 1.0 / n_present) / (n_voters + 1.0);
            *logit = if count > 0 { share.ln() } else { ABSENT_CLASS_LOGIT } as f32;
        }
    }
}

impl Head for KnnHead {
    fn width(&self) -> usize {
        self.features.dims()[1]
    }

    fn classes(&self) -> usize {
        self.counts.len()
    }

    /// The logits `[N, C]` of features `[N, F]`: searches the nearest training rows of each row, in parallel
    /// over blocks of rows, and turns their votes into logits.
    fn logits(&self, features: FeatureMatrix<'_>) -> Result<Logits, HeadError> {
        let width = self.width();
        features.expect_width(width)?;
        let (storage, layout) = self.features.storage_and_layout();
        let stored = FeatureMatrix::from_valid_rows(contiguous_values(&storage, layout)?, width);
        let search = NeighborSearch { stored, norms: &self.norms, metric: self.metric, k: self.k };
        // Rows without neighbors keep NaN.
        let mut out = vec![f32::NAN; features.len() * self.classes()];
        // All threads get the same number of blocks of equal size. A row's neighbors do not depend on the
        // other rows of its block, so the size may depend on the number of threads.
        let threads = rayon::current_num_threads();
        let rounds = features.len().div_ceil(threads * MAX_ROWS_PER_TASK).max(1);
        let block = features.len().div_ceil(threads * rounds).max(1);
        let blocks = features.as_slice().par_chunks(block * width);
        out.par_chunks_mut(block * self.classes()).zip(blocks).for_each(|(out, rows)| {
            for (neighbors, logits) in search.find(rows).iter().zip(out.chunks_exact_mut(self.classes())) {
                if !neighbors.is_empty() {
                    self.vote_logits(neighbors, logits);
                }
            }
        });
        Logits::new(out, self.classes())
    }

    /// The training set: features, labels, and number of samples of each class. The norms are computed again
    /// when the head is loaded.
    fn tensors(&self) -> Result<Tensors, HeadError> {
        let labels = Tensor::from_slice(&self.labels, self.labels.len(), &Device::Cpu)?;
        let counts = Tensor::from_slice(&self.counts, self.counts.len(), &Device::Cpu)?;
        Ok(Tensors::from([
            (FEATURES.into(), self.features.clone()),
            (LABELS.into(), labels),
            (COUNTS.into(), counts),
        ]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_head, check_head_with};

    #[test]
    fn knn_passes_check_head() {
        check_head::<KnnConfig>();
    }

    #[test]
    fn knn_with_every_setting_passes_check_head() {
        for weights in [VoteWeights::Uniform, VoteWeights::Distance] {
            for metric in [DistanceMetric::Euclidean, DistanceMetric::Cosine] {
                check_head_with(&KnnConfig { k: 3, weights, metric });
            }
        }
    }

    fn fit(config: &KnnConfig) -> KnnHead {
        let data =
            TrainingSet::new(FeatureMatrix::from_valid_rows(&[0.0, 1.0, 3.0, 7.0], 1), &[0, 2, 2, 0], 3)
                .unwrap();
        *config.fit(&data, &FitContext::silent()).unwrap().head
    }

    fn shares(config: &KnnConfig, row: f32) -> Vec<f32> {
        fit(config).logits(FeatureMatrix::from_valid_rows(&[row], 1)).unwrap().softmax()
    }

    #[test]
    fn fewer_images_than_k_all_vote_and_a_class_without_samples_has_no_share() {
        assert_eq!(shares(&KnnConfig { k: 9, ..KnnConfig::default() }, 1.0), [0.5, 0.0, 0.5]);
    }

    #[test]
    fn an_exact_match_decides_alone_with_distance_weights() {
        let config = KnnConfig { k: 3, weights: VoteWeights::Distance, ..KnnConfig::default() };
        // All three votes go to class 0, plus half of the added vote.
        let shares = shares(&config, 0.0);
        assert!((shares[0] - 3.5 / 4.0).abs() < 1e-6 && shares[1] == 0.0, "{shares:?}");
    }

    #[test]
    fn a_head_shares_its_features_with_the_tensors_it_is_saved_and_loaded_as() {
        let address = |tensors: &Tensors| {
            let (storage, layout) = tensors[FEATURES].storage_and_layout();
            contiguous_values(&storage, layout).unwrap().as_ptr()
        };
        let saved = fit(&KnnConfig::default()).tensors().unwrap();
        let loaded = KnnConfig::default().load(&saved).unwrap();
        assert_eq!(address(&loaded.tensors().unwrap()), address(&saved));
    }

    #[test]
    fn non_contiguous_features_are_loaded() {
        let config = KnnConfig { k: 1, ..KnnConfig::default() };
        let values = [0.0, 1.0, 5.0, 2.0, 8.0, 4.0];
        let data = TrainingSet::new(FeatureMatrix::from_valid_rows(&values, 2), &[0, 1, 2], 3).unwrap();
        let mut tensors = config.fit(&data, &FitContext::silent()).unwrap().head.tensors().unwrap();
        let column_major = tensors[FEATURES].t().unwrap().contiguous().unwrap().t().unwrap();
        let stacked = Tensor::cat(&[&tensors[FEATURES], &tensors[FEATURES]], 0).unwrap();
        for features in [column_major, stacked.narrow(0, 3, 3).unwrap()] {
            tensors.insert(FEATURES.into(), features);
            let loaded = config.load(&tensors).unwrap();
            assert_eq!(loaded.logits(data.features()).unwrap().argmax(), [0, 1, 2]);
        }
    }

    #[test]
    fn labels_and_counts_that_do_not_agree_are_refused() {
        let config = KnnConfig::default();
        let good = fit(&config).tensors().unwrap();
        for (name, values, message) in [
            (LABELS, vec![0u32, 2, 2], "`labels` has length 3, expected 4 (one label per row of features)"),
            (LABELS, vec![0, 2, 3, 0], "`labels` contains label 3, but labels must be below 3"),
            (COUNTS, vec![2, 1, 1], "`counts` does not match the number of labels of each class"),
        ] {
            let mut tensors = good.clone();
            let count = values.len();
            tensors.insert(name.into(), Tensor::from_vec(values, count, &Device::Cpu).unwrap());
            let error = config.load(&tensors).unwrap_err().to_string();
            assert!(error.starts_with(&format!("the head's tensor {message}: ")), "{error}");
        }
    }
}
