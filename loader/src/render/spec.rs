//! How a view is rendered from an image. This is known before decoding, so that only the needed region is
//! decoded.

use image::{RgbImage, imageops};
use pulp::Arch;

use super::EvalTransform;
use crate::augment::{Augment, DrawnParameters, ImageOps};
use crate::geometry::{Crop, DecodedRegion};
use crate::transform::{Resize, SourceAxis, resize_window};

/// The view index of epoch 0. Views that are not drawn for an epoch have lower indices, so that their random
/// streams differ.
const FIRST_EPOCH_VIEW: u64 = 1 << 32;

/// How one view of an image is rendered: the evaluation transform, or an augmentation with drawn parameters.
#[derive(Debug)]
pub struct RenderSpec {
    /// The size and the interpolation of the view; also the resizing and cropping, unless `crop` is set.
    pub(crate) eval: EvalTransform,
    /// The random resized crop, in place of the resizing and cropping of `eval`.
    pub(crate) crop: Option<Crop>,
    /// The operations on the resized view, in order.
    pub(crate) ops: ImageOps,
}

/// What is resized to render a view: the region `source` of the image is resized to `size`, and only the
/// rectangle `window` of the result is computed and put into the view at `offset`.
struct ResizePlan {
    /// In pixels of the full image.
    source: Crop,
    /// Width and height after resizing, before cropping.
    size: (u32, u32),
    window: Crop,
    /// Position (x, y) of the window in the view; not 0 if the view is padded.
    offset: (u32, u32),
}

impl RenderSpec {
    /// The augmented view with index `view` of an image of `size` (width, height), of the size of `eval`'s
    /// crop. The view depends on the settings of `augment`, on its index and on `hash` (the hash of the image
    /// file's bytes), and on nothing else. Settings that [`Augment::check`] rejects give an arbitrary view
    /// and do not panic.
    ///
    /// ```
    /// use headstock_loader::augment::{Augment, ColorJitter, Policy, RandomResizedCrop, TrivialAugmentWide};
    /// use headstock_loader::{EvalTransform, RenderSpec, Resampling};
    ///
    /// let augment = Augment {
    ///     random_resized_crop: Some(RandomResizedCrop::default()),
    ///     horizontal_flip: Some(0.5),
    ///     policy: Some(Policy::TrivialAugmentWide(TrivialAugmentWide::default())),
    ///     color_jitter: Some(ColorJitter { hue: Some(0.1.into()), ..ColorJitter::default() }),
    ///     ..Augment::default()
    /// };
    /// augment.check()?;
    /// let eval = EvalTransform { resize: 32.into(), crop: (28, 28), interpolation: Resampling::Bilinear };
    /// let image = image::RgbImage::new(60, 40);
    /// let render = || RenderSpec::augmented(&augment, &eval, image.dimensions(), 1, &[7; 32]).render(&image);
    /// assert_eq!(render(), render());
    /// assert_eq!(render().dimensions(), (28, 28));
    /// # Ok::<(), headstock_loader::AugmentError>(())
    /// ```
    #[must_use]
    pub fn augmented(
        augment: &Augment,
        eval: &EvalTransform,
        size: (u32, u32),
        view: u32,
        hash: &[u8; 32],
    ) -> Self {
        Self::drawn(augment, eval, size, view.into(), hash)
    }

    /// The augmented view for the training epoch `epoch`, for a training that draws a new view in each epoch
    /// instead of caching a few. Its random numbers differ from those of every [`augmented`](Self::augmented)
    /// view; the other parameters are the same.
    #[must_use]
    pub fn augmented_in_epoch(
        augment: &Augment,
        eval: &EvalTransform,
        size: (u32, u32),
        epoch: u64,
        hash: &[u8; 32],
    ) -> Self {
        Self::drawn(augment, eval, size, epoch.wrapping_add(FIRST_EPOCH_VIEW), hash)
    }

    /// The view whose parameters `augment` draws for `view_index`.
    fn drawn(
        augment: &Augment,
        eval: &EvalTransform,
        size: (u32, u32),
        view_index: u64,
        hash: &[u8; 32],
    ) -> Self {
        let DrawnParameters { crop, ops } = augment.draw(size, eval.view_size(), view_index, hash);
        Self { eval: *eval, crop, ops }
    }

    /// Renders the view `[H, W, 3]` of an image that is decoded completely.
    #[must_use]
    pub fn render(&self, image: &RgbImage) -> RgbImage {
        self.render_region(image, image.dimensions(), DecodedRegion::whole(image.dimensions()))
    }

    /// Works out what to resize to which size, and which part of it the view shows, for an image of
    /// `image_size` (width, height): the random resized crop fills the view; otherwise the whole image is
    /// resized, and its center is cropped or padded.
    fn resize_plan(&self, image_size: (u32, u32)) -> ResizePlan {
        let (width, height) = self.eval.view_size();
        if let Some(crop) = self.crop {
            // A crop that was drawn for an image of a different size may lie outside this image.
            let clipped = Some(crop.clipped_to(image_size)).filter(|crop| crop.width > 0 && crop.height > 0);
            let source = clipped.unwrap_or_else(|| Crop::whole(image_size));
            let size = (width, height);
            return ResizePlan { source, size, window: Crop::whole(size), offset: (0, 0) };
        }
        let resized = match self.eval.resize {
            Resize::ShortSide(side) => resized_size(image_size, side.max(1)),
            Resize::BothSides([height, width]) => (width.max(1), height.max(1)),
        };
        // (left, top) is where the crop starts in the resized image, (x, y) where the image starts in the
        // view.
        let ((left, x), (top, y)) = (center_offset(resized.0, width), center_offset(resized.1, height));
        let window = Crop { top, left, height: resized.1.min(height), width: resized.0.min(width) };
        ResizePlan { source: Crop::whole(image_size), size: resized, window, offset: (x, y) }
    }

    /// By how much a JPEG image of `image_size` (width, height) can be reduced while it is decoded, which is
    /// faster: the largest of 1, 2, 4 and 8 with which the region that this view shows is still not smaller,
    /// along either axis, than the size it is resized to. So no reduced image is enlarged again.
    pub(crate) fn max_reduction(&self, image_size: (u32, u32)) -> u32 {
        let ResizePlan { source, size, .. } = self.resize_plan(image_size);
        let ratio = (source.width / size.0).min(source.height / size.1);
        [8, 4, 2].into_iter().find(|&scale| ratio >= scale).unwrap_or(1)
    }

    /// The part of an image of `image_size` (width, height) whose pixels this view is computed from, so that
    /// the decoder can skip the rest. `full_region` is the whole image as the decoder reduces it; the result
    /// is in pixels of that reduced image.
    pub(crate) fn needed_region(&self, image_size: (u32, u32), full_region: DecodedRegion) -> Crop {
        let ResizePlan { source, size, window, .. } = self.resize_plan(image_size);
        let (x_axis, y_axis) = source_axes(source, full_region);
        let needed_range = |axis: SourceAxis, n_outputs, start, length| {
            axis.needed_pixels(self.eval.interpolation, n_outputs, start..start + length)
        };
        let (left, width) = needed_range(x_axis, size.0, window.left, window.width);
        let (top, height) = needed_range(y_axis, size.1, window.top, window.height);
        Crop { top, left, height, width }
    }

    /// Renders the view (resize, crop or pad, then the augmentation ops) from `image`, the decoded part of an
    /// image of `original_size` (width, height). `region` says where this part is in the original and by how
    /// much the decoder reduced it; the part must contain [`needed_region`](Self::needed_region).
    pub(crate) fn render_region(
        &self,
        image: &RgbImage,
        original_size: (u32, u32),
        region: DecodedRegion,
    ) -> RgbImage {
        if image.is_empty() {
            let (width, height) = self.eval.view_size();
            return RgbImage::new(width, height);
        }
        let ResizePlan { source, size: resized_size, window, offset } = self.resize_plan(original_size);
        let (x_axis, y_axis) = source_axes(source, region);
        let axes =
            (x_axis.with_first_available(region.origin.0), y_axis.with_first_available(region.origin.1));
        let mut view = resize_window(Arch::new(), image, axes, resized_size, window, self.eval.interpolation);
        // A window that is smaller than the view is padded with black.
        if view.dimensions() != self.eval.view_size() {
            let (width, height) = self.eval.view_size();
            let resized = std::mem::replace(&mut view, RgbImage::new(width, height));
            imageops::replace(&mut view, &resized, offset.0.into(), offset.1.into());
        }
        self.ops.iter().fold(view, |view, op| op.apply(view))
    }
}

/// Converts the crop `source` from pixels of the full image to pixels of the reduced image that the decoder
/// gives (`region`), as the columns and rows (x, y) to resize. They are counted from the first pixel of the
/// reduced image, even if the decoded part starts later.
fn source_axes(source: Crop, region: DecodedRegion) -> (SourceAxis, SourceAxis) {
    let axis = |start: u32, length: u32, shift: f64, size: u32| {
        let scaled = |pixels: u32| f64::from(pixels) / f64::from(region.scale);
        SourceAxis::from_span(scaled(start) + shift, scaled(length), size)
    };
    (
        axis(source.left, source.width, region.shift.0, region.image_size.0),
        axis(source.top, source.height, region.shift.1, region.image_size.1),
    )
}

/// The size (width, height) to which torchvision's `Resize(short_side)` resizes an image of the given size
/// (width, height): the short side becomes `short_side`, the long side `int(short_side * long / short)`.
pub(super) fn resized_size((width, height): (u32, u32), short_side: u32) -> (u32, u32) {
    let scaled_long_side =
        |long: u32, short: u32| (f64::from(short_side) * f64::from(long) / f64::from(short)) as u32;
    if width <= height {
        (short_side, scaled_long_side(height, width))
    } else {
        (scaled_long_side(width, height), short_side)
    }
}

/// Where torchvision's `CenterCrop` puts a crop of `crop` pixels, along one axis of an image of `size`
/// pixels: (offset of the crop in the image, offset of the image in the crop). The first is 0 if the image is
/// smaller and padded, the second is 0 otherwise.
pub(super) fn center_offset(size: u32, crop: u32) -> (u32, u32) {
    if size < crop {
        (0, (crop - size) / 2)
    } else {
        // Rounded as Python's `round`.
        ((f64::from(size - crop) / 2.0).round_ties_even() as u32, 0)
    }
}
