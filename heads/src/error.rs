//! What can go wrong in a head.

use thiserror::Error;

/// An error of fitting, loading or using a head.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HeadError {
    /// A parameter in `[head]` has a value outside its range.
    #[error("`head.{parameter}` is {value}: {expected}")]
    Parameter {
        /// Key within `[head]`.
        parameter: &'static str,
        /// The value as given.
        value: String,
        /// What is accepted, as a fragment: `must be greater than 0`.
        expected: &'static str,
    },
    /// `[head]` does not deserialise into the head's configuration (unknown key, wrong type).
    #[error("head `{kind}`: {message}")]
    Config {
        /// The head's name.
        kind: &'static str,
        /// The deserialiser's message.
        message: String,
    },
    /// The features or labels cannot be learned from.
    #[error("{0}")]
    Data(String),
    /// Features of another width than the head was fitted on.
    #[error("the head takes {expected} features a photo, these have {found}")]
    Width {
        /// The head's `F`.
        expected: usize,
        /// The data's `F`.
        found: usize,
    },
    /// A solver gave a value that is not finite.
    #[error("{0}")]
    Diverged(String),
    /// A tensor that the head needs is missing from its file, or has another shape.
    #[error("tensor `{name}`: {problem}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A candle operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
