//! Feature rows by sample index, from the cache or from memory.

use std::borrow::Cow;

use headstock_inference::{PretrainedBackbone, Progress};

use crate::error::{Remedy, TrainError};
use crate::features::{ExtractOptions, ExtractedFeatures, ViewIndex};
use crate::in_memory_features::InMemoryFeatures;
use crate::samples::SampleInputs;
use crate::trained_on::{ContentHash, hash_features};

/// The features of the samples of a data set, wherever they come from. A sample is named by its index in the
/// data set, a *row*.
pub(crate) enum SampleFeatures {
    /// Features of images, in the cache.
    Cached(ExtractedFeatures),
    /// Precomputed features in memory; they have only view 0.
    InMemory(InMemoryFeatures),
}

impl SampleFeatures {
    /// Makes the features of all samples available. Precomputed features are taken over as they are. Features
    /// of images are read from the cache, or computed with the `pretrained` backbone and added to it: of view
    /// 0, the evaluation view, of each image `i`, and of `n_augmented[i]` augmented views of it.
    ///
    /// # Errors
    /// [`TrainError::Usage`] for images without a backbone, and the errors of computing features.
    pub(crate) fn prepare(
        inputs: SampleInputs,
        pretrained: Option<&PretrainedBackbone>,
        options: ExtractOptions<'_>,
        n_augmented: &[u32],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        match (inputs, pretrained) {
            (SampleInputs::Features(table), _) => Ok(Self::InMemory(InMemoryFeatures::new(table))),
            (SampleInputs::Images(images), Some(pretrained)) => {
                ExtractedFeatures::prepare(pretrained, options, &images, n_augmented, progress)
                    .map(Self::Cached)
            }
            (SampleInputs::Images(_), None) => Err(TrainError::Usage(
                "the data are photos, but the head was fitted on precomputed features, and the run has no \
                 backbone to compute features from photos"
                    .into(),
            )
            .with_remedy(Remedy::NameFeatures)),
        }
    }

    /// The number of features of a sample, `F`.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Cached(features) => features.width(),
            Self::InMemory(in_memory) => in_memory.width,
        }
    }

    /// The number of feature vectors that [`prepare`](Self::prepare) computed because they were not in the
    /// cache; 0 for precomputed features. A run records it.
    pub(crate) fn computed(&self) -> usize {
        match self {
            Self::Cached(features) => features.computed(),
            Self::InMemory(_) => 0,
        }
    }

    /// The samples of `rows` that have features; the others, which are left out, are unreadable images.
    pub(crate) fn readable_rows(&self, rows: Vec<usize>) -> Vec<usize> {
        match self {
            Self::Cached(features) => rows.into_iter().filter(|&row| features.is_readable(row)).collect(),
            Self::InMemory(_) => rows,
        }
    }

    /// The content hash of a sample, by which it is recognized in other runs whatever its path; `None` for an
    /// image that cannot be read.
    pub(crate) fn content_hash(&self, row: usize) -> Option<ContentHash> {
        match self {
            Self::Cached(features) => Some(features.hashes[row]?.bytes),
            Self::InMemory(in_memory) => Some(hash_features(in_memory.row(row))),
        }
    }

    /// Appends the features of the samples `rows` (indices) in one view to `out`: `[rows.len(), F]`,
    /// row-major, as heads take them. `view` is 0 for the evaluation view, higher for augmented views;
    /// precomputed features are the same in each view.
    pub(crate) fn append(
        &self,
        rows: &[usize],
        view: ViewIndex,
        out: &mut Vec<f32>,
    ) -> Result<(), TrainError> {
        match self {
            Self::Cached(features) => features.append(rows, view, out),
            Self::InMemory(in_memory) => {
                rows.iter().for_each(|&row| out.extend(in_memory.row(row)));
                Ok(())
            }
        }
    }

    /// The features that a head is fitted on, `[(1 + n_augmented) * rows.len(), F]`: the evaluation view
    /// (view 0) of all samples `rows` (indices, which must not repeat), then the first augmented view of all,
    /// and so on. Precomputed features have only view 0 and are not copied: they are reordered in place,
    /// hence `&mut self`.
    pub(crate) fn gather(&mut self, rows: &[usize], n_augmented: u32) -> Result<Cow<'_, [f32]>, TrainError> {
        match self {
            Self::Cached(features) => Ok(Cow::Owned(features.read_views(rows, n_augmented)?)),
            Self::InMemory(in_memory) => Ok(Cow::Borrowed(in_memory.gather_to_front(rows))),
        }
    }
}
