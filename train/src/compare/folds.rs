//! The features of the training part, and of a fold.

use std::borrow::Cow;

use headstock_heads::{Features, HeadError, TrainingSet};
use headstock_loader::Split;

use crate::error::TrainError;
use crate::matrix::Matrix;
use crate::prepared::Prepared;

/// The features of the training part, in memory: read once.
pub(super) struct Held<'a> {
    values: Cow<'a, [f32]>,
    /// Where each sample's plain view stands among the rows, `[N]`.
    at: Vec<usize>,
    labels: Vec<u32>,
    classes: usize,
    width: usize,
    /// The plain view, and so many minus one augmented ones; a view of all samples lies behind the one before.
    copies: usize,
}

impl<'a> Held<'a> {
    pub(super) fn read(prepared: &'a Prepared) -> Result<Self, TrainError> {
        let Prepared { samples, matrix, train, views, .. } = prepared;
        let (values, at) = match matrix {
            Matrix::Given(table) => {
                (Cow::Borrowed(table.values()), train.iter().map(|&row| table.place(row)).collect())
            }
            Matrix::Cached(_) => {
                let mut values = Vec::with_capacity(train.len() * (*views as usize + 1) * matrix.width());
                for view in 0..=*views {
                    matrix.append(train, view, &mut values)?;
                }
                (Cow::Owned(values), (0..train.len()).collect())
            }
        };
        Ok(Self {
            values,
            at,
            labels: samples.labels(train),
            classes: samples.classes.len(),
            width: matrix.width(),
            copies: *views as usize + 1,
        })
    }

    pub(super) fn labels(&self) -> &[u32] {
        &self.labels
    }

    pub(super) fn classes(&self) -> usize {
        self.classes
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Rows of all samples in all views.
    pub(super) fn rows(&self) -> usize {
        self.at.len() * self.copies
    }

    /// Copies the rows of a fold, once for all candidates.
    pub(super) fn fold(&self, split: &Split) -> Fold {
        let mut fold = Fold { width: self.width, classes: self.classes, ..Fold::default() };
        fold.values.reserve_exact(split.train.len() * self.copies * self.width);
        for view in 0..self.copies {
            self.copy(&split.train, view, &mut fold.values);
        }
        fold.tested.reserve_exact(split.test.len() * self.width);
        self.copy(&split.test, 0, &mut fold.tested);
        let labels: Vec<u32> = split.train.iter().map(|&sample| self.labels[sample]).collect();
        fold.labels = labels.repeat(self.copies);
        fold.photos = (0..split.train.len() as u32).collect::<Vec<_>>().repeat(self.copies);
        fold
    }

    fn copy(&self, samples: &[usize], view: usize, out: &mut Vec<f32>) {
        for &sample in samples {
            let row = self.at[sample] + view * self.at.len();
            out.extend_from_slice(&self.values[row * self.width..][..self.width]);
        }
    }
}

/// What is fitted on in a fold, and what is tested.
#[derive(Default)]
pub(super) struct Fold {
    width: usize,
    classes: usize,
    /// As `train` lays them out: a view of all samples behind the one before.
    values: Vec<f32>,
    labels: Vec<u32>,
    photos: Vec<u32>,
    /// Plain views.
    tested: Vec<f32>,
}

impl Fold {
    pub(super) fn training_set(&self) -> Result<TrainingSet<'_>, HeadError> {
        let features = Features::new(&self.values, self.width)?;
        TrainingSet::new(features, &self.labels, self.classes)?.with_groups(&self.photos)
    }

    pub(super) fn tested(&self) -> Result<Features<'_>, HeadError> {
        Features::new(&self.tested, self.width)
    }
}
