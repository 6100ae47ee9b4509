//! The network on the CPU: the engine's.

use std::sync::Arc;

use headstock_engine::{
    ActivationStats, Convolution, Epilogue, ImageBatch, Isa, Network, NetworkBuilder, Normalization,
    PixelValues, Precision, Tap, ValueId, synthetic_calibration_images,
};

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
    /// In `bf16` the stem and the inside of the first block stay in `f32`, and the weights of the first two stages are rounded
    /// together: what errs there, all that follows is made of.
    ///
    /// # Errors
    /// As [`Part::load`]; [`BackboneError::Engine`] when the engine refuses a layer.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        isa: Isa,
        precision: Precision,
        normalisation: Normalization,
    ) -> Result<Self, BackboneError> {
        let mut builder = NetworkBuilder::new(isa, normalisation)?;
        if precision == Precision::Bf16 {
            builder = builder.calibrate(calibration(checkpoint, isa, normalisation)?);
        }
        let mut trunk = Trunk::new(builder, checkpoint)?;
        let mut taps = [trunk.builder.add_tap()?; 5];
        for (index, tap) in taps.iter_mut().skip(1).enumerate() {
            *tap = trunk.stage(index, precision)?;
        }
        Ok(Self { network: Arc::new(trunk.builder.build()), taps })
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

/// What the first two stages read of plain photos, in `f32`.
fn calibration(
    checkpoint: &Checkpoint,
    isa: Isa,
    normalisation: Normalization,
) -> Result<ActivationStats, BackboneError> {
    const COUNT: usize = 24;
    const SIDE: usize = 160;
    let mut trunk = Trunk::new(NetworkBuilder::new(isa, normalisation)?, checkpoint)?;
    trunk.builder.add_tap()?;
    trunk.stage(0, Precision::F32)?;
    let tap = trunk.stage(1, Precision::F32)?;
    let pixels = synthetic_calibration_images(COUNT, SIDE);
    let photos = ImageBatch { values: PixelValues::U8(&pixels), count: COUNT, height: SIDE, width: SIDE };
    Ok(ActivationStats::collect(&Arc::new(trunk.builder.build()), photos, tap)?)
}

/// A network that grows stage by stage.
struct Trunk<'a> {
    builder: NetworkBuilder,
    checkpoint: &'a Checkpoint,
    value: ValueId,
    /// What `value` is kept in.
    kept: Precision,
}

impl<'a> Trunk<'a> {
    /// The stem.
    fn new(builder: NetworkBuilder, checkpoint: &'a Checkpoint) -> Result<Self, BackboneError> {
        let (value, kept) = (builder.input(), Precision::F32);
        let mut trunk = Self { builder, checkpoint, value, kept };
        let stem = trunk.add(&blueprint::stem(), value, None, true, kept)?;
        trunk.value = trunk.builder.add_max_pool("maxpool", stem, 3, 2, 1)?;
        Ok(trunk)
    }

    /// A stage whose blocks give `precision`, and a tap after it.
    fn stage(&mut self, index: usize, precision: Precision) -> Result<Tap, BackboneError> {
        for block in blueprint::stage(self.checkpoint.architecture(), index) {
            let (input, kept) = (self.value, self.kept);
            let around = match &block.shortcut {
                Some(part) => self.add(part, input, None, false, kept)?,
                None => input,
            };
            let last = block.convolutions.len() - 1;
            for (index, part) in block.convolutions.iter().enumerate() {
                let (residual, kept) = if index == last { (Some(around), precision) } else { (None, kept) };
                self.value = self.add(part, self.value, residual, true, kept)?;
            }
            self.kept = precision;
        }
        Ok(self.builder.add_tap()?)
    }

    fn add(
        &mut self,
        part: &Part,
        input: ValueId,
        residual: Option<ValueId>,
        relu: bool,
        precision: Precision,
    ) -> Result<ValueId, BackboneError> {
        let folded = part.load(self.checkpoint)?;
        let [outputs, inputs, kernel, _] = folded.dims;
        let Geometry { stride, padding } = part.geometry;
        let (weights, bias) = (folded.weight, folded.bias);
        let convolution = Convolution { inputs, outputs, kernel, stride, padding, weights, bias };
        let epilogue = Epilogue { residual, relu, precision };
        Ok(self.builder.add_convolution(&part.conv, input, convolution, epilogue)?)
    }
}
