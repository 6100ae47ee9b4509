//! Sharpness.

use headstock_split::KeyedRng;
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{AugmentError, check_probability, require};
use super::step::{ImageOps, Step, draw_chance, half};
use crate::transform::ImageOp;
use crate::transform::enhance::{blend, filter_3x3};

/// The parameters of torchvision's `RandomAdjustSharpness`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomAdjustSharpness {
    /// Sharpness factor, at least 0: 0 blurs, 1 leaves the photo unchanged, 2 is twice as sharp. Required.
    pub factor: f64,
    /// Probability of the step. Default 0.5.
    #[serde(default = "half")]
    pub p: f64,
}

impl Step for RandomAdjustSharpness {
    fn check(&self) -> Result<(), AugmentError> {
        let is_valid = self.factor >= 0.0 && self.factor.is_finite();
        require(is_valid, "sharpness.factor", self.factor, "must be a finite factor of at least 0")?;
        check_probability("sharpness.p", self.p)
    }

    fn draw(&self, _: (u32, u32), random: &mut KeyedRng) -> ImageOps {
        draw_chance(self.p, Sharpness(self.factor), random)
    }
}

/// Blends between the image smoothed by `ImageFilter.SMOOTH` at factor 0 and the image at factor 1, and
/// sharpens above (`ImageEnhance.Sharpness`). Edge pixels stay.
#[derive(Clone, Debug)]
pub(super) struct Sharpness(pub(super) f64);

impl ImageOp for Sharpness {
    fn apply(&self, image: RgbImage) -> RgbImage {
        // In the order and precision of `ImagingFilter3x3`: rows from the bottom up, then rounded by adding
        // 0.5 and truncating.
        filter_3x3(&image, |rows| {
            let (edge, center) = (1.0_f32 / 13.0, 5.0_f32 / 13.0);
            let row = |[a, b, c]: [u8; 3], center_weight: f32| {
                f32::from(a) * edge + f32::from(b) * center_weight + f32::from(c) * edge
            };
            let sum = 0.5 + row(rows[2], edge) + row(rows[1], center) + row(rows[0], edge);
            blend(sum as u8, rows[1][1], self.0 as f32)
        })
    }
}
