//! The errors of a head.

use thiserror::Error;

/// An error from fitting, loading or using a head.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HeadError {
    /// A hyperparameter is out of range.
    #[error("`{parameter}` is {value}: {expected}")]
    Parameter {
        /// Name of the hyperparameter.
        parameter: &'static str,
        /// The given value.
        value: String,
        /// The accepted range as a fragment: `must be greater than 0`.
        expected: &'static str,
    },
    /// A table of hyperparameters does not deserialize into the head's configuration (unknown key, wrong type).
    #[error("head `{kind}`: {message}")]
    Config {
        /// Name of the head.
        kind: &'static str,
        /// Message of the deserializer.
        message: String,
    },
    /// The features or labels are invalid.
    #[error("{0}")]
    Data(String),
    /// A feature to fit on is NaN or infinite.
    #[error(
        "feature {column} of row {row} (counted from 0) is {value}: features must be finite; leave out this \
         row, or compute the features with a different backbone or precision"
    )]
    NotFinite {
        /// Index of the row (sample).
        row: usize,
        /// Index of the feature.
        column: usize,
        /// NaN or infinite.
        value: f32,
    },
    /// The features have another width than those of the fit.
    #[error(
        "the head expects {expected} features per photo, but the data has {found}: give features of the \
         backbone and layer that the head was fitted on"
    )]
    Width {
        /// `F` of the head.
        expected: usize,
        /// `F` of the data.
        found: usize,
    },
    /// A solver produced a value that is not finite.
    #[error("{0}")]
    Diverged(String),
    /// A tensor is missing from the file or invalid.
    #[error(
        "the head's tensor `{name}` {problem}: the model file is damaged, or was saved with different \
         hyperparameters; train again"
    )]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What is wrong with the tensor, as a verb phrase: `is missing`.
        problem: String,
    },
    /// A candle operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
