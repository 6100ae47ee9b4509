//! Splits and folds that match scikit-learn index for index, and a hash split that is stable when data is
//! added.

mod group_k_fold;
mod group_shuffle;
mod hash;
mod k_fold;
mod shuffle;

use std::fmt;

use schemars::JsonSchema;
use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::dataset::{ClassMap, NameList, counted};

pub use group_k_fold::stratified_group_k_fold;
pub use group_shuffle::group_shuffle_split;
pub use hash::hash_split;
pub use k_fold::stratified_k_fold;
pub use shuffle::stratified_shuffle_split;

/// Size of the test set: a fraction between 0 and 1 of the photos, or a whole number of photos. If the split
/// is drawn by group, it is a fraction or a number of groups instead.
#[derive(Clone, Copy, Debug, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum TestSize {
    /// A fraction between 0 and 1 (both excluded); the number of test photos is rounded up.
    Fraction(f64),
    /// A number of photos.
    Count(usize),
}

impl fmt::Display for TestSize {
    /// Writes a fraction as `1.0` and a count as `1`, so that the two can be told apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fraction(fraction) => write!(f, "{fraction:?}"),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

impl Serialize for TestSize {
    /// Writes a fraction as a float and a count as an integer, so that they can be told apart when read.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Fraction(fraction) => serializer.serialize_f64(fraction),
            Self::Count(count) => serializer.serialize_u64(count as u64),
        }
    }
}

impl<'de> Deserialize<'de> for TestSize {
    /// Reads a test size from the config: a float as a fraction and an integer as a count. A negative integer
    /// is an error; whether a fraction is between 0 and 1 is checked when the split is made.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TestSizeVisitor;
        impl Visitor<'_> for TestSizeVisitor {
            type Value = TestSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a fraction between 0 and 1, or a whole number of photos")
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<TestSize, E> {
                Ok(TestSize::Fraction(value))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<TestSize, E> {
                let count = usize::try_from(value);
                count.map(TestSize::Count).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<TestSize, E> {
                let count = usize::try_from(value);
                count.map(TestSize::Count).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
            }
        }
        deserializer.deserialize_any(TestSizeVisitor)
    }
}

/// Sample indices of the training and the test set, in the order of scikit-learn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitIndices {
    /// Indices of the training set.
    pub train: Vec<usize>,
    /// Indices of the test set.
    pub test: Vec<usize>,
}

/// Why samples cannot be split. For splits of scikit-learn these are the cases in which it raises
/// `ValueError`.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SplitError {
    /// There are no samples.
    #[error("there are no photos to split into training and test set: add photos")]
    Empty,
    /// The test size is out of range.
    #[error(
        "a test set of {test_size} cannot be taken from {}: set `split.test_size` to a whole number below \
         {count}, or to a fraction between 0 and 1",
        unit.describe(*count)
    )]
    TestSize {
        /// The test size.
        test_size: TestSize,
        /// What is split: samples or groups.
        unit: SplitUnit,
        /// Number of samples or groups.
        count: usize,
    },
    /// Classes with a single sample, which cannot be in both training and test set.
    #[error("{}", lone_sample_message(labels.iter().map(u32::to_string).collect()))]
    LoneSample {
        /// Labels of those classes; [`SplitError::message_with_names`] shows their names.
        labels: Vec<u32>,
    },
    /// The training set would have fewer samples than there are classes.
    #[error(
        "the training set would have {} for {}: every class needs at least one photo; make `split.test_size` \
         smaller, or add photos",
        counted(*train, "photo", "photos"),
        counted(*classes, "class", "classes")
    )]
    TrainTooSmall {
        /// Number of training samples.
        train: usize,
        /// Number of classes.
        classes: usize,
    },
    /// The test set would have fewer samples than there are classes.
    #[error(
        "the test set would have {} for {}: every class needs at least one photo; make `split.test_size` \
         larger",
        counted(*test, "photo", "photos"),
        counted(*classes, "class", "classes")
    )]
    TestTooSmall {
        /// Number of test samples.
        test: usize,
        /// Number of classes.
        classes: usize,
    },
    /// Fewer than two folds.
    #[error("cross-validation needs at least 2 folds, not {n_splits}")]
    TooFewFolds {
        /// The requested number of folds.
        n_splits: usize,
    },
    /// More folds than samples, groups or samples of the largest class.
    #[error("{n_splits} folds are too many for {}: use fewer folds, or add photos", unit.describe(*count))]
    TooManyFolds {
        /// The requested number of folds.
        n_splits: usize,
        /// What there is too little of.
        unit: SplitUnit,
        /// Number of samples or groups.
        count: usize,
    },
    /// All groups would be in the test set.
    #[error(
        "with `split.test_size = {test_size}`, none of {} (photos that stay together, by `data.group`) is \
         left for training: make `split.test_size` smaller, or add photos of other groups",
        counted(*groups, "group", "groups")
    )]
    NoTrainGroups {
        /// The test size.
        test_size: TestSize,
        /// Number of groups.
        groups: usize,
    },
    /// The test size of a hash split is not a fraction.
    #[error(
        "`split.method = \"hash\"` needs a fraction between 0 and 1 as `split.test_size`, such as 0.2, not \
         {test_size}"
    )]
    NotAFraction {
        /// The test size.
        test_size: TestSize,
    },
    /// The hash split puts all samples into one set.
    #[error(
        "with `split.test_size = {fraction:?}`, the hash method puts {} into the {} set: choose a different \
         `split.seed` or `split.test_size`",
        if *samples == 1 { "the only photo".to_owned() } else { format!("all {samples} photos") },
        if *all_test { "test" } else { "training" }
    )]
    EmptySide {
        /// The test size.
        fraction: f64,
        /// Number of samples.
        samples: usize,
        /// Whether all samples are in the test set.
        all_test: bool,
    },
    /// Groups and labels have different lengths.
    #[error(
        "there are {groups} group numbers and {labels} labels: each photo needs one group number and one \
         label"
    )]
    Groups {
        /// Length of the groups.
        groups: usize,
        /// Length of the labels.
        labels: usize,
    },
}

/// What there is too little of in a [`SplitError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitUnit {
    /// Samples.
    Samples,
    /// Samples of the largest class.
    LargestClass,
    /// Groups.
    Groups,
}

impl SplitUnit {
    /// The number `count` with the name of this unit, for messages: `3 groups`.
    fn describe(self, count: usize) -> String {
        match self {
            Self::Samples => counted(count, "photo", "photos"),
            Self::LargestClass => format!("the {} of the largest class", counted(count, "photo", "photos")),
            Self::Groups => counted(count, "group", "groups"),
        }
    }
}

impl SplitError {
    /// The message for users. It has class names instead of labels, which are numbers that users do not know.
    #[must_use]
    pub fn message_with_names(&self, classes: &ClassMap) -> String {
        match self {
            Self::LoneSample { labels } => {
                lone_sample_message(labels.iter().map(|&label| classes.name(label).to_owned()).collect())
            }
            _ => self.to_string(),
        }
    }
}

/// The message of [`SplitError::LoneSample`]; `classes` are the names of the classes that have only one
/// image.
fn lone_sample_message(classes: Vec<String>) -> String {
    let (class, has) = if classes.len() == 1 { ("class", "has") } else { ("classes", "have") };
    format!(
        "{class} {} {has} only one photo: the training set and the test set each need a photo of every \
         class; add photos, or remove the {class}",
        NameList(classes)
    )
}

/// Groups the samples by label: the distinct labels in ascending order, each with the ascending indices of
/// its samples. `labels[i]` is the label, or the group, of sample `i`.
fn samples_by_label(labels: &[u32]) -> Vec<(u32, Vec<usize>)> {
    let mut classes = std::collections::BTreeMap::<u32, Vec<usize>>::new();
    for (index, &label) in labels.iter().enumerate() {
        classes.entry(label).or_default().push(index);
    }
    classes.into_iter().collect()
}

/// The sizes `(n_train, n_test)` of the training and the test set when `count` samples or groups are split. A
/// fraction is rounded as in scikit-learn: up for the test set. `unit` is for the error message.
fn split_sizes(count: usize, test_size: TestSize, unit: SplitUnit) -> Result<(usize, usize), SplitError> {
    if count == 0 {
        return Err(SplitError::Empty);
    }
    let n_test = match test_size {
        TestSize::Fraction(fraction) if fraction > 0.0 && fraction < 1.0 => {
            (fraction * count as f64).ceil() as usize
        }
        TestSize::Count(n_test) if n_test > 0 && n_test < count => n_test,
        _ => return Err(SplitError::TestSize { test_size, unit, count }),
    };
    Ok((count - n_test, n_test))
}

/// Checks whether `n_samples` samples can be split into `n_splits` folds, with or without groups, as
/// scikit-learn does. `classes` are the classes as (label, sample indices). Warns if a class has fewer
/// samples than there are folds.
///
/// # Errors
/// [`SplitError`] for fewer than two folds, no samples, fewer samples than folds, or if every class has fewer
/// samples than folds.
fn check_folds(classes: &[(u32, Vec<usize>)], n_samples: usize, n_splits: usize) -> Result<(), SplitError> {
    if n_splits < 2 {
        return Err(SplitError::TooFewFolds { n_splits });
    }
    let counts = || classes.iter().map(|(_, samples)| samples.len());
    let (Some(smallest), Some(largest)) = (counts().min(), counts().max()) else {
        return Err(SplitError::Empty);
    };
    if n_splits > n_samples {
        return Err(SplitError::TooManyFolds { n_splits, unit: SplitUnit::Samples, count: n_samples });
    }
    if n_splits > largest {
        return Err(SplitError::TooManyFolds { n_splits, unit: SplitUnit::LargestClass, count: largest });
    }
    if n_splits > smallest {
        tracing::warn!(
            "the smallest class has {}, fewer than the {n_splits} folds: in some folds no photo of that \
             class is tested; use fewer folds (`split.folds`, or compare --folds), or add photos of that \
             class",
            counted(smallest, "photo", "photos")
        );
    }
    Ok(())
}

/// The splits of a cross-validation: one per fold, which tests on that fold and trains on the others.
/// `folds[i]` is the fold, in `0..n_splits`, of sample `i`. Indices are ascending.
fn splits_from_folds(folds: &[usize], n_splits: usize) -> Vec<SplitIndices> {
    (0..n_splits)
        .map(|test_fold| {
            let (test, train) = (0..folds.len()).partition(|&sample| folds[sample] == test_fold);
            SplitIndices { train, test }
        })
        .collect()
}

#[cfg(test)]
mod tests;
