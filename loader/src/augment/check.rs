//! Checks of the values of `[augment]`, so that a config with a value out of range is rejected before
//! training.

use std::fmt::Display;
use std::ops::RangeInclusive;

use thiserror::Error;

use crate::transform::Resampling;

/// A value of `[augment]` that is out of range.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("`{key}` is {value}: {expected}")]
pub struct AugmentError {
    /// The key within `[augment]`.
    pub key: &'static str,
    /// The value.
    pub value: String,
    /// The accepted values.
    pub expected: &'static str,
}

/// An error that names `key` (within `[augment]`) and its `value` and says what was `expected`, unless the
/// value is valid.
pub(super) fn require(
    is_valid: bool,
    key: &'static str,
    value: impl Display,
    expected: &'static str,
) -> Result<(), AugmentError> {
    if is_valid { Ok(()) } else { Err(AugmentError { key, value: value.to_string(), expected }) }
}

/// An error unless `p` is a probability.
pub(super) fn check_probability(key: &'static str, p: f64) -> Result<(), AugmentError> {
    require((0.0..=1.0).contains(&p), key, p, "must be a probability from 0 to 1")
}

/// Whether a range is ascending and within `bounds`.
pub(super) fn is_range_within([low, high]: [f64; 2], bounds: &RangeInclusive<f64>) -> bool {
    low <= high && bounds.contains(&low) && bounds.contains(&high)
}

/// Whether a range is ascending, above 0 and finite.
pub(super) fn is_positive_range([low, high]: [f64; 2]) -> bool {
    low > 0.0 && low <= high && high.is_finite()
}

/// An error for `lanczos`, which geometric maps do not support, as in torchvision.
pub(super) fn check_interpolation(key: &'static str, interpolation: Resampling) -> Result<(), AugmentError> {
    require(interpolation != Resampling::Lanczos, key, "lanczos", "must be nearest, bilinear or bicubic")
}
