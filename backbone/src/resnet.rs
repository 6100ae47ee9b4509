//! The network: a stem, four stages of blocks, an average.

use candle_core::{Result, Tensor};

use crate::architecture::{Architecture, STAGE_WIDTHS};
use crate::checkpoint::Checkpoint;
use crate::convolution::{Convolution, Geometry};
use crate::error::BackboneError;
use crate::layer::Layer;

type Loaded<T> = std::result::Result<T, BackboneError>;

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
        let mut xs = self.stem.forward(xs)?;
        for (at, stage) in
            [Layer::Layer1, Layer::Layer2, Layer::Layer3, Layer::Layer4].into_iter().zip(&self.stages)
        {
            if layer < at {
                return Ok(xs);
            }
            xs = stage.forward(&xs)?;
        }
        if layer == Layer::Avgpool { xs.flatten_from(2)?.mean(2) } else { Ok(xs) }
    }
}

impl Stem {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = self.convolution.forward(xs)?.relu()?;
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

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let mut xs = xs.clone();
        for block in &self.blocks {
            xs = block.forward(&xs)?;
        }
        Ok(xs)
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
        let mut ys = self.convolutions[0].forward(xs)?;
        for convolution in &self.convolutions[1..] {
            ys = convolution.forward(&ys.relu()?)?;
        }
        let around = match &self.shortcut {
            Some(convolution) => convolution.forward(xs)?,
            None => xs.clone(),
        };
        (ys + around)?.relu()
    }
}
