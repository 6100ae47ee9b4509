//! AugMix: chains of operations, mixed.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::operation::{Operation, Scale};
use super::{Drawn, MOST_OPS, tensor};
use crate::augment::check::{AugmentError, require};
use crate::random::KeyedRandom;

/// The parameters of torchvision's `AugMix` (Hendrycks et al. 2019), bilinear.
///
/// Of a PIL image torchvision makes a tensor first, so that its operations are those on tensors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugMix {
    /// The strongest step of the scale that is taken, from 1 to 10.
    pub severity: u32,
    /// Chains, from 1 to 100.
    pub mixture_width: u32,
    /// Operations in a chain, at most 100; -1: from 1 to 3, at random.
    pub chain_depth: i32,
    /// The concentration of the weights, from 0.001 to 1,000: with small ones, one chain prevails.
    pub alpha: f64,
    /// Brightness, contrast, saturation and sharpness too.
    pub all_ops: bool,
}

impl Default for AugMix {
    fn default() -> Self {
        Self { severity: 3, mixture_width: 3, chain_depth: -1, alpha: 1.0, all_ops: true }
    }
}

/// The steps of the scale.
const BINS: u32 = 10;

/// What AugMix drew: weights and chains.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mix {
    /// The photo's own weight.
    pub(super) photo: f32,
    pub(super) chains: Vec<(f32, Vec<Drawn>)>,
}

impl AugMix {
    const OPERATIONS: [Operation; 13] = [
        Operation::ShearX,
        Operation::ShearY,
        Operation::TranslateX,
        Operation::TranslateY,
        Operation::Rotate,
        Operation::Posterize,
        Operation::Solarize,
        Operation::AutoContrast,
        Operation::Equalize,
        Operation::Brightness,
        Operation::Color,
        Operation::Contrast,
        Operation::Sharpness,
    ];

    pub(super) fn check(&self) -> Result<(), AugmentError> {
        let Self { severity, mixture_width, chain_depth, alpha, .. } = *self;
        require((1..=BINS).contains(&severity), "policy.severity", severity, "must be from 1 to 10")?;
        let width = (1..=MOST_OPS).contains(&mixture_width);
        require(width, "policy.mixture_width", mixture_width, "must be from 1 to 100")?;
        let depth = chain_depth == -1 || (1..=MOST_OPS as i32).contains(&chain_depth);
        require(
            depth,
            "policy.chain_depth",
            chain_depth,
            "must be from 1 to 100, or -1 for 1 to 3 at random",
        )?;
        let concentration = (1e-3..=1e3).contains(&alpha);
        require(concentration, "policy.alpha", alpha, "must be from 0.001 to 1000")
    }

    pub(super) fn draw(&self, size: (u32, u32), random: &mut KeyedRandom) -> Mix {
        let operations = if self.all_ops { &Self::OPERATIONS[..] } else { &Self::OPERATIONS[..9] };
        let scale = Scale::mixed(size, BINS);
        let strongest = self.severity.clamp(1, BINS) - 1;
        let ours = random.dirichlet(self.alpha, 2);
        let width = self.mixture_width.min(MOST_OPS) as usize;
        let weights = random.dirichlet(self.alpha, width);
        let mut chain = || {
            let depth = match u32::try_from(self.chain_depth) {
                Ok(depth @ 1..) => depth.min(MOST_OPS),
                _ => 1 + random.up_to(2),
            };
            let mut one = || {
                let operation = operations[random.below(operations.len())];
                let bin = random.up_to(strongest);
                Drawn::with_sign(operation, scale.magnitude(operation, bin), random)
            };
            (0..depth).map(|_| one()).collect()
        };
        let chains = weights.iter().map(|weight| ((weight * ours[1]) as f32, chain())).collect();
        Mix { photo: ours[0] as f32, chains }
    }
}

impl Mix {
    /// The weighted sum, cut and not rounded.
    pub(crate) fn apply(&self, photo: &RgbImage) -> RgbImage {
        let mut sums: Vec<f32> = photo.iter().map(|&value| self.photo * f32::from(value)).collect();
        for (weight, chain) in &self.chains {
            let changed = chain
                .iter()
                .fold(photo.clone(), |photo, drawn| tensor::apply(photo, drawn.operation, drawn.magnitude));
            for (sum, &value) in sums.iter_mut().zip(changed.iter()) {
                *sum += weight * f32::from(value);
            }
        }
        let mut out = RgbImage::new(photo.width(), photo.height());
        for (value, sum) in out.iter_mut().zip(sums) {
            *value = sum as u8;
        }
        out
    }
}
