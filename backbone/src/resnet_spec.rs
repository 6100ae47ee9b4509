//! The layers of a ResNet: names in the checkpoint, strides and paddings.

use crate::architecture::{Architecture, STAGE_WIDTHS};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::error::BackboneError;

/// The `eps` of every BatchNorm in torchvision's ResNets.
pub(crate) const BATCH_NORM_EPS: f64 = 1e-5;

/// The activation after a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Identity,
    Relu,
}

/// Stride and padding of a convolution, the same along both axes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConvGeometry {
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

/// A convolution and the BatchNorm that follows it, with their names in torchvision.
#[derive(Clone, Debug)]
pub(crate) struct ConvBn {
    pub(crate) conv: String,
    pub(crate) bn: String,
    pub(crate) geometry: ConvGeometry,
}

/// A residual block: two (basic) or three (bottleneck) convolutions and a shortcut.
#[derive(Clone, Debug)]
pub(crate) struct BlockSpec {
    pub(crate) convolutions: Vec<ConvBn>,
    /// The projection of the shortcut; `None` for an identity shortcut.
    pub(crate) shortcut: Option<ConvBn>,
}

/// A convolution with its BatchNorm folded into weights and bias.
pub(crate) struct FoldedConv {
    /// The weights, row-major, `[O, C, K, K]`: output channels, input channels, kernel height and width.
    pub(crate) weight: Vec<f32>,
    /// `[O, C, K, K]`.
    pub(crate) shape: [usize; 4],
    /// `[O]`.
    pub(crate) bias: Vec<f32>,
}

/// The 7 x 7 convolution of stride 2 at the input; a 3 x 3 max pool of stride 2 follows it.
pub(crate) fn stem_conv() -> ConvBn {
    let geometry = ConvGeometry { stride: 2, padding: 3 };
    ConvBn { conv: "conv1".into(), bn: "bn1".into(), geometry }
}

/// The blocks of stage `index` (0 to 3, torchvision's `layer1` to `layer4`), with the names of their layers
/// in the checkpoint, which are torchvision's. The first block of the stages 1 to 3 halves height and width.
pub(crate) fn stage_blocks(architecture: Architecture, index: usize) -> Vec<BlockSpec> {
    let inner_channels = STAGE_WIDTHS[index];
    let block_spec = |block: usize| {
        let stride = if index > 0 && block == 0 { 2 } else { 1 };
        let name = format!("layer{}.{block}", index + 1);
        // The first block of a stage changes the number of channels, so its shortcut needs a convolution. In
        // stage 0 of basic blocks the number stays 64, that of the stem.
        let has_shortcut = block == 0 && (index > 0 || architecture.expansion() * inner_channels != 64);
        let kernel_1x1 = |stride| ConvGeometry { stride, padding: 0 };
        let kernel_3x3 = |stride| ConvGeometry { stride, padding: 1 };
        // As in torchvision (ResNet V1.5), the 3 x 3 convolution of a bottleneck has the stride.
        let geometries = if architecture.has_bottlenecks() {
            vec![kernel_1x1(1), kernel_3x3(stride), kernel_1x1(1)]
        } else {
            vec![kernel_3x3(stride), kernel_3x3(1)]
        };
        let conv_bn = |(number, geometry): (usize, ConvGeometry)| ConvBn {
            conv: format!("{name}.conv{number}"),
            bn: format!("{name}.bn{number}"),
            geometry,
        };
        BlockSpec {
            convolutions: (1..).zip(geometries).map(conv_bn).collect(),
            shortcut: has_shortcut.then(|| ConvBn {
                conv: format!("{name}.downsample.0"),
                bn: format!("{name}.downsample.1"),
                geometry: kernel_1x1(stride),
            }),
        }
    };
    (0..architecture.depths()[index]).map(block_spec).collect()
}

impl ConvBn {
    /// Reads the convolution and its BatchNorm, and folds the BatchNorm into the weights, so that inference
    /// needs only a convolution with a bias. For each output channel, with `s = γ / sqrt(variance + eps)`,
    /// the weights `w` become `w · s` and the bias `β - mean · s`, computed in `f64`.
    ///
    /// # Errors
    /// [`BackboneError::Checkpoint`] for a NaN or infinite weight and for a BatchNorm that cannot be folded.
    pub(crate) fn load_folded(&self, checkpoint: &Checkpoint) -> Result<FoldedConv, BackboneError> {
        let Self { conv, bn, .. } = self;
        // Reads a parameter of the BatchNorm.
        let vector = |leaf: &str| -> Result<Vec<f32>, BackboneError> {
            Ok(checkpoint.tensor(&format!("{bn}.{leaf}"))?.to_vec1()?)
        };
        let (gamma, beta) = (vector("weight")?, vector("bias")?);
        let (mean, variance) = (vector("running_mean")?, vector("running_var")?);
        let weight = checkpoint.tensor(&format!("{conv}.weight"))?;
        let shape = weight.dims4()?.into();
        let mut weight = weight.flatten_all()?.to_vec1::<f32>()?;
        let mut bias = Vec::with_capacity(gamma.len());
        let weights_per_output = weight.len() / gamma.len();
        for (o, output_weights) in weight.chunks_exact_mut(weights_per_output).enumerate() {
            let scale = f64::from(gamma[o]) / (f64::from(variance[o]) + BATCH_NORM_EPS).sqrt();
            output_weights.iter_mut().for_each(|w| *w = (f64::from(*w) * scale) as f32);
            bias.push((f64::from(beta[o]) - f64::from(mean[o]) * scale) as f32);
        }
        // A negative variance results in NaN.
        if !weight.iter().chain(&bias).all(|value| value.is_finite()) {
            let (path, name) = (checkpoint.path().into(), bn.clone());
            return Err(CheckpointError::BatchNorm { path, name }.into());
        }
        Ok(FoldedConv { weight, shape, bias })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::support::{StateDict, golden_json};

    /// The first channels of the stem have the inputs of the reference, whose variances include 0 and values
    /// below `eps`.
    #[test]
    fn folded_batch_norm_matches_pytorch_for_variances_of_any_size() {
        type Golden = BTreeMap<String, BTreeMap<String, Vec<f64>>>;
        let golden = golden_json::<Golden>("batchnorm.json").remove("running").unwrap();
        let mut state = StateDict::from_formula("resnet18").without_classifier();
        for (leaf, name) in
            [("weight", "gamma"), ("bias", "beta"), ("running_mean", "mean"), ("running_var", "variance")]
        {
            let bytes = &mut state.0.get_mut(&format!("bn1.{leaf}")).unwrap().2;
            for (to, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&golden[name]) {
                *to = (*value as f32).to_le_bytes();
            }
        }
        let checkpoint = state.to_dir().open().unwrap();
        let raw: Vec<f32> =
            checkpoint.tensor("conv1.weight").unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let folded = stem_conv().load_folded(&checkpoint).unwrap();
        assert_eq!(folded.shape, [64, 3, 7, 7]);
        for (channel, y) in golden["y"].iter().enumerate() {
            let weights = 147 * channel..147 * (channel + 1);
            // All weights of a channel are scaled by the same factor.
            let pairs = folded.weight[weights.clone()].iter().zip(&raw[weights]);
            for scale in pairs.map(|(folded, raw)| f64::from(*folded) / f64::from(*raw)) {
                let ours = golden["x"][channel] * scale + f64::from(folded.bias[channel]);
                let std = (golden["variance"][channel] + 1e-5).sqrt();
                let size = (golden["gamma"][channel] / std).abs().max(1.0);
                assert!((ours - y).abs() <= 1e-6 * size, "{channel}: {ours}, not {y}");
            }
        }
    }

    /// Strides and paddings of convolutions and shortcuts, from torchvision's source.
    #[test]
    fn strides_of_the_first_block_of_a_stage_match_torchvision() {
        for architecture in Architecture::ALL {
            for index in 0..4 {
                let blocks = stage_blocks(architecture, index);
                assert_eq!(blocks.len(), architecture.depths()[index]);
                for (number, block) in blocks.iter().enumerate() {
                    let stride = if index > 0 && number == 0 { 2 } else { 1 };
                    let found: Vec<_> = block
                        .convolutions
                        .iter()
                        .map(|conv| (conv.geometry.stride, conv.geometry.padding))
                        .collect();
                    let expected = if architecture.has_bottlenecks() {
                        vec![(1, 0), (stride, 1), (1, 0)]
                    } else {
                        vec![(stride, 1), (1, 1)]
                    };
                    assert_eq!(found, expected, "{architecture} {index} {number}");
                    let has_shortcut = number == 0 && (index > 0 || architecture.has_bottlenecks());
                    let shortcut =
                        block.shortcut.as_ref().map(|conv| (conv.geometry.stride, conv.geometry.padding));
                    assert_eq!(
                        shortcut,
                        has_shortcut.then_some((stride, 0)),
                        "{architecture} {index} {number}"
                    );
                }
            }
        }
    }
}
