//! Transforms of pixels with all parameters given: resampling, rotation, affine and perspective maps, lookup
//! tables.

pub(crate) mod enhance;
pub(crate) mod lookup_table;
mod resample;
pub(crate) mod rotate;
pub(crate) mod warp;

use std::any::Any;
use std::fmt;

use image::RgbImage;

pub use headstock_split::{Resampling, Resize};
pub(crate) use resample::{SourceAxis, resize, resize_window};

/// An operation on the pixels of an image, with all its parameters. The values of the parameters are in its
/// `Debug` text.
pub(crate) trait ImageOp: Any + fmt::Debug + Send + Sync {
    /// Applies this operation to `image`, a view during its rendering, and returns the result.
    fn apply(&self, image: RgbImage) -> RgbImage;
}

#[cfg(test)]
mod tests;
