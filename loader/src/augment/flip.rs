//! Horizontal and vertical flip.

use image::{RgbImage, imageops};

use crate::transform::ImageOp;

/// Flips left to right.
#[derive(Clone, Debug)]
pub(super) struct FlipHorizontal;

impl ImageOp for FlipHorizontal {
    fn apply(&self, mut image: RgbImage) -> RgbImage {
        imageops::flip_horizontal_in_place(&mut image);
        image
    }
}

/// Flips top to bottom.
#[derive(Clone, Debug)]
pub(super) struct FlipVertical;

impl ImageOp for FlipVertical {
    fn apply(&self, mut image: RgbImage) -> RgbImage {
        imageops::flip_vertical_in_place(&mut image);
        image
    }
}
