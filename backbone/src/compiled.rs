//! The network compiled for the CPU engine.

use std::sync::Arc;

use headstock_engine::{
    ActivationStats, Convolution, DType, Epilogue, ImageBatch, Isa, Network, NetworkBuilder, Normalization,
    PixelValues, Tap, ValueId,
};

use crate::calibration_images::synthetic_calibration_images;
use crate::checkpoint::Checkpoint;
use crate::error::BackboneError;
use crate::folded_conv::FoldedConv;
use crate::layer::FeatureLayer;
use crate::resnet_spec::{self, Activation, ConvBn, ConvGeometry};

/// A ResNet without its classifier, with weights packed for the engine, which runs it on the CPU.
#[derive(Debug)]
pub(crate) struct CompiledBackbone {
    pub(crate) network: Arc<Network>,
    /// Where a run can stop (a tap): after the stem and after each of the four stages.
    taps: [Tap; 5],
}

impl CompiledBackbone {
    /// Builds the network that the CPU engine runs: reads the weights, folds BatchNorm into them and packs
    /// them for the instruction set `isa` and for `precision`. The input of the network is `u8` pixels, which
    /// it normalizes with the tables `normalization`.
    ///
    /// With `bf16` the stem and the inside of the first block stay in `f32`, and the weights of the first two
    /// stages are quantized with calibration (GPTQ), because errors in the first stages propagate to
    /// everything after them.
    ///
    /// # Errors
    /// The errors of [`FoldedConv::load`]; [`BackboneError::Engine`] if the engine rejects a layer.
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
        let mut graph = GraphBuilder::with_stem(builder, checkpoint)?;
        // A tap is a point where a forward pass can end: one after the stem and one after each stage.
        let mut taps = [graph.builder.add_tap()?; 5];
        for (stage, tap) in taps.iter_mut().skip(1).enumerate() {
            *tap = graph.add_stage(stage, precision)?;
        }
        Ok(Self { network: Arc::new(graph.builder.build()), taps })
    }

    /// The tap of `layer`: tells the engine to run the network up to that layer and to return its output.
    /// `avgpool` has the tap of the last stage, because the engine can average any output over its positions.
    pub(crate) fn tap(&self, layer: FeatureLayer) -> Tap {
        self.taps[(layer as usize).min(4)]
    }
}

/// Runs the first two stages in `f32` on synthetic images, and collects the statistics of the inputs of their
/// convolutions. With these, GPTQ rounds the weights to `bf16` so that the outputs for such inputs change
/// least.
fn collect_calibration_stats(
    checkpoint: &Checkpoint,
    isa: Isa,
    normalization: Normalization,
) -> Result<ActivationStats, BackboneError> {
    const N_IMAGES: usize = 24;
    /// Height and width of the images in pixels.
    const SIDE: usize = 160;
    let mut graph = GraphBuilder::with_stem(NetworkBuilder::new(isa, normalization)?, checkpoint)?;
    // The taps are the same as in `CompiledBackbone::load`, but only the last one is used.
    graph.builder.add_tap()?;
    graph.add_stage(0, DType::F32)?;
    let last_tap = graph.add_stage(1, DType::F32)?;
    let pixels = synthetic_calibration_images(N_IMAGES, SIDE);
    let images = ImageBatch { values: PixelValues::U8(&pixels), count: N_IMAGES, height: SIDE, width: SIDE };
    Ok(ActivationStats::collect(&Arc::new(graph.builder.build()), images, last_tap)?)
}

/// Builds the engine's network from the layers of a ResNet, stage by stage.
struct GraphBuilder<'a> {
    builder: NetworkBuilder,
    checkpoint: &'a Checkpoint,
    /// The output of the last layer so far.
    current: ValueId,
    /// The type that `current` is stored in.
    current_precision: DType,
}

impl<'a> GraphBuilder<'a> {
    /// Starts a network in the empty `builder` with the stem of the ResNet: a convolution, ReLU and max pool,
    /// with the weights of `checkpoint`. [`add_stage`](Self::add_stage) adds the stages.
    fn with_stem(builder: NetworkBuilder, checkpoint: &'a Checkpoint) -> Result<Self, BackboneError> {
        let input = builder.input();
        let mut graph = Self { builder, checkpoint, current: input, current_precision: DType::F32 };
        let conv = resnet_spec::stem_conv();
        let stem = graph.add_conv_bn(&conv, input, None, Activation::Relu, DType::F32)?;
        // Windows of 3 x 3 pixels, stride 2, padding 1.
        graph.current = graph.builder.add_max_pool("maxpool", stem, 3, 2, 1)?;
        Ok(graph)
    }

    /// Adds the residual blocks of `stage` (0 to 3) after the layers so far, and returns the tap at which a
    /// run stops after that stage. The blocks store their outputs in `precision`; inside, a block stores
    /// activations in the type of its input.
    fn add_stage(&mut self, stage: usize, precision: DType) -> Result<Tap, BackboneError> {
        for block in resnet_spec::stage_blocks(self.checkpoint.architecture(), stage) {
            let (input, inner_precision) = (self.current, self.current_precision);
            let shortcut_output = match &block.shortcut {
                Some(conv) => self.add_conv_bn(conv, input, None, Activation::Identity, inner_precision)?,
                None => input,
            };
            let last = block.convolutions.len() - 1;
            for (index, conv) in block.convolutions.iter().enumerate() {
                let (residual, out_precision) =
                    if index == last { (Some(shortcut_output), precision) } else { (None, inner_precision) };
                self.current =
                    self.add_conv_bn(conv, self.current, residual, Activation::Relu, out_precision)?;
            }
            self.current_precision = precision;
        }
        Ok(self.builder.add_tap()?)
    }

    /// Adds the convolution `conv_bn` of `input`, with its weights from the checkpoint and BatchNorm folded
    /// in, then the sum with `residual`, if there is one, and the activation. Returns the output, which is
    /// stored in `precision`.
    fn add_conv_bn(
        &mut self,
        conv_bn: &ConvBn,
        input: ValueId,
        residual: Option<ValueId>,
        activation: Activation,
        precision: DType,
    ) -> Result<ValueId, BackboneError> {
        let folded = FoldedConv::load(self.checkpoint, conv_bn)?;
        let [outputs, inputs, kernel, _] = folded.shape;
        let ConvGeometry { stride, padding } = conv_bn.geometry;
        let (weights, bias) = (folded.weight, folded.bias);
        let convolution = Convolution { inputs, outputs, kernel, stride, padding, weights, bias };
        let epilogue = Epilogue { residual, relu: activation == Activation::Relu, precision };
        Ok(self.builder.add_convolution(&conv_bn.conv, input, convolution, epilogue)?)
    }
}
