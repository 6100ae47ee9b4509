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
