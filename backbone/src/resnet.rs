//! The network: a stem, four stages of blocks, an average.

use std::ops::Range;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::architecture::{Architecture, STAGE_WIDTHS};
use crate::checkpoint::Checkpoint;
use crate::convolution::Convolution;
use crate::error::BackboneError;
use crate::kernels::{Geometry, MaxPool};
use crate::layer::Layer;

type Loaded<T> = std::result::Result<T, BackboneError>;

/// The photos that go through the deep part together, on the CPU.
const GROUP: usize = 8;

/// A ResNet without its classifier, `[N, 3, H, W]` to any layer.
#[derive(Debug)]
pub(crate) struct ResNet {
    stem: Stem,
    stages: [Stage; 4],
}

/// 7 x 7 convolution of stride 2, BatchNorm, ReLU, 3 x 3 max pool of stride 2.
#[derive(Debug)]
struct Stem {
    convolution: Convolution,
}

/// Blocks of one width; the first of a later stage halves height and width.
#[derive(Debug)]
struct Stage {
    blocks: Vec<Block>,
}

/// A residual block: two convolutions (basic) or three (bottleneck), and a shortcut around them.
#[derive(Debug)]
struct Block {
    convolutions: Vec<Convolution>,
    shortcut: Option<Convolution>,
}

impl ResNet {
    /// Loads the weights; they take on the device and the type of `like`.
    pub(crate) fn load(checkpoint: &Checkpoint, like: &Tensor) -> Loaded<Self> {
        let architecture = checkpoint.architecture();
        let stem = Geometry { kernel: 7, stride: 2, padding: 3 };
        let stage = |index| Stage::load(checkpoint, architecture, index, like);
        Ok(Self {
            stem: Stem { convolution: Convolution::load(checkpoint, ("conv1", "bn1"), stem, like)? },
            stages: [stage(0)?, stage(1)?, stage(2)?, stage(3)?],
        })
    }

    /// Runs as far as `layer`: `[N, C, H', W']`, for `avgpool` `[N, C]`.
    pub(crate) fn forward(&self, xs: &Tensor, layer: Layer) -> Result<Tensor> {
        let ys = if xs.device().is_cpu() {
            self.forward_on_cpu(xs, layer)?
        } else {
            self.run_stages(self.stem.forward(xs)?, Self::SHALLOW.start..Self::DEEP.end, layer)?
        };
        if layer == Layer::Avgpool { ys.flatten_from(2)?.mean(2) } else { Ok(ys) }
    }

    /// Photos go one by one through the shallow part, where one alone fills the caches, and in groups through the deep
    /// part, where a product over the few positions of one photo is too narrow to be worth reading the weights.
    fn forward_on_cpu(&self, xs: &Tensor, layer: Layer) -> Result<Tensor> {
        let (photos, channels, height, width) = xs.dims4()?;
        let photos = (0..photos)
            .map(|photo| xs.narrow(0, photo, 1)?.reshape((channels, 1, height, width)))
            .collect::<Result<Vec<_>>>()?;
        // A product with a single column takes another way through `gemm`, which rounds otherwise: a photo of one
        // position in layer 4 must then stay alone, for its features not to depend on its company.
        let group = if height.max(width) <= 32 { 1 } else { GROUP };
        let groups = photos
            .par_chunks(group)
            .map(|photos| {
                let shallow = photos
                    .par_iter()
                    .map(|photo| self.run_stages(self.stem.forward(photo)?, Self::SHALLOW, layer))
                    .collect::<Result<Vec<_>>>()?;
                let deep = self.run_stages(Tensor::cat(&shallow, 1)?, Self::DEEP, layer)?;
                deep.transpose(0, 1)?.contiguous()
            })
            .collect::<Result<Vec<_>>>()?;
        Tensor::cat(&groups, 0)
    }

    const SHALLOW: Range<usize> = 0..2;
    const DEEP: Range<usize> = 2..4;

    /// Runs those of `stages` that lead to `layer`.
    fn run_stages(&self, mut xs: Tensor, stages: Range<usize>, layer: Layer) -> Result<Tensor> {
        const OUTPUTS: [Layer; 4] = [Layer::Layer1, Layer::Layer2, Layer::Layer3, Layer::Layer4];
        for stage in stages.take_while(|&stage| OUTPUTS[stage] <= layer) {
            for block in &self.stages[stage].blocks {
                xs = block.forward(&xs)?;
            }
        }
        Ok(xs)
    }
}

impl Stem {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let product = self.convolution.product(xs)?;
        if xs.device().is_cpu() {
            // The largest of some values stays so when a bias is added to each, and through ReLU.
            return self.convolution.finish(&product.apply_op1_no_bwd(&MaxPool)?, None, true);
        }
        let xs = self.convolution.finish(&product, None, true)?;
        // Padding with zeros is padding with nothing: after the ReLU no value is below.
        xs.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?.max_pool2d_with_stride(3, 2)
    }
}

impl Stage {
    fn load(
        checkpoint: &Checkpoint,
        architecture: Architecture,
        index: usize,
        like: &Tensor,
    ) -> Loaded<Self> {
        let inside = STAGE_WIDTHS[index];
        let blocks = (0..architecture.depths()[index])
            .map(|block| {
                let stride = if index > 0 && block == 0 { 2 } else { 1 };
                // The first block of a stage changes the width, but in stage 1 of the basic kind.
                let shortcut = block == 0 && (index > 0 || architecture.expansion() * inside != 64);
                let name = format!("layer{}.{block}", index + 1);
                Block::load(checkpoint, &name, architecture.has_bottlenecks(), stride, shortcut, like)
            })
            .collect::<Loaded<_>>()?;
        Ok(Self { blocks })
    }
}

impl Block {
    fn load(
        checkpoint: &Checkpoint,
        name: &str,
        bottleneck: bool,
        stride: usize,
        shortcut: bool,
        like: &Tensor,
    ) -> Loaded<Self> {
        let narrow = |stride| Geometry { kernel: 1, stride, padding: 0 };
        let wide = |stride| Geometry { kernel: 3, stride, padding: 1 };
        // torchvision's (V1.5): a bottleneck strides in its 3 x 3 convolution.
        let geometries =
            if bottleneck { vec![narrow(1), wide(stride), narrow(1)] } else { vec![wide(stride), wide(1)] };
        let convolutions = (1..)
            .zip(geometries)
            .map(|(part, geometry)| {
                let (conv, bn) = (format!("{name}.conv{part}"), format!("{name}.bn{part}"));
                Convolution::load(checkpoint, (&conv, &bn), geometry, like)
            })
            .collect::<Loaded<_>>()?;
        let shortcut = if shortcut {
            let (conv, bn) = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
            Some(Convolution::load(checkpoint, (&conv, &bn), narrow(stride), like)?)
        } else {
            None
        };
        Ok(Self { convolutions, shortcut })
    }

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
