//! Fewer levels, and bright ones inverted.

use serde::{Deserialize, Serialize};

use super::half;
use crate::augment::check::{AugmentError, probability, require};
use crate::augment::ops::Op;
use crate::random::KeyedRandom;

/// The parameters of torchvision's `RandomPosterize`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Posterize {
    /// Bits that are kept of each value, from 1 to 8.
    pub bits: u8,
    /// The probability.
    #[serde(default = "half")]
    pub p: f64,
}

impl Posterize {
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        require((1..=8).contains(&self.bits), "posterize.bits", self.bits, "must be from 1 to 8")?;
        probability("posterize.p", self.p)
    }

    pub(in crate::augment) fn draw(&self, random: &mut KeyedRandom) -> Option<Op> {
        random.chance(self.p).then_some(Op::Posterize { bits: self.bits })
    }
}

/// The parameters of torchvision's `RandomSolarize`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Solarize {
    /// Values from this on are inverted; from 0 to 255.
    pub threshold: f64,
    /// The probability.
    #[serde(default = "half")]
    pub p: f64,
}

impl Solarize {
    pub(in crate::augment) fn check(&self) -> Result<(), AugmentError> {
        let good = (0.0..=255.0).contains(&self.threshold);
        require(good, "solarize.threshold", self.threshold, "must be a value from 0 to 255")?;
        probability("solarize.p", self.p)
    }

    pub(in crate::augment) fn draw(&self, random: &mut KeyedRandom) -> Option<Op> {
        random.chance(self.p).then_some(Op::Solarize { threshold: self.threshold })
    }
}
