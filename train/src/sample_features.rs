//! Feature rows by sample index, from the cache or from memory.

use std::borrow::Cow;

use crate::config::Options;
use crate::error::TrainError;
use crate::features::{ExtractedFeatures, PretrainedBackbone, ViewIndex};
use crate::in_memory_features::InMemoryFeatures;
use crate::progress::Progress;
use crate::samples::SampleInputs;
use crate::trained_on::{ContentHash, hash_features};

/// The features of the samples of a data set.
pub(crate) enum SampleFeatures {
    /// Features of images, in the cache.
    Cached(ExtractedFeatures),
    /// Precomputed features in memory; they have only view 0.
    InMemory(InMemoryFeatures),
}

impl SampleFeatures {
    /// Computes the missing features: view 0 of each sample and `n_augmented[i]` augmented views of
    /// sample `i`.
    pub(crate) fn prepare(
        inputs: SampleInputs,
        pretrained: Option<&PretrainedBackbone>,
        options: &Options,
        n_augmented: &[u32],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        match (inputs, pretrained) {
            (SampleInputs::Features(table), _) => Ok(Self::InMemory(InMemoryFeatures::new(table))),
            (SampleInputs::Images(images), Some(pretrained)) => Ok(Self::Cached(ExtractedFeatures::prepare(
                pretrained,
                options,
                &images,
                n_augmented,
                progress,
            )?)),
            (SampleInputs::Images(_), None) => Err(TrainError::Usage(
                "photos need a backbone to become features, but the head was fitted on precomputed features"
                    .into(),
            )),
        }
    }

    /// Number of features, `F`.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Cached(features) => features.width(),
            Self::InMemory(in_memory) => in_memory.width(),
        }
    }

    /// Number of vectors computed by [`prepare`](Self::prepare).
    pub(crate) fn computed(&self) -> usize {
        match self {
            Self::Cached(features) => features.computed(),
            Self::InMemory(_) => 0,
        }
    }

    /// The samples of `rows` that have features; the others are unreadable images.
    pub(crate) fn readable_rows(&self, rows: Vec<usize>) -> Vec<usize> {
        match self {
            Self::Cached(features) => rows.into_iter().filter(|&row| features.is_readable(row)).collect(),
            Self::InMemory(_) => rows,
        }
    }

    /// Content hash of a sample; `None` for an image that cannot be read.
    pub(crate) fn content(&self, row: usize) -> Option<ContentHash> {
        match self {
            Self::Cached(features) => features.hashes()[row],
            Self::InMemory(in_memory) => Some(hash_features(in_memory.row(row))),
        }
    }

    /// Appends the features of `rows` in one view to `out`.
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

    /// The features of `rows` (without repetition): view 0 of all rows, then each of `n_augmented` augmented
    /// views. Features in memory are not copied.
    pub(crate) fn gather(&mut self, rows: &[usize], n_augmented: u32) -> Result<Cow<'_, [f32]>, TrainError> {
        match self {
            Self::Cached(features) => {
                let n_rows = rows.len() * (n_augmented as usize + 1);
                let mut values = Vec::with_capacity(n_rows * features.width());
                for view in 0..=n_augmented {
                    features.append(rows, view, &mut values)?;
                }
                Ok(Cow::Owned(values))
            }
            Self::InMemory(in_memory) => Ok(Cow::Borrowed(in_memory.gather_to_front(rows))),
        }
    }
}
