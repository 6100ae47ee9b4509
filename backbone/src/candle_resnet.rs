//! The network with candle's operations, for CUDA.

use candle_core::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::error::BackboneError;
use crate::folded_conv::FoldedConv;
use crate::layer::FeatureLayer;
use crate::resnet_spec::{self, Activation, BlockSpec, ConvBn, ConvGeometry};

/// A ResNet without its classifier, whose weights are candle tensors.
#[derive(Debug)]
pub(crate) struct CandleResNet {
    stem: CandleConv,
    stages: [Vec<CandleBlock>; 4],
}

/// A residual block: two (basic) or three (bottleneck) convolutions and a shortcut.
#[derive(Debug)]
struct CandleBlock {
    convolutions: Vec<CandleConv>,
    /// The projection of the shortcut; `None` for an identity shortcut.
    shortcut: Option<CandleConv>,
}

/// A convolution with BatchNorm folded in, `[N, C, H, W]` to `[N, O, H', W']`.
#[derive(Debug)]
struct CandleConv {
    /// `[O, C, K, K]`.
    weight: Tensor,
    /// `[1, O, 1, 1]`.
    bias: Tensor,
    geometry: ConvGeometry,
}

impl CandleResNet {
    /// Loads the weights of all layers, with BatchNorm folded in, onto the device of `like` and in its type;
    /// the values of `like` do not matter.
    pub(crate) fn load(checkpoint: &Checkpoint, like: &Tensor) -> Result<Self, BackboneError> {
        let load_conv = |conv_bn: &ConvBn| CandleConv::load(checkpoint, conv_bn, like);
        let load_block = |block: BlockSpec| {
            let convolutions = block.convolutions.iter().map(load_conv).collect::<Result<_, _>>()?;
            Ok(CandleBlock { convolutions, shortcut: block.shortcut.as_ref().map(load_conv).transpose()? })
        };
        let load_stage = |index| {
            let blocks = resnet_spec::stage_blocks(checkpoint.architecture(), index);
            blocks.into_iter().map(load_block).collect::<Result<Vec<_>, BackboneError>>()
        };
        Ok(Self {
            stem: load_conv(&resnet_spec::stem_conv())?,
            stages: [load_stage(0)?, load_stage(1)?, load_stage(2)?, load_stage(3)?],
        })
    }

    /// Runs the network on normalized images `xs`, `[N, 3, H, W]`, up to `layer`. Returns the activations of
    /// that layer, `[N, C, H', W']`, or `[N, C]` for `avgpool`, which is the mean over all positions.
    pub(crate) fn forward(&self, xs: &Tensor, layer: FeatureLayer) -> candle_core::Result<Tensor> {
        let xs = self.stem.forward(xs, None, Activation::Relu)?;
        // The max pool (3 x 3, stride 2) has padding 1 in height and width, which are the dimensions 2 and 3.
        // Zero padding does not change the maximum, because no value is negative after the ReLU.
        let mut xs = xs.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?.max_pool2d_with_stride(3, 2)?;
        // Layers are ordered from the input on, so this stops after the stage of `layer`.
        for (stage, _) in
            self.stages.iter().zip(FeatureLayer::STAGES).take_while(|(_, output)| *output <= layer)
        {
            for block in stage {
                xs = block.forward(&xs)?;
            }
        }
        if layer == FeatureLayer::Avgpool { xs.flatten_from(2)?.mean(2) } else { Ok(xs) }
    }
}

impl CandleBlock {
    /// The output of the residual block for the input `xs`, `[N, C, H, W]`: the convolutions run one after
    /// another, with a ReLU after each; the output of the shortcut is added before the last ReLU.
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        let shortcut_output = match &self.shortcut {
            Some(convolution) => convolution.forward(xs, None, Activation::Identity)?,
            None => xs.clone(),
        };
        let mut ys = xs.clone();
        for (index, convolution) in self.convolutions.iter().enumerate() {
            let is_last = index + 1 == self.convolutions.len();
            ys = convolution.forward(&ys, is_last.then_some(&shortcut_output), Activation::Relu)?;
        }
        Ok(ys)
    }
}

impl CandleConv {
    /// Loads the convolution `conv_bn` with its BatchNorm folded into weight and bias, onto the device of
    /// `like` and in its type; the values of `like` do not matter.
    fn load(checkpoint: &Checkpoint, conv_bn: &ConvBn, like: &Tensor) -> Result<Self, BackboneError> {
        let folded = FoldedConv::load(checkpoint, conv_bn)?;
        let convert = |tensor: Tensor| tensor.to_dtype(like.dtype())?.to_device(like.device());
        let bias = Tensor::from_vec(folded.bias, (1, folded.shape[0], 1, 1), &Device::Cpu)?;
        let weight = Tensor::from_vec(folded.weight, folded.shape.as_slice(), &Device::Cpu)?;
        Ok(Self { weight: convert(weight)?, bias: convert(bias)?, geometry: conv_bn.geometry })
    }

    /// Runs the convolution on `xs`, `[N, C, H, W]`, adds the bias and then `residual`, which has the shape
    /// of the output, and applies `activation`.
    fn forward(
        &self,
        xs: &Tensor,
        residual: Option<&Tensor>,
        activation: Activation,
    ) -> candle_core::Result<Tensor> {
        let ConvGeometry { stride, padding } = self.geometry;
        // The last two arguments are dilation and groups.
        let mut ys = xs.conv2d(&self.weight, padding, stride, 1, 1)?.broadcast_add(&self.bias)?;
        if let Some(residual) = residual {
            ys = (ys + residual)?;
        }
        if activation == Activation::Relu { ys.relu() } else { Ok(ys) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::backbone::{normalization_tables, normalized_nchw};
    use crate::{Backbone, PixelBatch, Precision, WeightsSource};

    /// Runs candle's operations, which CUDA uses, on the CPU and compares them with the engine.
    #[test]
    fn every_layer_matches_the_engine() {
        let source =
            WeightsSource::parse("demo/backbone", &Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
        let checkpoint = Checkpoint::open(&source.fetch(&()).unwrap()).unwrap();
        let like = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap();
        let network = CandleResNet::load(&checkpoint, &like).unwrap();
        let engine = Backbone::new(&checkpoint, crate::DeviceChoice::Cpu, Precision::F32).unwrap();
        let bytes: Vec<u8> = (0..2 * 65 * 96 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let pixels = PixelBatch::new(&bytes, 2, 65, 96).unwrap();
        let input =
            normalized_nchw(pixels, &normalization_tables(checkpoint.preprocessing()), &Device::Cpu).unwrap();
        for layer in FeatureLayer::ALL {
            let (ours, theirs) =
                (network.forward(&input, layer).unwrap(), engine.activations_nchw(pixels, layer).unwrap());
            assert_eq!(ours.dims(), theirs.dims());
            let largest = |xs: Tensor| xs.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let gap = largest((&ours - &theirs).unwrap());
            assert!(gap <= 1e-4 * largest(theirs), "{layer}: {gap}");
        }
    }
}
