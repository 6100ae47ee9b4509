//! Posterize and solarize.

use headstock_split::KeyedRng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::half;
use crate::augment::check::{AugmentError, check_probability, require};
use crate::augment::ops::ImageOp;

/// The parameters of torchvision's `RandomPosterize`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomPosterize {
    /// Number of bits to keep of each value, from 1 to 8. Required.
    pub bits: u8,
    /// Probability of the step. Default 0.5.
    #[serde(default = "half")]
    pub p: f64,
}

impl RandomPosterize {
    /// Checks the config of this step; the error names the first value that is out of range.
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        require((1..=8).contains(&self.bits), "posterize.bits", self.bits, "must be from 1 to 8")?;
        check_probability("posterize.p", self.p)
    }

    /// Posterizing with probability `p`, otherwise `None`.
    pub(in crate::augment) fn draw(&self, random: &mut KeyedRng) -> Option<ImageOp> {
        random.bernoulli(self.p).then_some(ImageOp::Posterize { bits: self.bits })
    }
}

/// The parameters of torchvision's `RandomSolarize`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomSolarize {
    /// Values at or above this threshold, from 0 to 255, are inverted. Required.
    pub threshold: f64,
    /// Probability of the step. Default 0.5.
    #[serde(default = "half")]
    pub p: f64,
}

impl RandomSolarize {
    /// Checks the config of this step; the error names the first value that is out of range.
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        let is_valid = (0.0..=255.0).contains(&self.threshold);
        require(is_valid, "solarize.threshold", self.threshold, "must be a value from 0 to 255")?;
        check_probability("solarize.p", self.p)
    }

    /// Solarizing with probability `p`, otherwise `None`.
    pub(in crate::augment) fn draw(&self, random: &mut KeyedRng) -> Option<ImageOp> {
        random.bernoulli(self.p).then_some(ImageOp::Solarize { threshold: self.threshold })
    }
}
