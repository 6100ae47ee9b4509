//! The size of a test set.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Size of the test set: a fraction between 0 and 1 of the photos, or a whole number of photos. If the split
/// is drawn by group, it is a fraction or a number of groups instead.
///
/// It is a fraction if it is written with a decimal point, and a count otherwise: `1.0` and `1` differ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a fraction between 0 and 1, or a whole number of photos")]
pub enum TestSize {
    /// A number of photos.
    Count(usize),
    /// A fraction between 0 and 1 (both excluded); the number of test photos is rounded up.
    Fraction(f64),
}

impl TestSize {
    /// Whether there is no test set: `0` or `0.0`.
    #[must_use]
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Count(0)) || self == Self::Fraction(0.0)
    }
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
