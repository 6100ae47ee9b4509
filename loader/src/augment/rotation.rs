//! Random rotation.

use headstock_split::KeyedRng;
use image::RgbImage;

use super::check::{AugmentError, require};
use super::step::{ImageOps, Step};
use crate::transform::{ImageOp, Resampling, rotate::rotate};

/// torchvision's `RandomRotation` with the nearest pixel: the angle is uniform between minus and plus this
/// number of degrees.
pub(super) struct RandomRotation(pub(super) f64);

impl Step for RandomRotation {
    fn check(&self) -> Result<(), AugmentError> {
        let is_valid = (0.0..=180.0).contains(&self.0);
        require(is_valid, "rotation", self.0, "must be an angle in degrees from 0 to 180")
    }

    fn draw(&self, _: (u32, u32), random: &mut KeyedRng) -> ImageOps {
        let degrees = random.uniform_between(-self.0, self.0);
        vec![Box::new(Rotate { degrees, interpolation: Resampling::Nearest })]
    }
}

/// Rotation around the center, counterclockwise.
#[derive(Clone, Debug)]
pub(super) struct Rotate {
    pub(super) degrees: f64,
    pub(super) interpolation: Resampling,
}

impl ImageOp for Rotate {
    fn apply(&self, image: RgbImage) -> RgbImage {
        rotate(&image, self.degrees, self.interpolation)
    }
}
