//! Parameters that are a number or a list of numbers, as in torchvision.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number, or a list of numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number or a list of numbers")]
pub enum NumberOrList {
    /// One number: the distance from the center of a range to its ends, or the value of all elements.
    Number(f64),
    /// Several numbers: the ends of one or two ranges, or one value per element.
    List(Vec<f64>),
}

impl From<f64> for NumberOrList {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl<const N: usize> From<[f64; N]> for NumberOrList {
    fn from(numbers: [f64; N]) -> Self {
        Self::List(numbers.to_vec())
    }
}

impl NumberOrList {
    /// The range `[low, high]` from which a parameter is drawn: `center` minus and plus the number, or the
    /// list of two numbers; `None` for a list of a different length.
    pub(super) fn range_around(&self, center: f64) -> Option<[f64; 2]> {
        match self {
            Self::Number(radius) => Some([center - radius, center + radius]),
            Self::List(ends) => ends.as_slice().try_into().ok(),
        }
    }

    /// One number for each of `N` elements, such as color channels: the number repeated, or the list of `N`
    /// numbers; `None` for a list of a different length.
    pub(super) fn to_array<const N: usize>(&self) -> Option<[f64; N]> {
        match self {
            Self::Number(number) => Some([*number; N]),
            Self::List(numbers) => numbers.as_slice().try_into().ok(),
        }
    }
}

impl fmt::Display for NumberOrList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::List(numbers) => write!(f, "{numbers:?}"),
        }
    }
}

/// What fills an erased rectangle: one number or a list of three from 0 to 255, or `"random"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", expecting = "expected a number, a list of numbers or \"random\"")]
pub enum ErasingValue {
    /// `"random"`: normal noise with ImageNet's mean and standard deviation.
    Random,
    /// One value for all channels, or a list of three for red, green and blue; from 0 to 255.
    #[serde(untagged)]
    Color(NumberOrList),
}
