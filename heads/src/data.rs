//! Features, labels and logits as seen by heads.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::HeadError;

/// Rows per parallel task in [`FeatureMatrix::logits_by_block`].
const ROWS_PER_TASK: usize = 64;

/// A borrowed feature matrix of `N` samples, `[N, F]`, row-major `f32`.
#[derive(Clone, Copy, Debug)]
pub struct FeatureMatrix<'a> {
    data: &'a [f32],
    /// Number of features per sample, `F`.
    width: usize,
}

impl<'a> FeatureMatrix<'a> {
    /// Views `data` (row-major) as a feature matrix `[N, F]` with `F = width` features in each row.
    ///
    /// # Errors
    /// [`HeadError::Data`] when `width` is 0 or does not divide the length.
    pub fn new(data: &'a [f32], width: usize) -> Result<Self, HeadError> {
        if width == 0 || !data.len().is_multiple_of(width) {
            return Err(HeadError::Data(format!(
                "{} values cannot be split into rows of {width} features: the number of values must be a \
                 multiple of the number of features",
                data.len()
            )));
        }
        Ok(Self { data, width })
    }

    /// Views `data` (row-major) as a feature matrix with `width` features in each row, as [`new`](Self::new),
    /// but for callers that know that `width` divides the length. Only debug builds check this.
    pub(crate) fn from_valid_rows(data: &'a [f32], width: usize) -> Self {
        debug_assert!(
            width > 0 && data.len().is_multiple_of(width),
            "{} values in rows of {width}",
            data.len()
        );
        Self { data, width }
    }

    /// Number of samples, `N`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len() / self.width
    }

    /// Whether there are no samples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Number of features per sample, `F`.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row `i`, `[F]`.
    #[must_use]
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.width..(i + 1) * self.width]
    }

    /// The rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &'a [f32]> + use<'a> {
        self.data.chunks_exact(self.width)
    }

    /// All values, row-major.
    #[must_use]
    pub fn as_slice(&self) -> &'a [f32] {
        self.data
    }

    /// Checks that rows have the width a head expects.
    ///
    /// # Errors
    /// [`HeadError::Width`] when they do not.
    pub fn expect_width(&self, expected: usize) -> Result<(), HeadError> {
        if self.width == expected { Ok(()) } else { Err(HeadError::Width { expected, found: self.width }) }
    }

    /// The logits `[N, classes]` of a head for rows of `width` features, computed in parallel over blocks of
    /// rows: `fill` gets a block of rows `[n, F]`, and writes their logits `[n, classes]` to its second
    /// argument.
    ///
    /// # Errors
    /// [`HeadError::Width`] when the rows have another width.
    pub(crate) fn logits_by_block(
        self,
        width: usize,
        classes: usize,
        fill: impl Fn(&[f32], &mut [f32]) + Sync,
    ) -> Result<Logits, HeadError> {
        self.expect_width(width)?;
        let mut out = vec![0.0; self.len() * classes];
        let blocks = self.data.par_chunks(ROWS_PER_TASK * width);
        out.par_chunks_mut(ROWS_PER_TASK * classes).zip(blocks).for_each(|(out, rows)| fill(rows, out));
        Logits::new(out, classes)
    }
}

/// Logits or decision values of `N` samples, `[N, C]`, row-major `f32`, owned.
#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    data: Vec<f32>,
    classes: usize,
}

impl Logits {
    /// Takes `data` (row-major) as logits `[N, C]`, with one logit for each of `C = classes` in a row.
    ///
    /// # Errors
    /// [`HeadError::Data`] when `classes` is 0 or does not divide the length.
    pub fn new(data: Vec<f32>, classes: usize) -> Result<Self, HeadError> {
        if classes == 0 || !data.len().is_multiple_of(classes) {
            return Err(HeadError::Data(format!(
                "{} values cannot be split into rows of {classes} logits, one per class: the number of \
                 values must be a multiple of the number of classes",
                data.len()
            )));
        }
        Ok(Self { data, classes })
    }

    /// Number of classes, `C`.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.classes)
    }

    /// All values, row-major.
    #[must_use]
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }

    /// The predicted class of each row, `[N]`: the one with the highest logit; ties go to the lowest class.
    #[must_use]
    pub fn argmax(&self) -> Vec<u32> {
        let highest = |row: &[f32]| {
            (0..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best }) as u32
        };
        self.rows().map(highest).collect()
    }

    /// Softmax of each row, `[N, C]`, computed in `f64`. For calibrated probabilities see
    /// [`Calibration`](crate::Calibration).
    #[must_use]
    pub fn softmax(&self) -> Vec<f32> {
        self.softmax_with_temperature(1.0)
    }

    /// The probabilities `[N, C]`, row-major: the softmax of each row of logits divided by `temperature`,
    /// which calibration chooses. The maximum of the row is subtracted first, so that no exponential
    /// overflows.
    pub(crate) fn softmax_with_temperature(&self, temperature: f64) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.data.len());
        for row in self.rows() {
            let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let exps: Vec<f64> = row.iter().map(|&v| ((f64::from(v) - max) / temperature).exp()).collect();
            let sum: f64 = exps.iter().sum();
            out.extend(exps.iter().map(|e| (e / sum) as f32));
        }
        out
    }
}

/// How much the photos of each class count in the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClassWeight {
    /// Every photo has weight 1.
    #[default]
    None,
    /// Photos of rare classes weigh more, so that every class has the same total weight: with `N` photos and
    /// `C` classes, a photo of class `c` has weight `N / (C * count(c))`, as in scikit-learn.
    Balanced,
}

/// Training data: features `[N, F]` and labels `[N]` below `classes`, all validated.
#[derive(Clone, Copy, Debug)]
pub struct TrainingSet<'a> {
    features: FeatureMatrix<'a>,
    labels: &'a [u32],
    classes: usize,
    groups: Option<&'a [u32]>,
}

impl<'a> TrainingSet<'a> {
    /// Makes a training set of features `[N, F]` and their labels `[N]`, without groups, after checks of
    /// both.
    ///
    /// # Errors
    /// [`HeadError::Data`] for no samples, no classes, a wrong number of labels, a label that is not below
    /// `classes`, or a feature that is NaN or infinite (the message names the row and column).
    pub fn new(features: FeatureMatrix<'a>, labels: &'a [u32], classes: usize) -> Result<Self, HeadError> {
        if features.is_empty() || classes == 0 {
            return Err(HeadError::Data(
                "the training set is empty: at least one photo and one class are needed".into(),
            ));
        }
        if features.len() != labels.len() {
            return Err(HeadError::Data(format!(
                "the numbers of feature rows ({}) and labels ({}) differ: each row needs one label",
                features.len(),
                labels.len()
            )));
        }
        check_label_range(labels, classes)?;
        if let Some(index) = features.as_slice().iter().position(|v| !v.is_finite()) {
            let (row, column) = (index / features.width(), index % features.width());
            return Err(HeadError::NotFinite { row, column, value: features.as_slice()[index] });
        }
        Ok(Self { features, labels, classes, groups: None })
    }

    /// Sets the group of each row, such as views of one image or images of one patient. If a fit holds out
    /// samples, it holds out whole groups. `groups[i]` is any number shared by the rows of a group.
    ///
    /// # Errors
    /// [`HeadError::Data`] when `groups` and the labels differ in length.
    pub fn with_groups(self, groups: &'a [u32]) -> Result<Self, HeadError> {
        if groups.len() != self.labels.len() {
            return Err(HeadError::Data(format!(
                "there are {} group numbers and {} labels: each row (photo) needs one group number and one \
                 label",
                groups.len(),
                self.labels.len()
            )));
        }
        Ok(Self { groups: Some(groups), ..self })
    }

    /// The features, `[N, F]`.
    #[must_use]
    pub fn features(&self) -> FeatureMatrix<'a> {
        self.features
    }

    /// The labels, `[N]`.
    #[must_use]
    pub fn labels(&self) -> &'a [u32] {
        self.labels
    }

    /// Number of classes, `C`; a class may have no samples.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The group of each row, `[N]`, if set; see [`with_groups`](Self::with_groups).
    #[must_use]
    pub fn groups(&self) -> Option<&'a [u32]> {
        self.groups
    }

    /// Number of samples of each class, `[C]`; 0 for a class without samples.
    #[must_use]
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes];
        for &label in self.labels {
            counts[label as usize] += 1;
        }
        counts
    }

    /// The classes that have samples, ascending, and the index into them of each sample's class, `[N]`.
    pub(crate) fn present_classes(&self) -> (Vec<usize>, Vec<u32>) {
        let counts = self.class_counts();
        let present: Vec<usize> = (0..self.classes).filter(|&class| counts[class] > 0).collect();
        let index = |&label: &u32| present.partition_point(|&class| class < label as usize) as u32;
        let indices = self.labels.iter().map(index).collect();
        (present, indices)
    }

    /// The weight in the loss of a sample of each class, `[C]`; 0 for a class without samples.
    #[must_use]
    pub fn class_weights(&self, class_weight: ClassWeight) -> Vec<f64> {
        class_weight.sample_weights(&self.class_counts())
    }
}

/// Checks that labels are below the number of classes.
pub(crate) fn check_label_range(labels: &[u32], classes: usize) -> Result<(), HeadError> {
    match labels.iter().enumerate().find(|&(_, &label)| label as usize >= classes) {
        Some((row, label)) => Err(HeadError::Data(format!(
            "label {label} in row {row} is out of range: labels must be below the number of classes, {classes}"
        ))),
        None => Ok(()),
    }
}

impl ClassWeight {
    /// The weight `[C]` that a sample of each class has in the loss, from the number of samples of each
    /// class, `counts` `[C]`; 0 for a class without samples. `Balanced` gives every class that has samples
    /// the same total weight.
    #[must_use]
    pub fn sample_weights(self, counts: &[usize]) -> Vec<f64> {
        let n_present = counts.iter().filter(|&&n| n > 0).count() as f64;
        let n_samples = counts.iter().sum::<usize>() as f64;
        counts
            .iter()
            .map(|&count| match self {
                _ if count == 0 => 0.0,
                Self::None => 1.0,
                Self::Balanced => n_samples / (n_present * count as f64),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(features: &[f32], width: usize, labels: &[u32], classes: usize) -> String {
        let features = FeatureMatrix::new(features, width);
        features.and_then(|features| TrainingSet::new(features, labels, classes)).unwrap_err().to_string()
    }

    #[test]
    fn invalid_training_data_is_refused_with_row_and_column() {
        let cases = [
            (
                error(&[1.0, 2.0, 3.0], 2, &[0], 1),
                "3 values cannot be split into rows of 2 features: the number of values must be a multiple \
                 of the number of features",
            ),
            (error(&[], 2, &[], 1), "the training set is empty: at least one photo and one class are needed"),
            (
                error(&[1.0], 1, &[0], 0),
                "the training set is empty: at least one photo and one class are needed",
            ),
            (
                error(&[1.0, 2.0], 1, &[0], 1),
                "the numbers of feature rows (2) and labels (1) differ: each row needs one label",
            ),
            (
                error(&[1.0, 2.0], 1, &[0, 2], 2),
                "label 2 in row 1 is out of range: labels must be below the number of classes, 2",
            ),
            (
                error(&[1.0, 2.0, 3.0, f32::NAN], 2, &[0, 1], 2),
                "feature 1 of row 1 (counted from 0) is NaN: features must be finite; leave out this row, or \
                 compute the features with a different backbone or precision",
            ),
            (
                error(&[f32::INFINITY, 2.0], 2, &[0], 1),
                "feature 0 of row 0 (counted from 0) is inf: features must be finite; leave out this row, or \
                 compute the features with a different backbone or precision",
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn groups_of_another_length_are_refused() {
        let data = TrainingSet::new(FeatureMatrix::from_valid_rows(&[1.0, 2.0], 1), &[0, 1], 2).unwrap();
        let error = data.with_groups(&[7]).unwrap_err();
        let message =
            "there are 1 group numbers and 2 labels: each row (photo) needs one group number and one label";
        assert_eq!(error.to_string(), message);
    }

    /// scikit-learn: `compute_class_weight("balanced", classes=[0, 1, 2], y=[0, 0, 0, 1])` does not know
    /// class 2.
    #[test]
    fn balanced_weights_are_scikit_learns_and_a_class_without_samples_has_none() {
        let values = [0.0; 4];
        let data = TrainingSet::new(FeatureMatrix::from_valid_rows(&values, 1), &[0, 0, 0, 1], 3).unwrap();
        assert_eq!(data.class_weights(ClassWeight::Balanced), [4.0 / (2.0 * 3.0), 4.0 / (2.0 * 1.0), 0.0]);
        assert_eq!(data.class_weights(ClassWeight::None), [1.0, 1.0, 0.0]);
    }

    #[test]
    fn the_lowest_class_wins_a_tie() {
        let logits = Logits::new(vec![1.0, 3.0, 3.0, 2.0, 2.0, 2.0], 3).unwrap();
        assert_eq!(logits.argmax(), [1, 0]);
    }

    #[test]
    fn a_softmax_of_any_logits_sums_to_one() {
        let logits =
            Logits::new(vec![1e30, 0.0, -1e30, 0.0, 0.0, 0.0, f32::MAX, f32::MAX, f32::MIN], 3).unwrap();
        let probabilities = logits.softmax();
        for row in probabilities.chunks_exact(3) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
        }
        assert_eq!(probabilities[6..], [0.5, 0.5, 0.0]);
    }
}
