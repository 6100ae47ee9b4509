//! Policies: operations chosen at random, with strengths from a scale.

mod aug_mix;
mod auto_augment;
mod operation;
mod tensor;

use serde::{Deserialize, Serialize};

pub use aug_mix::AugMix;
pub(super) use aug_mix::AugMixDraw;
pub use auto_augment::AutoAugment;
use operation::{MagnitudeScale, PolicyOp};

use super::check::{AugmentError, require};
use super::ops::ImageOp;
use super::steps::check_interpolation;
use crate::random::KeyedRandom;
use crate::transform::Resampling;

/// `augment.policy`: torchvision's automatic augmentations, by `kind`.
///
/// ```
/// use headstock_loader::augment::{Augment, Policy, RandAugment};
///
/// let policy = Policy::RandAugment(RandAugment { magnitude: 7, ..RandAugment::default() });
/// let augment = Augment { policy: Some(policy), ..Augment::default() };
/// let same = r#"{ "policy": { "kind": "rand-augment", "magnitude": 7 } }"#;
/// assert_eq!(augment, serde_json::from_str(same)?);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Policy {
    /// Some operations one after the other, all of one strength.
    RandAugment(RandAugment),
    /// One operation of any strength.
    TrivialAugmentWide(TrivialAugmentWide),
    /// Chains of operations, mixed with each other and the photo.
    AugMix(AugMix),
    /// One of the pairs of operations that were found on ImageNet.
    AutoAugment(AutoAugment),
}

impl Policy {
    pub(super) fn check(&self) -> Result<(), AugmentError> {
        match self {
            Self::RandAugment(policy) => policy.check(),
            Self::TrivialAugmentWide(policy) => policy.check(),
            Self::AugMix(policy) => policy.check(),
            Self::AutoAugment(policy) => policy.check(),
        }
    }

    /// For a view of (width, height).
    pub(super) fn draw(&self, size: (u32, u32), random: &mut KeyedRandom) -> Vec<ImageOp> {
        let (chain, interpolation) = match self {
            Self::RandAugment(policy) => (policy.draw(size, random), policy.interpolation),
            Self::TrivialAugmentWide(policy) => (vec![policy.draw(random)], policy.interpolation),
            Self::AutoAugment(policy) => (policy.draw(size, random), policy.interpolation),
            Self::AugMix(policy) => return vec![ImageOp::Mix(policy.draw(size, random))],
        };
        chain.into_iter().filter_map(|operation| operation.to_image_op(interpolation)).collect()
    }
}

/// The parameters of torchvision's `RandAugment` (Cubuk et al. 2019).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandAugment {
    /// Operations one after the other, at most 100.
    pub num_ops: u32,
    /// Their strength: a step of the scale, from 0.
    pub magnitude: u32,
    /// The steps of the scale.
    pub num_magnitude_bins: u32,
    /// What is between pixels: `nearest`, `bilinear` or `bicubic`.
    pub interpolation: Resampling,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self { num_ops: 2, magnitude: 9, num_magnitude_bins: 31, interpolation: Resampling::Nearest }
    }
}

/// The most operations in a row.
const MAX_OPS: u32 = 100;

const BINS_EXPECTED: &str = "must be at least 2";

impl RandAugment {
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

    fn check(&self) -> Result<(), AugmentError> {
        require(self.num_ops <= MAX_OPS, "policy.num_ops", self.num_ops, "must be at most 100")?;
        require(
            self.num_magnitude_bins >= 2,
            "policy.num_magnitude_bins",
            self.num_magnitude_bins,
            BINS_EXPECTED,
        )?;
        require(
            self.magnitude < self.num_magnitude_bins,
            "policy.magnitude",
            self.magnitude,
            "must be below num_magnitude_bins, which is 31 where it is left out",
        )?;
        check_interpolation("policy.interpolation", self.interpolation)
    }

    fn draw(&self, size: (u32, u32), random: &mut KeyedRandom) -> Vec<DrawnOp> {
        let scale = MagnitudeScale::for_rand_augment(size, self.num_magnitude_bins);
        let mut draw_op = || {
            let operation = Self::OPERATIONS[random.index(Self::OPERATIONS.len())];
            DrawnOp::with_random_sign(operation, scale.magnitude(operation, self.magnitude), random)
        };
        (0..self.num_ops.min(MAX_OPS)).map(|_| draw_op()).collect()
    }
}

/// The parameters of torchvision's `TrivialAugmentWide` (Müller and Hutter 2021).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrivialAugmentWide {
    /// The steps of the scale of strengths.
    pub num_magnitude_bins: u32,
    /// What is between pixels: `nearest`, `bilinear` or `bicubic`.
    pub interpolation: Resampling,
}

impl Default for TrivialAugmentWide {
    fn default() -> Self {
        Self { num_magnitude_bins: 31, interpolation: Resampling::Nearest }
    }
}

impl TrivialAugmentWide {
    fn check(&self) -> Result<(), AugmentError> {
        require(
            self.num_magnitude_bins >= 2,
            "policy.num_magnitude_bins",
            self.num_magnitude_bins,
            BINS_EXPECTED,
        )?;
        check_interpolation("policy.interpolation", self.interpolation)
    }

    fn draw(&self, random: &mut KeyedRandom) -> DrawnOp {
        let operations = RandAugment::OPERATIONS;
        let operation = operations[random.index(operations.len())];
        let bin = random.up_to(self.num_magnitude_bins.saturating_sub(1));
        DrawnOp::with_random_sign(
            operation,
            MagnitudeScale::for_trivial_augment(self.num_magnitude_bins).magnitude(operation, bin),
            random,
        )
    }
}

/// An operation and its strength, in the unit of the operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DrawnOp {
    operation: PolicyOp,
    magnitude: f64,
}

impl DrawnOp {
    /// Of an operation that goes two ways, one half of all go the other way.
    fn with_random_sign(operation: PolicyOp, magnitude: f64, random: &mut KeyedRandom) -> Self {
        let is_negated = operation.is_signed() && random.bernoulli(0.5);
        Self { operation, magnitude: if is_negated { -magnitude } else { magnitude } }
    }

    /// None where nothing is done.
    fn to_image_op(self, interpolation: Resampling) -> Option<ImageOp> {
        self.operation.to_image_op(self.magnitude, interpolation)
    }
}

#[cfg(test)]
mod tests;
