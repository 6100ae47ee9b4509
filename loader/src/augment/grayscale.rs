//! Grayscale.

use image::RgbImage;

use crate::transform::{ImageOp, enhance::luma};

/// Replaces every pixel by its gray value (`ImageOps.grayscale`), in three equal channels.
#[derive(Clone, Debug)]
pub(super) struct Grayscale;

impl ImageOp for Grayscale {
    fn apply(&self, mut image: RgbImage) -> RgbImage {
        for pixel in image.pixels_mut() {
            pixel.0 = [luma(pixel.0); 3];
        }
        image
    }
}
