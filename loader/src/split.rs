//! Stratified splits, index for index those of scikit-learn.

use std::fmt;

use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::dataset::{ClassMap, Listed};
use crate::random::RandomState;

/// How large the test part is: a fraction of the samples, or a count.
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
        struct Number;
        impl Visitor<'_> for Number {
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
        deserializer.deserialize_any(Number)
    }
}

/// Indices of the samples of each part, in the order in which scikit-learn gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Indices to train on.
    pub train: Vec<usize>,
    /// Indices to test on.
    pub test: Vec<usize>,
}

/// Why samples cannot be split; the same cases in which scikit-learn raises `ValueError`.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum SplitError {
    /// There are no samples.
    #[error("there are no samples to split")]
    Empty,
    /// The size of the test part is out of range.
    #[error(
        "a test part of {test_size} cannot be taken from {samples} samples: give a count below {samples}, or a fraction between 0 and 1"
    )]
    TestSize {
        /// As given.
        test_size: TestSize,
        /// Number of samples.
        samples: usize,
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
}

impl SplitError {
    /// The message with the classes' names in place of their numbers.
    #[must_use]
    pub fn named(&self, classes: &ClassMap) -> String {
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
        Listed(classes)
    )
}

fn counted(count: usize, one: &str, more: &str) -> String {
    match count {
        0 => format!("no {one}"),
        1 => format!("1 {one}"),
        _ => format!("{count} {more}"),
    }
}

/// `n_splits` independent splits, each class divided in the same proportion.
///
/// The indices are those of scikit-learn 1.9.1's
/// `StratifiedShuffleSplit(n_splits, test_size=test_size, random_state=seed)`, for every input.
///
/// ```
/// use headstock_loader::split::{TestSize, stratified_shuffle_split};
///
/// let labels = [0, 0, 0, 0, 1, 1, 1, 1];
/// let splits = stratified_shuffle_split(&labels, 1, TestSize::Fraction(0.25), 0)?;
/// assert_eq!(splits[0].test.len(), 2);
/// # Ok::<(), headstock_loader::split::SplitError>(())
/// ```
///
/// # Errors
/// [`SplitError`], where scikit-learn raises `ValueError`.
pub fn stratified_shuffle_split(
    labels: &[u32],
    n_splits: usize,
    test_size: TestSize,
    seed: u32,
) -> Result<Vec<Split>, SplitError> {
    let (n_train, n_test) = sizes(labels.len(), test_size)?;
    let classes = samples_of_classes(labels);
    let lone: Vec<u32> =
        classes.iter().filter(|(_, samples)| samples.len() < 2).map(|&(label, _)| label).collect();
    if n_train == 0 {
        return Err(SplitError::TrainTooSmall { train: 0, classes: classes.len() });
    }
    if !lone.is_empty() {
        return Err(SplitError::LoneSample { labels: lone });
    }
    if n_train < classes.len() {
        return Err(SplitError::TrainTooSmall { train: n_train, classes: classes.len() });
    }
    if n_test < classes.len() {
        return Err(SplitError::TestTooSmall { test: n_test, classes: classes.len() });
    }

    let counts: Vec<usize> = classes.iter().map(|(_, samples)| samples.len()).collect();
    let mut random = RandomState::new(seed);
    Ok((0..n_splits)
        .map(|_| {
            let of_train = approximate_mode(&counts, n_train, &mut random);
            let left: Vec<usize> = counts.iter().zip(&of_train).map(|(all, taken)| all - taken).collect();
            let of_test = approximate_mode(&left, n_test, &mut random);
            let (mut train, mut test) = (Vec::with_capacity(n_train), Vec::with_capacity(n_test));
            for (((_, samples), n), t) in classes.iter().zip(of_train).zip(of_test) {
                let shuffled = random.permutation(samples.len());
                train.extend(shuffled[..n].iter().map(|&i| samples[i]));
                test.extend(shuffled[n..n + t].iter().map(|&i| samples[i]));
            }
            random.shuffle(&mut train);
            random.shuffle(&mut test);
            Split { train, test }
        })
        .collect())
}

fn sizes(samples: usize, test_size: TestSize) -> Result<(usize, usize), SplitError> {
    if samples == 0 {
        return Err(SplitError::Empty);
    }
    let n_test = match test_size {
        TestSize::Fraction(fraction) if fraction > 0.0 && fraction < 1.0 => {
            (fraction * samples as f64).ceil() as usize
        }
        TestSize::Count(count) if count > 0 && count < samples => count,
        _ => return Err(SplitError::TestSize { test_size, samples }),
    };
    Ok((samples - n_test, n_test))
}

/// The labels that occur, ascending, each with the indices of its samples.
fn samples_of_classes(labels: &[u32]) -> Vec<(u32, Vec<usize>)> {
    let mut classes = std::collections::BTreeMap::<u32, Vec<usize>>::new();
    for (index, &label) in labels.iter().enumerate() {
        classes.entry(label).or_default().push(index);
    }
    classes.into_iter().collect()
}

/// How many of `draws` fall on each class: in proportion, what rounding leaves going to the largest remainders, ties
/// broken by chance. scikit-learn's `_approximate_mode`, its arithmetic included.
fn approximate_mode(counts: &[usize], draws: usize, random: &mut RandomState) -> Vec<usize> {
    let total = counts.iter().sum::<usize>() as f64;
    let exact: Vec<f64> = counts.iter().map(|&count| count as f64 / total * draws as f64).collect();
    let mut given: Vec<usize> = exact.iter().map(|share| share.floor() as usize).collect();
    let mut missing = draws.saturating_sub(given.iter().sum());
    if missing == 0 {
        return given;
    }
    let remainders: Vec<f64> = exact.iter().map(|share| share - share.floor()).collect();
    let mut values = remainders.clone();
    values.sort_by(|a, b| b.total_cmp(a));
    values.dedup();
    for value in values {
        let tied: Vec<usize> = (0..counts.len()).filter(|&class| remainders[class] == value).collect();
        let now = tied.len().min(missing);
        for class in random.choice(&tied, now) {
            given[class] += 1;
        }
        missing -= now;
        if missing == 0 {
            break;
        }
    }
    given
}

#[cfg(test)]
mod tests;
