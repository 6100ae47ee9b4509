//! Posterize.

use headstock_split::KeyedRng;
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{AugmentError, check_probability, require};
use super::step::{ImageOps, Step, draw_chance, half};
use crate::transform::{ImageOp, lookup_table::map_values};

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

impl Step for RandomPosterize {
    fn check(&self) -> Result<(), AugmentError> {
        require((1..=8).contains(&self.bits), "posterize.bits", self.bits, "must be from 1 to 8")?;
        check_probability("posterize.p", self.p)
    }

    fn draw(&self, _: (u32, u32), random: &mut KeyedRng) -> ImageOps {
        draw_chance(self.p, Posterize { bits: self.bits }, random)
    }
}

/// Sets all but the `bits` highest bits of every value to 0 (`ImageOps.posterize`).
#[derive(Clone, Debug)]
pub(super) struct Posterize {
    pub(super) bits: u8,
}

impl ImageOp for Posterize {
    fn apply(&self, image: RgbImage) -> RgbImage {
        let dropped = 8_u32.saturating_sub(self.bits.into());
        let mask = u8::MAX.checked_shl(dropped).unwrap_or(0);
        map_values(image, |value| value & mask)
    }
}
