//! From the bytes of an image to its views: plans which region is decoded at which scale, decodes it, resizes
//! it, and applies the operations that the augmentation has drawn.
//!
//! The evaluation view equals torchvision's on a PIL image pixel for pixel.

mod contact_sheet;
mod spec;

use image::RgbImage;

pub use self::contact_sheet::contact_sheet;
pub use self::spec::RenderSpec;
use crate::decode::{DecodeError, DecodeMode, DecodeOptions, LazyImage};
use crate::geometry::Crop;
use crate::transform::{Resampling, Resize};

/// torchvision's `Resize(resize)` and `CenterCrop(crop)` on a PIL image, which resize the short side or both
/// sides.
///
/// ```
/// use headstock_loader::{EvalTransform, Resampling};
///
/// let transform = EvalTransform { resize: 256.into(), crop: (224, 224), interpolation: Resampling::Bilinear };
/// let image = image::RgbImage::new(400, 533);
/// assert_eq!(transform.apply(&image).dimensions(), (224, 224));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalTransform {
    /// The size after resizing.
    pub resize: Resize,
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

    /// Decodes the image file with the contents `bytes` and applies the transform; decodes only the region
    /// that it needs.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn render_file(&self, bytes: &[u8], options: DecodeOptions) -> Result<RgbImage, DecodeError> {
        let image = LazyImage::open(bytes, options)?;
        Ok(render_views(image, options.decode, &[self.render_spec()])?.swap_remove(0))
    }

    /// This transform as a [`RenderSpec`], for an image that is not decoded yet.
    #[must_use]
    pub fn render_spec(&self) -> RenderSpec {
        RenderSpec { eval: *self, crop: None, ops: Vec::new() }
    }

    /// Width and height of the view, at least 1.
    pub(crate) fn view_size(&self) -> (u32, u32) {
        (self.crop.1.max(1), self.crop.0.max(1))
    }
}

/// Renders the views of `image` that `specs` describe, each `[H, W, 3]`; a view does not depend on the other
/// specs. The image is decoded once for each scale that a view uses, and only in the region that the views
/// of this scale need.
///
/// ```
/// use headstock_loader::{
///     Augment, DecodeMode, EvalTransform, LazyImage, RandomResizedCrop, RenderSpec, Resampling, render_views,
/// };
///
/// let mut file = std::io::Cursor::new(Vec::new());
/// image::RgbImage::new(400, 300).write_to(&mut file, image::ImageFormat::Jpeg)?;
/// let image = LazyImage::open(file.get_ref(), 1_000_000)?;
/// let eval = EvalTransform { resize: 64.into(), crop: (56, 56), interpolation: Resampling::Bilinear };
/// let augment = Augment { random_resized_crop: Some(RandomResizedCrop::default()), ..Augment::default() };
/// let specs = [eval.render_spec(), RenderSpec::augmented(&augment, &eval, image.size(), 1, &[7; 32])];
/// let pixels = render_views(image, DecodeMode::Scaled, &specs)?;
/// assert_eq!(pixels[1].dimensions(), (56, 56));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`DecodeError::Damaged`] if the pixels cannot be decoded.
pub fn render_views(
    mut image: LazyImage<'_>,
    mode: DecodeMode,
    specs: &[RenderSpec],
) -> Result<Vec<RgbImage>, DecodeError> {
    let size = image.size();
    let may_reduce = mode == DecodeMode::Scaled && image.is_reducible();
    let scale_for = |spec: &RenderSpec| if may_reduce { spec.max_reduction(size) } else { 1 };
    let mut rendered = vec![RgbImage::default(); specs.len()];
    for scale in [1, 2, 4, 8] {
        let specs_at_scale = || specs.iter().enumerate().filter(|(_, spec)| scale_for(spec) == scale);
        let full_region = image.region_at_scale(scale);
        let needed =
            specs_at_scale().map(|(_, spec)| spec.needed_region(size, full_region)).reduce(Crop::union);
        let Some(needed) = needed else { continue };
        let (pixels, region) = image.decode_region(scale, needed)?;
        for (index, spec) in specs_at_scale() {
            rendered[index] = spec.render_region(&pixels, size, region);
        }
    }
    Ok(rendered)
}

#[cfg(test)]
mod tests;
