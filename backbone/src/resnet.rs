//! The network in candle's operations, for CUDA.

use candle_core::{Device, Result, Tensor};

use crate::blueprint::{self, Geometry, Part};
use crate::checkpoint::Checkpoint;
use crate::error::BackboneError;
use crate::layer::Layer;

type Loaded<T> = std::result::Result<T, BackboneError>;

/// A ResNet without its classifier, `[N, 3, H, W]` to any layer.
#[derive(Debug)]
pub(crate) struct ResNet {
    stem: Convolution,
    stages: [Vec<Block>; 4],
}

#[derive(Debug)]
struct Block {
    convolutions: Vec<Convolution>,
    shortcut: Option<Convolution>,
}

/// A convolution with BatchNorm folded in, `[N, C, H, W]` to `[N, O, H', W']`.
#[derive(Debug)]
struct Convolution {
    /// `[O, C, K, K]`.
    weight: Tensor,
    /// `[1, O, 1, 1]`.
    bias: Tensor,
    geometry: Geometry,
}

impl ResNet {
    /// Loads the weights; they take on the device and the type of `like`.
    pub(crate) fn load(checkpoint: &Checkpoint, like: &Tensor) -> Loaded<Self> {
        let convolution = |part: &Part| Convolution::load(checkpoint, part, like);
        let stage = |index| -> Loaded<Vec<Block>> {
            let blocks = blueprint::stage(checkpoint.architecture(), index);
            let load = |block: blueprint::Block| {
                let convolutions = block.convolutions.iter().map(convolution).collect::<Loaded<_>>()?;
                Ok(Block { convolutions, shortcut: block.shortcut.as_ref().map(convolution).transpose()? })
            };
            blocks.into_iter().map(load).collect()
        };
        Ok(Self {
            stem: convolution(&blueprint::stem())?,
            stages: [stage(0)?, stage(1)?, stage(2)?, stage(3)?],
        })
    }

    /// Runs as far as `layer`: `[N, C, H', W']`, for `avgpool` `[N, C]`.
    pub(crate) fn forward(&self, xs: &Tensor, layer: Layer) -> Result<Tensor> {
        const OUTPUTS: [Layer; 4] = [Layer::Layer1, Layer::Layer2, Layer::Layer3, Layer::Layer4];
        let xs = self.stem.forward(xs, None, true)?;
        // Padding with zeros is padding with nothing: after the ReLU no value is below.
        let mut xs = xs.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?.max_pool2d_with_stride(3, 2)?;
        for (stage, _) in self.stages.iter().zip(OUTPUTS).take_while(|(_, output)| *output <= layer) {
            for block in stage {
                xs = block.forward(&xs)?;
            }
        }
        if layer == Layer::Avgpool { xs.flatten_from(2)?.mean(2) } else { Ok(xs) }
    }
}

impl Block {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let around = match &self.shortcut {
            Some(convolution) => convolution.forward(xs, None, false)?,
            None => xs.clone(),
        };
        let mut ys = xs.clone();
        for (index, convolution) in self.convolutions.iter().enumerate() {
            let last = index + 1 == self.convolutions.len();
            ys = convolution.forward(&ys, last.then_some(&around), true)?;
        }
        Ok(ys)
    }
}

impl Convolution {
    fn load(checkpoint: &Checkpoint, part: &Part, like: &Tensor) -> Loaded<Self> {
        let folded = part.load(checkpoint)?;
        let place = |tensor: Tensor| tensor.to_dtype(like.dtype())?.to_device(like.device());
        let bias = Tensor::from_vec(folded.bias, (1, folded.dims[0], 1, 1), &Device::Cpu)?;
        let weight = Tensor::from_vec(folded.weight, folded.dims.as_slice(), &Device::Cpu)?;
        Ok(Self { weight: place(weight)?, bias: place(bias)?, geometry: part.geometry })
    }

    /// The convolution, the shortcut's output where there is one added, and ReLU if asked for.
    fn forward(&self, xs: &Tensor, shortcut: Option<&Tensor>, relu: bool) -> Result<Tensor> {
        let Geometry { stride, padding } = self.geometry;
        let mut ys = xs.conv2d(&self.weight, padding, stride, 1, 1)?.broadcast_add(&self.bias)?;
        if let Some(shortcut) = shortcut {
            ys = (ys + shortcut)?;
        }
        if relu { ys.relu() } else { Ok(ys) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::backbone::{normalisation, planes};
    use crate::{Backbone, Pixels, Precision, Source};

    /// candle's operations on the CPU: what runs on CUDA is tested here, and the engine is the oracle.
    #[test]
    fn every_layer_is_the_engines() {
        let source =
            Source::parse("demo/backbone", &Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
        let checkpoint = Checkpoint::open(&source.fetch(&()).unwrap()).unwrap();
        let like = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap();
        let network = ResNet::load(&checkpoint, &like).unwrap();
        let engine = Backbone::new(&checkpoint, crate::DeviceChoice::Cpu, Precision::F32).unwrap();
        let bytes: Vec<u8> = (0..2 * 65 * 96 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let pixels = Pixels::new(&bytes, 2, 65, 96).unwrap();
        let input = planes(pixels, &normalisation(checkpoint.preprocessing()), &Device::Cpu).unwrap();
        for layer in Layer::ALL {
            let (ours, theirs) =
                (network.forward(&input, layer).unwrap(), engine.tap(pixels, layer).unwrap());
            assert_eq!(ours.dims(), theirs.dims());
            let largest = |xs: Tensor| xs.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let gap = largest((&ours - &theirs).unwrap());
            assert!(gap <= 1e-4 * largest(theirs), "{layer}: {gap}");
        }
    }
}
