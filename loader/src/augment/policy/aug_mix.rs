//! AugMix: chains of operations, mixed.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::operation::{MagnitudeScale, PolicyOp};
use super::{DrawnOp, MAX_OPS, tensor};
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
const N_BINS: u32 = 10;

/// What AugMix drew: weights and chains.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AugMixDraw {
    /// The photo's own weight.
    pub(super) original_weight: f32,
    pub(super) chains: Vec<(f32, Vec<DrawnOp>)>,
}

impl AugMix {
    const OPERATIONS: [PolicyOp; 13] = [
        PolicyOp::ShearX,
        PolicyOp::ShearY,
        PolicyOp::TranslateX,
        PolicyOp::TranslateY,
        PolicyOp::Rotate,
        PolicyOp::Posterize,
        PolicyOp::Solarize,
        PolicyOp::AutoContrast,
        PolicyOp::Equalize,
        PolicyOp::Brightness,
        PolicyOp::Color,
        PolicyOp::Contrast,
        PolicyOp::Sharpness,
    ];

    pub(super) fn check(&self) -> Result<(), AugmentError> {
        let Self { severity, mixture_width, chain_depth, alpha, .. } = *self;
        require((1..=N_BINS).contains(&severity), "policy.severity", severity, "must be from 1 to 10")?;
        let width = (1..=MAX_OPS).contains(&mixture_width);
        require(width, "policy.mixture_width", mixture_width, "must be from 1 to 100")?;
        let depth = chain_depth == -1 || (1..=MAX_OPS as i32).contains(&chain_depth);
        require(
            depth,
            "policy.chain_depth",
            chain_depth,
            "must be from 1 to 100, or -1 for 1 to 3 at random",
        )?;
        let concentration = (1e-3..=1e3).contains(&alpha);
        require(concentration, "policy.alpha", alpha, "must be from 0.001 to 1000")
    }

    pub(super) fn draw(&self, size: (u32, u32), random: &mut KeyedRandom) -> AugMixDraw {
        let operations = if self.all_ops { &Self::OPERATIONS[..] } else { &Self::OPERATIONS[..9] };
        let scale = MagnitudeScale::for_aug_mix(size, N_BINS);
        let max_bin = self.severity.clamp(1, N_BINS) - 1;
        let mix_weights = random.dirichlet(self.alpha, 2);
        let n_chains = self.mixture_width.min(MAX_OPS) as usize;
        let weights = random.dirichlet(self.alpha, n_chains);
        let mut draw_chain = || {
            let depth = match u32::try_from(self.chain_depth) {
                Ok(depth @ 1..) => depth.min(MAX_OPS),
                _ => 1 + random.up_to(2),
            };
            let mut draw_op = || {
                let operation = operations[random.index(operations.len())];
                let bin = random.up_to(max_bin);
                DrawnOp::with_random_sign(operation, scale.magnitude(operation, bin), random)
            };
            (0..depth).map(|_| draw_op()).collect()
        };
        let chains = weights.iter().map(|weight| ((weight * mix_weights[1]) as f32, draw_chain())).collect();
        AugMixDraw { original_weight: mix_weights[0] as f32, chains }
    }
}

impl AugMixDraw {
    /// The weighted sum, cut and not rounded.
    pub(crate) fn apply(&self, photo: &RgbImage) -> RgbImage {
        let mut sums: Vec<f32> = photo.iter().map(|&value| self.original_weight * f32::from(value)).collect();
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
