//! AutoAugment: pairs of operations that were searched for on ImageNet.

use headstock_split::KeyedRng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operation::{MagnitudeScale, PolicyOp};
use super::{DrawnOp, check_interpolation};
use crate::augment::check::AugmentError;
use crate::transform::Resampling;

/// The parameters of torchvision's `AutoAugment` with ImageNet's policy (Cubuk et al. 2018).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AutoAugment {
    /// Interpolation between pixels: `nearest` (the default), `bilinear` or `bicubic`.
    pub interpolation: Resampling,
}

impl Default for AutoAugment {
    fn default() -> Self {
        Self { interpolation: Resampling::Nearest }
    }
}

/// An operation, its probability and its magnitude bin (0 for operations without a magnitude).
type OpChance = (PolicyOp, f64, u32);

/// Number of magnitude bins.
const N_BINS: u32 = 10;

/// torchvision's pairs of operations for ImageNet.
#[rustfmt::skip]
pub(super) const IMAGENET_POLICY: [[OpChance; 2]; 25] = {
    use PolicyOp::{AutoContrast, Color, Contrast, Equalize, Invert, Posterize, Rotate, Sharpness, ShearX, Solarize};
    [
        [(Posterize, 0.4, 8), (Rotate, 0.6, 9)],
        [(Solarize, 0.6, 5), (AutoContrast, 0.6, 0)],
        [(Equalize, 0.8, 0), (Equalize, 0.6, 0)],
        [(Posterize, 0.6, 7), (Posterize, 0.6, 6)],
        [(Equalize, 0.4, 0), (Solarize, 0.2, 4)],
        [(Equalize, 0.4, 0), (Rotate, 0.8, 8)],
        [(Solarize, 0.6, 3), (Equalize, 0.6, 0)],
        [(Posterize, 0.8, 5), (Equalize, 1.0, 0)],
        [(Rotate, 0.2, 3), (Solarize, 0.6, 8)],
        [(Equalize, 0.6, 0), (Posterize, 0.4, 6)],
        [(Rotate, 0.8, 8), (Color, 0.4, 0)],
        [(Rotate, 0.4, 9), (Equalize, 0.6, 0)],
        [(Equalize, 0.0, 0), (Equalize, 0.8, 0)],
        [(Invert, 0.6, 0), (Equalize, 1.0, 0)],
        [(Color, 0.6, 4), (Contrast, 1.0, 8)],
        [(Rotate, 0.8, 8), (Color, 1.0, 2)],
        [(Color, 0.8, 8), (Solarize, 0.8, 7)],
        [(Sharpness, 0.4, 7), (Invert, 0.6, 0)],
        [(ShearX, 0.6, 5), (Equalize, 1.0, 0)],
        [(Color, 0.4, 0), (Equalize, 0.6, 0)],
        [(Equalize, 0.4, 0), (Solarize, 0.2, 4)],
        [(Solarize, 0.6, 5), (AutoContrast, 0.6, 0)],
        [(Invert, 0.6, 0), (Equalize, 1.0, 0)],
        [(Color, 0.6, 4), (Contrast, 1.0, 8)],
        [(Equalize, 0.8, 0), (Equalize, 0.6, 0)],
    ]
};

impl AutoAugment {
    /// An error if the interpolation is not supported.
    pub(super) fn check(&self) -> Result<(), AugmentError> {
        check_interpolation("policy.interpolation", self.interpolation)
    }

    /// Draws the operations for a view of `size` (width, height), none to two: one of the pairs of
    /// [`IMAGENET_POLICY`], of which each operation happens with its probability, with a random sign.
    pub(super) fn draw(&self, size: (u32, u32), random: &mut KeyedRng) -> Vec<DrawnOp> {
        let scale = MagnitudeScale::for_rand_augment(size, N_BINS);
        let mut drawn = Vec::new();
        for (operation, probability, bin) in IMAGENET_POLICY[random.below(IMAGENET_POLICY.len())] {
            if random.bernoulli(probability) {
                drawn.push(DrawnOp::with_random_sign(operation, scale.magnitude(operation, bin), random));
            }
        }
        drawn
    }
}
