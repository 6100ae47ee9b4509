//! The evaluation transform: resize and centre crop, pixel for pixel those of torchvision on a PIL image.

mod resample;
pub(crate) mod rotate;

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
    #[must_use]
    pub fn apply(&self, photo: &RgbImage) -> RgbImage {
        let (width, height) = short_side_to(photo.dimensions(), self.resize);
        let (crop_height, crop_width) = self.crop;
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
    let long = |long: u32, before: u32| {
        let exact = f64::from(short) * f64::from(long) / f64::from(before);
        (exact as u32).max(1)
    };
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_long_side_is_cut_to_whole_pixels() {
        assert_eq!(short_side_to((400, 533), 256), (256, 341));
        assert_eq!(short_side_to((533, 400), 256), (341, 256));
        assert_eq!(short_side_to((256, 300), 256), (256, 300));
    }

    #[test]
    fn half_a_pixel_goes_to_the_even_side() {
        assert_eq!(offset(341, 224), (58, 0)); // 58.5
        assert_eq!(offset(343, 224), (60, 0)); // 59.5
        assert_eq!(offset(3, 8), (0, 2));
    }

    proptest! {
        #[test]
        fn the_crop_always_has_its_size(width in 1u32..80, height in 1u32..80, resize in 1u32..60, h in 1u32..70, w in 1u32..70) {
            let transform = EvalTransform { resize, crop: (h, w), interpolation: Interpolation::Bicubic };
            prop_assert_eq!(transform.apply(&RgbImage::new(width, height)).dimensions(), (w, h));
        }

        #[test]
        fn a_photo_of_one_colour_stays_so(colour in any::<[u8; 3]>(), width in 40u32..80, height in 40u32..80) {
            for interpolation in Interpolation::ALL {
                let transform = EvalTransform { resize: 33, crop: (32, 31), interpolation };
                let out = transform.apply(&RgbImage::from_pixel(width, height, image::Rgb(colour)));
                prop_assert!(out.pixels().all(|pixel| pixel.0 == colour));
            }
        }
    }
}
