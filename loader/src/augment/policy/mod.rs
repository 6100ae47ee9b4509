//! Policies: operations chosen at random, with strengths from a scale.

mod aug_mix;
mod auto_augment;
mod operation;
mod tensor;

use serde::{Deserialize, Serialize};

pub use aug_mix::AugMix;
pub(super) use aug_mix::Mix;
pub use auto_augment::AutoAugment;
use operation::{Operation, Scale};

use super::check::{AugmentError, require};
use super::ops::Op;
use super::steps::check_interpolation;
use crate::random::KeyedRandom;
use crate::transform::Interpolation;

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
    pub(super) fn draw(&self, size: (u32, u32), random: &mut KeyedRandom) -> Vec<Op> {
        let (chain, interpolation) = match self {
            Self::RandAugment(policy) => (policy.draw(size, random), policy.interpolation),
            Self::TrivialAugmentWide(policy) => (vec![policy.draw(random)], policy.interpolation),
            Self::AutoAugment(policy) => (policy.draw(size, random), policy.interpolation),
            Self::AugMix(policy) => return vec![Op::Mix(policy.draw(size, random))],
        };
        chain.into_iter().filter_map(|operation| operation.op(interpolation)).collect()
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
    pub interpolation: Interpolation,
}

impl Default for RandAugment {
    fn default() -> Self {
        Self { num_ops: 2, magnitude: 9, num_magnitude_bins: 31, interpolation: Interpolation::Nearest }
    }
}

/// The most operations in a row.
const MOST_OPS: u32 = 100;

const BINS: &str = "must be at least 2";

impl RandAugment {
    const OPERATIONS: [Operation; 14] = [
        Operation::Identity,
        Operation::ShearX,
        Operation::ShearY,
        Operation::TranslateX,
        Operation::TranslateY,
        Operation::Rotate,
        Operation::Brightness,
        Operation::Color,
        Operation::Contrast,
        Operation::Sharpness,
        Operation::Posterize,
        Operation::Solarize,
        Operation::AutoContrast,
        Operation::Equalize,
    ];

    fn check(&self) -> Result<(), AugmentError> {
        require(self.num_ops <= MOST_OPS, "policy.num_ops", self.num_ops, "must be at most 100")?;
        require(self.num_magnitude_bins >= 2, "policy.num_magnitude_bins", self.num_magnitude_bins, BINS)?;
        require(
            self.magnitude < self.num_magnitude_bins,
            "policy.magnitude",
            self.magnitude,
            "must be below num_magnitude_bins, which is 31 where it is left out",
        )?;
        check_interpolation("policy.interpolation", self.interpolation)
    }

    fn draw(&self, size: (u32, u32), random: &mut KeyedRandom) -> Vec<Drawn> {
        let scale = Scale::searched(size, self.num_magnitude_bins);
        let mut one = || {
            let operation = Self::OPERATIONS[random.below(Self::OPERATIONS.len())];
            Drawn::with_sign(operation, scale.magnitude(operation, self.magnitude), random)
        };
        (0..self.num_ops.min(MOST_OPS)).map(|_| one()).collect()
    }
}

/// The parameters of torchvision's `TrivialAugmentWide` (Müller and Hutter 2021).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrivialAugmentWide {
    /// The steps of the scale of strengths.
    pub num_magnitude_bins: u32,
    /// What is between pixels: `nearest`, `bilinear` or `bicubic`.
    pub interpolation: Interpolation,
}

impl Default for TrivialAugmentWide {
    fn default() -> Self {
        Self { num_magnitude_bins: 31, interpolation: Interpolation::Nearest }
    }
}

impl TrivialAugmentWide {
    fn check(&self) -> Result<(), AugmentError> {
        require(self.num_magnitude_bins >= 2, "policy.num_magnitude_bins", self.num_magnitude_bins, BINS)?;
        check_interpolation("policy.interpolation", self.interpolation)
    }

    fn draw(&self, random: &mut KeyedRandom) -> Drawn {
        let operations = RandAugment::OPERATIONS;
        let operation = operations[random.below(operations.len())];
        let bin = random.up_to(self.num_magnitude_bins.saturating_sub(1));
        Drawn::with_sign(operation, Scale::wide(self.num_magnitude_bins).magnitude(operation, bin), random)
    }
}

/// An operation and its strength, in the unit of the operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Drawn {
    operation: Operation,
    magnitude: f64,
}

impl Drawn {
    /// Of an operation that goes two ways, one half of all go the other way.
    fn with_sign(operation: Operation, magnitude: f64, random: &mut KeyedRandom) -> Self {
        let other = operation.is_signed() && random.chance(0.5);
        Self { operation, magnitude: if other { -magnitude } else { magnitude } }
    }

    /// None where nothing is done.
    fn op(self, interpolation: Interpolation) -> Option<Op> {
        self.operation.op(self.magnitude, interpolation)
    }
}

#[cfg(test)]
mod tests;
