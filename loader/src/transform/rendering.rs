//! What is made of a photo, told before it is decoded: so that only what is needed of it is.

use image::{RgbImage, imageops};

use super::EvalTransform;
use super::resample::{Axis, Window, resize_window};
use crate::augment::Op;
use crate::decode::{Crop, Lie};

/// One rendering of a photo: the plain one, or an augmented one as it was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendering {
    pub(crate) plain: EvalTransform,
    /// The part of the photo that is seen, where it is not the plain view.
    pub(crate) crop: Option<Crop>,
    /// What is done to it when it has the size of the view.
    pub(crate) ops: Vec<Op>,
}

/// How a photo is resized: a part of it to a size, of which a window is kept.
struct Resizing {
    part: Crop,
    size: (u32, u32),
    window: Window,
    /// Where the window lies in the rendering (x, y).
    place: (u32, u32),
}

impl Rendering {
    pub(crate) fn plain(plain: EvalTransform) -> Self {
        Self { plain, crop: None, ops: Vec::new() }
    }

    /// This of a photo at hand.
    pub(crate) fn of(&self, photo: &RgbImage) -> RgbImage {
        self.apply(photo, photo.dimensions(), Lie::whole(photo.dimensions()))
    }

    /// Width and height.
    fn size(&self) -> (u32, u32) {
        (self.plain.crop.1.max(1), self.plain.crop.0.max(1))
    }

    fn resizing(&self, photo: (u32, u32)) -> Resizing {
        let (across, down) = self.size();
        if let Some(part) = self.crop {
            // Drawn for a photo of another size it may lie beside this one.
            let part = Some(part.within(photo)).filter(|part| part.width > 0 && part.height > 0);
            let part = part.unwrap_or_else(|| Crop::whole(photo));
            let window = Window { x: 0, y: 0, width: across, height: down };
            return Resizing { part, size: (across, down), window, place: (0, 0) };
        }
        let size = short_side_to(photo, self.plain.resize.max(1));
        let ((x, left), (y, top)) = (offset(size.0, across), offset(size.1, down));
        let window = Window { x, y, width: size.0.min(across), height: size.1.min(down) };
        Resizing { part: Crop::whole(photo), size, window, place: (left, top) }
    }

    /// The greatest of 1, 2, 4 and 8 by which a photo of `size` can be reduced and is still as large, along both axes, as what it
    /// is resized to.
    pub(crate) fn most_reduced(&self, size: (u32, u32)) -> u32 {
        let Resizing { part, size, .. } = self.resizing(size);
        let larger = (part.width / size.0).min(part.height / size.1);
        [8, 4, 2].into_iter().find(|&scale| larger >= scale).unwrap_or(1)
    }

    /// What is needed of a photo of `size` that lies as `whole`, in its pixels.
    pub(crate) fn needs(&self, size: (u32, u32), whole: Lie) -> Crop {
        let Resizing { part, size, window, .. } = self.resizing(size);
        let (across, down) = axes(part, whole);
        let along = |axis: Axis, output, from, length| {
            axis.needed(self.plain.interpolation, output, from..from + length)
        };
        let (left, width) = along(across, size.0, window.x, window.width);
        let (top, height) = along(down, size.1, window.y, window.height);
        Crop { top, left, height, width }
    }

    /// This of the photo of `size` whose pixels lie as `lie` says: those that it needs at least.
    pub(crate) fn apply(&self, photo: &RgbImage, size: (u32, u32), lie: Lie) -> RgbImage {
        if photo.is_empty() {
            let (width, height) = self.size();
            return RgbImage::new(width, height);
        }
        let Resizing { part, size, window, place } = self.resizing(size);
        let (across, down) = axes(part, lie);
        let axes = (across.at_hand_from(lie.origin.0), down.at_hand_from(lie.origin.1));
        let mut view = resize_window(photo, axes, size, window, self.plain.interpolation);
        if view.dimensions() != self.size() {
            let (width, height) = self.size();
            let kept = std::mem::replace(&mut view, RgbImage::new(width, height));
            imageops::replace(&mut view, &kept, place.0.into(), place.1.into());
        }
        self.ops.iter().fold(view, |view, op| op.apply(view))
    }
}

/// Where `part` of a photo is, in pixels that lie as `lie` says, were all of them there.
fn axes(part: Crop, lie: Lie) -> (Axis, Axis) {
    if lie.scale == 1 {
        return (Axis::whole(part.left, part.width), Axis::whole(part.top, part.height));
    }
    let along = |start: u32, length: u32, shift: f64, size: u32| {
        let reduced = |pixels: u32| f64::from(pixels) / f64::from(lie.scale);
        Axis::stretch(reduced(start) + shift, reduced(length), size)
    };
    (
        along(part.left, part.width, lie.shift.0, lie.size.0),
        along(part.top, part.height, lie.shift.1, lie.size.1),
    )
}

/// The size of a photo of `size` (width, height) whose short side becomes `short`: `int(short * long / short_before)`.
pub(super) fn short_side_to((width, height): (u32, u32), short: u32) -> (u32, u32) {
    let long = |long: u32, before: u32| (f64::from(short) * f64::from(long) / f64::from(before)) as u32;
    if width <= height { (short, long(height, width)) } else { (long(width, height), short) }
}

/// Along one axis: where the crop begins in the photo, and where the photo begins in the crop.
pub(super) fn offset(size: u32, crop: u32) -> (u32, u32) {
    if size < crop {
        (0, (crop - size) / 2)
    } else {
        ((f64::from(size - crop) / 2.0).round_ties_even() as u32, 0)
    }
}
