//! The network compiled for the CPU engine.

use std::sync::Arc;

use headstock_engine::{
    ActivationStats, Convolution, DType, Epilogue, ImageBatch, Isa, Network, NetworkBuilder, Normalization,
    PixelValues, Tap, ValueId, synthetic_calibration_images,
};

use crate::checkpoint::Checkpoint;
use crate::error::BackboneError;
use crate::layer::FeatureLayer;
use crate::resnet_spec::{self, Activation, ConvBn, ConvGeometry};

/// A ResNet without its classifier, with packed weights.
#[derive(Debug)]
pub(crate) struct CompiledBackbone {
    pub(crate) network: Arc<Network>,
    /// Outputs after the stem and after each stage.
    taps: [Tap; 5],
}

impl CompiledBackbone {
    /// Reads the weights, folds BatchNorm into them and packs them.
    ///
    /// With `bf16` the stem and the inside of the first block stay in `f32`, and the weights of the first two
    /// stages are quantized with calibration (GPTQ), because errors in the first stages propagate to
    /// everything after them.
    ///
    /// # Errors
    /// The errors of [`ConvBn::load_folded`]; [`BackboneError::Engine`] if the engine rejects a layer.
    pub(crate) fn load(
        checkpoint: &Checkpoint,
        isa: Isa,
        precision: DType,
        normalization: Normalization,
    ) -> Result<Self, BackboneError> {
        let mut builder = NetworkBuilder::new(isa, normalization)?;
        if precision == DType::Bf16 {
            builder = builder.calibrate(collect_calibration_stats(checkpoint, isa, normalization)?);
        }
        let mut graph = GraphBuilder::new(builder, checkpoint)?;
        let mut taps = [graph.builder.add_tap()?; 5];
        for (index, tap) in taps.iter_mut().skip(1).enumerate() {
            *tap = graph.add_stage(index, precision)?;
        }
        Ok(Self { network: Arc::new(graph.builder.build()), taps })
    }

    /// The output of `layer`; `avgpool` is the output of the last stage, which the caller requests pooled.
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

/// Input statistics of the convolutions of the first two stages on synthetic images, computed in `f32`.
fn collect_calibration_stats(
    checkpoint: &Checkpoint,
    isa: Isa,
    normalization: Normalization,
) -> Result<ActivationStats, BackboneError> {
    const N_IMAGES: usize = 24;
    const SIDE: usize = 160;
    let mut graph = GraphBuilder::new(NetworkBuilder::new(isa, normalization)?, checkpoint)?;
    graph.builder.add_tap()?;
    graph.add_stage(0, DType::F32)?;
    let tap = graph.add_stage(1, DType::F32)?;
    let pixels = synthetic_calibration_images(N_IMAGES, SIDE);
    let images = ImageBatch { values: PixelValues::U8(&pixels), count: N_IMAGES, height: SIDE, width: SIDE };
    Ok(ActivationStats::collect(&Arc::new(graph.builder.build()), images, tap)?)
}

/// Builds the network stage by stage.
struct GraphBuilder<'a> {
    builder: NetworkBuilder,
    checkpoint: &'a Checkpoint,
    /// The output of the last layer so far.
    current: ValueId,
    /// The type that `current` is stored in.
    current_precision: DType,
}

impl<'a> GraphBuilder<'a> {
    /// Starts with the stem: a convolution, ReLU and max pool.
    fn new(builder: NetworkBuilder, checkpoint: &'a Checkpoint) -> Result<Self, BackboneError> {
        let input = builder.input();
        let mut graph = Self { builder, checkpoint, current: input, current_precision: DType::F32 };
        let conv = resnet_spec::stem_conv();
        let stem = graph.add_conv_bn(&conv, input, None, Activation::Relu, DType::F32)?;
        graph.current = graph.builder.add_max_pool("maxpool", stem, 3, 2, 1)?;
        Ok(graph)
    }

    /// Adds stage `index`, whose blocks store their outputs in `precision`, and a tap after it.
    fn add_stage(&mut self, index: usize, precision: DType) -> Result<Tap, BackboneError> {
        for block in resnet_spec::stage_blocks(self.checkpoint.architecture(), index) {
            let (input, inner) = (self.current, self.current_precision);
            let shortcut_output = match &block.shortcut {
                Some(conv) => self.add_conv_bn(conv, input, None, Activation::Identity, inner)?,
                None => input,
            };
            let last = block.convolutions.len() - 1;
            for (index, conv) in block.convolutions.iter().enumerate() {
                let (residual, dtype) =
                    if index == last { (Some(shortcut_output), precision) } else { (None, inner) };
                self.current = self.add_conv_bn(conv, self.current, residual, Activation::Relu, dtype)?;
            }
            self.current_precision = precision;
        }
        Ok(self.builder.add_tap()?)
    }

    /// Adds a convolution with BatchNorm folded in; `residual` is added before the activation.
    fn add_conv_bn(
        &mut self,
        conv_bn: &ConvBn,
        input: ValueId,
        residual: Option<ValueId>,
        activation: Activation,
        precision: DType,
    ) -> Result<ValueId, BackboneError> {
        let folded = conv_bn.load_folded(self.checkpoint)?;
        let [outputs, inputs, kernel, _] = folded.shape;
        let ConvGeometry { stride, padding } = conv_bn.geometry;
        let (weights, bias) = (folded.weight, folded.bias);
        let convolution = Convolution { inputs, outputs, kernel, stride, padding, weights, bias };
        let epilogue = Epilogue { residual, relu: activation == Activation::Relu, precision };
        Ok(self.builder.add_convolution(&conv_bn.conv, input, convolution, epilogue)?)
    }
}
