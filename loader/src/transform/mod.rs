//! The evaluation transform: resize and centre crop, pixel for pixel those of torchvision on a PIL image.

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
    pub interpolation: Resampling,
}

impl EvalTransform {
    /// Renders `photo` as `crop` pixels. Where the resized photo is smaller than the crop, black is added around it.
    /// A size of 0 is taken as 1.
    #[must_use]
    pub fn apply(&self, photo: &RgbImage) -> RgbImage {
        self.render_spec().render(photo)
    }

    /// The same, for a photo that is not decoded yet.
    #[must_use]
    pub fn render_spec(&self) -> RenderSpec {
        RenderSpec::eval(*self)
    }
}

#[cfg(test)]
mod tests;
