//! The tables of `[augment]` that are one step each: their keys, what is refused, and how their parameters are drawn.

mod blur;
mod erasing;
mod geometric;
mod jitter;
mod pointwise;

pub use blur::{GaussianBlur, Sharpness};
pub use erasing::Erasing;
pub(super) use geometric::check_interpolation;
pub use geometric::{Affine, Perspective};
pub use jitter::ColorJitter;
pub use pointwise::{Posterize, Solarize};

/// torchvision's probability of a step that may be left out.
fn half() -> f64 {
    0.5
}
