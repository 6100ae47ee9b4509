//! The evaluation transform: resize and centre crop, pixel for pixel those of torchvision on a PIL image.

mod resample;
pub(crate) mod rotate;
pub(crate) mod warp;

use image::RgbImage;

pub use resample::Interpolation;
pub(crate) use resample::{Window, resize, resize_window};

/// torchvision's `Resize(resize)` and `CenterCrop(crop)` on a PIL image.
///
/// ```
/// use headstock_loader::{EvalTransform, Interpolation};
///
/// let transform = EvalTransform { resize: 256, crop: (224, 224), interpolation: Interpolation::Bilinear };
/// let photo = image::RgbImage::new(400, 533);
/// assert_eq!(transform.apply(&photo).dimensions(), (224, 224));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalTransform {
    /// What the short side becomes, in pixels.
    pub resize: u32,
    /// Height and width of the crop, in pixels.
    pub crop: (u32, u32),
    /// The filter.
    pub interpolation: Interpolation,
}

impl EvalTransform {
    /// Renders `photo` as `crop` pixels. Where the resized photo is smaller than the crop, black is added around it.
    /// A size of 0 is taken as 1.
    #[must_use]
    pub fn apply(&self, photo: &RgbImage) -> RgbImage {
        let (width, height) = short_side_to(photo.dimensions(), self.resize.max(1));
        let (crop_height, crop_width) = (self.crop.0.max(1), self.crop.1.max(1));
        let (x, left) = offset(width, crop_width);
        let (y, top) = offset(height, crop_height);
        let window = Window { x, y, width: width.min(crop_width), height: height.min(crop_height) };
        let kept = resize_window(photo, (width, height), window, self.interpolation);
        if kept.dimensions() == (crop_width, crop_height) {
            return kept;
        }
        let mut out = RgbImage::new(crop_width, crop_height);
        image::imageops::replace(&mut out, &kept, i64::from(left), i64::from(top));
        out
    }
}

/// The size of a photo of `size` (width, height) whose short side becomes `short`: `int(short * long / short_before)`.
fn short_side_to((width, height): (u32, u32), short: u32) -> (u32, u32) {
    let long = |long: u32, before: u32| (f64::from(short) * f64::from(long) / f64::from(before)) as u32;
    if width <= height { (short, long(height, width)) } else { (long(width, height), short) }
}

/// Along one axis: where the crop begins in the photo, and where the photo begins in the crop.
fn offset(size: u32, crop: u32) -> (u32, u32) {
    if size < crop {
        (0, (crop - size) / 2)
    } else {
        ((f64::from(size - crop) / 2.0).round_ties_even() as u32, 0)
    }
}

#[cfg(test)]
mod tests;
