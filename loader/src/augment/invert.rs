//! Inversion.

use image::RgbImage;

use crate::transform::{ImageOp, lookup_table::map_values};

/// Replaces every value `v` by `255 - v` (`ImageOps.invert`).
#[derive(Clone, Debug)]
pub(super) struct Invert;

impl ImageOp for Invert {
    fn apply(&self, image: RgbImage) -> RgbImage {
        map_values(image, |value| 255 - value)
    }
}
