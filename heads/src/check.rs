//! Range checks of hyperparameters, shared by several heads.

use crate::error::HeadError;

/// Checks a hyperparameter: returns an error unless `condition` holds. The error names the parameter and its
/// value; `expected`, such as `must be at least 1`, completes its message.
pub(crate) fn require(
    condition: bool,
    parameter: &'static str,
    value: &impl ToString,
    expected: &'static str,
) -> Result<(), HeadError> {
    if condition {
        Ok(())
    } else {
        Err(HeadError::Parameter { parameter, value: value.to_string(), expected })
    }
}

/// Requires a finite number above 0.
pub(crate) fn require_positive(parameter: &'static str, value: f64) -> Result<(), HeadError> {
    require(value > 0.0 && value.is_finite(), parameter, &value, "must be a number greater than 0")
}

/// Requires a finite number of at least 0.
pub(crate) fn require_non_negative(parameter: &'static str, value: f64) -> Result<(), HeadError> {
    require(value >= 0.0 && value.is_finite(), parameter, &value, "must be a number of at least 0")
}

/// Requires a number from 0 to 1, 1 excluded.
pub(crate) fn require_fraction(parameter: &'static str, value: f64) -> Result<(), HeadError> {
    require((0.0..1.0).contains(&value), parameter, &value, "must be at least 0 and less than 1")
}

/// Requires a count of at least 1.
pub(crate) fn require_at_least_one(parameter: &'static str, value: u64) -> Result<(), HeadError> {
    require(value >= 1, parameter, &value, "must be at least 1")
}
