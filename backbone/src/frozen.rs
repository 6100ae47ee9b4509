//! The network on the CPU: the engine's.

use std::sync::Arc;

use headstock_engine::{Builder, Convolution, Epilogue, Isa, Network, Normalisation, Precision, Tap, Value};

use crate::blueprint::{self, Geometry, Part};
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
    /// In `bf16` the stem and the inside of the first block stay in `f32`: what is rounded there is what all else is made of.
    ///
    /// # Errors
    /// As [`Part::load`]; [`BackboneError::Engine`] when the engine refuses a layer.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        isa: Isa,
        precision: Precision,
        normalisation: Normalisation,
    ) -> Result<Self, BackboneError> {
        let mut builder = Builder::new(isa, normalisation)?;
        let image = builder.image();
        let stem = Epilogue { residual: None, relu: true, precision: Precision::F32 };
        let stem = add(&mut builder, checkpoint, &blueprint::stem(), image, stem)?;
        let mut value = builder.max_pool("maxpool", stem, 3, 2, 1)?;
        let mut taps = [builder.tap()?; 5];
        let mut kept = Precision::F32;
        for (index, tap) in taps.iter_mut().skip(1).enumerate() {
            for block in blueprint::stage(checkpoint.architecture(), index) {
                let inside = |residual, relu, precision| Epilogue { residual, relu, precision };
                let around = match &block.shortcut {
                    Some(part) => add(&mut builder, checkpoint, part, value, inside(None, false, kept))?,
                    None => value,
                };
                let Some((last, first)) = block.convolutions.split_last() else { continue };
                for part in first {
                    value = add(&mut builder, checkpoint, part, value, inside(None, true, kept))?;
                }
                value = add(&mut builder, checkpoint, last, value, inside(Some(around), true, precision))?;
                kept = precision;
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

fn add(
    builder: &mut Builder,
    checkpoint: &Checkpoint,
    part: &Part,
    input: Value,
    epilogue: Epilogue,
) -> Result<Value, BackboneError> {
    let folded = part.load(checkpoint)?;
    let [outputs, inputs, kernel, _] = folded.dims;
    let Geometry { stride, padding } = part.geometry;
    let (weights, bias) = (folded.weight, folded.bias);
    let convolution = Convolution { inputs, outputs, kernel, stride, padding, weights, bias };
    Ok(builder.convolution(&part.conv, input, convolution, epilogue)?)
}
