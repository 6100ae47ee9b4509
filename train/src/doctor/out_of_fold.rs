//! Out-of-fold probabilities: each sample is predicted by a head that was fitted without it and its
//! duplicates.

use headstock_heads::{
    CalibrationMethod, ConfiguredHead, FeatureMatrix, FitContext, HeadError, Logits, TrainingSet,
};
use headstock_inference::Progress;
use headstock_loader::dataset::join_groups;
use headstock_split::{SplitIndices, stratified_group_k_fold};

use crate::error::TrainError;
use crate::fit::{count_groups_per_class, cross_calibrate, scatter};

/// Number of folds, if the classes have enough groups.
const MAX_FOLDS: usize = 5;

/// Class probabilities of samples by heads that were fitted without them, to find wrong labels.
#[derive(Clone, Debug, PartialEq)]
pub struct OutOfFoldProbabilities {
    /// The indices of the samples: those of classes with at least two different images.
    pub samples: Vec<usize>,
    /// The classes of these samples, by their numbers in the data set.
    pub classes: Vec<u32>,
    /// The label of each sample, as an index into `classes`.
    pub labels: Vec<u32>,
    /// The probability of each of `classes`, `[samples, classes]`, row-major. Calibrated by a temperature
    /// that is fitted on the other folds.
    pub probabilities: Vec<f32>,
}

/// The samples to predict, whose labels are checked.
pub(super) struct OutOfFoldInput<'a> {
    /// Their indices among all samples.
    pub(super) samples: &'a [usize],
    /// The features of each sample.
    pub(super) features: FeatureMatrix<'a>,
    /// The label of each sample.
    pub(super) labels: Vec<u32>,
    /// The group of each sample; duplicates and groups of the data are joined.
    pub(super) groups: Vec<u32>,
}

impl OutOfFoldInput<'_> {
    /// Predicts the class probabilities of each sample by `head` fitted without the sample's fold: a label
    /// with a low probability may be wrong. The folds are those of scikit-learn's
    /// `StratifiedGroupKFold(shuffle=True, random_state=0)`; a group is a set of samples that must stay in
    /// one fold, such as copies of an image. Samples of a class with a single group are left out. The error
    /// is a sentence that says why there can be no predictions.
    pub(super) fn predict(
        &self,
        head: &dyn ConfiguredHead,
        progress: &dyn Progress,
    ) -> Result<OutOfFoldProbabilities, String> {
        let n_classes = self.labels.iter().max().map_or(0, |&max| max as usize + 1);
        let counts = count_groups_per_class(&self.labels, &self.groups, n_classes);
        let classes: Vec<u32> =
            (0..counts.len() as u32).filter(|&class| counts[class as usize] >= 2).collect();
        // The classes that remain are renumbered from 0.
        let class_index = |label: u32| classes.binary_search(&label).ok();
        // The samples that remain, as rows of the features.
        let rows: Vec<usize> =
            (0..self.labels.len()).filter(|&row| class_index(self.labels[row]).is_some()).collect();
        if classes.len() < 2 {
            return Err(
                "this check needs at least two classes with two different photos each: add photos".into()
            );
        }
        let labels: Vec<u32> =
            rows.iter().filter_map(|&row| class_index(self.labels[row])).map(|index| index as u32).collect();
        let groups: Vec<u32> = rows.iter().map(|&row| self.groups[row]).collect();
        let max_groups = classes.iter().map(|&class| counts[class as usize]).max().unwrap_or(0);
        let mut folds =
            stratified_group_k_fold(&labels, &groups, MAX_FOLDS.min(max_groups), /* seed */ 0)
                .map_err(|e| e.to_string())?;
        folds.retain(|fold| !fold.test.is_empty());
        if folds.iter().any(|fold| fold.train.is_empty()) {
            return Err(
                "all photos belong to one group, but the check of labels needs at least two: correct the \
                 groups, or use none"
                    .into(),
            );
        }
        let fit_error =
            |error: &dyn std::fmt::Display| format!("the head `{}` cannot be fitted: {error}", head.kind());
        let logits = self
            .out_of_fold_logits(head, &rows, &labels, &folds, classes.len(), progress)
            .map_err(|e| fit_error(&e))?;
        let probabilities = cross_calibrate(CalibrationMethod::Temperature, &logits, &labels, &folds)
            .map_err(|error: TrainError| fit_error(&error))?;
        let samples = rows.iter().map(|&row| self.samples[row]).collect();
        Ok(OutOfFoldProbabilities { samples, classes, labels, probabilities })
    }

    /// The out-of-fold logits `[samples, classes]` of some samples, to find wrong labels: each is predicted
    /// by `head` fitted on the samples outside its fold. `rows` are the samples, as rows of the features, and
    /// `labels` are their labels. `folds` contains positions in `rows`: those to fit on and the held-out
    /// ones.
    fn out_of_fold_logits(
        &self,
        head: &dyn ConfiguredHead,
        rows: &[usize],
        labels: &[u32],
        folds: &[SplitIndices],
        classes: usize,
        progress: &dyn Progress,
    ) -> Result<Logits, HeadError> {
        let width = self.features.width();
        let copy_features = |positions: &[usize]| -> Vec<f32> {
            let mut values = Vec::with_capacity(positions.len() * width);
            positions.iter().for_each(|&i| values.extend_from_slice(self.features.row(rows[i])));
            values
        };
        let mut out = vec![0.0; rows.len() * classes];
        for (number, fold) in folds.iter().enumerate() {
            // 0: the number of steps is not known yet.
            progress.begin(&format!("checking labels, fold {} of {}", number + 1, folds.len()), 0, "steps");
            let context =
                FitContext { on_step: &|done, total| progress.set_position(done, total), warm_start: None };
            let fitted = {
                let values = copy_features(&fold.train);
                let labels: Vec<u32> = fold.train.iter().map(|&position| labels[position]).collect();
                let groups: Vec<Option<u32>> =
                    fold.train.iter().map(|&position| Some(self.groups[rows[position]])).collect();
                let data = TrainingSet::new(FeatureMatrix::new(&values, width)?, &labels, classes)?;
                head.fit(&data.with_groups(&join_groups(&groups, &[]))?, &context)
            };
            progress.end();
            let test_values = copy_features(&fold.test);
            let logits = fitted?.head.logits(FeatureMatrix::new(&test_values, width)?)?;
            if logits.as_slice().iter().any(|logit| !logit.is_finite()) {
                return Err(HeadError::Diverged("the logits are not finite".into()));
            }
            scatter(logits.rows(), fold, &mut out);
        }
        Logits::new(out, classes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::{Table, Value};

    use super::super::label_issues;
    use super::*;
    use crate::tests::recording_head::{registry_with_recording, take_fit_records};

    fn head(kind: &str, key: &str, value: impl Into<Value>) -> Box<dyn ConfiguredHead> {
        let table = Table::from_iter([(key.to_owned(), value.into())]);
        registry_with_recording().get(kind).unwrap().configure(table).unwrap()
    }

    /// Forty samples of four classes in groups of two: class 2 is one group, class 3 two groups.
    fn input_fixture<'a>(samples: &'a [usize], values: &'a [f32]) -> OutOfFoldInput<'a> {
        let label = |row: usize| {
            if row < 2 {
                2
            } else if row < 6 {
                3
            } else {
                u32::from(row % 4 > 1)
            }
        };
        OutOfFoldInput {
            samples,
            features: FeatureMatrix::new(values, 2).unwrap(),
            labels: (0..40).map(label).collect(),
            groups: (0..40).map(|row| 50 - row / 2).collect(),
        }
    }

    #[test]
    fn samples_are_scored_by_heads_fitted_without_them_and_their_copies() {
        let tag = "doctor";
        let samples: Vec<usize> = (0..40).map(|row| 100 + row).collect();
        let values: Vec<f32> = (0..40).flat_map(|row| [row as f32, 1.0]).collect();
        let input = input_fixture(&samples, &values);
        let found = input.predict(head("recording", "tag", tag).as_ref(), &()).unwrap();

        // Class 2 has one group, so that no head could learn it out of fold.
        assert_eq!(found.classes, [0, 1, 3]);
        assert_eq!(found.samples, (102..140).collect::<Vec<_>>());
        let labels: Vec<u32> = (2..40).map(|row| [0, 1, 9, 2][input.labels[row] as usize]).collect();
        assert_eq!(found.labels, labels);

        let fits = take_fit_records(tag);
        assert_eq!(fits.len(), 5);
        let mut scored = Vec::new();
        for fit in &fits {
            let tested = fit.all_queried();
            let group = |row: &u32| row / 2;
            let tested_groups: BTreeSet<u32> = tested.iter().map(group).collect();
            assert!(fit.rows.iter().all(|row| !tested_groups.contains(&group(row))), "{fit:?}");
            assert_eq!(fit.rows.len() + tested.len(), 38);
            let labels: Vec<u32> = fit.rows.iter().map(|&row| found.labels[row as usize - 2]).collect();
            assert_eq!(fit.labels, labels);
            // The fit receives the groups.
            let pairs: BTreeSet<(u32, u32)> =
                fit.rows.iter().map(group).zip(fit.groups.clone().unwrap()).collect();
            let numbers: BTreeSet<u32> = pairs.iter().map(|pair| pair.1).collect();
            assert_eq!((pairs.len(), numbers.len()), (fit.rows.len() / 2, fit.rows.len() / 2));
            scored.extend(tested);
        }
        scored.sort_unstable();
        assert_eq!(scored, (2..40).collect::<Vec<_>>(), "each is predicted once");
        // The head only learns frequencies, so that the rare class is the least probable.
        for row in found.probabilities.chunks_exact(3) {
            assert!(row[2] < row[0] && row[2] < row[1], "{row:?}");
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }

    /// Two clusters; sample 4 and its duplicate, sample 5, have the label of the other cluster.
    #[test]
    fn a_copy_of_a_mislabeled_image_does_not_confirm_its_label() {
        let values: Vec<f32> = (0..24)
            .flat_map(|row| {
                let cloud = (row % 2 * 20) as f32;
                // At the edge of its cluster, where it is no other sample's nearest neighbor.
                let mislabeled = [3.0, 0.0];
                if row == 4 || row == 5 {
                    mislabeled
                } else {
                    [cloud + (row as f32).sin(), cloud + (row as f32).cos()]
                }
            })
            .collect();
        let samples: Vec<usize> = (0..24).collect();
        let labels: Vec<u32> = (0..24).map(|row| if row == 4 { 1 } else { row % 2 }).collect();
        let suspicious = |groups: Vec<u32>| {
            let features = FeatureMatrix::new(&values, 2).unwrap();
            let input = OutOfFoldInput { samples: &samples, features, labels: labels.clone(), groups };
            let found = input.predict(head("knn", "k", 1).as_ref(), &()).unwrap();
            let mut issues = label_issues(&found.labels, &found.probabilities, 2).ranked;
            issues.sort_unstable();
            issues
        };
        assert_eq!(suspicious((0..24).map(|row| if row == 5 { 4 } else { row }).collect()), [4, 5]);
        // Without the group, each duplicate confirms the label of the other.
        assert!(suspicious((0..24).collect()).is_empty());
    }

    #[test]
    fn data_that_cannot_be_scored_is_reported() {
        let samples = [0, 1, 2, 3];
        let values = [0.0; 4];
        let predict = |labels: &[u32], groups: &[u32]| {
            let features = FeatureMatrix::new(&values, 1).unwrap();
            let input = OutOfFoldInput {
                samples: &samples,
                features,
                labels: labels.to_vec(),
                groups: groups.to_vec(),
            };
            input.predict(head("knn", "k", 1).as_ref(), &()).unwrap_err()
        };
        let message = "this check needs at least two classes with two different photos each: add photos";
        assert_eq!(predict(&[0, 0, 1, 1], &[0, 1, 2, 2]), message);
        assert_eq!(predict(&[0, 0, 0, 0], &[0, 1, 2, 3]), message);
    }
}
