//! Feature rows by number, wherever they come from.

use std::borrow::Cow;

use crate::config::Options;
use crate::error::TrainError;
use crate::features::{Features, Stock, View};
use crate::progress::Progress;
use crate::samples::Inputs;
use crate::table::Table;
use crate::trained_on::{Content, of_features};

/// The features of samples.
pub(crate) enum Matrix {
    /// Of photos, in the cache.
    Cached(Features),
    /// Made elsewhere, in memory; there are no other views than the plain one.
    Given(Table),
}

impl Matrix {
    /// Computes what is not there yet. `views[i]` augmented views of sample `i` are wanted beside the plain one.
    pub(crate) fn prepare(
        inputs: Inputs,
        stock: Option<&Stock>,
        options: &Options,
        views: &[View],
        progress: &dyn Progress,
    ) -> Result<Self, TrainError> {
        match (inputs, stock) {
            (Inputs::Features(table), _) => Ok(Self::Given(Table::new(table))),
            (Inputs::Photos(photos), Some(stock)) => {
                Ok(Self::Cached(Features::prepare(stock, options, &photos, views, progress)?))
            }
            (Inputs::Photos(_), None) => Err(TrainError::Usage(
                "photos become features by a backbone, and there is none: the head was fitted on features made elsewhere".into(),
            )),
        }
    }

    /// The number of features, `F`.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Cached(features) => features.width(),
            Self::Given(table) => table.width(),
        }
    }

    /// How many vectors were computed now.
    pub(crate) fn computed(&self) -> usize {
        match self {
            Self::Cached(features) => features.computed(),
            Self::Given(_) => 0,
        }
    }

    /// The samples among `rows` that have features, the others being unreadable photos.
    pub(crate) fn present(&self, rows: Vec<usize>) -> Vec<usize> {
        match self {
            Self::Cached(features) => rows.into_iter().filter(|&row| features.has(row)).collect(),
            Self::Given(_) => rows,
        }
    }

    /// What a sample is, by content; none for a photo that cannot be read.
    pub(crate) fn content(&self, row: usize) -> Option<Content> {
        match self {
            Self::Cached(features) => features.hashes()[row],
            Self::Given(table) => Some(of_features(table.row(row))),
        }
    }

    /// Appends the features of `rows` in one view to `out`.
    pub(crate) fn append(&self, rows: &[usize], view: View, out: &mut Vec<f32>) -> Result<(), TrainError> {
        match self {
            Self::Cached(features) => features.append(rows, view, out),
            Self::Given(table) => {
                rows.iter().for_each(|&row| out.extend(table.row(row)));
                Ok(())
            }
        }
    }

    /// The features of `rows`, each named once, in the plain view and then in each of so many augmented ones. Nothing is copied
    /// that is in memory.
    pub(crate) fn together(&mut self, rows: &[usize], views: View) -> Result<Cow<'_, [f32]>, TrainError> {
        match self {
            Self::Cached(features) => {
                let mut values = Vec::with_capacity(rows.len() * (views as usize + 1) * features.width());
                for view in 0..=views {
                    features.append(rows, view, &mut values)?;
                }
                Ok(Cow::Owned(values))
            }
            Self::Given(table) => Ok(Cow::Borrowed(table.together(rows))),
        }
    }
}
