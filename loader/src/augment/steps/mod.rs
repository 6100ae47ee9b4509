//! The tables of `[augment]` that are one step each: their keys, what is refused, and how their parameters are drawn.

mod blur;
mod erasing;
mod geometric;
mod jitter;
mod pointwise;

pub use blur::{GaussianBlur, RandomAdjustSharpness};
pub use erasing::RandomErasing;
pub(super) use geometric::check_interpolation;
pub use geometric::{RandomAffine, RandomPerspective};
pub use jitter::ColorJitter;
pub use pointwise::{RandomPosterize, RandomSolarize};

/// torchvision's probability of a step that may be left out.
fn half() -> f64 {
    0.5
}
