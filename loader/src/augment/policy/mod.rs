//! Automatic augmentation policies: random operations with magnitudes from a scale.

mod aug_mix;
mod auto_augment;
mod operation;
mod tensor;

use headstock_split::KeyedRng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use aug_mix::AugMix;
pub use auto_augment::AutoAugment;
use operation::{MagnitudeScale, PolicyOp};

use super::check::{AugmentError, check_interpolation, require};
use super::step::{ImageOps, Step};
use crate::transform::Resampling;

/// `augment.policy`: one of torchvision's automatic augmentation policies, chosen by `kind`.
///
/// ```
/// use headstock_loader::augment::{Augment, Policy, RandAugment};
///
/// let policy = Policy::RandAugment(RandAugment { magnitude: 7, ..RandAugment::default() });
/// let augment = Augment { policy: Some(policy), ..Augment::default() };
/// let json = r#"{ "policy": { "kind": "rand-augment", "magnitude": 7 } }"#;
/// assert_eq!(augment, serde_json::from_str(json)?);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Policy {
    /// `num_ops` random operations in a row, all with the same magnitude (`RandAugment`).
    RandAugment(RandAugment),
    /// One random operation with a random magnitude (`TrivialAugmentWide`).
    TrivialAugmentWide(TrivialAugmentWide),
    /// Chains of random operations, mixed with each other and with the photo (`AugMix`).
    AugMix(AugMix),
    /// One of the pairs of operations that were searched for on ImageNet (`AutoAugment`).
    AutoAugment(AutoAugment),
}

impl Step for Policy {
    fn check(&self) -> Result<(), AugmentError> {
        match self {
            Self::RandAugment(policy) => policy.check(),
            Self::TrivialAugmentWide(policy) => policy.check(),
            Self::AugMix(policy) => policy.check(),
            Self::AutoAugment(policy) => policy.check(),
        }
    }

    /// The mixed chains of `AugMix` are one operation.
    fn draw(&self, view_size: (u32, u32), random: &mut KeyedRng) -> ImageOps {
        let (chain, interpolation) = match self {
            Self::RandAugment(policy) => (policy.draw(view_size, random), policy.interpolation),
            Self::TrivialAugmentWide(policy) => (vec![policy.draw(random)], policy.interpolation),
            Self::AutoAugment(policy) => (policy.draw(view_size, random), policy.interpolation),
            Self::AugMix(policy) => return vec![Box::new(policy.draw(view_size, random))],
        };
        let to_image_op = |drawn: DrawnOp| drawn.operation.to_image_op(drawn.magnitude, interpolation);
        chain.into_iter().filter_map(to_image_op).collect()
    }
}

/// The parameters of torchvision's `RandAugment` (Cubuk et al. 2019).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandAugment {
    /// Number of operations in a row, at most 100. Default 2.
    pub num_ops: u32,
    /// Magnitude of the operations: a bin from 0 to `num_magnitude_bins` - 1. Default 9.
    pub magnitude: u32,
    /// Number of magnitude bins, at least 2. Default 31.
    pub num_magnitude_bins: u32,
    /// Interpolation between pixels: `nearest` (the default), `bilinear` or `bicubic`.
    pub interpolation: Resampling,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self { num_ops: 2, magnitude: 9, num_magnitude_bins: 31, interpolation: Resampling::Nearest }
    }
}

/// The largest number of operations in a row, and of chains, which bounds the time of a view.
const MAX_OPS: u32 = 100;

/// An error unless there are at least two magnitude bins.
fn check_magnitude_bins(n_bins: u32) -> Result<(), AugmentError> {
    require(n_bins >= 2, "policy.num_magnitude_bins", n_bins, "must be at least 2")
}

impl RandAugment {
    /// The operations to draw from.
    const OPERATIONS: [PolicyOp; 14] = [
        PolicyOp::Identity,
        PolicyOp::ShearX,
        PolicyOp::ShearY,
        PolicyOp::TranslateX,
        PolicyOp::TranslateY,
        PolicyOp::Rotate,
        PolicyOp::Brightness,
        PolicyOp::Color,
        PolicyOp::Contrast,
        PolicyOp::Sharpness,
        PolicyOp::Posterize,
        PolicyOp::Solarize,
        PolicyOp::AutoContrast,
        PolicyOp::Equalize,
    ];

    /// Checks the config of this policy; the error names the first value that is out of range.
    fn check(&self) -> Result<(), AugmentError> {
        require(self.num_ops <= MAX_OPS, "policy.num_ops", self.num_ops, "must be at most 100")?;
        check_magnitude_bins(self.num_magnitude_bins)?;
        require(
            self.magnitude < self.num_magnitude_bins,
            "policy.magnitude",
            self.magnitude,
            "must be below `num_magnitude_bins` (31 by default)",
        )?;
        check_interpolation("policy.interpolation", self.interpolation)
    }

    /// Draws the `num_ops` operations of `RandAugment` for a view of `size` (width, height), all at the
    /// magnitude bin `magnitude`: each is uniform among [`OPERATIONS`](Self::OPERATIONS), with a random sign.
    fn draw(&self, size: (u32, u32), random: &mut KeyedRng) -> Vec<DrawnOp> {
        let scale = MagnitudeScale::for_rand_augment(size, self.num_magnitude_bins);
        let mut draw_op = || {
            let operation = Self::OPERATIONS[random.below(Self::OPERATIONS.len())];
            DrawnOp::with_random_sign(operation, scale.magnitude(operation, self.magnitude), random)
        };
        (0..self.num_ops.min(MAX_OPS)).map(|_| draw_op()).collect()
    }
}

/// The parameters of torchvision's `TrivialAugmentWide` (Müller and Hutter 2021).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrivialAugmentWide {
    /// Number of magnitude bins, at least 2. Default 31.
    pub num_magnitude_bins: u32,
    /// Interpolation between pixels: `nearest` (the default), `bilinear` or `bicubic`.
    pub interpolation: Resampling,
}

impl Default for TrivialAugmentWide {
    fn default() -> Self {
        Self { num_magnitude_bins: 31, interpolation: Resampling::Nearest }
    }
}

impl TrivialAugmentWide {
    /// Checks the config of this policy; the error names the first value that is out of range.
    fn check(&self) -> Result<(), AugmentError> {
        check_magnitude_bins(self.num_magnitude_bins)?;
        check_interpolation("policy.interpolation", self.interpolation)
    }

    /// Draws the one operation of `TrivialAugmentWide` for a view: uniform among those of [`RandAugment`],
    /// with a uniform magnitude bin and a random sign.
    fn draw(&self, random: &mut KeyedRng) -> DrawnOp {
        let operations = RandAugment::OPERATIONS;
        let operation = operations[random.below(operations.len())];
        let bin = random.up_to(self.num_magnitude_bins.saturating_sub(1));
        let scale = MagnitudeScale::for_trivial_augment(self.num_magnitude_bins);
        DrawnOp::with_random_sign(operation, scale.magnitude(operation, bin), random)
    }
}

/// A drawn operation with its magnitude, in the unit of the operation.
#[derive(Clone, Copy, Debug, PartialEq)]
struct DrawnOp {
    operation: PolicyOp,
    magnitude: f64,
}

impl DrawnOp {
    /// `operation` with `magnitude`, which is negated with probability 1/2 if the operation is signed.
    fn with_random_sign(operation: PolicyOp, magnitude: f64, random: &mut KeyedRng) -> Self {
        let is_negated = operation.is_signed() && random.bernoulli(0.5);
        Self { operation, magnitude: if is_negated { -magnitude } else { magnitude } }
    }
}

#[cfg(test)]
mod tests;
