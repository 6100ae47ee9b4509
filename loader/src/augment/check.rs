//! What values of `[augment]` are refused.

use std::fmt::Display;
use std::ops::RangeInclusive;

use thiserror::Error;

/// A key of `[augment]` with a value out of its range.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("`augment.{key}` is {value}: {expected}")]
pub struct AugmentError {
    /// The key within `[augment]`.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What is accepted.
    pub expected: &'static str,
}

/// Refuses `value` unless it is `good`.
pub(super) fn require(
    good: bool,
    key: &'static str,
    value: impl Display,
    expected: &'static str,
) -> Result<(), AugmentError> {
    if good { Ok(()) } else { Err(AugmentError { key, value: value.to_string(), expected }) }
}

pub(super) fn probability(key: &'static str, p: f64) -> Result<(), AugmentError> {
    require((0.0..=1.0).contains(&p), key, p, "must be a probability, from 0 to 1")
}

pub(super) fn possible(key: &'static str, p: Option<f64>) -> Result<(), AugmentError> {
    p.map_or(Ok(()), |p| probability(key, p))
}

/// Whether a range is in order and within `bounds`.
pub(super) fn ordered([low, high]: [f64; 2], bounds: &RangeInclusive<f64>) -> bool {
    low <= high && bounds.contains(&low) && bounds.contains(&high)
}

/// Whether a range is in order, above 0 and finite.
pub(super) fn positive([low, high]: [f64; 2]) -> bool {
    low > 0.0 && low <= high && high.is_finite()
}
