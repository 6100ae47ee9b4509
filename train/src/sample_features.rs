//! Feature rows by number, wherever they come from.

use std::borrow::Cow;

use crate::config::Options;
use crate::error::TrainError;
use crate::features::{ExtractedFeatures, PretrainedBackbone, ViewIndex};
use crate::in_memory_features::InMemoryFeatures;
use crate::progress::Progress;
use crate::samples::SampleInputs;
use crate::trained_on::{ContentHash, hash_features};

/// The features of samples.
pub(crate) enum SampleFeatures {
    /// Of photos, in the cache.
    Cached(ExtractedFeatures),
    /// Made elsewhere, in memory; there are no other views than the plain one.
    InMemory(InMemoryFeatures),
}

impl SampleFeatures {
    /// Computes what is not there yet. `views[i]` augmented views of sample `i` are wanted beside the plain one.
    pub(crate) fn prepare(
        inputs: SampleInputs,
        stock: Option<&PretrainedBackbone>,
        options: &Options,
        views: &[ViewIndex],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        match (inputs, stock) {
            (SampleInputs::Features(table), _) => Ok(Self::InMemory(InMemoryFeatures::new(table))),
            (SampleInputs::Images(photos), Some(stock)) => {
                Ok(Self::Cached(ExtractedFeatures::prepare(stock, options, &photos, views, progress)?))
            }
            (SampleInputs::Images(_), None) => Err(TrainError::Usage(
                "photos become features by a backbone, and there is none: the head was fitted on features made elsewhere".into(),
            )),
        }
    }

    /// The number of features, `F`.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Cached(features) => features.width(),
            Self::InMemory(table) => table.width(),
        }
    }

    /// How many vectors were computed now.
    pub(crate) fn computed(&self) -> usize {
        match self {
            Self::Cached(features) => features.computed(),
            Self::InMemory(_) => 0,
        }
    }

    /// The samples among `rows` that have features, the others being unreadable photos.
    pub(crate) fn readable_rows(&self, rows: Vec<usize>) -> Vec<usize> {
        match self {
            Self::Cached(features) => rows.into_iter().filter(|&row| features.is_readable(row)).collect(),
            Self::InMemory(_) => rows,
        }
    }

    /// What a sample is, by content; none for a photo that cannot be read.
    pub(crate) fn content(&self, row: usize) -> Option<ContentHash> {
        match self {
            Self::Cached(features) => features.hashes()[row],
            Self::InMemory(table) => Some(hash_features(table.row(row))),
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
            Self::InMemory(table) => {
                rows.iter().for_each(|&row| out.extend(table.row(row)));
                Ok(())
            }
        }
    }

    /// The features of `rows`, each named once, in the plain view and then in each of so many augmented ones. Nothing is copied
    /// that is in memory.
    pub(crate) fn gather(&mut self, rows: &[usize], views: ViewIndex) -> Result<Cow<'_, [f32]>, TrainError> {
        match self {
            Self::Cached(features) => {
                let mut values = Vec::with_capacity(rows.len() * (views as usize + 1) * features.width());
                for view in 0..=views {
                    features.append(rows, view, &mut values)?;
                }
                Ok(Cow::Owned(values))
            }
            Self::InMemory(table) => Ok(Cow::Borrowed(table.gather_to_front(rows))),
        }
    }
}
