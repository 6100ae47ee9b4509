//! Splits and folds, index for index those of scikit-learn, and a split by hashes that grows with the data.

mod group_k_fold;
mod group_shuffle;
mod hash;
mod k_fold;
mod shuffle;

use std::fmt;

use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::dataset::{ClassMap, NameList};

pub use group_k_fold::stratified_group_k_fold;
pub use group_shuffle::group_shuffle_split;
pub use hash::hash_split;
pub use k_fold::stratified_k_fold;
pub use shuffle::stratified_shuffle_split;

/// How large the test part is: a fraction of the samples, or a count; of the groups in [`group_shuffle_split`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TestSize {
    /// Rounded up to whole samples; `0 < fraction < 1`.
    Fraction(f64),
    /// That many samples.
    Count(usize),
}

impl fmt::Display for TestSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fraction(fraction) => write!(f, "{fraction:?}"),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

impl Serialize for TestSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Fraction(fraction) => serializer.serialize_f64(fraction),
            Self::Count(count) => serializer.serialize_u64(count as u64),
        }
    }
}

impl<'de> Deserialize<'de> for TestSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TestSizeVisitor;
        impl Visitor<'_> for TestSizeVisitor {
            type Value = TestSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a fraction between 0 and 1, or a whole number of samples")
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

/// Indices of the samples of each part, in the order in which scikit-learn gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitIndices {
    /// Indices to train on.
    pub train: Vec<usize>,
    /// Indices to test on.
    pub test: Vec<usize>,
}

/// Why samples cannot be split; where scikit-learn knows the split, the same cases in which it raises `ValueError`.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SplitError {
    /// There are no samples.
    #[error("there are no samples to split")]
    Empty,
    /// The size of the test part is out of range.
    #[error(
        "a test part of {test_size} cannot be taken from {}: give a count below {count}, or a fraction between 0 and 1", of.counted(*count)
    )]
    TestSize {
        /// As given.
        test_size: TestSize,
        /// What it is taken from: samples or groups.
        of: SplitUnit,
        /// How many there are.
        count: usize,
    },
    /// Classes with one sample: it cannot be both trained on and tested on.
    #[error("{}", lone_sample(labels.iter().map(u32::to_string).collect()))]
    LoneSample {
        /// The labels of those classes; [`SplitError::named`] has their names.
        labels: Vec<u32>,
    },
    /// The training part would have fewer samples than there are classes.
    #[error(
        "the training part would have {} for {}: every class needs at least one; make the test part smaller", counted(*train, "sample", "samples"), counted(*classes, "class", "classes")
    )]
    TrainTooSmall {
        /// Samples in the training part.
        train: usize,
        /// Number of classes.
        classes: usize,
    },
    /// The test part would have fewer samples than there are classes.
    #[error(
        "the test part would have {} for {}: every class needs at least one; make it larger", counted(*test, "sample", "samples"), counted(*classes, "class", "classes")
    )]
    TestTooSmall {
        /// Samples in the test part.
        test: usize,
        /// Number of classes.
        classes: usize,
    },
    /// Fewer than two folds.
    #[error(
        "{} cannot be tested on what the others teach: ask for 2 at least", counted(*n_splits, "fold", "folds")
    )]
    TooFewFolds {
        /// As asked for.
        n_splits: usize,
    },
    /// More folds than the samples, the groups or the largest class can fill.
    #[error("{n_splits} folds are more than {}: ask for {count} at most", of.counted(*count))]
    TooManyFolds {
        /// As asked for.
        n_splits: usize,
        /// What there is too little of.
        of: SplitUnit,
        /// How much there is of it.
        count: usize,
    },
    /// All groups would be tested on.
    #[error(
        "a test part of {test_size} of {} leaves none to train on: make it smaller", counted(*groups, "group", "groups")
    )]
    NoGroupToTrainOn {
        /// As given.
        test_size: TestSize,
        /// Number of groups.
        groups: usize,
    },
    /// What is chosen by hashes is a fraction.
    #[error("a test part of {test_size} cannot be chosen by hashes: give a fraction between 0 and 1")]
    NotAFraction {
        /// As given.
        test_size: TestSize,
    },
    /// The hashes of all samples lie on one side.
    #[error(
        "by their hashes {} on the {} side at a test part of {fraction:?}: give another seed or size", lie(*samples), if *tested { "test" } else { "training" }
    )]
    EmptySide {
        /// The size of the test part.
        fraction: f64,
        /// Number of samples.
        samples: usize,
        /// Whether all would be tested on.
        tested: bool,
    },
    /// Another number of groups than labels.
    #[error("{groups} groups but {labels} labels: each sample has one of both")]
    Groups {
        /// Number of groups.
        groups: usize,
        /// Number of labels.
        labels: usize,
    },
}

/// What folds and test parts are filled with.
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
    fn counted(self, count: usize) -> String {
        match self {
            Self::Samples => counted(count, "sample", "samples"),
            Self::LargestClass => format!("the largest class has, {}", counted(count, "sample", "samples")),
            Self::Groups => counted(count, "group", "groups"),
        }
    }
}

impl SplitError {
    /// The message with the classes' names in place of their numbers.
    #[must_use]
    pub fn message_with_names(&self, classes: &ClassMap) -> String {
        match self {
            Self::LoneSample { labels } => {
                lone_sample(labels.iter().map(|&label| classes.name(label).to_owned()).collect())
            }
            _ => self.to_string(),
        }
    }
}

fn lone_sample(classes: Vec<String>) -> String {
    let (class, has) = if classes.len() == 1 { ("class", "has") } else { ("classes", "have") };
    format!(
        "{class} {} {has} one photo only, which cannot be split between training and testing: add photos, or leave the {class} out",
        NameList(classes)
    )
}

fn counted(count: usize, one: &str, more: &str) -> String {
    match count {
        0 => format!("no {one}"),
        1 => format!("1 {one}"),
        _ => format!("{count} {more}"),
    }
}

fn lie(samples: usize) -> String {
    if samples == 1 { "the one sample lies".to_owned() } else { format!("all {samples} samples lie") }
}

/// The labels that occur, ascending, each with the indices of its samples.
fn samples_by_label(labels: &[u32]) -> Vec<(u32, Vec<usize>)> {
    let mut classes = std::collections::BTreeMap::<u32, Vec<usize>>::new();
    for (index, &label) in labels.iter().enumerate() {
        classes.entry(label).or_default().push(index);
    }
    classes.into_iter().collect()
}

/// How many of `count` are trained on and tested on, rounded as scikit-learn rounds.
fn split_sizes(count: usize, test_size: TestSize, of: SplitUnit) -> Result<(usize, usize), SplitError> {
    if count == 0 {
        return Err(SplitError::Empty);
    }
    let n_test = match test_size {
        TestSize::Fraction(fraction) if fraction > 0.0 && fraction < 1.0 => {
            (fraction * count as f64).ceil() as usize
        }
        TestSize::Count(tested) if tested > 0 && tested < count => tested,
        _ => return Err(SplitError::TestSize { test_size, of, count }),
    };
    Ok((count - n_test, n_test))
}

/// What both kinds of folds check. Where a class has fewer samples than there are folds, some folds lack it: a line says so.
///
/// # Errors
/// Fewer than two folds, no samples, fewer samples than folds, or only classes with fewer samples than folds.
fn check_folds(classes: &[(u32, Vec<usize>)], samples: usize, n_splits: usize) -> Result<(), SplitError> {
    if n_splits < 2 {
        return Err(SplitError::TooFewFolds { n_splits });
    }
    let counts = || classes.iter().map(|(_, samples)| samples.len());
    let (Some(smallest), Some(largest)) = (counts().min(), counts().max()) else {
        return Err(SplitError::Empty);
    };
    if n_splits > samples {
        return Err(SplitError::TooManyFolds { n_splits, of: SplitUnit::Samples, count: samples });
    }
    if n_splits > largest {
        return Err(SplitError::TooManyFolds { n_splits, of: SplitUnit::LargestClass, count: largest });
    }
    if n_splits > smallest {
        tracing::warn!(
            "the smallest class has {}, fewer than the {n_splits} folds: some folds are not tested on it",
            counted(smallest, "sample", "samples")
        );
    }
    Ok(())
}

/// The splits that test on one fold each and train on the others; `folds[i]` is the fold of sample `i`.
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
