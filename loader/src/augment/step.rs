//! What a step of the augmentation is.

use headstock_split::KeyedRng;

use super::check::{AugmentError, check_probability};
use crate::transform::ImageOp;

/// Operations on the pixels of a view, in the order in which they are applied.
pub(crate) type ImageOps = Vec<Box<dyn ImageOp>>;

/// A step of `[augment]`: the value of its key, from which each view draws the operations of the step.
pub(super) trait Step {
    /// Checks the config of this step; the error names the first value that is out of range.
    fn check(&self) -> Result<(), AugmentError>;

    /// Draws the operations of this step on a view of `view_size` (width, height); none if the step does not
    /// happen. The distributions are torchvision's. Values that [`check`](Self::check) rejects give arbitrary
    /// operations and do not panic.
    fn draw(&self, view_size: (u32, u32), random: &mut KeyedRng) -> ImageOps;
}

/// A step with its key within `[augment]`, which names its random stream.
pub(super) type KeyedStep = (&'static str, Box<dyn Step>);

/// The step with the key `key`; `None` if the key is not set.
pub(super) fn keyed(key: &'static str, step: Option<impl Step + 'static>) -> Option<KeyedStep> {
    Some((key, Box::new(step?)))
}

/// The step with the key `key` whose value is the probability `p` of `op`; `None` if the key is not set.
pub(super) fn chance(key: &'static str, p: Option<f64>, op: impl ImageOp + Clone) -> Option<KeyedStep> {
    keyed(key, p.map(|p| Chance { key, p, op }))
}

/// Applies `op`, which has no drawn parameters, with probability `p`.
struct Chance<O> {
    key: &'static str,
    p: f64,
    op: O,
}

impl<O: ImageOp + Clone> Step for Chance<O> {
    fn check(&self) -> Result<(), AugmentError> {
        check_probability(self.key, self.p)
    }

    fn draw(&self, _: (u32, u32), random: &mut KeyedRng) -> ImageOps {
        draw_chance(self.p, self.op.clone(), random)
    }
}

/// Draws whether `op` happens, with probability `p`.
pub(super) fn draw_chance(p: f64, op: impl ImageOp, random: &mut KeyedRng) -> ImageOps {
    if random.bernoulli(p) { vec![Box::new(op)] } else { Vec::new() }
}

/// torchvision's default probability of a step.
pub(super) fn half() -> f64 {
    0.5
}
