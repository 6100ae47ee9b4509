//! Why samples cannot be split.

use thiserror::Error;

use crate::test_size::TestSize;
use crate::words::{NameList, counted};

/// Why samples cannot be split. For splits of scikit-learn these are the cases in which it raises
/// `ValueError`.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SplitError {
    /// There are no samples.
    #[error("there are no photos to split into training and test set: add photos")]
    Empty,
    /// The test size is out of range.
    #[error(
        "a test set of {test_size} cannot be taken from {}: set `test_size` to a whole number below {count}, \
         or to a fraction between 0 and 1",
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
    #[error(
        "{} {names} {} only one photo: the training set and the test set each need a photo of every class; \
         add photos, or remove the {}",
        if labels.len() == 1 { "class" } else { "classes" },
        if labels.len() == 1 { "has" } else { "have" },
        if labels.len() == 1 { "class" } else { "classes" }
    )]
    LoneSample {
        /// Labels of those classes.
        labels: Vec<u32>,
        /// Their names; the labels before [`SplitError::with_names`] sets the names.
        names: NameList,
    },
    /// The training set or the test set would have fewer samples than there are classes.
    #[error(
        "the {} set would have {} for {}: every class needs at least one photo; make `test_size` {}",
        if *is_test { "test" } else { "training" },
        counted(*samples, "photo", "photos"),
        counted(*classes, "class", "classes"),
        if *is_test { "larger" } else { "smaller, or add photos" }
    )]
    TooSmall {
        /// Whether it is the test set.
        is_test: bool,
        /// Number of samples in the set.
        samples: usize,
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
        "with `test_size = {test_size}`, none of {} (photos that stay together) is left for training: make \
         `test_size` smaller, or add photos of other groups",
        counted(*groups, "group", "groups")
    )]
    NoTrainGroups {
        /// The test size.
        test_size: TestSize,
        /// Number of groups.
        groups: usize,
    },
    /// The test size of a hash split is not a fraction.
    #[error("a split by hash needs a fraction between 0 and 1 as `test_size`, such as 0.2, not {test_size}")]
    NotAFraction {
        /// The test size.
        test_size: TestSize,
    },
    /// The hash split puts all samples into one set.
    #[error(
        "with `test_size = {fraction:?}`, the hash method puts {} into the {} set: choose a different `seed` or \
         `test_size`",
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
    /// The error with the `name` of each class in its message instead of the label, a number that users do not
    /// know.
    #[must_use]
    pub fn with_names(mut self, name: impl Fn(u32) -> String) -> Self {
        if let Self::LoneSample { labels, names } = &mut self {
            *names = NameList(labels.iter().copied().map(name).collect());
        }
        self
    }
}
