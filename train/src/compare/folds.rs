//! The features of the training part, and of a fold.

use std::borrow::Cow;
use std::collections::BTreeMap;

use headstock_heads::{FeatureMatrix, HeadError, TrainingSet};
use headstock_loader::SplitIndices;

use crate::error::TrainError;
use crate::matrix::Matrix;
use crate::prepared::Prepared;

/// The features of the training part, in memory: read once.
pub(super) struct Held<'a> {
    values: Cow<'a, [f32]>,
    /// Where each sample's plain view stands among the rows, `[N]`.
    at: Vec<usize>,
    labels: Vec<u32>,
    /// What belongs together: the data's groups, or each sample alone, `[N]`.
    groups: Vec<u32>,
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
            groups: samples.groups(train).unwrap_or_else(|| (0..train.len() as u32).collect()),
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
    pub(super) fn fold(&self, split: &SplitIndices) -> Fold {
        let mut fold = Fold { width: self.width, classes: self.classes, ..Fold::default() };
        fold.values.reserve_exact(split.train.len() * self.copies * self.width);
        for view in 0..self.copies {
            self.copy(&split.train, view, &mut fold.values);
        }
        fold.tested.reserve_exact(split.test.len() * self.width);
        self.copy(&split.test, 0, &mut fold.tested);
        let of = |all: &[u32]| split.train.iter().map(|&sample| all[sample]).collect::<Vec<_>>();
        fold.labels = of(&self.labels).repeat(self.copies);
        fold.groups = by_appearance(&of(&self.groups)).repeat(self.copies);
        fold
    }

    fn copy(&self, samples: &[usize], view: usize, out: &mut Vec<f32>) {
        for &sample in samples {
            let row = self.at[sample] + view * self.at.len();
            out.extend_from_slice(&self.values[row * self.width..][..self.width]);
        }
    }
}

/// The same groups, numbered in the order in which they appear: what a fit holds out depends on the numbers, and they are to
/// depend on no sample that is not there.
pub(crate) fn by_appearance(groups: &[u32]) -> Vec<u32> {
    let mut numbers = BTreeMap::new();
    groups
        .iter()
        .map(|group| {
            let next = numbers.len() as u32;
            *numbers.entry(group).or_insert(next)
        })
        .collect()
}

/// What is fitted on in a fold, and what is tested.
#[derive(Default)]
pub(super) struct Fold {
    width: usize,
    classes: usize,
    /// As `train` lays them out: a view of all samples behind the one before.
    values: Vec<f32>,
    labels: Vec<u32>,
    /// Views of a photo are of one group.
    groups: Vec<u32>,
    /// Plain views.
    tested: Vec<f32>,
}

impl Fold {
    pub(super) fn training_set(&self) -> Result<TrainingSet<'_>, HeadError> {
        let features = FeatureMatrix::new(&self.values, self.width)?;
        TrainingSet::new(features, &self.labels, self.classes)?.with_groups(&self.groups)
    }

    pub(super) fn tested(&self) -> Result<FeatureMatrix<'_>, HeadError> {
        FeatureMatrix::new(&self.tested, self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four samples of two features in a plain view and two augmented ones: sample `s` in view `v` is `[s, v]`.
    fn held(at: Vec<usize>) -> Held<'static> {
        let row = |view: usize, place: usize| {
            let sample = at.iter().position(|&of| of == place).unwrap();
            [sample as f32, view as f32]
        };
        let values: Vec<f32> = (0..3)
            .flat_map(|view| (0..4).map(move |place| (view, place)))
            .flat_map(|(view, place)| row(view, place))
            .collect();
        Held {
            values: Cow::Owned(values),
            at,
            labels: vec![1, 0, 1, 0],
            groups: vec![8, 5, 5, 2],
            classes: 2,
            width: 2,
            copies: 3,
        }
    }

    // effect: compare --heads x features.views
    #[test]
    fn a_fold_is_fitted_on_all_views_of_its_photos_and_tested_on_plain_ones() {
        for at in [vec![0, 1, 2, 3], vec![2, 0, 3, 1]] {
            let held = held(at);
            assert_eq!((held.rows(), held.width(), held.classes()), (12, 2, 2));
            let fold = held.fold(&SplitIndices { train: vec![0, 2, 1], test: vec![3] });
            let data = fold.training_set().unwrap();
            let rows: Vec<&[f32]> = data.features().rows().collect();
            let expected: Vec<[f32; 2]> =
                (0..3).flat_map(|view| [0.0, 2.0, 1.0].map(|sample| [sample, view as f32])).collect();
            assert_eq!(rows, expected);
            assert_eq!(data.labels(), [1, 1, 0].repeat(3));
            // Samples 2 and 1 are of one group, and so are all views of each.
            assert_eq!(data.groups().unwrap(), [0, 1, 1].repeat(3));
            assert_eq!(fold.tested().unwrap().as_slice(), [3.0, 0.0]);
        }
    }

    #[test]
    fn groups_are_numbered_as_they_appear() {
        assert_eq!(by_appearance(&[7, 7, 2, 9, 2, 7]), [0, 0, 1, 2, 1, 0]);
        assert_eq!(by_appearance(&[0, 1, 2]), [0, 1, 2]);
    }
}
