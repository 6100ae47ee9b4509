//! Solarize.

use headstock_split::KeyedRng;
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{AugmentError, check_probability, require};
use super::step::{ImageOps, Step, draw_chance, half};
use crate::transform::{ImageOp, lookup_table::map_values};

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

impl Step for RandomSolarize {
    fn check(&self) -> Result<(), AugmentError> {
        let is_valid = (0.0..=255.0).contains(&self.threshold);
        require(is_valid, "solarize.threshold", self.threshold, "must be a value from 0 to 255")?;
        check_probability("solarize.p", self.p)
    }

    fn draw(&self, _: (u32, u32), random: &mut KeyedRng) -> ImageOps {
        draw_chance(self.p, Solarize { threshold: self.threshold }, random)
    }
}

/// Inverts the values at or above `threshold` (`ImageOps.solarize`).
#[derive(Clone, Debug)]
pub(super) struct Solarize {
    pub(super) threshold: f64,
}

impl ImageOp for Solarize {
    fn apply(&self, image: RgbImage) -> RgbImage {
        map_values(image, |value| if f64::from(value) < self.threshold { value } else { 255 - value })
    }
}
