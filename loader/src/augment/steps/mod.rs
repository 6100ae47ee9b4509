//! The steps of `[augment]` with more than one key: their keys, their checks, and how their parameters are
//! drawn.

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

/// torchvision's default probability of a step.
fn half() -> f64 {
    0.5
}
