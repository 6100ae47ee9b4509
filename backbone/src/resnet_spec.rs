//! The layers of a ResNet: names in the checkpoint, strides and paddings.

use crate::architecture::{Architecture, STAGE_WIDTHS};

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
    /// The shape of the weights, `[O, C, K, K]`: output channels, input channels, kernel height and width.
    pub(crate) shape: [usize; 4],
    pub(crate) geometry: ConvGeometry,
}

/// A residual block: two (basic) or three (bottleneck) convolutions and a shortcut.
#[derive(Clone, Debug)]
pub(crate) struct BlockSpec {
    pub(crate) convolutions: Vec<ConvBn>,
    /// The projection of the shortcut; `None` for an identity shortcut.
    pub(crate) shortcut: Option<ConvBn>,
}

/// The 7 x 7 convolution of stride 2 at the input; a 3 x 3 max pool of stride 2 follows it.
pub(crate) fn stem_conv() -> ConvBn {
    ConvBn::new("conv1".into(), "bn1".into(), [64, 3], 7, 2)
}

/// The blocks of stage `index` (0 to 3, torchvision's `layer1` to `layer4`), with the names of their layers
/// in the checkpoint, which are torchvision's. The first block of the stages 1 to 3 halves height and width.
pub(crate) fn stage_blocks(architecture: Architecture, index: usize) -> Vec<BlockSpec> {
    let expansion = architecture.expansion();
    // The numbers of channels inside and after a block, and in front of the first one.
    let (inner, output) = (STAGE_WIDTHS[index], STAGE_WIDTHS[index] * expansion);
    let stage_input = if index == 0 { 64 } else { STAGE_WIDTHS[index - 1] * expansion };
    let block_spec = |block: usize| {
        let stride = if index > 0 && block == 0 { 2 } else { 1 };
        let input = if block == 0 { stage_input } else { output };
        let name = format!("layer{}.{block}", index + 1);
        // Output and input channels, kernel size and stride. As in torchvision (ResNet V1.5), the 3 x 3
        // convolution of a bottleneck has the stride.
        let layers = if architecture.has_bottlenecks() {
            vec![([inner, input], 1, 1), ([inner, inner], 3, stride), ([output, inner], 1, 1)]
        } else {
            vec![([inner, input], 3, stride), ([output, inner], 3, 1)]
        };
        let conv_bn = |(number, (channels, kernel, stride))| {
            ConvBn::new(
                format!("{name}.conv{number}"),
                format!("{name}.bn{number}"),
                channels,
                kernel,
                stride,
            )
        };
        let (conv, bn) = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
        BlockSpec {
            convolutions: (1..).zip(layers).map(conv_bn).collect(),
            // A block that changes the number of channels needs a convolution in its shortcut.
            shortcut: (input != output).then(|| ConvBn::new(conv, bn, [output, input], 1, stride)),
        }
    };
    (0..architecture.depths()[index]).map(block_spec).collect()
}

impl ConvBn {
    /// A convolution `conv` with these output and input channels, a square kernel and the padding that keeps
    /// the size at stride 1, and the BatchNorm `bn`.
    fn new(conv: String, bn: String, channels: [usize; 2], kernel: usize, stride: usize) -> Self {
        let [outputs, inputs] = channels;
        let geometry = ConvGeometry { stride, padding: kernel / 2 };
        Self { conv, bn, shape: [outputs, inputs, kernel, kernel], geometry }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
