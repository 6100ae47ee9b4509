//! How a view is rendered from a photo. It is known before decoding, so that only the needed region is
//! decoded.

use image::{RgbImage, imageops};

use super::EvalTransform;
use super::resample::{SourceAxis, Window, resize_window};
use crate::augment::ImageOp;
use crate::decode::{Crop, DecodedRegion};

/// How one view of a photo is rendered: the evaluation transform, or an augmentation with drawn parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderSpec {
    pub(crate) eval: EvalTransform,
    /// The random resized crop, in place of the resizing and cropping of `eval`.
    pub(crate) crop: Option<Crop>,
    /// The operations on the resized view, in order.
    pub(crate) ops: Vec<ImageOp>,
}

/// A plan for resizing: `source` is resized to `size`, and only `window` of the result is computed.
struct ResizePlan {
    source: Crop,
    size: (u32, u32),
    window: Window,
    /// Position of the window in the view (x, y).
    offset: (u32, u32),
}

impl RenderSpec {
    pub(crate) fn eval(eval_transform: EvalTransform) -> Self {
        Self { eval: eval_transform, crop: None, ops: Vec::new() }
    }

    /// Renders the view of a decoded photo.
    pub(crate) fn render(&self, image: &RgbImage) -> RgbImage {
        self.render_region(image, image.dimensions(), DecodedRegion::whole(image.dimensions()))
    }

    /// Width and height of the view.
    fn size(&self) -> (u32, u32) {
        (self.eval.crop.1.max(1), self.eval.crop.0.max(1))
    }

    /// The plan for a photo of `photo_size` (width, height).
    fn resize_plan(&self, image_size: (u32, u32)) -> ResizePlan {
        let (width, height) = self.size();
        if let Some(part) = self.crop {
            // A crop that was drawn for a photo of another size may lie outside this one.
            let part = Some(part.clipped_to(image_size)).filter(|part| part.width > 0 && part.height > 0);
            let part = part.unwrap_or_else(|| Crop::whole(image_size));
            let window = Window { x: 0, y: 0, width, height };
            return ResizePlan { source: part, size: (width, height), window, offset: (0, 0) };
        }
        let resized = resized_size(image_size, self.eval.resize.max(1));
        let ((x, left), (y, top)) = (center_offset(resized.0, width), center_offset(resized.1, height));
        let window = Window { x, y, width: resized.0.min(width), height: resized.1.min(height) };
        ResizePlan { source: Crop::whole(image_size), size: resized, window, offset: (left, top) }
    }

    /// The largest of 1, 2, 4 and 8 by which a photo of `size` (width, height) can be reduced so that the
    /// source region is not smaller, along either axis, than the size it is resized to.
    pub(crate) fn max_reduction(&self, size: (u32, u32)) -> u32 {
        let ResizePlan { source, size, .. } = self.resize_plan(size);
        let ratio = (source.width / size.0).min(source.height / size.1);
        [8, 4, 2].into_iter().find(|&scale| ratio >= scale).unwrap_or(1)
    }

    /// The region needed of a photo of `size` (width, height), in pixels of the reduced photo `full_region`.
    pub(crate) fn needed_region(&self, size: (u32, u32), full_region: DecodedRegion) -> Crop {
        let ResizePlan { source, size, window, .. } = self.resize_plan(size);
        let (x_axis, y_axis) = source_axes(source, full_region);
        let needed_range = |axis: SourceAxis, output, start, length| {
            axis.needed_pixels(self.eval.interpolation, output, start..start + length)
        };
        let (left, width) = needed_range(x_axis, size.0, window.x, window.width);
        let (top, height) = needed_range(y_axis, size.1, window.y, window.height);
        Crop { top, left, height, width }
    }

    /// Renders the output (resize, crop or pad, then the augmentation ops) from `image`, the decoded part of an image
    /// of `original_size` (width, height). `region` says where that part is in the original and by how much the
    /// decoder reduced it; it must contain [`needed_region`](Self::needed_region).
    pub(crate) fn render_region(
        &self,
        image: &RgbImage,
        original_size: (u32, u32),
        region: DecodedRegion,
    ) -> RgbImage {
        if image.is_empty() {
            let (width, height) = self.size();
            return RgbImage::new(width, height);
        }
        let ResizePlan { source, size: resized_size, window, offset } = self.resize_plan(original_size);
        let (x_axis, y_axis) = source_axes(source, region);
        let axes =
            (x_axis.with_first_available(region.origin.0), y_axis.with_first_available(region.origin.1));
        let mut view = resize_window(image, axes, resized_size, window, self.eval.interpolation);
        // A window that is smaller than the output is padded with black.
        if view.dimensions() != self.size() {
            let (width, height) = self.size();
            let resized = std::mem::replace(&mut view, RgbImage::new(width, height));
            imageops::replace(&mut view, &resized, offset.0.into(), offset.1.into());
        }
        self.ops.iter().fold(view, |view, op| op.apply(view))
    }
}

/// The axes (x, y) of the crop `source` in pixels of the reduced photo, as if the whole photo were decoded.
fn source_axes(source: Crop, region: DecodedRegion) -> (SourceAxis, SourceAxis) {
    if region.scale == 1 {
        return (
            SourceAxis::from_pixels(source.left, source.width),
            SourceAxis::from_pixels(source.top, source.height),
        );
    }
    let axis = |start: u32, length: u32, shift: f64, size: u32| {
        let scaled = |pixels: u32| f64::from(pixels) / f64::from(region.scale);
        SourceAxis::from_span(scaled(start) + shift, scaled(length), size)
    };
    (
        axis(source.left, source.width, region.shift.0, region.image_size.0),
        axis(source.top, source.height, region.shift.1, region.image_size.1),
    )
}

/// The size (width, height) when the short side becomes `short_side`; the long one is `int(short * long /
/// short_before)`.
pub(super) fn resized_size((width, height): (u32, u32), short_side: u32) -> (u32, u32) {
    let scaled_long_side = |long: u32, short_before: u32| {
        (f64::from(short_side) * f64::from(long) / f64::from(short_before)) as u32
    };
    if width <= height {
        (short_side, scaled_long_side(height, width))
    } else {
        (scaled_long_side(width, height), short_side)
    }
}

/// Along one axis: the offset of the crop in the photo, and the offset of the photo in the crop.
pub(super) fn center_offset(size: u32, crop: u32) -> (u32, u32) {
    if size < crop {
        (0, (crop - size) / 2)
    } else {
        ((f64::from(size - crop) / 2.0).round_ties_even() as u32, 0)
    }
}
