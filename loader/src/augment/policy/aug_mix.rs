//! AugMix: a weighted mix of chains of operations.

use headstock_split::KeyedRng;
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operation::{MagnitudeScale, PolicyOp};
use super::{DrawnOp, MAX_OPS, tensor};
use crate::augment::check::{AugmentError, require};
use crate::transform::ImageOp;

/// The parameters of torchvision's `AugMix` (Hendrycks et al. 2019), with bilinear interpolation.
///
/// torchvision converts PIL images to tensors first, so the operations are those on tensors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AugMix {
    /// Largest magnitude of the operations, from 1 to 10. Default 3.
    pub severity: u32,
    /// Number of chains, from 1 to 100. Default 3.
    pub mixture_width: u32,
    /// Number of operations in a chain, from 1 to 100; -1 (the default) draws it from 1 to 3.
    pub chain_depth: i32,
    /// Concentration of the random weights, from 0.001 to 1000: with a small value, a single chain dominates.
    /// Default 1.
    pub alpha: f64,
    /// Whether brightness, contrast, saturation and sharpness are used too. Default true.
    pub all_ops: bool,
}

impl Default for AugMix {
    fn default() -> Self {
        Self { severity: 3, mixture_width: 3, chain_depth: -1, alpha: 1.0, all_ops: true }
    }
}

/// Number of magnitude bins in torchvision's `AugMix`.
const N_BINS: u32 = 10;

/// The drawn weights and chains of AugMix.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AugMixDraw {
    /// Weight of the unchanged image.
    pub(super) original_weight: f32,
    /// Weight and operations of each chain.
    pub(super) chains: Vec<(f32, Vec<DrawnOp>)>,
}

impl AugMix {
    /// The operations to draw from; the last four only with `all_ops`.
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

    /// Checks the config of this policy; the error names the first value that is out of range.
    pub(super) fn check(&self) -> Result<(), AugmentError> {
        let Self { severity, mixture_width, chain_depth, alpha, .. } = *self;
        require((1..=N_BINS).contains(&severity), "policy.severity", severity, "must be from 1 to 10")?;
        let is_valid = (1..=MAX_OPS).contains(&mixture_width);
        require(is_valid, "policy.mixture_width", mixture_width, "must be from 1 to 100")?;
        let is_valid = chain_depth == -1 || (1..=MAX_OPS as i32).contains(&chain_depth);
        let expected = "must be from 1 to 100, or -1 for a random depth from 1 to 3";
        require(is_valid, "policy.chain_depth", chain_depth, expected)?;
        require((1e-3..=1e3).contains(&alpha), "policy.alpha", alpha, "must be from 0.001 to 1000")
    }

    /// Draws the chains of operations for a view of `size` (width, height), and the weights with which their
    /// results are mixed with the image, as torchvision's `AugMix`.
    pub(super) fn draw(&self, size: (u32, u32), random: &mut KeyedRng) -> AugMixDraw {
        // Without the last four unless `all_ops` is set.
        let operations = if self.all_ops { &Self::OPERATIONS[..] } else { &Self::OPERATIONS[..9] };
        let scale = MagnitudeScale::for_aug_mix(size, N_BINS);
        let max_bin = self.severity.clamp(1, N_BINS) - 1;
        // How much of the result is the image, and how much the chains together; then the share of each
        // chain.
        let mix_weights = random.dirichlet(self.alpha, 2);
        let n_chains = self.mixture_width.min(MAX_OPS) as usize;
        let weights = random.dirichlet(self.alpha, n_chains);
        let mut draw_chain = || {
            let depth = match u32::try_from(self.chain_depth) {
                Ok(depth @ 1..) => depth.min(MAX_OPS),
                _ => 1 + random.up_to(2), // -1 in the config
            };
            let mut draw_op = || {
                let operation = operations[random.below(operations.len())];
                let bin = random.up_to(max_bin);
                DrawnOp::with_random_sign(operation, scale.magnitude(operation, bin), random)
            };
            (0..depth).map(|_| draw_op()).collect()
        };
        let chains = weights.iter().map(|weight| ((weight * mix_weights[1]) as f32, draw_chain())).collect();
        AugMixDraw { original_weight: mix_weights[0] as f32, chains }
    }
}

impl ImageOp for AugMixDraw {
    /// Mixes `image` with augmented versions of it: the weighted sum of the image and of the result of each
    /// drawn chain of operations, which starts from the image. Truncated and not rounded, as in torchvision.
    fn apply(&self, image: RgbImage) -> RgbImage {
        let mut sums: Vec<f32> = image.iter().map(|&value| self.original_weight * f32::from(value)).collect();
        for (weight, chain) in &self.chains {
            let augmented = chain
                .iter()
                .fold(image.clone(), |image, drawn| tensor::apply(image, drawn.operation, drawn.magnitude));
            for (sum, &value) in sums.iter_mut().zip(augmented.iter()) {
                *sum += weight * f32::from(value);
            }
        }
        let mut out = RgbImage::new(image.width(), image.height());
        for (value, sum) in out.iter_mut().zip(sums) {
            *value = sum as u8;
        }
        out
    }
}
