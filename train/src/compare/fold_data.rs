//! The features of the training set and of single folds.

use std::borrow::Cow;

use headstock_heads::{FeatureMatrix, HeadError, TrainingSet};
use headstock_loader::dataset::join_groups;
use headstock_split::SplitIndices;

use crate::error::TrainError;
use crate::prepared_data::PreparedData;
use crate::sample_features::SampleFeatures;

/// The features of the training set in memory, read once for all folds.
pub(super) struct TrainingFeatures<'a> {
    /// The features of all samples in all views, `[n_views * samples, width]`, row-major: first all samples
    /// in view 0, then all in view 1, and so on.
    values: Cow<'a, [f32]>,
    /// The row of each sample's unaugmented view in `values`.
    row_of_sample: Vec<usize>,
    pub(super) labels: Vec<u32>,
    /// The group of each sample, if the data has groups.
    groups: Vec<Option<u32>>,
    pub(super) classes: usize,
    pub(super) width: usize,
    /// The number of views of each image: one without augmentation, then the augmented ones.
    n_views: usize,
}

impl<'a> TrainingFeatures<'a> {
    /// Gets the features of the training set with labels and groups, to cross-validate heads on. A sample has
    /// one row of features for each view of its image: the unaugmented one and the augmented ones. Features
    /// that are already in memory are borrowed; others are read from the feature cache. Without groups in the
    /// data, each sample is its own group.
    pub(super) fn read(prepared: &'a PreparedData) -> Result<Self, TrainError> {
        let PreparedData { samples, features, train, n_augmented, .. } = prepared;
        let n_views = *n_augmented as usize + 1;
        let (values, row_of_sample) = match features {
            // Precomputed features, which have no augmented views.
            SampleFeatures::InMemory(table) => (
                Cow::Borrowed(table.values.as_slice()),
                train.iter().map(|&row| table.position(row)).collect(),
            ),
            SampleFeatures::Cached(cached) => {
                (Cow::Owned(cached.read_views(train, *n_augmented)?), (0..train.len()).collect())
            }
        };
        Ok(Self {
            values,
            row_of_sample,
            labels: samples.labels(train),
            groups: train.iter().map(|&row| samples.rows[row].group).collect(),
            classes: samples.classes.len(),
            width: features.width(),
            n_views,
        })
    }

    /// The number of rows: all samples in all views.
    pub(super) fn n_rows(&self) -> usize {
        self.row_of_sample.len() * self.n_views
    }

    /// Copies the features of a cross-validation fold, to fit all candidates on and test them. `split` has
    /// the indices of its samples. A training sample has one row for each view of its image, augmented or
    /// not, so labels and groups are repeated per view; a test sample has only the unaugmented view.
    pub(super) fn copy_fold(&self, split: &SplitIndices) -> FoldData {
        let mut fold = FoldData { width: self.width, classes: self.classes, ..FoldData::default() };
        fold.train_values.reserve_exact(split.train.len() * self.n_views * self.width);
        for view in 0..self.n_views {
            self.append_rows(&split.train, view, &mut fold.train_values);
        }
        fold.test_values.reserve_exact(split.test.len() * self.width);
        self.append_rows(&split.test, /* unaugmented */ 0, &mut fold.test_values);
        let (labels, groups): (Vec<u32>, Vec<Option<u32>>) =
            split.train.iter().map(|&sample| (self.labels[sample], self.groups[sample])).unzip();
        fold.labels = labels.repeat(self.n_views);
        // Some heads choose by the numbers of the groups which of them they hold out: they are numbered anew,
        // so that they do not depend on samples that the head is not fitted on.
        fold.groups = join_groups(&groups, &[]).repeat(self.n_views);
        fold
    }

    /// Appends the features of `samples` (indices in the training set) in one view to `out`, for the copy of
    /// a fold. View 0 is the unaugmented one, view `k` the `k`-th augmented one.
    fn append_rows(&self, samples: &[usize], view: usize, out: &mut Vec<f32>) {
        for &sample in samples {
            // All samples have their rows of view 0 first, then their rows of view 1, and so on.
            let row = self.row_of_sample[sample] + view * self.row_of_sample.len();
            out.extend_from_slice(&self.values[row * self.width..][..self.width]);
        }
    }
}

/// The training and test data of a fold.
#[derive(Default)]
pub(super) struct FoldData {
    width: usize,
    classes: usize,
    /// The features of the training samples, `[views * training samples, width]`, row-major: first all
    /// samples in view 0, then all in view 1, and so on.
    train_values: Vec<f32>,
    /// The label of each row.
    labels: Vec<u32>,
    /// The group of each row; all views of an image are in one group.
    groups: Vec<u32>,
    /// The features of the test samples in the unaugmented view, `[test samples, width]`, row-major.
    test_values: Vec<f32>,
}

impl FoldData {
    /// The rows to fit a head on, with their labels and groups.
    pub(super) fn training_set(&self) -> Result<TrainingSet<'_>, HeadError> {
        let features = FeatureMatrix::new(&self.train_values, self.width)?;
        TrainingSet::new(features, &self.labels, self.classes)?.with_groups(&self.groups)
    }

    /// The rows to predict, `[test samples, width]`.
    pub(super) fn test_features(&self) -> Result<FeatureMatrix<'_>, HeadError> {
        FeatureMatrix::new(&self.test_values, self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four samples of two features in three views: sample `s` in view `v` is `[s, v]`.
    fn features_fixture(row_of_sample: Vec<usize>) -> TrainingFeatures<'static> {
        let values_at = |view: usize, row: usize| {
            let sample = row_of_sample.iter().position(|&sample_row| sample_row == row).unwrap();
            [sample as f32, view as f32]
        };
        let values: Vec<f32> = (0..3)
            .flat_map(|view| (0..4).map(move |row| (view, row)))
            .flat_map(|(view, row)| values_at(view, row))
            .collect();
        TrainingFeatures {
            values: Cow::Owned(values),
            row_of_sample,
            labels: vec![1, 0, 1, 0],
            groups: [8, 5, 5, 2].map(Some).to_vec(),
            classes: 2,
            width: 2,
            n_views: 3,
        }
    }

    // effect: compare --heads x features.views
    #[test]
    fn a_fold_is_fitted_on_all_views_and_tested_on_unaugmented_ones() {
        for row_of_sample in [vec![0, 1, 2, 3], vec![2, 0, 3, 1]] {
            let features = features_fixture(row_of_sample);
            assert_eq!((features.n_rows(), features.width, features.classes), (12, 2, 2));
            let fold = features.copy_fold(&SplitIndices { train: vec![0, 2, 1], test: vec![3] });
            let data = fold.training_set().unwrap();
            let rows: Vec<&[f32]> = data.features().rows().collect();
            let expected: Vec<[f32; 2]> =
                (0..3).flat_map(|view| [0.0, 2.0, 1.0].map(|sample| [sample, view as f32])).collect();
            assert_eq!(rows, expected);
            assert_eq!(data.labels(), [1, 1, 0].repeat(3));
            // Samples 2 and 1 are in one group, in all views.
            assert_eq!(data.groups().unwrap(), [0, 1, 1].repeat(3));
            assert_eq!(fold.test_features().unwrap().as_slice(), [3.0, 0.0]);
        }
    }
}
