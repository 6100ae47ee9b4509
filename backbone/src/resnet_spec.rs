//! What a ResNet is made of: names in the checkpoint and geometry, for whatever runs it.

use crate::architecture::{Architecture, STAGE_WIDTHS};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::error::BackboneError;

/// The epsilon of every BatchNorm in torchvision's ResNets.
pub(crate) const BATCH_NORM_EPS: f64 = 1e-5;

/// Stride and padding, the same along both axes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConvGeometry {
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

/// A convolution and the BatchNorm after it, by torchvision's names.
#[derive(Clone, Debug)]
pub(crate) struct ConvBn {
    pub(crate) conv: String,
    pub(crate) bn: String,
    pub(crate) geometry: ConvGeometry,
}

/// A residual block: two convolutions (basic) or three (bottleneck), and a shortcut around them.
#[derive(Clone, Debug)]
pub(crate) struct BlockSpec {
    pub(crate) convolutions: Vec<ConvBn>,
    /// What the shortcut goes through; nothing where the sizes fit.
    pub(crate) shortcut: Option<ConvBn>,
}

/// A convolution with BatchNorm folded in.
pub(crate) struct FoldedConv {
    /// `[O, C, K, K]`.
    pub(crate) weight: Vec<f32>,
    pub(crate) shape: [usize; 4],
    /// `[O]`.
    pub(crate) bias: Vec<f32>,
}

/// 7 x 7 of stride 2; a 3 x 3 max pool of stride 2 follows.
pub(crate) fn stem_conv() -> ConvBn {
    let geometry = ConvGeometry { stride: 2, padding: 3 };
    ConvBn { conv: "conv1".into(), bn: "bn1".into(), geometry }
}

/// Stage `index` of four, blocks of one width; the first of a later stage halves height and width.
pub(crate) fn stage_blocks(architecture: Architecture, index: usize) -> Vec<BlockSpec> {
    let inner_channels = STAGE_WIDTHS[index];
    let block_spec = |block: usize| {
        let stride = if index > 0 && block == 0 { 2 } else { 1 };
        let name = format!("layer{}.{block}", index + 1);
        // The first block of a stage changes the width, but in stage 1 of the basic kind.
        let has_shortcut = block == 0 && (index > 0 || architecture.expansion() * inner_channels != 64);
        let narrow = |stride| ConvGeometry { stride, padding: 0 };
        let wide = |stride| ConvGeometry { stride, padding: 1 };
        // torchvision's (V1.5): a bottleneck strides in its 3 x 3 convolution.
        let geometries = if architecture.has_bottlenecks() {
            vec![narrow(1), wide(stride), narrow(1)]
        } else {
            vec![wide(stride), wide(1)]
        };
        let conv_bn = |(part, geometry): (usize, ConvGeometry)| ConvBn {
            conv: format!("{name}.conv{part}"),
            bn: format!("{name}.bn{part}"),
            geometry,
        };
        BlockSpec {
            convolutions: (1..).zip(geometries).map(conv_bn).collect(),
            shortcut: has_shortcut.then(|| ConvBn {
                conv: format!("{name}.downsample.0"),
                bn: format!("{name}.downsample.1"),
                geometry: narrow(stride),
            }),
        }
    };
    (0..architecture.depths()[index]).map(block_spec).collect()
}

impl ConvBn {
    /// Reads the weights and folds BatchNorm in, in `f64`.
    ///
    /// # Errors
    /// [`BackboneError::Checkpoint`] for a weight that is NaN or infinite and for a BatchNorm that cannot be computed.
    pub(crate) fn load_folded(&self, checkpoint: &Checkpoint) -> Result<FoldedConv, BackboneError> {
        let Self { conv, bn, .. } = self;
        let vector = |leaf: &str| -> Result<Vec<f32>, BackboneError> {
            Ok(checkpoint.tensor(&format!("{bn}.{leaf}"))?.to_vec1()?)
        };
        let (gamma, beta) = (vector("weight")?, vector("bias")?);
        let (mean, variance) = (vector("running_mean")?, vector("running_var")?);
        let weight = checkpoint.tensor(&format!("{conv}.weight"))?;
        let dims = weight.dims4()?.into();
        let mut weight = weight.flatten_all()?.to_vec1::<f32>()?;
        let mut bias = Vec::with_capacity(gamma.len());
        let weights_per_output = weight.len() / gamma.len();
        for (o, kernel) in weight.chunks_exact_mut(weights_per_output).enumerate() {
            let scale = f64::from(gamma[o]) / (f64::from(variance[o]) + BATCH_NORM_EPS).sqrt();
            kernel.iter_mut().for_each(|w| *w = (f64::from(*w) * scale) as f32);
            bias.push((f64::from(beta[o]) - f64::from(mean[o]) * scale) as f32);
        }
        // A negative variance gives NaN.
        if !weight.iter().chain(&bias).all(|value| value.is_finite()) {
            let (path, name) = (checkpoint.path().into(), bn.clone());
            return Err(CheckpointError::BatchNorm { path, name }.into());
        }
        Ok(FoldedConv { weight, shape: dims, bias })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::support::{StateDict, golden_json};

    /// The stem of a checkpoint whose first channels have what PyTorch was given: variances from 0 on, far below the epsilon too.
    #[test]
    fn batch_norm_is_folded_in_as_pytorch_computes_it_for_variances_of_any_size() {
        type Golden = BTreeMap<String, BTreeMap<String, Vec<f64>>>;
        let of = golden_json::<Golden>("batchnorm.json").remove("running").unwrap();
        let mut state = StateDict::from_formula("resnet18").without_classifier();
        for (leaf, name) in
            [("weight", "gamma"), ("bias", "beta"), ("running_mean", "mean"), ("running_var", "variance")]
        {
            let bytes = &mut state.0.get_mut(&format!("bn1.{leaf}")).unwrap().2;
            for (to, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&of[name]) {
                *to = (*value as f32).to_le_bytes();
            }
        }
        let checkpoint = state.to_dir().open().unwrap();
        let raw: Vec<f32> =
            checkpoint.tensor("conv1.weight").unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let folded = stem_conv().load_folded(&checkpoint).unwrap();
        assert_eq!(folded.shape, [64, 3, 7, 7]);
        for (channel, y) in of["y"].iter().enumerate() {
            let taps = 147 * channel..147 * (channel + 1);
            // What each weight is multiplied by, the same for all of a channel's.
            let scales = folded.weight[taps.clone()].iter().zip(&raw[taps]);
            for scale in scales.map(|(folded, raw)| f64::from(*folded) / f64::from(*raw)) {
                let ours = of["x"][channel] * scale + f64::from(folded.bias[channel]);
                let size = (of["gamma"][channel] / (of["variance"][channel] + 1e-5).sqrt()).abs().max(1.0);
                assert!((ours - y).abs() <= 1e-6 * size, "{channel}: {ours}, not {y}");
            }
        }
    }

    /// Strides of a stage's convolutions and of its shortcut, by torchvision's source.
    #[test]
    fn the_first_block_of_a_later_stage_strides_where_torchvisions_does() {
        for architecture in Architecture::ALL {
            for index in 0..4 {
                let blocks = stage_blocks(architecture, index);
                assert_eq!(blocks.len(), architecture.depths()[index]);
                for (number, block) in blocks.iter().enumerate() {
                    let stride = if index > 0 && number == 0 { 2 } else { 1 };
                    let found: Vec<_> = block
                        .convolutions
                        .iter()
                        .map(|part| (part.geometry.stride, part.geometry.padding))
                        .collect();
                    let expected = if architecture.has_bottlenecks() {
                        vec![(1, 0), (stride, 1), (1, 0)]
                    } else {
                        vec![(stride, 1), (1, 1)]
                    };
                    assert_eq!(found, expected, "{architecture} {index} {number}");
                    let has_shortcut = number == 0 && (index > 0 || architecture.has_bottlenecks());
                    let shortcut =
                        block.shortcut.as_ref().map(|part| (part.geometry.stride, part.geometry.padding));
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
