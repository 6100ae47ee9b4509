//! The random resized crop.

use headstock_split::KeyedRng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{AugmentError, is_positive_range, require};
use crate::geometry::Crop;

/// The parameters of torchvision's `RandomResizedCrop`: a crop of random area and aspect ratio, resized.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandomResizedCrop {
    /// Smallest and largest area of the crop, as fractions of the photo's area; above 0 and at most 1.
    /// Default `[0.08, 1.0]`.
    pub scale: [f64; 2],
    /// Smallest and largest aspect ratio (width / height) of the crop; above 0. Default `[0.75, 1.3333]`.
    pub ratio: [f64; 2],
}

impl Default for RandomResizedCrop {
    fn default() -> Self {
        Self { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

impl RandomResizedCrop {
    /// Checks the config of this step; the error names the first value that is out of range.
    pub(super) fn check(&self) -> Result<(), AugmentError> {
        let Self { scale, ratio } = *self;
        require(
            is_positive_range(scale) && scale[1] <= 1.0,
            "random_resized_crop.scale",
            format_args!("{scale:?}"),
            "must be two fractions of the photo's area, above 0 and at most 1, in ascending order",
        )?;
        require(
            is_positive_range(ratio),
            "random_resized_crop.ratio",
            format_args!("{ratio:?}"),
            "must be two aspect ratios above 0, in ascending order",
        )
    }

    /// Draws a crop for an image of (width, height), as torchvision's `RandomResizedCrop.get_params`: ten
    /// attempts at a random area and aspect ratio, then the largest central crop of an allowed ratio.
    pub(super) fn draw(&self, (width, height): (u32, u32), random: &mut KeyedRng) -> Crop {
        let area = f64::from(width) * f64::from(height);
        for _ in 0..10 {
            let [w, h] = draw_sides(area, self.scale, self.ratio, random);
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let (top, left) = (random.up_to(height - h), random.up_to(width - w));
                return Crop { top, left, height: h, width: w };
            }
        }
        let ratio = f64::from(width) / f64::from(height);
        let rounded = |value: f64| (value.round_ties_even() as u32).max(1);
        let (w, h) = if ratio < self.ratio[0] {
            (width, rounded(f64::from(width) / self.ratio[0]))
        } else if ratio > self.ratio[1] {
            (rounded(f64::from(height) * self.ratio[1]), height)
        } else {
            (width, height)
        };
        Crop { top: height.saturating_sub(h) / 2, left: width.saturating_sub(w) / 2, height: h, width: w }
    }
}

/// Draws the sides of a rectangle in pixels: its area, as a fraction of `area` in the range `scale`, and the
/// ratio of the first side to the second, in the range `ratio`.
pub(super) fn draw_sides(area: f64, scale: [f64; 2], ratio: [f64; 2], random: &mut KeyedRng) -> [u32; 2] {
    let target_area = area * random.uniform_between(scale[0], scale[1]);
    // Uniform in its logarithm: twice as long is as likely as half as long.
    let aspect = random.uniform_between(ratio[0].ln(), ratio[1].ln()).exp();
    [target_area * aspect, target_area / aspect].map(|square| square.sqrt().round_ties_even() as u32)
}
