//! The network on the CPU: the engine's.

use std::sync::Arc;

use headstock_engine::{
    ActivationStats, Convolution, DType, Epilogue, ImageBatch, Isa, Network, NetworkBuilder, Normalization,
    PixelValues, Tap, ValueId, synthetic_calibration_images,
};

use crate::checkpoint::Checkpoint;
use crate::error::BackboneError;
use crate::layer::FeatureLayer;
use crate::resnet_spec::{self, ConvBn, ConvGeometry};

/// A ResNet's trunk, packed, and where to leave it.
#[derive(Debug)]
pub(crate) struct CompiledBackbone {
    pub(crate) network: Arc<Network>,
    /// After the stem and after each stage.
    taps: [Tap; 5],
}

impl CompiledBackbone {
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
        precision: DType,
        normalisation: Normalization,
    ) -> Result<Self, BackboneError> {
        let mut builder = NetworkBuilder::new(isa, normalisation)?;
        if precision == DType::Bf16 {
            builder = builder.calibrate(collect_calibration_stats(checkpoint, isa, normalisation)?);
        }
        let mut trunk = GraphBuilder::new(builder, checkpoint)?;
        let mut taps = [trunk.builder.add_tap()?; 5];
        for (index, tap) in taps.iter_mut().skip(1).enumerate() {
            *tap = trunk.add_stage(index, precision)?;
        }
        Ok(Self { network: Arc::new(trunk.builder.build()), taps })
    }

    /// Where `layer` is; the average is taken of the last stage.
    pub(crate) fn tap(&self, layer: FeatureLayer) -> Tap {
        match layer {
            FeatureLayer::Stem => self.taps[0],
            FeatureLayer::Layer1 => self.taps[1],
            FeatureLayer::Layer2 => self.taps[2],
            FeatureLayer::Layer3 => self.taps[3],
            FeatureLayer::Layer4 | FeatureLayer::Avgpool => self.taps[4],
        }
    }
}

/// What the first two stages read of plain photos, in `f32`.
fn collect_calibration_stats(
    checkpoint: &Checkpoint,
    isa: Isa,
    normalisation: Normalization,
) -> Result<ActivationStats, BackboneError> {
    const N_IMAGES: usize = 24;
    const SIDE: usize = 160;
    let mut trunk = GraphBuilder::new(NetworkBuilder::new(isa, normalisation)?, checkpoint)?;
    trunk.builder.add_tap()?;
    trunk.add_stage(0, DType::F32)?;
    let tap = trunk.add_stage(1, DType::F32)?;
    let pixels = synthetic_calibration_images(N_IMAGES, SIDE);
    let images = ImageBatch { values: PixelValues::U8(&pixels), count: N_IMAGES, height: SIDE, width: SIDE };
    Ok(ActivationStats::collect(&Arc::new(trunk.builder.build()), images, tap)?)
}

/// A network that grows stage by stage.
struct GraphBuilder<'a> {
    builder: NetworkBuilder,
    checkpoint: &'a Checkpoint,
    current: ValueId,
    /// What `value` is kept in.
    current_precision: DType,
}

impl<'a> GraphBuilder<'a> {
    /// The stem.
    fn new(builder: NetworkBuilder, checkpoint: &'a Checkpoint) -> Result<Self, BackboneError> {
        let (value, kept) = (builder.input(), DType::F32);
        let mut trunk = Self { builder, checkpoint, current: value, current_precision: kept };
        let stem = trunk.add_conv_bn(&resnet_spec::stem_conv(), value, None, true, kept)?;
        trunk.current = trunk.builder.add_max_pool("maxpool", stem, 3, 2, 1)?;
        Ok(trunk)
    }

    /// A stage whose blocks give `precision`, and a tap after it.
    fn add_stage(&mut self, index: usize, precision: DType) -> Result<Tap, BackboneError> {
        for block in resnet_spec::stage_blocks(self.checkpoint.architecture(), index) {
            let (input, kept) = (self.current, self.current_precision);
            let shortcut_output = match &block.shortcut {
                Some(part) => self.add_conv_bn(part, input, None, false, kept)?,
                None => input,
            };
            let last = block.convolutions.len() - 1;
            for (index, part) in block.convolutions.iter().enumerate() {
                let (residual, kept) =
                    if index == last { (Some(shortcut_output), precision) } else { (None, kept) };
                self.current = self.add_conv_bn(part, self.current, residual, true, kept)?;
            }
            self.current_precision = precision;
        }
        Ok(self.builder.add_tap()?)
    }

    fn add_conv_bn(
        &mut self,
        part: &ConvBn,
        input: ValueId,
        residual: Option<ValueId>,
        relu: bool,
        precision: DType,
    ) -> Result<ValueId, BackboneError> {
        let folded = part.load_folded(self.checkpoint)?;
        let [outputs, inputs, kernel, _] = folded.shape;
        let ConvGeometry { stride, padding } = part.geometry;
        let (weights, bias) = (folded.weight, folded.bias);
        let convolution = Convolution { inputs, outputs, kernel, stride, padding, weights, bias };
        let epilogue = Epilogue { residual, relu, precision };
        Ok(self.builder.add_convolution(&part.conv, input, convolution, epilogue)?)
    }
}
