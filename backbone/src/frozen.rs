//! The network on the CPU: the engine's.

use std::sync::Arc;

use headstock_engine::{Builder, Convolution, Isa, Network, Normalisation, Precision, Tap, Value};

use crate::blueprint::{self, Part};
use crate::checkpoint::Checkpoint;
use crate::error::BackboneError;
use crate::layer::Layer;

/// A ResNet's trunk, packed, and where to leave it.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) network: Arc<Network>,
    /// After the stem and after each stage.
    taps: [Tap; 5],
}

impl Frozen {
    /// Reads, folds and packs the weights.
    ///
    /// # Errors
    /// As [`Part::load`]; [`BackboneError::Engine`] when the engine refuses a layer.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        isa: Isa,
        precision: Precision,
        normalisation: Normalisation,
    ) -> Result<Self, BackboneError> {
        let mut builder = Builder::new(isa, precision, normalisation)?;
        let add =
            |builder: &mut Builder, part: &Part, from, residual, relu| -> Result<Value, BackboneError> {
                let folded = part.load(checkpoint)?;
                let [outputs, inputs, kernel, _] = folded.dims;
                let convolution = Convolution {
                    inputs,
                    outputs,
                    kernel,
                    stride: part.geometry.stride,
                    padding: part.geometry.padding,
                    weights: folded.weight,
                    bias: folded.bias,
                };
                Ok(builder.convolution(&part.conv, from, convolution, residual, relu)?)
            };
        let image = builder.image();
        let stem = add(&mut builder, &blueprint::stem(), image, None, true)?;
        let mut value = builder.max_pool("maxpool", stem, 3, 2, 1)?;
        let mut taps = [builder.tap()?; 5];
        for (index, tap) in taps.iter_mut().skip(1).enumerate() {
            for block in blueprint::stage(checkpoint.architecture(), index) {
                let around = match &block.shortcut {
                    Some(part) => add(&mut builder, part, value, None, false)?,
                    None => value,
                };
                let last = block.convolutions.len() - 1;
                for (index, part) in block.convolutions.iter().enumerate() {
                    let residual = (index == last).then_some(around);
                    value = add(&mut builder, part, value, residual, true)?;
                }
            }
            *tap = builder.tap()?;
        }
        Ok(Self { network: Arc::new(builder.build()), taps })
    }

    /// Where `layer` is; the average is taken of the last stage.
    pub(crate) fn tap(&self, layer: Layer) -> Tap {
        match layer {
            Layer::Stem => self.taps[0],
            Layer::Layer1 => self.taps[1],
            Layer::Layer2 => self.taps[2],
            Layer::Layer3 => self.taps[3],
            Layer::Layer4 | Layer::Avgpool => self.taps[4],
        }
    }
}
