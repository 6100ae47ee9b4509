//! What is made of a photo, told before it is decoded: so that only what is needed of it is.

use image::{RgbImage, imageops};

use super::EvalTransform;
use super::resample::{SourceAxis, Window, resize_window};
use crate::augment::ImageOp;
use crate::decode::{Crop, DecodedRegion};

/// One rendering of a photo: the plain one, or an augmented one as it was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderSpec {
    pub(crate) eval: EvalTransform,
    /// The part of the photo that is seen, where it is not the plain view.
    pub(crate) crop: Option<Crop>,
    /// What is done to it when it has the size of the view.
    pub(crate) ops: Vec<ImageOp>,
}

/// How a photo is resized: a part of it to a size, of which a window is kept.
struct ResizePlan {
    source: Crop,
    size: (u32, u32),
    window: Window,
    /// Where the window lies in the rendering (x, y).
    offset: (u32, u32),
}

impl RenderSpec {
    pub(crate) fn eval(eval_transform: EvalTransform) -> Self {
        Self { eval: eval_transform, crop: None, ops: Vec::new() }
    }

    /// This of a photo at hand.
    pub(crate) fn render(&self, photo: &RgbImage) -> RgbImage {
        self.render_region(photo, photo.dimensions(), DecodedRegion::whole(photo.dimensions()))
    }

    /// Width and height.
    fn size(&self) -> (u32, u32) {
        (self.eval.crop.1.max(1), self.eval.crop.0.max(1))
    }

    fn resize_plan(&self, photo: (u32, u32)) -> ResizePlan {
        let (width, height) = self.size();
        if let Some(part) = self.crop {
            // Drawn for a photo of another size it may lie beside this one.
            let part = Some(part.clipped_to(photo)).filter(|part| part.width > 0 && part.height > 0);
            let part = part.unwrap_or_else(|| Crop::whole(photo));
            let window = Window { x: 0, y: 0, width, height };
            return ResizePlan { source: part, size: (width, height), window, offset: (0, 0) };
        }
        let resized = resized_size(photo, self.eval.resize.max(1));
        let ((x, left), (y, top)) = (center_offset(resized.0, width), center_offset(resized.1, height));
        let window = Window { x, y, width: resized.0.min(width), height: resized.1.min(height) };
        ResizePlan { source: Crop::whole(photo), size: resized, window, offset: (left, top) }
    }

    /// The greatest of 1, 2, 4 and 8 by which a photo of `size` can be reduced and is still as large, along both axes, as what it
    /// is resized to.
    pub(crate) fn max_reduction(&self, size: (u32, u32)) -> u32 {
        let ResizePlan { source, size, .. } = self.resize_plan(size);
        let ratio = (source.width / size.0).min(source.height / size.1);
        [8, 4, 2].into_iter().find(|&scale| ratio >= scale).unwrap_or(1)
    }

    /// What is needed of a photo of `size` that lies as `whole`, in its pixels.
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

    /// This of the photo of `size` whose pixels lie as `lie` says: those that it needs at least.
    pub(crate) fn render_region(
        &self,
        photo: &RgbImage,
        size: (u32, u32),
        region: DecodedRegion,
    ) -> RgbImage {
        if photo.is_empty() {
            let (width, height) = self.size();
            return RgbImage::new(width, height);
        }
        let ResizePlan { source, size, window, offset } = self.resize_plan(size);
        let (x_axis, y_axis) = source_axes(source, region);
        let axes =
            (x_axis.with_first_available(region.origin.0), y_axis.with_first_available(region.origin.1));
        let mut view = resize_window(photo, axes, size, window, self.eval.interpolation);
        if view.dimensions() != self.size() {
            let (width, height) = self.size();
            let resized = std::mem::replace(&mut view, RgbImage::new(width, height));
            imageops::replace(&mut view, &resized, offset.0.into(), offset.1.into());
        }
        self.ops.iter().fold(view, |view, op| op.apply(view))
    }
}

/// Where `part` of a photo is, in pixels that lie as `lie` says, were all of them there.
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

/// The size of a photo of `size` (width, height) whose short side becomes `short`: `int(short * long / short_before)`.
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

/// Along one axis: where the crop begins in the photo, and where the photo begins in the crop.
pub(super) fn center_offset(size: u32, crop: u32) -> (u32, u32) {
    if size < crop {
        (0, (crop - size) / 2)
    } else {
        ((f64::from(size - crop) / 2.0).round_ties_even() as u32, 0)
    }
}
