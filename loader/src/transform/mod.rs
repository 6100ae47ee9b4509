//! The evaluation transform: resize and center crop, equal to torchvision's on a PIL image pixel for pixel.

mod render_spec;
mod resample;
pub(crate) mod rotate;
pub(crate) mod warp;

use image::RgbImage;

pub use render_spec::RenderSpec;
pub use resample::Resampling;
pub(crate) use resample::resize;

/// torchvision's `Resize(resize)` and `CenterCrop(crop)` on a PIL image.
///
/// ```
/// use headstock_loader::{EvalTransform, Resampling};
///
/// let transform = EvalTransform { resize: 256, crop: (224, 224), interpolation: Resampling::Bilinear };
/// let image = image::RgbImage::new(400, 533);
/// assert_eq!(transform.apply(&image).dimensions(), (224, 224));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalTransform {
    /// Length of the short side after resizing, in pixels.
    pub resize: u32,
    /// Height and width of the crop, in pixels.
    pub crop: (u32, u32),
    /// The resampling filter.
    pub interpolation: Resampling,
}

impl EvalTransform {
    /// Resizes `image` and crops the center, of the size [`crop`](Self::crop). A resized image that is
    /// smaller than the crop is padded with black. A size of 0 counts as 1.
    #[must_use]
    pub fn apply(&self, image: &RgbImage) -> RgbImage {
        self.render_spec().render(image)
    }

    /// This transform as a [`RenderSpec`], for an image that is not decoded yet.
    #[must_use]
    pub fn render_spec(&self) -> RenderSpec {
        RenderSpec::from_eval(*self)
    }
}

#[cfg(test)]
mod tests;
